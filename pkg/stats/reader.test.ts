import { assert } from 'chai';
import { newContainerId, newSandboxId, parseImageId } from '../base/ids.ts';
import { silent } from '../base/op.ts';
import type { PodEvent } from '../ports/pods.ts';
import type { ContainerRecord, ContainerState, SandboxRecord } from '../ports/state.ts';
import { StatsReader, type StatsOptions } from './reader.ts';
import { recordedTree } from './fake-kernel.ts';

const PROCESS = { pid: 1, startTicks: 1n };
const EXITED: ContainerState = {
  phase: 'exited',
  exitCode: 0,
  reason: 'Completed',
  message: '',
  startedAt: 1n,
  finishedAt: 2n,
};

function pod(phase: SandboxRecord['state']['phase']): SandboxRecord {
  const id = newSandboxId();
  return {
    kind: 'sandbox',
    id,
    config: {
      metadata: { name: 'web', uid: 'u', namespace: 'default', attempt: 0 },
      hostname: 'web',
      logDirectory: '',
      portMappings: [],
      labels: { app: 'web' },
      annotations: {},
    },
    runtimeHandler: '',
    runtime: null,
    createdAt: 1n,
    state: { phase },
    ips: [],
    namespaces: {},
    cgroupParent: '/berth/none',
    logDirectory: '/l',
    files: { resolvConf: '', hostname: '', hosts: '', shm: '' },
    infra: null,
    lost: '',
    idMap: null,
    selinux: { processLabel: '', mountLabel: '' },
    overhead: undefined,
    resources: undefined,
  };
}

function container(sandbox: SandboxRecord, state: ContainerState): ContainerRecord {
  return {
    kind: 'container',
    id: newContainerId(),
    sandboxId: sandbox.id,
    config: {
      metadata: { name: 'app', attempt: 0 },
      image: { image: 'x', annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
      command: [],
      args: [],
      workingDir: '',
      envs: [],
      mounts: [],
      devices: [],
      labels: { app: 'web' },
      annotations: {},
      logPath: '',
      stdin: false,
      stdinOnce: false,
      tty: false,
      cdiDevices: [],
      stopSignal: 'SIGNAL_RUNTIME_DEFAULT',
    },
    runtimeHandler: '',
    runtime: null,
    createdAt: 1n,
    state,
    imageId: parseImageId(`sha256:${'c'.repeat(64)}`),
    layers: [],
    imageRef: '',
    imageName: '',
    logPath: '',
    bundle: '',
    cgroupsPath: '/berth/none/c',
    stopSignal: { number: 15, name: 'SIGNAL_SIGTERM' },
    user: { uid: 0n, gid: 0n, supplementalGroups: [] },
    resources: undefined,
    imageVolumes: [],
    stopping: null,
    monitor: null,
    monitorLost: null,
  };
}

class World {
  pods: SandboxRecord[] = [];
  containers: ContainerRecord[] = [];
  walks = 0;
  readonly listeners: ((event: PodEvent) => void)[] = [];

  reader(): StatsReader {
    const { facts, layout } = { facts: FACTS, layout: recordedTree('v2').layout };
    return new StatsReader({
      pods: { list: () => this.pods, find: (id) => this.pods.find((each) => each.id === id) },
      containers: { list: () => this.containers, find: (id) => this.containers.find((each) => each.id === id) },
      subscribe: (listener) => void this.listeners.push(listener),
      rootfs: { containerRoot: '/var/lib/berth' },
      measureLayer: async () => ({ usedBytes: BigInt(++this.walks), inodesUsed: 1n }),
      layersPatienceMs: 1_000,
      layout,
      facts,
      metricGroups: [],
      periodMs: 0,
      clock: () => 7n,
      log: silent,
      attributes: {
        pod: ({ id }) => ({ id }),
        container: ({ id }) => ({ id }),
      },
    });
  }
}

const FACTS: StatsOptions['facts'] = {
  cgroupMode: 'v2',
  cgroupManager: 'cgroupfs',
  ownService: '',
  controllers: new Set(),
  swapLimit: true,
  capabilities: new Set(),
  oomScoreAdjMin: -1000,
  rlimitMax: new Map(),
  apparmor: false,
  selinux: false,
  seccomp: true,
  machine: 'x86_64',
  kernel: '6.18.0',
  hugepageSizes: [],
  maskedPaths: [],
  tellsFips: false,
};

describe('StatsReader', () => {
  it('knows what has a cgroup: containers that are made or run, pods that are ready', () => {
    const world = new World();
    world.pods = [pod('ready'), pod('stopped'), pod('creating')];
    const [ready] = world.pods as [SandboxRecord];
    world.containers = [
      container(ready, { phase: 'created', process: PROCESS }),
      container(ready, { phase: 'running', process: PROCESS, startedAt: 1n }),
      container(ready, EXITED),
      container(ready, { phase: 'creating' }),
    ];
    const reader = world.reader();
    assert.deepEqual(
      reader.live().map(({ state }) => state.phase),
      ['created', 'running'],
    );
    assert.deepEqual(
      reader.ready().map(({ id }) => id),
      [ready.id],
    );
  });

  it('asks again whether one lives whose slice comes later', () => {
    const world = new World();
    world.pods = [pod('ready')];
    const [sandbox] = world.pods as [SandboxRecord];
    const before = container(sandbox, { phase: 'running', process: PROCESS, startedAt: 1n });
    world.containers = [before];
    const reader = world.reader();
    assert.isTrue(reader.lives(before) && reader.isReady(sandbox));
    world.containers = [{ ...before, state: EXITED }];
    world.pods = [{ ...sandbox, state: { phase: 'stopped' } }];
    assert.isFalse(reader.lives(before) || reader.isReady(sandbox));
  });

  it('tells only the writable layer of one that has ended', async () => {
    const world = new World();
    const ended = container(pod('ready'), EXITED);
    world.containers = [ended];
    const [stats] = await world.reader().containers([ended]);
    assert.deepEqual(stats?.attributes, { id: ended.id });
    assert.isUndefined(stats?.cpu);
    assert.deepEqual(stats?.writableLayer, {
      timestamp: 7n,
      fsId: { mountpoint: '/var/lib/berth' },
      usedBytes: { value: 1n },
      inodesUsed: { value: 1n },
    });
  });

  it('measures a layer anew when an id comes again after its container was deleted', async () => {
    const world = new World();
    const ended = container(pod('ready'), EXITED);
    const reader = world.reader();
    const size = async (): Promise<bigint | undefined> =>
      (await reader.layerSizes([ended.id])).get(ended.id)?.usedBytes;
    assert.deepEqual([await size(), await size()], [1n, 1n]);
    for (const listener of world.listeners) listener({ type: 'deleted', record: ended, at: 1n });
    assert.equal(await size(), 2n);
  });
});
