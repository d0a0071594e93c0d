/**
 * The composition root: what the daemon is made of, in the order of its start; the stop is the reverse. What a part is
 * made of stands in parts/.
 */
import { join } from 'node:path';
import { limits } from '../pkg/base/limits.ts';
import { backgroundOp, type Logger } from '../pkg/base/op.ts';
import { together } from '../pkg/base/sync.ts';
import { within } from '../pkg/base/time.ts';
import type { Config, LoadedConfig } from '../pkg/config/index.ts';
import { CniNetwork } from '../pkg/network/index.ts';
import { type OpenPods, openPods } from '../pkg/pod/index.ts';
import { OverlayRootfs } from '../pkg/rootfs/index.ts';
import { sockets } from '../pkg/sys/index.ts';
import { type Client, connect } from './client.ts';
import { type Disks, openDisks } from './disks.ts';
import { sweepImages } from './image-sweep.ts';
import { findFacts } from './parts/facts.ts';
import { ImageSources } from './parts/image-sources.ts';
import { type ImageUse, makeImages } from './parts/images.ts';
import { tendOwnProcess } from './parts/own-process.ts';
import { takersOf, type TakeLog } from './parts/live.ts';
import { NodeRuntimes } from './parts/node-runtimes.ts';
import { keepWatch, tellStart } from './parts/service-manager.ts';
import { openSocket } from './parts/services.ts';
import { Streams } from './parts/streams.ts';
import { Telemetry } from './parts/telemetry.ts';
import { whyNoUserNamespaces } from './parts/user-namespaces.ts';
import { makeWorld } from './parts/world.ts';
import { Reloader } from './reload.ts';

/** What a daemon is started with. */
export interface DaemonOptions {
  readonly loaded: LoadedConfig;
  readonly log: Logger;
  /** How level and filter of `log` are changed. */
  readonly takeLog: TakeLog;
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
  /** Takes over what may change while it runs; see reload.ts. */
  readonly reloader: Reloader;
}

/**
 * Starts everything in order and returns when the socket is open. @throws with what is wrong and what to do, having
 * left nothing open.
 */
export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  const opened = new AsyncDisposableStack();
  try {
    const reloader = await start(options, opened);
    return { close: () => opened.disposeAsync(), reloader };
  } catch (cause) {
    await opened.disposeAsync();
    throw cause;
  }
}

/** Opens part after part and leaves in `opened` how each is closed. */
async function start(options: DaemonOptions, opened: AsyncDisposableStack): Promise<Reloader> {
  const { loaded, log, version, binDir, takeLog } = options;
  const { config } = loaded;
  const start = tellStart(backgroundOp(log), sockets.notifyServiceManager);
  opened.defer(() => start.done());
  const { op } = start;
  const disks = opened.adopt(await openDisks(config, log), (each) => each.close());
  opened.use(tendOwnProcess(log));
  const facts = await findFacts(op, config, log);
  const rootfs = openRootfs(options, disks, opened);
  const telemetry = opened.adopt(await Telemetry.open(config, log, version), (each) => each.close());
  const network = telemetry.network(openNetwork(config, log, opened));
  let mind: OpenPods | undefined;
  const sources = new ImageSources(config, process.env);
  const images = makeImages(config, sources, {
    rootfs,
    disk: disks.images,
    listener: telemetry.pulls,
    use: useBy(() => mind),
  });
  const runtimes = new NodeRuntimes(binDir);
  // None of these needs another, and all of them mostly wait.
  const [found, noUserNamespaces] = await together([
    runtimes.find(op, config),
    rootfs.sweepLayers(op).then(() => whyNoUserNamespaces(config, rootfs)),
    images.load(op),
    sources.makeDirectory(op, config),
    network.start(op),
  ]);
  runtimes.use(found);
  if (noUserNamespaces !== undefined)
    log.info('pods with user namespaces cannot run on this node', { cause: noUserNamespaces });
  const { world, live, liveParts } = await makeWorld(op, loaded, binDir, {
    facts,
    rootfs,
    network,
    images,
    runtimes,
    whyNoUserNamespaces: noUserNamespaces,
    reserve: disks.run.reserve,
  });
  mind = opened.adopt(await openPods(op, world), (each) => each.close());
  const streams = await openStreams(config, log, mind, opened);
  const takers = takersOf(live, { ...liveParts, images, sources, apparmor: facts.apparmor, takeLog });
  const reloader = new Reloader(config, takers, log);
  const inForce = (): Config => reloader.inForce;
  const parts = { config, inForce, log, version, world, mind, runtimes, images, disks, streams, telemetry };
  opened.adopt(await openSocket(parts), (each) => each.close());
  start.done();
  sockets.notifyServiceManager('READY=1');
  opened.use(watchOver(config.api.listen, mind, log));
  log.info('serving', { path: config.api.listen, version, runtime: runtimes.standard?.runtime.handler.name });
  const later = (): void => {
    opened.defer(sweepImages(op, images));
    void sources.remember(op);
  };
  opened.use(onceSettled(later));
  return reloader;
}

/** Health is an answer on the socket, by which kubelet and operators come. */
function watchOver(socket: string, mind: OpenPods, log: Logger): Disposable {
  let client: Client | undefined;
  const watch = keepWatch(
    process.env,
    {
      probe: (signal) => (client ??= connect(socket)).version({}, { signal }),
      status: () => `serving ${mind.pods.list().length} pods, ${mind.containers.list().length} containers`,
    },
    sockets.notifyServiceManager,
    log,
  );
  return {
    [Symbol.dispose]() {
      watch[Symbol.dispose]();
      client?.close();
    },
  };
}

/** Does what nobody waits for when those who have waited for the start are served. */
function onceSettled(work: () => void): Disposable {
  const timer = setTimeout(work, limits.startSettleMs).unref();
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}

/** What pods have of the store. There are none before the mind is open. */
function useBy(mind: () => OpenPods | undefined): ImageUse {
  return { images: (imageId) => mind()?.imageUsers(imageId) ?? [], layers: () => mind()?.layersInUse() ?? [] };
}

function openRootfs({ workerUrl }: DaemonOptions, disks: Disks, opened: AsyncDisposableStack): OverlayRootfs {
  const rootfs = new OverlayRootfs({
    root: disks.containers.directory,
    imageRoot: disks.images.directory,
    reserve: disks.containers.reserve,
    ...(workerUrl === undefined ? {} : { workerUrl }),
  });
  // Deletions that go on after a reply are finished, within bounds; what is left then, the next start deletes.
  opened.defer(async () => void (await within(limits.shutdownGraceMs, rootfs.close())));
  return rootfs;
}

function openNetwork({ network, storage }: Config, log: Logger, opened: AsyncDisposableStack): CniNetwork {
  return opened.adopt(
    new CniNetwork({
      configDirs: [network.networkDir],
      pluginDirs: network.pluginDirs,
      defaultNetwork: network.cniDefaultNetwork,
      statusGraceMs: network.statusGraceMs,
      cacheDir: join(storage.root, 'cni'),
      log,
    }),
    (each) => each.close(),
  );
}

async function openStreams(
  config: Config,
  log: Logger,
  mind: OpenPods,
  opened: AsyncDisposableStack,
): Promise<Streams> {
  const streams = opened.adopt(new Streams(config, log, mind.execs), (each) => each.close());
  // A port that is taken, and certificates that are bad, are found at the start rather than at the first exec.
  if (config.api.streamPort !== 0 || config.api.streamEnableTls) await streams.open();
  return streams;
}
