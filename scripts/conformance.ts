/**
 * `npm run conformance`: Berth judged by programs that we did not write, crictl and critest, built with Go.
 *
 *     npm run conformance                                  critest one spec after the other over SPDY, and crictl,
 *                                                          with runc, crun and a current runc
 *     npm run conformance -- --all                         and four specs at a time; WebSocket
 *     npm run conformance -- --runtime crun --websocket --parallel 4
 *     npm run conformance -- --focus 'port forward'        some specs only (a regular expression of Go's)
 *     npm run conformance -- --program crictl              one of the two
 *     npm run conformance -- --restart-between             the daemon is killed and started again before each spec
 *
 * Prints a table, each failure with its message and each skip with its reason; a skip that
 * test/conformance/expected-skips.ts does not expect is a failure. Last line: `N passed, N failed, N skipped`. What
 * critest and the daemon said is kept in build/conformance.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type CritestOptions, runCritest, type SpecResult } from '../test/conformance/critest.ts';
import { type Ground, reasonToSkip, thisKernel } from '../test/conformance/expected-skips.ts';
import { publishImages } from '../test/conformance/images.ts';
import { currentRunc, type GoPrograms, goPrograms, hasGo, makeAllPrograms } from '../test/conformance/programs.ts';
import { IMAGE, TestNode } from '../test/e2e/harness.ts';
import { startRegistry } from '../test/e2e/registry.ts';
import { onPrivateGround } from './ground.ts';

const RUNTIMES = ['runc', 'crun', 'runc-current'] as const;
type Runtime = (typeof RUNTIMES)[number];

/** One run of critest, or of crictl. */
interface Run {
  readonly runtime: Runtime;
  readonly program: 'critest' | 'crictl';
  readonly transport: CritestOptions['transport'];
  readonly parallel: number;
  readonly restartBetween: boolean;
}

interface Outcome {
  readonly run: string;
  readonly passed: number;
  readonly failed: readonly { readonly name: string; readonly message: string }[];
  readonly skipped: readonly { readonly name: string; readonly reason: string }[];
  readonly seconds: number;
}

const LOGS = new URL('../build/conformance/', import.meta.url).pathname;
const { values: flags } = parseArgs({
  options: {
    all: { type: 'boolean', default: false },
    runtime: { type: 'string', multiple: true, default: [] },
    websocket: { type: 'boolean', default: false },
    parallel: { type: 'string', default: '1' },
    'restart-between': { type: 'boolean', default: false },
    focus: { type: 'string', default: '' },
    program: { type: 'string', default: '' },
  },
});

if (!hasGo()) {
  console.error(
    'conformance: crictl and critest are built with Go, and there is no go in PATH; install Go 1.25 or later',
  );
  process.exitCode = 2;
} else if (process.env['BERTH_CONFORMANCE'] === undefined) {
  // While there is a network: private ground has none.
  makeAllPrograms(plan().some(({ runtime }) => runtime === 'runc-current'));
  const [command = '', ...args] = onPrivateGround([process.execPath, ...process.argv.slice(1)]);
  const { status } = spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, BERTH_CONFORMANCE: '1' } });
  process.exitCode = status ?? 1;
} else {
  report(await runAll(plan()));
}

function plan(): Run[] {
  const runtimes =
    flags.all || flags.runtime.length === 0
      ? RUNTIMES
      : flags.runtime.flatMap((each) => each.split(',')).map(runtimeNamed);
  const given: Omit<Run, 'runtime'> = {
    program: 'critest',
    transport: flags.websocket ? 'websocket' : 'spdy',
    parallel: Number(flags.parallel),
    restartBetween: flags['restart-between'],
  };
  const variants = flags.all
    ? [1, 4].flatMap((parallel) =>
        (['spdy', 'websocket'] as const).map((transport) => ({ ...given, transport, parallel })),
      )
    : [given];
  const crictl =
    flags.focus === '' && !given.restartBetween
      ? [{ ...given, program: 'crictl', transport: 'spdy', parallel: 1 } as const]
      : [];
  const wanted = [...crictl, ...variants].filter(({ program }) => flags.program === '' || program === flags.program);
  return runtimes.flatMap((runtime) => wanted.map((variant) => ({ ...variant, runtime })));
}

function runtimeNamed(name: string): Runtime {
  const found = RUNTIMES.find((each) => each === name);
  if (found === undefined) throw new Error(`--runtime ${name}: want ${RUNTIMES.join(', ')}`);
  return found;
}

async function runAll(runs: readonly Run[]): Promise<Outcome[]> {
  const programs = goPrograms();
  const scratch = mkdtempSync(join(tmpdir(), 'berth-conformance-'));
  mkdirSync(LOGS, { recursive: true });
  const registry = await startRegistry(scratch);
  try {
    const registriesConf = await publishImages(join(scratch, 'images'), registry.host);
    const outcomes: Outcome[] = [];
    for (const run of runs) {
      const outcome =
        run.program === 'crictl'
          ? await crictlRun(run, programs, registriesConf)
          : await critestRun(run, programs, registriesConf);
      console.log(`=== ${outcome.run}: ${summary(outcome)} in ${outcome.seconds.toFixed(0)} s`);
      outcomes.push(outcome);
    }
    return outcomes;
  } finally {
    await registry.stop();
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function critestRun(run: Run, programs: GoPrograms, registriesConf: string): Promise<Outcome> {
  const name = nameOf(run);
  const began = Date.now();
  const failed: { name: string; message: string }[] = [];
  let results: SpecResult[] = [];
  let idmappedMounts = false;
  let node: TestNode | undefined;
  console.log(`\n=== ${name}`);
  try {
    const own = await TestNode.boot({ ...daemonOf(run.runtime), env: { CONTAINERS_REGISTRIES_CONF: registriesConf } });
    node = own;
    idmappedMounts = await hasIdmappedMounts(own);
    const restart = run.restartBetween ? await restarter(own) : undefined;
    results = await runCritest({
      programs,
      socket: own.socket,
      transport: run.transport,
      parallel: run.parallel,
      focus: flags.focus,
      ...(restart === undefined ? {} : { between: restart }),
      logFile: join(LOGS, `${fileNameOf(name)}.critest.log`),
    });
    // The node must be as clean as before the run.
    await own.close();
  } catch (error) {
    failed.push({ name: `${name}: the run itself`, message: error instanceof Error ? error.message : String(error) });
  } finally {
    await node?.discard();
    writeFileSync(join(LOGS, `${fileNameOf(name)}.daemon.log`), node?.log ?? '');
  }
  return judged(name, results, failed, { idmappedMounts, ...thisKernel() }, (Date.now() - began) / 1000);
}

/**
 * Kills the daemon and starts it again; a container that runs all the time must be found running by each life of the
 * daemon.
 */
async function restarter(node: TestNode): Promise<() => Promise<void>> {
  const witness = await node.cri.runContainer(await node.cri.runPod(), IMAGE, { command: ['sleep', '100000'] });
  return async () => {
    await node.kill();
    await node.start();
    const { state } = await node.cri.container(witness);
    if (state !== 'CONTAINER_RUNNING')
      throw new Error(`the container that outlives the daemon is ${state} after a restart`);
  };
}

async function hasIdmappedMounts(node: TestNode): Promise<boolean> {
  const { runtimeHandlers } = await node.cri.rpc.status({ verbose: false });
  return runtimeHandlers.find((each) => each.name === '')?.features?.userNamespaces === true;
}

function judged(
  run: string,
  results: readonly SpecResult[],
  failed: { name: string; message: string }[],
  ground: Ground,
  seconds: number,
): Outcome {
  const skipped: { name: string; reason: string }[] = [];
  for (const { name, state, message } of results) {
    if (state === 'failed') failed.push({ name, message });
    if (state !== 'skipped') continue;
    const reason = reasonToSkip(name, ground);
    // With --focus most specs are not chosen, and say nothing.
    if (flags.focus !== '' && message === '') continue;
    if (reason === undefined)
      failed.push({
        name,
        message:
          'skipped without a reason in test/conformance/expected-skips.ts; critest says: ' + `${message || 'nothing'}`,
      });
    else skipped.push({ name, reason });
  }
  const passed = results.filter(({ state }) => state === 'passed').length;
  if (passed === 0) failed.push({ name: `${run}: the run itself`, message: 'no spec passed' });
  return { run, passed, failed, skipped, seconds };
}

/** The verbs that people use, in mocha: the suites in test/conformance. */
async function crictlRun(run: Run, programs: GoPrograms, registriesConf: string): Promise<Outcome> {
  const name = nameOf(run);
  const began = Date.now();
  console.log(`\n=== ${name}`);
  const file = join(LOGS, `${fileNameOf(name)}.json`);
  rmSync(file, { force: true });
  const root = new URL('..', import.meta.url).pathname;
  const child = spawn(
    process.execPath,
    [
      'node_modules/mocha/bin/mocha.js',
      '--timeout',
      '120000',
      '--reporter',
      'scripts/reporter.cjs',
      '--reporter-option',
      `file=${file}`,
      ...globSync('test/conformance/*.e2e.ts', { cwd: root }).sort(),
    ],
    {
      cwd: root,
      stdio: 'inherit',
      env: {
        ...process.env,
        CONFORMANCE_CRICTL: programs.crictl,
        CONFORMANCE_REGISTRIES_CONF: registriesConf,
        CONFORMANCE_NODE: JSON.stringify(daemonOf(run.runtime)),
      },
    },
  );
  const [code] = (await once(child, 'exit')) as [number | null];
  const seconds = (Date.now() - began) / 1000;
  try {
    const { passed, failed, skipped } = JSON.parse(readFileSync(file, 'utf8')) as {
      readonly passed: number;
      readonly failed: readonly string[];
      readonly skipped: readonly string[];
    };
    const wrong = [
      ...failed,
      ...skipped.map((each) => `${each}: skipped`),
      ...(code !== 0 && failed.length === 0 ? [`exit code ${code}`] : []),
    ];
    return {
      run: name,
      passed,
      failed: wrong.map((each) => ({ name: each, message: 'see above' })),
      skipped: [],
      seconds,
    };
  } catch {
    return {
      run: name,
      passed: 0,
      failed: [{ name, message: `mocha ended with ${code} before it could report` }],
      skipped: [],
      seconds,
    };
  }
}

function daemonOf(runtime: Runtime): { readonly runtime: 'runc' | 'crun'; readonly flags: readonly string[] } {
  if (runtime !== 'runc-current') return { runtime, flags: [] };
  return { runtime: 'runc', flags: ['--runtimes', `${runtime}:${currentRunc()}`, '--default-runtime', runtime] };
}

function nameOf({ runtime, program, transport, parallel, restartBetween }: Run): string {
  if (program === 'crictl') return `crictl, ${runtime}`;
  const pace = parallel === 1 ? 'one at a time' : `${parallel} at a time`;
  return `critest, ${runtime}, ${transport}, ${pace}${restartBetween ? ', kill -9 between specs' : ''}`;
}

function fileNameOf(name: string): string {
  return name.replace(/[^a-z0-9]+/g, '-');
}

function summary({ passed, failed, skipped }: Pick<Outcome, 'passed' | 'failed' | 'skipped'>): string {
  return `${passed} passed, ${failed.length} failed, ${skipped.length} skipped`;
}

/** What a failed expectation says before it prints the values; the rest is in the log. */
function headline(message: string): string {
  return (
    message
      .trim()
      .split(/\n\s*(?:Unexpected error:|Expected\b)/)[0]
      ?.slice(0, 600) ?? ''
  );
}

function report(outcomes: readonly Outcome[]): void {
  const width = Math.max(...outcomes.map(({ run }) => run.length));
  console.log(`\n${'run'.padEnd(width)}  passed  failed  skipped  seconds`);
  for (const { run, passed, failed, skipped, seconds } of outcomes) {
    console.log(
      `${run.padEnd(width)}  ${String(passed).padStart(6)}  ${String(failed.length).padStart(6)}  ` +
        `${String(skipped.length).padStart(7)}  ${seconds.toFixed(0).padStart(7)}`,
    );
  }
  for (const { run, skipped } of outcomes) {
    const byReason = Map.groupBy(skipped, ({ reason }) => reason);
    for (const [reason, specs] of byReason) console.log(`skipped: ${run}: ${specs.length}: ${reason}`);
  }
  for (const { run, failed } of outcomes)
    for (const { name, message } of failed)
      console.log(`failed: ${run}: ${name}\n        ${headline(message).replaceAll('\n', '\n        ')}`);
  const failures = outcomes.flatMap(({ failed }) => failed);
  process.exitCode = failures.length === 0 && outcomes.length > 0 ? 0 : 1;
  console.log(
    summary({
      passed: outcomes.reduce((sum, { passed }) => sum + passed, 0),
      failed: failures,
      skipped: outcomes.flatMap(({ skipped }) => skipped),
    }),
  );
}
