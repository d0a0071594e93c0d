/** What is run in the machine, and how its results are read. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type GinkgoReport, resultsOf, selection } from '../conformance/critest.ts';
import { NEEDS_NAT, reasonToSkip } from '../conformance/expected-skips.ts';
import { type Machine, SHARE } from './machine.ts';

export interface Result {
  readonly title: string;
  readonly state: 'passed' | 'failed' | 'skipped';
  /** Why it failed or was skipped. */
  readonly why: string;
}

export interface SuiteOptions {
  readonly machine: 'uml' | 'qemu';
  readonly runtime: 'crun' | 'runc';
  /** How many containers run out of memory. */
  readonly count: number;
  /** Specs of critest, a regular expression of Go's; '' is all. */
  readonly focus: string;
}

export interface Suite {
  readonly name: string;
  readonly needs: 'tree' | 'critest';
  /** What it does in a machine that has just booted and on which Berth is installed. */
  run(machine: Machine, options: SuiteOptions): Promise<readonly Result[]>;
}

const MINUTE_MS = 60_000;
/** Emulated in software, everything takes this many times longer. */
const QEMU_FACTOR = 10;

export const SUITES: readonly Suite[] = [
  script('smoke', 5 * MINUTE_MS),
  script('apparmor', 3 * MINUTE_MS),
  { name: 'shutdown', needs: 'tree', run: shutdown },
  script('oom', 30 * MINUTE_MS),
  script('oom-upstream', 30 * MINUTE_MS, { file: 'oom', environment: 'MONITOR=/usr/bin/conmon' }),
  { name: 'critest', needs: 'critest', run: critest },
];

function script(
  name: string,
  timeoutMs: number,
  { file = name, environment = '' }: { readonly file?: string; readonly environment?: string } = {},
): Suite {
  return {
    name,
    needs: 'tree',
    run: async (machine, options) => {
      const lines: string[] = [];
      const ending = await runGuest(machine, options, `${environment} /host/guest/${file}.sh`, timeoutMs, (line) => {
        lines.push(line);
        console.log(line);
      });
      const results = lines.flatMap(resultOf);
      // A suite that breaks off has not passed, however well it began; nor has one that said nothing.
      if (ending !== 0 || results.length === 0)
        results.push({ title: `${name}: the suite itself`, state: 'failed', why: `it ended with exit code ${ending}` });
      return results;
    },
  };
}

/** PURE. The result that a line of a suite is, if it is one. */
function resultOf(line: string): Result[] {
  const [, word, title = '', why = ''] = /^(ok|FAIL|skip) ([^:]*)(?:: (.*))?$/.exec(line) ?? [];
  if (word === undefined) return [];
  return [{ title, state: word === 'ok' ? 'passed' : word === 'FAIL' ? 'failed' : 'skipped', why }];
}

async function runGuest(
  machine: Machine,
  { machine: kind, runtime, count }: SuiteOptions,
  command: string,
  timeoutMs: number,
  onLine: (line: string) => void,
): Promise<number> {
  let rest = '';
  const ending = await machine.run(
    `export MACHINE=${kind} RUNTIME=${runtime} COUNT=${count}\n${command}`,
    kind === 'qemu' ? timeoutMs * QEMU_FACTOR : timeoutMs,
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
  const said = ['one', 'two', 'three'].map((name) => /TERM.*\n.* bye\n$/.test(read(`${name}.log`)));
  const journal = read('journal.log');
  // The journal itself is written to /host, which is busy to the end.
  const failures = (journal.match(/.*(Failed unmounting|target is busy|timed out. Killing).*/gi) ?? []).filter(
    (line) => !line.includes('/host'),
  );
  const result = (title: string, why: string): Result => ({ title, state: why === '' ? 'passed' : 'failed', why });
  return [
    ...before,
    result('the machine goes off by itself', machine.console.includes('Power down') ? '' : 'it had to be killed'),
    result('every container says goodbye in its last second', said.every(Boolean) ? '' : `${said.join(', ')}`),
    result('the journal tells of the end', journal.includes('Stopping berth') ? '' : 'it ends before'),
    result('nothing had to be killed, nothing stayed mounted', failures.join('; ')),
  ];
}

async function critest(machine: Machine, options: SuiteOptions): Promise<readonly Result[]> {
  const flags = ['json-report=/host/out/critest.json', 'no-color', 'timeout=3h', ...selection(options)];
  const nat = options.machine === 'qemu';
  if (!nat) flags.push(`skip=${NEEDS_NAT.source}`);
  const quoted = flags.map((each) => `-ginkgo.${each.replaceAll(' ', '.')}`).join(' ');
  const command = `export CRITEST_FLAGS='${quoted}'\n/host/guest/critest.sh`;
  const ending = await runGuest(machine, options, command, 30 * MINUTE_MS, console.log);
  const report = join(SHARE, 'out/critest.json');
  if (!existsSync(report))
    return [{ title: 'critest', state: 'failed', why: `it ended with exit code ${ending} and without a report` }];
  const specs = resultsOf(JSON.parse(readFileSync(report, 'utf8')) as GinkgoReport[]);
  const ground = { idmappedMounts: options.runtime === 'crun', apparmor: true, selinux: false, nat };
  return specs
    .filter(({ state, message }) => options.focus === '' || state !== 'skipped' || message !== '')
    .map(({ name, state, message }): Result => {
      const reason = state === 'skipped' ? reasonToSkip(name, ground) : undefined;
      if (state !== 'skipped') return { title: name, state, why: message };
      return reason === undefined
        ? { title: name, state: 'failed', why: `skipped without a reason that is expected: ${message}` }
        : { title: name, state, why: reason };
    });
}
