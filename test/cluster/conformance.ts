/**
 * Kubernetes' own node conformance, `test/e2e_node` with `[NodeConformance]`, against a node of ours. What passes is
 * held by a list: conformance.txt beside this file has a name in each line.
 */
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type GinkgoReport, resultsOf } from '../conformance/critest.ts';
import type { Cluster } from './cluster.ts';
import { explained } from './conformance-explained.ts';
import { publishConformance } from './conformance-images.ts';
import { BERTH_SOCKET } from './cri.ts';
import { programOf } from './programs.ts';
import { Tenant } from './tenant.ts';

const LIST = join(import.meta.dirname, 'conformance.txt');
const FOCUS = '\\[NodeConformance\\]';
/**
 * What upstream leaves out of this run, too; specs that want a node to themselves restart its kubelet by systemctl,
 * which is not here.
 */
const SKIP = '\\[Flaky\\]|\\[Slow\\]|\\[Serial\\]|\\[Disruptive\\]';
/** Specs mostly wait. */
const AT_ONCE = 16;

export interface ConformanceOptions {
  /** A regular expression of Go's, of the specs to run beside being of node conformance. */
  readonly focus?: string;
  /** Writes the list anew: what passes now, and what it held of specs that were not run. */
  readonly update: boolean;
  /** When the specs are cut off that still run, and those that had no turn are given up. */
  readonly minutes: number;
  /** Where what the specs said is kept. */
  readonly logFile: string;
}

/** How a run went: lines for people, the last of which counts. */
export interface Verdict {
  readonly lines: readonly string[];
  readonly failed: boolean;
}

/** Runs the specs on the cluster's only node, and judges. @throws if there is no report. */
export async function conformance(cluster: Cluster, options: ConformanceOptions): Promise<Verdict> {
  const node = cluster.node(1);
  const images = join(cluster.directory, 'images');
  mkdirSync(images);
  cluster.configure(await publishConformance(cluster.kubernetes, images, cluster.registry.host));
  await node.restartKubelet({ config: KUBELET });
  const scratch = join(cluster.directory, 'conformance');
  mkdirSync(scratch);
  const spec = join(scratch, 'system.yaml');
  // The specs judge the node; what its kernel is built with is not asked.
  writeFileSync(spec, JSON.stringify({ os: 'Linux', kernelSpec: { versions: ['.*'] } }));
  const flags = [
    `--host=https://${cluster.address}:6443`,
    `--bearer-token=${await tokenOf(cluster)}`,
    `--node-name=${node.name}`,
    `--container-runtime-endpoint=unix://${BERTH_SOCKET}`,
    `--system-spec-file=${spec}`,
    `--report-dir=${scratch}`,
    '--dns-domain=cluster.local',
    '--start-services=false',
    '--stop-services=false',
    '--prepull-images=false',
  ];
  const ginkgo = [
    `--nodes=${AT_ONCE}`,
    '--json-report=report.json',
    `--output-dir=${scratch}`,
    '--no-color',
    `--timeout=${options.minutes}m`,
    `--focus=${focusOn(options.focus)}`,
    `--skip=${SKIP}`,
  ];
  // Specs write where their program is.
  const specs = join(scratch, 'e2e_node.test');
  symlinkSync(programOf(cluster.kubernetes, 'e2e_node.test'), specs);
  const program = programOf(cluster.kubernetes, 'ginkgo');
  const run = await node.run('conformance', [program, ...ginkgo, specs, '--', ...flags]);
  const code = await run.over();
  writeFileSync(options.logFile, run.log());
  const report = readdirSync(scratch).find((name) => name.endsWith('report.json'));
  if (report === undefined)
    throw new Error(`${basename(specs)} ended with ${code} and without a report; see ${options.logFile}`);
  const reports = JSON.parse(readFileSync(join(scratch, report), 'utf8')) as GinkgoReport[];
  const held = readFileSync(LIST, 'utf8')
    .split('\n')
    .filter((line) => line !== '');
  const verdict = judge(reports, held, options);
  if (options.update) writeFileSync(LIST, `${verdict.list.join('\n')}\n`);
  return verdict;
}

/** One expression, since ginkgo runs what any of several fits. */
function focusOn(more: string | undefined): string {
  return more === undefined ? FOCUS : `(${FOCUS}.*(${more})|(${more}).*${FOCUS})`;
}

/** What specs look for at their kubelet. */
const KUBELET = {
  readOnlyPort: 10_255,
  authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
  authorization: { mode: 'AlwaysAllow' },
  podLogsDir: '/var/log/pods',
  volumeStatsAggPeriod: '10s',
  fileCheckFrequency: '10s',
  serializeImagePulls: false,
};

/** A token of somebody who may do all. */
async function tokenOf(cluster: Cluster): Promise<string> {
  const tenant = await Tenant.of(cluster, 'conformance', '');
  await tenant.kubectl('create', 'serviceaccount', 'judge');
  const account = '--serviceaccount=conformance:judge';
  await tenant.kubectl('create', 'clusterrolebinding', 'judge', '--clusterrole=cluster-admin', account);
  return (await tenant.kubectl('create', 'token', 'judge', '--duration=24h')).trim();
}

/** How specs end that were running when time was up. */
const CUT_OFF = ['timedout', 'interrupted', 'aborted'];

/**
 * PURE. What a run comes to, against the names that are held, and what the list is to be after it. Of a run that was
 * cut off counts what it came to; it is a fault, and the list holds on to what had no turn.
 */
export function judge(
  reports: readonly GinkgoReport[],
  held: readonly string[],
  { focus, update, minutes }: Omit<ConformanceOptions, 'logFile'>,
): Verdict & { readonly list: readonly string[] } {
  const isCut = reports.some((each) => (each.SpecialSuiteFailureReasons ?? []).length > 0);
  const over = reports.map(({ SpecReports }) => ({
    SpecReports: (SpecReports ?? []).filter(({ State }) => !isCut || !CUT_OFF.includes(State)),
  }));
  // Of those that were not chosen nothing is said.
  const results = resultsOf(over).filter(({ state, message }) => state !== 'skipped' || message !== '');
  const passed = results.filter(({ state }) => state === 'passed').map(({ name }) => name);
  const ran = new Set(results.map(({ name }) => name));
  const waiting = held.filter((name) => !ran.has(name));
  const lines = results
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ state, seconds, name }) => `${state.padEnd(7)} ${seconds.toFixed(1).padStart(6)} s  ${name}`);
  const faults: string[] = [];
  const skips: string[] = [];
  for (const { name, state, message: whole } of results) {
    if (state === 'passed') continue;
    // The rest is in the log.
    const message = whole.trim().slice(0, 400);
    const why = explained(name);
    if (held.includes(name)) faults.push(`${name}: passed once and is held to it, and ${state}: ${message}`);
    else if (why === undefined) faults.push(`${name}: ${state}, and nobody explained it: ${message}`);
    else skips.push(`${state}: ${name}: ${why}`);
  }
  if (isCut) faults.push(`the run itself: cut off after ${minutes} minutes; ${waiting.length} held specs had no turn`);
  else if (focus === undefined)
    faults.push(...waiting.map((name) => `${name}: passed once and is held to it, and was not run`));
  if (passed.length === 0) faults.push('the run itself: no spec passed');
  if (!update) lines.push(...passed.filter((name) => !held.includes(name)).map((name) => `not held yet: ${name}`));
  const last = `${passed.length} passed, ${faults.length} failed, ${skips.length} skipped`;
  return {
    lines: [...lines, ...skips, ...faults.map((each) => `failed: ${each}`), last],
    failed: faults.length > 0,
    list: [...(isCut || focus !== undefined ? waiting : []), ...passed].sort(),
  };
}
