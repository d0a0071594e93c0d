/** `[crio.runtime.runtimes.<name>]`: a runtime handler. All of it reloads at once. PURE. */
import { environmentEntry, memory, seconds } from '../formats.ts';
import { file, flag, list, program, settings, text, texts } from '../kinds.ts';
import { ignored, merge, option, row } from '../option.ts';
import { stringTable } from '../workloads.ts';
import { NO_VM } from './reasons.ts';

/** The least that a runtime may take to create a container, as with CRI-O. */
const CREATE_TIMEOUT_MIN_SECONDS = 30;

/** What Berth reads. */
export const handler = {
  runtimePath: option('runtime_path', program, '', 'The runtime; "" looks for the handler\'s name in PATH.'),
  runtimeRoot: option(
    'runtime_root',
    file,
    '',
    'Where the runtime keeps its state; "" is a directory under runroot. Share it with nobody.',
  ),
  runtimeType: option(
    'runtime_type',
    text,
    'oci',
    'Only "oci" is supported. "pod" is conmon-rs\'s: such a handler is as one of "oci", with the monitor that came ' +
      'with Berth.',
  ),
  runtimeArgs: option(
    'runtime_args',
    texts,
    [],
    'Arguments before the runtime\'s subcommand. (Berth\'s own key: runsc wants "--platform=ptrace" on some nodes.)',
  ),
  inheritDefaultRuntime: option(
    'inherit_default_runtime',
    flag,
    false,
    'Take runtime_path, runtime_root, runtime_type and runtime_args from the default handler.',
  ),
  privilegedWithoutHostDevices: option(
    'privileged_without_host_devices',
    flag,
    false,
    'Privileged containers get only the devices that they ask for.',
  ),
  allowedAnnotations: option(
    'allowed_annotations',
    texts,
    [],
    'Annotations of pods that take effect and reach the runtime, by name or with a trailing "*" or ".": ' +
      '"umask.crio.io", "devices.crio.io", "shm-size.crio.io", "userns-mode.crio.io", "seccomp-profile.crio.io", ' +
      '"unified-cgroup.crio.io", "cgroup2-mount-hierarchy-rw.crio.io", "try-skip-volume-selinux-label.crio.io", ' +
      '"link-logs.crio.io", and ' +
      'for CPUs that are a container\'s own "cpu-quota.crio.io", "cpu-load-balancing.crio.io", ' +
      '"irq-load-balancing.crio.io", "cpu-c-states.crio.io", "cpu-freq-governor.crio.io", "cpu-shared.crio.io"; ' +
      '"run.oci." and the like reach the runtime. One that has no effect here is a warning. Nothing is allowed that ' +
      'no table names: CRI-O gives "io.containers.trace-syscall" and "devices.crio.io" to a crun that has no table.',
  ),
  containerMinMemoryBytes: option(
    'container_min_memory',
    memory,
    0n,
    'Smallest memory limit that a container can start with, "7.5MiB"; a smaller one is refused. "0" is ' +
      'what the runtime itself needs: 500KiB for crun, 12MiB for others.',
  ),
  createTimeoutMs: option(
    'container_create_timeout',
    seconds(CREATE_TIMEOUT_MIN_SECONDS),
    240_000,
    'Seconds that the runtime may take to create a container; at least 30.',
  ),
  monitorPath: option('monitor_path', program, '', 'The monitor (conmon), unless conmon names one.'),
  monitorCgroup: option('monitor_cgroup', text, '', 'As conmon_cgroup, unless that is set.'),
  monitorEnv: option(
    'monitor_env',
    list(environmentEntry),
    [],
    'Environment of the monitor, unless conmon_env is set.',
  ),
  defaultAnnotations: option(
    'default_annotations',
    stringTable,
    new Map<string, string>(),
    'Annotations of every container of this handler, { "key" = "value" }, as if its pod had them ' +
      'and they were allowed; those that pods bring win.',
  ),
  execCpuAffinity: option(
    'exec_cpu_affinity',
    text,
    '',
    '"first": commands in a container with CPUs for itself begin on the first of them (or of shared_cpuset). "" ' +
      'leaves it to the runtime.',
  ),
  seccompProfile: option(
    'seccomp_profile',
    file,
    '',
    'JSON profile for RuntimeDefault with this handler. "" is that of [crio.runtime]. It must be there.',
  ),
  noSyncLog: option('no_sync_log', flag, false, 'Do not sync the log to disk when a container ends.'),
} as const;

/** What has no effect. */
export const handlerIgnored = merge(
  ignored(NO_VM, {
    runtime_config_path: row(text, ''),
    stream_websockets: row(flag, false),
    runtime_pull_image: row(flag, false),
  }),
  ignored('has no effect: commands run without a monitor, in the cgroup of their container', {
    monitor_exec_cgroup: row(text, ''),
  }),
  ignored('is not implemented: a handler has one runtime_path; make a handler for each', {
    platform_runtime_paths: row(settings, {}),
  }),
);
