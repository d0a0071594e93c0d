/**
 * `[crio.runtime.workloads.<name>]`: pods that an annotation marks get other CPU shares and sets, and may use more
 * annotations. PURE.
 */
import type { Workload } from '../ports/spec.ts';
import { BadValue, kindOf, type Kind, type Remark, string, text, texts } from './kinds.ts';

const KEYS = ['activation_annotation', 'annotation_prefix', 'allowed_annotations', 'resources'];
const RESOURCE_KEYS = ['cpushares', 'cpuquota', 'cpuperiod', 'cpuset', 'cpulimit'];

type TomlTable = Readonly<Record<string, unknown>>;

/** The workloads by name, in the order of the file. A name that is "" is no workload. */
export const workloads: Kind<readonly Workload[]> = {
  argument: 'value',
  parse: (raw, remark) =>
    Object.entries(tableOf(raw, 'a table of workloads'))
      .filter(([, table]) => table !== '')
      .map(([name, table]) => workload(name, tableOf(table, `a table under ${name}`), remark)),
  fromText: () => {
    throw new BadValue('can be set in a file only');
  },
  show: (value) => (value.length === 0 ? '{}' : `{ ${value.map(shown).join(', ')} }`),
  combine: (earlier, later) => ({ ...tableOf(earlier, 'a table'), ...tableOf(later, 'a table') }),
};

function workload(name: string, given: TomlTable, remark: Remark | undefined): Workload {
  const table = known(name, given, KEYS, remark);
  const activationAnnotation = stringIn(table, 'activation_annotation');
  if (activationAnnotation === '')
    throw new BadValue(`needs an activation_annotation in ${name}: without one no pod has this workload`);
  const inner = table['resources'] || {};
  const resources = known(
    `${name}.resources`,
    tableOf(inner, `a table under ${name}.resources`),
    RESOURCE_KEYS,
    remark,
  );
  const number = (key: string): bigint => wholeNumber(`${name}.resources.${key}`, resources[key]);
  const cpuset = stringIn(resources, 'cpuset');
  if (!/^(\d+(-\d+)?(,\d+(-\d+)?)*)?$/.test(cpuset))
    throw new BadValue(`wants a list such as 0-3,7 in ${name}.resources.cpuset, got ${JSON.stringify(cpuset)}`);
  const [shares, quota, period] = [number('cpushares'), number('cpuquota'), number('cpuperiod')];
  // In the words of CRI-O, which does not start either (pkg/config/workloads.go).
  if (quota !== 0n && quota < shares)
    throw new BadValue(`has a workload ${name}: cpuquota ${quota} cannot be less than cpushares ${shares}`);
  if (period !== 0n && period < 1000n)
    throw new BadValue(`has a workload ${name}: cpuperiod ${period} cannot be less than 1000 microseconds`);
  return {
    name,
    activationAnnotation,
    annotationPrefix: stringIn(table, 'annotation_prefix'),
    allowedAnnotations: texts.parse(table['allowed_annotations'] || []),
    resources: {
      cpuShares: shares,
      cpuQuota: quota,
      cpuPeriod: period,
      cpuset,
      cpuLimit: number('cpulimit'),
    },
  };
}

/** '' if it is absent, as it is when it is "". */
function stringIn(table: TomlTable, key: string): string {
  return table[key] === undefined ? '' : string(table[key]);
}

/** A number, or one in quotes; absent and "" are 0. A quota may be below zero: no limit. */
function wholeNumber(key: string, raw: unknown): bigint {
  if (raw === undefined || raw === '') return 0n;
  const written = typeof raw === 'number' || typeof raw === 'bigint' || typeof raw === 'string' ? String(raw) : '?';
  const wanted = /quota$|limit$/.test(key) ? /^-?\d{1,18}$/ : /^\d{1,18}$/;
  if (!wanted.test(written)) throw new BadValue(`wants a whole number in ${key}, got ${kindOf(raw)}`);
  return BigInt(written);
}

/** The table with its keys as they are written here; CRI-O's decoder takes them in any case, and ignores others. */
function known(where: string, table: TomlTable, keys: readonly string[], remark: Remark | undefined): TomlTable {
  const found: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(table)) {
    const name = keys.find((each) => each === key) ?? keys.find((each) => each === key.toLowerCase());
    if (name === undefined) remark?.(`has the unknown key ${key} in ${where}, ignoring; there are ${keys.join(', ')}`);
    else if (name === key || table[name] === undefined) found[name] = value;
  }
  return found;
}

function tableOf(raw: unknown, wanted: string): TomlTable {
  if (typeof raw !== 'object' || raw === null || Array.isArray(raw) || raw instanceof Date)
    throw new BadValue(`wants ${wanted}, got ${kindOf(raw)}`);
  return raw as TomlTable;
}

function shown({ name, activationAnnotation, annotationPrefix, allowedAnnotations, resources }: Workload): string {
  const { cpuShares, cpuQuota, cpuPeriod, cpuset, cpuLimit } = resources;
  const inner =
    `{ cpushares = ${cpuShares}, cpuquota = ${cpuQuota}, cpuperiod = ${cpuPeriod}, cpuset = ` +
    `${JSON.stringify(cpuset)}, cpulimit = ${cpuLimit} }`;
  const parts = [
    `activation_annotation = ${JSON.stringify(activationAnnotation)}`,
    `annotation_prefix = ${JSON.stringify(annotationPrefix)}`,
    `allowed_annotations = ${texts.show(allowedAnnotations)}`,
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
};
