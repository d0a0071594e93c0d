/**
 * How a monitor is started: its command line, its two pipes, and what it says of the container that it made.
 */
import { type Stats, writeSync } from 'node:fs';
import { lstat, unlink } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { within } from '../base/time.ts';
import type { Child, FdStream, Launcher } from '../ports/kernel.ts';
import { descriptors, exitCodeOf, killTree, orphans, spawn } from '../sys/index.ts';
import { codeOfText, errorText, parseSyncMessage } from './messages.ts';
import type { CreateRequest, RuntimeHandler } from '../ports/runtime.ts';

/** Files in the bundle. */
export const FILES = {
  monitorPid: 'conmon.pid',
  containerPid: 'pidfile',
  runtimeLog: 'runtime.log',
  attach: 'attach',
  control: 'ctl',
  oom: 'oom',
} as const;
const START_FD = 3;
const SYNC_FD = 4;

/** PURE. conmon's command line for a container. */
export function monitorArgv(request: CreateRequest, exitsDir: string): [string, ...string[]] {
  const { handler } = request.runtime;
  const inBundle = (name: string): string => join(request.bundle, name);
  // The runtime's log is the one place where every runtime says why it failed without noise around it.
  const runtimeArgs = [
    `--root=${handler.root}`,
    `--log=${inBundle(FILES.runtimeLog)}`,
    '--log-format=json',
    ...handler.runtimeArgs,
  ];
  return [
    handler.monitorPath,
    '--sync',
    '--syslog', // Once it is detached, nobody else hears what is wrong; without /dev/log it goes on without.
    '-b',
    request.bundle,
    '-c',
    request.id,
    '-u',
    request.id,
    '-n',
    request.name,
    '-r',
    handler.path,
    ...runtimeArgs.flatMap((argument) => ['--runtime-arg', argument]),
    '-p',
    inBundle(FILES.containerPid),
    '-P',
    inBundle(FILES.monitorPid),
    '--exit-dir',
    exitsDir,
    '--full-attach',
    '-l',
    request.logPath === '' ? 'none' : `k8s-file:${request.logPath}`,
    ...(handler.journal === 'copy' && request.logPath !== '' ? ['-l', 'journald'] : []),
    ...(handler.logSizeMaxBytes < 0 ? [] : ['--log-size-max', String(handler.logSizeMaxBytes)]),
    ...(handler.cgroupManager === 'systemd' ? ['-s'] : []),
    ...(handler.noSyncLog ? ['--no-sync-log'] : []),
    ...(handler.noPivot ? ['--no-pivot'] : []),
    ...stdioFlags(request),
  ];
}

function stdioFlags(request: CreateRequest): string[] {
  if (!request.tty && !request.stdin) return [];
  return [request.tty ? '-t' : '-i', ...(request.stdinOnce ? [] : ['--leave-stdin-open'])];
}

/** A monitor that has been started and waits at its start pipe. */
export interface RunningMonitor {
  readonly child: Child;
  readonly sync: FdStream;
  readonly stderr: FdStream;
  /**
   * Lets it run the runtime; it is in its cgroup from birth and waits for nothing but that. A second call does nothing.
   */
  release(): void;
}

/** Starts a monitor in its cgroup; it does nothing until it is released. */
export async function startMonitor(
  argv: [string, ...string[]],
  request: CreateRequest,
  launcher: Launcher | undefined,
): Promise<RunningMonitor> {
  const open = new Set<number>();
  const openPipe = (): ReturnType<typeof descriptors.pipe> => {
    const ends = descriptors.pipe();
    open.add(ends.read).add(ends.write);
    return ends;
  };
  try {
    const [start, sync, stderr] = [openPipe(), openPipe(), openPipe()];
    const child = await spawn({
      argv,
      cwd: request.bundle,
      launcher,
      leads: 'session',
      env: monitorEnv(request.runtime.handler),
      fds: ['null', 'null', stderr.write, start.read, sync.write],
    });
    for (const ours of [start.write, sync.read, stderr.read]) open.delete(ours);
    return {
      child,
      sync: descriptors.openStream(sync.read),
      stderr: descriptors.openStream(stderr.read),
      release: releaser(start.write),
    };
  } finally {
    for (const fd of open) descriptors.close(fd);
  }
}

function releaser(startPipe: number): () => void {
  let isHeld = true;
  return () => {
    if (!isHeld) return;
    isHeld = false;
    try {
      writeSync(startPipe, Buffer.of(0));
    } catch (error) {
      if (errnoOf(error) !== 'EPIPE') throw error; // It has ended, and said on the sync pipe why.
    } finally {
      descriptors.close(startPipe);
    }
  };
}

function monitorEnv(handler: RuntimeHandler): string[] {
  const path = process.env['PATH'] ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
  return [`PATH=${path}`, ...handler.monitorEnv, `_OCI_STARTPIPE=${START_FD}`, `_OCI_SYNCPIPE=${SYNC_FD}`];
}

/** What the monitor answers; @throws what the runtime said, or how the monitor ended without an answer. */
export async function containerPid(running: RunningMonitor, request: CreateRequest): Promise<number> {
  const said = tail(running.stderr);
  const line = await readLine(running.sync);
  const answer = line === undefined ? undefined : parseSyncMessage(line);
  if (answer?.kind === 'pid') return answer.pid;
  const ending = await running.child.exited;
  const { handler } = request.runtime;
  const logged = errorText(await readTail(join(request.bundle, FILES.runtimeLog)));
  if (answer !== undefined || logged !== '') {
    const text = logged !== '' ? logged : errorText(answer?.message ?? '');
    throw new RuntimeError(
      codeOfText(text),
      `${handler.path} could not create container ${request.id}: ${text === '' ? 'it did not say why' : text}`,
    );
  }
  const words = errorText(await said);
  throw new RuntimeError(
    'Internal',
    `monitor ${handler.monitorPath} ended with exit code ${exitCodeOf(ending)} before container ` +
      `${request.id} was created: ${words === '' ? 'it did not say why' : words}`,
  );
}

/** Kills a monitor with what it has started, and waits until it is reaped. */
export async function endMonitor(child: Child): Promise<void> {
  killTree(child.ref);
  await within(limits.monitorGraceMs, child.exited);
  orphans.reap(); // What it had started came to us when it died.
}

/** The first line of a stream, without its end; undefined if it ends before one. @throws Internal if it is too long. */
async function readLine(stream: FdStream): Promise<string | undefined> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of stream) {
    const end = part.indexOf(10);
    parts.push(end < 0 ? part : part.subarray(0, end));
    if (end >= 0) return Buffer.concat(parts).toString('utf8');
    size += part.length;
    if (size > limits.monitorAnswerBytes)
      throw new RuntimeError('Internal', `the monitor's answer is longer than ${limits.monitorAnswerBytes} bytes`);
  }
  return undefined;
}

/** The last bytes of a stream as text, once it ends. Reads it to its end. */
async function tail(stream: FdStream): Promise<string> {
  let kept = Buffer.alloc(0);
  for await (const part of stream) kept = Buffer.concat([kept, part]).subarray(-limits.commandErrorBytes);
  return kept.toString('utf8');
}

/** The last bytes of a file as text; '' if there is none. */
async function readTail(path: string): Promise<string> {
  const file = await open(path, 'r').catch(() => undefined);
  if (file === undefined) return '';
  try {
    const { size } = await file.stat();
    const bytes = Buffer.alloc(Math.min(size, limits.commandErrorBytes));
    const { bytesRead } = await file.read(bytes, 0, bytes.length, size - bytes.length);
    return bytes.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

/**
 * Makes way for the log: what is at its path and is no plain file is removed, so that no monitor writes through a link
 * that somebody put there (kubernetes#44043), or waits for the reader of a FIFO. So is a file of several names, unless
 * it may be the log itself. @throws FailedPrecondition if a directory is there, or none to make a file in.
 */
export async function prepareLogPath(logPath: string, log: 'a new one' | 'reopened'): Promise<void> {
  if (logPath === '') return;
  const found = await lstatIfThere(logPath);
  const remedy = found?.isDirectory() === true ? 'it is a directory; remove it' : await noDirectoryFor(logPath, found);
  if (remedy !== undefined) throw new RuntimeError('FailedPrecondition', `cannot log to ${logPath}: ${remedy}`);
  if (found !== undefined && (!found.isFile() || (log === 'a new one' && found.nlink > 1))) await unlink(logPath);
}

async function noDirectoryFor(logPath: string, found: Stats | undefined): Promise<string | undefined> {
  if (found !== undefined || (await lstatIfThere(dirname(logPath))) !== undefined) return undefined;
  return `there is no directory ${dirname(logPath)}; make it`;
}

/** What is at the path itself, also if that is a link; undefined if nothing is. */
export async function lstatIfThere(path: string): Promise<Stats | undefined> {
  return await lstat(path).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  });
}
