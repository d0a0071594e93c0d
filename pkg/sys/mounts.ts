/**
 * Mounts, through the mount API of file descriptors (fsopen … move_mount, open_tree, mount_setattr), and
 * /proc/self/mountinfo.
 *
 * Everything that can block runs on the addon's own threads. Parsing and deciding are pure.
 */
import { RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import type { BindRequest, MountAttribute, MountEntry, OverlayRequest, Propagation } from '../ports/kernel.ts';
import { addon, attempt, attemptAsync } from './addon.ts';
import { escape, mountPointsIn, parseMountinfo, parseMountLine } from './mountinfo.ts';

export { mountOf, propagationOf } from './mountinfo.ts';

/** The mounts of our namespace, in mount order. */
export async function read(): Promise<MountEntry[]> {
  return parseMountinfo(await mountinfoText());
}

/** At once, on a thread: the kernel gives 4 KiB with each read, and a node with many pods has hundreds of them. */
async function mountinfoText(): Promise<string> {
  return (
    await attemptAsync('read mounts', (native) => native.readFiles(['/proc/self/mountinfo'], limits.mountinfoBytes))
  )[1].toString('utf8');
}

/**
 * The mount with this id (statx's mount id); undefined if it is gone. Calls at one time share one read of mountinfo.
 */
export async function byId(id: bigint): Promise<MountEntry | undefined> {
  sharedText ??= mountinfoText().finally(() => {
    sharedText = undefined;
  });
  const text = `\n${await sharedText}`;
  const start = text.indexOf(`\n${id} `);
  return start < 0 ? undefined : parseMountLine(text.slice(start + 1, text.indexOf('\n', start + 1)));
}

/** The read that is under way, if any. */
let sharedText: Promise<string> | undefined;

const ATTRIBUTES: ReadonlyMap<string, number> = new Map([
  ['ro', 0x1],
  ['nosuid', 0x2],
  ['nodev', 0x4],
  ['noexec', 0x8],
  ['relatime', 0x0],
  ['noatime', 0x10],
  ['strictatime', 0x20],
  ['nodiratime', 0x80],
  ['nosymfollow', 0x20_0000],
]);
const ATIME_BITS = 0x70;

/** Options that say "not" of an attribute, or nothing at all: accepted, and the default anyway. */
const DEFAULTS: ReadonlySet<string> = new Set(['rw', 'suid', 'dev', 'exec', 'defaults', 'async', 'atime', 'diratime']);

/** PURE. Splits mount(8) options into attribute bits of the mount and options of the file system. */
export function splitMountOptions(options: readonly string[]): {
  readonly attributes: number;
  readonly fsOptions: readonly string[];
} {
  let attributes = 0;
  const fsOptions: string[] = [];
  for (const option of options) {
    const bit = ATTRIBUTES.get(option);
    if (bit !== undefined) attributes |= bit;
    else if (!DEFAULTS.has(option)) fsOptions.push(option);
  }
  return { attributes, fsOptions };
}

/** Mounts a file system (`tmpfs`, `proc`, `mqueue`, …) at an existing directory; `options` as mount(8) takes them. */
export async function fileSystem(request: {
  readonly type: string;
  readonly source?: string;
  readonly target: string;
  readonly options: readonly string[];
}): Promise<void> {
  const { attributes, fsOptions } = splitMountOptions(request.options);
  await attemptAsync(`mount ${request.type} on ${request.target}`, (native) =>
    native.mountFs(request.type, request.source ?? request.type, request.target, attributes, fsOptions),
  );
}

/**
 * Mounts an overlay. No escaping rules: layers go in one by one, or by descriptor on kernels that take only one string.
 */
export async function overlay(request: OverlayRequest): Promise<void> {
  if (request.lower.length === 0)
    throw new RuntimeError('InvalidArgument', 'an overlay needs at least one lower layer');
  const { attributes, fsOptions } = splitMountOptions(request.options);
  const { upper = '', work = '' } = request.writable ?? {};
  await attemptAsync(`mount overlay of ${request.lower.length} layers on ${request.target}`, (native) =>
    native.mountOverlay(
      request.lower,
      upper,
      work,
      request.target,
      attributes,
      fsOptions,
      request.usernsFd ?? -1,
      request.method === 'classic' ? 1 : 0,
    ),
  );
}
const PROPAGATION: Readonly<Record<Propagation, number>> = {
  unbindable: 1 << 17,
  private: 1 << 18,
  slave: 1 << 19,
  shared: 1 << 20,
};

/**
 * Bind-mounts with all attributes in place before anyone can see the mount. Source and target both exist and are of one
 * kind.
 */
export async function bind(request: BindRequest): Promise<void> {
  const { set, clear } = attributeBits(request.attributes ?? []);
  await attemptAsync(`bind ${request.source} on ${request.target}`, (native) =>
    native.mountBind(
      request.source,
      request.target,
      request.extent === 'tree' ? 1 : 0,
      set,
      clear,
      propagationBits(request.propagation),
      request.usernsFd ?? -1,
    ),
  );
}

function attributeBits(attributes: readonly MountAttribute[]): { readonly set: number; readonly clear: number } {
  const set = attributes.reduce((bits, name) => bits | (ATTRIBUTES.get(name) ?? 0), 0);
  // The access-time attributes are one field with several values: to set one, the field is cleared (mount_setattr(2)).
  return { set, clear: attributes.some((name) => name.endsWith('atime') && name !== 'nodiratime') ? ATIME_BITS : 0 };
}

function propagationBits(propagation: Propagation | undefined): number {
  return propagation === undefined ? 0 : PROPAGATION[propagation];
}

const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;

/**
 * Unmounts all that is mounted at `path`, over-mounts included, with what is mounted below (detached: users keep it
 * until they let go); false if nothing is mounted there or nothing is there.
 */
export async function unmount(path: string): Promise<boolean> {
  return (await attemptAsync(`unmount ${path}`, (native) => native.unmount(path, MNT_DETACH | UMOUNT_NOFOLLOW))) > 0;
}

/**
 * Unmounts everything at and below `path`, deepest and newest first, over-mounts included; content if nothing is
 * mounted. `path` is absolute and free of links.
 */
export async function unmountTree(path: string): Promise<void> {
  const asWritten = escape(path);
  // A mount can be uncovered, or arrive by propagation, while we work; more rounds than over-mounts mean that somebody
  // mounts against us.
  for (let round = 0; round < 32; round++) {
    // What is detached takes what is mounted below it along, so that there is seldom more to find.
    await unmount(path);
    // A node with many pods has thousands of mounts: only lines that name the path are worth reading.
    const lines = (await mountinfoText()).split('\n').filter((line) => line.includes(asWritten));
    const targets = mountPointsIn(parseMountinfo(lines.join('\n')), path);
    if (targets.length === 0) return;
    for (const target of targets) await unmount(target);
  }
  throw new RuntimeError(
    'FailedPrecondition',
    `mounts below ${path} keep coming back; find who makes them with \`findmnt -R ${path}\``,
  );
}

/**
 * True if a mount's root is at `path` (statx; no mountinfo read). A symlink at the end is not followed. False if
 * nothing is there.
 */
export function isMountPoint(path: string): boolean {
  return attempt(`look at ${path}`, () => {
    const root = addon().openRootSync('/');
    try {
      return addon().statAtSync(root, path.replace(/^\/+/, '') || '.', 0)?.[12] === 1n;
    } finally {
      addon().closeSync(root);
    }
  });
}
