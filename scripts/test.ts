/**
 * `npm test`: everything, in order of cost: check, unit tests, the monitor's suite, end-to-end tests. Those with real
 * parts wait most of the time, each on ground of its own: two stages of them run side by side, and what one says is
 * shown when it ends. They are tried twice, and one that needed it is named at the end, with the error of its first
 * try. The last line is `N passed, N failed, N skipped`, and the exit code is 0 only if nothing failed and nothing was
 * skipped without a reason on the list.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, type Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { roomTable } from './coverage.ts';
import { onPrivateGround } from './ground.ts';
import { EXPECTED_SKIPS } from '../test/expected-skips.ts';

interface Outcome {
  readonly passed: number;
  readonly failed: readonly string[];
  readonly skipped: readonly string[];
  /** Tests that failed once and then passed, and how: not a failure of the run, but a defect to be looked at. */
  readonly retried?: readonly string[];
}

interface Stage {
  readonly name: string;
  readonly command: readonly string[];
  /** The command is mocha, which reports each test; otherwise the stage counts as one. */
  readonly kind: 'mocha' | 'command';
  /** Tell how much of each room it runs. */
  readonly measured?: true;
  /** With real parts, and none that others have, too: another one may run beside it. */
  readonly shares?: true;
}

/** How many stages that share run at once: one takes a third of a processor. */
const SHARERS = 2;
/** Suites that judge by a clock how long something takes; so do those of the monitor that put it under load. */
const JUDGES_BY_CLOCK: ReadonlySet<string> = new Set([
  'test/e2e/security-limits.e2e.ts',
  // A thousand calls at once: processors that share a core are half as quick when both have work.
  'test/e2e/stream-flow.e2e.ts',
]);

/** Of what a command said that failed, enough to know why. */
const LAST_LINES = 12;
/** How long a mocha may take to end after its last test. */
const ENDING_MS = 15_000;

const stages: readonly Stage[] = [
  { name: 'check', command: ['node', 'scripts/check.ts'], kind: 'command' },
  {
    name: 'unit',
    command: ['mocha', ...globSync('{pkg,cri,scripts}/**/*.test.ts').sort()],
    kind: 'mocha',
    measured: true,
  },
  // The same inputs in each run, so that a red run is red again; `npm run fuzz` looks for new ones.
  { name: 'fuzz', command: ['node', 'scripts/fuzz.ts', '--seed', '1', '--seconds', '2'], kind: 'command' },
  ...conmonStages(),
  ...globSync('test/e2e/*.e2e.ts')
    .sort()
    .map(
      (file): Stage => ({
        name: file,
        command: onPrivateGround(['mocha', '--retries', '1', '--timeout', '60000', file]),
        kind: 'mocha',
        ...(JUDGES_BY_CLOCK.has(file) ? {} : { shares: true }),
      }),
    ),
];

const only = process.argv.slice(2);
const unknown = only.filter((each) => !stages.some(({ name }) => name.includes(each)));
if (unknown.length > 0)
  throw new Error(`no stage is called ${unknown.join(', ')}; there are ${stages.map(({ name }) => name).join(', ')}`);
const wanted = stages.filter(({ name }) => only.length === 0 || only.some((each) => name.includes(each)));
const outcomes: Outcome[] = [];
for (const stage of wanted.filter(({ shares }) => shares === undefined)) await hold(stage, process.stdout);
const sharers = wanted.filter(({ shares }) => shares === true).values();
await Promise.all(Array.from({ length: SHARERS }, () => holdAll(sharers)));
report(outcomes);

/** One after the other, with whoever else takes of them. What a stage says is kept until it ends. */
async function holdAll(some: Iterable<Stage>): Promise<void> {
  for (const stage of some) {
    const said = new PassThrough();
    const whole = text(said);
    await hold(stage, said);
    said.end();
    process.stdout.write(await whole);
  }
}

async function hold(stage: Stage, out: Writable): Promise<void> {
  const began = Date.now();
  out.write(`\n=== ${stage.name}\n`);
  const outcome = await run(stage, out);
  outcomes.push(outcome);
  out.write(
    `=== ${stage.name}: ${outcome.passed} passed, ${outcome.failed.length} failed, ` +
      `${outcome.skipped.length} skipped in ${((Date.now() - began) / 1000).toFixed(1)} s\n`,
  );
}

/**
 * The monitor: its suite and load test on the build that ships and on one with sanitizers, then half a minute of each
 * fuzz target.
 */
function conmonStages(): Stage[] {
  const suite = globSync('conmon/test/*.test.ts').sort();
  return [
    { name: 'conmon tools', command: ['make', '-s', '-C', 'conmon', 'tool', 'asan', 'fuzz'], kind: 'command' },
    {
      name: 'conmon',
      command: onPrivateGround([
        'env',
        'CONMON_SUBJECT=ours',
        'mocha',
        '--retries',
        '1',
        '--timeout',
        '120000',
        ...suite,
      ]),
      kind: 'mocha',
    },
    {
      shares: true,
      name: 'conmon with sanitizers',
      command: onPrivateGround([
        'env',
        'CONMON=build/bin/conmon-asan',
        'CONMON_SUBJECT=ours',
        'mocha',
        '--retries',
        '1',
        '--timeout',
        '120000',
        ...suite.filter((file) => !file.endsWith('load.test.ts')),
      ]),
      kind: 'mocha',
    },
    // Upstream's monitor leaves sockets open where it fails us; mocha would wait for them for ever.
    {
      name: "the distribution's conmon",
      command: onPrivateGround([
        'env',
        'CONMON_SUBJECT=upstream',
        'mocha',
        '--exit',
        '--retries',
        '1',
        '--timeout',
        '120000',
        ...suite,
      ]),
      kind: 'mocha',
    },
    { name: 'conmon fuzz', command: ['make', '-s', '-C', 'conmon', 'fuzz-smoke'], kind: 'command', shares: true },
  ];
}

async function run(stage: Stage, out: Writable): Promise<Outcome> {
  const scratch = mkdtempSync(join(tmpdir(), 'berth-test-'));
  const reportFile = join(scratch, 'report.json');
  const [command = '', ...args] = stage.command;
  const reporter =
    stage.kind === 'mocha'
      ? ['--reporter', new URL('reporter.cjs', import.meta.url).pathname, '--reporter-option', `file=${reportFile}`]
      : [];
  const coverage = join(scratch, 'coverage');
  // A person sees colours; nobody else sees more than the end of it all.
  const isShown = stage.kind === 'mocha' && out === process.stdout && process.stdout.isTTY;
  const child = spawn(command, [...args, ...reporter], {
    stdio: isShown ? 'inherit' : ['inherit', 'pipe', 'pipe'],
    detached: true,
    env: stage.measured === true ? { ...process.env, NODE_V8_COVERAGE: coverage } : process.env,
  });
  const last = lastOf(child, out);
  const code = await ended(child, reportFile);
  const why = `ended with ${code}${stage.kind === 'mocha' ? ' before it could report' : ''}${await last()}`;
  try {
    if (existsSync(coverage)) out.write(`\n${roomTable(coverage)}\n`);
    if (stage.kind === 'command')
      return { passed: code === 0 ? 1 : 0, failed: code === 0 ? [] : [`${stage.name}: ${why}`], skipped: [] };
    return judged(JSON.parse(readFileSync(reportFile, 'utf8')) as Outcome, stage, code);
  } catch {
    return { passed: 0, failed: [`${stage.name}: ${why}`], skipped: [] };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Shows what it says, and returns a function that gives the last lines once it has ended. */
function lastOf(child: ChildProcess, out: Writable): () => Promise<string> {
  const streams = [child.stdout, child.stderr].filter((each) => each !== null);
  let said = '';
  for (const stream of streams)
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      out.write(chunk);
      said = (said + chunk).slice(-10_000);
    });
  const read = Promise.all(streams.map((each) => once(each, 'close')));
  return async () => {
    // Whatever a test has left running may hold on to them.
    await Promise.race([read, sleep(1000)]);
    for (const each of streams) each.destroy();
    const lines = said.trimEnd().split('\n').slice(-LAST_LINES);
    return said === '' ? '' : `, saying at last${lines.map((line) => `\n    ${line}`).join('')}`;
  };
}

/**
 * The exit code; null if a run that has reported does not end: a test left a handle open, and all that it started is
 * killed. (Each stage leads a process group of its own.)
 */
async function ended(child: ChildProcess, reportFile: string): Promise<number | null> {
  const exit = once(child, 'exit').then(([code]) => code as number | null);
  const reported = (async () => {
    while (child.exitCode === null && child.signalCode === null && !existsSync(reportFile)) await sleep(500);
    await sleep(ENDING_MS, undefined, { ref: false });
    return 'stuck' as const;
  })();
  const outcome = await Promise.race([exit, reported]);
  if (outcome !== 'stuck' || child.pid === undefined) return outcome === 'stuck' ? null : outcome;
  process.kill(-child.pid, 'SIGKILL');
  await exit;
  return null;
}

/** A run that fails outside its tests (a hook, a leak at exit) has failed, too; so has one that ran nothing. */
function judged(outcome: Outcome, stage: Stage, code: number | null): Outcome {
  if (code !== 0 && outcome.failed.length === 0) {
    const how = code === null ? 'did not end after its last test: something was left open' : `exit code ${code}`;
    return { ...outcome, failed: [`${stage.name}: ${how}`] };
  }
  if (outcome.passed + outcome.failed.length + outcome.skipped.length === 0)
    return { ...outcome, failed: [`${stage.name}: ran no test`] };
  return outcome;
}

function report(all: readonly Outcome[]): void {
  const failed = all.flatMap((each) => each.failed);
  const skipped = all.flatMap((each) => each.skipped);
  const unlisted = skipped.filter((title) => !EXPECTED_SKIPS.some(({ test }) => test.test(title)));
  console.log('');
  for (const title of skipped) {
    const reason = EXPECTED_SKIPS.find(({ test }) => test.test(title))?.reason;
    console.log(
      `skipped: ${title}: ${reason ?? 'NO REASON LISTED in test/expected-skips.ts, which counts as a failure'}`,
    );
  }
  for (const title of all.flatMap((each) => each.retried ?? [])) console.log(`failed once, passed again: ${title}`);
  for (const title of failed) console.log(`failed: ${title}`);
  const passed = all.reduce((sum, each) => sum + each.passed, 0);
  process.exitCode = failed.length + unlisted.length === 0 && passed > 0 ? 0 : 1;
  console.log(
    `${passed} passed, ${failed.length + unlisted.length} failed, ${skipped.length - unlisted.length} skipped`,
  );
}
