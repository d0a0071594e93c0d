/**
 * Monitor over conmon's command line: upstream's binary or ours, told apart by nothing.
 *
 *   create   conmon;  bundle ready, start pipe ─▶ conmon ─fork▶ runtime create;  sync pipe ─▶ {"pid": N}
 *   later    <bundle>/attach (SOCK_SEQPACKET), <bundle>/ctl (FIFO: "1 height width", "2 0 0"), <exit-dir>/<id>
 *
 * conmon stays our child (`--sync`): it is reaped by us, killed as a whole tree when it hangs, and init's child once we
 * are gone.
 */
import { constants, existsSync, writeFileSync } from 'node:fs';
import { access, open, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoOf, RuntimeError, wrap } from '../base/errors.ts';
import { ensureDirInMemory, listInMemory, readInMemory, removeInMemory } from '../base/files.ts';
import type { ContainerId, ProcessRef } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError, checkAlive, type Logger, type Op, silent, withTimeout } from '../base/op.ts';
import { abortable, together } from '../base/sync.ts';
import type { FdStream, Launcher, ServiceManager } from '../ports/kernel.ts';
import { cgroups, descriptors, killTree, openLauncher, orphans, processes, sockets } from '../sys/index.ts';
import { exitFileId, readExitFile, watchExits, type ExitFile } from './exits.ts';
import { enterScope } from './monitor-scope.ts';
import type { AttachChannel, CreateRequest, ExitRecord, Monitor, TerminalSize } from '../ports/runtime.ts';

import {
  FILES,
  containerPid,
  endMonitor,
  lstatIfThere,
  monitorArgv,
  prepareLogPath,
  startMonitor,
} from './conmon-start.ts';
import { reopened } from './conmon-log.ts';

/** What a ConmonMonitor is made with. */
export interface ConmonOptions {
  /** Where monitors write how containers ended; made if absent. */
  readonly exitsDir: string;
  /**
   * The bundle of a container, where its monitor notes an OOM kill. Default: `containers/<id>` beside the exit
   * directory.
   */
  readonly bundleOf?: ((id: ContainerId) => string) | undefined;
  readonly log?: Logger | undefined;
  /** Where systemd manages the node, each monitor gets a scope of its own, and outlives whatever befalls our unit. */
  readonly manager?: ServiceManager | undefined;
}

/** conmon reads packets into a 32 KiB buffer and loses what is longer. */
const ATTACH_PACKET_BYTES = 8_192;
const STREAM_STDOUT = 2;
const STREAM_STDERR = 3;
/** A pid file has a number and perhaps a line end; whatever is longer is none. */
const PID_FILE_BYTES = 64;

/** Monitors with conmon's command line, ours or upstream's; see Monitor for what each method promises. */
export class ConmonMonitor implements Monitor {
  readonly #exitsDir: string;
  readonly #bundleOf: (id: ContainerId) => string;
  readonly #log: Logger;
  readonly #manager: ServiceManager | undefined;
  readonly #launchers = new Map<string, Promise<Launcher>>();

  constructor(options: ConmonOptions) {
    this.#exitsDir = options.exitsDir;
    this.#bundleOf = options.bundleOf ?? ((id) => join(dirname(options.exitsDir), 'containers', id));
    this.#log = options.log ?? silent;
    this.#manager = options.manager;
  }

  async create(
    op: Op,
    request: CreateRequest,
  ): Promise<{ readonly process: ProcessRef; readonly monitor: ProcessRef }> {
    const { handler } = request.runtime;
    const stage = `${handler.path} create, run by ${handler.monitorPath}`;
    checkAlive(op, stage);
    ensureDirInMemory(this.#exitsDir);
    const [launcher] = await Promise.all([
      this.#launcher(handler.monitorCgroup),
      prepareLogPath(request.logPath, 'a new one'),
    ]);
    const running = await startMonitor(monitorArgv(request, this.#exitsDir), request, launcher);
    try {
      writeFileSync(join(request.bundle, FILES.monitorPid), String(running.child.pid), { mode: 0o600 });
      await together([request.ready, enterScope(op, this.#manager, request, running.child.pid)]);
      op.stage(stage);
      const bounded = withTimeout(op, handler.createTimeoutMs);
      running.release();
      const pid = await abortable(containerPid(running, request), bounded.signal, () => abortError(bounded, stage));
      const process = processes.madeBy(running.child.ref, pid);
      if (process === undefined)
        throw new RuntimeError(
          'Internal',
          `container ${request.id} was created, but its first process ${pid} is gone already`,
        );
      return { process, monitor: running.child.ref };
    } catch (error) {
      await endMonitor(running.child);
      this.#removeUnfinished(request.id);
      throw error;
    } finally {
      running.release();
      running.sync.close();
      running.stderr.close();
    }
  }

  async attach(op: Op, id: ContainerId, bundle: string): Promise<AttachChannel> {
    op.stage('attach');
    checkAlive(op, 'attach');
    try {
      return attachChannel(descriptors.openStream(await sockets.connect(join(bundle, FILES.attach), 'seqpacket')));
    } catch (cause) {
      if (cause instanceof RuntimeError && (cause.code === 'NotFound' || cause.code === 'Unavailable')) {
        throw new RuntimeError(
          'FailedPrecondition',
          `cannot attach to container ${id}: no monitor serves it, so it has ended or its monitor is lost`,
          { cause },
        );
      }
      throw wrap(`attach to container ${id}`, cause);
    }
  }

  async resize(bundle: string, size: TerminalSize): Promise<void> {
    await control(bundle, `1 ${terminalCells(size.height)} ${terminalCells(size.width)}\n`);
  }

  async reopenLog(op: Op, bundle: string, logPath: string): Promise<void> {
    const stage = `reopen log ${logPath}`;
    op.stage(stage);
    checkAlive(op, stage);
    const monitor = await findMonitor(bundle, this.#idOf(bundle));
    if (monitor === undefined)
      throw new RuntimeError(
        'FailedPrecondition',
        `cannot reopen ${logPath}: no monitor serves its container, so it has ended or its monitor is lost`,
      );
    await prepareLogPath(logPath, 'reopened');
    const existed = await exists(logPath);
    const bounded = withTimeout(op, limits.logReopenMs);
    try {
      await reopened(bounded, monitor, logPath, () => control(bundle, '2 0 0\n'));
    } catch (cause) {
      // A new file after an error would make the kubelet lose the old one (CRI: on error the new file must not exist).
      if (!existed && !(await processes.holdsOpen(monitor, logPath))) await rm(logPath, { force: true });
      throw cause;
    }
  }

  async noteInLog(logPath: string, line: string): Promise<void> {
    // What somebody may have put there instead is not written to.
    const file = await open(
      logPath,
      constants.O_RDWR | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK,
    );
    try {
      const found = await file.stat();
      const { size } = found;
      if (!found.isFile() || found.nlink > 1) throw new RuntimeError('FailedPrecondition', `${logPath} is no log file`);
      const last = Buffer.alloc(1);
      if (size > 0) await file.read(last, 0, 1, size - 1);
      const isTorn = size > 0 && last[0] !== 10;
      await file.write(`${isTorn ? '\n' : ''}${new Date().toISOString()} stderr F ${line}\n`);
    } finally {
      await file.close();
    }
  }

  async dropEmptyLog(logPath: string): Promise<void> {
    const found = logPath === '' ? undefined : await lstatIfThere(logPath);
    if (found?.isFile() === true && found.size === 0) await rm(logPath, { force: true });
  }

  async *exits(signal: AbortSignal): AsyncIterable<ExitRecord> {
    for await (const exit of watchExits(this.#exitsDir, signal, this.#log)) yield this.#record(exit);
  }

  async exitOf(id: ContainerId): Promise<ExitRecord | undefined> {
    const exit = readExitFile(this.#exitsDir, id);
    return exit === undefined ? undefined : this.#record(exit);
  }

  async served(): Promise<readonly ContainerId[]> {
    const found: ContainerId[] = [];
    for await (const [, bytes] of processes.filesOf(processes.listPids(), 'cmdline', limits.commandLineBytes)) {
      const bundle = bundleServed(bytes);
      const id = bundle === undefined ? undefined : this.#idOf(bundle);
      if (id !== undefined) found.push(id);
    }
    return found;
  }

  async destroy(op: Op, id: ContainerId, bundle: string): Promise<void> {
    op.stage('end monitor');
    const monitor = await findMonitor(bundle, id);
    if (monitor !== undefined) await this.#end(op, id, monitor);
    this.#removeUnfinished(id);
    removeInMemory(join(this.#exitsDir, id));
  }

  /** Gives up the monitors' cgroups; the monitors go on. */
  async close(): Promise<void> {
    const launchers = [...this.#launchers.values()];
    this.#launchers.clear();
    for (const launcher of launchers) await (await launcher).close();
  }

  async #end(op: Op, id: ContainerId, monitor: ProcessRef): Promise<void> {
    await processes.waitGone(monitor, AbortSignal.any([op.signal, AbortSignal.timeout(limits.monitorGraceMs)]));
    if (processes.isAlive(monitor)) {
      op.log.debug('monitor did not end by itself, killing it', { container: id, pid: monitor.pid });
      killTree(monitor);
      await processes.waitGone(monitor, AbortSignal.timeout(limits.monitorGraceMs));
      orphans.reap();
    }
    if (processes.isAlive(monitor))
      throw new RuntimeError(
        'DeadlineExceeded',
        `monitor ${monitor.pid} of container ${id} does not die from SIGKILL: it hangs in the ` +
          'kernel, look at the disk that its log is on',
      );
  }

  /** What a monitor that was killed would have renamed: upstream has `<id>.XXXXXX`, ours `.conmon-<pid>-<id>.tmp`. */
  #removeUnfinished(id: ContainerId): void {
    for (const name of listInMemory(this.#exitsDir))
      if (name.startsWith(`${id}.`) || (name.startsWith('.conmon-') && name.endsWith(`-${id}.tmp`)))
        removeInMemory(join(this.#exitsDir, name));
  }

  #record(exit: ExitFile): ExitRecord {
    return { ...exit, oomKilled: existsSync(join(this.#bundleOf(exit.id), FILES.oom)) };
  }

  /** The container whose bundle this is, where the bundle is named for it; undefined otherwise. */
  #idOf(bundle: string): ContainerId | undefined {
    const id = exitFileId(bundle.slice(bundle.lastIndexOf('/') + 1));
    return id !== undefined && this.#bundleOf(id) === bundle ? id : undefined;
  }

  /**
   * `monitor_cgroup`: '' and 'pod' leave monitors in the daemon's own cgroup, or with systemd in system.slice; never
   * the pod's, whose limits would hit them (CVE-2019-14891).
   */
  #launcher(monitorCgroup: string): Promise<Launcher> | undefined {
    if (this.#manager !== undefined || monitorCgroup === '' || monitorCgroup === 'pod') return undefined;
    let launcher = this.#launchers.get(monitorCgroup);
    if (launcher === undefined) {
      launcher = openMonitorCgroup(monitorCgroup);
      this.#launchers.set(monitorCgroup, launcher);
      launcher.catch(() => this.#launchers.delete(monitorCgroup));
    }
    return launcher;
  }
}

/** Writes one control line. A FIFO without a reader means that the monitor is gone. */
async function control(bundle: string, line: string): Promise<void> {
  let fifo: Awaited<ReturnType<typeof open>>;
  try {
    fifo = await open(join(bundle, FILES.control), constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  } catch (cause) {
    if (errnoOf(cause) === 'ENXIO' || errnoOf(cause) === 'ENOENT') {
      throw new RuntimeError(
        'FailedPrecondition',
        `no monitor listens in ${bundle}: its container has ended or its monitor is lost`,
        { cause },
      );
    }
    throw cause;
  }
  try {
    await fifo.write(line); // Below PIPE_BUF: whole or not at all.
  } catch (cause) {
    throw new RuntimeError('Unavailable', `the monitor in ${bundle} does not read its control lines; try again`, {
      cause,
    });
  } finally {
    await fifo.close();
  }
}

/** conmon refuses sizes above 1000. */
function terminalCells(count: number): number {
  return Math.max(0, Math.min(1000, Math.trunc(count)));
}

/**
 * The monitor of the bundle, if it lives: by its pid file, checked against its command line, since the pid may be
 * another process's by now. Without a pid file (we died right after we had started it) the process table is searched.
 */
async function findMonitor(bundle: string, id: ContainerId | undefined): Promise<ProcessRef | undefined> {
  const text = pidFileText(join(bundle, FILES.monitorPid));
  const candidates = text === undefined ? processes.listPids() : /^\d{1,10}\s*$/.test(text) ? [text.trim()] : [];
  for await (const [ref, bytes] of processes.filesOf(candidates, 'cmdline', limits.commandLineBytes)) {
    const isOurs = bundleServed(bytes) === bundle && (id === undefined || bytes.includes(id));
    if (isOurs && processes.isAlive(ref)) return ref;
  }
  return undefined;
}

/** PURE. The bundle that a monitor serves, by its command line; undefined for any other program's. */
function bundleServed(cmdline: Buffer): string | undefined {
  const argv = cmdline.toString('utf8').split('\0');
  const at = argv.indexOf('-b');
  return at > 0 && argv.includes('--exit-dir') ? argv[at + 1] : undefined;
}

function pidFileText(path: string): string | undefined {
  try {
    return readInMemory(path, PID_FILE_BYTES).toString('latin1');
  } catch {
    return undefined;
  }
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

async function openMonitorCgroup(monitorCgroup: string): Promise<Launcher> {
  const parent = monitorCgroup.endsWith('.slice')
    ? cgroups.slicePath(monitorCgroup)
    : `/${monitorCgroup.replace(/^\/+/, '')}`;
  const path = `${parent}/berth-monitors`;
  const layout = cgroups.readLayoutSync();
  cgroups.create(layout, path);
  return await openLauncher(layout.hierarchies.map((hierarchy) => cgroups.directoryOf(hierarchy, path)));
}

function attachChannel(stream: FdStream): AttachChannel {
  async function* output(): AsyncGenerator<{ stream: 'stdout' | 'stderr'; data: Uint8Array }> {
    try {
      for await (const packet of stream) {
        if (packet[0] === STREAM_STDOUT || packet[0] === STREAM_STDERR)
          yield { stream: packet[0] === STREAM_STDOUT ? 'stdout' : 'stderr', data: packet.subarray(1) };
      }
    } finally {
      stream.close();
    }
  }
  return {
    output: output(),
    async write(data) {
      for (let at = 0; at < data.length; at += ATTACH_PACKET_BYTES)
        await stream.write(data.subarray(at, at + ATTACH_PACKET_BYTES));
    },
    closeInput: () => void stream.endWrite().catch(() => {}), // The peer is gone: its input is closed all the more.
    close: () => stream.close(),
  };
}
