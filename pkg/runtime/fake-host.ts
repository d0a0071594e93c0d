/** The host, its processes and the pinned namespaces in memory. */
import { rm } from 'node:fs/promises';
import { RuntimeError } from '../base/errors.ts';
import type { ProcessRef, SandboxId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { fired } from '../base/time.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import type {
  CgroupValue,
  Connection,
  HeldNamespace,
  Host,
  HostDevice,
  MountSource,
  NamespaceKind,
  Namespaces,
  PinRequest,
  Processes,
} from '../ports/runtime.ts';
import { type FakeNode, type FakeOperation, never, settle } from './fake-node.ts';
import { SIGKILL } from './fake-process.ts';

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

  holdPidNamespace(process: ProcessRef): HeldNamespace {
    if (this.#node.find(process) === undefined)
      throw new RuntimeError('FailedPrecondition', `process ${process.pid} is gone, and its PID namespace with it`);
    const path = `/fake/held/${process.pid}.${process.startTicks}`;
    this.#node.heldNamespaces.add(path);
    return { path, [Symbol.dispose]: () => void this.#node.heldNamespaces.delete(path) };
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

  mountSource(op: Op, path: string, absent: 'make' | 'refuse'): Promise<MountSource> {
    return this.#call('mountSource', op, () => {
      const known = this.#node.paths.get(path);
      if (known !== undefined) return known;
      if (absent === 'refuse') throw new RuntimeError('NotFound', `mount source ${path} does not exist`);
      const made: MountSource = { realPath: path, kind: 'directory', propagation: 'private', flags: [] };
      this.#node.paths.set(path, made);
      return made;
    });
  }

  relabel(_op: Op, paths: readonly string[], label: string): Promise<void> {
    for (const path of paths) this.#node.labels.set(path, label);
    return Promise.resolve();
  }

  labelOf(_op: Op, path: string): Promise<string> {
    return Promise.resolve(this.#node.labels.get(path) ?? '');
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

  async hosts(): Promise<string | undefined> {
    await Promise.resolve();
    return '192.0.2.1\tfake-node\n';
  }

  hostname(): string {
    return 'fake-node';
  }

  async subordinateIds(user: string): ReturnType<Host['subordinateIds']> {
    await Promise.resolve();
    const ranges = user === 'containers' ? [{ start: 200_000, count: 3 * 65_536 }] : [];
    return { uids: ranges, gids: ranges };
  }

  mountShm(
    op: Op,
    path: string,
    _sizeBytes: bigint,
    _owner: { readonly uid: number; readonly gid: number },
    label: string,
  ): Promise<void> {
    return this.#call('mountShm', op, () => {
      this.#node.mounts.add(path);
      if (label !== '') this.#node.labels.set(path, label);
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

  showCgroup(op: Op, cgroupsPath: string): Promise<void> {
    return this.#call('showCgroup', op, () => void this.#node.cgroups.add(cgroupsPath));
  }

  ensureCgroup(op: Op, cgroupsPath: string, limits: LinuxResources): Promise<void> {
    return this.#call('ensureCgroup', op, () => {
      this.#node.cgroups.add(cgroupsPath);
      this.#node.cgroupLimits.set(cgroupsPath, limits);
    });
  }

  async findCgroups(_op: Op, wanted: (path: string) => boolean): Promise<readonly string[]> {
    await Promise.resolve();
    this.#node.looksForCgroups++;
    return [...this.#node.cgroups].filter(wanted).sort();
  }

  async otherDaemons(): Promise<number> {
    await Promise.resolve();
    return this.#node.otherDaemons;
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

  isFrozen(cgroupsPath: string): boolean {
    return [...this.#node.containers.values()].some(
      ({ id, cgroupsPath: own, state }) => state === 'paused' && (own === cgroupsPath || cgroupsPath.includes(id)),
    );
  }

  oomKills(cgroupsPath: string, which: 'own' | 'above'): bigint | undefined {
    return this.#node.oomKills.get(which === 'own' ? cgroupsPath : `above ${cgroupsPath.split(':')[0]}`);
  }

  /** Nobody but itself makes cgroups here. */
  liftCpuQuota(): Promise<void> {
    return Promise.resolve();
  }

  writeCgroup(_op: Op, _cgroupsPath: string, _values: readonly CgroupValue[]): Promise<void> {
    return Promise.resolve();
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

function inCgroup(path: string, parent: string): boolean {
  return path === parent || path.startsWith(`${parent}/`);
}
