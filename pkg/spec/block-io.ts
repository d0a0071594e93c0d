/**
 * Classes of block I/O, in the format of `blockio_config_file` (goresctrl's, in YAML): what a class asks for devices,
 * which class a container is in, and what becomes of it in the spec. PURE.
 */
import { quote } from '../base/ids.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import type { BlockDevice, BlockIoClasses, BlockIoEntry } from '../ports/extensions.ts';

type BlockIo = NonNullable<LinuxResources['blockIO']>;
type Rate = keyof BlockIoEntry['rates'];

/** The weights that the kernel knows (Documentation/admin-guide/cgroup-v1/blkio-controller.rst). */
const WEIGHT = { min: 10n, max: 1000n };
const RATES: ReadonlyMap<string, Rate> = new Map([
  ['throttlereadbps', 'throttleReadBpsDevice'],
  ['throttlewritebps', 'throttleWriteBpsDevice'],
  ['throttlereadiops', 'throttleReadIOPSDevice'],
  ['throttlewriteiops', 'throttleWriteIOPSDevice'],
]);

/**
 * The class of a container by its annotations and its pod's: of block I/O, or of cache and memory bandwidth (RDT); '' =
 * none.
 */
export function classOf(
  what: 'blockio' | 'rdt',
  containerName: string,
  container: Readonly<Record<string, string>>,
  pod: Readonly<Record<string, string>>,
): string {
  const prefix = `${what}.resources.beta.kubernetes.io/`;
  return (
    container[`io.kubernetes.cri.${what}-class`] ??
    pod[`${prefix}container.${containerName}`] ??
    pod[`${prefix}pod`] ??
    ''
  );
}

/** The classes of a document, and a sentence on each value that cannot be used; what else a class says holds. */
export function parse(document: unknown): {
  readonly classes: BlockIoClasses;
  readonly complaints: readonly string[];
} {
  const complaints: string[] = [];
  const classes = new Map<string, readonly BlockIoEntry[]>();
  const found = fieldsOf(document).get('classes');
  if (found === undefined && fieldsOf(document).size > 0) complaints.push('there is no Classes in it');
  for (const [name, entries] of Object.entries(isObject(found) ? found : {}))
    classes.set(
      name,
      (Array.isArray(entries) ? entries : []).map((entry: unknown) =>
        entryOf(entry, (why) => void complaints.push(`class ${quote(name)}: ${why}`)),
      ),
    );
  return { classes, complaints };
}

/**
 * `linux.resources.blockIO` of a class; of two entries for one device the later wins. `devices` gives those that a
 * pattern means.
 */
export function toSpec(
  entries: readonly BlockIoEntry[],
  devices: (pattern: string) => readonly BlockDevice[],
): BlockIo {
  const found: BlockIo = {};
  for (const { devices: patterns, weight, rates } of entries) {
    if (patterns === undefined) {
      if (weight !== undefined) found.weight = Number(weight);
      continue;
    }
    for (const { major, minor } of patterns.flatMap(devices)) {
      const others = <T extends BlockDevice>(list: readonly T[] | undefined): T[] =>
        (list ?? []).filter((each) => each.major !== major || each.minor !== minor);
      if (weight !== undefined)
        found.weightDevice = [...others(found.weightDevice), { major, minor, weight: Number(weight) }];
      for (const [rate, value] of Object.entries(rates) as [Rate, bigint][])
        found[rate] = [...others(found[rate]), { major, minor, rate: value }];
    }
  }
  return found;
}

function entryOf(entry: unknown, complain: (why: string) => void): BlockIoEntry {
  const fields = fieldsOf(entry);
  const devices = fields.get('devices');
  const rates: Partial<Record<Rate, bigint>> = {};
  for (const [field, rate] of RATES) {
    const value = quantityOf(fields, field, { min: 0n }, complain);
    if (value === undefined) continue;
    if (devices === undefined) complain(`${field} without Devices has no effect`);
    rates[rate] = value;
  }
  return {
    devices: Array.isArray(devices) ? devices.filter((each) => typeof each === 'string') : undefined,
    weight: quantityOf(fields, 'weight', WEIGHT, complain),
    rates,
  };
}

const UNITS: ReadonlyMap<string, bigint> = new Map([
  ['', 1n],
  ...['k', 'M', 'G', 'T', 'P', 'E'].map((unit, at) => [unit, 1000n ** BigInt(at + 1)] as const),
  ...['Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'].map((unit, at) => [unit, 1024n ** BigInt(at + 1)] as const),
]);

/** A Kubernetes quantity without fraction. */
function quantityOf(
  fields: ReadonlyMap<string, unknown>,
  name: string,
  { min, max }: { readonly min: bigint; readonly max?: bigint },
  complain: (why: string) => void,
): bigint | undefined {
  const given = fields.get(name);
  if (given === undefined || given === null || given === '') return undefined;
  const text = typeof given === 'string' || typeof given === 'number' ? String(given) : '';
  const [, digits, unit = ''] = /^(\d{1,15})([A-Za-z]{0,2})$/.exec(text) ?? [];
  const factor = UNITS.get(unit);
  if (digits === undefined || factor === undefined) {
    complain(`${name} ${quote(text)} is not a number such as 100, 10k or 40Mi`);
    return undefined;
  }
  const value = BigInt(digits) * factor;
  if (value >= min && (max === undefined || value <= max)) return value;
  complain(`${name} ${value} is not between ${min} and ${max}`);
  return undefined;
}

/** Go's reader of such files knows a field however its letters are written. */
function fieldsOf(value: unknown): ReadonlyMap<string, unknown> {
  return new Map(isObject(value) ? Object.entries(value).map(([key, each]) => [key.toLowerCase(), each] as const) : []);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
