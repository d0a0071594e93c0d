/** Host paths looked at without risk: their file systems may be dead. */
import { constants } from 'node:fs';
import { RuntimeError } from '../base/errors.ts';
import { abortError, type Op } from '../base/op.ts';
import { abortable, Gate } from '../base/sync.ts';
import type { DeviceNode, ProbedPath } from '../ports/kernel.ts';
import { attemptAsync } from './addon.ts';
import { toStat } from './root.ts';

/**
 * One pod may name hundreds of paths of a volume that is dead: each holds a thread for as long as it is, and other work
 * needs threads too.
 */
const probes = new Gate(16);

/**
 * Looks at a host path, links followed; with 'make', missing directories are made (0755). undefined if absent.
 * @throws DeadlineExceeded or Cancelled naming the path when its file system does not answer in time.
 */
export async function probePath(op: Op, path: string, absent: 'make' | 'report'): Promise<ProbedPath | undefined> {
  const doing = `stat ${path}`;
  op.stage(doing);
  const work = probes.run(() => attemptAsync(doing, (native) => native.probe(path, absent === 'make' ? 1 : 0)));
  const found = await abortable(work, op.signal, () =>
    abortError(op, `${doing}: its file system does not answer; check the volume behind it`),
  );
  return found === undefined ? undefined : { realPath: found[1].toString(), stat: toStat(found[0]) };
}

/**
 * Device nodes at `path` (a device, or a link to one: under the name given) or below it (a directory, links inside not
 * followed). @throws InvalidArgument for anything else, NotFound.
 */
export async function listDevices(op: Op, path: string): Promise<DeviceNode[]> {
  const probed = await probePath(op, path, 'report');
  if (probed === undefined) throw new RuntimeError('NotFound', `device ${path} does not exist on this node`);
  const { stat } = probed;
  if (stat.kind === 'character' || stat.kind === 'block')
    return [
      { path, kind: stat.kind, major: stat.major, minor: stat.minor, mode: stat.mode, uid: stat.uid, gid: stat.gid },
    ];
  if (stat.kind !== 'directory')
    throw new RuntimeError('InvalidArgument', `${path} is neither a device nor a directory of devices`);
  const [numbers, names] = await attemptAsync(`list devices in ${path}`, (native) => native.devices(probed.realPath));
  const kinds: ReadonlyMap<number, DeviceNode['kind']> = new Map([
    [constants.S_IFCHR, 'character'],
    [constants.S_IFBLK, 'block'],
    [constants.S_IFIFO, 'fifo'],
  ]);
  return names
    .toString()
    .split('\0')
    .slice(0, -1)
    .map((name, index) => {
      const [kind = 0, major = 0, minor = 0, mode = 0, uid = 0, gid = 0] = Array.from(
        numbers.subarray(index * 6, index * 6 + 6),
        Number,
      );
      return {
        path: probed.realPath === path ? name : path + name.slice(probed.realPath.length),
        kind: kinds.get(kind) ?? 'character',
        major,
        minor,
        mode,
        uid,
        gid,
      };
    });
}
