/**
 * For tests of formats that other programs write: what `""`, `null` and absence mean, for every key of a format.
 *
 *     describeEmptiness({
 *       name: 'registries.conf',
 *       notation: 'toml',
 *       samples: [{ 'short-name-mode': 'enforcing', registry: [{ prefix: 'a.example', blocked: true }] }],
 *       read: (document) => parseRegistries(stringify(document), 'test'),
 *       names: ['aliases'],
 *       keys: {
 *         'short-name-mode': 'unset',
 *         registry: 'unset',
 *         'registry[].prefix': 'needed',
 *         'registry[].blocked': { absent: 'unset', empty: 'refused', why: 'a block must not get lost by a typo' },
 *       },
 *     });
 *
 * The samples set every key to something else than its default. Each key that they have must be in `keys` and the
 * reverse, so a key that is added to a format is tested or the test fails. Keys are also fed in another case, which
 * must change nothing.
 */
import { expect } from 'chai';
import { RuntimeError } from './errors.ts';
import { isObject } from './go.ts';
import type { PlainObject } from './go.ts';

/**
 * What comes of one form of a key: `unset` is the default, the same for every form and not what the sample has;
 * `refused` is a RuntimeError; `own` is read, and means something else than the default.
 */
export type Meaning = 'unset' | 'refused' | 'own';

/**
 * `unset`: all three forms give the default. `needed`: all three are refused. `ignored`: neither they nor the sample's
 * value make a difference. Else each form by itself, with the reason; `null` means what `empty` does unless given.
 */
export type Rule =
  | 'unset'
  | 'needed'
  | 'ignored'
  | { readonly absent: Meaning; readonly empty: Meaning; readonly null?: Meaning; readonly why: string };

/** A format and what is promised about its keys. */
export interface ForeignFormat {
  readonly name: string;
  /** TOML cannot say null. */
  readonly notation: 'json' | 'yaml' | 'toml';
  /** Documents that are right; several where keys exclude each other. */
  readonly samples: readonly PlainObject[];
  /** Reads a document as the product does; what comes out is compared. @throws RuntimeError for a refusal. */
  read(document: PlainObject): unknown;
  /** Paths of objects whose members are named by people (`aliases`, `config.Labels`); in `keys` they are called `*`. */
  readonly names?: readonly string[];
  /** `exact`: the format's own readers want its names as they are, letter by letter. Default `any`. */
  readonly spelling?: 'any' | 'exact';
  /** By path: `registry[].mirror[].location`. */
  readonly keys: Readonly<Record<string, Rule>>;
}

/** Declares a test for each check of `emptinessOf`. */
export function describeEmptiness(format: ForeignFormat): void {
  describe(`"", null and absence in ${format.name}`, () => {
    for (const { name, run } of emptinessOf(format)) it(name, run);
  });
}

/** One promise about a format. `run` throws unless it is kept. */
export interface Check {
  readonly name: string;
  run(): Promise<void>;
}

/** One check that counts the keys, and for each key what its forms mean and that its case does not matter. */
export function emptinessOf(format: ForeignFormat): readonly Check[] {
  const places = format.samples.flatMap((sample) => [...placesIn(sample, format.names ?? [])]);
  const paths = new Set(places.map(({ path }) => path));
  const checks: Check[] = [
    {
      name: `${format.name}: ${paths.size} keys, each with a meaning`,
      run: async () => void expect([...paths].sort()).to.deep.equal(Object.keys(format.keys).sort()),
    },
  ];
  for (const place of places) {
    const rule = format.keys[place.path];
    if (rule === undefined) continue;
    checks.push({ name: `${place.path}: ${said(rule)}`, run: () => checkKey(format, place, rule) });
    if (format.spelling !== 'exact' && !place.path.endsWith('*'))
      checks.push({ name: `${place.path} in any case`, run: () => checkCase(format, place) });
  }
  return checks;
}

async function checkCase(format: ForeignFormat, place: Place): Promise<void> {
  const expected = await outcomeOf(format, place.sample);
  for (const spelled of [place.key.toUpperCase(), place.key.toLowerCase()])
    expect(await outcomeOf(format, renamed(place, spelled)), spelled).to.deep.equal(expected);
}

/** One key in one sample. */
interface Place {
  readonly sample: PlainObject;
  readonly path: string;
  readonly key: string;
  /** From the sample to the object that has the key. */
  readonly way: readonly (string | number)[];
}

function* placesIn(sample: PlainObject, names: readonly string[]): Generator<Place> {
  const seen = new Set<string>();
  yield* walk(sample, '', []);

  function* walk(value: unknown, path: string, way: readonly (string | number)[]): Generator<Place> {
    if (Array.isArray(value)) {
      for (const [index, each] of value.entries()) yield* walk(each, `${path}[]`, [...way, index]);
    } else if (isObject(value)) {
      for (const [key, inner] of Object.entries(value)) {
        const own = `${path === '' ? '' : `${path}.`}${names.includes(path) ? '*' : key}`;
        if (!seen.has(own)) yield { sample, path: own, key, way };
        seen.add(own);
        yield* walk(inner, own, [...way, key]);
      }
    }
  }
}

type Form = 'absent' | 'empty' | 'null';
type Outcome = { readonly value: unknown } | { readonly refused: true };

async function checkKey(format: ForeignFormat, place: Place, rule: Rule): Promise<void> {
  const whole = await outcomeOf(format, place.sample);
  expect(whole, 'the sample').to.have.property('value');
  const absent = await outcomeOf(format, changed(place, undefined));
  const forms: [Form, Outcome][] = [
    ['absent', absent],
    ['empty', await outcomeOf(format, changed(place, ''))],
  ];
  if (format.notation !== 'toml') forms.push(['null', await outcomeOf(format, changed(place, null))]);
  if (rule === 'ignored') {
    for (const [form, outcome] of forms) expect(outcome, form).to.deep.equal(whole);
    return;
  }
  for (const [form, outcome] of forms) {
    const meaning = meaningOf(rule, form);
    if (meaning === 'refused') expect(outcome, `${form}, refused`).to.have.property('refused');
    else expect(outcome, `${form}, read`).to.have.property('value');
    if (meaning === 'unset') {
      expect(outcome, `${form}, as if it were absent`).to.deep.equal(absent);
      expect(outcome, `${form}, another outcome than the sample's`).to.not.deep.equal(whole);
    }
    if (meaning === 'own' && form !== 'absent')
      expect(outcome, `${form}, a meaning of its own`).to.not.deep.equal(absent);
  }
}

function meaningOf(rule: Exclude<Rule, 'ignored'>, form: Form): Meaning {
  if (rule === 'unset') return 'unset';
  if (rule === 'needed') return 'refused';
  return form === 'null' ? (rule.null ?? rule.empty) : rule[form];
}

function said(rule: Rule): string {
  if (rule === 'unset') return 'not set by absence, "" or null';
  if (rule === 'needed') return 'needed, and "" or null are not it';
  if (rule === 'ignored') return 'of no effect';
  return `absent ${rule.absent}, "" ${rule.empty}, null ${rule.null ?? rule.empty}: ${rule.why}`;
}

async function outcomeOf(format: ForeignFormat, document: PlainObject): Promise<Outcome> {
  try {
    return { value: await format.read(document) };
  } catch (error) {
    if (error instanceof RuntimeError) return { refused: true };
    throw error;
  }
}

/** The sample with another value for the key; undefined = without the key. */
function changed({ sample, key, way }: Place, value: unknown): PlainObject {
  const copy = copied(sample);
  const owner = at(copy, way);
  if (value === undefined) delete owner[key];
  else owner[key] = value;
  return copy;
}

/** The sample with the key spelled otherwise, at the same place among its neighbours. */
function renamed({ sample, key, way }: Place, spelled: string): PlainObject {
  const copy = copied(sample);
  const owner = at(copy, way);
  for (const [each, value] of Object.entries(owner)) {
    delete owner[each];
    owner[each === key ? spelled : each] = value;
  }
  return copy;
}

/** A copy in which nothing is shared: in samples one part often stands in several places. */
function copied<T>(value: T): T {
  if (Array.isArray(value)) return value.map(copied) as T;
  if (!isObject(value) || value instanceof Date) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, copied(each)])) as T;
}

function at(root: unknown, way: readonly (string | number)[]): Record<string, unknown> {
  let here = root as Record<string | number, unknown>;
  for (const step of way) here = here[step] as Record<string | number, unknown>;
  return here as Record<string, unknown>;
}
