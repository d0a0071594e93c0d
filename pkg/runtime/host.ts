/**
 * The node as pods see it: mount sources, devices, resolv.conf, shared memory, cgroups, processes. Thin: pkg/sys does
 * the work, this file says what the product wants of it.
 */
import { writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { ensureDirInMemory } from '../base/files.ts';
import type { ProcessRef } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { checkAlive, type Op } from '../base/op.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import type { CgroupLayout, DeviceNode, ServiceManager, UnitProperties } from '../ports/kernel.ts';
import {
  Root,
  capture,
  cgroups,
  descriptors,
  listDevices,
  mounts,
  namespaces,
  probePath,
  processes,
  readFiles,
  readSmallFile,
} from '../sys/index.ts';
import type {
  CgroupValue,
  Connection,
  HeldNamespace,
  Host,
  IdRange,
  HostDevice,
  MountSource,
  Processes,
} from '../ports/runtime.ts';
import { limitFiles, limitProperties, UNLIMITED_PROPERTY } from './pod-limits.ts';

/** Mount options of a source that a container's mount of it keeps: an unprivileged remount may not drop them. */
const KEPT_FLAGS: ReadonlySet<string> = new Set(['ro', 'nosuid', 'nodev', 'noexec']);
/** Where systemd-resolved answers; no container can reach it. */
const STUB_RESOLVERS: ReadonlySet<string> = new Set(['127.0.0.53', '127.0.0.54']);
const OWN_SLICE: UnitProperties = {
  Description: { type: 's', value: 'A pod without a cgroup of its own from the kubelet' },
  CollectMode: { type: 's', value: 'inactive-or-failed' },
};
/** The name that cri/parts/own-process.ts gives this process. */
const OWN_COMM = 'berth\n';
/** TASK_COMM_LEN of the kernel, and a line feed. */
const COMM_BYTES = 17;
const OWN_NETNS = '/proc/self/ns/net';
const RESOLV_CONF = '/etc/resolv.conf';
const HOSTS = '/etc/hosts';
const SUBORDINATE_IDS = ['/etc/subuid', '/etc/subgid'];
const RESOLVED_CONF = '/run/systemd/resolve/resolv.conf';

/** This node; see Host for what each method promises. */
export class LinuxHost implements Host {
  readonly #ownRoots: readonly string[];
  readonly #readText: (path: string) => Promise<string | undefined>;
  readonly #manager: ServiceManager | undefined;
  #layout: CgroupLayout | undefined;

  /**
   * `ownRoots`: absolute paths below which removeTree may work. `readText`: a small file of the host, undefined if
   * absent; tests give their own. `manager`: systemd, where it makes the cgroups.
   */
  constructor(options: {
    readonly ownRoots: readonly string[];
    readonly readText?: (path: string) => Promise<string | undefined>;
    readonly manager?: ServiceManager | undefined;
  }) {
    this.#ownRoots = options.ownRoots;
    this.#readText = options.readText ?? readText;
    this.#manager = options.manager;
  }

  async mountSource(op: Op, path: string, absent: 'make' | 'refuse'): Promise<MountSource> {
    const found = await probePath(op, path, absent === 'make' ? 'make' : 'report');
    if (found === undefined)
      throw new RuntimeError(
        'NotFound',
        `mount source ${path} does not exist on this node; create it, or correct the volume's path`,
      );
    const { kind } = found.stat;
    const mount = await mounts.byId(found.stat.mountId);
    return {
      realPath: found.realPath,
      kind: kind === 'directory' || kind === 'file' ? kind : 'other',
      propagation: mount === undefined ? 'private' : mounts.propagationOf(mount),
      flags: mount?.options.filter((option) => KEPT_FLAGS.has(option)) ?? [],
    };
  }

  /** By a child process: a walk over a volume must neither hold up the daemon nor outlive the request. */
  async relabel(op: Op, paths: readonly string[], label: string): Promise<void> {
    if (paths.length === 0) return;
    const what = paths.join(', ');
    op.stage(`relabel ${what}`);
    const { exitCode, stderr } = await capture(op, {
      argv: ['chcon', '--recursive', '--no-dereference', label, '--', ...paths],
      stdoutMax: 0,
      stderrMax: limits.commandErrorBytes,
      what: 'chcon',
    });
    if (exitCode !== 0)
      throw new RuntimeError(
        'FailedPrecondition',
        `cannot give ${what} the label ${label}: ${stderr.toString('utf8').trim() || `chcon ended with ${exitCode}`}`,
      );
  }

  async labelOf(op: Op, path: string): Promise<string> {
    const { exitCode, stdout, stderr } = await capture(op, {
      argv: ['stat', '--printf=%C', '--', path],
      stdoutMax: limits.commandErrorBytes,
      stderrMax: limits.commandErrorBytes,
      what: 'stat',
    });
    if (exitCode === 0) return stdout.toString('utf8');
    throw new RuntimeError('FailedPrecondition', `cannot tell the label of ${path}: ${stderr.toString('utf8').trim()}`);
  }

  async devices(op: Op, path: string): Promise<readonly HostDevice[]> {
    return (await listDevices(op, path)).map(hostDevice);
  }

  allDevices(op: Op): Promise<readonly HostDevice[]> {
    return this.devices(op, '/dev');
  }

  async resolvConf(): Promise<string> {
    const text = (await this.#readText(RESOLV_CONF)) ?? '';
    const servers = Array.from(text.matchAll(/^\s*nameserver\s+(\S+)/gm), (match) => match[1] ?? '');
    if (servers.length === 0 || !servers.every((server) => STUB_RESOLVERS.has(server))) return text;
    return (await this.#readText(RESOLVED_CONF)) ?? text;
  }

  hosts(): Promise<string | undefined> {
    return this.#readText(HOSTS);
  }

  hostname(): string {
    return hostname();
  }

  async subordinateIds(user: string): ReturnType<Host['subordinateIds']> {
    const [uids, gids] = await Promise.all(SUBORDINATE_IDS.map((path) => this.#readText(path)));
    return { uids: subordinateRanges(uids ?? '', user), gids: subordinateRanges(gids ?? '', user) };
  }

  async mountShm(
    op: Op,
    path: string,
    sizeBytes: bigint,
    owner: { readonly uid: number; readonly gid: number },
    label: string,
  ): Promise<void> {
    op.stage('mount /dev/shm');
    ensureDirInMemory(path);
    if (mounts.isMountPoint(path)) return;
    await mounts.fileSystem({
      type: 'tmpfs',
      source: 'shm',
      target: path,
      options: [
        ...['nosuid', 'nodev', 'noexec', 'mode=1777', `size=${sizeBytes}`, `uid=${owner.uid}`, `gid=${owner.gid}`],
        ...(label === '' ? [] : [`context=${label}`]),
      ],
    });
  }

  async unmount(op: Op, path: string): Promise<void> {
    checkAlive(op, `unmount ${path}`);
    await mounts.unmount(path);
  }

  async removeTree(op: Op, path: string): Promise<void> {
    const { root, below } = splitAtRoot(this.#ownRoots, path);
    op.stage(`remove ${path}`);
    let own: Root;
    try {
      own = Root.open(root, 'strict');
    } catch (error) {
      if (error instanceof RuntimeError && error.code === 'NotFound') return;
      throw error;
    }
    try {
      await own.removeTreeAsync(below);
    } finally {
      own.close();
    }
  }

  cgroupProcesses(cgroupsPath: string): Promise<readonly number[]> {
    return new Promise((resolve) => resolve(cgroups.processesIn(this.#cgroups(), cgroups.pathOf(cgroupsPath))));
  }

  async ensureCgroup(op: Op, cgroupsPath: string, limits: LinuxResources): Promise<void> {
    op.stage(`make cgroup ${cgroupsPath}`);
    const layout = this.#cgroups();
    const version = cgroups.hierarchyOf(layout, 'cpu')?.version ?? 2;
    if (this.#manager === undefined) {
      const files = limitFiles(limits, version);
      // The runtime makes those above its own by itself.
      if (files.length === 0) return;
      cgroups.create(layout, cgroups.pathOf(cgroupsPath));
      cgroups.enable(layout, cgroups.pathOf(cgroupsPath), new Set(files.map(({ controller }) => controller)));
      return await this.writeCgroup(op, cgroupsPath, files);
    }
    const { properties, files } = limitProperties(limits, version);
    try {
      // Transient from its beginning: what is set later goes with it as well, and not only with the boot.
      await this.#manager.start(op, cgroupsPath, [], { ...properties, ...OWN_SLICE });
    } catch (cause) {
      if (!(cause instanceof RuntimeError && cause.code === 'AlreadyExists')) throw cause;
      await this.#manager.setProperties(op, cgroupsPath, properties);
    }
    await this.writeCgroup(op, cgroupsPath, files);
  }

  showCgroup(_op: Op, cgroupsPath: string): Promise<void> {
    return new Promise((resolve) => resolve(cgroups.show(this.#cgroups(), cgroups.pathOf(cgroupsPath))));
  }

  findCgroups(op: Op, wanted: (path: string) => boolean): Promise<readonly string[]> {
    op.stage('look at all cgroups');
    return new Promise((resolve) => resolve(cgroups.find(this.#cgroups(), wanted)));
  }

  async otherDaemons(): Promise<number> {
    const pids = processes.listPids().filter((pid) => pid !== String(process.pid));
    let count = 0;
    for await (const [, name] of processes.filesOf(pids, 'comm', COMM_BYTES)) if (name.toString() === OWN_COMM) count++;
    return count;
  }

  async destroyCgroup(op: Op, cgroupsPath: string): Promise<void> {
    op.stage(`destroy cgroup ${cgroupsPath}`);
    // Nobody else stops a slice, and a directory that is taken away behind its back stays a unit.
    if (cgroupsPath.endsWith('.slice')) await this.#manager?.stop(op, cgroupsPath);
    await cgroups.destroy(op, this.#cgroups(), cgroups.pathOf(cgroupsPath));
  }

  async setOomScoreAdj(op: Op, cgroupsPath: string, value: number): Promise<void> {
    op.stage('set oom_score_adj');
    for (const ref of cgroups.membersOf(this.#cgroups(), cgroups.pathOf(cgroupsPath))) {
      try {
        processes.setOomScoreAdj(ref, value);
      } catch (cause) {
        const errno = errnoOf(cause);
        throw new RuntimeError(
          errno === 'EACCES' ? 'PermissionDenied' : 'Internal',
          `oom_score_adj of process ${ref.pid} cannot be ` +
            `${value}${errno === 'EACCES' ? ': lowering it needs CAP_SYS_RESOURCE' : ''}`,
          { cause },
        );
      }
    }
  }

  memoryUsage(cgroupsPath: string): Promise<bigint | undefined> {
    const memory = cgroups.hierarchyOf(this.#cgroups(), 'memory');
    if (memory === undefined) return Promise.resolve(undefined);
    const file = join(
      cgroups.directoryOf(memory, cgroups.pathOf(cgroupsPath)),
      memory.version === 1 ? 'memory.usage_in_bytes' : 'memory.current',
    );
    const text = readFiles([file])[0]?.toString('latin1').trim() ?? '';
    return Promise.resolve(/^\d+$/.test(text) ? BigInt(text) : undefined);
  }

  isFrozen(cgroupsPath: string): boolean {
    const layout = this.#cgroups();
    // On v2 it is no controller: every cgroup has it.
    const hierarchy = cgroups.hierarchyOf(layout, 'freezer') ?? layout.hierarchies.find(({ version }) => version === 2);
    if (hierarchy === undefined) return false;
    const file = hierarchy.version === 1 ? 'freezer.state' : 'cgroup.freeze';
    const [state] = readFiles([join(cgroups.directoryOf(hierarchy, cgroups.pathOf(cgroupsPath)), file)]);
    return /^(1|FROZEN|FREEZING)$/m.test(state?.toString('latin1') ?? '');
  }

  oomKills(cgroupsPath: string, which: 'own' | 'above'): bigint | undefined {
    const memory = cgroups.hierarchyOf(this.#cgroups(), 'memory');
    if (memory?.version !== 2) return undefined;
    const own = cgroups.directoryOf(memory, cgroups.pathOf(cgroupsPath));
    const [events] = readFiles([join(which === 'own' ? own : dirname(own), 'memory.events')]);
    const kills = /^oom_kill (\d+)$/m.exec(events?.toString('latin1') ?? '')?.[1];
    return kills === undefined ? undefined : BigInt(kills);
  }

  async writeCgroup(op: Op, cgroupsPath: string, values: readonly CgroupValue[]): Promise<void> {
    op.stage(`write cgroup ${cgroupsPath}`);
    for (const { controller, file, value } of values) {
      const hierarchy = cgroups.hierarchyOf(this.#cgroups(), controller);
      if (hierarchy === undefined || !/^[A-Za-z0-9_.]+$/.test(file))
        throw new RuntimeError(
          'FailedPrecondition',
          `${file} cannot be set: this node has no cgroup controller ${controller}`,
        );
      const path = join(cgroups.directoryOf(hierarchy, cgroups.pathOf(cgroupsPath)), file);
      try {
        await writeFile(path, value, { flag: 'r+' });
      } catch (cause) {
        throw new RuntimeError(
          errnoOf(cause) === 'EINVAL' || errnoOf(cause) === 'ERANGE' ? 'InvalidArgument' : 'FailedPrecondition',
          `${path} cannot be ${value}`,
          { cause },
        );
      }
    }
  }

  async liftCpuQuota(op: Op, cgroupsPath: string): Promise<void> {
    const unit = cgroups.pathOf(cgroupsPath).split('/').at(-1) ?? '';
    await this.#manager?.setProperties(op, unit, { CPUQuotaPerSecUSec: { type: 't', value: UNLIMITED_PROPERTY } });
  }

  async dial(op: Op, netns: string | null, port: number): Promise<Connection> {
    op.stage(`connect to port ${port}`);
    checkAlive(op, `connect to port ${port}`);
    return descriptors.openStream(await namespaces.connect(op, netns ?? OWN_NETNS, ['127.0.0.1', '::1'], port));
  }

  /** Hierarchies do not come and go while a daemon runs. */
  #cgroups(): CgroupLayout {
    this.#layout ??= cgroups.readLayoutSync();
    return this.#layout;
  }
}

/** Processes through pidfds. */
export class LinuxProcesses implements Processes {
  alive(process: ProcessRef): boolean {
    return processes.isAlive(process);
  }

  signal(process: ProcessRef, signal: number): boolean {
    return processes.signal(process, signal);
  }

  heeds(process: ProcessRef, signal: number): boolean {
    return processes.heeds(process, signal);
  }

  hasExecuted(process: ProcessRef): boolean {
    return processes.hasExecuted(process);
  }

  holdPidNamespace(ref: ProcessRef): HeldNamespace {
    const descriptor = processes.openPidNamespace(ref);
    return {
      // Of this daemon, which outlives the runtime's command, or that is undone.
      path: `/proc/${process.pid}/fd/${descriptor}`,
      [Symbol.dispose]: () => descriptors.close(descriptor),
    };
  }

  gone(process: ProcessRef, signal: AbortSignal): Promise<void> {
    return processes.waitGone(process, signal);
  }
}

/**
 * PURE. The own root that `path` is strictly below, and the rest. A recursive delete is the one call that must never be
 * given a wrong path, so odd components are refused here, and again by openat2.
 */
export function splitAtRoot(
  ownRoots: readonly string[],
  path: string,
): { readonly root: string; readonly below: string } {
  const root = ownRoots.find((each) => each !== '' && each !== '/' && path.startsWith(`${each}/`));
  const below = root === undefined ? '' : path.slice(root.length + 1);
  if (root === undefined || below.split('/').some((part) => part === '' || part === '.' || part === '..')) {
    throw new RuntimeError(
      'PermissionDenied',
      `refusing to remove ${path}: it is not strictly below ${ownRoots.join(' or ')}`,
    );
  }
  return { root, below };
}

/** PURE. The ranges of a user in subuid(5), `name:start:count` a line; lines that are none give nothing. */
function subordinateRanges(text: string, user: string): readonly IdRange[] {
  return text.split('\n').flatMap((line) => {
    const [, name, start, count] = /^([^:#]+):(\d{1,10}):(\d{1,10})$/.exec(line.trim()) ?? [];
    return name === user && Number(count) > 0 ? [{ start: Number(start), count: Number(count) }] : [];
  });
}

function hostDevice(node: DeviceNode): HostDevice {
  const type = ({ character: 'c', block: 'b', fifo: 'p' } as const)[node.kind];
  return {
    path: node.path,
    type,
    major: node.major,
    minor: node.minor,
    fileMode: node.mode,
    uid: node.uid,
    gid: node.gid,
  };
}

async function readText(path: string): Promise<string | undefined> {
  return (await readSmallFile(path, limits.configFileBytes))?.toString('utf8');
}
