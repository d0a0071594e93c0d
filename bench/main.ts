/**
 * `npm run bench [-- options]`: the table of latencies, memory and processes, Berth beside a floor and a peer, in
 * one run.
 *
 *   --vs PEER                        containerd (Debian's), containerd@2.X.Y (built from the Go proxy), both set up
 *                                    here; or unix:///path, whoever serves CRI there
 *   --runtime PROGRAM                the OCI runtime of all: crun or runc (the distribution's), crun-sid (Debian
 *                                    unstable's), runc@X.Y.Z (built); default crun, beside a containerd@… crun-sid,
 *                                    since crun before 1.9 refuses the version of the spec that such a one writes
 *   --only PART                      life, execs, parallel, lists, pull, restart, memory, idle, mass; again for more
 *   --pods N,N,…                     for lists, restart, memory, idle and mass: with so many pods (default
 *                                    10,100,500); rows then say what one pod more costs
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
import {
  type ContainerdProgram,
  containerdProgram,
  isContainerdName,
  isRuntimeName,
  RUNTIME_NAMES,
  type RuntimeProgram,
  runtimeProgram,
} from './programs.ts';
import { openTargets, type Target } from './targets.ts';

const PARTS = ['life', 'execs', 'parallel', 'lists', 'pull', 'restart', 'memory', 'idle', 'mass'] as const;
/** A bridge of Linux has 1024 ports (BR_MAX_PORTS), and a peer's pods are on one of their own. */
const MOST_PODS = 1000;
/** Set in the child that has the namespaces. */
const INSIDE = 'BERTH_BENCH_INSIDE';

interface Options {
  readonly vs: string | undefined;
  readonly runtime: string;
  readonly parts: ReadonlySet<string>;
  readonly pods: readonly number[];
  readonly json: boolean;
}

function readOptions(argv: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      vs: { type: 'string' },
      runtime: { type: 'string' },
      only: { type: 'string', multiple: true },
      pods: { type: 'string', multiple: true, default: ['10,100,500'] },
      json: { type: 'boolean', default: false },
    },
  });
  const { vs, only = [...PARTS], json } = values;
  const runtime = values.runtime ?? (vs?.startsWith('containerd@') === true ? 'crun-sid' : 'crun');
  const pods = values.pods.flatMap((text) => text.split(',')).map(Number);
  if (!pods.every((count) => Number.isInteger(count) && count > 0 && count <= MOST_PODS))
    throw new Error(`--pods ${values.pods.join(' ')}: give whole numbers from 1 to ${MOST_PODS}`);
  if (vs !== undefined && !isContainerdName(vs) && !vs.startsWith('unix:///'))
    throw new Error(`--vs ${vs}: give containerd, containerd@2.X.Y or unix:///path/of/socket`);
  if (!isRuntimeName(runtime)) throw new Error(`--runtime ${runtime}: give ${RUNTIME_NAMES}`);
  const wrong = only.find((part) => !(PARTS as readonly string[]).includes(part));
  if (wrong !== undefined) throw new Error(`--only ${wrong}: there are ${PARTS.join(', ')}`);
  return { vs, runtime, parts: new Set(only), pods, json };
}

async function bench({ vs, parts, pods, json, ...options }: Options): Promise<boolean> {
  const say = speaker();
  const { runtime, containerd } = programs(options.runtime, vs, say);
  say(`images and daemons: Berth${vs === undefined ? '' : `, ${vs}`}, ${runtime.path}`);
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
        targets = await openTargets(ground, containerd ?? vs, runtime);
        await measure({ ground, targets, report, runtime, say }, parts, pods);
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
  else console.log(`${await where([runtime, containerd])}\n\n${table(report.rows(), peer)}`);
  say(failed || left.length > 0 ? 'not good' : 'done, nothing left behind');
  return !failed && left.length === 0;
}

async function measure(each: Bench, parts: ReadonlySet<string>, pods: readonly number[]): Promise<void> {
  const { targets, ground } = each;
  await warmUp(targets, ground.image, new Report());
  if (parts.has('life')) await lives(each);
  if (parts.has('execs')) await execs(each);
  if (parts.has('parallel')) await parallel(each);
  if (['mass', 'lists', 'restart', 'memory', 'idle'].some((part) => parts.has(part))) await crowd(each, parts, pods);
  if (parts.has('pull')) await pulls(each);
}

/** What is measured with; made here if it is not there, for which a network is wanted. */
function programs(runtime: string, vs: string | undefined, say: (text: string) => void): Programs {
  return {
    runtime: runtimeProgram(runtime, say),
    containerd: vs === undefined || !isContainerdName(vs) ? undefined : containerdProgram(vs, say),
  };
}

interface Programs {
  readonly runtime: RuntimeProgram;
  readonly containerd: ContainerdProgram | undefined;
}

/** One line on machine and versions: figures without it say nothing. */
async function where(measured: readonly ({ readonly path: string } | undefined)[]): Promise<string> {
  const versions = await Promise.all(
    measured
      .filter((program) => program !== undefined)
      .map(async ({ path }) => (await run(path, ['--version'])).stdout.split('\n', 1)[0] ?? ''),
  );
  return (
    `${new Date().toISOString().slice(0, 16)}Z, ${cpus().length} × ${cpus()[0]?.model ?? 'CPU'}, ` +
    `Linux ${release()}, load ${loadavg()[0]?.toFixed(1)}; ${versions.join('; ')}`
  );
}

/** Says what is going on, and since when. */
function speaker(): (text: string) => void {
  const from = performance.now();
  return (text) =>
    void process.stderr.write(`${((performance.now() - from) / 1000).toFixed(0).padStart(4)} s  ${text}\n`);
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
  if (process.env[INSIDE] !== undefined) process.exitCode = (await bench(options)) ? 0 : 1;
  else {
    programs(options.runtime, options.vs, speaker());
    process.exitCode = await onGroundOfItsOwn();
  }
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 2;
}
