/** The cluster that all suites of a run share: up before the first, down after the last. mocha is told to load it. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { beginTry, endTry, remember } from '../e2e/tries.ts';
import { Cluster } from './cluster.ts';
import { type ClusterImages, publishImages } from './images.ts';
import { kubernetesNamed } from './programs.ts';

interface Shared {
  readonly cluster: Cluster;
  readonly images: ClusterImages;
}

let shared: Shared | undefined;

/** The cluster of this run, and what its registry has. */
export function ground(): Shared {
  if (shared === undefined) throw new Error('there is no cluster; run npm run cluster');
  return shared;
}

export const mochaHooks = {
  async beforeAll(this: Mocha.Context): Promise<void> {
    this.timeout(180_000);
    const asked = process.env['BERTH_CLUSTER_NODES'] ?? '';
    const nodes = asked === 'static' ? asked : Number(asked);
    const kubernetes = kubernetesNamed(process.env['BERTH_CLUSTER_KUBERNETES'] ?? '');
    const cluster = await Cluster.up({ kubernetes, nodes });
    for (const node of cluster.nodes) remember(node);
    const directory = join(cluster.directory, 'images');
    mkdirSync(directory);
    shared = { cluster, images: await publishImages(directory, cluster.registry.host) };
  },
  beforeEach: beginTry,
  async afterEach(this: Mocha.Context): Promise<void> {
    // What a try has left may take as long to go as it took to come.
    this.timeout(300_000);
    await endTry.call(this);
  },
  async afterAll(this: Mocha.Context): Promise<void> {
    this.timeout(60_000);
    const complaints = shared?.cluster.nodes.flatMap((node) => node.complaints()) ?? [];
    await shared?.cluster.down();
    if (complaints.length > 0) throw new Error(`the kubelet complains:\n${complaints.join('\n')}`);
  },
};
