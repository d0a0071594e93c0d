/**
 * `npm run cluster`: Berth under a kubelet, with a control plane of Kubernetes, on this machine and in namespaces of
 * its own.
 *
 *     npm run cluster                            every suite of test/cluster that one node is enough for
 *     npm run cluster -- --nodes 2               all of them, on two nodes
 *     npm run cluster -- pods stats              some of them
 *     npm run cluster -- --grep=hostPort pods    options with a value of their own are mocha's
 *     npm run cluster -- --kubernetes 1.37
 *     npm run cluster -- static                  a kubelet without a control plane: the kubelet alone is built
 *     npm run cluster -- ci                      what CI runs: one node, or static where nothing has been built yet
 *     npm run cluster -- conformance             Kubernetes' own, held by test/cluster/conformance.txt
 *     npm run cluster -- conformance --focus Probing    some of its specs; --update has the list hold what passes
 *     npm run cluster -- --figures               110 pods (--pods N) come and go, twice, beside containerd: how fast,
 *                                                at what price
 *     npm run cluster -- up                      a cluster to play with, until Ctrl-C
 *     npm run cluster -- kubectl get pods -A     kubectl in it
 *     npm run cluster -- down                    the same as Ctrl-C, from elsewhere
 *
 * What it needs is built once and kept in /var/cache/berth-cluster (or $BERTH_CLUSTER_CACHE); that takes Go and a
 * quarter of an hour. What everybody said is kept in build/cluster. Last line: `N passed, N failed, N skipped`.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { containerdProgram, runtimeProgram } from '../bench/programs.ts';
import { Cluster } from '../test/cluster/cluster.ts';
import { conformance } from '../test/cluster/conformance.ts';
import { makePrograms } from '../test/cluster/conformance-images.ts';
import { ratioOf, round, tableOf } from '../test/cluster/figures.ts';
import { publishImages, publishPause, PAUSE } from '../test/cluster/images.ts';
import { sweepLeftovers } from '../test/cluster/leftovers.ts';
import {
  isBuilt,
  kubernetesNamed,
  makeAll,
  makeConformance,
  makeKubernetes,
  NotInTime,
  say,
} from '../test/cluster/programs.ts';
import { berth, containerd } from '../test/cluster/runtimes.ts';
import { Tenant } from '../test/cluster/tenant.ts';
import { onPrivateGround } from './ground.ts';

const root = new URL('..', import.meta.url).pathname;
/** What `up` says of itself, for `kubectl` and `down`. */
const STATE = join(root, 'build/cluster-up.json');
/** Held by the one cluster that is up on this machine. */
const LOCK = '/run/lock/berth-cluster';
interface State {
  readonly kubectl: string;
  readonly kubeconfig: string;
}

/** What CI runs, some minutes: of a whole cluster where that has been built, else of a kubelet alone. */
const CI = {
  built: ['leftovers', 'pods-life', 'pods-streams', 'pods-volumes', 'pods-limits', 'faults'],
  unbuilt: ['leftovers', 'static'],
} as const;

/** The kubelet takes three to four minutes of both processors, and CI has no more than this for it. */
const CI_BUILD_MINUTES = 7;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  strict: false,
  options: {
    kubernetes: { type: 'string', default: '1.36' },
    nodes: { type: 'string', default: '1' },
    figures: { type: 'boolean', default: false },
    pods: { type: 'string', default: '110' },
    focus: { type: 'string' },
    minutes: { type: 'string', default: '60' },
    update: { type: 'boolean', default: false },
  },
});
const kubernetes = kubernetesNamed(String(flags.kubernetes));
const [verb = ''] = positionals;
const wanted: readonly string[] = verb === 'ci' ? (isBuilt(kubernetes) ? CI.built : CI.unbuilt) : positionals;
const nodes = wanted.includes('static') ? 'static' : Number(flags.nodes);

if (verb === 'kubectl') process.exitCode = kubectl(process.argv.slice(process.argv.indexOf('kubectl') + 1));
else if (process.env['BERTH_CLUSTER_GROUND'] === undefined) {
  if (verb === 'down') process.exitCode = await down();
  else if (build()) process.exitCode = await enter();
} else if (verb === 'down') say(`gave back ${(await sweepLeftovers()).join(', ') || 'nothing: nothing was left'}`);
else if (flags.figures === true) await measure();
else if (verb === 'up') await stayUp();
else if (verb === 'conformance') process.exitCode = await conform();
else process.exitCode = runSuites();

/** Makes what needs a network and a compiler. False if CI cannot wait for it, which is one skip of its count. */
function build(): boolean {
  try {
    const timeoutMs = verb === 'ci' ? CI_BUILD_MINUTES * 60_000 : undefined;
    if (nodes === 'static') makeKubernetes(kubernetes, ['kubelet'], timeoutMs);
    else makeAll(kubernetes);
    if (flags.figures === true) peers();
    if (verb === 'conformance') {
      makeConformance(kubernetes);
      makePrograms();
    }
    return true;
  } catch (error) {
    if (!(error instanceof NotInTime)) throw error;
    console.log(`skipped: pods of a kubelet: it could not be built within ${CI_BUILD_MINUTES} minutes`);
    console.log('0 passed, 0 failed, 1 skipped');
    return false;
  }
}

/**
 * Runs this again on private ground with a PID namespace of its own, once no other cluster is up: they would put back
 * each other's sysctls.
 */
async function enter(): Promise<number> {
  mkdirSync(dirname(LOCK), { recursive: true });
  if (isLocked()) say('another cluster is up on this machine; waiting until it is down');
  // Whatever is left of it has the lock open. However this process ends, all others end with it.
  const locked = ['--pdeathsig', 'KILL', 'flock', '--no-fork', LOCK];
  const own = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc'];
  const args = [...locked, ...own, ...onPrivateGround([process.execPath, ...process.argv.slice(1)])];
  const child = spawn('setpriv', args, { stdio: 'inherit', env: { ...process.env, BERTH_CLUSTER_GROUND: '1' } });
  // Who is within ends it.
  process.on('SIGINT', () => {});
  const [code] = (await once(child, 'exit')) as [number | null];
  return code ?? 1;
}

function isLocked(): boolean {
  return spawnSync('flock', ['--nonblock', LOCK, 'true']).status !== 0;
}

function runSuites(): number {
  const options = process.argv.slice(2).filter((each) => /^--[a-z-]+=/.test(each));
  const all = globSync('test/cluster/*.e2e.ts', { cwd: root }).sort();
  const whole = all.filter((file) => !file.includes('static') && (Number(nodes) > 1 || !file.includes('nodes')));
  const files = wanted.length === 0 ? whole : all.filter((file) => wanted.some((name) => file.includes(name)));
  if (files.length === 0) throw new Error(`no suite is called ${wanted.join(', ')}; there are ${all.join(', ')}`);
  const report = join(root, 'build/cluster.json');
  rmSync(report, { force: true });
  const { status } = spawnSync(
    process.execPath,
    [
      'node_modules/mocha/bin/mocha.js',
      '--require=./test/cluster/shared.ts',
      '--timeout=120000',
      // What the first try left is taken away before the second: test/e2e/tries.ts.
      '--retries=1',
      '--reporter=scripts/reporter.cjs',
      `--reporter-option=file=${report}`,
      ...options,
      ...files,
    ],
    {
      cwd: root,
      stdio: 'inherit',
      env: { ...process.env, BERTH_CLUSTER_KUBERNETES: kubernetes, BERTH_CLUSTER_NODES: String(nodes) },
    },
  );
  return tell(status ?? 1, report);
}

interface Outcome {
  readonly passed: number;
  readonly failed: readonly string[];
  readonly skipped: readonly string[];
  readonly retried: readonly string[];
}

/** Prints the last lines. */
function tell(status: number, report: string): number {
  const outcome: Outcome = existsSync(report)
    ? (JSON.parse(readFileSync(report, 'utf8')) as Outcome)
    : { passed: 0, failed: ['mocha ended before it could report'], skipped: [], retried: [] };
  const failed = [...outcome.failed, ...outcome.skipped.map((each) => `${each}: skipped, and nobody listed it`)];
  if (status !== 0 && failed.length === 0) failed.push(`mocha ended with exit code ${status}`);
  for (const each of outcome.retried) console.log(`failed once, passed again: ${each}`);
  for (const each of failed) console.log(`failed: ${each}`);
  console.log(`${outcome.passed} passed, ${failed.length} failed, 0 skipped`);
  return failed.length === 0 ? 0 : 1;
}

/** A current containerd, and the runc that both run containers with; built if they are not there. */
function peers(): [containerd: string, runc: string] {
  return [containerdProgram('containerd@2.4.2', say).path, runtimeProgram('runc@1.5.3', say).path];
}

/** A node of Berth's and one of containerd's in turn, twice, since the first round has everything to warm up. */
async function measure(): Promise<void> {
  const [peer, runc] = peers();
  const runtimes = [berth(runc), containerd(peer, runc, PAUSE)];
  const cluster = await Cluster.up({ kubernetes, nodes: runtimes.length, runtimes });
  try {
    const directory = join(cluster.directory, 'images');
    mkdirSync(directory);
    const { box } = await publishImages(directory, cluster.registry.host);
    await publishPause(directory, cluster.registry.host);
    const tenant = await Tenant.of(cluster, 'figures', box);
    const numbers = runtimes.map((_each, i) => i + 1);
    // The images are there before anything is measured.
    for (const number of numbers) await round(cluster, tenant, number, 2);
    const rounds = [];
    for (const number of [...numbers, ...numbers])
      rounds.push(await round(cluster, tenant, number, Number(flags.pods)));
    const ratio = ratioOf(rounds, 'berth', 'containerd');
    console.log(`${flags.pods} pods, Kubernetes ${kubernetes}\n\n${tableOf(rounds)}\n\n${ratio}`);
  } finally {
    await cluster.down();
  }
}

/** Kubernetes' specs, judged by the list. */
async function conform(): Promise<number> {
  const cluster = await Cluster.up({ kubernetes, nodes: 1 });
  try {
    mkdirSync(join(root, 'build'), { recursive: true });
    const { lines, failed } = await conformance(cluster, {
      ...(typeof flags.focus === 'string' ? { focus: flags.focus } : {}),
      update: flags.update === true,
      minutes: Number(flags.minutes),
      logFile: join(root, 'build/cluster-conformance.log'),
    });
    for (const line of lines) console.log(line);
    return failed ? 1 : 0;
  } finally {
    await cluster.down();
  }
}

async function stayUp(): Promise<void> {
  const { promise: asked, resolve } = Promise.withResolvers<void>();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => resolve());
  const cluster = await Cluster.up({ kubernetes, nodes });
  try {
    mkdirSync(join(root, 'build'), { recursive: true });
    writeFileSync(STATE, JSON.stringify({ kubectl: cluster.kubectl, kubeconfig: cluster.kubeconfig } satisfies State));
    say(`up, with ${cluster.registry.host} as its registry; npm run cluster -- kubectl get nodes`);
    await asked;
  } finally {
    rmSync(STATE, { force: true });
    await cluster.down();
    say('down');
  }
}

/** The process within: it alone has this file's `up` as PID 1 of a namespace. */
function within(): number {
  if (!existsSync(STATE)) throw new Error('no cluster is up; npm run cluster -- up');
  const { kubeconfig } = JSON.parse(readFileSync(STATE, 'utf8')) as State;
  const found = globSync('/proc/[0-9]*/status').find((file) => {
    try {
      const status = readFileSync(file, 'utf8');
      const words = readFileSync(file.replace('status', 'cmdline'), 'utf8');
      return /^NSpid:\t\d+\t1$/m.test(status) && words.includes('scripts/cluster.ts\0up');
    } catch {
      return false; // It has ended meanwhile.
    }
  });
  if (found === undefined) throw new Error(`nothing runs that has made ${kubeconfig}; remove ${STATE}`);
  return Number(found.split('/')[2]);
}

function kubectl(args: readonly string[]): number {
  const pid = within();
  const { kubectl: program, kubeconfig } = JSON.parse(readFileSync(STATE, 'utf8')) as State;
  const command = [
    '--target',
    String(pid),
    '--mount',
    '--net',
    '--pid',
    program,
    `--kubeconfig=${kubeconfig}`,
    ...args,
  ];
  return spawnSync('nsenter', command, { stdio: 'inherit' }).status ?? 1;
}

/** Ends the one that is up; without one, what a killed one has left is given back. */
async function down(): Promise<number> {
  if (isLocked()) process.kill(within(), 'SIGTERM');
  else return await enter();
  return 0;
}
