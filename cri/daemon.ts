/**
 * The composition root: the only place that says `new`. Reads top to bottom as the order of start; stop is the reverse.
 */
import { access, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { reload } from '../pkg/config/index.ts';
import { explain, RuntimeError } from '../pkg/base/errors.ts';
import { ensureDir, replaceFile } from '../pkg/base/files.ts';
import type { ChainId, ContainerId, SandboxId } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';
import { backgroundOp, type Logger, type Op, withTimeout } from '../pkg/base/op.ts';
import type { Freeing } from '../pkg/base/reserve.ts';
import { together } from '../pkg/base/sync.ts';
import { within } from '../pkg/base/time.ts';
import type { Operation } from '../pkg/cri-api/types.ts';
import {
  defaultAuthFiles,
  defaultTrustOptions,
  FileImageStore,
  ImageTrust,
  NodeCredentials,
  RegistryPolicy,
} from '../pkg/image/index.ts';
import { CniNetwork } from '../pkg/network/index.ts';
import { DirectoryExtensions, type OpenPods, openPods } from '../pkg/pod/index.ts';
import { OverlayRootfs } from '../pkg/rootfs/index.ts';
import { ConmonMonitor, LinuxHost, LinuxProcesses, OciCli, PinnedNamespaces } from '../pkg/runtime/index.ts';
import { FileStateStore, Workspace } from '../pkg/state/index.ts';
import { WritableLayers } from '../pkg/stats/index.ts';
import type { StreamServer } from '../pkg/stream/index.ts';
import {
  capture,
  cgroups,
  favourEventLoop,
  findExecutable,
  inheritedEnv,
  nodeFacts,
  orphans,
  sockets,
} from '../pkg/sys/index.ts';
import { type Apparmor, loadApparmor } from './apparmor.ts';
import { type Disk, type Disks, openDisks } from './disks.ts';
import { eventsService } from './events-service.ts';
import { gpgvIn } from './gpgv.ts';
import { imageService } from './image-service.ts';
import { sweepImages } from './image-sweep.ts';
import { toJson } from './json.ts';
import { LoopDelay } from './loop-delay.ts';
import { nodeService } from './node-service.ts';
import { observeService } from './observe-service.ts';
import { runtimeService } from './runtime-service.ts';
import { type RunningServer, serve } from './server.ts';
import { statsService } from './stats-service.ts';
import { handlerSettings, podSettings, whyImpassable } from './settings.ts';
import { streamService, type Urls } from './stream-service.ts';
import type { Config } from '../pkg/config/index.ts';
import type { ImageStore } from '../pkg/ports/image.ts';
import type { NetworkPlugin } from '../pkg/ports/network.ts';
import type { HandlerSettings, World } from '../pkg/pod/index.ts';
import type { RootfsDriver } from '../pkg/ports/rootfs.ts';
import type { OciRuntime, RuntimeFeatures } from '../pkg/ports/runtime.ts';
import type { NodeFacts } from '../pkg/ports/spec.ts';

export interface DaemonOptions {
  readonly config: Config;
  readonly log: Logger;
  readonly version: string;
  /** Directory with conmon, pinns, pause: where our own programs are. */
  readonly binDir: string;
  /** Where the unpack worker's script is; undefined when running from source. */
  readonly workerUrl: URL | undefined;
}

/** A daemon that serves. */
export interface Daemon {
  /** Answers no more calls and lets go of everything; what runs in containers is not touched. */
  close(): Promise<void>;
  /** Takes over what may change while it runs; the rest of `fresh` waits for a restart and is named. */
  reload(fresh: Config): { readonly applied: readonly string[]; readonly needRestart: readonly string[] };
}

/** Keys of `reload` that this daemon does take over; the others of the table need a restart still. */
const RELOADED: ReadonlySet<string> = new Set([
  'crio.runtime.log_level',
  'crio.runtime.log_filter',
  'crio.image.pinned_images',
]);

/**
 * Starts everything in order and returns when the socket is open. @throws with what is wrong and what to do, having
 * left nothing open.
 */
export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  const { config, log } = options;
  const op = backgroundOp(log);
  const closers: (() => unknown)[] = [];
  const close = async (): Promise<void> => {
    for (const each of closers.splice(0).reverse()) await each();
  };
  try {
    const disks = await openDisks(config, log);
    closers.push(() => disks.close());
    orphans.becomeSubreaper();
    favourThisThread(log);
    closers.push(reapStrays());
    const seen = nodeFacts(config.runtime.cgroupManager);
    const facts = { ...seen, apparmor: await loadApparmor(apparmorHere(op, seen, config), log) };
    sayWhatIsClamped(log, facts);
    const workspace = new Workspace(config.storage.runroot);
    const rootfs = new OverlayRootfs({
      root: disks.containers.directory,
      imageRoot: disks.images.directory,
      reserve: disks.containers.reserve,
      ...(options.workerUrl === undefined ? {} : { workerUrl: options.workerUrl }),
    });
    // Deletions that go on after a reply are finished, within bounds; what is left then, the next start deletes.
    closers.push(() => within(limits.shutdownGraceMs, rootfs.close()));
    const network = new CniNetwork({
      configDirs: [config.network.networkDir],
      pluginDirs: config.network.pluginDirs,
      defaultNetwork: config.network.cniDefaultNetwork,
      statusGraceMs: config.network.statusGraceMs,
      cacheDir: join(config.storage.root, 'cni'),
      log,
    });
    closers.push(() => network.close());
    let mind: OpenPods | undefined;
    const images = makeImages(config, rootfs, disks.images, {
      images: (imageId) => mind?.imageUsers(imageId) ?? [],
      layers: () => mind?.layersInUse() ?? [],
    });
    // None of these needs another, and all of them mostly wait.
    const [runtimes, whyNoUserNamespaces] = await together([
      findRuntimes(op, options),
      rootfs.sweepLayers(op).then(() => noUserNamespacesBecause(config, rootfs)),
      images.load(op),
      network.start(op),
    ]);
    if (whyNoUserNamespaces !== undefined)
      log.info('pods with user namespaces cannot run on this node', { cause: whyNoUserNamespaces });
    const world = await makeWorld(options, {
      facts,
      workspace,
      runtimes,
      rootfs,
      network,
      images,
      whyNoUserNamespaces,
      reserve: disks.run.reserve,
    });
    mind = await openPods(op, world);
    closers.push(mind.close);
    const streams = new Streams(config, log, mind);
    closers.push(() => streams.close());
    // A port that is taken, and certificates that are bad, are found at the start rather than at the first exec.
    if (config.api.streamPort !== 0 || config.api.streamEnableTls) await streams.open();
    const server = await openSocket(options, world, mind, { runtimes, streams, images, disks });
    closers.push(() => server.close());
    sockets.notifyServiceManager('READY=1');
    log.info('serving', {
      path: config.api.listen,
      version: options.version,
      runtime: runtimes.get('')?.runtime.handler.name,
    });
    closers.push(sweepImages(op, images));
    let current = config;
    return {
      close,
      reload(fresh) {
        const { applied, needRestart } = reload(current, fresh);
        images.setPinnedImages(fresh.image.pinnedImages);
        current = fresh;
        return {
          applied: applied.filter((key) => RELOADED.has(key)),
          needRestart: [...needRestart, ...applied.filter((key) => !RELOADED.has(key))],
        };
      },
    };
  } catch (cause) {
    await close();
    throw cause;
  }
}

type Runtimes = ReadonlyMap<string, { readonly runtime: OciRuntime; readonly features: RuntimeFeatures }>;

interface Parts {
  readonly facts: NodeFacts;
  readonly workspace: Workspace;
  readonly runtimes: Runtimes;
  readonly rootfs: RootfsDriver;
  readonly network: NetworkPlugin;
  readonly images: ImageStore;
  readonly whyNoUserNamespaces: string | undefined;
  /** Of the run root. */
  readonly reserve: Freeing;
}

/**
 * As a subreaper we inherit what monitors and runtimes leave behind; a zombie of ours inside a container's PID
 * namespace would keep its first process from ending. SIGCHLD says that there may be one; a moment later those who wait
 * for a child of theirs have taken it. Returns the way to stop.
 */
function reapStrays(): () => void {
  let planned: NodeJS.Timeout | undefined;
  const onChild = (): void => {
    planned ??= setTimeout(() => {
      planned = undefined;
      if (orphans.reap() > 0) onChild();
    }, REAP_AFTER_MS).unref();
  };
  process.on('SIGCHLD', onChild);
  return () => {
    process.off('SIGCHLD', onChild);
    clearTimeout(planned);
  };
}

const REAP_AFTER_MS = 250;

function apparmorHere(op: Op, facts: NodeFacts, { runtime }: Config): Apparmor {
  return {
    enabled: facts.apparmor,
    profile: runtime.apparmorProfile,
    parser: findExecutable('apparmor_parser'),
    run: async (argv, stdin) => {
      const { exitCode, stderr } = await capture(withTimeout(op, limits.runtimeCommandMs), {
        argv,
        stdin,
        stdoutMax: 0,
        stderrMax: limits.commandErrorBytes,
        what: 'apparmor_parser',
      });
      return { exitCode, stderr: stderr.toString('utf8') };
    },
  };
}

/** Said once, here: what a node without all privileges cannot give to containers. */
function sayWhatIsClamped(log: Logger, facts: NodeFacts): void {
  if (facts.capabilities.has('CAP_SYS_RESOURCE')) return;
  log.warn(
    'no CAP_SYS_RESOURCE: capabilities are intersected with our own, oom_score_adj and hard ' +
      'limits are not lowered or raised beyond ours',
    { oomScoreAdjMin: facts.oomScoreAdjMin },
  );
}

/** Some milliseconds under load, which a node can do without. */
function favourThisThread(log: Logger): void {
  try {
    favourEventLoop();
  } catch (cause) {
    log.info('the event loop has no precedence over our other threads', { cause: explain(cause) });
  }
}

/** Every usable handler; '' is the default: the configured one, else crun where it works on this node, else runc. */
async function findRuntimes(op: Op, options: DaemonOptions): Promise<Runtimes> {
  const { config, log, binDir } = options;
  const found = new Map<string, { runtime: OciRuntime; features: RuntimeFeatures }>();
  await Promise.all(
    [...config.runtimes.values()].map(async (handler) => {
      const runtime = new OciCli({
        name: handler.name,
        path: handler.runtimePath,
        root: handler.runtimeRoot || join(config.storage.runroot, 'runtimes', handler.name),
        monitorPath: handler.monitorPath || config.runtime.conmon || join(binDir, 'conmon'),
        monitorEnv: handler.monitorEnv.length > 0 ? handler.monitorEnv : config.runtime.conmonEnv,
        monitorCgroup: handler.monitorCgroup || config.runtime.conmonCgroup,
        cgroupManager: config.runtime.cgroupManager,
        runtimeArgs: handler.runtimeArgs,
        createTimeoutMs: handler.createTimeoutMs,
        noPivot: config.runtime.noPivot,
        noSyncLog: handler.noSyncLog,
        logSizeMaxBytes: config.runtime.logSizeMaxBytes,
        journal: config.runtime.logToJournald ? 'copy' : 'none',
      });
      await ensureDir(runtime.handler.root);
      found.set(handler.name, { runtime, features: await runtime.features(op) });
    }),
  );
  const preferred =
    config.runtime.defaultRuntime === '' ? ['crun', 'runc', ...found.keys()] : [config.runtime.defaultRuntime];
  const name =
    preferred.find((each) => found.get(each)?.features.broken === undefined && found.has(each)) ??
    preferred.find((each) => found.has(each));
  const chosen = name === undefined ? undefined : found.get(name);
  if (chosen === undefined)
    throw new RuntimeError(
      'FailedPrecondition',
      'no OCI runtime found; install crun or runc, or name one with --runtimes name:path',
    );
  for (const [each, { features }] of found) {
    if (features.broken !== undefined)
      log.warn('a runtime does not work on this node', { runtime: each, cause: features.broken });
    // Those that are merely installed show in `berth check`.
    else if (features.vulnerable !== undefined && (each === name || config.runtimes.get(each)?.configured === true))
      log.warn('a runtime is known to be vulnerable', { runtime: each, cause: features.vulnerable });
  }
  return new Map([['', chosen], ...[...found].sort(([a], [b]) => (a < b ? -1 : 1))]);
}

function makeImages(
  config: Config,
  rootfs: RootfsDriver,
  { directory, reserve }: Disk,
  use: { readonly images: (imageId: string) => readonly string[]; readonly layers: () => Iterable<ChainId> },
): FileImageStore {
  return new FileImageStore({
    root: directory,
    unpacker: rootfs,
    reserve,
    inUse: use.images,
    layersInUse: use.layers,
    policy: new RegistryPolicy({
      environment: process.env,
      shortNames: config.image.shortNameMode,
    }),
    trust: new ImageTrust({
      ...defaultTrustOptions(process.env),
      signaturePolicy: config.image.signaturePolicy,
      signaturePolicyDir: config.image.signaturePolicyDir,
      runGpgv: gpgvIn(config.storage.runroot),
    }),
    credentials: new NodeCredentials({
      globalAuthFile: config.image.globalAuthFile || undefined,
      authFiles: defaultAuthFiles(process.env),
      namespacedAuthDir: config.image.namespacedAuthDir || undefined,
      runHelper: async (op, helper, argument, input) => {
        const bounded = withTimeout(op, limits.runtimeCommandMs);
        const { exitCode, stdout } = await capture(bounded, {
          argv: [helper, argument],
          env: inheritedEnv(),
          stdin: input,
          stdoutMax: limits.configFileBytes,
          stderrMax: limits.commandErrorBytes,
        });
        return { exitCode, stdout: stdout.toString('utf8') };
      },
    }),
    pinnedImages: config.image.pinnedImages,
    pullProgressTimeoutMs: config.image.pullProgressTimeoutMs,
  });
}

async function makeWorld(options: DaemonOptions, parts: Parts): Promise<World> {
  const { config, log, binDir } = options;
  const { workspace, runtimes, reserve, ...rest } = parts;
  const { runroot, root } = config.storage;
  const pinnsPath = config.runtime.pinnsPath || join(binDir, 'pinns');
  const pausePath = join(binDir, 'pause');
  for (const program of [pinnsPath, pausePath]) {
    await access(program).catch(() => {
      throw new RuntimeError(
        'FailedPrecondition',
        `${program} is missing; run npm run build, or name it with --pinns-path`,
      );
    });
  }
  return {
    ...rest,
    workspace,
    monitor: new ConmonMonitor({ exitsDir: join(runroot, 'exits') }),
    runtimeFor(handler) {
      const found = runtimes.get(handler);
      if (found === undefined)
        throw new RuntimeError(
          'InvalidArgument',
          `no runtime handler is called ${JSON.stringify(handler)}; there are: ` +
            `${[...runtimes.keys()].filter((name) => name !== '').join(', ')}`,
        );
      if (found.features.broken !== undefined)
        throw new RuntimeError(
          'FailedPrecondition',
          `runtime handler ${found.runtime.handler.name} does not work on this node: ${found.features.broken}`,
        );
      return found.runtime;
    },
    runtimes: [...runtimes].filter(([name]) => name !== '').map(([, each]) => each.runtime),
    namespaces: new PinnedNamespaces({ dir: join(runroot, 'ns'), pinnsPath }),
    state: new FileStateStore(runroot, reserve),
    host: new LinuxHost({ ownRoots: [runroot, root] }),
    processes: new LinuxProcesses(),
    clock: () => BigInt(Date.now()) * 1_000_000n + (process.hrtime.bigint() % 1_000_000n),
    settings: await podSettings(
      config,
      await handlersOf(config, runtimes, log),
      {
        pauseRoot: await workspace.ensurePauseRoot(pausePath),
        envExec: join(binDir, 'env-exec'),
        selinux: parts.facts.selinux,
      },
      log,
    ),
    extensions: new DirectoryExtensions({ cdiSpecs: config.runtime.cdiSpecDirs, hooks: config.runtime.hooksDir }, log),
    log,
  };
}

/**
 * The stream server, made when the first URL is asked for: it brings HTTP and WebSocket along, which many a node never
 * needs.
 */
class Streams {
  readonly #open: () => Promise<StreamServer>;
  #server: Promise<StreamServer> | undefined;
  #running: StreamServer | undefined;

  constructor({ api }: Config, log: Logger, mind: OpenPods) {
    const tls = api.streamEnableTls
      ? {
          cert: api.streamTlsCert,
          key: api.streamTlsKey,
          clientCa: api.streamTlsCa,
          minVersion: api.tlsMinVersion,
          cipherSuites: api.tlsCipherSuites,
        }
      : undefined;
    this.#open = async () => {
      const { StreamServer } = await import('../pkg/stream/index.ts');
      return await StreamServer.listen({
        backend: mind.execs,
        log,
        address: api.streamAddress,
        port: api.streamPort,
        idleTimeoutMs: api.streamIdleTimeoutMs,
        tls,
      });
    };
  }

  /** @throws as StreamServer.listen; the next call tries again. */
  async open(): Promise<Urls> {
    this.#server ??= this.#open();
    try {
      return (this.#running = await this.#server);
    } catch (cause) {
      this.#server = undefined;
      throw cause;
    }
  }

  /** Sessions that run. */
  operations(): readonly Operation[] {
    return this.#running?.operations() ?? [];
  }

  async close(): Promise<void> {
    await (await this.#server)?.close();
  }
}

/**
 * Undefined if pods can have user namespaces on this node. That an overlay with mapped ids could be mounted is
 * remembered until the next boot: to undo the attempt takes the kernel long.
 */
async function noUserNamespacesBecause({ storage }: Config, rootfs: OverlayRootfs): Promise<string | undefined> {
  const impassable = (await whyImpassable(storage.root)) ?? (await whyImpassable(storage.runroot));
  if (impassable !== undefined) return impassable;
  const file = join(storage.runroot, 'userns');
  const circumstances = await userNamespaceCircumstances(storage.root);
  if (circumstances !== undefined && (await readFile(file, 'utf8').catch(() => '')) === circumstances) return undefined;
  const why = await rootfs.whyNoUserNamespaces();
  // What did not work may work at the next start.
  if (why === undefined && circumstances !== undefined)
    await replaceFile(file, circumstances, 'memory').catch(() => {});
  return why;
}

/** What the answer depends on: boot, file system, and how many user namespaces there may be. */
async function userNamespaceCircumstances(root: string): Promise<string | undefined> {
  try {
    const [boot, max, { dev }] = await Promise.all([
      readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
      readFile('/proc/sys/user/max_user_namespaces', 'utf8'),
      stat(root),
    ]);
    return `${boot}${max}${dev}`;
  } catch {
    return undefined;
  }
}

async function handlersOf(
  config: Config,
  runtimes: Runtimes,
  log: Logger,
): Promise<ReadonlyMap<string, HandlerSettings>> {
  const named = [...runtimes].filter(([name]) => name !== '');
  const own = new Map(
    await Promise.all(
      named.map(
        async ([name, { features }]) =>
          [name, await handlerSettings(config.runtimes.get(name), features, log)] as const,
      ),
    ),
  );
  const chosen = own.get(runtimes.get('')?.runtime.handler.name ?? '');
  return chosen === undefined ? own : new Map([['', chosen], ...own]);
}

function networkedPods(mind: OpenPods): { readonly id: SandboxId; readonly name: string }[] {
  const ready = mind.pods
    .list()
    .filter(({ state, namespaces }) => state.phase === 'ready' && namespaces['net'] !== undefined);
  return ready.map(({ id, config }) => ({ id, name: `${config.metadata.namespace}/${config.metadata.name}` }));
}

/** What a request may be held up for by writable layers that were never measured. */
const LAYERS_PATIENCE_MS = 500;

async function openSocket(
  options: DaemonOptions,
  world: World,
  mind: OpenPods,
  {
    runtimes,
    streams,
    images,
    disks,
  }: { readonly runtimes: Runtimes; readonly streams: Streams; readonly images: FileImageStore; readonly disks: Disks },
): Promise<RunningServer> {
  const { config, log, version } = options;
  const loop = new LoopDelay();
  const operations = (): readonly Operation[] => server?.operations() ?? [];
  const events = eventsService({ mind, enabled: config.runtime.enablePodEvents, clock: world.clock, log });
  let server: RunningServer | undefined;
  const writableLayers = new WritableLayers<ContainerId>({
    measure: (id) => world.rootfs.usage(backgroundOp(log), id),
    clock: world.clock,
    patienceMs: LAYERS_PATIENCE_MS,
  });
  const handlers = [
    runtimeService(mind, world.network),
    streamService(mind, () => streams.open()),
    observeService({
      mind,
      network: world.network,
      version,
      cgroupManager: world.facts.cgroupManager,
      handlers: runtimes,
      userNamespaces: world.whyNoUserNamespaces === undefined,
      info: () => ({
        config: toJson(config),
        network: JSON.stringify(world.network.inUse ?? null),
        pulls: toJson(world.images.progress()),
        images: toJson(images.counters()),
        operations: toJson(operations()),
        eventLoop: JSON.stringify(loop.read()),
        events: JSON.stringify(events.counts()),
      }),
      operations,
      podEvents: config.runtime.enablePodEvents,
      clock: world.clock,
    }),
    events,
    imageService({ images: world.images, rootfs: world.rootfs, writableLayers, clock: world.clock }),
    nodeService({
      images,
      disks: () => disks.survey(),
      facts: world.facts,
      network: world.network,
      networkedPods: () => networkedPods(mind),
      handlers: runtimes,
      whyNoUserNamespaces: world.whyNoUserNamespaces,
    }),
    statsService({
      mind,
      writableLayers,
      rootfs: world.rootfs,
      layout: cgroups.readLayoutSync(),
      facts: world.facts,
      periodMs: config.stats.collectionPeriodMs,
      clock: world.clock,
      log,
    }),
  ];
  await ensureDir(join(config.api.listen, '..'), 0o755);
  const served = await disks.run.reserve.freeing(() =>
    serve({
      socket: config.api.listen,
      log,
      handlers,
      otherOperations: () => [...mind.operations(), ...streams.operations()],
    }),
  );
  server = served;
  return served;
}
