/**
 * What the suites of pkg/runtime share: runc, crun and runsc, each under the distribution's conmon and ours, containers
 * prepared for them, and the check that nothing is left.
 */
import { assert } from 'chai';
import type { Processes, RuntimeHandler } from '../../pkg/ports/runtime.ts';
import { existsSync } from 'node:fs';
import {
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  rmdir,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { newContainerId, type ProcessRef } from '../../pkg/base/ids.ts';
import type { LinuxResources, RuntimeProcess, RuntimeSpec } from '../../pkg/oci/spec-types.ts';
import { eventually, type Prepared, type Subject } from '../../pkg/runtime/conformance.ts';
import { ConmonMonitor, OciCli } from '../../pkg/runtime/index.ts';
import { orphans, processes as kernel } from '../../pkg/sys/index.ts';

export const RUNTIMES: Readonly<Record<string, string>> = {
  runc: '/usr/sbin/runc',
  crun: '/usr/bin/crun',
  runsc: '/usr/bin/runsc',
};
export const MONITORS: Readonly<Record<string, string>> = {
  "Debian's conmon": '/usr/bin/conmon',
  'our conmon': join(import.meta.dirname, '../../build/bin/conmon'),
};
const BUSYBOX = ['/bin/busybox', '/usr/bin/busybox'].find((path) => existsSync(path)) ?? '/bin/busybox';
const COMMANDS = [
  'sh',
  'sleep',
  'true',
  'false',
  'cat',
  'echo',
  'head',
  'tr',
  'seq',
  'kill',
  'stty',
  'dd',
  'setsid',
  'ps',
  'id',
  'tail',
];
/**
 * ptrace wants no hardware; a network stack of its own wants another way to tell the node's namespace than Debian's
 * runsc has: see docs/RUNTIMES.md.
 */
const RUNSC_ARGS = ['--platform=ptrace', '--network=host'];
export const CGROUP_PARENT = `berth-runtime-test-${process.pid}`;
export const SIGKILL = 9;

const processes: Processes = {
  alive: kernel.isAlive,
  signal: kernel.signal,
  heeds: kernel.heeds,
  hasExecuted: kernel.hasExecuted,
  holdPidNamespace: () => {
    throw new Error('no test of runtimes joins one');
  },
  gone: kernel.waitGone,
};

/** A directory of our own with a root file system, and subjects on it. */
export class Ground {
  readonly dir: string;
  #handlers = 0;

  constructor(dir: string) {
    this.dir = dir;
  }

  static async make(): Promise<Ground> {
    orphans.becomeSubreaper();
    const ground = new Ground(await mkdtemp(join(tmpdir(), 'brt-')));
    const root = join(ground.dir, 'rootfs');
    for (const each of ['bin', 'proc', 'dev', 'sys', 'tmp']) await mkdir(join(root, each), { recursive: true });
    await cp(BUSYBOX, join(root, 'bin/busybox'));
    for (const each of COMMANDS) await symlink('busybox', join(root, 'bin', each));
    return ground;
  }

  /** Each handler has a directory of its own, so that one failed test does not fail the next. */
  handler(runtime: string, monitor: string, more: Partial<RuntimeHandler> = {}, name = ''): RuntimeHandler {
    const dir = join(this.dir, `${name}${this.#handlers++}`);
    return {
      name: 'test',
      path: RUNTIMES[runtime] ?? runtime,
      root: join(dir, 'rt'),
      monitorPath: MONITORS[monitor] ?? monitor,
      monitorEnv: [],
      monitorCgroup: '',
      cgroupManager: 'cgroupfs',
      runtimeArgs: runtime === 'runsc' ? RUNSC_ARGS : [],
      createTimeoutMs: 30_000,
      noPivot: false,
      noSyncLog: true,
      logSizeMaxBytes: -1,
      journal: 'none',
      ...more,
    };
  }

  /** A subject that checks on close that its containers left nothing. */
  async subject(handler: RuntimeHandler): Promise<RealSubject> {
    const dir = dirname(handler.root);
    const cgroup = join(CGROUP_PARENT, basename(dir));
    const root = join(this.dir, 'rootfs');
    for (const name of ['containers', 'logs']) await mkdir(join(dir, name), { recursive: true });
    const descriptors = await openDescriptors();
    const monitor = new ConmonMonitor({ exitsDir: join(dir, 'exits') });
    const runtime = new OciCli(handler);
    return {
      monitor,
      runtime,
      processes,
      prepare: async (args, { tty, resources }) => {
        const id = newContainerId();
        const prepared = { id, bundle: join(dir, 'containers', id), logPath: join(dir, 'logs', id) };
        await mkdir(prepared.bundle);
        await writeFile(
          join(prepared.bundle, 'config.json'),
          JSON.stringify(spec(args, tty, root, `/${cgroup}/${id}`, resources ?? {}), (_key, value: unknown) =>
            typeof value === 'bigint' ? Number(value) : value,
          ),
        );
        return prepared;
      },
      process: (args, { tty }) => processOf(args, tty),
      readLog: async (path) => (await logLines(path)).map(({ stream, tag, text }) => `${stream} ${tag} ${text}`),
      moveLog: (from, to) =>
        rename(from, to).catch((error: NodeJS.ErrnoException) => assert.strictEqual(error.code, 'ENOENT')),
      close: async () => {
        await monitor.close();
        await rm(join(dir, 'containers'), { recursive: true });
        await rm(join(dir, 'logs'), { recursive: true });
        await assertNothingLeft(dir, cgroup, descriptors);
      },
    };
  }

  async remove(): Promise<void> {
    for (const path of await cgroupDirectories(CGROUP_PARENT)) await removeCgroup(path);
    await rm(this.dir, { recursive: true });
  }
}

export interface RealSubject extends Subject {
  prepare(
    args: readonly string[],
    options: { readonly tty: boolean; readonly resources?: LinuxResources },
  ): Promise<Prepared>;
}

/** A container's config.json: all namespaces new, a few capabilities that every test ground has. */
function spec(
  args: readonly string[],
  tty: boolean,
  root: string,
  cgroupsPath: string,
  resources: LinuxResources,
): RuntimeSpec {
  return {
    ociVersion: '1.0.2',
    process: processOf(args, tty),
    root: { path: root, readonly: true },
    hostname: 'test',
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755', 'size=65536k'] },
      {
        destination: '/dev/pts',
        type: 'devpts',
        source: 'devpts',
        options: ['newinstance', 'ptmxmode=0666', 'mode=0620'],
      },
      { destination: '/tmp', type: 'tmpfs', source: 'tmpfs' },
    ],
    linux: {
      namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'ipc' }, { type: 'uts' }, { type: 'network' }],
      cgroupsPath,
      resources: { devices: [{ allow: false, access: 'rwm' }], ...resources },
    },
  };
}

function processOf(args: readonly string[], tty: boolean): RuntimeProcess {
  const capabilities = ['CAP_CHOWN', 'CAP_KILL', 'CAP_SETUID', 'CAP_SETGID'];
  return {
    terminal: tty,
    user: { uid: 0, gid: 0 },
    args: [...args],
    env: ['PATH=/bin', 'TERM=xterm'],
    cwd: '/',
    capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    noNewPrivileges: true,
  };
}

export interface LogLine {
  readonly time: string;
  readonly stream: string;
  readonly tag: string;
  readonly text: string;
}

/** The lines of a CRI log; none if it is absent. Throws on a line that is none. */
export async function logLines(path: string): Promise<LogLine[]> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const match = /^(\S+) (stdout|stderr) ([FP]) (.*)$/s.exec(line);
      if (match === null) throw new Error(`no line of a CRI log: ${JSON.stringify(line.slice(0, 200))}`);
      return { time: match[1] ?? '', stream: match[2] ?? '', tag: match[3] ?? '', text: match[4] ?? '' };
    });
}

/** What the container wrote: partial lines joined. */
export function textOf(lines: readonly LogLine[]): string {
  return lines.map((line) => line.text + (line.tag === 'F' ? '\n' : '')).join('');
}

export async function* lines(...texts: readonly string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield Buffer.from(text);
}

/** The cgroup directories of `path` in all hierarchies that have it. */
async function cgroupDirectories(path: string): Promise<string[]> {
  const names = await readdir('/sys/fs/cgroup');
  return names.map((name) => join('/sys/fs/cgroup', name, path)).filter((each) => existsSync(each));
}

async function subdirectories(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map((entry) => join(path, entry.name));
}

/** After a failed test there may be containers; they are ours alone, since the parent is named for this process. */
async function removeCgroup(path: string): Promise<void> {
  for (const each of await subdirectories(path)) await removeCgroup(each);
  const procs = await readFile(join(path, 'cgroup.procs'), 'utf8');
  for (const pid of procs.split('\n').filter((line) => line !== '')) process.kill(Number(pid), 'SIGKILL');
  await eventually(`${path} is removed`, () =>
    rmdir(path).then(
      () => true,
      () => false,
    ),
  );
}

async function cgroupPath(ref: ProcessRef, controller: string): Promise<string> {
  const text = await readFile(`/proc/${ref.pid}/cgroup`, 'utf8');
  const line = text.split('\n').find((each) => each.split(':')[1]?.split(',').includes(controller));
  return join('/sys/fs/cgroup', controller, line?.split(':')[2] ?? '');
}

export async function cgroupValue(ref: ProcessRef, controller: string, file: string): Promise<string> {
  return (await readFile(join(await cgroupPath(ref, controller), file), 'utf8')).trim();
}

export async function cgroupMembers(ref: ProcessRef): Promise<number[]> {
  const text = await readFile(join(await cgroupPath(ref, 'pids'), 'cgroup.procs'), 'utf8');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(Number);
}

async function openDescriptors(): Promise<string[]> {
  const names = await readdir('/proc/self/fd');
  const targets = await Promise.all(names.map(async (name) => readlink(`/proc/self/fd/${name}`).catch(() => '')));
  return targets.filter(
    (target) => /^(pipe|socket|anon_inode:\[(pidfd|inotify)\]|\/dev\/ptmx)/.test(target) || target.includes('/brt-'),
  );
}

/** Descriptors, processes, zombies, cgroups, runtime state, exit files, scratch files. */
async function assertNothingLeft(dir: string, cgroup: string, descriptorsBefore: readonly string[]): Promise<void> {
  await eventually('strays are reaped', () => orphans.reap() === 0);
  await eventually(
    'every descriptor is closed',
    async () => (await openDescriptors()).length <= descriptorsBefore.length,
  );
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    const command = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
    assert.notInclude(command, dir, `process ${name} is left`);
  }
  for (const each of ['rt', 'rt.exec', 'exits'])
    assert.deepEqual(await readdir(join(dir, each)).catch(() => []), [], `${each} is not empty`);
  for (const each of await cgroupDirectories(cgroup))
    assert.deepEqual(await subdirectories(each), [], 'a cgroup is left');
}
