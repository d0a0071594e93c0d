/**
 * OCI hook files (oci-hooks(5), format 1.0.0): which hook runs at which stages of which containers. PURE.
 */
import { posix } from 'node:path';
import { explain } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import { type Reader, readerOf } from './parse.ts';
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
 * The hooks of all directories, sorted by file name, in which order they run; a file of a later directory hides one of
 * the same name before it. A file that cannot be read as a hook is told in `damaged` and hides nothing.
 */
export function loadHooks(files: readonly ConfigFile[]): {
  readonly hooks: readonly HookDefinition[];
  readonly damaged: readonly DamagedFile[];
} {
  const byName = new Map<string, HookDefinition>();
  const damaged: DamagedFile[] = [];
  for (const file of [...files].sort((a, b) => a.directory - b.directory)) {
    try {
      byName.set(posix.basename(file.path), parseHook(file));
    } catch (error) {
      damaged.push({ path: file.path, why: explain(error) });
    }
  }
  const names = [...byName.keys()].sort();
  return { hooks: names.flatMap((name) => byName.get(name) ?? []), damaged };
}

function parseHook(file: ConfigFile): HookDefinition {
  const read = readerOf(`hook ${file.path}`);
  const root = read.object(file.value, 'file');
  const version = read.string(root['version'], 'version');
  if (version !== '1.0.0') throw read.fail('version', `want 1.0.0, got ${quote(String(version))}`);
  const hook = read.object(root['hook'], 'hook');
  const stages = read.strings(root['stages'], 'stages') ?? [];
  if (stages.length === 0) throw read.fail('stages', 'none given');
  const timeout = read.number(hook['timeout'], 'hook.timeout', 86_400);
  if (timeout === 0) throw read.fail('hook.timeout', 'must be above 0');
  const args = read.strings(hook['args'], 'hook.args');
  const env = read.strings(hook['env'], 'hook.env');
  return {
    path: file.path,
    hook: {
      path: read.path(hook['path'], 'hook.path'),
      ...(args === undefined ? {} : { args: [...args] }),
      ...(env === undefined ? {} : { env: [...env] }),
      ...(timeout === undefined ? {} : { timeout }),
    },
    stages: stages.map((stage) => {
      const known = STAGES.find((each) => each === stage);
      if (known === undefined) throw read.fail('stages', `unknown stage ${quote(stage)}; want ${STAGES.join(', ')}`);
      return known;
    }),
    when: parseWhen(read, root['when']),
  };
}

function parseWhen(read: Reader, value: unknown): HookCondition {
  const when = read.object(value, 'when');
  return {
    always: read.flag(when['always'], 'when.always'),
    hasBindMounts: read.flag(when['hasBindMounts'], 'when.hasBindMounts'),
    annotations: Object.entries(read.map(when['annotations'], 'when.annotations')).map(([key, pattern]) => [
      toRegExp(read, key, 'when.annotations'),
      toRegExp(read, pattern, 'when.annotations'),
    ]),
    commands: (read.strings(when['commands'], 'when.commands') ?? []).map((pattern) =>
      toRegExp(read, pattern, 'when.commands'),
    ),
  };
}

/** Patterns are written for Go: flags for the whole may lead, `(?i)`, which JavaScript wants apart. */
function toRegExp(read: Reader, pattern: string, at: string): RegExp {
  const [, flags = '', rest = ''] = /^(?:\(\?([ims]+)\))?(.*)$/s.exec(pattern) ?? [];
  try {
    return new RegExp(rest, [...new Set(`${flags}u`)].join(''));
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
    conditions.push([...subject.annotations].some(([name, text]) => fits(key, name) && fits(value, text)));
  if (when.commands.length > 0) conditions.push(when.commands.some((pattern) => fits(pattern, subject.command)));
  return conditions.length > 0 && conditions.every(Boolean);
}

function fits(pattern: RegExp, text: string): boolean {
  return text.length <= limits.hookTextChars && pattern.test(text);
}

function addHooks(spec: RuntimeSpec, definitions: readonly HookDefinition[]): RuntimeSpec {
  if (definitions.length === 0) return spec;
  const hooks: NonNullable<RuntimeSpec['hooks']> = { ...spec.hooks };
  for (const { hook, stages } of definitions)
    for (const stage of stages) hooks[stage] = [...(hooks[stage] ?? []), hook];
  return { ...spec, hooks };
}
