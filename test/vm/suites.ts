/** What is run in the machine, and how its results are read. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type GinkgoReport, resultsOf, selection, type SpecResult } from '../conformance/critest.ts';
import { NEEDS_NAT, reasonToSkip } from '../conformance/expected-skips.ts';
import { forgottenSuites, MORE_SUITES, USUAL_SUITES } from './end-to-end.ts';
import { reasonToLeaveOut } from './expected-skips.ts';
import type { Lsm } from './image.ts';
import { type Machine, SHARE } from './machine.ts';
import { ITSELF } from './second-try.ts';
import type { Needs } from './share.ts';

export interface Result {
  readonly title: string;
  readonly state: 'passed' | 'failed' | 'skipped';
  /** Why it failed or was skipped; of what has passed, how its first try failed. */
  readonly why: string;
}

export interface SuiteOptions {
  readonly machine: 'uml' | 'qemu';
  readonly runtime: 'crun' | 'runc';
  readonly lsm: Lsm;
  /** Who makes cgroups. */
  readonly driver: 'systemd' | 'cgroupfs';
  /** How many containers run out of memory. */
  readonly count: number;
  /** Specs of critest, a regular expression of Go's, or names of end-to-end suites with commas; '' is all. */
  readonly focus: string;
  /** The specs of critest to run instead, by their names; those of a first try that failed. */
  readonly only?: readonly string[];
  /** Suites that have a short form run whole. */
  readonly all: boolean;
}

export interface Suite {
  readonly name: string;
  readonly needs: Needs;
  /** Where it is about one. */
  readonly lsm?: Lsm;
  /** What a second try is told beside the options of the first, where this failed; undefined if there is none. */
  again(failed: readonly Result[]): Partial<SuiteOptions> | undefined;
  /** What it does in a machine that has just booted, with Berth as it needs it. */
  run(machine: Machine, options: SuiteOptions): Promise<readonly Result[]>;
}

const MINUTE_MS = 60_000;

export const SUITES: readonly Suite[] = [
  script('smoke', 5 * MINUTE_MS),
  script('apparmor', 3 * MINUTE_MS),
  script('crio', 3 * MINUTE_MS),
  { name: 'shutdown', needs: { critest: false, installs: 'package' }, again: whole, run: shutdown },
  script('oom', 30 * MINUTE_MS),
  script('oom-upstream', 30 * MINUTE_MS, { file: 'oom', environment: 'MONITOR=/usr/bin/conmon' }),
  { ...script('selinux', 5 * MINUTE_MS), lsm: 'selinux' },
  {
    name: 'e2e',
    needs: { critest: false, installs: 'tree', sources: true },
    // mocha has tried again already.
    again: () => undefined,
    run: endToEnd,
  },
  script('package', 10 * MINUTE_MS, { installs: 'nothing' }),
  script('manual', 10 * MINUTE_MS, { installs: 'nothing' }),
  script('kubeadm', 5 * MINUTE_MS, { installs: 'package', kubernetes: 'kubeadm' }),
  script('kubelet', 15 * MINUTE_MS, { installs: 'package', kubernetes: 'kubelet' }),
  { name: 'critest', needs: { critest: true, installs: 'package' }, again: onlySpecs, run: critest },
];

function script(
  name: string,
  timeoutMs: number,
  {
    file = name,
    environment = '',
    ...needs
  }: { readonly file?: string; readonly environment?: string } & Partial<Needs> = {},
): Suite {
  return {
    name,
    needs: { critest: false, installs: 'tree', ...needs },
    again: whole,
    run: async (machine, options) => {
      const lines: string[] = [];
      const ending = await runGuest(machine, options, `${environment} /host/guest/${file}.sh`, timeoutMs, (line) => {
        lines.push(line);
        console.log(line);
      });
      const results = lines.flatMap(resultOf);
      // A suite that breaks off has not passed, however well it began; nor has one that said nothing.
      if (ending !== 0 || results.length === 0)
        results.push({ title: ITSELF, state: 'failed', why: ended(ending, lines) });
      return results;
    },
  };
}

function whole(): Partial<SuiteOptions> {
  return {};
}

/** Nodes of ginkgo that are no specs are about all of them, as is a run without a report. */
function onlySpecs(failed: readonly Result[]): Partial<SuiteOptions> {
  const titles = failed.map(({ title }) => title);
  return titles.some((each) => each === ITSELF || each.startsWith('(')) ? {} : { only: titles };
}

/** How a suite broke off, with the last that it said. */
function ended(code: number, lines: readonly string[]): string {
  return [`it ended with exit code ${code}, saying at last`, ...lines.slice(-8)].join('\n    ');
}

/** PURE. The result that a line of a suite is, if it is one. */
function resultOf(line: string): Result[] {
  const [, word, title = '', why = ''] = /^(ok|FAIL|skip) ([^:]*)(?:: (.*))?$/.exec(line) ?? [];
  if (word === undefined) return [];
  return [{ title, state: word === 'ok' ? 'passed' : word === 'FAIL' ? 'failed' : 'skipped', why }];
}

async function runGuest(
  machine: Machine,
  { machine: kind, runtime, driver, count }: SuiteOptions,
  command: string,
  timeoutMs: number,
  onLine: (line: string) => void,
): Promise<number> {
  let rest = '';
  const ending = await machine.run(
    `export MACHINE=${kind} SLOWNESS=${machine.slowness}\n` +
      `export RUNTIME=${runtime} DRIVER=${driver} COUNT=${count}\n${command}`,
    timeoutMs,
    (text) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) onLine(line);
    },
  );
  if (rest !== '') onLine(rest);
  return ending;
}

/** The machine is powered off with containers that take two seconds to end. */
async function shutdown(machine: Machine, options: SuiteOptions): Promise<readonly Result[]> {
  const before = await script('shutdown', 5 * MINUTE_MS).run(machine, options);
  await machine.stop();
  const read = (name: string): string => {
    const path = join(SHARE, 'out/shutdown', name);
    return existsSync(path) ? readFileSync(path, 'utf8') : '';
  };
  const speechless = ['one', 'two', 'three']
    .map((name) => ({ name, log: read(`${name}.log`) }))
    .filter(({ log }) => !/ TERM\n.* bye\n$/.test(log))
    .map(({ name, log }) => `${name} said${log === '' ? ' nothing' : `:\n${log}`}`);
  const journal = read('journal.log');
  // The journal itself is written to /host, which is busy to the end.
  const failures = (journal.match(/.*(Failed unmounting|target is busy|timed out. Killing).*/gi) ?? []).filter(
    (line) => !line.includes('/host'),
  );
  const result = (title: string, why: string): Result => ({ title, state: why === '' ? 'passed' : 'failed', why });
  return [
    ...before,
    result('the machine goes off by itself', machine.console.includes('Power down') ? '' : 'it had to be killed'),
    result('every container says goodbye in its last second', speechless.join('\n')),
    result('the journal tells of the end', journal.includes('Stopping berth') ? '' : 'it ends before'),
    result('nothing had to be killed, nothing stayed mounted', failures.join('; ')),
  ];
}

/** Suites of test/e2e, which take who makes cgroups, and where, from the node. */
async function endToEnd(machine: Machine, options: SuiteOptions): Promise<readonly Result[]> {
  const unsaid = 'nobody has said yet in test/vm/end-to-end.ts whether it belongs into the machine';
  const results = forgottenSuites().map((title): Result => ({ title, state: 'skipped', why: unsaid }));
  const usual = options.all ? [...USUAL_SUITES, ...MORE_SUITES] : USUAL_SUITES;
  for (const name of options.focus === '' ? usual : options.focus.split(',')) {
    const report = join(SHARE, `out/e2e-${name}.json`);
    const lines: string[] = [];
    const ending = await runGuest(machine, options, `/host/guest/e2e.sh ${name}`, 15 * MINUTE_MS, (line) => {
      lines.push(line);
      console.log(line);
    });
    if (!existsSync(report)) {
      results.push({ title: `${name}: ${ITSELF}`, state: 'failed', why: ended(ending, lines) });
      continue;
    }
    const { passed, failed, skipped, retried } = JSON.parse(readFileSync(report, 'utf8')) as {
      readonly passed: number;
      readonly failed: readonly string[];
      readonly skipped: readonly string[];
      readonly retried: readonly string[];
    };
    for (let index = 0; index < passed; index++)
      results.push({ title: name, state: 'passed', why: retried[index] ?? '' });
    for (const why of failed) results.push({ title: name, state: 'failed', why });
    for (const title of skipped) {
      const reason = reasonToLeaveOut(title);
      results.push(
        reason === undefined
          ? { title, state: 'failed', why: 'skipped without a reason that is expected' }
          : { title, state: 'skipped', why: reason },
      );
    }
    if (ending !== 0 && failed.length === 0)
      results.push({ title: `${name}: ${ITSELF}`, state: 'failed', why: ended(ending, lines) });
  }
  return results;
}

async function critest(machine: Machine, options: SuiteOptions): Promise<readonly Result[]> {
  const { only } = options;
  // The flags go through shells, where most characters of a name would mean something.
  const focus = only === undefined ? options.focus : `(${only.map((each) => each.replaceAll(/\W/g, '.')).join('|')})$`;
  const flags = ['json-report=/host/out/critest.json', 'no-color', 'timeout=3h', ...selection({ focus })];
  const nat = options.machine === 'qemu';
  if (!nat) flags.push(`skip=${NEEDS_NAT.source}`);
  const quoted = flags.map((each) => `-ginkgo.${each.replaceAll(' ', '.')}`).join(' ');
  const command = `export CRITEST_FLAGS='${quoted}'\n/host/guest/critest.sh`;
  const ending = await runGuest(machine, options, command, 30 * MINUTE_MS, console.log);
  const report = join(SHARE, 'out/critest.json');
  if (!existsSync(report))
    return [{ title: ITSELF, state: 'failed', why: `it ended with exit code ${ending} and without a report` }];
  const specs = resultsOf(JSON.parse(readFileSync(report, 'utf8')) as GinkgoReport[]);
  const ground = {
    idmappedMounts: options.runtime === 'crun',
    apparmor: options.lsm === 'apparmor',
    selinux: options.lsm === 'selinux',
    nat,
  };
  const chosen = ({ name, state, message }: SpecResult): boolean => {
    if (only !== undefined) return state === 'failed' || only.includes(name);
    return focus === '' || state !== 'skipped' || message !== '';
  };
  return specs.filter(chosen).map(({ name, state, message }): Result => {
    const reason = state === 'skipped' ? reasonToSkip(name, ground) : undefined;
    if (state !== 'skipped') return { title: name, state, why: message };
    return reason === undefined
      ? { title: name, state: 'failed', why: `skipped without a reason that is expected: ${message}` }
      : { title: name, state, why: reason };
  });
}
