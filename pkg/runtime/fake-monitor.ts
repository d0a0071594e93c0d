/** conmon in memory. */
import { RuntimeError } from '../base/errors.ts';
import type { ContainerId, ProcessRef } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { AttachChannel, CreateRequest, ExitRecord, Monitor, TerminalSize } from '../ports/runtime.ts';
import { type FakeContainer, type FakeNode, never, settle } from './fake-node.ts';
import type { Output } from './fake-process.ts';

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

  async dropEmptyLog(logPath: string): Promise<void> {
    await this.#node.call(this.#epoch, 'dropEmptyLog', undefined, () => {
      if (this.#node.logs.get(logPath)?.length === 0) this.#node.logs.delete(logPath);
    });
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

  async served(): Promise<readonly ContainerId[]> {
    await Promise.resolve();
    const alive = [...this.#node.processes.values()].filter((each) => each.alive);
    return alive.map((each) => this.#node.monitors.get(each)).filter((id) => id !== undefined);
  }

  destroy(op: Op, id: ContainerId, _bundle: string): Promise<void> {
    return this.#node.call(this.#epoch, 'destroyMonitor', op, async () => {
      for (const process of this.#node.processes.values()) if (this.#node.monitors.get(process) === id) process.exit(0);
      await settle();
      this.#node.exits.delete(id);
    });
  }

  #watch(container: FakeContainer): void {
    const node = this.#node;
    node.monitors.set(container.monitor, container.id);
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
