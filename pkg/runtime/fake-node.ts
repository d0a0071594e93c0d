/** The node of the fakes: what a daemon's death does not touch, and what is to go wrong. */
import { RuntimeError } from '../base/errors.ts';
import type { ContainerId, ProcessRef, SandboxId } from '../base/ids.ts';
import { abortError, type Op } from '../base/op.ts';
import { fired } from '../base/time.ts';
import type { LinuxResources, RuntimeSpec } from '../oci/spec-types.ts';
import type { ExitRecord, HostDevice, MountSource, NamespaceKind, TerminalSize } from '../ports/runtime.ts';
import { FakeProcess, SIGKILL } from './fake-process.ts';

/** Every call that can be made to fail, hang or crash. */
export type FakeOperation =
  | 'create'
  | 'attach'
  | 'resize'
  | 'reopenLog'
  | 'dropEmptyLog'
  | 'destroyMonitor'
  | 'features'
  | 'start'
  | 'kill'
  | 'delete'
  | 'status'
  | 'update'
  | 'pause'
  | 'resume'
  | 'list'
  | 'exec'
  | 'pin'
  | 'unpin'
  | 'pinned'
  | 'listPinned'
  | 'mountSource'
  | 'devices'
  | 'mountShm'
  | 'unmount'
  | 'removeTree'
  | 'ensureCgroup'
  | 'showCgroup'
  | 'destroyCgroup'
  | 'dial'
  | 'mount'
  | 'mountVolume'
  | 'confirm'
  | 'destroyRoot'
  | 'add'
  | 'del'
  | 'checkUse'
  | 'save'
  | 'forget';

/** Before the call has had its effect, or after it. */
export type FakeMoment = 'before' | 'after';

interface Planned {
  readonly moment: FakeMoment;
  readonly act: RuntimeError | 'crash' | Promise<void>;
}

/** A container as its runtime and its monitor know it. */
export interface FakeContainer {
  readonly id: ContainerId;
  readonly bundle: string;
  readonly root: string;
  readonly process: FakeProcess;
  readonly monitor: FakeProcess;
  readonly logPath: string;
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly cgroupsPath: string;
  state: 'created' | 'running' | 'stopped' | 'paused';
  oomKilled: boolean;
  size: TerminalSize | undefined;
  readonly updates: LinuxResources[];
}

const START_OF_TIME = 1_700_000_000_000_000_000n;
const BOOT_TICKS = 100n;

/** The kernel, the disk and everything that runs: what a daemon's death does not touch. */
export class FakeNode {
  readonly containers = new Map<ContainerId, FakeContainer>();
  /** By pid; the ended ones are gone. */
  readonly processes = new Map<number, FakeProcess>();
  /** The exit directory. */
  readonly exits = new Map<ContainerId, ExitRecord>();
  /** The log files, by path; lines without time stamps: `stdout F text`. */
  readonly logs = new Map<string, string[]>();
  readonly pins = new Map<SandboxId, Map<NamespaceKind, string>>();
  /** Paths that something is mounted on. */
  readonly mounts = new Set<string>();
  readonly cgroups = new Set<string>();
  /** What ensureCgroup was last told, by path. */
  readonly cgroupLimits = new Map<string, LinuxResources>();
  /** PID namespaces that a daemon holds open, by the path that leads to them. */
  readonly heldNamespaces = new Set<string>();
  /** Host paths that exist, for mountSource. */
  readonly paths = new Map<string, MountSource>();
  readonly hostDevices = new Map<string, HostDevice>();
  /** config.json by bundle directory, where a test wants a program other than `sleep` or a cgroup. */
  readonly specs = new Map<string, RuntimeSpec>();
  /** SELinux labels that were given, by path. */
  readonly labels = new Map<string, string>();
  /** Counters of the OOM killer by path, and by `above` and a slice. */
  readonly oomKills = new Map<string, bigint>();
  /** Daemons of ours that run beside the one that is looked at. */
  otherDaemons = 0;
  /** How often somebody has looked through all cgroups. */
  looksForCgroups = 0;
  /** Memory that every cgroup uses. */
  memoryUsage: bigint | undefined;
  /** How often each operation was called. */
  readonly calls = new Map<FakeOperation, number>();
  /** How many calls there were together. */
  callCount = 0;
  /** Which operation `planAt` hit. */
  operationAt: FakeOperation | undefined;
  /** Directories that removeTree may empty on the real disk; none by default. */
  readonly ownRoots: readonly string[];
  /** Held by a test: monitors whose container has ended still drain its output, and have written no exit file. */
  drainGate: Promise<void> | undefined;
  /** Starts of a daemon that died, which go on without it. */
  readonly startsUnderWay = new Map<ContainerId, Promise<void>>();
  /** Whose such starts somebody has asked about. */
  readonly startsAsked = new Set<ContainerId>();
  /** How far the clock of the wall has been set, what has passed beside what really did, and who looked at that. */
  readonly clocks = { wallStepMs: 0, passedMs: 0, looks: 0 };
  nextPid = 1000;
  readonly exitWatchers = new Set<(record: ExitRecord) => void>();
  /** Whose monitor a process is. */
  readonly monitors = new WeakMap<FakeProcess, ContainerId>();
  readonly #plans = new Map<FakeOperation, Planned[]>();
  readonly #broken = new Map<FakeOperation, RuntimeError>();
  readonly #sleepers = new Set<{ readonly until: number; readonly wake: () => void }>();
  #passedMs = 0;
  #at: (Planned & { readonly call: number }) | undefined;
  #epoch = 0;
  #served = false;
  #ticks = BOOT_TICKS;
  #nanoseconds = START_OF_TIME;

  constructor(options: { readonly ownRoots?: readonly string[] } = {}) {
    this.ownRoots = options.ownRoots ?? [];
  }

  /** A daemon starts: its number, by which the fakes know it. Those of earlier daemons never answer again. */
  begin(): number {
    this.crash();
    this.#served = true;
    return this.#epoch;
  }

  /** The daemon dies: whatever its fakes are doing stops there and never settles. */
  crash(): void {
    this.#epoch++;
    this.#served = false;
    this.exitWatchers.clear();
  }

  /** True after a crash, until the next boot. */
  get dead(): boolean {
    return !this.#served;
  }

  /** The machine restarts: only ownRoots and `paths` survive. */
  reboot(): void {
    this.crash();
    for (const process of this.processes.values()) process.exit(128 + SIGKILL);
    for (const store of [this.containers, this.processes, this.exits, this.pins, this.mounts, this.cgroups])
      store.clear();
  }

  /** The next call of `operation` throws `error`, before or after it had its effect. Plans queue up. */
  failNext(operation: FakeOperation, error: RuntimeError, moment: FakeMoment = 'before'): void {
    this.#plan(operation, { moment, act: error });
  }

  /** The next call of `operation` kills the daemon. */
  crashNext(operation: FakeOperation, moment: FakeMoment = 'before'): void {
    this.#plan(operation, { moment, act: 'crash' });
  }

  /** The next call of `operation` waits until the returned function is called, or its op is over. */
  hangNext(operation: FakeOperation, moment: FakeMoment = 'before'): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#plan(operation, { moment, act: promise });
    return resolve;
  }

  /** The `call`-th call from now on, whatever it is, throws or kills the daemon. */
  planAt(call: number, act: RuntimeError | 'crash', moment: FakeMoment): void {
    this.#at = { call: this.callCount + call, moment, act };
  }

  /** Every call of `operation` throws `error`, until `mend`. */
  breakDown(operation: FakeOperation, error: RuntimeError): void {
    this.#broken.set(operation, error);
  }

  /** Whatever broke down works again. */
  mend(): void {
    this.#broken.clear();
  }

  /** Forgets every plan that has not come true. */
  clearPlans(): void {
    this.#plans.clear();
    this.#at = undefined;
  }

  /** What a runtime does to start a container. */
  async startByHand(id: ContainerId): Promise<void> {
    const container = this.#container(id);
    if (container.state !== 'created')
      throw new RuntimeError('FailedPrecondition', `cannot start a container that is ${container.state}: ${id}`);
    container.state = 'running';
    container.process.run(this.specs.get(container.bundle)?.process.args ?? ['sleep', 'inf']);
    await settle();
  }

  /** The container's first process ends by itself. */
  async exit(
    id: ContainerId,
    exitCode: number,
    how: { readonly oomKilled: boolean } = { oomKilled: false },
  ): Promise<void> {
    const container = this.#container(id);
    container.oomKilled = how.oomKilled;
    container.process.exit(exitCode);
    await settle();
  }

  /** The monitor dies without a word: the exit of its container will not be recorded. */
  async killMonitor(id: ContainerId): Promise<void> {
    this.#container(id).monitor.exit(128 + SIGKILL);
    await settle();
  }

  /** What is still on the node, one line each, sorted; empty when everything was given back. */
  leaks(): string[] {
    const found = [
      ...[...this.processes.keys()].map((pid) => `process ${pid}`),
      ...[...this.containers.keys()].map((id) => `container ${id}`),
      ...[...this.exits.keys()].map((id) => `exit ${id}`),
      ...[...this.pins.keys()].map((id) => `namespaces ${id}`),
      ...[...this.mounts].map((path) => `mount ${path}`),
      ...[...this.cgroups].map((path) => `cgroup ${path}`),
    ];
    return found.sort();
  }

  /** Nanoseconds since the epoch; later on every call, unless somebody has set the clock. */
  now(): bigint {
    this.#nanoseconds += 1_000_000n;
    return this.#nanoseconds + BigInt(this.clocks.wallStepMs) * 1_000_000n;
  }

  /** Milliseconds of a clock that nobody can set, and that a test may let run ahead. */
  monotonicMs(): number {
    this.clocks.looks++;
    return performance.now() + this.clocks.passedMs;
  }

  /** What `World.pause` is here: it ends when somebody lets the time pass. */
  async pause(ms: number, signal: AbortSignal): Promise<void> {
    const until = this.#passedMs + ms;
    const { promise, resolve } = Promise.withResolvers<void>();
    const sleeper = { until, wake: resolve };
    this.#sleepers.add(sleeper);
    await Promise.race([promise, fired(signal)]);
    this.#sleepers.delete(sleeper);
  }

  /** Lets time pass for all that pauses; the clocks do not show it. */
  pass(ms: number): void {
    this.#passedMs += ms;
    for (const { until, wake } of this.#sleepers) if (until <= this.#passedMs) wake();
  }

  /** How many pause just now. */
  get pausing(): number {
    return this.#sleepers.size;
  }

  /** A new process in `cgroup`. */
  spawn(cgroup: string): FakeProcess {
    const pid = this.nextPid++;
    const process = new FakeProcess({ pid, startTicks: ++this.#ticks }, cgroup);
    this.processes.set(pid, process);
    void process.ended.then(() => {
      if (this.processes.get(pid) === process) this.processes.delete(pid);
    });
    return process;
  }

  /** The process that `ref` names, if it lives. */
  find(ref: ProcessRef): FakeProcess | undefined {
    const process = this.processes.get(ref.pid);
    return process?.alive === true && process.ref.startTicks === ref.startTicks ? process : undefined;
  }

  /** Runs one call of a fake: the plans before, the effect, the plans after. For the fakes only. */
  async call<T>(epoch: number, operation: FakeOperation, op: Op | undefined, effect: () => T | Promise<T>): Promise<T> {
    this.calls.set(operation, (this.calls.get(operation) ?? 0) + 1);
    op?.stage(operation);
    const isAt = ++this.callCount === this.#at?.call;
    if (isAt) this.operationAt = operation;
    const planned = this.#plans.get(operation)?.shift() ?? (isAt ? this.#at : undefined);
    const plan = canBe(operation, planned) ? planned : undefined;
    await this.#moment(epoch, operation, op, plan?.moment === 'before' ? plan.act : this.#broken.get(operation));
    const result = await effect();
    await this.#moment(epoch, operation, op, plan?.moment === 'after' ? plan.act : undefined);
    return result;
  }

  /** True while the daemon of `epoch` lives. */
  current(epoch: number): boolean {
    return epoch === this.#epoch;
  }

  async #moment(
    epoch: number,
    operation: FakeOperation,
    op: Op | undefined,
    act: Planned['act'] | undefined,
  ): Promise<void> {
    await Promise.resolve();
    // What a dead daemon still had under way does not kill the next one.
    if (act === 'crash' && this.current(epoch)) this.crash();
    if (act instanceof RuntimeError && this.current(epoch)) throw act;
    if (act instanceof Promise) await (op === undefined ? act : Promise.race([act, fired(op.signal)]));
    if (!this.current(epoch)) await never();
    if (op?.signal.aborted === true) throw abortError(op, operation);
  }

  #plan(operation: FakeOperation, planned: Planned): void {
    this.#plans.set(operation, [...(this.#plans.get(operation) ?? []), planned]);
  }

  #container(id: ContainerId): FakeContainer {
    const container = this.containers.get(id);
    if (container === undefined) throw new RuntimeError('NotFound', `container ${id} does not exist`);
    return container;
  }
}

/** A record is replaced whole or not at all: what fails to save it has not done so. */
function canBe(operation: FakeOperation, planned: Planned | undefined): boolean {
  return operation !== 'save' || !(planned?.act instanceof RuntimeError) || planned.moment === 'before';
}

/** Lets everything that hangs on promises already settled happen. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await Promise.resolve();
}

/** What a dead daemon waits for. */
export function never(): Promise<never> {
  return new Promise<never>(() => {});
}
