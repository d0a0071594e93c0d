/**
 * Annotations that change a container: which of them may, and what they say. PURE.
 *
 * Anybody who may create a pod writes annotations, so none has an effect unless the runtime handler allows it by name.
 */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { parseDevice } from './resources.ts';
import type { AnnotationSettings, DeviceRequest } from '../ports/spec.ts';

/** CRI-O's first names of annotations, which it still accepts, and its present ones. */
const PRESENT_NAMES: ReadonlyMap<string, string> = new Map([
  ['io.kubernetes.cri-o.umask', 'umask.crio.io'],
  ['io.kubernetes.cri-o.ShmSize', 'shm-size.crio.io'],
  ['io.kubernetes.cri-o.Devices', 'devices.crio.io'],
  ['io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw', 'cgroup2-mount-hierarchy-rw.crio.io'],
]);

/**
 * The annotations that take effect and go into the OCI spec, where runtimes act on them (`run.oci.*`,
 * `org.systemd.property.*`, `dev.gvisor.*`): only those that the handler allows, by exact key, by
 * `key/<container name>`, or by a trailing `*` in the list (CVE-2024-3154, CVE-2023-6476: never by bare prefix). A
 * container's own win over its pod's.
 */
export function passedAnnotations(
  pod: Readonly<Record<string, string>>,
  container: Readonly<Record<string, string>>,
  containerName: string,
  allowed: readonly string[],
): ReadonlyMap<string, string> {
  const passed = new Map<string, string>();
  for (const annotations of [pod, container]) {
    for (const [key, value] of Object.entries(annotations))
      if (allowed.some((entry) => allows(entry, key, containerName))) passed.set(key, value);
  }
  return passed;
}

function allows(entry: string, key: string, containerName: string): boolean {
  if (presentName(entry) === presentName(key)) return true;
  if (entry.endsWith('*')) return entry.length > 1 && key.startsWith(entry.slice(0, -1));
  return containerName !== '' && key === `${entry}/${containerName}`;
}

function presentName(key: string): string {
  return PRESENT_NAMES.get(key) ?? key;
}

/**
 * Reads annotations that `passedAnnotations` let through. `allowedDevices` is the configuration's list of host paths.
 * @throws InvalidArgument for a value that cannot be read, or a device that is not allowed.
 */
export function annotationSettings(
  passed: ReadonlyMap<string, string>,
  allowedDevices: readonly string[],
): AnnotationSettings {
  const byName = new Map<string, string>();
  for (const [key, value] of passed)
    if (presentName(key) === key || !passed.has(presentName(key))) byName.set(presentName(key), value);
  const umask = byName.get('umask.crio.io');
  const shmSize = byName.get('shm-size.crio.io');
  const devices = byName.get('devices.crio.io') ?? '';
  return {
    umask: umask === undefined ? undefined : parseUmask(umask),
    cgroupAccess: byName.get('cgroup2-mount-hierarchy-rw.crio.io') === 'true' ? 'rw' : 'ro',
    shmBytes: shmSize === undefined ? undefined : parseSize(shmSize),
    devices: devices.trim() === '' ? [] : parseDevices(devices, allowedDevices),
  };
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
