/**
 * Annotations that change a container: which of them may, and what they say. PURE.
 *
 * Anybody who may create a pod writes annotations, so none has an effect unless the runtime handler allows it by name.
 */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { cpuWishes } from './cpus.ts';
import { NO_RESOURCES, parseDevice } from './resources.ts';
import type { LinuxContainerResources } from '../cri-api/types.ts';
import type { AnnotationSettings, DeviceRequest } from '../ports/spec.ts';

/** CRI-O's present names of annotations, and the first ones, which it still accepts (pkg/annotations/v2). */
const FIRST_NAMES: ReadonlyMap<string, string> = new Map([
  ['cgroup2-mount-hierarchy-rw.crio.io', 'io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw'],
  ['cpu-c-states.crio.io', ''],
  ['cpu-freq-governor.crio.io', ''],
  ['cpu-load-balancing.crio.io', ''],
  ['cpu-quota.crio.io', ''],
  ['cpu-shared.crio.io', ''],
  ['devices.crio.io', 'io.kubernetes.cri-o.Devices'],
  ['disable-fips.crio.io', 'io.kubernetes.cri-o.DisableFIPS'],
  ['irq-load-balancing.crio.io', ''],
  ['link-logs.crio.io', 'io.kubernetes.cri-o.LinkLogs'],
  ['platform-runtime-path.crio.io', 'io.kubernetes.cri-o.PlatformRuntimePath'],
  ['pod-linux-overhead.crio.io', 'io.kubernetes.cri-o.PodLinuxOverhead'],
  ['pod-linux-resources.crio.io', 'io.kubernetes.cri-o.PodLinuxResources'],
  ['seccomp-notifier-action.crio.io', 'io.kubernetes.cri-o.seccompNotifierAction'],
  ['seccomp-profile.crio.io', 'seccomp-profile.kubernetes.cri-o.io'],
  ['shm-size.crio.io', 'io.kubernetes.cri-o.ShmSize'],
  ['spoofed.crio.io', 'io.kubernetes.cri-o.Spoofed'],
  ['try-skip-volume-selinux-label.crio.io', 'io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel'],
  ['umask.crio.io', 'io.kubernetes.cri-o.umask'],
  ['unified-cgroup.crio.io', 'io.kubernetes.cri-o.UnifiedCgroup'],
  ['userns-mode.crio.io', 'io.kubernetes.cri-o.userns-mode'],
]);
const PRESENT_NAMES: ReadonlyMap<string, string> = new Map(
  [...FIRST_NAMES].filter(([, first]) => first !== '').map(([present, first]) => [first, present]),
);

/** Those that change nothing here, with the reason and what to do. */
const WITHOUT_EFFECT: ReadonlyMap<string, string> = new Map([
  ['platform-runtime-path.crio.io', 'a handler has one runtime_path; make a handler for each'],
  ['pod-linux-overhead.crio.io', 'it is for runtimes of type "vm"'],
  ['pod-linux-resources.crio.io', 'it is for runtimes of type "vm"'],
  ['spoofed.crio.io', 'no container is pretended'],
  ['org.opencontainers.image.stopSignal', 'the stop signal is that of the pod, else of the image'],
  ['io.kubernetes.cri.rdt-class', 'there are no such classes, and a container that names one is refused'],
]);

/**
 * The annotations that take effect and go into the OCI spec, where runtimes act on them (`run.oci.*`,
 * `org.systemd.property.*`, `dev.gvisor.*`): only those that the handler allows, by exact key, by
 * `key/<container name>`, or by a trailing `*` or `.` in the list (CVE-2024-3154, CVE-2023-6476: never by bare prefix).
 * A container's own win over its pod's.
 */
export function passed(
  pod: Readonly<Record<string, string>>,
  container: Readonly<Record<string, string>>,
  containerName: string,
  allowed: readonly string[],
): ReadonlyMap<string, string> {
  const list = listOf(allowed);
  return together(pod, container, containerName, (key) => allows(list, key, containerName));
}

/** Asks the seccomp BPF hook for the system calls of a pod, or behind a slash of one container. */
const TRACE = 'io.containers.trace-syscall';
/** What runtimes and that hook act on; what ends with a dot is a beginning. */
const ACTED_ON = [
  TRACE,
  'bundle',
  'io.kubernetes.cri.container-type',
  'io.kubernetes.cri.rdt-class',
  'module.wasm.image/variant',
  'org.criu.config',
  'org.systemd.property.',
  'run.oci.',
];

/**
 * The annotations by which OCI hooks choose their containers: all of them, but for those with an effect that the
 * handler does not allow. A container's own win over its pod's.
 */
export function seenByHooks(
  pod: Readonly<Record<string, string>>,
  container: Readonly<Record<string, string>>,
  containerName: string,
  allowed: readonly string[],
): ReadonlyMap<string, string> {
  const list = listOf(allowed);
  return together(pod, container, containerName, (key) => !hasEffect(key) || allows(list, key, containerName));
}

function hasEffect(key: string): boolean {
  const name = presentName(key);
  const isActedOn = ACTED_ON.some((each) =>
    each.endsWith('.') ? key.startsWith(each) : key === each || key.startsWith(`${each}/`),
  );
  return isActedOn || FIRST_NAMES.has(splitAt(name, name.indexOf('/'))[0]);
}

/** Those that may stay; the trace of this container under the name by which the hook looks for it, as CRI-O has it. */
function together(
  pod: Readonly<Record<string, string>>,
  container: Readonly<Record<string, string>>,
  containerName: string,
  stays: (key: string) => boolean,
): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const annotations of [pod, container])
    for (const [key, value] of Object.entries(annotations)) if (stays(key)) found.set(key, value);
  const own = found.get(`${TRACE}/${containerName}`);
  if (own !== undefined) found.set(TRACE, own).delete(`${TRACE}/${containerName}`);
  return found;
}

/** A list of allowed annotations, made once for the thousands that a pod may have. */
interface AllowedList {
  readonly names: ReadonlySet<string>;
  readonly beginnings: readonly string[];
}

function listOf(allowed: readonly string[]): AllowedList {
  return {
    names: new Set(allowed.map(presentName)),
    // `run.oci.` and `org.systemd.property.` are how crio.conf writes it.
    beginnings: allowed
      .filter((entry) => entry.endsWith('.') || (entry.endsWith('*') && entry.length > 1))
      .map((entry) => entry.replace(/\*$/, '')),
  };
}

function allows({ names, beginnings }: AllowedList, key: string, containerName: string): boolean {
  const asked = presentName(key);
  if (names.has(asked)) return true;
  if (beginnings.some((beginning) => key.startsWith(beginning))) return true;
  const own = `/${containerName}`;
  return containerName !== '' && asked.endsWith(own) && names.has(asked.slice(0, -own.length));
}

/** Its present name, with what follows it: the name of a container, which CRI-O first had behind a dot. */
function presentName(key: string): string {
  // Nearly all are somebody else's.
  if (!key.includes('crio') && !key.includes('cri-o')) return key;
  const first = /^(io\.kubernetes\.cri-o\.UnifiedCgroup|unified-cgroup\.crio\.io)\.(?=.)/.exec(key)?.[1];
  const [base, rest] =
    first !== undefined ? [first, `/${key.slice(first.length + 1)}`] : splitAt(key, key.indexOf('/'));
  return `${PRESENT_NAMES.get(base) ?? base}${rest}`;
}

function splitAt(text: string, index: number): readonly [string, string] {
  return index < 0 ? [text, ''] : [text.slice(0, index), text.slice(index)];
}

/** The annotations of CRI-O's that `annotations` has and `allowed` has not, as they are written there. */
export function forbidden(
  annotations: Readonly<Record<string, string>>,
  allowed: readonly string[],
): readonly string[] {
  const list = listOf(allowed);
  return Object.keys(annotations).filter((key) => {
    const name = presentName(key);
    const [base] = splitAt(name, name.indexOf('/'));
    return FIRST_NAMES.has(base) && !allows(list, key, '') && !allows(list, base, '');
  });
}

/** A sentence on each of `allowed` that changes nothing here. */
export function ineffective(allowed: readonly string[]): readonly string[] {
  return allowed.flatMap((entry) => {
    const why = WITHOUT_EFFECT.get(presentName(entry));
    return why === undefined ? [] : [`${entry}: ${why}`];
  });
}

const SECCOMP = 'seccomp-profile.crio.io';
const NOTIFIER = 'seccomp-notifier-action.crio.io';

/**
 * The OCI artifact with the seccomp profile of a container, by the annotations of its pod and of its image: of the pod
 * for this container, else for all of them, else of the image (CRI-O: internal/config/seccomp/seccompociartifact).
 * @throws InvalidArgument for one of the pod that is not allowed: the container would run under no profile. An image's
 * is forgotten then.
 */
export function seccompArtifact(
  pod: Readonly<Record<string, string>>,
  image: Readonly<Record<string, string>>,
  allowed: readonly string[],
  containerName: string,
): { readonly annotation: string; readonly reference: string } | undefined {
  const list = listOf(allowed);
  const mayUse = (key: string): boolean => allows(list, key, containerName) || allows(list, key, 'POD');
  for (const wanted of [`${SECCOMP}/${containerName}`, `${SECCOMP}/POD`]) {
    const annotation = keyCalled(pod, wanted);
    if (annotation === undefined) continue;
    if (mayUse(annotation)) return { annotation, reference: pod[annotation] ?? '' };
    throw invalid(
      `annotation ${annotation} names a seccomp profile, which the allowed_annotations of the pod's runtime handler ` +
        'do not allow, and the container would run without one; have it allowed, or remove the annotation',
    );
  }
  for (const wanted of [SECCOMP, `${SECCOMP}/${containerName}`, `${SECCOMP}/POD`]) {
    const annotation = keyCalled(image, wanted);
    if (annotation !== undefined && mayUse(annotation)) return { annotation, reference: image[annotation] ?? '' };
  }
  return undefined;
}

/** The key with that present name; one that is written so comes first. */
function keyCalled(all: Readonly<Record<string, string>>, wanted: string): string | undefined {
  return Object.hasOwn(all, wanted) ? wanted : Object.keys(all).find((key) => presentName(key) === wanted);
}

/**
 * Reads annotations that `passed` let through, for one container ('' = its pod). `allowedDevices` is the
 * configuration's list of host paths.
 * @throws InvalidArgument for a value that cannot be read, or a device that is not allowed.
 */
export function settings(
  passed: ReadonlyMap<string, string>,
  allowedDevices: readonly string[],
  containerName = '',
): AnnotationSettings {
  const byName = new Map<string, string>();
  for (const [key, value] of passed)
    if (presentName(key) === key || !passed.has(presentName(key))) byName.set(presentName(key), value);
  const own = (name: string): string | undefined => byName.get(`${name}/${containerName}`) ?? byName.get(name);
  const umask = byName.get('umask.crio.io');
  const shmSize = byName.get('shm-size.crio.io');
  const devices = byName.get('devices.crio.io') ?? '';
  return {
    umask: umask === undefined ? undefined : parseUmask(umask),
    cgroupAccess: byName.get('cgroup2-mount-hierarchy-rw.crio.io') === 'true' ? 'rw' : 'ro',
    shmBytes: shmSize === undefined ? undefined : parseSize(shmSize),
    devices: devices.trim() === '' ? [] : parseDevices(devices, allowedDevices),
    usernsMode: byName.get('userns-mode.crio.io'),
    unified: parseUnified(byName.get(`unified-cgroup.crio.io/${containerName}`) ?? ''),
    cpus: cpuWishes(own),
    linkLogs: parseVolumeName(byName.get('link-logs.crio.io')),
    relabel: byName.get('try-skip-volume-selinux-label.crio.io') === 'true' ? 'unless labelled' : 'always',
    blockedCalls: blockedCallsOf(byName.get(NOTIFIER)),
    fips: byName.get('disable-fips.crio.io') === 'true' ? 'hidden' : 'shown',
  };
}

/** As CRI-O: it is enough to be there, and `stop` is the one word that does more. */
function blockedCallsOf(action: string | undefined): AnnotationSettings['blockedCalls'] {
  if (action === undefined) return 'untold';
  return action === 'stop' ? 'stop' : 'told';
}

/** Whether blocked calls of a container may be told of, whoever allowed it: its runtime asks for us at each exec. */
export function mayTellBlockedCalls(...all: readonly Readonly<Record<string, string>>[]): boolean {
  return all.some((each) => keyCalled(each, NOTIFIER) !== undefined);
}

/** `file=value;…`, values in base64 or, if they are none, as they are (CRI-O: internal/factory/container). */
function parseUnified(text: string): Readonly<Record<string, string>> {
  const found: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const entry of text.split(';', limits.unifiedEntriesCount + 1).filter((each) => each !== '')) {
    const equals = entry.indexOf('=');
    if (equals <= 0) throw invalid(`unified-cgroup: ${quote(entry)} is not file=value, with ";" between them`);
    const value = entry.slice(equals + 1);
    const isBase64 = value.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(value);
    found[entry.slice(0, equals)] = isBase64 ? Buffer.from(value, 'base64').toString() : value;
  }
  return found;
}

/** The name of a volume, as Kubernetes has them (RFC 1123): it becomes part of a path (CVE-2025-0750). */
function parseVolumeName(text: string | undefined): string | undefined {
  if (text !== undefined && !/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(text))
    throw invalid(`link-logs ${quote(text)}: empty dir vol name is invalid`);
  return text;
}

/** Resources with files of the cgroup that an annotation sets, over those that are asked for. */
export function withUnified(
  resources: LinuxContainerResources | undefined,
  unified: AnnotationSettings['unified'],
): LinuxContainerResources | undefined {
  if (Object.keys(unified).length === 0) return resources;
  const before = resources ?? NO_RESOURCES;
  return { ...before, unified: { ...before.unified, ...unified } };
}

function parseUmask(text: string): number {
  if (!/^0{0,3}[0-7]{1,3}$/.test(text)) throw invalid(`umask ${quote(text)} is not an octal number up to 0777`);
  return Number.parseInt(text, 8);
}

const UNITS: ReadonlyMap<string, bigint> = new Map([
  ['', 1n],
  ['k', 1_000n],
  ['M', 1_000_000n],
  ['G', 1_000_000_000n],
  ['T', 1_000_000_000_000n],
  ['Ki', 1n << 10n],
  ['Mi', 1n << 20n],
  ['Gi', 1n << 30n],
  ['Ti', 1n << 40n],
]);

/** A Kubernetes quantity of bytes without fraction. */
function parseSize(text: string): bigint {
  const [, digits = '', unit = ''] = /^(\d{1,12})([A-Za-z]{0,2})$/.exec(text) ?? [];
  const factor = UNITS.get(unit);
  if (digits === '' || factor === undefined || BigInt(digits) === 0n)
    throw invalid(`shm-size ${quote(text)} is not a size; want one such as 128Mi`);
  return BigInt(digits) * factor;
}

function parseDevices(text: string, allowed: readonly string[]): readonly DeviceRequest[] {
  const entries = text.split(',', limits.annotationDevicesCount + 1);
  if (entries.length > limits.annotationDevicesCount)
    throw invalid(`devices annotation: more than ${limits.annotationDevicesCount} devices`);
  return entries.map((entry) => {
    const request = parseDevice(entry);
    if (!allowed.includes(request.hostPath))
      throw invalid(
        `device ${quote(request.hostPath)} is not in allowed_devices; ask the administrator to add ` +
          'it to the configuration',
      );
    return request;
  });
}

function invalid(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}
