/**
 * Where things land in a root whose symlinks its image chose: identity files, and all that a runtime mounts or makes.
 * What a path means is asked of the root, once for every use of it.
 */
import { posix } from 'node:path';
import { isCode, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { together } from '../base/sync.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import { containerPath, targetsOf, withTargets } from '../spec/index.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { InsideRoot, Landing } from '../ports/rootfs.ts';
import type { ResolvedMount } from '../ports/spec.ts';
import type { World } from './world.ts';

/** Where runtimes read users and groups. */
const IDENTITY_FILES = ['/etc/passwd', '/etc/group'] as const;

/** A mount of the config and where it lands. */
interface Landed {
  readonly path: string;
  readonly containerPath: string;
  readonly source: ResolvedMount;
}

/**
 * runc reads /etc/passwd and /etc/group itself, before the first instruction of the container: a FIFO there holds it
 * until its time is up, and /dev/zero makes it eat the node's memory (CVE-2026-47262). So what the mounts of the config
 * put there is looked at, also where links of the image lead to it.
 * @throws InvalidArgument for a FIFO, a device or a socket; FailedPrecondition where nobody can know.
 */
export async function checkIdentityFiles(
  op: Op,
  world: World,
  inside: InsideRoot,
  { mounts }: Pick<NamedContainerConfig, 'mounts'>,
  sources: readonly ResolvedMount[],
): Promise<void> {
  if (mounts.length === 0) return;
  const targets = mounts.map((mount) => containerPath(mount.containerPath));
  const found = await inside.landings([...IDENTITY_FILES, ...targets]);
  const landed = sources.flatMap((source, index): Landed[] => {
    const [landing, mount] = [found[IDENTITY_FILES.length + index], mounts[index]];
    return landing === undefined || mount === undefined
      ? []
      : [{ path: landing.path, containerPath: mount.containerPath, source }];
  });
  await together(
    IDENTITY_FILES.map(async (file, index) => {
      const landing = found[index];
      if (landing !== undefined) await checkIdentityFile(op, world, { file, landing, landed });
    }),
  );
}

async function checkIdentityFile(
  op: Op,
  world: World,
  { file, landing, landed }: { readonly file: string; readonly landing: Landing; readonly landed: readonly Landed[] },
): Promise<void> {
  const hidden = landing.dangles
    ? landed.find(({ path }) => landing.places.some((place) => isWithin(place, path)))
    : undefined;
  if (hidden !== undefined)
    throw new RuntimeError(
      'FailedPrecondition',
      `${file} in the image leads by symlinks to ${quote(landing.path)}, which is not there and is hidden by the ` +
        `mount at ${quote(hidden.containerPath)}; mount elsewhere, or use an image without that link`,
    );
  const [over] = landed
    .filter(({ path }) => isWithin(landing.path, path))
    .sort((a, b) => b.path.length - a.path.length);
  if (over === undefined) return;
  const rest = landing.path.slice(over.path.length);
  const path = rest === '' ? over.source.source : posix.join(over.source.source, rest);
  const kind = rest === '' ? over.source.kind : await kindBelow(op, world, over.source, path);
  if (kind === 'other')
    throw new RuntimeError(
      'InvalidArgument',
      `mount at ${quote(over.containerPath)}: ${path} is a FIFO, a device or a socket where ` +
        'runtimes read users and groups; use a file',
    );
}

async function kindBelow(op: Op, world: World, source: ResolvedMount, path: string): Promise<string> {
  if (source.kind !== 'directory') return 'none';
  try {
    return (await world.host.mountSource(op, path, 'refuse')).kind;
  } catch (cause) {
    if (isCode(cause, 'NotFound')) return 'none';
    throw cause;
  }
}

function isWithin(path: string, top: string): boolean {
  return path === top || path.startsWith(`${top}/`);
}

/**
 * The spec with every mount target and device where the image's links lead that lead nowhere yet.
 * @throws FailedPrecondition for loops of links, and for links to where nothing can be made.
 */
export async function landTargets(spec: RuntimeSpec, inside: InsideRoot): Promise<RuntimeSpec> {
  const targets = targetsOf(spec);
  const landings = await inside.landings(targets);
  const moved = targets.flatMap((target, index): [string, string][] => {
    const landing = landings[index];
    return landing?.dangles === true ? [[target, landing.path]] : [];
  });
  return withTargets(spec, new Map(moved));
}
