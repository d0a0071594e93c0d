/**
 * What a container with processors of its own changes of the node: their idle states and governor (sysfs), where
 * interrupts go (/proc/irq, irqbalance), whom the scheduler balances, the quota of its pod. Tests give a tree of their
 * own in place of `/`.
 */
import { constants, existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseCpus, showCpus, unionOf } from '../base/cpu-list.ts';
import { errnoOf, explain, RuntimeError } from '../base/errors.ts';
import { readJson, replaceFile } from '../base/files.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { KeyedMutex } from '../base/sync.ts';
import type { CgroupLayout } from '../ports/kernel.ts';
import type { Cpus, CpuTuning } from '../ports/runtime.ts';
import { cgroups, capture } from '../sys/index.ts';
import { bannedCpus, isWhole, withBannedCpus, withCpus } from './cpu-masks.ts';

/** What `tune` has changed, or is about to. */
interface Journal {
  readonly files: readonly { readonly path: string; readonly before: string }[];
  readonly withoutInterrupts: readonly number[];
  /** Directories of cgroups above the container's, from the top, that have `cpus` for their exclusive ones. */
  readonly exclusive: readonly string[];
  readonly cpus: readonly number[];
}

/** How it is set up. */
export interface LinuxCpusOptions {
  /** Where /proc and /sys are: '' on a node. */
  readonly root: string;
  /** `irqbalance_config_file` and `irqbalance_config_restore_file`; '' = none. */
  readonly irqbalance: string;
  readonly irqbalanceOriginal: string;
  readonly layout: () => CgroupLayout;
  /** Runs a command; its exit code, undefined if it is not there. */
  readonly run?: (
    op: Op,
    argv: readonly [string, ...string[]],
    env?: Readonly<Record<string, string>>,
  ) => Promise<number | undefined>;
}

const MASK = '/proc/irq/default_smp_affinity';
const CPU_DIR = '/sys/devices/system/cpu';

/** The processors of this node; see Cpus for what each method promises. */
export class LinuxCpus implements Cpus {
  readonly #options: LinuxCpusOptions;
  /** Masks and lists are read, changed and written. */
  readonly #turns = new KeyedMutex<'cpus'>();

  constructor(options: LinuxCpusOptions) {
    this.#options = options;
  }

  /**
   * After a boot, irqbalance's configuration may still ban processors of containers that are gone: it gets back what
   * was in it before the first of them, as CRI-O does (RestoreIrqBalanceConfig).
   */
  async recover(op: Op): Promise<void> {
    const { irqbalance, irqbalanceOriginal } = this.#options;
    if (irqbalance === '' || irqbalanceOriginal === '') return;
    const [mask, config] = await Promise.all([this.#read(MASK), textOf(irqbalance)]);
    if (mask === undefined || config === undefined || !isWhole(mask)) return;
    const original = await textOf(irqbalanceOriginal);
    if (original === undefined) return await writeFile(irqbalanceOriginal, bannedCpus(config));
    if (original.trim() === bannedCpus(config)) return;
    op.log.info('irqbalance gets back the CPUs that it was to leave alone', { path: irqbalance, banned: original });
    await writeFile(irqbalance, withBannedCpus(config, original.trim()));
    await this.#restartIrqbalance(op);
  }

  async tune(op: Op, journal: string, tuning: CpuTuning): Promise<void> {
    await this.#turns.run('cpus', async () => {
      // Of a start that was tried before.
      await this.#restore(op, journal);
      const changes = await this.#changes(tuning);
      const exclusive = tuning.isolatedCgroup === '' ? [] : this.#cgroupsAbove(tuning.isolatedCgroup);
      const noted: Journal = {
        files: changes.map(({ path, before }) => ({ path, before })),
        withoutInterrupts: tuning.withoutInterrupts,
        exclusive: exclusive.slice(0, -1),
        cpus: tuning.cpus,
      };
      await replaceFile(journal, JSON.stringify(noted), 'memory');
      try {
        for (const { path, after } of changes) await write(path, after);
        await this.#leadInterrupts(op, tuning.withoutInterrupts, 'take');
        if (tuning.isolatedCgroup !== '') await this.#isolate(tuning, exclusive);
        for (const cgroup of tuning.quotaCgroups) await this.#raiseQuota(cgroup, tuning.quotaBy);
      } catch (cause) {
        await this.#restore(op, journal);
        throw cause;
      }
    });
  }

  async restore(op: Op, journal: string): Promise<void> {
    // Of nearly every container, in memory: no detour through the thread pool.
    if (!existsSync(journal)) return;
    await this.#turns.run('cpus', () => this.#restore(op, journal));
  }

  async siblings(cpu: number): Promise<readonly number[]> {
    return parseCpus((await this.#read(`${CPU_DIR}/cpu${cpu}/topology/thread_siblings_list`)) ?? String(cpu));
  }

  /** The files of sysfs to be changed, with what is in them. @throws FailedPrecondition for one that is not there. */
  async #changes({ cpus, resumeLatency, governor }: CpuTuning): Promise<readonly Change[]> {
    const changes: Change[] = [];
    for (const cpu of cpus) {
      const of = (file: string): string => `${CPU_DIR}/cpu${cpu}/${file}`;
      if (resumeLatency !== undefined)
        changes.push(await this.#change(of('power/pm_qos_resume_latency_us'), resumeLatency));
      if (governor === undefined) continue;
      const available = (await this.#read(of('cpufreq/scaling_available_governors'))) ?? '';
      if (!available.split(/\s+/).includes(governor))
        throw unmet(`governor ${governor} not available for cpu ${cpu}`, new Error(`there are: ${available.trim()}`));
      changes.push(await this.#change(of('cpufreq/scaling_governor'), governor));
    }
    return changes;
  }

  async #change(path: string, after: string): Promise<Change> {
    const before = await this.#read(path);
    if (before === undefined) throw unmet(`this node has no ${path}; leave the annotation out`);
    return { path: `${this.#options.root}${path}`, before: before.trim(), after };
  }

  async #restore(op: Op, path: string): Promise<void> {
    const found = await readJson(path, limits.configFileBytes).catch(() => undefined);
    if (found === undefined) return await rm(path, { force: true });
    const journal = found as Journal;
    const steps: readonly (() => Promise<void>)[] = [
      ...journal.files.map((file) => () => write(file.path, file.before)),
      () => this.#leadInterrupts(op, journal.withoutInterrupts, 'put'),
      ...[...journal.exclusive].reverse().map((directory) => () => exclude(directory, journal.cpus, 'take')),
    ];
    for (const step of steps)
      await step().catch((cause: unknown) => {
        op.log.warn('a setting of the CPUs cannot be given back, ignoring', { cause: explain(cause) });
      });
    await rm(path, { force: true });
  }

  async #leadInterrupts(op: Op, cpus: readonly number[], change: 'put' | 'take'): Promise<void> {
    if (cpus.length === 0) return;
    const before = await this.#read(MASK);
    if (before === undefined) throw unmet(`this node has no ${MASK}; leave irq-load-balancing out`);
    const { mask, banned } = withCpus(before, cpus, change);
    await write(`${this.#options.root}${MASK}`, mask);
    const { irqbalance } = this.#options;
    const config = irqbalance === '' ? undefined : await textOf(irqbalance);
    if (config !== undefined) await writeFile(irqbalance, withBannedCpus(config, banned));
    // As with CRI-O, a pod does not fail because irqbalance does.
    if (config !== undefined && (await this.#restartIrqbalance(op))) return;
    await this.#run(op, ['irqbalance', '--oneshot'], { IRQBALANCE_BANNED_CPUS: banned });
  }

  /** True if it is a service here. */
  async #restartIrqbalance(op: Op): Promise<boolean> {
    if ((await this.#run(op, ['systemctl', 'is-enabled', '--quiet', 'irqbalance'])) !== 0) return false;
    return (await this.#run(op, ['systemctl', 'restart', 'irqbalance'])) === 0;
  }

  async #run(
    op: Op,
    argv: readonly [string, ...string[]],
    env?: Readonly<Record<string, string>>,
  ): Promise<number | undefined> {
    const exitCode = await (this.#options.run ?? runCommand)(op, argv, env);
    if (exitCode !== 0)
      op.log.debug('a command about interrupts did not succeed', { command: argv.join(' '), exitCode });
    return exitCode;
  }

  /** Cgroup v2 from the top to the container's, v1 the container's alone. */
  #cgroupsAbove(cgroupsPath: string): readonly string[] {
    const cpuset = cgroups.hierarchyOf(this.#options.layout(), 'cpuset');
    if (cpuset === undefined) throw unmet('this node has no cgroup controller cpuset; leave cpu-load-balancing out');
    const own = `${this.#options.root}${cgroups.directoryOf(cpuset, cgroups.pathOf(cgroupsPath))}`;
    if (cpuset.version === 1) return [own];
    const top = `${this.#options.root}${cpuset.mountPoint}`;
    const above: string[] = [];
    for (let directory = own; directory.length > top.length; directory = dirname(directory)) above.unshift(directory);
    return above;
  }

  /**
   * v1: nobody may balance what this cgroup has (the kubelet and others see to those above). v2: a remote partition
   * (Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus.partition): its processors are exclusive all the way down.
   */
  async #isolate({ cpus }: CpuTuning, directories: readonly string[]): Promise<void> {
    const own = directories.at(-1) ?? '';
    if (cgroups.hierarchyOf(this.#options.layout(), 'cpuset')?.version === 1)
      return await write(join(own, 'cpuset.sched_load_balance'), '0');
    for (const directory of directories) await exclude(directory, cpus, 'put');
    const partition = join(own, 'cpuset.cpus.partition');
    await write(partition, 'isolated');
    const state = ((await textOf(partition)) ?? '').trim();
    if (state !== 'isolated') throw unmet(`CPUs ${showCpus(cpus)} cannot be set apart: the kernel says ${state}`);
  }

  async #raiseQuota(quotaCgroup: string, quotaBy: CpuTuning['quotaBy']): Promise<void> {
    const cpu = cgroups.hierarchyOf(this.#options.layout(), 'cpu');
    if (cpu === undefined) return;
    const directory = `${this.#options.root}${cgroups.directoryOf(cpu, cgroups.pathOf(quotaCgroup))}`;
    if (cpu.version === 1) {
      const file = join(directory, 'cpu.cfs_quota_us');
      const [quota, period] = await Promise.all([textOf(file), textOf(join(directory, 'cpu.cfs_period_us'))]);
      if (quota !== undefined && Number(quota) > 0)
        await write(file, quotaBy === 'all' ? '-1' : String(Number(quota) + quotaBy * Number(period)));
      return;
    }
    const file = join(directory, 'cpu.max');
    const [quota = 'max', period] = ((await textOf(file)) ?? 'max').trim().split(' ');
    if (quota !== 'max')
      await write(file, quotaBy === 'all' ? 'max' : String(Number(quota) + quotaBy * Number(period)));
  }

  #read(path: string): Promise<string | undefined> {
    return textOf(`${this.#options.root}${path}`);
  }
}

interface Change {
  readonly path: string;
  readonly before: string;
  readonly after: string;
}

/** Puts processors among the exclusive ones of a cgroup, or takes them out. Content if there is none to take out of. */
async function exclude(directory: string, cpus: readonly number[], change: 'put' | 'take'): Promise<void> {
  const file = join(directory, 'cpuset.cpus.exclusive');
  const text = await textOf(file);
  if (text === undefined) {
    if (change === 'take') return;
    throw unmet(`this kernel has no ${file} (Linux 6.7); leave cpu-load-balancing out`);
  }
  const before = parseCpus(text);
  const after = change === 'put' ? unionOf(before, cpus) : before.filter((cpu) => !cpus.includes(cpu));
  // The kernel takes a line without anything for none, and no line for no write.
  if (showCpus(after) !== showCpus(before)) await write(file, after.length === 0 ? '\n' : showCpus(after));
}

/** undefined if absent. */
async function textOf(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return undefined;
    throw cause;
  }
}

/** A file of the kernel is never made. */
async function write(path: string, value: string): Promise<void> {
  try {
    await writeFile(path, value, { flag: constants.O_WRONLY | constants.O_TRUNC });
  } catch (cause) {
    throw unmet(`${path} cannot be ${JSON.stringify(value)}`, cause);
  }
}

async function runCommand(
  op: Op,
  argv: readonly [string, ...string[]],
  env?: Readonly<Record<string, string>>,
): Promise<number | undefined> {
  try {
    const { exitCode } = await capture(op, {
      argv:
        env === undefined ? argv : ['env', ...Object.entries(env).map(([key, value]) => `${key}=${value}`), ...argv],
      stdoutMax: 0,
      stderrMax: limits.commandErrorBytes,
    });
    return exitCode;
  } catch {
    return undefined;
  }
}

function unmet(why: string, cause?: unknown): RuntimeError {
  return new RuntimeError('FailedPrecondition', why, { cause });
}
