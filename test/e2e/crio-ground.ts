/**
 * The files of a node that runs CRI-O, as an OpenShift node has them: crio.conf with its drop-ins, the files of
 * containers, hooks, credentials and mounts. They lie in an /etc that only the tests see.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BUILD, type TestNode } from './harness.ts';

/** Puts an /etc of one's own over that of the machine; what is given back takes it away. */
export function ownEtc(): () => void {
  const at = mkdtempSync('/tmp/berth-etc-');
  const mount = (...args: readonly string[]): void => void execFileSync('mount', args);
  mount('-t', 'tmpfs', 'none', at);
  execFileSync('mkdir', [join(at, 'up'), join(at, 'work')]);
  mount('-t', 'overlay', 'none', '-o', `lowerdir=/etc,upperdir=${at}/up,workdir=${at}/work`, '/etc');
  return () => {
    execFileSync('umount', ['-l', '/etc']);
    execFileSync('umount', ['-l', at]);
    rmSync(at, { recursive: true });
  };
}

/** What the files are about beside the node's own directories. */
export interface CrioNode {
  /** `host:port` of a registry that quay.example is mirrored to. */
  readonly mirror: string;
}

/** Programs that note that they ran, and do what the real ones do. */
async function noting(path: string, real: string, note: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, `#!/bin/sh\necho "$0 $*" >> ${note}\nexec ${real} "$@"\n`);
  await chmod(path, 0o755);
}

/** Writes everything. */
export async function crioFiles({ dir, socket }: Pick<TestNode, 'dir' | 'socket'>, node: CrioNode): Promise<void> {
  const note = join(dir, 'ran');
  await noting(join(dir, 'cni/bridge'), '/usr/lib/cni/bridge', note);
  await noting(join(dir, 'bin/crun'), '/usr/bin/crun', note);
  await noting(join(dir, 'bin/pinns'), join(BUILD, 'bin/pinns'), note);
  await rm('/etc/berth', { recursive: true, force: true });
  await rm('/etc/crio', { recursive: true, force: true });
  const files: Readonly<Record<string, string>> = {
    '/etc/crio/crio.conf': `# What the package brought, with the places of this node.
[crio]
root = "${dir}/root"
runroot = "${dir}/run"
storage_driver = "overlay"
storage_option = ["overlay.mountopt=volatile"]
log_dir = "${dir}/logs"
version_file = "${dir}/version"
clean_shutdown_file = "${dir}/clean.shutdown"
[crio.api]
listen = "${socket}"
crio_socket = "none"
stream_address = "127.0.0.2"
stream_port = "18123"
grpc_max_recv_msg_size = 33554432
`,
    ...dropIns(dir),
    // Not first by name, and not the only one: it is chosen by its own.
    [join(dir, 'net.d/00-other.conflist')]: '{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"not-there"}]}',
    [join(dir, 'kubelet.json')]: JSON.stringify({
      auths: { [node.mirror]: { auth: Buffer.from('core:secret').toString('base64') } },
    }),
    '/etc/containers/policy.json': JSON.stringify({
      default: [{ type: 'reject' }],
      transports: { docker: { 'quay.example': [{ type: 'insecureAcceptAnything' }] } },
    }),
    '/etc/containers/registries.conf': 'unqualified-search-registries = ["quay.example", "other.example"]\n',
    '/etc/containers/registries.conf.d/01-image-searchRegistries.conf': `[[registry]]
prefix = "quay.example"
location = "quay.example"
[[registry.mirror]]
location = "${node.mirror}"
insecure = true
`,
    '/etc/containers/storage.conf': '[storage]\ndriver = "overlay"\n',
    '/etc/containers/mounts.conf': `${dir}/secrets:/run/secrets\n`,
    ...hooks(dir),
    [join(dir, 'secrets/redhat.repo')]: 'subscribed\n',
  };
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
  }
}

/** Two that append the state that they are given to a file: for a mark of the tests', and for traces. */
function hooks(dir: string): Readonly<Record<string, string>> {
  const hook = (file: string, annotations: Readonly<Record<string, string>>): string =>
    JSON.stringify({
      version: '1.0.0',
      hook: { path: '/bin/sh', args: ['sh', '-c', `cat >> ${dir}/${file}`] },
      when: { annotations },
      stages: ['prestart'],
    });
  return {
    '/etc/containers/oci/hooks.d/99-note.json': hook('hooked', { '^hook-me$': '^yes$' }),
    '/etc/containers/oci/hooks.d/50-trace.json': hook('traced', { '^io\\.containers\\.trace-syscall$': '.*' }),
  };
}

/** As the machine config operator writes them: later names win. */
function dropIns(dir: string): Readonly<Record<string, string>> {
  return {
    '/etc/crio/crio.conf.d/00-default': containers(dir),
    '/etc/crio/crio.conf.d/00-default-images': images(dir),
    '/etc/crio/crio.conf.d/01-ctrcfg-logLevel': '[crio.runtime]\nlog_level = "debug"\n',
    '/etc/crio/crio.conf.d/01-ctrcfg-pidsLimit': '[crio.runtime]\npids_limit = 2048\n',
  };
}

function containers(dir: string): string {
  return `[crio]
internal_wipe = true
internal_repair = true
[crio.runtime]
selinux = true
conmon = "/usr/bin/conmon"
conmon_cgroup = "pod"
conmon_env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FROM_CRIO=1"]
default_runtime = "crun"
default_env = ["NSS_SDB_USE_CACHE=no"]
default_capabilities = ["CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETUID", "SETGID", "SETPCAP", "KILL"]
default_sysctls = ["net.ipv4.ping_group_range=0 2147483647"]
add_inheritable_capabilities = true
hooks_dir = ["/etc/containers/oci/hooks.d", "/run/containers/oci/hooks.d"]
log_level = "info"
pids_limit = 1024
drop_infra_ctr = false
absent_mount_sources_to_reject = ["/etc/hostname"]
cgroup_manager = "cgroupfs"
enable_pod_events = false
disable_hostport_mapping = true
no_pivot = true
pinns_path = "${dir}/bin/pinns"
shared_cpuset = "1"
separate_pull_cgroup = "pod"
[crio.runtime.runtimes.crun]
runtime_path = "${dir}/bin/crun"
runtime_root = "${dir}/crun"
allowed_annotations = ["io.containers.trace-syscall", "io.kubernetes.cri-o.Devices", "run.oci."]
container_min_memory = "7.5MiB"
[crio.runtime.runtimes.high-performance]
inherit_default_runtime = true
no_sync_log = true
allowed_annotations = ["io.kubernetes.cri-o.umask"]
[crio.runtime.runtimes.kata]
runtime_path = "/usr/bin/containerd-shim-kata-v2"
runtime_type = "vm"
[crio.runtime.workloads.openshift-builder]
activation_annotation = "io.openshift.builder"
allowed_annotations = ["io.kubernetes.cri-o.ShmSize"]
[crio.runtime.workloads.openshift-builder.resources]
cpushares = 1024
`;
}

function images(dir: string): string {
  return `[crio.image]
global_auth_file = "${dir}/kubelet.json"
namespaced_auth_dir = "/etc/crio/auth"
pause_image = "quay.example/openshift/pause@sha256:${'0'.repeat(64)}"
pause_image_auth_file = "${dir}/kubelet.json"
pause_command = "/usr/bin/pod"
signature_policy_dir = "/etc/crio/policies"
pull_progress_timeout = "5s"
[crio.network]
network_dir = "${dir}/net.d"
plugin_dirs = ["${dir}/cni"]
plugin_dir = "/usr/lib/cni"
cni_default_network = "berth"
[crio.stats]
stats_collection_period = 10
included_pod_metrics = ["oom"]
[crio.nri]
enable_nri = false
`;
}
