/** The rows of docs/CRIO.md, made of what CRI-O has and of what the sources say that Berth does with it. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { type Flag, flags } from '../../pkg/config/flags.ts';
import type { Ignored, Option, Table } from '../../pkg/config/option.ts';
import { handlerTable, ignoredTables, tables } from '../../pkg/config/schema.ts';
import { ANNOTATIONS, COMMANDS, METRICS, PATHS, type Said, VARIABLES } from './notes.ts';
import type { Ground } from './proofs.ts';
import { ineffective } from '../../pkg/spec/annotations.ts';
import {
  type CrioFlag,
  crioAnnotations,
  type CrioCommand,
  crioCommands,
  crioFlags,
  type CrioKey,
  crioKeys,
  crioMetrics,
  crioPaths,
  crioVariables,
} from './surface.ts';
import { GROUNDED, TESTS } from './tests.ts';

/** A row: what CRI-O has, and what is true of it here. */
export interface Row {
  readonly name: string;
  /** `effect`: it does something, so a test shows it. */
  readonly standing: 'effect' | 'none' | 'refused';
  readonly what: string;
  /** Titles of tests, or parts of them. */
  readonly tests: readonly string[];
  /** Why no test on a daemon is among them. */
  readonly ground?: Ground | undefined;
}

/** A part of the document. */
export interface Section {
  readonly title: string;
  readonly about: string;
  readonly rows: readonly Row[];
}

/** Everything, in the order of the document. `program` is our own command line. */
export function sectionsOf(root: string, program: Command): readonly Section[] {
  const sources = productSources(root);
  return [
    ...keySections(),
    { title: 'Flags and variables', about: FLAGS_ABOUT, rows: crioFlags.map(flagRow) },
    {
      title: 'Variables that are no flags',
      about: '',
      rows: crioVariables.map((name) => noted(name, VARIABLES[name], sources.includes(name))),
    },
    { title: 'Commands', about: COMMANDS_ABOUT, rows: crioCommands.map((each) => commandRow(each, program)) },
    {
      title: 'HTTP on the CRI socket',
      about: PATHS_ABOUT,
      rows: crioPaths.map((path) => noted(path, PATHS[path], shown(sources, path))),
    },
    {
      title: 'Annotations',
      about: ANNOTATIONS_ABOUT,
      rows: crioAnnotations.map(({ name, first }) =>
        noted(
          first === '' ? name : `${name}, ${first}`,
          ANNOTATIONS[name],
          sources.includes(`'${name}`) && ineffective([name]).length === 0,
        ),
      ),
    },
    {
      title: 'Metrics',
      about: METRICS_ABOUT,
      rows: crioMetrics.map((name) =>
        noted(`container_runtime_crio_${name}`, METRICS[name], new RegExp(`['_]${name}['\`]`).test(sources)),
      ),
    },
  ];
}

const FLAGS_ABOUT =
  'Each is taken in all the ways in which Go takes it: one dash or two, `--x=false`, lists with commas or repeated, ' +
  'durations. A variable counts where its flag is not given. Beside each there is `CONTAINER_` with the name of the ' +
  'flag. Unknown variables that begin so are a warning. Tests, one for each: "which is taken in all the ways that Go ' +
  'takes it".';
const COMMANDS_ABOUT = '`crio` is `berth` by another name, where the package is installed.';
const PATHS_ABOUT = 'At `listen` and at `crio_socket`, GET only.';
const ANNOTATIONS_ABOUT =
  'None has an effect unless the `allowed_annotations` of the handler, or of a workload, have it by name.';
const NAMED_ABOUT =
  'A table takes the place of the one of that name in an earlier file, whole, as with CRI-O; of a handler, what goes ' +
  'with it is a warning.';
/** Of workloads, what is not quite as CRI-O has it. */
const WORKLOADS: Readonly<Record<string, string>> = {
  'resources.cpulimit':
    'As CRI-O has it, and also where no annotation names the container, of which CRI-O takes the other keys only.',
  annotation_prefix:
    'As CRI-O has it; `<prefix>.<resource>/<container>`, of which CRI-O’s documents speak, is read, too.',
};
const METRICS_ABOUT = 'Of `enable_metrics`.';

/** All that is shipped, in one piece; the launcher is in what builds it. */
function productSources(root: string): string {
  return globSync(['{pkg,cri}/**/*.ts', 'scripts/build.ts'], { cwd: root })
    .filter((file) => !/\.test\.ts$|\/(fake|fakes|sim|conformance)[^/]*\.ts$/.test(file))
    .map((file) => readFileSync(join(root, file), 'utf8'))
    .join('\n');
}

/** Whether a page is shown: its path is in the sources, as text or as the beginning of a pattern. */
function shown(sources: string, path: string): boolean {
  const beginning = path.replace(/\{.*$/, '');
  return [`'${beginning}`, `^${beginning.replaceAll('/', '\\/')}`].some((each) => sources.includes(each));
}

function keySections(): Section[] {
  const names = [...new Set(crioKeys.map(({ table }) => table))];
  const isNamed = (name: string): boolean => name === handlerTable.name || name === 'crio.runtime.workloads';
  return names.map((name) => ({
    title: `[${name}${isNamed(name) ? '.NAME' : ''}]`,
    about: isNamed(name) ? NAMED_ABOUT : '',
    rows: crioKeys.filter(({ table }) => table === name).map(keyRow),
  }));
}

function keyRow({ table, key, usual }: CrioKey): Row {
  const name = `${table}.${key}`;
  if (table === 'crio.runtime.workloads') return effect(key, WORKLOADS[key] ?? 'As CRI-O has it.', name);
  // What a table is one value of.
  const parts = table.split('.');
  const whole = ignoredTables.get(parts.slice(0, -1).join('.'))?.get(parts.at(-1) ?? '');
  const found = tableOf(table);
  const option = Object.values<Option<unknown>>(found?.options ?? {}).find((each) => each.key === key);
  if (option !== undefined) return effect(key, `${textOf(option)}${otherDefault(name, option, usual)}`, name);
  const row = found?.ignored.get(key) ?? ignoredTables.get(table)?.get(key) ?? whole;
  if (row === undefined) throw new Error(`${name} is not in pkg/config/tables`);
  return ignoredRow(key, row);
}

function tableOf(name: string): Table | undefined {
  return [...Object.values<Table>(tables), handlerTable].find((each) => each.name === name);
}

/** What CRI-O takes from the node, or calls by another name: their texts say what they are where nobody sets them. */
const SAID_DEFAULTS = /\.(selinux|cgroup_manager|apparmor_profile)$|^crio\.runtime\.runtimes\./;

/** A sentence where a key that nobody sets is another here than with CRI-O. */
function otherDefault(name: string, { kind, fallback }: Option<unknown>, usual: unknown): string {
  if (usual === '' || SAID_DEFAULTS.test(name)) return '';
  const [ours, theirs] = [kind.show(fallback), kind.show(kind.parse(usual))];
  return ours === theirs ? '' : ` Where it is not set: \`${ours}\`, with CRI-O \`${theirs}\`.`;
}

function textOf({ doc, reload }: Option<unknown>): string {
  return reload === undefined ? doc : `${doc} Reloads on SIGHUP.`;
}

function ignoredRow(name: string, { why, answer }: Ignored): Row {
  return { name, standing: answer === 'refused' ? 'refused' : 'none', what: `${capital(why)}.`, tests: [] };
}

function effect(name: string, what: string, key: string): Row {
  return { name, standing: 'effect', what, tests: TESTS[key] ?? [], ground: GROUNDED[key] };
}

function flagRow({ name, aliases, variables }: CrioFlag): Row {
  const ours = flags.find((each) => each.name === name);
  if (ours === undefined) throw new Error(`--${name} is not in pkg/config/flags.ts`);
  const spelled = [name, ...aliases].map((each) => `--${each}`.replace(/^--(.)$/, '-$1')).join(', ');
  const what = flagText(ours);
  return {
    name: `${spelled}${variables.map((each) => ` ${each}`).join('')}`,
    standing: 'none',
    what: `${what}.`,
    tests: [],
  };
}

function flagText({ name, sets, description }: Flag): string {
  if (sets.kind === 'option') return `Sets \`${sets.name}\``;
  if (sets.kind === 'nothing')
    return sets.name.startsWith('--') ? capital(sets.ignored.why) : `As \`${sets.name}\`: ${sets.ignored.why}`;
  return name === 'runtimes' ? 'A handler, whole' : description.replace(/\.$/, '');
}

function commandRow({ name, aliases, flags: theirs }: CrioCommand, program: Command): Row {
  const words = name.split(' ');
  const last = words.pop() ?? '';
  const above = words.reduce<Command | undefined>((at, word) => commandCalled(at, word), program);
  const found = commandCalled(above, last);
  const own = new Set(found?.options.flatMap(({ short, long }) => [short, long]));
  const row = noted([name, ...aliases, ...theirs].join(', '), COMMANDS[name], found !== undefined);
  const missing = [
    ...aliases.filter((each) => commandCalled(above, each) !== found),
    ...theirs.filter((each) => !own.has(each)),
  ];
  if (found === undefined || missing.length === 0) return row;
  return { ...row, what: `${row.what} Not here: ${missing.join(', ')}.` };
}

function commandCalled(above: Command | undefined, word: string): Command | undefined {
  return above?.commands.find((each) => [each.name(), ...each.aliases()].includes(word));
}

/** @throws if nobody has written what is true of it. */
function noted(name: string, said: Said | undefined, isHere: boolean): Row {
  if (said === undefined) throw new Error(`say in scripts/crio/notes.ts what is true of ${name}`);
  if (isHere || said.away === undefined)
    return {
      name,
      standing: 'effect',
      what: said.here ?? 'As CRI-O has it.',
      tests: said.tests ?? [],
      ground: said.ground,
    };
  return { name, standing: 'none', what: said.away, tests: [] };
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
