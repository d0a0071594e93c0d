/** `[crio.runtime]`: the keys that have no effect, and those that would weaken isolation if they had none. PURE. */
import { flag, integer, text, texts } from '../kinds.ts';
import { ignored, merge, row } from '../option.ts';
import { NO_ARTIFACTS, NO_CRIU, NO_HARDWARE_CLASSES, NO_POLICED_CPUS } from './reasons.ts';

const number = integer(-Number.MAX_SAFE_INTEGER);

/** Each with its reason. */
export const runtimeIgnored = merge(
  ignored('has no effect: Berth keeps these files under runroot', {
    container_exits_dir: row(text, '/var/run/crio/exits', { variables: ['CONTAINER_EXITS_DIR'] }),
    container_attach_socket_dir: row(text, '/var/run/crio', { variables: ['CONTAINER_ATTACH_SOCKET_DIR'] }),
    namespaces_dir: row(text, '/var/run'),
  }),
  ignored('has no effect: it is detected', { selinux: row(flag, undefined) }),
  ignored('is not implemented: Go programs see the CPU limit of their cgroup by themselves since Go 1.25', {
    min_injected_gomaxprocs: row(number, 0, { variables: ['CONTAINER_INJECT_GOMAXPROCS'] }),
  }),
  ignored('is not implemented: encrypted images are refused', { decryption_keys_path: row(text, '/etc/crio/keys/') }),
  ignored(NO_ARTIFACTS, { additional_artifact_stores: row(texts, []) }),
  ignored(NO_HARDWARE_CLASSES, {
    blockio_config_file: row(text, ''),
    blockio_reload: row(flag, false),
    rdt_config_file: row(text, ''),
  }),
  ignored(NO_POLICED_CPUS, {
    irqbalance_config_file: row(text, '/etc/sysconfig/irqbalance'),
    irqbalance_config_restore_file: row(text, '/etc/sysconfig/orig_irq_banned_cpus'),
    shared_cpuset: row(text, ''),
  }),
  ignored(
    'puts every container into a user namespace, which Berth does for pods that ask for it only: without it they ' +
      "would run as the host's root. Remove it, and set hostUsers: false in the pods",
    { uid_mappings: row(text, ''), gid_mappings: row(text, '') },
    'refused',
  ),
  ignored('has no effect: the kubelet says which user ids a pod with hostUsers: false gets', {
    minimum_mappable_uid: row(number, -1),
    minimum_mappable_gid: row(number, -1),
  }),
  ignored(
    'has no effect: the grace period of a pod is what its StopContainer says, and SIGKILL is sent until it works',
    { ctr_stop_timeout: row(number, 30, { variables: ['CONTAINER_STOP_TIMEOUT'] }) },
  ),
  ignored('has no effect: write them in the default_mounts_file', { default_mounts: row(texts, [], { flag: '' }) }),
  ignored(NO_CRIU, { enable_criu_support: row(flag, true) }),
);
