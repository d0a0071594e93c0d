/**
 * `npm run bench [-- options]`: the table of latencies, memory and processes, Berth beside a floor and a peer, in
 * one run.
 *
 *   --vs containerd | unix:///path   the peer: Debian's containerd, set up here, or whoever serves CRI there
 *   --runtime runc | crun            the OCI runtime of all (default crun)
 *   --only PART                      life, execs, parallel, lists, pull, restart or memory; can be given several times
 *   --json                           rows as JSON on stdout; the progress is on stderr in any case
 *
 * Needs root. Runs in mount and network namespaces of its own. Exits with 1 when a round failed or anything was left
 * behind.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpus, loadavg, release } from 'node:os';
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { onPrivateGround } from '../scripts/ground.ts';
import { crowd } from './crowd.ts';
import { Ground, run } from './ground.ts';
import { type Bench, execs, lives, parallel, warmUp } from './life.ts';
import { pulls } from './pull.ts';
import { Report, table } from './report.ts';
import { openTargets, RUNTIMES, type RuntimeName, type Target } from './targets.ts';

const PARTS = ['life', 'execs', 'parallel', 'lists', 'pull', 'restart', 'memory'] as const;
/** Set in the child that has the namespaces. */
const INSIDE = 'BERTH_BENCH_INSIDE';

interface Options {
  readonly vs: string | undefined;
  readonly runtime: RuntimeName;
  readonly parts: ReadonlySet<string>;
  readonly json: boolean;
}

function readOptions(argv: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      vs: { type: 'string' },
      runtime: { type: 'string', default: 'crun' },
      only: { type: 'string', multiple: true },
      json: { type: 'boolean', default: false },
    },
  });
  const { vs, runtime, only = [...PARTS], json } = values;
  if (vs !== undefined && vs !== 'containerd' && !vs.startsWith('unix:///'))
    throw new Error(`--vs ${vs}: give containerd or unix:///path/of/socket`);
  if (!(runtime in RUNTIMES)) throw new Error(`--runtime ${runtime}: there are ${Object.keys(RUNTIMES).join(', ')}`);
  const wrong = only.find((part) => !(PARTS as readonly string[]).includes(part));
  if (wrong !== undefined) throw new Error(`--only ${wrong}: there are ${PARTS.join(', ')}`);
  return { vs, runtime: runtime as RuntimeName, parts: new Set(only), json };
}

async function bench({ vs, runtime, parts, json }: Options): Promise<boolean> {
  const from = performance.now();
  const say = (text: string): void =>
    void process.stderr.write(`${((performance.now() - from) / 1000).toFixed(0).padStart(4)} s  ${text}\n`);
  say(`images and daemons: Berth${vs === undefined ? '' : `, ${vs}`}, ${runtime}`);
  const ground = await Ground.make();
  const report = new Report();
  let failed = false;
  let targets: readonly Target[] = [];
  const interrupted = new Promise<never>((_resolve, reject) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const)
      process.once(signal, () => reject(new Error(`stopped by ${signal}`)));
  });
  try {
    await Promise.race([
      interrupted,
      (async () => {
        targets = await openTargets(ground, vs, runtime);
        await measure({ ground, targets, report, runtime, say }, parts);
        for (const target of targets) await target.close();
      })(),
    ]);
  } catch (error) {
    failed = true;
    say(`FAILED: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  }
  const left = await ground.clear();
  if (!failed) for (const line of left) say(`left behind: ${line}`);
  const peer = targets.find((each) => each.column === 'peer')?.name;
  if (json) console.log(JSON.stringify({ rows: report.rows() }));
  else console.log(`${await where(runtime, peer)}\n\n${table(report.rows(), peer)}`);
  say(failed || left.length > 0 ? 'not good' : 'done, nothing left behind');
  return !failed && left.length === 0;
}

async function measure(each: Bench, parts: ReadonlySet<string>): Promise<void> {
  const { targets, ground } = each;
  await warmUp(targets, ground.image, new Report());
  if (parts.has('life')) await lives(each);
  if (parts.has('execs')) await execs(each);
  if (parts.has('parallel')) await parallel(each);
  if (parts.has('lists') || parts.has('restart') || parts.has('memory')) await crowd(each, parts);
  if (parts.has('pull')) await pulls(each);
}

/** One line on machine and versions: figures without it say nothing. */
async function where(runtime: RuntimeName, peer: string | undefined): Promise<string> {
  const version = async (command: string): Promise<string> =>
    (await run(command, ['--version'])).stdout.split('\n', 1)[0] ?? '';
  const versions = await Promise.all([
    version(RUNTIMES[runtime]),
    ...(peer === 'containerd' ? [version('containerd')] : []),
  ]);
  return (
    `${new Date().toISOString().slice(0, 16)}Z, ${cpus().length} × ${cpus()[0]?.model ?? 'CPU'}, ` +
    `Linux ${release()}, load ${loadavg()[0]?.toFixed(1)}; ${versions.join('; ')}`
  );
}

/** This program again, where mounts, links and packet-filter rules are nobody else's. */
async function onGroundOfItsOwn(): Promise<number> {
  const [command = '', ...args] = onPrivateGround([process.execPath, ...process.execArgv, ...process.argv.slice(1)]);
  const inside = spawn(command, args, { stdio: 'inherit', env: { ...process.env, [INSIDE]: '1' } });
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => void inside.kill(signal));
  const [code] = (await once(inside, 'exit')) as [number | null];
  return code ?? 1;
}

try {
  const options = readOptions(process.argv.slice(2));
  if (process.getuid?.() !== 0) throw new Error('needs root');
  if (!existsSync(new URL('../build/berth.cjs', import.meta.url)))
    throw new Error('build/berth.cjs is missing; run npm run build first');
  process.exitCode = process.env[INSIDE] === undefined ? await onGroundOfItsOwn() : (await bench(options)) ? 0 : 1;
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 2;
}
