/** `[crio.runtime]`: the keys that have no effect, and those that would weaken isolation if they had none. PURE. */
import { flag, integer, text, texts } from '../kinds.ts';
import { ignored, merge, row } from '../option.ts';
import { NO_CRIU, NO_HARDWARE_CLASSES } from './reasons.ts';

const number = integer(-Number.MAX_SAFE_INTEGER);

/** Each with its reason. */
export const runtimeIgnored = merge(
  ignored('has no effect: Berth keeps these files under runroot', {
    container_exits_dir: row(text, '/var/run/crio/exits', { variables: ['CONTAINER_EXITS_DIR'] }),
    container_attach_socket_dir: row(text, '/var/run/crio', { variables: ['CONTAINER_ATTACH_SOCKET_DIR'] }),
    namespaces_dir: row(text, '/var/run'),
  }),
  ignored('is not implemented: encrypted images are refused', { decryption_keys_path: row(text, '/etc/crio/keys/') }),
  ignored(NO_HARDWARE_CLASSES, {
    rdt_config_file: row(text, ''),
  }),
  ignored('has no effect: changes of blockio_config_file, and new devices, are seen at once', {
    blockio_reload: row(flag, false),
  }),
  ignored(
    'puts every container into a user namespace, which Berth does for pods that ask for it only: without it they ' +
      "would run as the host's root. Remove it, and set hostUsers: false in the pods",
    { uid_mappings: row(text, ''), gid_mappings: row(text, '') },
    'refused',
  ),
  ignored(
    'has no effect: the grace period of a pod is what its StopContainer says, and SIGKILL is sent until it works',
    { ctr_stop_timeout: row(number, 30, { variables: ['CONTAINER_STOP_TIMEOUT'] }) },
  ),
  ignored('is not implemented: pulls run in the cgroup of the daemon', {
    separate_pull_cgroup: row(text, '', { variables: ['PULL_IN_A_CGROUP'] }),
  }),
  ignored('has no effect: write them in the default_mounts_file', { default_mounts: row(texts, [], { flag: '' }) }),
  ignored(NO_CRIU, { enable_criu_support: row(flag, true) }),
);
