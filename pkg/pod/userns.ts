/** The ids that a pod gets of the node by an annotation. */
import type { SandboxConfig } from '../ports/requests.ts';
import type { IdMap } from '../ports/rootfs.ts';
import type { Books } from './books.ts';
import { type UsernsMode, usernsIdMap } from './userns-mode.ts';
import type { World } from './world.ts';

/** Whose subordinate ids pods get: as with CRI-O and Podman (containers-storage.conf(5), root-auto-userns-user). */
const SUBORDINATE_USER = 'containers';

/** @throws as usernsIdMap. The caller puts the map on record before anybody else chooses. */
export async function annotatedIdMap(
  { host, settings }: Pick<World, 'host' | 'settings'>,
  books: Pick<Books, 'sandboxes'>,
  mode: UsernsMode,
  config: SandboxConfig,
): Promise<IdMap> {
  const available = await host.subordinateIds(SUBORDINATE_USER);
  return usernsIdMap(mode, config.linux?.securityContext, {
    available,
    used: [...books.sandboxes()].flatMap(({ idMap }) => (idMap === null ? [] : [idMap])),
    least: settings.leastMappable,
  });
}
