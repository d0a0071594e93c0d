/**
 * What tests of the mind stand on: a fake node with a daemon for each test, and ways to wait for conditions.
 */
import type { LinuxContainerResources } from '../cri-api/types.ts';
import { RuntimeError } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import { FakeSurroundings, fakeContainer, fakePod } from './fake-world.ts';
import type { OpenPods } from './index.ts';

/** An operation that nobody cancels. */
export const op = (): Op => backgroundOp(silent);
/** An error of a part that fails. */
export const boom = (): RuntimeError => new RuntimeError('Internal', 'boom');

/** An update that leaves everything as it is. */
export const sameResources: LinuxContainerResources = {
  cpuPeriod: 0n,
  cpuQuota: 0n,
  cpuShares: 0n,
  memoryLimitInBytes: 0n,
  oomScoreAdj: 0n,
  cpusetCpus: '',
  cpusetMems: '',
  hugepageLimits: [],
  unified: {},
  memorySwapLimitInBytes: 0n,
};

/** The error that `work` fails with. @throws if it does not. */
export async function fails(work: Promise<unknown>): Promise<RuntimeError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

/** Waits until `condition` holds; every turn of the loop gives the fakes and the disk a chance. */
export async function until(condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 8_000; performance.now() < end; ) {
    if (condition()) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
  throw new Error('the condition never came true');
}

/** A node and the mind of its daemon, made anew for each test. */
export class Ground {
  node!: FakeSurroundings;
  mind!: OpenPods;

  /** A pod with a container in it. */
  async created(name = 'app'): Promise<{ pod: SandboxId; id: ContainerId }> {
    const pod = await this.mind.pods.run(op(), fakePod(), '');
    return { pod, id: await this.mind.containers.create(op(), pod, fakeContainer(name)) };
  }

  /** A pod with a container in it that runs. */
  async running(name = 'app'): Promise<{ pod: SandboxId; id: ContainerId }> {
    const made = await this.created(name);
    await this.mind.containers.start(op(), made.id);
    return made;
  }

  /** The daemon dies and another one starts. */
  async restart(): Promise<void> {
    this.mind.close();
    this.mind = await this.node.boot();
  }
}

/** A ground for the tests of this suite. */
export function ground(): Ground {
  const at = new Ground();
  beforeEach(async () => {
    at.node = await FakeSurroundings.make();
    at.mind = await at.node.boot();
  });
  afterEach(async () => {
    at.mind.close();
    await at.node.dispose();
  });
  return at;
}
