/**
 * `npm run vm -- uml|qemu [suite…]`: Berth on a node with systemd as PID 1, cgroup v2 and AppArmor, which few machines
 * of developers are: a virtual machine without KVM, built from Debian's packages and kept in a cache.
 *
 *     npm run vm -- uml                       what CI runs: every suite that fits into ten minutes, with crun
 *     npm run vm -- uml --all                 every suite, with runc, too, and critest with the cgroupfs driver
 *     npm run vm -- uml smoke --runtime runc
 *     npm run vm -- uml oom --count 200       how many containers run out of memory
 *     npm run vm -- uml critest --focus AppArmor
 *     npm run vm -- uml critest --focus SELinux --lsm selinux
 *     npm run vm -- qemu smoke                all controllers, NAT, PSI, two CPUs; ten times slower
 *     npm run vm -- uml --script FILE         runs a script in a machine with Berth installed, and prints what it says
 *
 * Each suite gets a machine that has just booted, and if it failed another, in which it is tried again (of critest
 * what failed). Last line: `N passed, N failed, N skipped`. Where no machine can be had for a reason in
 * expected-skips.ts, that is a skip with the reason; any other is a failure.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { alone, CACHE, CannotHave, say } from './cache.ts';
import { type EmulatorName, emulators } from './emulators.ts';
import { reasonToDoWithout } from './expected-skips.ts';
import type { Lsm } from './image.ts';
import { Machine, SHARE } from './machine.ts';
import { ITSELF, merged } from './second-try.ts';
import { fillShare, type Needs } from './share.ts';
import { type Result, type Suite, type SuiteOptions, SUITES } from './suites.ts';

const LOGS = join(import.meta.dirname, '../../build/vm');
const INSTALL_MS = 300_000;
/** What runs where nobody says what: all that fits into ten minutes. */
const USUAL = ['smoke', 'apparmor', 'crio', 'oom', 'package', 'shutdown', 'e2e', 'critest'];
/** What else there is where all is asked for. */
const MORE = ['manual', 'kubeadm', 'kubelet', 'oom-upstream', 'selinux'];
/** Suites that say nothing about the runtime, or try all of them. */
const WITHOUT_RUNTIME: ReadonlySet<string> = new Set(['package', 'manual', 'kubeadm', 'e2e']);

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    all: { type: 'boolean', default: false },
    runtime: { type: 'string', default: 'crun' },
    count: { type: 'string', default: '40' },
    focus: { type: 'string', default: '' },
    lsm: { type: 'string', default: 'apparmor' },
    script: { type: 'string', default: '' },
  },
});
const [kind = '', ...names] = positionals;
if (kind !== 'uml' && kind !== 'qemu') throw new Error('which machine? npm run vm -- uml|qemu [suite…]');
mkdirSync(LOGS, { recursive: true });
const results = flags.script === '' ? await runAll(kind) : await alone(() => runScript(kind, flags.script));
report(results);

async function runAll(machine: EmulatorName): Promise<Result[]> {
  const suites = (names.length > 0 ? names : flags.all ? [...USUAL, ...MORE] : USUAL).map(suiteNamed);
  const found: Result[] = [];
  try {
    for (const suite of suites)
      for (const how of waysOf(suite)) found.push(...(await judged(suite, { machine, ...how })));
  } catch (error) {
    if (!(error instanceof CannotHave)) throw error;
    const reason = reasonToDoWithout(error.message);
    found.push(
      reason === undefined
        ? { title: 'virtual machine', state: 'failed', why: error.message }
        : { title: 'virtual machine', state: 'skipped', why: `${reason}: ${error.message}` },
    );
  }
  return found;
}

function suiteNamed(name: string): Suite {
  const suite = SUITES.find((each) => each.name === name);
  if (suite === undefined)
    throw new Error(`no suite is called ${name}; there are ${SUITES.map((each) => each.name).join(', ')}`);
  return suite;
}

function waysOf({
  name,
  lsm = flags.lsm === 'selinux' ? 'selinux' : 'apparmor',
}: Suite): readonly Omit<SuiteOptions, 'machine'>[] {
  const both = flags.all && !WITHOUT_RUNTIME.has(name);
  const runtimes = (['crun', 'runc'] as const).filter((each) => both || each === flags.runtime);
  if (runtimes.length === 0) throw new Error(`--runtime ${flags.runtime}: want crun or runc`);
  const rest = { count: Number(flags.count), focus: flags.focus, lsm, all: flags.all };
  const ways = runtimes.map((runtime) => ({ ...rest, runtime, driver: 'systemd' as const }));
  return flags.all && name === 'critest' ? [...ways, { ...rest, runtime: 'crun', driver: 'cgroupfs' }] : ways;
}

/** What came of a suite, after a second try if the first failed. */
async function judged(suite: Suite, options: SuiteOptions): Promise<readonly Result[]> {
  const driver = options.driver === 'systemd' ? '' : `, ${options.driver}`;
  const name = `${suite.name}, ${options.runtime}${driver}, ${options.machine}`;
  let results = await tried(name, suite, options);
  const failed = results.filter(({ state }) => state === 'failed');
  const again = failed.length > 0 ? suite.again(failed) : undefined;
  if (again !== undefined) {
    for (const { title, why } of failed) say(`${name}: failed, and is tried again: ${title}: ${why}`);
    results = merged(results, await tried(`${name}, again`, suite, { ...options, ...again }));
  }
  return results.map((each) => ({ ...each, title: `${name}: ${each.title}` }));
}

/** A suite whose machine breaks down has failed; the others can still be judged. */
async function tried(name: string, suite: Suite, options: SuiteOptions): Promise<readonly Result[]> {
  try {
    return await alone(() => runSuite(name, suite, options));
  } catch (error) {
    if (error instanceof CannotHave) throw error;
    return [{ title: ITSELF, state: 'failed', why: error instanceof Error ? error.message : String(error) }];
  }
}

async function runSuite(name: string, suite: Suite, options: SuiteOptions): Promise<readonly Result[]> {
  say(`=== ${name}`);
  await fillShare(suite.needs);
  const began = Date.now();
  const machine = await boot(options.machine, options.lsm);
  const booted = Date.now();
  try {
    await install(machine, options.machine, suite.needs);
    const outcome = await suite.run(machine, options);
    const bad = outcome.filter(({ state }) => state === 'failed').length;
    const seconds = ((Date.now() - booted) / 1000).toFixed(0);
    say(`${name}: ${outcome.length} checks, ${bad} failed in ${seconds} s; boot ${booted - began} ms`);
    return outcome;
  } finally {
    await machine.run('journalctl -b --no-pager >/host/out/journal.log', INSTALL_MS, () => {});
    await machine.stop();
    for (const file of ['journal.log', 'critest.log', 'critest.json'])
      if (existsSync(join(SHARE, 'out', file)))
        copyFileSync(join(SHARE, 'out', file), join(LOGS, `${name.replaceAll(', ', '-')}.${file}`));
  }
}

/** The first that boots of those that can be had. */
async function boot(name: EmulatorName, lsm: Lsm): Promise<Machine> {
  const reasons: string[] = [];
  for (const make of emulators(name, lsm)) {
    try {
      return await Machine.start(await make());
    } catch (error) {
      if (!(error instanceof CannotHave)) throw error;
      reasons.push(error.message);
      say(error.message);
    }
  }
  throw new CannotHave(reasons.join('; '));
}

async function install(machine: Machine, kind: EmulatorName, { installs }: Needs): Promise<void> {
  let said = '';
  const script = `MACHINE=${kind} SLOWNESS=${machine.slowness} /host/guest/install.sh ${installs}`;
  const ending = await machine.run(script, INSTALL_MS, (text) => {
    said += text;
  });
  if (ending !== 0) throw new Error(`the installation ended with exit code ${ending}:\n${said}`);
}

async function runScript(kind: EmulatorName, file: string): Promise<Result[]> {
  const needs: Needs = { critest: false, installs: 'tree' };
  await fillShare(needs);
  const machine = await boot(kind, flags.lsm === 'selinux' ? 'selinux' : 'apparmor');
  try {
    await install(machine, kind, needs);
    const ending = await machine.run(readFileSync(file, 'utf8'), INSTALL_MS, (text) => process.stdout.write(text));
    return [
      {
        title: file,
        ...(ending === 0 ? { state: 'passed', why: '' } : { state: 'failed', why: `exit code ${ending}` }),
      },
    ];
  } finally {
    await machine.stop();
  }
}

function report(all: readonly Result[]): void {
  console.log('');
  for (const { title, why } of all.filter(({ state }) => state === 'skipped')) console.log(`skipped: ${title}: ${why}`);
  for (const { title, why } of all.filter((each) => each.state === 'passed' && each.why !== ''))
    console.log(`failed once, passed again: ${title}: ${why}`);
  // Whoever takes these lines out of many takes those that are indented, too.
  for (const { title, why } of all.filter(({ state }) => state === 'failed'))
    console.log(`failed: ${title}: ${why.trimEnd().replaceAll(/\n(?! )/g, '\n    ')}`);
  const count = (state: Result['state']): number => all.filter((each) => each.state === state).length;
  process.exitCode = count('failed') > 0 ? 1 : 0;
  say(`the machine is kept in ${CACHE}`);
  console.log(`${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped`);
}
