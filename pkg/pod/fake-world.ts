/**
 * A whole world in memory around pkg/runtime's FakeNode: images, root filesystems and networks as programs that keep
 * the promises of their interfaces. What is "on disk" here survives a daemon's crash, as on a node.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import type { NamedContainerConfig, SandboxConfig } from '../ports/requests.ts';
import { RuntimeError } from '../base/errors.ts';
import { type ContainerId, parseChainId, parseDigest, parseImageId, type SandboxId } from '../base/ids.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import { boot, FakeNode, type FakeView } from '../runtime/fake.ts';
import { FileStateStore, Workspace } from '../state/index.ts';
import { type OpenPods, openPods } from './index.ts';
import type { Image, ImageStore } from '../ports/image.ts';
import type { NetworkPlugin, PodNetwork, PodNetworkRequest } from '../ports/network.ts';
import type { InsideRoot, RootfsDriver } from '../ports/rootfs.ts';
import type { BlockedCalls, Cpus, CpuTuning, OciRuntime } from '../ports/runtime.ts';
import type { NodeFacts, SpecDefaults } from '../ports/spec.ts';
import type { StateStore } from '../ports/state.ts';
import type { PodSettings, World } from './world.ts';

const DIGEST = `sha256:${'d'.repeat(64)}`;

/** The one image of a fake node, beside an artifact; `find` knows it by these names. */
export const fakeImage: Image = {
  id: parseImageId(`sha256:${'1'.repeat(64)}`),
  repoTags: ['example.test/app:1'],
  repoDigests: [`example.test/app@${DIGEST}`],
  manifestDigest: parseDigest(DIGEST),
  sizeBytes: 7n,
  config: {
    architecture: 'amd64',
    os: 'linux',
    user: '',
    env: [],
    entrypoint: [],
    cmd: ['sleep', '1000'],
    volumes: [],
    workingDir: '',
    labels: {},
    stopSignal: '',
    exposedPorts: [],
    diffIds: [],
  },
  layers: [
    {
      digest: parseDigest(DIGEST),
      diffId: parseDigest(DIGEST),
      chainId: parseChainId(DIGEST),
      mediaType: 'x',
      sizeBytes: 1n,
    },
  ],
  top: parseChainId(DIGEST),
  pinned: false,
  annotations: {},
  pulledAt: 1n,
};

/** The other thing in its store. */
export const fakeArtifact: Image = {
  ...fakeImage,
  id: `sha256:${'e'.repeat(64)}` as Image['id'],
  repoTags: [],
  repoDigests: [],
  layers: [],
  top: null,
  artifact: { type: 'a/model', blobs: [], files: [{ name: 'w', path: '/blobs/w' }] },
};

const facts: NodeFacts = {
  cgroupMode: 'v2',
  cgroupManager: 'cgroupfs',
  ownService: '',
  controllers: new Set(['cpu', 'memory', 'pids']),
  swapLimit: true,
  capabilities: new Set(['CAP_CHOWN', 'CAP_KILL']),
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

const spec: SpecDefaults = {
  capabilities: ['CAP_CHOWN'],
  addInheritableCapabilities: false,
  env: [],
  sysctls: new Map(),
  ulimits: [],
  seccompProfile: undefined,
  privilegedSeccompProfile: undefined,
  apparmorProfile: '',
  readOnly: false,
  pidsLimit: -1n,
  minMemoryBytes: 0n,
  deviceOwner: 'host',
};

const HANDLER = {
  privilegedWithoutHostDevices: false,
  minMemoryBytes: 0n,
  allowedAnnotations: [],
  defaultAnnotations: new Map<string, string>(),
  execCpuAffinity: '' as const,
  seccompProfile: undefined,
};
const HANDLERS: PodSettings['handlers'] = new Map([
  ['', HANDLER],
  ['fake', HANDLER],
  ['other', HANDLER],
]);

/** What happens on the node outside the runtime: survives crashes, may be made to fail. */
export class FakeSurroundings {
  readonly node: FakeNode;
  readonly directory: string;
  /** Names of the runtime handlers that are configured; a test may take them away. */
  readonly handlers = new Set(['', 'fake', 'other']);
  /** The handler that '' means; a test may choose another. */
  defaultHandler = 'fake';
  readonly roots = new Set<ContainerId>();
  readonly networks = new Map<SandboxId, PodNetwork>();
  /** `image name namespace` of each question whether an image may be used. */
  readonly imageUses: string[] = [];
  readonly confirmed: string[] = [];
  /** What daemons of this node have said at the levels that somebody is to look at. */
  readonly logged: { readonly level: 'warn' | 'error'; readonly message: string }[] = [];
  /** What they have said besides, but for what is for debugging. */
  readonly mentioned: string[] = [];
  /** Held by a test to make CNI ADD wait. */
  addGate: Promise<void> = Promise.resolve();
  nextIp = 2;
  /** What containers have changed of the processors, by their ids. */
  readonly tuned = new Map<string, CpuTuning>();
  /** Containers whose blocked calls somebody listens for. */
  readonly listening = new Set<ContainerId>();
  /** A container makes a system call that its seccomp profile blocks. */
  blockCall: (id: ContainerId, call: string) => void = () => {};
  /** AppArmor profiles that the kernel has. */
  readonly profiles = new Set<string>();
  /** What the node can give; a change holds from the next boot. */
  facts = facts;

  constructor(node: FakeNode, directory: string) {
    this.node = node;
    this.directory = directory;
  }

  static async make(): Promise<FakeSurroundings> {
    const directory = await mkdtemp(join(tmpdir(), 'berth-world-'));
    return new FakeSurroundings(new FakeNode({ ownRoots: [directory] }), directory);
  }

  /** A daemon starts on this node and recovers. */
  async boot(overrides: Partial<PodSettings> = {}): Promise<OpenPods & { readonly world: World }> {
    const world = this.world(overrides);
    return { ...(await openPods(backgroundOp(silent), world)), world };
  }

  world(overrides: Partial<PodSettings> = {}): World {
    const view = boot(this.node);
    const settings = this.#settings(overrides);
    const runtimeFor = (handler: string): OciRuntime => this.#runtimeFor(view, handler);
    return {
      images: this.#images(view.epoch),
      rootfs: this.#rootfs(view.epoch),
      network: this.#network(view.epoch),
      monitor: view.monitor,
      runtimeFor,
      runtimeOf: ({ runtime, runtimeHandler }) =>
        runtime === null ? runtimeFor(runtimeHandler) : view.runtimeFor(runtime.name),
      runtimes: [...this.handlers].filter((name) => name !== '').map((name) => view.runtimeFor(name)),
      namespaces: view.namespaces,
      processes: view.processes,
      profiles: { require: async (_op, name) => this.#requireProfile(name) },
      host: view.host,
      cpus: this.#cpus(),
      blockedCalls: this.#blockedCalls(),
      state: this.#state(view.epoch),
      workspace: new Workspace(join(this.directory, 'run')),
      clock: () => this.node.now(),
      pause: (ms, signal) => this.node.pause(ms, signal),
      monotonicMs: () => this.node.monotonicMs(),
      facts: this.facts,
      settings,
      extensions: {
        cdi: async () => ({ devices: new Map(), conflicts: new Map(), damaged: [] }),
        hooks: async () => [],
        blockIo: async () => undefined,
      },
      whyNoUserNamespaces: undefined,
      log: {
        ...silent,
        info: (message) => void this.mentioned.push(message),
        warn: (message) => void this.logged.push({ level: 'warn', message }),
        error: (message) => void this.logged.push({ level: 'error', message }),
      },
    };
  }

  /** The records on disk. */
  async records(): ReturnType<StateStore['load']> {
    return await new FileStateStore(join(this.directory, 'run')).load();
  }

  /** What is left on the node, a line each; empty when everything was given back. */
  leaks(): string[] {
    return [
      ...this.node.leaks(),
      ...[...this.roots].map((id) => `rootfs ${id}`),
      ...[...this.networks.keys()].map((id) => `network ${id}`),
    ];
  }

  async dispose(): Promise<void> {
    this.node.crash();
    // What a daemon that died had under way on the disk goes on for a moment.
    await rm(this.directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 10 });
  }

  #blockedCalls(): BlockedCalls {
    this.listening.clear();
    return {
      pathOf: (id) => join(this.directory, 'seccomp', id),
      listen: (id) => void this.listening.add(id),
      close: (id) => void this.listening.delete(id),
      follow: (told) => {
        this.blockCall = (id, call) => this.listening.has(id) && told(id, call);
      },
    };
  }

  #cpus(): Cpus {
    return {
      tune: async (_op, journal, tuning) => void this.tuned.set(basename(dirname(journal)), tuning),
      restore: async (_op, journal) => void this.tuned.delete(basename(dirname(journal))),
      siblings: async (cpu) => [cpu, cpu + 4],
    };
  }

  #settings(overrides: Partial<PodSettings>): PodSettings {
    return {
      infraCpuset: '',
      bindMountPrefix: '',
      workloads: [],
      sharedCpuset: '',
      minGoMaxProcs: 0,
      selinuxOnHostNetwork: 'none',
      spec,
      logDir: join(this.directory, 'logs'),
      absentMountSourcesToReject: [],
      leastMappable: { uid: -1, gid: -1 },
      imageVolumes: 'mkdir',
      artifactVolumes: true,
      additionalDevices: [],
      allowedDevices: [],
      defaultMounts: [],
      handlers: HANDLERS,
      shmBytes: 1n << 26n,
      pauseRoot: join(this.directory, 'pause'),
      dropInfra: true,
      hostPorts: 'network',
      localtime: '',
      selinux: null,
      envExec: '',
      overlayOptions: [],
      ...overrides,
    };
  }

  #requireProfile(name: string): void {
    if (!this.profiles.has(name)) throw new RuntimeError('FailedPrecondition', `profile ${name} is not loaded`);
  }

  #runtimeFor(view: FakeView, handler: string): OciRuntime {
    if (!this.handlers.has(handler))
      throw new RuntimeError('InvalidArgument', `no runtime handler is called ${handler}`);
    return view.runtimeFor(handler || this.defaultHandler);
  }

  /** The real store, whose saves may fail (before they have an effect: a record is replaced whole or not at all). */
  #state(epoch: number): StateStore {
    const store = new FileStateStore(join(this.directory, 'run'));
    return {
      load: () => store.load(),
      save: (record) => this.node.call(epoch, 'save', undefined, () => store.save(record)),
      remove: (record) => this.node.call(epoch, 'forget', undefined, () => store.remove(record)),
    };
  }

  #images(epoch: number): ImageStore {
    const names = new Set<string>([fakeImage.id, ...fakeImage.repoTags, ...fakeImage.repoDigests]);
    return {
      load: async () => {},
      pull: async () => fakeImage,
      import: async () => [fakeImage],
      find: (reference) =>
        [fakeArtifact].find(({ id }) => id === reference) ?? (names.has(reference) ? fakeImage : undefined),
      list: () => [fakeImage],
      called: (_image, asked) => ({ name: `name of ${asked}`, ref: `ref of ${asked}` }),
      remove: async () => {},
      checkUse: (op, image, { name, namespace }) =>
        this.node.call(epoch, 'checkUse', op, () => void this.imageUses.push(`${image} ${name} ${namespace}`)),
      confirm: (op, image) => {
        this.confirmed.push(image);
        return this.node.call(epoch, 'confirm', op, () => {});
      },
      usage: async () => ({ usedBytes: 1n, inodesUsed: 1n }),
      sweep: async () => {},
      progress: () => [],
    };
  }

  #rootfs(epoch: number): RootfsDriver {
    const inside: InsideRoot = {
      readFile: async () => undefined,
      ensureDir: async (path) => path,
      landings: async (paths) => paths.map((path) => ({ path, dangles: false, places: [path] })),
      symlinkIfAbsent: async () => {},
      checkKernelPlaces: async () => {},
      copyOut: async () => {},
    };
    return {
      mount: (op, id) =>
        this.node.call(epoch, 'mount', op, () => {
          this.roots.add(id);
          return join(this.directory, 'rootfs', id);
        }),
      destroy: (op, id) => this.node.call(epoch, 'destroyRoot', op, () => void this.roots.delete(id)),
      rootOf: (id) => join(this.directory, 'rootfs', id),
      podRoot: join(this.directory, 'pods/merged'),
      usage: async () => ({ usedBytes: 0n, inodesUsed: 0n }),
      list: async () => [...this.roots],
      mountImageVolume: (op, id, index) =>
        this.node.call(epoch, 'mountVolume', op, () => join(this.directory, 'volumes', id, String(index))),
      mountFiles: (op, id, index, files) =>
        this.node.call(epoch, 'mountVolume', op, () => ({
          source: join(this.directory, 'volumes', id, String(index)),
          files: files.map(({ name = '', path }) => ({ place: name, source: path })),
        })),
      makeVolume: async (_op, id, index) => join(this.directory, 'data', id, String(index)),
      inside: () => inside,
      imageRoot: this.directory,
      containerRoot: this.directory,
      unpack: async () => {},
      unpackEarly: async () => undefined,
      prove: async () => {},
      origin: async () => undefined,
      settle: async () => {},
      has: async () => true,
      removeLayer: async () => {},
      listLayers: async () => [],
      layersUsage: async () => ({ usedBytes: 0n, inodesUsed: 0n }),
      verifyLayer: async () => [],
    };
  }

  #network(epoch: number): NetworkPlugin {
    const destroy = (op: Op, id: SandboxId): Promise<void> =>
      this.node.call(epoch, 'del', op, () => void this.networks.delete(id));
    return {
      start: async () => {},
      close: async () => {},
      ready: { ok: true, why: '' },
      inUse: undefined,
      setPodRanges: async () => {},
      add: async (op: Op, pod: PodNetworkRequest) => {
        await pod.pinned;
        return await this.node.call(epoch, 'add', op, async () => {
          op.stage('cni add: bridge');
          await this.addGate;
          const network: PodNetwork = { ips: [`10.0.0.${this.nextIp++}`], interfaceName: 'eth0' };
          this.networks.set(pod.id, network);
          return network;
        });
      },
      destroy,
      check: async () => {},
      gc: async (op, live) => {
        for (const id of this.networks.keys()) if (!live.includes(id)) await destroy(op, id).catch(() => {});
      },
      list: async () => [...this.networks.keys()],
    };
  }
}

/** A pod config as the kubelet sends it; `name` and `attempt` make it a pod of its own. */
export function fakePod(name = 'web', attempt = 0, changes: Partial<SandboxConfig> = {}): SandboxConfig {
  return {
    metadata: { name, uid: `uid-${name}`, namespace: 'default', attempt },
    hostname: name,
    logDirectory: '',
    portMappings: [],
    labels: { app: name },
    annotations: {},
    linux: {
      cgroupParent: '',
      sysctls: {},
      securityContext: {
        namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD', targetId: '' },
        readonlyRootfs: false,
        supplementalGroups: [],
        privileged: false,
        seccompProfilePath: '',
        supplementalGroupsPolicy: 'Merge',
      },
    },
    ...changes,
  };
}

/** A container config with the fake image. */
export function fakeContainer(
  name = 'app',
  attempt = 0,
  changes: Partial<NamedContainerConfig> = {},
): NamedContainerConfig {
  return {
    metadata: { name, attempt },
    image: { image: fakeImage.id, annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
    command: [],
    args: [],
    workingDir: '',
    envs: [],
    mounts: [],
    devices: [],
    labels: {},
    annotations: {},
    logPath: `${name}.log`,
    stdin: false,
    stdinOnce: false,
    tty: false,
    cdiDevices: [],
    stopSignal: 'SIGNAL_RUNTIME_DEFAULT',
    ...changes,
  };
}
