/** What all mounts for containers have in common. */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { descriptors, namespaces } from '../sys/index.ts';
import type { IdMap, IdMapping } from '../ports/rootfs.ts';

/** Of volumes that show an image. */
export const VOLUME_ATTRIBUTES = ['ro', 'nodev', 'nosuid', 'noexec'] as const;

/** PURE. All files of such a mount have the label, whatever the disk says (mount(8), context=). */
export function labelOption(label = ''): readonly string[] {
  return label === '' ? [] : [`context=${label}`];
}

/**
 * PURE. The host id that `id` of an image has in a user namespace; overlay's upper directory is not idmapped by the
 * mount. @throws InvalidArgument if it has none.
 */
export function hostIdOf(id: number, maps: readonly IdMapping[]): number {
  const map = maps.find(({ containerId, size }) => id >= containerId && id < containerId + size);
  if (map === undefined)
    throw new RuntimeError(
      'InvalidArgument',
      `the owner ${id} of the image's root directory is not in the id map of the user namespace`,
    );
  return map.hostId + (id - map.containerId);
}

/** PURE. @throws InvalidArgument unless the sub path is relative and free of `..`. */
export function checkSubPath(subPath: string): void {
  if (subPath.startsWith('/') || subPath.split('/').includes('..') || subPath.includes('\0')) {
    throw new RuntimeError(
      'InvalidArgument',
      `the image sub path ${quote(subPath)} has to be relative and without ".."`,
    );
  }
}

/** Does `work` with a descriptor of a user namespace that has the maps, or without one. */
export async function withUserNamespace(
  idMap: IdMap | null,
  work: (usernsFd: number | undefined) => Promise<void>,
): Promise<void> {
  if (idMap === null) return await work(undefined);
  const usernsFd = await namespaces.openUser(idMap);
  try {
    await work(usernsFd);
  } finally {
    descriptors.close(usernsFd);
  }
}
