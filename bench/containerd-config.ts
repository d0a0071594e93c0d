/** What a containerd of either generation is told, so that it does what Berth does, and as fast as it can. */
import { CNI_PLUGINS } from './ground.ts';

/** Absolute paths, and names. */
export interface ContainerdPlaces {
  /** Of its own: images, containers, sockets. */
  readonly dir: string;
  /** In memory. */
  readonly run: string;
  readonly socket: string;
  /** CNI configuration. */
  readonly confDir: string;
  /** Directory of registries with their hosts.toml. */
  readonly certs: string;
  /** The OCI runtime. */
  readonly runtime: string;
  readonly pauseImage: string;
}

/** PURE. Its config.toml. Snapshotters and tracing that are not used are off. */
export function containerdConfig(generation: 1 | 2, places: ContainerdPlaces): string {
  return generation === 1 ? first(places) : second(places);
}

const UNUSED_SNAPSHOTTERS = ['btrfs', 'devmapper', 'zfs', 'blockfile', 'erofs'];
/** Pulls in parallel as far as it can: these are off or 1 by default. */
const UNPACKS = 4;
const FETCH_BUFFER_BYTES = 32 * 1024 * 1024;

function common({ dir, run, socket }: ContainerdPlaces, disabled: readonly string[]): string {
  return `root = "${dir}/root"
state = "${run}/containerd"
oom_score = 0
disabled_plugins = [${disabled.map((name) => `"${name}"`).join(', ')}]
[grpc]
  address = "${socket}"
[ttrpc]
  address = "${dir}/ttrpc.sock"
`;
}

/** Without CAP_SYS_RESOURCE nobody lowers an oom_score_adj. */
const AS_THE_NODE = `  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
`;

function runcOf({ runtime, run }: ContainerdPlaces, table: string): string {
  return `[${table}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[${table}.containerd.runtimes.runc.options]
  BinaryName = "${runtime}"
  Root = "${run}/containerd-runtime"
`;
}

function first(places: ContainerdPlaces): string {
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  const snapshotters = ['aufs', ...UNUSED_SNAPSHOTTERS].map((name) => `io.containerd.snapshotter.v1.${name}`);
  const tracing = ['io.containerd.internal.v1.tracing', 'io.containerd.tracing.processor.v1.otlp'];
  return `version = 2
${common(places, [...snapshotters, ...tracing])}[${cri}]
  sandbox_image = "${places.pauseImage}"
${AS_THE_NODE}[${cri}.cni]
  bin_dir = "${CNI_PLUGINS}"
  conf_dir = "${places.confDir}"
${runcOf(places, cri)}`;
}

function second(places: ContainerdPlaces): string {
  const [images, runtime, transfer] = ['cri.v1.images', 'cri.v1.runtime', 'transfer.v1.local'].map(
    (name) => `plugins."io.containerd.${name}"`,
  ) as [string, string, string];
  const snapshotters = UNUSED_SNAPSHOTTERS.map((name) => `io.containerd.snapshotter.v1.${name}`);
  const others = ['io.containerd.internal.v1.opt', 'io.containerd.tracing.processor.v1.otlp'];
  return `version = 3
${common(places, [...snapshotters, ...others])}[${images}.pinned_images]
  sandbox = "${places.pauseImage}"
[${images}.registry]
  config_path = "${places.certs}"
[${transfer}]
  config_path = "${places.certs}"
  max_concurrent_unpacks = ${UNPACKS}
  concurrent_layer_fetch_buffer = ${FETCH_BUFFER_BYTES}
[${runtime}]
${AS_THE_NODE}[${runtime}.cni]
  bin_dirs = ["${CNI_PLUGINS}"]
  conf_dir = "${places.confDir}"
${runcOf(places, runtime)}`;
}
