/**
 * How large the rooms are, and how much of them the unit tests run.
 *
 *     npm run coverage                runs the unit tests, and prints a line for each room
 *     npm run coverage -- pkg/pod     and one for each file of these rooms, with the lines that no unit test runs
 *
 * Counted are statements, by what V8 says of each stretch of code (NODE_V8_COVERAGE); types and comments are none.
 */
import { spawnSync } from 'node:child_process';
import { globSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseSync } from 'oxc-parser';

const root = join(import.meta.dirname, '..');
const TEST_CODE = /\.test\.ts$|\/(fake|fakes|fake-[^/]*|conformance|sim|tar-build|tar-fuzz)\.ts$|^pkg\/spec\/golden\//;
const GENERATED = /^cri\/generated\/|^pkg\/cri-api\//;

interface FileCoverage {
  readonly file: string;
  readonly lines: number;
  readonly statements: number;
  /** First lines of statements that were not run. */
  readonly missed: readonly number[];
}

/** A line for each room, from what V8 has written into `coverageDir`. */
export function roomTable(coverageDir: string): string {
  const rooms = Map.groupBy(measured(coverageDir), ({ file }) => roomOf(file));
  const tests = Map.groupBy(
    sources().filter((file) => TEST_CODE.test(file)),
    roomOf,
  );
  const rows = [...rooms].map(([room, files]) => {
    const statements = sum(files.map((each) => each.statements));
    const missed = sum(files.map((each) => each.missed.length));
    return [
      room,
      String(files.length),
      String(sum(files.map((each) => each.lines))),
      String(sum((tests.get(room) ?? []).map((file) => linesOf(file).length))),
      statements === 0 ? '' : `${(100 * (1 - missed / statements)).toFixed(1)} %`,
    ];
  });
  return columns([['room', 'files', 'lines', 'lines of tests', 'statements run'], ...rows]);
}

function fileTable(coverageDir: string, rooms: readonly string[]): string {
  const files = measured(coverageDir).filter(({ file }) => rooms.some((room) => file.startsWith(room)));
  const rows = files.map(({ file, lines, statements, missed }) => [
    file,
    String(lines),
    statements === 0 ? '' : `${(100 * (1 - missed.length / statements)).toFixed(1)} %`,
    ` ${runs(missed)}`,
  ]);
  return columns([['file', 'lines', 'statements run', ' not run'], ...rows]);
}

function measured(coverageDir: string): FileCoverage[] {
  const painted = paint(coverageDir);
  return sources()
    .filter((file) => !TEST_CODE.test(file))
    .map((file) => {
      const text = readFileSync(join(root, file), 'utf8');
      const statements = statementsOf(file, text);
      const run = painted.get(join(root, file));
      const missed = statements.filter((offset) => run?.[offset] !== 1);
      return {
        file,
        lines: linesOf(file).length,
        statements: statements.length,
        missed: missed.map((offset) => text.slice(0, offset).split('\n').length),
      };
    });
}

/** For each file a byte for each character: 1 if any process ran it. */
function paint(coverageDir: string): Map<string, Uint8Array> {
  const painted = new Map<string, Uint8Array>();
  for (const name of readdirSync(coverageDir)) {
    const { result } = JSON.parse(readFileSync(join(coverageDir, name), 'utf8')) as {
      readonly result: readonly Script[];
    };
    for (const { url, functions } of result) {
      if (!url.startsWith('file:') || url.includes('/node_modules/')) continue;
      const path = fileURLToPath(url);
      const length = Math.max(...functions.flatMap(({ ranges }) => ranges.map(({ endOffset }) => endOffset)), 0);
      const own = new Uint8Array(length);
      // Outer stretches come before those inside them, in a function and among functions.
      for (const { ranges } of functions)
        for (const { startOffset, endOffset, count } of ranges) own.fill(count > 0 ? 1 : 0, startOffset, endOffset);
      const before = painted.get(path);
      painted.set(path, before === undefined ? own : own.map((byte, at) => byte | (before[at] ?? 0)));
    }
  }
  return painted;
}

interface Script {
  readonly url: string;
  readonly functions: readonly { readonly ranges: readonly Range[] }[];
}
interface Range {
  readonly startOffset: number;
  readonly endOffset: number;
  readonly count: number;
}

const DOES = /^(Expression|Return|If|For|ForOf|ForIn|While|DoWhile|Switch|Throw)Statement$|^VariableDeclaration$/;

/** Where statements begin that do something. */
function statementsOf(file: string, text: string): number[] {
  const found: number[] = [];
  const visit = (node: unknown): void => {
    if (Array.isArray(node)) return node.forEach(visit);
    if (typeof node !== 'object' || node === null) return;
    const { type, start } = node as { readonly type?: unknown; readonly start?: number };
    if (typeof type === 'string') {
      if (/^TS(Interface|TypeAlias)Declaration$|^Import/.test(type)) return;
      if (DOES.test(type)) found.push(start ?? 0);
    }
    for (const value of Object.values(node)) if (typeof value === 'object') visit(value);
  };
  visit(parseSync(file, text).program);
  return found;
}

function sources(): string[] {
  return globSync('{cri,pkg}/**/*.ts', { cwd: root })
    .filter((file) => !GENERATED.test(file))
    .sort();
}

function roomOf(file: string): string {
  const [first = '', second = ''] = dirname(file).split('/');
  return first === 'pkg' ? `pkg/${second}` : first;
}

function linesOf(file: string): string[] {
  return readFileSync(join(root, file), 'utf8').trimEnd().split('\n');
}

/** 3, 4, 5, 9 as "3-5 9". */
function runs(lines: readonly number[]): string {
  const out: string[] = [];
  let from = -1;
  for (const [index, line] of lines.entries()) {
    if (from === -1) from = line;
    const next = lines[index + 1];
    if (next !== undefined && next <= line + 1) continue;
    out.push(from === line ? String(line) : `${from}-${line}`);
    from = -1;
  }
  return out.join(' ');
}

function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          column === 0 || cell.startsWith(' ') ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function sum(values: readonly number[]): number {
  return values.reduce((total, each) => total + each, 0);
}

if (import.meta.main) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-coverage-'));
  const { status } = spawnSync(
    process.execPath,
    [
      'node_modules/mocha/bin/mocha.js',
      '--reporter',
      'dot',
      ...globSync('{pkg,cri}/**/*.test.ts', { cwd: root }).sort(),
    ],
    { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, NODE_V8_COVERAGE: dir } },
  );
  const rooms = process.argv.slice(2);
  console.log(rooms.length === 0 ? roomTable(dir) : fileTable(dir, rooms));
  rmSync(dir, { recursive: true });
  process.exitCode = status ?? 1;
}
