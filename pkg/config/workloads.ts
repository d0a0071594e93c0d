/**
 * `[crio.runtime.workloads.<name>]`: pods that an annotation marks get other CPU shares and sets, and may use more
 * annotations. PURE.
 */
import type { Workload } from '../ports/spec.ts';
import { BadValue, kindOf, type Kind, list, text } from './kinds.ts';

const KEYS = ['activation_annotation', 'annotation_prefix', 'allowed_annotations', 'resources'];
const RESOURCE_KEYS = ['cpushares', 'cpuquota', 'cpuperiod', 'cpuset', 'cpulimit'];

export const workloads: Kind<readonly Workload[]> = {
  argument: 'value',
  parse: (raw) =>
    Object.entries(tableOf(raw, 'a table of workloads')).map(([name, table]) =>
      workload(name, tableOf(table, `a table under ${name}`)),
    ),
  fromText: () => {
    throw new BadValue('can be set in a file only');
  },
  show: (value) => (value.length === 0 ? '{}' : `{ ${value.map(shown).join(', ')} }`),
  combine: (earlier, later) => ({ ...tableOf(earlier, 'a table'), ...tableOf(later, 'a table') }),
};

function workload(name: string, table: Readonly<Record<string, unknown>>): Workload {
  onlyKeys(name, table, KEYS);
  const activationAnnotation = text.parse(table['activation_annotation'] ?? '');
  if (activationAnnotation === '')
    throw new BadValue(`needs an activation_annotation in ${name}: without one no pod has this workload`);
  const resources = tableOf(table['resources'] ?? {}, `a table under ${name}.resources`);
  onlyKeys(`${name}.resources`, resources, RESOURCE_KEYS);
  const number = (key: string): bigint => wholeNumber(`${name}.resources.${key}`, resources[key] ?? 0);
  const cpuset = text.parse(resources['cpuset'] ?? '');
  if (!/^(\d+(-\d+)?(,\d+(-\d+)?)*)?$/.test(cpuset))
    throw new BadValue(`wants a list such as 0-3,7 in ${name}.resources.cpuset, got ${JSON.stringify(cpuset)}`);
  return {
    name,
    activationAnnotation,
    annotationPrefix: text.parse(table['annotation_prefix'] ?? ''),
    allowedAnnotations: list(text).parse(table['allowed_annotations'] ?? []),
    resources: {
      cpuShares: number('cpushares'),
      cpuQuota: number('cpuquota'),
      cpuPeriod: number('cpuperiod'),
      cpuset,
      cpuLimit: number('cpulimit'),
    },
  };
}

/** A number, or one in quotes. */
function wholeNumber(key: string, raw: unknown): bigint {
  const written =
    typeof raw === 'number' || typeof raw === 'bigint'
      ? String(raw)
      : typeof raw === 'string' && raw !== ''
        ? raw
        : raw === ''
          ? '0'
          : '?';
  if (!/^\d{1,18}$/.test(written)) throw new BadValue(`wants a whole number in ${key}, got ${kindOf(raw)}`);
  return BigInt(written);
}

function onlyKeys(where: string, table: Readonly<Record<string, unknown>>, keys: readonly string[]): void {
  const odd = Object.keys(table).find((key) => !keys.includes(key));
  if (odd !== undefined) throw new BadValue(`has the unknown key ${odd} in ${where}; there are ${keys.join(', ')}`);
}

function tableOf(raw: unknown, wanted: string): Readonly<Record<string, unknown>> {
  if (typeof raw !== 'object' || raw === null || Array.isArray(raw) || raw instanceof Date)
    throw new BadValue(`wants ${wanted}, got ${kindOf(raw)}`);
  return raw as Readonly<Record<string, unknown>>;
}

function shown({ name, activationAnnotation, annotationPrefix, allowedAnnotations, resources }: Workload): string {
  const { cpuShares, cpuQuota, cpuPeriod, cpuset, cpuLimit } = resources;
  const inner =
    `{ cpushares = ${cpuShares}, cpuquota = ${cpuQuota}, cpuperiod = ${cpuPeriod}, cpuset = ` +
    `${JSON.stringify(cpuset)}, cpulimit = ${cpuLimit} }`;
  const parts = [
    `activation_annotation = ${JSON.stringify(activationAnnotation)}`,
    `annotation_prefix = ${JSON.stringify(annotationPrefix)}`,
    `allowed_annotations = ${list(text).show(allowedAnnotations)}`,
    `resources = ${inner}`,
  ];
  return `${JSON.stringify(name)} = { ${parts.join(', ')} }`;
}

/** A table of strings, such as annotations. */
export const stringTable: Kind<ReadonlyMap<string, string>> = {
  argument: 'value',
  parse: (raw) =>
    new Map(Object.entries(tableOf(raw, 'a table of strings')).map(([key, value]) => [key, text.parse(value)])),
  fromText: () => {
    throw new BadValue('can be set in a file only');
  },
  show: (value) =>
    value.size === 0
      ? '{}'
      : `{ ${[...value].map(([key, each]) => `${JSON.stringify(key)} = ${JSON.stringify(each)}`).join(', ')} }`,
  combine: (earlier, later) => ({ ...tableOf(earlier, 'a table'), ...tableOf(later, 'a table') }),
};
