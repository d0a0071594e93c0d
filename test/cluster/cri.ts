/** The runtime of a node, asked as a kubelet asks it. */
import { type CriClient, criClient } from '../e2e/cri-client.ts';
import type { ClusterNode } from './node.ts';

/** Where Berth listens on a node. */
export const BERTH_SOCKET = '/run/berth/berth.sock';

/** What `ask` gets of the runtime of a node. */
export async function asking<T>(node: ClusterNode, ask: (cri: CriClient) => Promise<T>): Promise<T> {
  const cri = criClient(await node.path(BERTH_SOCKET));
  try {
    return await ask(cri);
  } finally {
    cri.close();
  }
}
