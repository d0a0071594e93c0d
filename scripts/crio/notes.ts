/**
 * What is true of what has no table in the sources: commands, pages, annotations, metrics. Whether each is here is
 * looked up there; here stands what it does then, and what an operator does instead as long as it is not.
 */

import type { Ground } from './proofs.ts';

/** A row's text. */
export interface Said {
  /** If the sources have it; as CRI-O has it if nothing is said. */
  readonly here?: string;
  /** If they do not; left out for what needs nothing of ours. */
  readonly away?: string;
  /** Titles of tests, or parts of them. */
  readonly tests?: readonly string[];
  /** Why no test on a daemon is among them. */
  readonly ground?: Ground;
}

type Notes = Readonly<Record<string, Said>>;

const CHECK_TESTS = ['are checked, and those that are broken removed on demand', 'are checked without a daemon, too'];
const STATUS_TESTS = ["shows what CRI-O's status shows, by the socket that is named, and wipes nothing unforced"];
/** Commands, by their words. */
export const COMMANDS: Notes = {
  check: {
    here:
      'Reads all images again, offline if no daemon answers, and says what the node lacks; exits with 1 if an image ' +
      'is not whole or the node cannot run pods. `--repair` removes what is broken, `--quick` looks at the node ' +
      'alone; the other flags are taken, and there is nothing for them to do.',
    tests: CHECK_TESTS,
  },
  complete: {
    here: 'Of bash, zsh or fish; bash where none is named.',
    tests: ['completes for bash, zsh and fish, and has help, whichever way it is asked for'],
  },
  config: {
    here:
      'The configuration in force, or with `--default` the built-in one with live values, for sed. There is no `-m`, ' +
      'as in CRI-O since 1.31: old keys are read, and what is printed has the present ones.',
    tests: ['says its version, and the configuration in force'],
  },
  help: {
    here: 'Or `--help` behind a command.',
    tests: ['completes for bash, zsh and fish, and has help, whichever way it is asked for'],
  },
  man: { away: 'Not there: the package brings berth(8), berth.conf(5), berth-conmon(8) and pinns(8).' },
  markdown: { away: 'Not there.' },
  status: {
    here: 'Conditions, pulls and operations in flight of the daemon, where CRI-O prints its help.',
    tests: ['says what the daemon is doing, and where it is stuck'],
  },
  'status config': { here: 'The configuration in force, as TOML.', tests: STATUS_TESTS },
  'status containers': {
    here: 'The same lines; `--json` gives all of it. The id may be cut short; pods have one, too.',
    tests: [...STATUS_TESTS, 'has the lines of crio status containers, with nothing that a terminal would obey'],
  },
  'status info': {
    here: 'The same lines.',
    tests: [...STATUS_TESTS, 'has the lines of crio status info, with the maps of ids'],
  },
  'status goroutines': {
    here: 'What the daemon is doing: operations with their stages, and what its event loop waits for.',
    tests: STATUS_TESTS,
  },
  'status heap': {
    here: 'A heap snapshot for developer tools, not for pprof; says where it is on standard error, as CRI-O.',
    tests: ['has the commands of CRI-O, which need no flag either'],
  },
  version: {
    here: 'That of Berth, with the same `Version:` and `Platform:` lines; and that of the daemon, if one answers.',
    tests: ['says its version, and the configuration in force'],
  },
  wipe: {
    here:
      'Nothing without `--force`, since every start tidies up after a crash or a reboot, so crio-wipe.service ' +
      'succeeds; with it, all pods and images are removed, by the daemon or, if there are no pods, without one.',
    tests: [...STATUS_TESTS, 'wipes everything by force, with the daemon and without'],
  },
};

const PPROF = 'Not there, since it is the Go runtime’s: `berth debug cpu` and `berth debug heap` instead.';
const PPROF_TESTS = ['of the processor are given to pprof, too, as CRI-O gives them'];

/** Variables that are no flag's. */
export const VARIABLES: Notes = {
  GOTRACEBACK: { away: 'There is no Go here; a crash is in the log, and `LimitCORE` is unlimited.' },
  KUBENSMNT: {
    here: 'Mount namespace that the daemon joins, as with CRI-O.',
    tests: ['pins a mount namespace, which the launcher joins that KUBENSMNT names'],
  },
  NOTIFY_SOCKET: {
    here: 'Type=notify.',
    tests: ['a start that goes on may take longer than its time', 'the status counts'],
  },
  WATCHDOG_USEC: {
    here: 'WatchdogSec=: the daemon asks itself through its socket, as CRI-O does.',
    tests: ['watchdog starts a daemon anew that hangs', 'watchdog leaves a daemon in health alone'],
  },
};

const PAUSE_TESTS = ['pauses a container by HTTP, stops it all the same, and answers as CRI-O does'];

/** Pages, by their paths. */
export const PATHS: Notes = {
  '/config': { here: 'As TOML.', tests: STATUS_TESTS },
  '/info': { here: 'As CRI-O has it, for cAdvisor.', tests: ['finds the storage, the same at both sockets'] },
  '/containers/{id}': {
    here:
      'As CRI-O has it, for cAdvisor; pods too. `crio_annotations` is empty: CRI-O keeps its records there, Berth in ' +
      'files of its own, which the verbose statuses of CRI show.',
    tests: ['knows containers and pods by their cgroups, and all that it wants to know of them'],
  },
  '/pause/{id}': {
    here: 'As CRI-O has it. A stop lets a paused container go on, so that it can end.',
    tests: PAUSE_TESTS,
  },
  '/unpause/{id}': { here: 'As CRI-O has it.', tests: PAUSE_TESTS },
  '/debug/goroutines': { here: 'As `status goroutines`.', tests: STATUS_TESTS },
  '/debug/heap': { here: 'As `status heap`.', tests: STATUS_TESTS },
  '/debug/pprof/': { here: 'Says what there is of it.', tests: PPROF_TESTS },
  '/debug/pprof/cmdline': { here: 'As CRI-O has it.', tests: PPROF_TESTS },
  '/debug/pprof/profile': {
    here: 'A CPU profile of at most 45 seconds, which `go tool pprof` reads; without a flag.',
    tests: PPROF_TESTS,
  },
  '/debug/pprof/symbol': { away: PPROF },
  '/debug/pprof/trace': { away: PPROF },
};

const ANNOTATION_TESTS = ['follows only the annotations that its handler allows'];
const PASSED: Said = {
  here: 'Reaches the runtime, which acts on it.',
  tests: ['hands annotations on to its runtime where a name or a beginning allows them, and no others'],
};
const TUNED = 'changes their idle states, governor and interrupts from its start to its end, and irqbalance';
/** For containers with whole CPUs of guaranteed pods, as with CRI-O. */
const cpus = (here: string, ...tests: readonly string[]): Said => ({
  here: `${here} For containers with whole CPUs of guaranteed pods.`,
  tests: ['change the node from the start of a container to its end, however that comes', ...tests],
});

/** Annotations, by their present names. */
export const ANNOTATIONS: Notes = {
  'cgroup2-mount-hierarchy-rw.crio.io': {
    here: '/sys/fs/cgroup is writable.',
    tests: ['may write below /sys/fs/cgroup where cgroup2-mount-hierarchy-rw says so'],
  },
  'cpu-c-states.crio.io': cpus('Idle states of its CPUs: enable, disable, max_latency:N.', TUNED),
  'cpu-freq-governor.crio.io': cpus('The governor of its CPUs.', TUNED),
  'cpu-load-balancing.crio.io': cpus(
    'disable: no load is balanced on its CPUs (v1: sched_load_balance, v2: an isolated partition).',
    'has no CPU quota, nor load balanced on its CPUs, where annotations say so and may',
    'are set apart on v2, all the way down, and nobody else loses theirs when they go',
  ),
  'cpu-quota.crio.io': cpus(
    'disable: no CPU quota, nor for its pod.',
    'has no CPU quota, nor load balanced on its CPUs, where annotations say so and may',
  ),
  'cpu-shared.crio.io': cpus(
    'enable: the CPUs of shared_cpuset, too.',
    'shares those of shared_cpuset where cpu-shared says so, and begins commands there',
  ),
  'devices.crio.io': { here: 'Devices of `allowed_devices`.', tests: ANNOTATION_TESTS },
  'disable-fips.crio.io': {
    here:
      'With the label FIPS_DISABLE: "true" of the pod, as CRI-O has it: /proc/sys/crypto/fips_enabled says 0. Berth ' +
      'mounts no crypto policies into containers of a node that keeps to FIPS.',
    tests: ['hides it where pod, label and permission say so, and the kernel has it'],
    ground: 'no kernel with FIPS',
  },
  'irq-load-balancing.crio.io': cpus(
    'disable, housekeeping: interrupts are led away from its CPUs, also by irqbalance.',
    TUNED,
  ),
  'link-logs.crio.io': {
    here:
      'The logs of the pod in its emptyDir of that name, read-only, with a link for each container. Nothing is ' +
      'mounted in the directory of the kubelet.',
    tests: [
      'have a link for each container, by its id; the status tells of the volume',
      'reads its own logs in a volume',
    ],
  },
  'io.containers.trace-syscall': PASSED,
  'platform-runtime-path.crio.io': { away: 'Not there: make a handler for each path.' },
  'pod-linux-overhead.crio.io': { away: 'Not there: it is for runtimes of type "vm".' },
  'pod-linux-resources.crio.io': { away: 'Not there: it is for runtimes of type "vm".' },
  'seccomp-notifier-action.crio.io': {
    here:
      'Each system call that a rule of the profile forbids is logged and counted, and answered with ENOSYS; with ' +
      '`stop` the container ends five seconds after the last one, as `seccomp killed`. Rules that say ENOSYS ' +
      'themselves forbid nothing: CRI-O ends every program with threads for clone3.',
    tests: [
      'in the log and in the metrics, also of commands, and over a restart, where it may',
      'and ends it for that where the action is stop, with CRI-O’s reason',
    ],
  },
  'seccomp-profile.crio.io': {
    here:
      'The profile in an OCI artifact (its first titled file) for containers that name no other; of the pod, else of ' +
      'the image. Pulled where it is not here yet.',
    tests: ['give a container the seccomp profile that an annotation names, where it may, and it has no other'],
  },
  'shm-size.crio.io': { here: 'The size of /dev/shm.', tests: ANNOTATION_TESTS },
  'skip-gomaxprocs.crio.io': {
    here: 'No `min_injected_gomaxprocs` for the pod; needs no permission.',
    tests: ['has GOMAXPROCS of min_injected_gomaxprocs where its pod has no limit, unless that skips it'],
  },
  'spoofed.crio.io': { away: 'Not there: no container is pretended.' },
  'org.opencontainers.image.stopSignal': { away: 'Not there: the stop signal is that of the pod, else of the image.' },
  'try-skip-volume-selinux-label.crio.io': {
    here: 'A volume whose top has the right label is not labelled again.',
    tests: ['a volume whose top has the label is not labelled again, where an annotation says so'],
  },
  'umask.crio.io': { here: 'The umask of the first process.', tests: ANNOTATION_TESTS },
  'unified-cgroup.crio.io': {
    here: 'Files of the container’s cgroup, on v2: `<annotation>/<container>: file=value;…`.',
    tests: ['unified-cgroup, files of its cgroup are what the annotation says, in base64 or as it is'],
  },
  'userns-mode.crio.io': {
    here:
      'A user namespace: `auto`, with size, keep-id, map-to-root, uidmapping and gidmapping, of the ids that ' +
      '/etc/subuid and /etc/subgid give the user `containers`; `private`. Refused where it is not allowed, or would ' +
      'map root of the node. Also for a pod whose options say NODE, as the kubelet writes: CRI-O forgets it then.',
    tests: [
      'gets a range of its own where its handler allows it, by either name, many at once',
      'get their ids by CRI-O’s annotation, where it is allowed',
    ],
  },
  'io.kubernetes.cri.rdt-class': {
    away: 'Refuses the container, as a CRI-O without RDT, with what to do: there are no such classes.',
  },
  bundle: PASSED,
  'org.systemd.property.': { ...PASSED, tests: ['org.systemd.property, its scope has the property'] },
  'org.criu.config': PASSED,
  'module.wasm.image/variant': PASSED,
  'io.kubernetes.cri.container-type': PASSED,
  'run.oci.': PASSED,
};

/** A scrape of a daemon after a pod's life shows nearly all of them. */
const SCRAPED: Said = { tests: ['are CRI-O’s after a pod’s life: names, labels, and what they say'] };

/** Metrics, by their short names. */
export const METRICS: Notes = {
  image_pulls_layer_size: SCRAPED,
  containers_events_dropped_total: SCRAPED,
  containers_oom_total: SCRAPED,
  processes_defunct: SCRAPED,
  operations_total: SCRAPED,
  operations_latency_seconds: SCRAPED,
  operations_latency_seconds_total: SCRAPED,
  operations_errors_total: SCRAPED,
  image_pulls_bytes_total: SCRAPED,
  image_pulls_skipped_bytes_total: SCRAPED,
  image_pulls_failure_total: SCRAPED,
  image_pulls_success_total: SCRAPED,
  image_layer_reuse_total: {
    here: 'Of a thousand names; what comes after is `other`.',
    tests: [
      'are CRI-O’s after a pod’s life: names, labels, and what they say',
      'does not grow without end: what comes after the first thousand is counted as other',
    ],
  },
  containers_oom_count_total: {
    here: 'A value goes with its container.',
    tests: ['counts that it ran out of memory, in the metrics, by its name'],
  },
  containers_seccomp_notifier_count_total: {
    tests: ['in the log and in the metrics, also of commands, and over a restart, where it may'],
  },
  resources_stalled_at_stage: {
    here: 'Counted when a client gives up, not when it comes again.',
    tests: ['tell of a pod that is not made in time, each time that its client gives up'],
  },
  containers_stopped_monitor_count: {
    here: 'A value goes with its container.',
    tests: ['tell of containers without a monitor'],
  },
  default_runtime: SCRAPED,
};
