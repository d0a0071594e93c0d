/** User namespaces: the map of a pod, and whose files are whose on the host. Pure. */
import type { NamespaceOption } from '../cri-api/types.ts';
import { RuntimeError } from '../base/errors.ts';
import type { IdMap } from '../ports/rootfs.ts';

/**
 * KEP-127: mode POD with exactly one uid and one gid mapping that both contain id 0; NODE or nothing means none.
 * @throws InvalidArgument for anything else.
 */
export function idMapOf(options: NamespaceOption | undefined): IdMap | null {
  const userns = options?.usernsOptions;
  if (userns === undefined || userns.mode === 'NODE') {
    if (userns !== undefined && (userns.uids.length > 0 || userns.gids.length > 0)) {
      throw new RuntimeError(
        'InvalidArgument',
        'userns_options has mode NODE and id mappings; use mode POD or leave the mappings out',
      );
    }
    return null;
  }
  if (userns.mode !== 'POD')
    throw new RuntimeError('InvalidArgument', `userns_options.mode must be POD or NODE, got ${userns.mode}`);
  const one = (name: 'uids' | 'gids'): { hostId: number; containerId: number; size: number } => {
    const [first, ...more] = userns[name];
    if (first === undefined || more.length > 0)
      throw new RuntimeError(
        'InvalidArgument',
        `userns_options.${name} must hold exactly one mapping, got ${userns[name].length}`,
      );
    if (first.length === 0)
      throw new RuntimeError('InvalidArgument', `userns_options.${name} has a mapping of length 0`);
    if (first.containerId !== 0)
      throw new RuntimeError(
        'InvalidArgument',
        `userns_options.${name} must map container id 0, but starts at ${first.containerId}`,
      );
    return { hostId: first.hostId, containerId: first.containerId, size: first.length };
  };
  const uid = one('uids');
  const gid = one('gids');
  if (uid.hostId !== gid.hostId || uid.size !== gid.size)
    throw new RuntimeError('InvalidArgument', 'userns_options.uids and gids must be the same mapping');
  return { uids: [uid], gids: [gid] };
}

/** CRI-O's annotation, by both its names: a user namespace from the time before the kubelet knew them. */
const USERNS_MODE = ['userns-mode.crio.io', 'io.kubernetes.cri-o.userns-mode'];

/**
 * @throws InvalidArgument for a pod that asks by CRI-O's annotation for a user namespace, and may not: who relies on it
 * would be the host's root without it, as with CRI-O, which forgets the annotation.
 */
export function refuseLostUserNamespace(annotations: Readonly<Record<string, string>>): void {
  const name = USERNS_MODE.find((each) => !['', 'host'].includes((annotations[each] ?? '').trim()));
  if (name === undefined) return;
  throw new RuntimeError(
    'InvalidArgument',
    `annotation ${name} asks for a user namespace, which the allowed_annotations of the pod's runtime handler do not ` +
      'allow, and the pod would run as root of the node without it; have it allowed, set hostUsers: false in the pod ' +
      'instead, or remove the annotation',
  );
}

/**
 * An owner inside a container as the host's file systems have it. An id that is not mapped stays: nothing in the
 * container could own it.
 */
export function ownerOnHost(
  idMap: IdMap | null,
  owner: { readonly uid: number; readonly gid: number },
): { readonly uid: number; readonly gid: number } {
  if (idMap === null) return { uid: owner.uid, gid: owner.gid };
  const mapped = (id: number, maps: IdMap['uids']): number => {
    const map = maps.find(({ containerId, size }) => id >= containerId && id < containerId + size);
    return map === undefined ? id : map.hostId + (id - map.containerId);
  };
  return { uid: mapped(owner.uid, idMap.uids), gid: mapped(owner.gid, idMap.gids) };
}

/**
 * Mode of a directory of ours that a container's files lie in: with a user namespace the runtime passes through it as
 * the mapped root.
 */
export function directoryMode(idMap: IdMap | null): number {
  return idMap === null ? 0o700 : 0o711;
}
