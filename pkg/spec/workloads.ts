/**
 * Workloads: pods that an annotation marks have other CPU shares and sets than the kubelet asks for (crio.conf's
 * [crio.runtime.workloads]). PURE.
 *
 * The mark and the overrides are annotations of the pod, so whoever may set those may use what the workload allows:
 * that is the administrator's choice.
 */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { LinuxContainerResources } from '../cri-api/types.ts';
import { NO_RESOURCES } from './resources.ts';
import type { Workload, WorkloadResources } from '../ports/spec.ts';
import { isObject, isUnset, spelledAs } from '../base/go.ts';
import { parseJson } from '../base/json.ts';

/** What the kernel gives a cgroup that names no period, in microseconds. */
const DEFAULT_PERIOD_US = 100_000n;
/** The least quota that the kernel takes, and CRI-O makes of a limit. */
const LEAST_QUOTA_US = 1_000n;
const CPUS = /^\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*$/;
const FIELDS: ReadonlyMap<string, keyof WorkloadResources> = new Map([
  ['cpushares', 'cpuShares'],
  ['cpuquota', 'cpuQuota'],
  ['cpuperiod', 'cpuPeriod'],
  ['cpuset', 'cpuset'],
  ['cpulimit', 'cpuLimit'],
]);

/** The workload of a pod: the first whose annotation it has, with any value. */
export function workloadOf(
  workloads: readonly Workload[],
  podAnnotations: Readonly<Record<string, string>>,
): Workload | undefined {
  return workloads.find(({ activationAnnotation }) => Object.hasOwn(podAnnotations, activationAnnotation));
}

/**
 * The resources of a container: what the kubelet asks for, over it those of the pod's workload, if it has one, over
 * that what the pod's annotations say for this container. @throws InvalidArgument for an annotation that cannot be
 * read.
 */
export function workloadResources(
  asked: LinuxContainerResources | undefined,
  workloads: readonly Workload[],
  podAnnotations: Readonly<Record<string, string>>,
  containerName: string,
): LinuxContainerResources | undefined {
  const workload = workloadOf(workloads, podAnnotations);
  if (workload === undefined) return asked;
  const { cpuShares, cpuQuota, cpuPeriod, cpuset, cpuLimit } = overridden(workload, podAnnotations, containerName);
  const before = asked ?? NO_RESOURCES;
  const period = cpuPeriod || before.cpuPeriod;
  const wanted = (cpuLimit * (period || DEFAULT_PERIOD_US)) / 1000n;
  const limited = cpuLimit <= 0n ? 0n : wanted < LEAST_QUOTA_US ? LEAST_QUOTA_US : wanted;
  const after = {
    ...before,
    cpuShares: cpuShares || before.cpuShares,
    cpuPeriod: period || (limited > 0n ? DEFAULT_PERIOD_US : 0n),
    cpuQuota: limited || cpuQuota || before.cpuQuota,
    cpusetCpus: cpuset || before.cpusetCpus,
  };
  return asked === undefined &&
    Object.entries(after).every(([key, value]) => value === NO_RESOURCES[key as keyof LinuxContainerResources])
    ? undefined
    : after;
}

function overridden(
  { annotationPrefix, resources }: Workload,
  annotations: Readonly<Record<string, string>>,
  containerName: string,
): WorkloadResources {
  if (annotationPrefix === '' || containerName === '') return resources;
  let result = resources;
  const whole = ownValue(annotations, `${annotationPrefix}/${containerName}`);
  if (whole !== undefined)
    for (const [key, value] of Object.entries(spelledAs(parseTable(annotationPrefix, whole), [...FIELDS.keys()])))
      result = withField(result, annotationPrefix, key, value);
  for (const key of FIELDS.keys()) {
    const one = ownValue(annotations, `${annotationPrefix}.${key}/${containerName}`);
    if (one !== undefined) result = withField(result, annotationPrefix, key, one);
  }
  return result;
}

function ownValue(annotations: Readonly<Record<string, string>>, key: string): string | undefined {
  return Object.hasOwn(annotations, key) ? annotations[key] : undefined;
}

function parseTable(prefix: string, text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = parseJson(text);
    if (isObject(value)) return value;
  } catch {
    // Said below.
  }
  throw invalid(`annotation ${quote(prefix)}/…: ${quote(text)} is not an object such as {"cpushares": 200}`);
}

/** Keys that are not resources are somebody else's. */
function withField(resources: WorkloadResources, prefix: string, key: string, raw: unknown): WorkloadResources {
  const field = FIELDS.get(key);
  if (field === undefined || isUnset(raw)) return resources;
  const text = typeof raw === 'number' ? String(raw) : raw;
  const good = field === 'cpuset' ? CPUS : field === 'cpuQuota' ? /^-?\d{1,18}$/ : /^\d{1,18}$/;
  if (typeof text !== 'string' || !good.test(text))
    throw invalid(
      `annotation ${quote(prefix)}: ${key} cannot be ${quote(JSON.stringify(raw))}; want ` +
        `${field === 'cpuset' ? 'a list of CPUs such as 0-3,7' : 'a whole number'}`,
    );
  if (text === '0' && field !== 'cpuset') return resources;
  return { ...resources, [field]: field === 'cpuset' ? text : BigInt(text) };
}

function invalid(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}
