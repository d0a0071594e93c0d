/**
 * The rules that a parser can judge: how long lines, functions and files may be, how wide doors are, what every export
 * says, and which parameters are booleans. `npm run check` prints each breach with its place.
 */
import { existsSync, readFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { parseSync } from 'oxc-parser';

/** Columns of a line, in code points. */
const LINE_COLUMNS = 120;
const FUNCTION_LINES = 60;
const FILE_LINES = 500;
/** Names that a door may have: those of the two widest rooms. */
const DOOR_NAMES = 40;
const GENERATED = /^cri\/generated\/|^pkg\/cri-api\/types\.ts$/;
const TEST_CODE =
  /^(test|bench|scripts|conmon\/test)\/|^knip\.ts$|\.test\.ts$|\/(fake|fakes|fake-[^/]*|conformance|sim)\.ts$/;

interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [key: string]: unknown;
}

/** Every breach of a rule in the tree below `root`, a line each; empty if all is well. */
export function checkRules(root: string): string[] {
  let listed: string;
  try {
    listed = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '*.ts', '*.mjs', '*.c', '*.h', '*.sh'], {
      cwd: root,
      encoding: 'utf8',
    });
  } catch (cause) {
    return [`git cannot list the files of ${root}, and without it nobody knows what is ours: ${String(cause)}`];
  }
  return listed
    .split('\n')
    .filter((file) => file !== '' && existsSync(join(root, file)))
    .flatMap((file) => judge(file, readFileSync(join(root, file), 'utf8')));
}

/** The breaches of one file, whose path below the root says which rules hold for it. */
export function judge(file: string, source: string): string[] {
  if (GENERATED.test(file)) return [];
  const lines = source.split('\n');
  const breaches = lines.flatMap((line, index) =>
    Array.from(line).length > LINE_COLUMNS
      ? [`${file}:${index + 1}: a line of more than ${LINE_COLUMNS} columns; break it where a reader would`]
      : [],
  );
  if (lines.length - 1 > FILE_LINES)
    breaches.push(`${file}: ${lines.length - 1} lines; a file has at most ${FILE_LINES}: find its second subject`);
  if (/\.[ch]$/.test(file)) return [...breaches, ...judgeC(file, lines)];
  if (!/\.(ts|mjs)$/.test(file)) return breaches;
  const { program, comments } = parseSync(file, source);
  const seen: Seen = { file, source, lineOf: (offset) => source.slice(0, offset).split('\n').length, breaches };
  walk(program as unknown as Node, undefined, (node, parent) => judgeNode(seen, node, parent));
  if (!TEST_CODE.test(file) && file.endsWith('.ts'))
    breaches.push(
      ...undocumented(seen, program as unknown as Body, comments),
      ...bareNumbers(seen, program as unknown as Body),
      ...moduleState(seen, program as unknown as Body),
      ...bareProcesses(file, lines),
      ...quotingParsers(file, lines),
    );
  if (/^pkg\/(sys|spec)\/index\.ts$/.test(file)) breaches.push(...wideDoor(file, program as unknown as Body));
  return breaches;
}

/** Where a process may be got at by its number: what is compared there is compared for everybody. */
const KNOWS_NUMBERS = /^pkg\/sys\/(processes|spawn)\.ts$|^pkg\/base\/failpoint\.ts$/;
/** A process by its bare number: of /proc, or to be killed. Ours does not change under us. */
const BARE_NUMBER = /\/proc\/\$\{(?!process\.pid\})|\bprocess\.kill\(/;

/** A number may be another process' by the time that it is used. */
function bareProcesses(file: string, lines: readonly string[]): string[] {
  if (KNOWS_NUMBERS.test(file)) return [];
  return lines.flatMap((line, index) =>
    BARE_NUMBER.test(line)
      ? [`${file}:${index + 1}: a process by its number, which may be another's; see pkg/sys/processes.ts`]
      : [],
  );
}

/** JSON.parse quotes what it cannot read, and an error may be read by whoever named the file. */
function quotingParsers(file: string, lines: readonly string[]): string[] {
  if (file === 'pkg/base/json.ts') return [];
  return lines.flatMap((line, index) =>
    /\bJSON\.parse\(/.test(line)
      ? [`${file}:${index + 1}: JSON.parse, whose errors quote what it reads; parseJson of pkg/base/json.ts does not`]
      : [],
  );
}

/** Calls that make a descriptor. */
const OPENS = new RegExp(
  '(?<!\\w)(open|openat|socket|socketpair|accept4?|pipe2?|dup|dup3|fopen|epoll_create1?|eventfd|signalfd|' +
    'timerfd_create|inotify_init1?|memfd_create)\\(',
);

/** What C must not do: leak a descriptor into what it executes, end the process from below, allocate in the monitor. */
function judgeC(file: string, lines: readonly string[]): string[] {
  if (file.startsWith('conmon/test/')) return [];
  return lines.flatMap((line, index) => {
    const code = line.replace(/"(?:[^"\\]|\\.)*"/g, '""').replace(/\/\*.*?\*\/|\/\/.*$|^\s*\*.*$/g, '');
    // Flags that are in a variable, and calls that go on in the next line.
    const said = code.includes(';') ? code : `${code} ${lines[index + 1] ?? ''}`;
    const found: string[] = [];
    if (OPENS.test(code) && !/CLOEXEC|\bflags\b/.test(said)) found.push('a descriptor without CLOEXEC');
    if (/(?<!\w)exit\(/.test(code) && !file.endsWith('main.c')) found.push('exit() outside of main; return -errno');
    if (file.startsWith('conmon/') && /(?<!\w)(malloc|calloc|realloc|strdup|asprintf)\(/.test(code))
      found.push('an allocation in the monitor; it has a static struct for all it needs');
    return found.map((each) => `${file}:${index + 1}: ${each}`);
  });
}

interface Seen {
  readonly file: string;
  readonly source: string;
  readonly lineOf: (offset: number) => number;
  readonly breaches: string[];
}
interface Body {
  readonly body: readonly Node[];
}

function walk(node: unknown, parent: Node | undefined, visit: (node: Node, parent: Node | undefined) => void): void {
  if (Array.isArray(node)) {
    for (const each of node) walk(each, parent, visit);
    return;
  }
  if (!isNode(node)) return;
  visit(node, parent);
  for (const [key, value] of Object.entries(node))
    if (key !== 'type' && value !== null && typeof value === 'object') walk(value, node, visit);
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string';
}

function judgeNode({ file, source, lineOf, breaches }: Seen, node: Node, parent: Node | undefined): void {
  if (!/^(FunctionDeclaration|FunctionExpression|ArrowFunctionExpression)$/.test(node.type)) return;
  const first = lineOf(node.start);
  const count = lineOf(node.end) - first + 1;
  // A suite is a list of tests, not a function with a course of its own.
  const suite = parent?.type === 'CallExpression' && /^(describe|context|for)\b/.test(textOf(source, parent['callee']));
  if (count > FUNCTION_LINES && !suite && !holdsSuites(source, node))
    breaches.push(`${file}:${first}: a function of ${count} lines; one has at most ${FUNCTION_LINES}`);
  if (TEST_CODE.test(file) || node['body'] === null || node.type === 'ArrowFunctionExpression') return;
  for (const parameter of (node['params'] as readonly Node[] | undefined) ?? []) {
    if (/^(readonly )?\w+\??: boolean\b/.test(source.slice(parameter.start, parameter.end)))
      breaches.push(
        `${file}:${lineOf(parameter.start)}: ${source.slice(parameter.start, parameter.end)}: a boolean parameter; ` +
          'name what it chooses with a union, or make two functions',
      );
  }
}

/** A function that only declares tests (`function conformance(…) { describe(…); it(…); }`) is a suite, too. */
function holdsSuites(source: string, node: Node): boolean {
  const body = source.slice(node.start, node.end);
  return /\n\s*(describe|it)\(/.test(body);
}

function textOf(source: string, node: unknown): string {
  return isNode(node) ? source.slice(node.start, node.end) : '';
}

interface Comment {
  readonly type: string;
  readonly value: string;
  readonly end: number;
}

/** Exports of the product that do not say what they promise; several names in a row may share one comment. */
function undocumented({ file, source, lineOf }: Seen, program: Body, comments: readonly Comment[]): string[] {
  const found: string[] = [];
  let before: Node | undefined;
  let covered: boolean = false;
  for (const node of program.body) {
    if (node.type === 'ExportDefaultDeclaration')
      found.push(`${file}:${lineOf(node.start)}: a default export; name it`);
    const declaration = node.type === 'ExportNamedDeclaration' ? node['declaration'] : null;
    if (isNode(declaration)) {
      const comment = comments.findLast((each) => each.end <= node.start);
      const own = comment !== undefined && comment.type === 'Block' && comment.value.startsWith('*');
      const documented = own && source.slice(comment.end, node.start).trim() === '';
      const gap: string = before === undefined ? '\n\n' : source.slice(before.end, node.start);
      const beside: boolean = covered && !documented && !gap.includes('\n\n');
      if (!documented && !beside)
        found.push(`${file}:${lineOf(node.start)}: this export does not say what it promises; give it a docstring`);
      covered = documented || beside;
    } else covered = false;
    before = node;
  }
  return found;
}

/** The names of numbers that somebody chose, by their units. */
const CHOSEN = /_(MS|NANOS|SECONDS|BYTES|CHARS|COUNT|MAX|MIN|AGE|RATIO)$/;

/**
 * Numbers at the top of a file that a reader can't tell the reason of. A policy belongs into pkg/base/limits.ts; what a
 * protocol or an inner working fixes stays, with a sentence above it or above the row that it stands in.
 */
function bareNumbers({ file, source, lineOf }: Seen, program: Body): string[] {
  const lines = source.split('\n');
  const found: string[] = [];
  let explained = -1;
  for (const node of program.body) {
    const name = chosenNumber(source, node);
    if (name === undefined) continue;
    const first = lineOf(node.start);
    if (isSaid(lines[first - 2] ?? '') || explained === first - 1) explained = lineOf(node.end);
    else
      found.push(
        `${file}:${first}: ${name} does not say why it is what it is; pkg/base/limits.ts, or a sentence above`,
      );
  }
  return found;
}

/** State that outlives everybody who uses it needs a sentence that says why there is only one. */
function moduleState({ file, source, lineOf }: Seen, program: Body): string[] {
  const lines = source.split('\n');
  return program.body.flatMap((node) => {
    const declaration = node.type === 'ExportNamedDeclaration' ? node['declaration'] : node;
    if (!isNode(declaration) || declaration.type !== 'VariableDeclaration') return [];
    const isState = /^(let|var) |^const \w+(: .+?)? = new (Weak)?(Map|Set)(<.*?>)?\(\);?$/s.test(
      textOf(source, declaration),
    );
    const first = lineOf(node.start);
    if (!isState || isSaid(lines[first - 2] ?? '')) return [];
    return [`${file}:${first}: state of the module; give it an owner, or say why there is one for the whole process`];
  });
}

/** True if the line ends, or is, a comment. */
function isSaid(above: string): boolean {
  return /^(\/\/|\*\/|\/\*)|\*\/$/.test(above.trim());
}

function chosenNumber(source: string, node: Node): string | undefined {
  const declaration = node.type === 'ExportNamedDeclaration' ? node['declaration'] : node;
  if (!isNode(declaration) || declaration.type !== 'VariableDeclaration') return undefined;
  const [, name = ''] =
    /^const (\w+)(?:: \w+)? = [-\d(][\d_.n *+()a-zA-Z-]*;?$/.exec(textOf(source, declaration)) ?? [];
  return CHOSEN.test(name) ? name : undefined;
}

function wideDoor(file: string, program: Body): string[] {
  const count = program.body.reduce((sum, node) => sum + namesOf(node), 0);
  return count > DOOR_NAMES ? [`${file}: ${count} names; a door has at most ${DOOR_NAMES}`] : [];
}

function namesOf(node: Node): number {
  if (node.type !== 'ExportNamedDeclaration') return node.type === 'ExportAllDeclaration' ? 1 : 0;
  const specifiers = node['specifiers'];
  return node['declaration'] === null && Array.isArray(specifiers) ? specifiers.length : 1;
}

// `node scripts/rules.ts pkg/image` shows the breaches of one room.
if (import.meta.main) {
  const prefix = process.argv[2] ?? '';
  const breaches = checkRules(join(import.meta.dirname, '..')).filter((each) => each.startsWith(prefix));
  for (const breach of breaches) console.log(breach);
  process.exitCode = breaches.length === 0 ? 0 : 1;
}
