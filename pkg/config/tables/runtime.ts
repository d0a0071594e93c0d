/** `[crio.runtime]`: how containers are run. PURE. */
import {
  apparmorProfile,
  capability,
  cpuset,
  device,
  environmentEntry,
  logLevel,
  logSize,
  sysctls,
  timezone,
  ulimit,
} from '../formats.ts';
import { choice, file, files, flag, integer, integerOrNone, list, path, program, text } from '../kinds.ts';
import { option } from '../option.ts';
import { workloads } from '../workloads.ts';

const DEFAULT_CAPABILITIES = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FSETID',
  'FOWNER',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'NET_BIND_SERVICE',
  'KILL',
].map((name) => `CAP_${name}`);

const programs = {
  defaultRuntime: option(
    'default_runtime',
    text,
    '',
    'The handler of pods that name none. "" chooses crun where it is installed and works on this node, else runc.',
    { reload: 'runtimes' },
  ),
  cgroupManager: option(
    'cgroup_manager',
    choice('cgroupfs', 'systemd'),
    'cgroupfs',
    'Who makes cgroups. The default is systemd where systemd is PID 1 and manages the hierarchy, ' +
      'else cgroupfs. The kubelet asks for it.',
  ),
  conmon: option(
    'conmon',
    program,
    '',
    'The monitor of every handler. "" leaves it to monitor_path, and without that it is the one that came with Berth.',
  ),
  conmonCgroup: option(
    'conmon_cgroup',
    text,
    '',
    'cgroup of all monitors: a *.slice; "pod" is outside the pods, too, since a monitor must outlive what its pod ' +
      'takes. "" leaves it to monitor_cgroup.',
  ),
  conmonEnv: option(
    'conmon_env',
    list(environmentEntry),
    [],
    'Environment of all monitors; empty leaves it to monitor_env.',
  ),
  pinnsPath: option('pinns_path', program, '', 'The program that pins namespaces. "" is the one that came with Berth.'),
} as const;

const processes = {
  defaultUlimits: option(
    'default_ulimits',
    list(ulimit),
    [],
    'Resource limits of containers, "nofile=1024:2048". What is not named is inherited from the daemon.',
  ),
  defaultEnv: option('default_env', list(environmentEntry), [], 'Environment of every container; image and pod win.'),
  defaultCapabilities: option(
    'default_capabilities',
    list(capability),
    DEFAULT_CAPABILITIES,
    'Capabilities of containers before add and drop of the pod.',
  ),
  addInheritableCapabilities: option(
    'add_inheritable_capabilities',
    flag,
    false,
    'Also put them in the inheritable set. Leave it off: CVE-2022-27652.',
  ),
  defaultSysctls: option(
    'default_sysctls',
    sysctls,
    new Map<string, string>(),
    'Sysctls of every pod, "net.ipv4.ping_group_range=0 2147483647"; those of host namespaces are left out, and ' +
      'those that no pod may set, with a warning.',
  ),
  seccompProfile: option(
    'seccomp_profile',
    file,
    '',
    'JSON profile for RuntimeDefault. "", or a file that is not there, is the built-in one.',
    { reload: 'seccomp' },
  ),
  privilegedSeccompProfile: option(
    'privileged_seccomp_profile',
    file,
    '',
    'JSON profile for privileged containers. "" is none; a file that is not there is the built-in profile.',
    { reload: 'seccomp' },
  ),
  apparmorProfile: option(
    'apparmor_profile',
    apparmorProfile,
    'berth-default',
    'AppArmor profile for RuntimeDefault. "berth-default" and "crio-default" are Berth\'s own, and are loaded; ' +
      'any other must be loaded already. "unconfined" is none.',
    { reload: 'apparmor' },
  ),
} as const;

const mounts = {
  cdiSpecDirs: option(
    'cdi_spec_dirs',
    files,
    ['/etc/cdi', '/var/run/cdi'],
    'Directories of CDI specifications; later ones win.',
    { reload: 'cdi' },
  ),
  blockioConfigFile: option(
    'blockio_config_file',
    file,
    '',
    'Classes of block I/O (weights, rates by device), in YAML. A container is in the one that ' +
      'blockio.resources.beta.kubernetes.io/container.<name>, or /pod, of its pod names.',
    { reload: 'cdi' },
  ),
  allowedDevices: option(
    'allowed_devices',
    files,
    ['/dev/fuse', '/dev/net/tun'],
    'Devices that the devices.crio.io annotation may ask for.',
  ),
  additionalDevices: option(
    'additional_devices',
    list(device),
    [],
    'Devices of every container, "/dev/host:/dev/container:rwm".',
  ),
  additionalArtifactStores: option(
    'additional_artifact_stores',
    list(path),
    [],
    'Directories with OCI artifacts that lie ready, each an OCI layout in "artifacts" below it: they are meant ' +
      'before those that were pulled, are pinned and never removed. Absolute paths.',
  ),
  hooksDir: option(
    'hooks_dir',
    files,
    ['/usr/share/containers/oci/hooks.d'],
    'Directories of OCI hooks (1.0.0 and 0.1.0); later ones win. A hook is given the annotations that are allowed, ' +
      'not all of the pod nor those of CRI-O.',
  ),
  defaultMountsFile: option(
    'default_mounts_file',
    file,
    '',
    'File with a "/source:/destination" per line that is mounted into every container. "" looks ' +
      'at /etc/containers/mounts.conf, then /usr/share/containers/mounts.conf.',
  ),
  absentMountSourcesToReject: option(
    'absent_mount_sources_to_reject',
    files,
    [],
    'Mount sources that must exist; others are made as directories.',
  ),
  deviceOwnershipFromSecurityContext: option(
    'device_ownership_from_security_context',
    flag,
    false,
    'Give devices to the user and group of the container.',
  ),
  infraCtrCpuset: option(
    'infra_ctr_cpuset',
    cpuset,
    '',
    'CPUs of infra containers, "0-1,4"; "" is all. The CPUs that the kubelet reserves, to leave the others to pods.',
  ),
  selinux: option(
    'selinux',
    flag,
    true,
    'Label containers, where the kernel has SELinux. false leaves them unlabelled, as CRI-O does.',
  ),
  sharedCpuset: option(
    'shared_cpuset',
    cpuset,
    '',
    'CPUs, "0-1,4", that containers with CPUs for themselves share where the annotation ' +
      'cpu-shared.crio.io/<container> says enable.',
  ),
  irqbalanceConfigFile: option(
    'irqbalance_config_file',
    file,
    '/etc/sysconfig/irqbalance',
    'Where irqbalance is told which CPUs to leave alone: those of containers with the annotation ' +
      'irq-load-balancing.crio.io. Nothing is written if it is not there.',
  ),
  irqbalanceConfigRestoreFile: option(
    'irqbalance_config_restore_file',
    file,
    '/etc/sysconfig/orig_irq_banned_cpus',
    'Where it is kept what irqbalance was told before the first of them, for the start after a reboot; "disable" is ' +
      'nowhere.',
  ),
  hostnetworkDisableSelinux: option(
    'hostnetwork_disable_selinux',
    flag,
    true,
    'Give pods on the network of the host no SELinux label of their own.',
  ),
  bindMountPrefix: option(
    'bind_mount_prefix',
    file,
    '',
    'Put before the source of every mount that a pod asks for: where the root of the host is, if ' +
      'Berth runs in a container itself.',
  ),
} as const;

const pods = {
  workloads: option(
    'workloads',
    workloads,
    [],
    'Pods that an annotation marks get other CPU shares and sets, and more allowed annotations: ' +
      'a table [crio.runtime.workloads.<name>] with activation_annotation, annotation_prefix, ' +
      'allowed_annotations, and resources with cpushares, cpuquota, cpuperiod, cpuset, cpulimit.',
    { flag: '' },
  ),
  minimumMappableUid: option(
    'minimum_mappable_uid',
    integerOrNone,
    -1,
    'The smallest user id of the node that a pod may map by the annotation userns-mode.crio.io; -1 is no such bound. ' +
      'Pods with hostUsers: false get theirs from the kubelet.',
  ),
  minimumMappableGid: option(
    'minimum_mappable_gid',
    integerOrNone,
    -1,
    'The smallest group id of the node that a pod may map by that annotation; -1 is no such bound.',
  ),
  readOnly: option(
    'read_only',
    flag,
    false,
    'Mount all root filesystems read-only, with a tmpfs on /run, /tmp and /var/tmp.',
  ),
  pidsLimit: option('pids_limit', integerOrNone, -1, 'Processes per container; -1 leaves it to the kubelet.'),
  noPivot: option(
    'no_pivot',
    flag,
    false,
    'Let the runtime use MS_MOVE in place of pivot_root: only for a host that runs from an initramfs.',
  ),
  minInjectedGomaxprocs: option(
    'min_injected_gomaxprocs',
    integer(0),
    0,
    'The least GOMAXPROCS of containers without a CPU limit in burstable and best-effort pods, which have twice the ' +
      'CPUs that they request; 0 sets none. The annotation skip-gomaxprocs.crio.io: "true" leaves a pod out.',
    { variables: ['CONTAINER_INJECT_GOMAXPROCS'] },
  ),
  dropInfraCtr: option('drop_infra_ctr', flag, true, 'Run no pause process unless the pod shares its PID namespace.'),
  enablePodEvents: option(
    'enable_pod_events',
    flag,
    true,
    'Serve GetContainerEvents, and answer PodSandboxStatus with the statuses of containers.',
    { variables: ['ENABLE_POD_EVENTS'] },
  ),
  disableHostportMapping: option(
    'disable_hostport_mapping',
    flag,
    false,
    'Leave host ports to others: neither map them nor pass them to CNI plugins.',
    { variables: ['DISABLE_HOSTPORT_MAPPING'] },
  ),
  timezone: option(
    'timezone',
    timezone,
    '',
    'An IANA name, or "Local" for that of the node; "" leaves it to the image.',
    { flagAliases: ['tz'], variables: ['CONTAINER_TIME_ZONE'] },
  ),
} as const;

const logs = {
  logLevel: option('log_level', logLevel, 'info', 'How much is logged.', { reload: 'log', short: 'l' }),
  logFilter: option('log_filter', text, '', 'Log only messages that this expression in Go syntax matches; "" is all.', {
    reload: 'log',
  }),
  logSizeMaxBytes: option(
    'log_size_max',
    logSize,
    -1,
    'Bytes after which the log of a container is cut and begun anew; at least 8192, -1 is no ' +
      'limit. What was in it is lost: better let the kubelet rotate logs.',
  ),
  logToJournald: option('log_to_journald', flag, false, 'Send the output of containers to the journal, too.', {
    flag: 'log-journald',
    flagAliases: ['log-to-journald'],
    variables: ['CONTAINER_LOG_TO_JOURNALD'],
  }),
  logFormat: option(
    'log_format',
    choice('text', 'json'),
    'text',
    'logfmt or one JSON object per line. (In a crio setup this is a flag only.)',
  ),
} as const;

/** `[crio.runtime]`: what Berth reads. */
export const runtime = { ...programs, ...processes, ...mounts, ...pods, ...logs } as const;
