/**
 * CRI-O's place for its socket: the kubelet's cAdvisor knows no other, whatever the kubelet's endpoint is, and without
 * it has neither labels of containers nor a pod's network.
 */
import { realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { explain } from '../../pkg/base/errors.ts';
import { ensureDir } from '../../pkg/base/files.ts';
import type { Logger } from '../../pkg/base/op.ts';
import type { RunningServer } from '../server.ts';

/** Where our own socket is, and where CRI-O's would be. */
export interface CrioSocketOptions {
  readonly listen: string;
  readonly crioSocket: string;
  readonly log: Logger;
}

/** Serves there too, unless that is our place anyway or somebody else's; the log says which. Never fails. */
export async function listenAsCrio(
  server: Pick<RunningServer, 'listen'>,
  { listen, crioSocket, log }: CrioSocketOptions,
): Promise<void> {
  try {
    await ensureDir(dirname(crioSocket), 0o755);
    if ((await placeOf(crioSocket)) === (await placeOf(listen))) return;
    await server.listen(crioSocket);
    log.info('serving at the socket of CRI-O too, where cAdvisor asks for labels', { path: crioSocket });
  } catch (cause) {
    log.warn(
      'the socket of CRI-O cannot be served: the kubelet has no labels of containers in /metrics/cadvisor; ' +
        'stop who has it, or set crio_socket = "none"',
      { path: crioSocket, cause: explain(cause) },
    );
  }
}

/** The path with the links of its directory followed: /var/run is /run. */
async function placeOf(socket: string): Promise<string> {
  return join(await realpath(dirname(socket)), basename(socket));
}
