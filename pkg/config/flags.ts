/**
 * Flags and environment variables: one per option, with CRI-O's names, and those that CRI-O has and Berth does nothing
 * with, so that a unit file written for crio starts Berth, too. PURE.
 */
import { flag, type Kind, text, texts } from './kinds.ts';
import { type Ignored, ignored, merge, type Option, row } from './option.ts';
import type { FlagValues } from './types.ts';
import { everyOption, ignoredTables, tables } from './schema.ts';

/** A command-line flag of the daemon. */
export interface Flag {
  /** `log-level` */
  readonly name: string;
  /** One letter, or ''. */
  readonly short: string;
  /** `list` may be given many times and takes commas. */
  readonly argument: 'none' | 'value' | 'list';
  readonly description: string;
  /**
   * `-l, --log-level <value>`, as commander reads it. Lists want a collecting parser: commander's own `<value...>`
   * would eat the subcommand. Switches take a word behind `=`, as in Go: `--drop-infra-ctr=false`; see `argumentsOf`.
   */
  readonly syntax: string;
  /** The key in `opts()`: `logLevel`. */
  readonly attribute: string;
  /** The same by environment: `CONTAINER_LOG_LEVEL`, then CRI-O's other spellings. The first that is not "" counts. */
  readonly variables: readonly string[];
  /** Shown by --help: it does something. */
  readonly shown: boolean;
  /** What it sets. */
  readonly sets: FlagTarget;
}

/** What a flag is for. */
export type FlagTarget =
  | { readonly kind: 'files' }
  | { readonly kind: 'runtimes' }
  | { readonly kind: 'option'; readonly name: string; readonly option: Option<unknown> }
  | { readonly kind: 'nothing'; readonly name: string; readonly ignored: Ignored };

/** The file that is read where none is named. It may be absent. */
export const DEFAULT_CONFIG_FILE = '/etc/berth/berth.conf';
/** The drop-ins that are read where no directory is named. It may be absent. */
export const DEFAULT_CONFIG_DIR = '/etc/berth/berth.conf.d';
/** CRI-O's own, which are read where the former two set nothing. */
export const CRIO_CONFIG_FILE = '/etc/crio/crio.conf';
/** CRI-O's drop-ins. */
export const CRIO_CONFIG_DIR = '/etc/crio/crio.conf.d';

const PROFILES =
  'has no effect: /debug/pprof/profile on the CRI socket is there anyway, and `berth debug cpu` and `debug heap`';
/** CRI-O's flags that are no keys of crio.conf. */
const FLAGS_ONLY = merge(
  ignored('has no effect: the log goes to stderr; let the service manager write a file (StandardError=append:…)', {
    log: row(text, ''),
  }),
  ignored(PROFILES, {
    profile: row(flag, false),
    profile_cpu: row(text, ''),
    profile_mem: row(text, ''),
    profile_port: row(text, '6060'),
    enable_profile_unix_socket: row(flag, false, { variables: ['ENABLE_PROFILE_UNIX_SOCKET'] }),
  }),
  ignored('has no effect: there is no command that it is for', { address: row(text, '') }),
  ignored('is not implemented: there are no NRI plugins to be checked', {
    nri_enable_default_validator: row(flag, false),
    nri_validator_reject_oci_hook_adjustment: row(flag, false),
    nri_validator_reject_runtime_default_seccomp_adjustment: row(flag, false),
    nri_validator_reject_unconfined_seccomp_adjustment: row(flag, false),
    nri_validator_reject_custom_seccomp_adjustment: row(flag, false),
    nri_validator_reject_namespace_adjustment: row(flag, false),
    nri_validator_required_plugins: row(texts, []),
    nri_validator_tolerate_missing_plugins_annotation: row(text, ''),
  }),
);

/** Every flag: the files, one per option, `--runtimes`, and those of CRI-O without effect. */
export const flags: readonly Flag[] = [
  makeFlag('config', text, { kind: 'files' }, { short: 'c', description: CONFIG_HELP() }),
  makeFlag('config-dir', text, { kind: 'files' }, { short: 'd', description: CONFIG_DIR_HELP() }),
  makeFlag(
    'runtimes',
    texts,
    { kind: 'runtimes' },
    {
      description:
        'A runtime handler as name:path[:root[:type[:privileged_without_host_devices[::container_min_memory]]]]; ' +
        'may be repeated.',
    },
  ),
  ...everyOption.flatMap(({ table, option }) => spelled(`${table.name}.${option.key}`, option)),
  ...Object.values(tables).flatMap(({ name, ignored: rows }) => withoutEffect(name, rows)),
  ...[...ignoredTables].flatMap(([name, rows]) => withoutEffect(name, rows)),
  ...withoutEffect('', FLAGS_ONLY),
];

function CONFIG_HELP(): string {
  return (
    `Configuration file (default ${DEFAULT_CONFIG_FILE}, which may be absent; ${CRIO_CONFIG_FILE} where ` +
    'nothing is set in /etc/berth). "" is none.'
  );
}

function CONFIG_DIR_HELP(): string {
  return (
    'Directory of drop-in files, read recursively in lexical order after the file, without hidden ones and backups ' +
    `(name~). The default is ${DEFAULT_CONFIG_DIR}. "" is none.`
  );
}

function spelled(name: string, option: Option<unknown>): Flag[] {
  const { flag: first, flagAliases, short, kind, doc, variables } = option;
  if (first === '') return [];
  const sets: FlagTarget = { kind: 'option', name, option };
  return [
    makeFlag(first, kind, sets, { short, description: doc, variables }),
    ...flagAliases.map((alias) => ({
      ...makeFlag(alias, kind, sets, { description: doc, shown: false }),
      variables: [],
    })),
  ];
}

function withoutEffect(table: string, rows: ReadonlyMap<string, Ignored>): Flag[] {
  return [...rows]
    .filter(([, { flag: name }]) => name !== '')
    .map(([key, each]) => {
      const name = table === '' ? `--${each.flag}` : `${table}.${key}`;
      const sets: FlagTarget = { kind: 'nothing', name, ignored: each };
      return makeFlag(each.flag, each.kind, sets, {
        description: 'no effect here',
        variables: each.variables,
        shown: false,
      });
    });
}

interface FlagDetails {
  readonly description: string;
  readonly short?: string;
  readonly variables?: readonly string[];
  readonly shown?: boolean;
}

function makeFlag(name: string, kind: Kind<unknown>, sets: FlagTarget, details: FlagDetails): Flag {
  const { description, short = '', variables = [], shown = true } = details;
  const long = commanderName(name);
  return {
    name,
    short,
    argument: kind.argument,
    description,
    syntax: `${short === '' ? '' : `-${short}, `}--${long}${kind.argument === 'none' ? ' [bool]' : ' <value>'}`,
    attribute: long.replaceAll(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase()),
    variables: [`CONTAINER_${name.toUpperCase().replaceAll('-', '_')}`, ...variables],
    shown,
    sets,
  };
}

/** To commander, --no-x is what switches off x; ours is a switch of its own. */
function commanderName(name: string): string {
  return name.startsWith('no-') ? `with-${name}` : name;
}

/**
 * The command line as commander is to see it, from one that is written for Go's flags: a switch takes its word behind
 * `=` only (`--drop-infra-ctr=false`), and one dash does for two (`-log-level debug`) as two for one (`--l debug`).
 * What is behind the name of a command is left alone.
 */
export function argumentsOf(argv: readonly string[]): string[] {
  const known = new Map(flags.map((each) => [each.name, each]));
  const shorts = new Map(flags.filter(({ short }) => short !== '').map((each) => [each.short, each]));
  const seen: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] ?? '';
    const [, name = '', value] = /^--?([a-z0-9][a-z0-9-]*)(=[^]*)?$/.exec(word) ?? [];
    const found = known.get(name) ?? shorts.get(name);
    if (found === undefined) {
      seen.push(word);
      // The name of a command ends the flags of the daemon; what is unknown is commander's to refuse.
      if (!word.startsWith('-')) return [...seen, ...argv.slice(at + 1)];
      continue;
    }
    const long = `--${commanderName(found.name)}`;
    if (value !== undefined) seen.push(`${long}${value}`);
    else if (found.argument === 'none') seen.push(`${long}=true`);
    else seen.push(long, ...argv.slice(at + 1, ++at + 1));
  }
  return seen;
}

/**
 * What the flags say, by `attribute`, on a command line that has nothing but flags of the daemon, each with its word.
 * Undefined if there is more, a command or a mistake: that is for commander.
 */
export function readFlags(argv: readonly string[]): FlagValues | undefined {
  const known = new Map(flags.map((each) => [`--${commanderName(each.name)}`, each]));
  const values: Record<string, string | readonly string[]> = {};
  const words = argumentsOf(argv)[Symbol.iterator]();
  for (const word of words) {
    const [, long = '', behind] = /^(--[^=]*)(?:=([^]*))?$/.exec(word) ?? [];
    const found = known.get(long);
    const value = behind ?? (words.next().value as string | undefined);
    if (found === undefined || value === undefined) return undefined;
    const before = values[found.attribute] as readonly string[] | undefined;
    values[found.attribute] = found.argument === 'list' ? addToList(value, before) : value;
  }
  return values;
}

/** What a flag says that may be given many times, and has commas. */
export function addToList(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, ...value.split(',')];
}
