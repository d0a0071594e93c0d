/**
 * OCI hook files (oci-hooks(5), formats 1.0.0 and 0.1.0): which hook runs at which stages of which containers. PURE.
 */
import { posix } from 'node:path';
import { explain } from '../base/errors.ts';
import type { GoObject } from '../base/go.ts';
import { goPattern, type Pattern } from '../base/go-pattern.ts';
import { quote } from '../base/ids.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import { Reader } from './parse.ts';
import type {
  ConfigFile,
  DamagedFile,
  HookCondition,
  HookDefinition,
  HookStage,
  HookSubject,
} from '../ports/extensions.ts';

const STAGES: readonly HookStage[] = [
  'prestart',
  'createRuntime',
  'createContainer',
  'startContainer',
  'poststart',
  'poststop',
];

/**
 * The hooks of all directories in the order in which they run: that of their file names in whatever case. A file of a
 * later directory hides one of the same name before it. A file that cannot be read as a hook is told in `damaged` and
 * hides nothing.
 */
export function loadHooks(files: readonly ConfigFile[]): {
  readonly hooks: readonly HookDefinition[];
  readonly damaged: readonly DamagedFile[];
} {
  const byName = new Map<string, HookDefinition>();
  const damaged: DamagedFile[] = [];
  for (const file of [...files].sort((a, b) => a.directory - b.directory)) {
    try {
      byName.set(posix.basename(file.path), parseFile(file));
    } catch (error) {
      damaged.push({ path: file.path, why: explain(error) });
    }
  }
  const names = [...byName.keys()].sort((a, b) => compare(a.toLowerCase(), b.toLowerCase()) || compare(a, b));
  return { hooks: names.flatMap((name) => byName.get(name) ?? []), damaged };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A day: longer is a mistake. */
const HOOK_TIMEOUT_MAX_SECONDS = 86_400;

/** How a file is read, by its version: the older format has no other name for itself than none. */
const FORMATS: ReadonlyMap<string, (read: Reader, root: GoObject, path: string) => HookDefinition> = new Map([
  ['1.0.0', parseHook],
  ['0.1.0', parseOldHook],
  ['', parseOldHook],
]);

function parseFile(file: ConfigFile): HookDefinition {
  const read = new Reader(`hook ${file.path}`);
  const root = read.object(file.value, 'file');
  const version = read.string(root.get('version'), 'version') ?? '';
  const parse = FORMATS.get(version);
  if (parse === undefined) throw read.fail('version', `want 1.0.0 or 0.1.0, got ${quote(version)}`);
  return parse(read, root, file.path);
}

/** Format 1.0.0. Conditions that are left out hold for nobody. */
function parseHook(read: Reader, root: GoObject, path: string): HookDefinition {
  const hook = read.object(root.get('hook'), 'hook');
  const timeout = read.number(hook.get('timeout'), 'hook.timeout', HOOK_TIMEOUT_MAX_SECONDS);
  if (timeout === 0) throw read.fail('hook.timeout', 'must be above 0');
  const args = read.strings(hook.get('args'), 'hook.args');
  const env = read.strings(hook.get('env'), 'hook.env');
  const when = read.object(root.get('when') ?? {}, 'when');
  return {
    path,
    hook: {
      path: read.path(hook.get('path'), 'hook.path'),
      ...(args === undefined ? {} : { args: [...args] }),
      ...(env === undefined ? {} : { env: [...env] }),
      ...(timeout === undefined ? {} : { timeout }),
    },
    stages: stagesOf(read, root.get('stages')),
    when: {
      holds: 'all',
      always: read.flag(when.get('always'), 'when.always'),
      hasBindMounts: read.flag(when.get('hasBindMounts'), 'when.hasBindMounts'),
      annotations: Object.entries(read.map(when.get('annotations'), 'when.annotations')).map(([key, pattern]) => [
        toPattern(read, key, 'when.annotations'),
        toPattern(read, pattern, 'when.annotations'),
      ]),
      commands: patterns(read, when.get('commands'), 'when.commands'),
    },
  };
}

/**
 * Format 0.1.0 (containers/common, pkg/hooks/0.1.0): the path alone is `hook`, patterns of annotations are for their
 * values, one condition that holds is enough, and lists may be called in the singular.
 */
function parseOldHook(read: Reader, root: GoObject, path: string): HookDefinition {
  const either = (plural: string, singular: string): unknown => {
    const [many, one] = [root.get(plural), root.get(singular)];
    if (many !== undefined && one !== undefined) throw read.fail('file', `has both ${singular} and ${plural}`);
    return many ?? one;
  };
  const program = read.path(root.get('hook'), 'hook');
  const args = read.strings(root.get('arguments'), 'arguments');
  const values = read.strings(either('annotations', 'annotation'), 'annotations') ?? [];
  return {
    path,
    hook: { path: program, ...(args === undefined ? {} : { args: [program, ...args] }) },
    stages: stagesOf(read, either('stages', 'stage')),
    when: {
      holds: 'one',
      always: undefined,
      hasBindMounts: read.flag(root.get('hasbindmounts'), 'hasbindmounts'),
      annotations: values.length === 0 ? [] : [[/(?:)/, toPattern(read, values.join('|'), 'annotations')]],
      commands: patterns(read, either('cmds', 'cmd'), 'cmds'),
    },
  };
}

function stagesOf(read: Reader, value: unknown): readonly HookStage[] {
  const stages = read.strings(value, 'stages') ?? [];
  if (stages.length === 0) throw read.fail('stages', 'none given');
  return stages.map((stage) => {
    const known = STAGES.find((each) => each === stage);
    if (known === undefined) throw read.fail('stages', `unknown stage ${quote(stage)}; want ${STAGES.join(', ')}`);
    return known;
  });
}

function patterns(read: Reader, value: unknown, at: string): readonly Pattern[] {
  return (read.strings(value, at) ?? []).map((pattern) => toPattern(read, pattern, at));
}

function toPattern(read: Reader, pattern: string, at: string): Pattern {
  try {
    return goPattern(pattern);
  } catch (error) {
    throw read.fail(at, `pattern ${quote(pattern)} is not valid: ${explain(error)}`);
  }
}

/** The spec with the hooks that want such a container, behind those it has, in the order in which they run. */
export function withHooks(spec: RuntimeSpec, hooks: readonly HookDefinition[], subject: HookSubject): RuntimeSpec {
  return addHooks(spec, matchHooks(hooks, subject));
}

/** The hooks whose conditions hold. Exported for its test. */
export function matchHooks(hooks: readonly HookDefinition[], subject: HookSubject): readonly HookDefinition[] {
  return hooks.filter(({ when }) => matches(when, subject));
}

function matches(when: HookCondition, subject: HookSubject): boolean {
  const conditions: boolean[] = [];
  if (when.always !== undefined) conditions.push(when.always);
  if (when.hasBindMounts !== undefined) conditions.push(when.hasBindMounts && subject.hasBindMounts);
  for (const [key, value] of when.annotations)
    conditions.push([...subject.annotations].some(([name, text]) => key.test(name) && value.test(text)));
  if (when.commands.length > 0) conditions.push(when.commands.some((pattern) => pattern.test(subject.command)));
  return conditions.length > 0 && (when.holds === 'all' ? conditions.every(Boolean) : conditions.some(Boolean));
}

function addHooks(spec: RuntimeSpec, definitions: readonly HookDefinition[]): RuntimeSpec {
  if (definitions.length === 0) return spec;
  const hooks: NonNullable<RuntimeSpec['hooks']> = { ...spec.hooks };
  for (const { hook, stages } of definitions)
    for (const stage of stages) hooks[stage] = [...(hooks[stage] ?? []), hook];
  return { ...spec, hooks };
}
