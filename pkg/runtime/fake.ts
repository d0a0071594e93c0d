/**
 * A node in memory. The fakes here are programs that keep the promises of index.ts, not lists of expected calls:
 * containers run, die, leave exit records and namespaces behind, and all of that outlives the fakes themselves.
 *
 *   const node = new FakeNode();
 *   let world = node.boot();            // a daemon's view: monitor, runtime, namespaces, processes, host
 *   node.failNext('create', error);     // the next monitor.create throws
 *   node.crashNext('start', 'after');   // the daemon dies right after runtime.start had its effect
 *   world = node.boot();                // the next daemon finds what the last one left; the old fakes never answer again
 *   node.leaks();                       // what is still there, in words
 *
 * Deterministic: no timers, no disk (but for `ownRoots`), no randomness; every call yields to the microtask queue
 * before and after its effect, so that interleavings happen.
 */
import { rm } from 'node:fs/promises';
import { RuntimeError } from '../base/errors.ts';
import type { ContainerId, ProcessRef, SandboxId } from '../base/ids.ts';
import { abortError, type Op } from '../base/op.ts';
import type { LinuxResources, RuntimeProcess, RuntimeSpec } from '../oci/spec-types.ts';
import type {
  AttachChannel,
  CgroupValue,
  Connection,
  CreateRequest,
  ExecStdio,
  ExitRecord,
  ExitStatus,
  Host,
  HostDevice,
  Monitor,
  MountSource,
  NamespaceKind,
  Namespaces,
  OciRuntime,
  OciStatus,
  PinRequest,
  Processes,
  RuntimeFeatures,
  RuntimeHandler,
  TerminalSize,
} from '../ports/runtime.ts';

/** Every call that can be made to fail, hang or crash. */
export type FakeOperation =
  | 'create'
  | 'attach'
  | 'resize'
  | 'reopenLog'
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
  | 'destroyCgroup'
  | 'dial';

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

type Output = { readonly stream: 'stdout' | 'stderr'; readonly data: Uint8Array };

const START_OF_TIME = 1_700_000_000_000_000_000n;
const BOOT_TICKS = 100n;
const SIGKILL = 9;
const SIGTERM = 15;

/**
 * A process that understands `true`, `false`, `sleep N`, `cat`, `echo TEXT`, and `sh -c` of those joined by `;`, with
 * `exit N`, `trap 'exit N' TERM`, `trap '' TERM`, `while` (for ever) and `>&2`. Real shells do the same with the same
 * words, which is how one conformance suite runs on both.
 */
export class FakeProcess {
  readonly ref: ProcessRef;
  readonly cgroup: string;
  readonly #listeners = new Set<(output: Output) => void>();
  readonly #ended = Promise.withResolvers<number>();
  #exitCode: number | undefined;
  #onTerm: number | 'ignored' = 128 + SIGTERM;
  #reading = false;
  /**
   * It has no signal handlers yet, so that the kernel drops all but SIGKILL: the init of a PID namespace at its start.
   */
  deaf = false;
  /** It has executed a program since it was forked. */
  executed = false;

  constructor(ref: ProcessRef, cgroup: string) {
    this.ref = ref;
    this.cgroup = cgroup;
  }

  get alive(): boolean {
    return this.#exitCode === undefined;
  }

  /** Resolves with the exit code when the process ends. */
  get ended(): Promise<number> {
    return this.#ended.promise;
  }

  /** Begins to execute `args`; may end at once. */
  run(args: readonly string[]): void {
    this.executed = true;
    const script = args[0]?.endsWith('sh') === true && args[1] === '-c' ? (args[2] ?? '') : args.join(' ');
    for (const statement of script.split(';').map((each) => each.trim())) {
      if (!this.alive || this.#reading) return;
      if (/^(sleep|while)\b/.test(statement)) return;
      this.#execute(statement);
    }
    if (this.alive && !this.#reading) this.exit(0);
  }

  /** What the process writes from now on. Returns how to stop listening. */
  listen(listener: (output: Output) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Bytes to its stdin; only `cat` reads them. */
  input(data: Uint8Array): void {
    if (this.#reading && this.alive) this.#emit('stdout', data);
  }

  closeInput(): void {
    if (this.#reading) this.exit(0);
  }

  signal(signal: number): void {
    if (this.deaf && signal !== SIGKILL) return;
    if (signal === SIGKILL) this.exit(128 + SIGKILL);
    else if (signal === SIGTERM && this.#onTerm !== 'ignored') this.exit(this.#onTerm);
    else if (signal !== 0 && signal !== SIGTERM) this.exit(128 + signal);
  }

  exit(code: number): void {
    if (this.#exitCode !== undefined) return;
    this.#exitCode = code;
    this.#ended.resolve(code);
  }

  #execute(statement: string): void {
    const [word = '', ...rest] = statement.split(/\s+/);
    if (word === 'exit') this.exit(Number(rest[0] ?? '0'));
    else if (word === 'false') this.exit(1);
    else if (word === 'cat') this.#reading = true;
    else if (word === 'trap')
      this.#onTerm = /'exit (\d+)'/.test(statement) ? Number(/'exit (\d+)'/.exec(statement)?.[1]) : 'ignored';
    else if (word === 'echo') {
      const toStderr = statement.endsWith('>&2');
      this.#emit(toStderr ? 'stderr' : 'stdout', Buffer.from(`${rest.filter((each) => each !== '>&2').join(' ')}\n`));
    }
  }

  #emit(stream: 'stdout' | 'stderr', data: Uint8Array): void {
    for (const listener of [...this.#listeners]) listener({ stream, data });
  }
}

/** What one daemon sees of the node. */
export interface FakeView {
  readonly monitor: FakeMonitor;
  readonly runtime: FakeRuntime;
  readonly runtimeFor: (handler: string) => FakeRuntime;
  readonly namespaces: FakeNamespaces;
  readonly processes: FakeProcesses;
  readonly host: FakeHost;
}

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
  /** Host paths that exist, for mountSource. */
  readonly paths = new Map<string, MountSource>();
  readonly hostDevices = new Map<string, HostDevice>();
  /** config.json by bundle directory, where a test wants a program other than `sleep` or a cgroup. */
  readonly specs = new Map<string, RuntimeSpec>();
  /** SELinux labels that were given, by path. */
  readonly labels = new Map<string, string>();
  /** Memory that every cgroup uses. */
  memoryUsage: bigint | undefined;
  /** How often each operation was called. */
  readonly calls = new Map<FakeOperation, number>();
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
  readonly #plans = new Map<FakeOperation, Planned[]>();
  #epoch = 0;
  #served = false;
  #ticks = BOOT_TICKS;
  #nanoseconds = START_OF_TIME;

  constructor(options: { readonly ownRoots?: readonly string[] } = {}) {
    this.ownRoots = options.ownRoots ?? [];
  }

  /** A daemon starts: fresh fakes over the same node. The fakes of earlier daemons never answer again. */
  boot(): FakeView {
    this.crash();
    this.#served = true;
    const epoch = this.#epoch;
    const runtimeFor = (name: string): FakeRuntime => new FakeRuntime(this, epoch, fakeHandler(name));
    return {
      monitor: new FakeMonitor(this, epoch),
      runtime: runtimeFor('fake'),
      runtimeFor,
      namespaces: new FakeNamespaces(this, epoch),
      processes: new FakeProcesses(this, epoch),
      host: new FakeHost(this, epoch),
    };
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

  /** Forgets every plan that has not come true. */
  clearPlans(): void {
    this.#plans.clear();
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
    const plan = this.#plans.get(operation)?.shift();
    await this.#moment(epoch, operation, op, plan?.moment === 'before' ? plan.act : undefined);
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
    if (act instanceof Promise) await (op === undefined ? act : Promise.race([act, aborted(op)]));
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

/** conmon in memory: its processes belong to the node and live on when the daemon dies. */
export class FakeMonitor implements Monitor {
  readonly #node: FakeNode;
  readonly #epoch: number;

  constructor(node: FakeNode, epoch: number) {
    this.#node = node;
    this.#epoch = epoch;
  }

  async create(
    op: Op,
    request: CreateRequest,
  ): Promise<{ readonly process: ProcessRef; readonly monitor: ProcessRef | null }> {
    await request.ready;
    return await this.#node.call(this.#epoch, 'create', op, () => {
      const node = this.#node;
      if (node.containers.has(request.id))
        throw new RuntimeError('AlreadyExists', `container with given ID already exists: ${request.id}`);
      const cgroupsPath = node.specs.get(request.bundle)?.linux.cgroupsPath ?? '';
      if (cgroupsPath !== '') node.cgroups.add(cgroupsPath);
      const container: FakeContainer = {
        id: request.id,
        bundle: request.bundle,
        root: request.runtime.handler.root,
        logPath: request.logPath,
        tty: request.tty,
        stdin: request.stdin,
        stdinOnce: request.stdinOnce,
        cgroupsPath,
        process: node.spawn(cgroupsPath),
        monitor: node.spawn(request.runtime.handler.monitorCgroup),
        state: 'created',
        oomKilled: false,
        size: undefined,
        updates: [],
      };
      node.containers.set(request.id, container);
      if (request.logPath !== '') node.logs.set(request.logPath, []);
      this.#watch(container);
      return { process: container.process.ref, monitor: container.monitor.ref };
    });
  }

  attach(op: Op, id: ContainerId, _bundle: string): Promise<AttachChannel> {
    return this.#node.call(this.#epoch, 'attach', op, () => {
      const container = this.#node.containers.get(id);
      if (container === undefined || !container.monitor.alive)
        throw new RuntimeError('FailedPrecondition', `no monitor serves container ${id}`);
      return fakeChannel(container);
    });
  }

  resize(bundle: string, size: TerminalSize): Promise<void> {
    return this.#node.call(this.#epoch, 'resize', undefined, () => {
      this.#byBundle(bundle).size = size;
    });
  }

  reopenLog(op: Op, bundle: string, logPath: string): Promise<void> {
    return this.#node.call(this.#epoch, 'reopenLog', op, () => {
      this.#byBundle(bundle);
      if (!this.#node.logs.has(logPath)) this.#node.logs.set(logPath, []);
    });
  }

  async noteInLog(logPath: string, line: string): Promise<void> {
    const log = this.#node.logs.get(logPath);
    if (log === undefined) throw new RuntimeError('NotFound', `no log at ${logPath}`);
    log.push(`stderr F ${line}`);
  }

  async *exits(signal: AbortSignal): AsyncIterable<ExitRecord> {
    const queue: ExitRecord[] = [...this.#node.exits.values()];
    let wake = (): void => {};
    const watcher = (record: ExitRecord): void => {
      queue.push(record);
      wake();
    };
    this.#node.exitWatchers.add(watcher);
    const onAbort = (): void => wake();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      while (!signal.aborted) {
        for (let record = queue.shift(); record !== undefined; record = queue.shift()) {
          if (!this.#node.current(this.#epoch)) await never();
          yield record;
        }
        if (!signal.aborted)
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
      }
    } finally {
      this.#node.exitWatchers.delete(watcher);
      signal.removeEventListener('abort', onAbort);
    }
  }

  async exitOf(id: ContainerId): Promise<ExitRecord | undefined> {
    await Promise.resolve();
    return this.#node.exits.get(id);
  }

  destroy(op: Op, id: ContainerId, _bundle: string): Promise<void> {
    return this.#node.call(this.#epoch, 'destroyMonitor', op, async () => {
      for (const process of this.#node.processes.values()) if (monitorOf.get(process) === id) process.exit(0);
      await settle();
      this.#node.exits.delete(id);
    });
  }

  #watch(container: FakeContainer): void {
    const node = this.#node;
    monitorOf.set(container.monitor, container.id);
    container.process.listen((output) => {
      if (container.monitor.alive && container.logPath !== '')
        node.logs
          .get(container.logPath)
          ?.push(`${output.stream} F ${Buffer.from(output.data).toString('utf8').replace(/\n$/, '')}`);
    });
    void container.process.ended.then(async (exitCode) => {
      container.state = 'stopped';
      if (node.drainGate !== undefined) await node.drainGate;
      if (!container.monitor.alive) return;
      const record: ExitRecord = { id: container.id, exitCode, oomKilled: container.oomKilled, finishedAt: node.now() };
      node.exits.set(container.id, record);
      for (const watcher of [...node.exitWatchers]) watcher(record);
      container.monitor.exit(0);
    });
  }

  #byBundle(bundle: string): FakeContainer {
    for (const container of this.#node.containers.values())
      if (container.bundle === bundle && container.monitor.alive) return container;
    throw new RuntimeError('FailedPrecondition', `no monitor listens in ${bundle}: its container has ended`);
  }
}

/** runc in memory. */
export class FakeRuntime implements OciRuntime {
  readonly handler: RuntimeHandler;
  readonly #node: FakeNode;
  readonly #epoch: number;

  constructor(node: FakeNode, epoch: number, handler: RuntimeHandler) {
    this.#node = node;
    this.#epoch = epoch;
    this.handler = handler;
  }

  features(op: Op): Promise<RuntimeFeatures> {
    return this.#call('features', op, () => FAKE_FEATURES);
  }

  start(op: Op, id: ContainerId): Promise<void> {
    return this.#call('start', op, () => {
      this.#get(id);
      return this.#node.startByHand(id);
    });
  }

  kill(op: Op, id: ContainerId, signal: number): Promise<void> {
    return this.#call('kill', op, () => {
      const container = this.#get(id);
      if (container.state === 'stopped') throw new RuntimeError('NotFound', `the process of container ${id} has ended`);
      container.process.signal(signal);
      return settle();
    });
  }

  delete(op: Op, id: ContainerId): Promise<void> {
    return this.#call('delete', op, async () => {
      const container = this.#find(id);
      if (container === undefined) return;
      container.process.exit(128 + SIGKILL);
      await settle();
      this.#node.containers.delete(id);
      this.#node.cgroups.delete(container.cgroupsPath);
    });
  }

  status(op: Op, id: ContainerId): Promise<OciStatus> {
    return this.#call('status', op, () => {
      const container = this.#find(id);
      if (container === undefined) return { state: 'absent' };
      return { state: container.state, pid: container.state === 'stopped' ? 0 : container.process.ref.pid };
    });
  }

  async startsEnded(op: Op, id: ContainerId): Promise<void> {
    this.#node.startsAsked.add(id);
    await this.#node.startsUnderWay.get(id);
    if (op.signal.aborted) throw abortError(op, 'startsEnded');
  }

  update(op: Op, id: ContainerId, resources: LinuxResources): Promise<void> {
    return this.#call('update', op, () => {
      this.#get(id).updates.push(resources);
    });
  }

  pause(op: Op, id: ContainerId): Promise<void> {
    return this.#call('pause', op, () => this.#turn(id, 'running', 'paused'));
  }

  resume(op: Op, id: ContainerId): Promise<void> {
    return this.#call('resume', op, () => this.#turn(id, 'paused', 'running'));
  }

  list(op: Op): Promise<readonly ContainerId[]> {
    return this.#call('list', op, () =>
      [...this.#node.containers.values()].filter((each) => each.root === this.handler.root).map((each) => each.id),
    );
  }

  exec(op: Op, id: ContainerId, process: RuntimeProcess, stdio: ExecStdio): Promise<ExitStatus> {
    return this.#call('exec', op, async () => {
      const container = this.#find(id);
      if (container === undefined) throw new RuntimeError('NotFound', `container ${id} does not exist`);
      if (container.state !== 'running')
        throw new RuntimeError('FailedPrecondition', `cannot exec in a container that is ${container.state}: ${id}`);
      const word = process.args[0] ?? '';
      if (!FAKE_PROGRAMS.has(word.slice(word.lastIndexOf('/') + 1))) {
        throw new RuntimeError('InvalidArgument', `exec: ${JSON.stringify(word)}: executable file not found in $PATH`);
      }
      stdio.onStarted?.();
      return await runExec(op, this.#node, container, process.args, stdio);
    });
  }

  #turn(id: ContainerId, from: FakeContainer['state'], to: FakeContainer['state']): void {
    const container = this.#get(id);
    if (container.state !== from)
      throw new RuntimeError('FailedPrecondition', `container ${id} is ${container.state}, not ${from}`);
    container.state = to;
  }

  /** As a real one, it knows what is under its own root only. */
  #find(id: ContainerId): FakeContainer | undefined {
    const container = this.#node.containers.get(id);
    return container?.root === this.handler.root ? container : undefined;
  }

  #get(id: ContainerId): FakeContainer {
    const container = this.#find(id);
    if (container === undefined) throw new RuntimeError('NotFound', `container ${id} does not exist`);
    return container;
  }

  #call<T>(operation: FakeOperation, op: Op, effect: () => T | Promise<T>): Promise<T> {
    return this.#node.call(this.#epoch, operation, op, effect);
  }
}

/** Pins in memory. */
export class FakeNamespaces implements Namespaces {
  readonly #node: FakeNode;
  readonly #epoch: number;

  constructor(node: FakeNode, epoch: number) {
    this.#node = node;
    this.#epoch = epoch;
  }

  pathOf(id: SandboxId, kind: NamespaceKind): string {
    return `/fake/ns/${id}/${kind}`;
  }

  pin(op: Op, id: SandboxId, request: PinRequest): Promise<ReadonlyMap<NamespaceKind, string>> {
    return this.#node.call(this.#epoch, 'pin', op, () => {
      const paths = new Map(request.kinds.map((kind) => [kind, this.pathOf(id, kind)] as const));
      this.#node.pins.set(id, paths);
      return new Map(paths);
    });
  }

  destroy(op: Op, id: SandboxId): Promise<void> {
    return this.#node.call(this.#epoch, 'unpin', op, () => {
      this.#node.pins.delete(id);
    });
  }

  pinned(id: SandboxId): Promise<ReadonlyMap<NamespaceKind, string>> {
    return this.#node.call(this.#epoch, 'pinned', undefined, () => new Map(this.#node.pins.get(id) ?? []));
  }

  list(): Promise<readonly SandboxId[]> {
    return this.#node.call(this.#epoch, 'listPinned', undefined, () => [...this.#node.pins.keys()]);
  }
}

/** The process table. */
export class FakeProcesses implements Processes {
  readonly #node: FakeNode;
  readonly #epoch: number;

  constructor(node: FakeNode, epoch: number) {
    this.#node = node;
    this.#epoch = epoch;
  }

  alive(process: ProcessRef): boolean {
    return this.#node.find(process) !== undefined;
  }

  signal(process: ProcessRef, signal: number): boolean {
    const found = this.#node.find(process);
    found?.signal(signal);
    return found !== undefined;
  }

  hasExecuted(process: ProcessRef): boolean {
    return this.#node.find(process)?.executed === true;
  }

  heeds(process: ProcessRef, signal: number): boolean {
    return signal === SIGKILL || this.#node.find(process)?.deaf !== true;
  }

  async gone(process: ProcessRef, signal: AbortSignal): Promise<void> {
    const found = this.#node.find(process);
    if (found === undefined || signal.aborted) return;
    await Promise.race([found.ended, fired(signal)]);
    if (!this.#node.current(this.#epoch)) await never();
  }
}

/** Host facts in memory; only removeTree may touch the disk, below `ownRoots`. */
export class FakeHost implements Host {
  readonly #node: FakeNode;
  readonly #epoch: number;

  constructor(node: FakeNode, epoch: number) {
    this.#node = node;
    this.#epoch = epoch;
  }

  mountSource(op: Op, path: string, rejectAbsent: boolean): Promise<MountSource> {
    return this.#call('mountSource', op, () => {
      const known = this.#node.paths.get(path);
      if (known !== undefined) return known;
      if (rejectAbsent) throw new RuntimeError('NotFound', `mount source ${path} does not exist`);
      const made: MountSource = { realPath: path, kind: 'directory', propagation: 'private', flags: [] };
      this.#node.paths.set(path, made);
      return made;
    });
  }

  relabel(_op: Op, path: string, label: string): Promise<void> {
    this.#node.labels.set(path, label);
    return Promise.resolve();
  }

  devices(op: Op, path: string): Promise<readonly HostDevice[]> {
    return this.#call('devices', op, () => {
      const found = [...this.#node.hostDevices.values()].filter(
        (each) => each.path === path || each.path.startsWith(`${path}/`),
      );
      if (found.length === 0) throw new RuntimeError('InvalidArgument', `${path} is not a device`);
      return found;
    });
  }

  allDevices(op: Op): Promise<readonly HostDevice[]> {
    return this.#call('devices', op, () => [...this.#node.hostDevices.values()]);
  }

  async resolvConf(): Promise<string> {
    await Promise.resolve();
    return 'nameserver 192.0.2.53\n';
  }

  hostname(): string {
    return 'fake-node';
  }

  mountShm(
    op: Op,
    path: string,
    _sizeBytes: bigint,
    _owner: { readonly uid: number; readonly gid: number },
  ): Promise<void> {
    return this.#call('mountShm', op, () => {
      this.#node.mounts.add(path);
    });
  }

  unmount(op: Op, path: string): Promise<void> {
    return this.#call('unmount', op, () => {
      for (const each of [...this.#node.mounts])
        if (each === path || each.startsWith(`${path}/`)) this.#node.mounts.delete(each);
    });
  }

  removeTree(op: Op, path: string): Promise<void> {
    return this.#call('removeTree', op, async () => {
      for (const each of this.#node.mounts)
        if (each === path || each.startsWith(`${path}/`))
          throw new RuntimeError('FailedPrecondition', `${each} is still mounted`);
      if (this.#node.ownRoots.length === 0) return;
      if (!this.#node.ownRoots.some((root) => path.startsWith(`${root}/`) && !path.split('/').includes('..'))) {
        throw new RuntimeError('PermissionDenied', `${path} is not below a directory of our own`);
      }
      await rm(path, { recursive: true, force: true });
    });
  }

  cgroupProcesses(cgroupsPath: string): Promise<readonly number[]> {
    return Promise.resolve(
      [...this.#node.processes.values()]
        .filter((each) => each.alive && inCgroup(each.cgroup, cgroupsPath))
        .map((each) => each.ref.pid),
    );
  }

  ensureCgroup(op: Op, cgroupsPath: string): Promise<void> {
    return this.#call('ensureCgroup', op, () => {
      this.#node.cgroups.add(cgroupsPath);
    });
  }

  destroyCgroup(op: Op, cgroupsPath: string): Promise<void> {
    return this.#call('destroyCgroup', op, async () => {
      for (const each of this.#node.processes.values())
        if (inCgroup(each.cgroup, cgroupsPath)) each.exit(128 + SIGKILL);
      await settle();
      for (const each of [...this.#node.cgroups]) if (inCgroup(each, cgroupsPath)) this.#node.cgroups.delete(each);
    });
  }

  setOomScoreAdj(_op: Op, _cgroupsPath: string, _value: number): Promise<void> {
    return Promise.resolve();
  }

  memoryUsage(_cgroupsPath: string): Promise<bigint | undefined> {
    return Promise.resolve(this.#node.memoryUsage);
  }

  /** Nobody but itself makes cgroups here. */
  liftCpuQuota(): Promise<void> {
    return Promise.resolve();
  }

  writeCgroup(_op: Op, _cgroupsPath: string, _values: readonly CgroupValue[]): Promise<void> {
    return Promise.resolve();
  }

  processRef(pid: number): ProcessRef | undefined {
    return this.#node.processes.get(pid)?.ref;
  }

  /** Port 7 echoes everywhere (RFC 862); nobody listens on any other. */
  dial(op: Op, netns: string | null, port: number): Promise<Connection> {
    return this.#call('dial', op, () => {
      if (port !== 7)
        throw new RuntimeError(
          'Unavailable',
          `connect to 127.0.0.1 port ${port} in ${netns ?? 'the host'}: ECONNREFUSED`,
        );
      return echo();
    });
  }

  #call<T>(operation: FakeOperation, op: Op | undefined, effect: () => T | Promise<T>): Promise<T> {
    return this.#node.call(this.#epoch, operation, op, effect);
  }
}

function echo(): Connection {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const writer = writable.getWriter();
  const end = (): Promise<void> => writer.close().catch(() => {});
  return {
    [Symbol.asyncIterator]: () => readable[Symbol.asyncIterator](),
    write: (data) => writer.write(data),
    endWrite: end,
    close: () => void end(),
  };
}

/** A handler whose root is its own, so that `list` tells handlers apart. */
export function fakeHandler(name: string): RuntimeHandler {
  return {
    name,
    path: `/fake/${name}`,
    root: `/fake/run/${name}`,
    monitorPath: '/fake/conmon',
    monitorEnv: [],
    monitorCgroup: '',
    cgroupManager: 'cgroupfs',
    runtimeArgs: [],
    createTimeoutMs: 240_000,
    noPivot: false,
    noSyncLog: false,
    logSizeMaxBytes: -1,
    journal: 'none',
  };
}

const FAKE_FEATURES: RuntimeFeatures = {
  kind: 'fake',
  version: '1.0.0',
  ociVersion: '1.1.0',
  recursiveReadOnlyMounts: true,
  idmappedMounts: true,
  userNamespaces: true,
  capabilities: undefined,
  ownKernel: false,
  vulnerable: undefined,
  seccomp: true,
  apparmor: false,
  broken: undefined,
};
const FAKE_PROGRAMS = new Set(['true', 'false', 'sh', 'sleep', 'cat', 'echo']);
const monitorOf = new WeakMap<FakeProcess, ContainerId>();

async function runExec(
  op: Op,
  node: FakeNode,
  container: FakeContainer,
  args: readonly string[],
  stdio: ExecStdio,
): Promise<ExitStatus> {
  const child = node.spawn(container.cgroupsPath);
  let delivered: Promise<void> = Promise.resolve();
  child.listen(({ stream, data }) => {
    const sink = stream === 'stdout' || stdio.tty ? stdio.stdout : stdio.stderr;
    delivered = delivered.then(() => sink?.(data));
  });
  if (stdio.tty)
    stdio.onTerminal?.((size) => {
      container.size = size;
    });
  child.run(args);
  void (async () => {
    for await (const chunk of stdio.stdin ?? []) child.input(chunk);
    child.closeInput();
  })();
  void container.process.ended.then(() => child.exit(128 + SIGKILL));
  const ended = await Promise.race([child.ended, fired(op.signal)]);
  child.exit(128 + SIGKILL);
  if (ended === undefined) throw abortError(op, `exec in ${container.id}`);
  await delivered;
  return { exitCode: ended };
}

function fakeChannel(container: FakeContainer): AttachChannel {
  const queue: Output[] = [];
  let wake = (): void => {};
  let open = true;
  const finish = (): void => {
    open = false;
    wake();
  };
  const unlisten = container.process.listen((output) => {
    queue.push(output);
    wake();
  });
  void container.process.ended.then(finish);
  async function* output(): AsyncGenerator<Output> {
    for (;;) {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) yield next;
      if (!open) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }
  return {
    output: output(),
    write(data) {
      if (!open)
        return Promise.reject(
          new RuntimeError('FailedPrecondition', `the attach session with ${container.id} is over`),
        );
      if (container.stdin || container.tty) container.process.input(data);
      return Promise.resolve();
    },
    closeInput() {
      if (container.stdinOnce) container.process.closeInput();
    },
    close() {
      unlisten();
      if (open && container.stdinOnce) container.process.closeInput();
      finish();
    },
  };
}

function inCgroup(path: string, parent: string): boolean {
  return path === parent || path.startsWith(`${parent}/`);
}

/** Lets everything that hangs on promises already settled happen. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await Promise.resolve();
}

function never(): Promise<never> {
  return new Promise<never>(() => {});
}

function fired(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
}

function aborted(op: Op): Promise<void> {
  return fired(op.signal);
}
