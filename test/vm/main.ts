/**
 * `npm run vm -- uml|qemu [suite…]`: Berth on a node with systemd as PID 1, cgroup v2 and AppArmor, which few machines
 * of developers are: a virtual machine without KVM, built from Debian's packages and kept in a cache.
 *
 *     npm run vm -- uml                       smoke, apparmor and oom with crun and runc, critest with crun
 *     npm run vm -- uml smoke --runtime runc
 *     npm run vm -- uml oom --count 200       how many containers run out of memory
 *     npm run vm -- uml critest --focus AppArmor
 *     npm run vm -- qemu smoke                all controllers, NAT, PSI, two CPUs; ten times slower
 *     npm run vm -- uml --script FILE         runs a script in a machine with Berth installed, and prints what it says
 *
 * Each suite gets a machine that has just booted. Last line: `N passed, N failed, N skipped`. Where no machine can be
 * had, that is a skip with the reason.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { CACHE, CannotHave, say } from './cache.ts';
import { type EmulatorName, emulators } from './emulators.ts';
import { Machine, requireNone, SHARE } from './machine.ts';
import { fillShare } from './share.ts';
import { type Result, type Suite, type SuiteOptions, SUITES } from './suites.ts';

const LOGS = join(import.meta.dirname, '../../build/vm');
const INSTALL_MS = 600_000;
/** What runs where nobody says what: all that fits into a quarter of an hour. */
const USUAL = ['smoke', 'apparmor', 'oom', 'critest'];

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runtime: { type: 'string', multiple: true, default: [] },
    count: { type: 'string', default: '20' },
    focus: { type: 'string', default: '' },
    script: { type: 'string', default: '' },
  },
});
const [kind = '', ...names] = positionals;
if (kind !== 'uml' && kind !== 'qemu') throw new Error('which machine? npm run vm -- uml|qemu [suite…]');
requireNone();
mkdirSync(LOGS, { recursive: true });
const results = flags.script === '' ? await runAll(kind) : await runScript(kind, flags.script);
report(results);

async function runAll(machine: EmulatorName): Promise<Result[]> {
  const suites = (names.length === 0 ? USUAL : names).map(suiteNamed);
  const found: Result[] = [];
  try {
    for (const suite of suites) {
      for (const runtime of runtimesOf(suite)) {
        found.push(...(await runSuite(suite, { machine, runtime, count: Number(flags.count), focus: flags.focus })));
      }
    }
  } catch (error) {
    if (!(error instanceof CannotHave)) throw error;
    found.push({ title: 'virtual machine', state: 'skipped', why: error.message });
  }
  return found;
}

function suiteNamed(name: string): Suite {
  const suite = SUITES.find((each) => each.name === name);
  if (suite === undefined)
    throw new Error(`no suite is called ${name}; there are ${SUITES.map((each) => each.name).join(', ')}`);
  return suite;
}

function runtimesOf({ name }: Suite): readonly SuiteOptions['runtime'][] {
  const given = flags.runtime.flatMap((each) => each.split(','));
  const both = ['crun', 'runc'] as const;
  if (given.length > 0) return both.filter((each) => given.includes(each));
  return name === 'critest' ? ['crun'] : both;
}

async function runSuite(suite: Suite, options: SuiteOptions): Promise<Result[]> {
  const name = `${suite.name}, ${options.runtime}, ${options.machine}`;
  say(`=== ${name}`);
  await fillShare(suite.needs);
  const began = Date.now();
  const machine = await boot(options.machine);
  const booted = Date.now();
  try {
    await install(machine, options.machine);
    const outcome = await suite.run(machine, options);
    const bad = outcome.filter(({ state }) => state === 'failed').length;
    const seconds = ((Date.now() - booted) / 1000).toFixed(0);
    say(`${name}: ${outcome.length} checks, ${bad} failed in ${seconds} s; boot ${booted - began} ms`);
    return outcome.map((each) => ({ ...each, title: `${name}: ${each.title}` }));
  } finally {
    await machine.run('journalctl -b --no-pager >/host/out/journal.log', INSTALL_MS, () => {});
    await machine.stop();
    for (const file of ['journal.log', 'critest.log', 'critest.json'])
      if (existsSync(join(SHARE, 'out', file)))
        copyFileSync(join(SHARE, 'out', file), join(LOGS, `${name.replaceAll(', ', '-')}.${file}`));
  }
}

/** The first that boots of those that can be had. */
async function boot(name: EmulatorName): Promise<Machine> {
  const reasons: string[] = [];
  for (const make of emulators(name)) {
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

async function install(machine: Machine, kind: EmulatorName): Promise<void> {
  let said = '';
  const ending = await machine.run(`MACHINE=${kind} /host/guest/install.sh`, INSTALL_MS, (text) => {
    said += text;
  });
  if (ending !== 0) throw new Error(`the installation ended with exit code ${ending}:\n${said}`);
}

async function runScript(kind: EmulatorName, file: string): Promise<Result[]> {
  await fillShare('tree');
  const machine = await boot(kind);
  try {
    await install(machine, kind);
    const ending = await machine.run(readFileSync(file, 'utf8'), INSTALL_MS, (text) => process.stdout.write(text));
    return [{ title: file, state: ending === 0 ? 'passed' : 'failed', why: `exit code ${ending}` }];
  } finally {
    await machine.stop();
  }
}

function report(all: readonly Result[]): void {
  console.log('');
  for (const { title, why } of all.filter(({ state }) => state === 'skipped')) console.log(`skipped: ${title}: ${why}`);
  for (const { title, why } of all.filter(({ state }) => state === 'failed')) console.log(`failed: ${title}: ${why}`);
  const count = (state: Result['state']): number => all.filter((each) => each.state === state).length;
  process.exitCode = count('failed') > 0 ? 1 : 0;
  say(`the machine is kept in ${CACHE}`);
  console.log(`${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped`);
}
