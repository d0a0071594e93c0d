/** runc in memory. */
import { RuntimeError } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import { abortError, type Op } from '../base/op.ts';
import { fired } from '../base/time.ts';
import type { LinuxResources, RuntimeProcess } from '../oci/spec-types.ts';
import type {
  ExecStdio,
  ExitStatus,
  OciRuntime,
  OciStatus,
  RuntimeFeatures,
  RuntimeHandler,
} from '../ports/runtime.ts';
import { type FakeContainer, type FakeNode, type FakeOperation, settle } from './fake-node.ts';
import { SIGKILL } from './fake-process.ts';

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

  /** Execs of a fake node end with the daemon that began them. */
  async endLeftExecs(): Promise<void> {}

  list(op: Op): Promise<readonly ContainerId[]> {
    return this.#call('list', op, () =>
      [...this.#node.containers.values()].filter((each) => each.root === this.handler.root).map((each) => each.id),
    );
  }

  exec(op: Op, id: ContainerId, process: RuntimeProcess, stdio: ExecStdio): Promise<ExitStatus> {
    return this.#call('exec', op, async () => {
      const container = this.#find(id);
      if (container === undefined) throw new RuntimeError('NotFound', `container ${id} does not exist`);
      if (container.state !== 'running' && container.state !== 'created')
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
    container.process.freeze(to === 'paused' ? 'frozen' : 'running');
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
