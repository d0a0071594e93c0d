/**
 * pkg/sys, native/ and the Linux side of pkg/runtime against a real kernel. Needs root and built binaries. Everything
 * it makes lies in one temporary directory and in cgroups and namespaces of its own; the last hook checks that nothing
 * is left.
 */
import { assert } from 'chai';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { on } from 'node:events';
import {
  closeSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { RuntimeError, type ErrorCode } from '../../pkg/base/errors.ts';
import { newSandboxId } from '../../pkg/base/ids.ts';
import { backgroundOp, silent, type Op } from '../../pkg/base/op.ts';
import { LinuxHost, LinuxProcesses, PinnedNamespaces } from '../../pkg/runtime/index.ts';
import * as sys from '../../pkg/sys/index.ts';
import { parseMountinfo } from '../../pkg/sys/mountinfo.ts';
import type { Captured, FdStream, MountEntry } from '../../pkg/ports/kernel.ts';
import type { PinRequest } from '../../pkg/ports/runtime.ts';
import type { NodeFacts } from '../../pkg/ports/spec.ts';

const BIN = join(import.meta.dirname, '../../build/bin');
const PINNS = join(BIN, 'pinns');
const PAUSE = join(BIN, 'pause');
const SIGTERM = 15;
const SIGKILL = 9;

let top = '';
const op = (ms = 20_000): Op => backgroundOp(silent, ms);
const run = (...argv: [string, ...string[]]): Promise<Captured> =>
  sys.capture(op(), { argv, stdoutMax: 1 << 20, stderrMax: 4096 });
const openFds = (): number => readdirSync('/proc/self/fd').length;

/** A fresh directory below the suite's. */
function fresh(name: string): string {
  const path = join(top, `${name}-${randomBytes(4).toString('hex')}`);
  mkdirSync(path, { recursive: true });
  return path;
}

async function refusal(work: () => unknown, code: ErrorCode): Promise<RuntimeError> {
  try {
    await work();
  } catch (error) {
    assert.instanceOf(error, RuntimeError);
    assert.equal(error.code, code, error.message);
    return error;
  }
  return assert.fail(`wanted ${code}, got success`);
}

/** Everything to the end. */
async function bytesOf(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

/** What is there; fails if nothing is. */
function there<T>(found: T | undefined): T {
  assert.isDefined(found);
  return found as T;
}

/** Waits for a condition; fails with its name after 10 s. */
async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 10_000; !(await holds()); ) {
    if (Date.now() > end) assert.fail(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

before(() => {
  top = realpathSync(mkdtempSync('/tmp/berth-sys-'));
});
after(async () => {
  const mounts = (await sys.mounts.read())
    .filter((mount) => sys.mounts.isAtOrBelow(mount.mountPoint, top))
    .map((mount) => mount.mountPoint);
  await sys.mounts.unmountTree(top);
  rmSync(top, { recursive: true, force: true });
  assert.deepEqual(mounts, [], 'mounts left behind');
});

describe('sys spawn', () => {
  it('gives the child exactly the descriptors it was given', async () => {
    const leak = openSync('/dev/null', 'r');
    const { read, write } = sys.descriptors.pipe();
    const child = await sys.spawn({ argv: ['/bin/ls', '/proc/self/fd'], fds: ['null', write, 'null', write] });
    sys.descriptors.close(write);
    const stream = sys.descriptors.openStream(read);
    const output = (await bytesOf(stream)).toString();
    stream.close();
    closeSync(leak);
    // 4 is the directory that ls reads.
    assert.deepEqual(output.trim().split(/\s+/), ['0', '1', '2', '3', '4']);
    assert.deepEqual(await child.exited, { kind: 'exited', code: 0 });
  });

  it("maps descriptors that stand in each other's way", async () => {
    const [a, b] = [sys.descriptors.pipe(), sys.descriptors.pipe()];
    const child = await sys.spawn({
      argv: ['/bin/sh', '-c', 'echo first >&0; echo second >&1'],
      fds: [Math.max(a.write, b.write), Math.min(a.write, b.write)],
    });
    const streams = [b, a].map((each) => {
      sys.descriptors.close(each.write);
      return sys.descriptors.openStream(each.read);
    });
    const texts = await Promise.all(streams.map(async (stream) => (await bytesOf(stream)).toString()));
    for (const stream of streams) stream.close();
    assert.deepEqual(texts, ['first\n', 'second\n']);
    await child.exited;
  });

  it('starts with a clean signal state in a group of its own', async () => {
    const { stdout } = await run('/bin/sh', '-c', 'cat /proc/self/status; ps -o pgid= -p $$; echo $$');
    const text = stdout.toString();
    for (const field of ['SigBlk', 'SigIgn', 'SigPnd'])
      assert.match(text, new RegExp(`^${field}:\\s+0{16}$`, 'm'), field);
    const [group, pid] = text
      .trim()
      .split('\n')
      .slice(-2)
      .map((each) => each.trim());
    assert.equal(group, pid);
  });

  it('makes a session, a directory, an environment, an oom score', async () => {
    const directory = fresh('cwd');
    const { stdout } = await sys.capture(op(), {
      argv: ['/bin/sh', '-c', 'pwd; echo $A; ps -o sid= -p $$; echo $$; cat /proc/self/oom_score_adj'],
      cwd: directory,
      env: ['A=b c', 'PATH=/bin'],
      leads: 'session',
      oomScoreAdj: 321,
      stdoutMax: 1000,
      stderrMax: 100,
    });
    const [pwd, a, session, pid, score] = stdout
      .toString()
      .trim()
      .split('\n')
      .map((each) => each.trim());
    assert.deepEqual([pwd, a, session, score], [directory, 'b c', pid, '321']);
  });

  it('says what is wrong with a program', async () => {
    const notRunnable = join(fresh('bad'), 'data');
    writeFileSync(notRunnable, 'x', { mode: 0o644 });
    assert.match(
      (await refusal(() => sys.spawn({ argv: ['/bin/no-such'] }), 'NotFound')).message,
      /\/bin\/no-such.*install it/,
    );
    await refusal(() => sys.spawn({ argv: ['no-such-program-anywhere'] }), 'NotFound');
    await refusal(() => sys.spawn({ argv: [notRunnable] }), 'PermissionDenied');
    await refusal(() => sys.spawn({ argv: ['/bin/true'], cwd: '/no/such' }), 'NotFound');
    await refusal(() => sys.spawn({ argv: ['/bin/true\0'] }), 'InvalidArgument');
  });

  it('reports exits and signals, and never a wrong one', async () => {
    assert.deepEqual(await (await sys.spawn({ argv: ['/bin/sh', '-c', 'exit 77'] })).exited, {
      kind: 'exited',
      code: 77,
    });
    const child = await sys.spawn({ argv: ['/bin/sleep', '100'] });
    assert.isTrue(sys.processes.isAlive(child.ref));
    assert.isTrue(child.kill(SIGTERM));
    assert.deepEqual(await child.exited, { kind: 'signalled', signal: SIGTERM });
    assert.isFalse(child.kill(SIGTERM));
    assert.isFalse(child.killGroup(SIGTERM));
    assert.isFalse(sys.processes.isAlive(child.ref));
  });

  it('runs a hundred at once and loses none', async () => {
    const before = openFds();
    const codes = await Promise.all(
      Array.from({ length: 100 }, async (_, index) =>
        sys.exitCodeOf(await (await sys.spawn({ argv: ['/bin/sh', '-c', `exit ${index}`] })).exited),
      ),
    );
    assert.deepEqual(
      codes,
      Array.from({ length: 100 }, (_, index) => index),
    );
    assert.equal(openFds(), before);
  });

  it('puts the child into cgroups before it runs, by itself or by a launcher', async () => {
    const layout = sys.cgroups.readLayoutSync();
    const path = `/berth-sys-${randomBytes(4).toString('hex')}`;
    const hierarchies = layout.hierarchies.filter(
      (each) => each.version === 2 || each.controllers.some((name) => ['pids', 'freezer'].includes(name)),
    );
    const directories = hierarchies.map((each) => sys.cgroups.directoryOf(each, path));
    for (const directory of directories) mkdirSync(directory);
    const launcher = await sys.openLauncher(directories);
    try {
      for (const how of [{ cgroupDirs: directories }, { launcher }]) {
        const { stdout } = await sys.capture(op(), {
          argv: ['/bin/cat', '/proc/self/cgroup'],
          ...how,
          stdoutMax: 4096,
          stderrMax: 100,
        });
        const cgroups = sys.cgroups.parseProcCgroup(stdout.toString());
        for (const hierarchy of hierarchies)
          assert.equal(cgroups.get(hierarchy.version === 2 ? '' : (hierarchy.controllers[0] ?? '')), path);
      }
    } finally {
      await launcher.close();
      await sys.cgroups.destroy(op(), layout, path);
    }
  });
});

describe('sys spawn beside reapOrphans', () => {
  it('never loses the exit of a child that ends before anybody could wait for it', async () => {
    let on = true;
    const reaping = (async () => {
      while (on) {
        sys.orphans.reap();
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    const codes = await Promise.all(
      Array.from({ length: 300 }, async () => (await run('/bin/sh', '-c', 'exit 3')).exitCode),
    );
    on = false;
    await reaping;
    assert.deepEqual(
      codes.filter((code) => code !== 3),
      [],
    );
  });
});

describe('sys capture', () => {
  it('feeds, reads, cuts', async () => {
    const input = 'x'.repeat(300_000);
    const all = await sys.capture(op(), { argv: ['/bin/cat'], stdin: input, stdoutMax: 1 << 20, stderrMax: 10 });
    assert.isTrue(all.stdout.toString() === input && !all.stdoutCut);
    const cut = await sys.capture(op(), {
      argv: ['/bin/sh', '-c', 'seq 1 100000; seq 1 100000 >&2; exit 3'],
      stdoutMax: 8,
      stderrMax: 7,
    });
    assert.deepEqual(
      [cut.stdout.toString(), cut.stdoutCut, cut.stderr.toString(), cut.stderrCut, cut.exitCode],
      ['1\n2\n3\n4\n', true, '100000\n', true, 3],
    );
  });

  it('does not mind a command that leaves its input unread', async () => {
    assert.equal(
      (await sys.capture(op(), { argv: ['/bin/true'], stdin: Buffer.alloc(1 << 20), stdoutMax: 1, stderrMax: 1 }))
        .exitCode,
      0,
    );
  });

  it('kills the whole group at the deadline', async () => {
    const marker = join(fresh('deadline'), 'pid');
    const error = await refusal(
      () =>
        sys.capture(op(300), {
          argv: ['/bin/sh', '-c', `sleep 1000 & echo $! > ${marker}; wait`],
          stdoutMax: 1,
          stderrMax: 1,
          what: 'the sleeper',
        }),
      'DeadlineExceeded',
    );
    assert.include(error.message, 'the sleeper');
    const orphan = Number(readFileSync(marker, 'utf8'));
    await eventually("the sleeper's child is gone", () => {
      const ref = sys.processes.refOf(orphan);
      return ref === undefined || !sys.processes.isAlive(ref);
    });
  });

  it('does not wait for a descendant that keeps the pipe (GHSA-7jxh-36q5-gcqv)', async () => {
    const started = Date.now();
    const { exitCode, stdout } = await sys.capture(op(), {
      argv: ['/bin/sh', '-c', 'sleep 5 & echo $!; exit 4'],
      stdoutMax: 100,
      stderrMax: 1,
    });
    assert.equal(exitCode, 4);
    assert.isBelow(Date.now() - started, 2_000);
    process.kill(Number(stdout.toString()), 'SIGKILL');
  });

  it('leaves no descriptor open, however it ends', async () => {
    await run('/bin/true');
    const before = openFds();
    for (let i = 0; i < 20; i++) {
      await run('/bin/echo', 'x');
      await refusal(() => run('/bin/no-such'), 'NotFound');
    }
    assert.equal(openFds(), before);
  });
});

describe('sys streams', () => {
  it('holds the writer back until the reader reads', async () => {
    const [a, b] = sys.sockets.pair('stream').map(sys.descriptors.openStream) as [FdStream, FdStream];
    const data = randomBytes(4 << 20);
    let written = false;
    const writing = a.write(data).then(() => {
      written = true;
      return a.endWrite();
    });
    const first = await b.read();
    assert.isFalse(written);
    const rest = await bytesOf(b);
    await writing;
    assert.isTrue(Buffer.concat([first ?? Buffer.alloc(0), rest]).equals(data));
    a.close();
    b.close();
  });

  it('keeps packets whole, over a path longer than sockaddr_un', async () => {
    const directory = join(fresh('seqpacket'), 'd'.repeat(100), 'e'.repeat(100));
    mkdirSync(directory, { recursive: true });
    const path = join(directory, 'attach');
    const listener = sys.sockets.listen(path, 'seqpacket', 0o600);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const client = sys.descriptors.openStream(await sys.sockets.connect(path, 'seqpacket'));
    const server = sys.descriptors.openStream((await listener.accept(op().signal)) ?? -1);
    await client.write(Buffer.from('one'));
    await client.write(Buffer.from('second'));
    assert.equal((await server.read())?.toString(), 'one');
    assert.equal((await server.read())?.toString(), 'second');
    await client.endWrite();
    assert.isNull(await server.read());
    await server.write(Buffer.from('bye'));
    assert.equal((await client.read())?.toString(), 'bye');
    for (const each of [client, server, listener]) each.close();
    await refusal(() => sys.sockets.connect(join(directory, 'nobody'), 'stream'), 'NotFound');
    await refusal(() => sys.sockets.connect(path, 'seqpacket'), 'Unavailable');
  });

  it('wakes a waiting reader when it is closed, and refuses a second reader', async () => {
    const [a, b] = sys.sockets.pair('stream');
    const stream = sys.descriptors.openStream(a);
    const reading = stream.read();
    await refusal(() => stream.read(), 'Internal');
    stream.close();
    assert.isNull(await reading);
    await refusal(() => stream.write(Buffer.from('x')), 'Cancelled');
    sys.descriptors.close(b);
  });

  it('tells a writer that nobody reads', async () => {
    const { read, write } = sys.descriptors.pipe();
    const stream = sys.descriptors.openStream(write);
    sys.descriptors.close(read);
    const error = await refusal(() => stream.write(Buffer.from('x')), 'FailedPrecondition');
    assert.equal(sys.errnoBehind(error), 'EPIPE');
    stream.close();
  });

  it('gives up accepting when its caller does', async () => {
    const listener = sys.sockets.listen(join(fresh('accept'), 's'), 'stream');
    assert.isNull(await listener.accept(AbortSignal.timeout(20)));
    listener.close();
  });

  it('receives a terminal from a runtime, sizes it, and reads to its end', async () => {
    const path = join(fresh('console'), 'socket');
    const socket = sys.sockets.listenConsole(path);
    const sender = await sys.spawn({
      argv: [
        '/usr/bin/python3',
        '-c',
        [
          'import os, socket, sys, array',
          'master, slave = os.openpty()',
          's = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])',
          's.sendmsg([b"/dev/ptmx"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))])',
          'os.close(master); s.close()',
          'os.write(slave, b"ready\\n"); line = os.read(slave, 100)',
          'os.write(slave, b"%s %d %d\\n" % (line.strip(), *os.get_terminal_size(slave)))',
        ].join('\n'),
        path,
      ],
    });
    const master = await socket.receive(op().signal);
    socket.close();
    assert.isNotNull(master);
    sys.descriptors.setWindowSize(master, { width: 132, height: 43 });
    const stream = sys.descriptors.openStream(master);
    await stream.write(Buffer.from('hello\n'));
    const text = (await bytesOf(stream)).toString();
    stream.close();
    assert.include(text, 'ready');
    assert.include(text, 'hello 132 43');
    await sender.exited;
  });

  it('sees every change in a directory', async () => {
    const directory = fresh('watch');
    const seen: string[] = [];
    const watch = sys.watchDirectory(directory, (event) =>
      seen.push('name' in event ? `${event.kind} ${event.name}` : event.kind),
    );
    writeFileSync(join(directory, 'a'), 'x');
    renameSync(join(directory, 'a'), join(directory, 'b'));
    rmSync(directory, { recursive: true });
    await eventually('the directory is reported gone', () => seen.includes('gone'));
    watch.close();
    assert.deepEqual(seen, ['changed a', 'changed a', 'removed a', 'changed b', 'removed b', 'gone']);
    await refusal(() => sys.watchDirectory(directory, () => {}), 'NotFound');
  });

  it('locks a file once, and names the holder', async () => {
    const path = join(fresh('lock'), 'lock');
    const lock = sys.lockFile(path);
    assert.include((await refusal(() => sys.lockFile(path), 'FailedPrecondition')).message, `pid ${process.pid}`);
    lock.release();
    sys.lockFile(path).release();
  });

  it('speaks to the service manager', async () => {
    const path = join(fresh('notify'), 'socket');
    const listener = sys.sockets.listen(path, 'datagram');
    assert.isFalse(sys.sockets.notifyServiceManager('READY=1'));
    process.env['NOTIFY_SOCKET'] = path;
    try {
      assert.isTrue(sys.sockets.notifyServiceManager('READY=1'));
    } finally {
      delete process.env['NOTIFY_SOCKET'];
      listener.close();
    }
  });
});

describe('sys mounts', () => {
  const layersOf = (directory: string, count: number): string[] =>
    Array.from({ length: count }, (_, index) => {
      const path = join(directory, `layer-${index}`.padEnd(70, 'x'));
      mkdirSync(path);
      writeFileSync(join(path, `file-${index}`), String(index));
      writeFileSync(join(path, 'same'), String(index));
      return path;
    });

  for (const method of ['best', 'classic'] as const) {
    it(`stacks 128 layers, topmost first (${method})`, async () => {
      const directory = fresh('overlay');
      const lower = layersOf(directory, 128);
      const [upper, work, target] = ['upper', 'work', 'merged'].map((name) => join(directory, name)) as [
        string,
        string,
        string,
      ];
      for (const path of [upper, work, target]) mkdirSync(path);
      await sys.mounts.overlay({ lower, writable: { upper, work }, target, options: ['nodev', 'index=off'], method });
      assert.isTrue(sys.mounts.isMountPoint(target));
      assert.equal(readFileSync(join(target, 'same'), 'utf8'), '0');
      assert.equal(readFileSync(join(target, 'file-127'), 'utf8'), '127');
      writeFileSync(join(target, 'new'), 'x');
      assert.isTrue(existsSync(join(upper, 'new')));
      const mount = sys.mounts.mountOf(await sys.mounts.read(), join(target, 'new'));
      assert.include(there(mount).options, 'nodev');
      assert.deepEqual(await sys.mounts.byId(BigInt(mount?.id ?? 0)), mount);
      assert.isTrue(await sys.mounts.unmount(target));
      assert.isFalse(await sys.mounts.unmount(target));
      assert.isFalse(await sys.mounts.unmount(join(target, 'absent')));
    });
  }

  it('says what the kernel has against an option', async () => {
    const directory = fresh('overlay');
    const error = await refusal(
      () =>
        sys.mounts.overlay({
          lower: layersOf(directory, 1),
          writable: null,
          target: directory,
          options: ['no_such_option=1'],
        }),
      'InvalidArgument',
    );
    assert.include(error.message, 'no_such_option');
    const absent = join(directory, 'absent');
    assert.include(
      (
        await refusal(
          () => sys.mounts.overlay({ lower: [absent], writable: null, target: directory, options: [] }),
          'NotFound',
        )
      ).message,
      absent,
    );
  });

  it('maps the ids of lower layers', async () => {
    const directory = fresh('idmap');
    const lower = layersOf(directory, 3);
    const [upper, work, target] = ['upper', 'work', 'merged'].map((name) => join(directory, name)) as [
      string,
      string,
      string,
    ];
    for (const path of [upper, work, target]) mkdirSync(path);
    const map = [{ containerId: 0, hostId: 100_000, size: 65_536 }];
    const userns = await sys.namespaces.openUser({ uids: map, gids: map });
    await sys.mounts.overlay({ lower, writable: { upper, work }, target, options: [], usernsFd: userns });
    sys.descriptors.close(userns);
    assert.equal(statSync(join(target, 'file-1')).uid, 100_000);
    assert.equal(statSync(join(lower[1] ?? '', 'file-1')).uid, 0);
    // The thread that did it is gone; ordinary work sees the host's mounts.
    const other = join(directory, 'other');
    mkdirSync(other);
    await sys.mounts.fileSystem({ type: 'tmpfs', target: other, options: ['size=64k'] });
    assert.isTrue(sys.mounts.isMountPoint(other));
    await sys.mounts.unmountTree(directory);
    assert.isFalse(sys.mounts.isMountPoint(target));
  });

  it('binds with attributes, changes them, and unmounts trees with over-mounts', async () => {
    const directory = fresh('bind');
    const [source, target] = [join(directory, 'source'), join(directory, 'target with space')];
    for (const path of [source, target, join(source, 'below')]) mkdirSync(path);
    await sys.mounts.fileSystem({ type: 'tmpfs', target: join(source, 'below'), options: ['size=64k', 'noexec'] });
    await sys.mounts.bind({ source, target, extent: 'tree', attributes: ['ro', 'nosuid'], propagation: 'private' });
    assert.throws(() => writeFileSync(join(target, 'below', 'x'), ''), /EROFS/);
    await sys.mounts.change(target, { extent: 'tree', clear: ['ro'] });
    writeFileSync(join(target, 'below', 'x'), '');
    await sys.mounts.bind({ source, target, extent: 'one' });
    assert.equal((await sys.mounts.read()).filter((mount) => mount.mountPoint === target).length, 2);
    await sys.mounts.unmountTree(directory);
    assert.deepEqual(
      (await sys.mounts.read()).filter((mount) => sys.mounts.isAtOrBelow(mount.mountPoint, directory)),
      [],
    );
  });
});

describe('sys root', () => {
  const meta = { mode: 0o644, uid: 1, gid: 2, seconds: 1_600_000_000, nanoseconds: 123_456_789, xattrs: [] } as const;

  it('writes every kind of entry as it is told', () => {
    const directory = fresh('entries');
    using root = sys.Root.open(directory, 'strict');
    const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex');
    root.writeEntry('a/b/file', {
      ...meta,
      kind: 'file',
      content: Buffer.from('hello'),
      mode: 0o4755,
      xattrs: ['security.capability', capability, 'user.x', Buffer.from([0, 255])],
    });
    root.writeEntry('dir', { ...meta, kind: 'directory', mode: 0o1777 });
    root.writeEntry('link', {
      ...meta,
      kind: 'symlink',
      target: '/etc/passwd',
      xattrs: ['trusted.t', Buffer.from('v')],
    });
    root.writeEntry('null', { ...meta, kind: 'character', major: 1, minor: 3, mode: 0o666 });
    root.writeEntry('fifo', { ...meta, kind: 'fifo', mode: 0o622 });
    root.writeHardLink('again', 'a/b/file');
    const file = root.stat('a/b/file');
    assert.deepInclude(there(file), {
      kind: 'file',
      mode: 0o4755,
      uid: 1,
      gid: 2,
      size: 5n,
      links: 2,
      modifiedAt: 1_600_000_000_123_456_789n,
    });
    assert.isTrue(root.getXattr('a/b/file', 'security.capability')?.equals(capability));
    assert.deepEqual(root.getXattr('again', 'user.x'), Buffer.from([0, 255]));
    assert.deepEqual(root.listXattrs('a/b/file').sort(), ['security.capability', 'user.x']);
    assert.deepInclude(there(root.stat('a')), { kind: 'directory', mode: 0o755, uid: 0 });
    assert.deepInclude(there(root.stat('dir')), { mode: 0o1777, uid: 1, modifiedAt: there(file).modifiedAt });
    assert.deepInclude(there(root.stat('link')), {
      kind: 'symlink',
      uid: 1,
      gid: 2,
      modifiedAt: there(file).modifiedAt,
    });
    assert.equal(root.getXattr('link', 'trusted.t')?.toString(), 'v');
    assert.equal(root.readLink('link').toString(), '/etc/passwd');
    assert.deepInclude(there(root.stat('null')), { kind: 'character', major: 1, minor: 3, mode: 0o666 });
    assert.deepInclude(there(root.stat('fifo')), { kind: 'fifo', mode: 0o622 });
    assert.deepEqual(
      root
        .list('')
        .map((each) => `${each.kind} ${each.name.toString()}`)
        .sort(),
      ['character null', 'directory a', 'directory dir', 'fifo fifo', 'file again', 'symlink link'],
    );
    assert.equal(statSync('/etc/passwd').uid, 0);
  });

  it('replaces what is in the way, and only that', () => {
    const directory = fresh('replace');
    const outside = fresh('outside');
    writeFileSync(join(outside, 'precious'), 'x');
    using root = sys.Root.open(directory, 'strict');
    root.writeEntry('d/keep', { ...meta, kind: 'file', content: Buffer.from('1') });
    root.writeEntry('d', { ...meta, kind: 'directory', mode: 0o700 });
    assert.isDefined(root.stat('d/keep'));
    symlinkSync(outside, join(directory, 'd', 'escape'));
    root.writeEntry('d', { ...meta, kind: 'file', content: Buffer.from('2') });
    assert.equal(readFileSync(join(directory, 'd'), 'utf8'), '2');
    root.writeEntry('d', { ...meta, kind: 'symlink', target: outside });
    root.writeEntry('d', { ...meta, kind: 'directory' });
    assert.isTrue(existsSync(join(outside, 'precious')));
    root.writeEntry('f', { ...meta, kind: 'file', content: Buffer.from('f') });
    root.writeHardLink('f', 'f');
    assert.equal(readFileSync(join(directory, 'f'), 'utf8'), 'f');
  });

  it('takes large files in pieces', () => {
    const directory = fresh('large');
    using root = sys.Root.open(directory, 'strict');
    const fd = root.beginFile('x/large');
    writeSync(fd, Buffer.alloc(100_000, 1));
    root.finishFile(fd, { ...meta, mode: 0o2711 });
    sys.descriptors.close(fd);
    assert.deepInclude(there(root.stat('x/large')), {
      size: 100_000n,
      mode: 0o2711,
      uid: 1,
      modifiedAt: 1_600_000_000_123_456_789n,
    });
  });

  it('never leaves the root', async () => {
    const directory = fresh('escape');
    const outside = fresh('outside');
    writeFileSync(join(outside, 'secret'), 'secret');
    symlinkSync(outside, join(directory, 'link'));
    symlinkSync('/proc/self/root', join(directory, 'magic'));
    using root = sys.Root.open(directory, 'strict');
    for (const path of ['../x', 'a/../../x', 'link/x', '..', '.', '', 'a//b', 'a/./b', 'magic/tmp/x']) {
      assert.throws(
        () => root.writeEntry(path, { ...meta, kind: 'file', content: Buffer.from('x') }),
        RuntimeError,
        undefined,
        path,
      );
    }
    for (const path of ['link/secret', '../' + outside.split('/').at(-1) + '/secret'])
      assert.throws(() => root.openFile(path, constants.O_RDONLY), RuntimeError);
    assert.throws(() => root.writeHardLink('stolen', 'link/secret'), RuntimeError);
    assert.throws(() => root.removeTree('link/secret'), RuntimeError);
    await refusal(() => root.readFile('link/secret', 100), 'InvalidArgument');
    assert.deepEqual(readdirSync(outside), ['secret']);
    assert.isTrue(root.removeTree('link'));
    assert.deepEqual(readdirSync(outside), ['secret']);
  });

  it("resolves as in a chroot, where the root is a container's", async () => {
    const directory = fresh('chroot');
    mkdirSync(join(directory, 'etc'));
    writeFileSync(join(directory, 'etc', 'passwd'), 'inside');
    symlinkSync('/etc/passwd', join(directory, 'absolute'));
    symlinkSync('../../../../etc', join(directory, 'etc', 'up'));
    symlinkSync('/run', join(directory, 'var-run'));
    symlinkSync('loop', join(directory, 'loop'));
    execFileSync('mkfifo', [join(directory, 'fifo')]);
    using root = sys.Root.open(directory, 'chroot');
    assert.equal((await root.readFile('absolute', 100))?.toString(), 'inside');
    assert.equal((await root.readFile('/etc/up/passwd', 100))?.toString(), 'inside');
    assert.deepEqual(root.resolve('/etc/up/up/passwd'), { path: '/etc/passwd', kind: 'file' });
    assert.deepEqual(root.resolve('/'), { path: '/', kind: 'directory' });
    assert.isUndefined(root.resolve('/nothing'));
    assert.isUndefined(await root.readFile('/nothing/at/all', 10));
    root.makeDirs('/var-run/a/b', 0o750, { uid: 5, gid: 6 });
    assert.deepInclude(lstatSync(join(directory, 'run', 'a', 'b')), { uid: 5, gid: 6 });
    assert.equal(statSync(join(directory, 'run', 'a', 'b')).mode & 0o7777, 0o750);
    assert.equal(statSync(join(directory, 'etc')).uid, 0);
    root.makeDirs('/etc', 0o700, { uid: 9, gid: 9 });
    assert.equal(statSync(join(directory, 'etc')).uid, 0, 'existing directories stay as they are');
    await refusal(() => root.makeDirs('/etc/passwd/x'), 'FailedPrecondition');
    await refusal(() => root.makeDirs('/loop/x'), 'InvalidArgument');
    await refusal(() => root.readFile('/fifo', 10), 'InvalidArgument');
    await refusal(() => root.readFile('/etc/passwd', 3), 'FailedPrecondition');
    await refusal(() => root.symlink('/absolute', '/x'), 'AlreadyExists');
  });

  it('keeps names that are not UTF-8', () => {
    const directory = fresh('bytes');
    using root = sys.Root.open(directory, 'strict');
    const name = Buffer.from([0x66, 0xff, 0xfe]);
    root.writeEntry(name, { ...meta, kind: 'file', content: Buffer.from('x') });
    assert.deepEqual(
      root.list('').map((each) => each.name),
      [name],
    );
    assert.isTrue(root.remove(name));
    assert.isFalse(root.remove(name));
  });

  it('removes trees deeper than any path, and wider than a buffer', async () => {
    const directory = fresh('deep');
    using root = sys.Root.open(directory, 'strict');
    root.makeDirs('tree/wide');
    for (let i = 0; i < 3000; i++)
      root.writeEntry(`tree/wide/file-with-a-long-name-${i}`, { ...meta, kind: 'file', content: Buffer.alloc(0) });
    // Each round nests what is there 40 levels deeper.
    execFileSync('/usr/bin/python3', [
      '-c',
      'import os, sys\nos.chdir(sys.argv[1])\nfor i in range(1500):\n  os.mkdir("d" * 40); ' +
        'os.chdir("d" * 40)\nopen("end", "w")',
      join(directory, 'tree'),
    ]);
    assert.isTrue(await root.removeTreeAsync('tree'));
    assert.isFalse(await root.removeTreeAsync('tree'));
    assert.deepEqual(readdirSync(directory), []);
  });

  it('stops at a mount instead of emptying it', async () => {
    const directory = fresh('xdev');
    using root = sys.Root.open(directory, 'strict');
    root.makeDirs('tree/mnt');
    await sys.mounts.fileSystem({ type: 'tmpfs', target: join(directory, 'tree/mnt'), options: ['size=64k'] });
    writeFileSync(join(directory, 'tree/mnt/precious'), 'x');
    await refusal(() => root.removeTreeAsync('tree'), 'FailedPrecondition');
    assert.isTrue(existsSync(join(directory, 'tree/mnt/precious')));
    await sys.mounts.unmountTree(directory);
    assert.isTrue(await root.removeTreeAsync('tree'));
  });

  it('copies and measures trees', async () => {
    const directory = fresh('copy');
    mkdirSync(join(directory, 'from'));
    mkdirSync(join(directory, 'to'));
    using from = sys.Root.open(join(directory, 'from'), 'chroot');
    using to = sys.Root.open(join(directory, 'to'), 'chroot');
    from.writeEntry('vol/d/file', {
      ...meta,
      kind: 'file',
      content: Buffer.alloc(8192, 7),
      mode: 0o640,
      xattrs: ['user.k', Buffer.from('v')],
    });
    from.writeHardLink('vol/d/again', 'vol/d/file');
    from.writeEntry('vol/link', { ...meta, kind: 'symlink', target: '/etc' });
    from.writeEntry('vol/null', { ...meta, kind: 'character', major: 1, minor: 3 });
    from.setTime('vol', 1_500_000_000, 5);
    await from.copyTree('/vol', to, '/', 2 * 8192);
    assert.deepEqual(
      to
        .list('')
        .map((each) => each.name.toString())
        .sort(),
      ['d', 'link'],
    );
    assert.deepInclude(there(to.stat('d/file')), {
      mode: 0o640,
      uid: 1,
      gid: 2,
      size: 8192n,
      modifiedAt: 1_600_000_000_123_456_789n,
    });
    assert.equal(to.getXattr('d/file', 'user.k')?.toString(), 'v');
    assert.deepInclude(there(to.stat('link')), { kind: 'symlink', uid: 1 });
    assert.deepInclude(there(to.stat('')), { modifiedAt: 1_500_000_000_000_000_005n });
    const usage = await sys.fileSystems.usage(join(directory, 'from'));
    assert.equal(usage.inodesUsed, 6n, 'from, vol, d, file, link, null');
    const blocks = Number(
      execFileSync('du', ['-s', '--block-size=1', join(directory, 'from')])
        .toString()
        .split('\t')[0],
    );
    assert.equal(usage.usedBytes, BigInt(blocks));
  });

  it('copies no hole, and no more bytes than it may', async () => {
    const directory = fresh('holes');
    for (const name of ['from', 'to', 'bomb']) mkdirSync(join(directory, name));
    using from = sys.Root.open(join(directory, 'from'), 'chroot');
    using to = sys.Root.open(join(directory, 'to'), 'chroot');
    using bomb = sys.Root.open(join(directory, 'bomb'), 'chroot');
    writeFileSync(join(directory, 'from/file'), Buffer.alloc(65_536, 7));
    truncateSync(join(directory, 'from/file'), 1e12);
    await from.copyTree('/', to, '/', 65_536);
    const copy = statSync(join(directory, 'to/file'));
    assert.equal(copy.size, 1e12);
    assert.isBelow(copy.blocks * 512, 200_000);
    const head = Buffer.alloc(65_537);
    const fd = openSync(join(directory, 'to/file'), 'r');
    readSync(fd, head);
    closeSync(fd);
    assert.deepEqual(head, Buffer.concat([Buffer.alloc(65_536, 7), Buffer.alloc(1)]));
    for (let i = 0; i < 10; i++) from.writeHardLink(`link${i}`, 'file');
    await refusal(() => from.copyTree('/', bomb, '/', 10 * 65_536), 'FailedPrecondition');
  });

  it('works in worker threads', async () => {
    const directory = fresh('worker');
    const worker = new Worker(
      `
      const { parentPort, workerData } = require('node:worker_threads');
      import(workerData.module).then(async (sys) => {
        const root = sys.Root.open(workerData.directory, 'strict');
        for (let i = 0; i < 1000; i++) root.writeEntry('d/' + i, { kind: 'file', content: Buffer.from('x'), mode: 0o644, uid: 0, gid: 0, seconds: 0, nanoseconds: 0, xattrs: [] });
        await root.readFile('d/1', 10);
        root.close();
        parentPort.postMessage('done');
      });`,
      { eval: true, workerData: { module: join(import.meta.dirname, '../../pkg/sys/index.ts'), directory } },
    );
    const said = await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    assert.equal(said, 'done');
    await worker.terminate();
    assert.equal(readdirSync(join(directory, 'd')).length, 1000);
  });

  describe('inflates on a thread of its own', () => {
    const data = Buffer.from(Array.from({ length: 3_000_000 }, (_, i) => (i * i) % 251));
    const packed = { gzip: gzipSync(data), zstd: zstdCompressSync(data) } as const;
    const openFile = (bytes: Buffer, format: 'gzip' | 'zstd'): sys.Inflater => {
      const path = join(fresh('inflate'), 'packed');
      writeFileSync(path, bytes);
      const fd = openSync(path, 'r');
      try {
        const inflater = sys.Inflater.open(fd, format, 27);
        assert.isDefined(inflater, `this Node does not export ${format}`);
        return inflater as sys.Inflater;
      } finally {
        closeSync(fd);
      }
    };
    const drain = (bytes: Buffer, format: 'gzip' | 'zstd'): { readonly data: Buffer; readonly consumed: number } => {
      const inflater = openFile(bytes, format);
      const block = Buffer.alloc(sys.INFLATED_BLOCK_BYTES);
      const out: Buffer[] = [];
      try {
        for (;;) {
          const { bytes: count, consumed } = sys.readInflated(inflater.id, block);
          if (count === 0) return { data: Buffer.concat(out), consumed };
          out.push(Buffer.from(block.subarray(0, count)));
        }
      } finally {
        inflater.close();
      }
    };
    const errno = (bytes: Buffer, format: 'gzip' | 'zstd'): string | undefined => {
      try {
        drain(bytes, format);
        return undefined;
      } catch (error) {
        return sys.errnoBehind(error);
      }
    };

    for (const format of ['gzip', 'zstd'] as const) {
      it(`${format}, whole and in parts`, () => {
        const pack = format === 'gzip' ? gzipSync : zstdCompressSync;
        const parts = Buffer.concat([
          pack(data.subarray(0, 1_000_000)),
          pack(data.subarray(1_000_000)),
          pack(Buffer.alloc(0)),
        ]);
        for (const bytes of [packed[format], parts]) {
          const got = drain(bytes, format);
          assert.isTrue(got.data.equals(data));
          assert.equal(got.consumed, bytes.length);
        }
        assert.equal(drain(pack(Buffer.alloc(0)), format).data.length, 0);
      });

      it(`${format}, cut at any place or followed by something else, is damage`, () => {
        const whole = packed[format];
        for (const length of [0, 1, 5, 17, whole.length >> 1, whole.length - 1])
          assert.equal(errno(whole.subarray(0, length), format), 'EBADMSG', `the first ${length} bytes`);
        assert.equal(errno(Buffer.concat([whole, Buffer.from('garbage')]), format), 'EBADMSG');
      });
    }

    it('zeros behind gzip data are padding', () => {
      assert.isTrue(
        drain(Buffer.concat([packed.gzip, Buffer.alloc(200_000), packed.gzip, Buffer.alloc(512)]), 'gzip').data.equals(
          Buffer.concat([data, data]),
        ),
      );
    });

    it('a window over the limit is refused', () => {
      assert.equal(errno(Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00]), 'zstd'), 'EFBIG');
    });

    it('random damage ends in an error or in other data, and in nothing worse', () => {
      const noise = randomBytes(40_000);
      const text = Buffer.from(noise.subarray(0, 10_000).toString('hex'));
      for (const [format, pack] of [
        ['gzip', gzipSync],
        ['zstd', zstdCompressSync],
      ] as const) {
        const whole = Buffer.concat([pack(noise), pack(text)]);
        const ends = Array.from({ length: 100 }, (_, i) => {
          const bytes = Buffer.from(whole);
          bytes[(i * 7919) % whole.length] = i;
          return errno(bytes, format);
        });
        for (const end of ends) assert.include([undefined, 'EBADMSG', 'EFBIG'], end);
        assert.include(ends, 'EBADMSG');
      }
    });

    it('one that is closed lets go of who waits for it', async () => {
      const { read, write } = sys.descriptors.pipe();
      const inflater = sys.Inflater.open(read, 'gzip', 27) as sys.Inflater;
      const worker = new Worker(
        `
        const { parentPort, workerData } = require('node:worker_threads');
        import(workerData.module).then((sys) => {
          parentPort.postMessage('waits');
          try { sys.readInflated(workerData.id, Buffer.alloc(sys.INFLATED_BLOCK_BYTES)); } catch (error) { parentPort.postMessage(sys.errnoBehind(error)); }
        });`,
        { eval: true, workerData: { module: join(import.meta.dirname, '../../pkg/sys/index.ts'), id: inflater.id } },
      );
      const said = on(worker, 'message');
      assert.deepEqual((await said.next()).value, ['waits']);
      inflater.close();
      inflater.close();
      // Closed before or after the other thread has begun to wait.
      assert.include(['ECANCELED', 'EBADF'], String((await said.next()).value));
      sys.descriptors.close(read);
      sys.descriptors.close(write);
      await worker.terminate();
    });

    it('gives everything back, and there is a bound', async () => {
      const before = openFds();
      const inflaters = Array.from({ length: 16 }, () => openFile(packed.zstd, 'zstd'));
      await refusal(async () => openFile(packed.zstd, 'zstd'), 'ResourceExhausted');
      for (const each of inflaters) each.close();
      while (openFds() > before) await new Promise(setImmediate);
      openFile(packed.gzip, 'gzip').close();
      while (openFds() > before) await new Promise(setImmediate);
    });
  });

  it('spreads directories where the file system can', async () => {
    const directory = fresh('spread');
    const EXT4 = 0xef53;
    const attributes = (): string => execFileSync('lsattr', ['-d', directory], { encoding: 'utf8' });
    assert.equal(
      await sys.fileSystems.spreadDirectories(directory),
      (await sys.fileSystems.stat(directory)).type === EXT4,
    );
    if ((await sys.fileSystems.stat(directory)).type === EXT4) assert.match(attributes(), /^\S*T/);
    assert.isFalse(await sys.fileSystems.spreadDirectories('/proc'));
    await refusal(() => sys.fileSystems.spreadDirectories(join(top, 'absent')), 'NotFound');
  });

  it('syncs and measures file systems', async () => {
    await sys.fileSystems.sync(top);
    const stat = await sys.fileSystems.stat(top);
    assert.isAbove(Number(stat.totalBytes), Number(stat.availableBytes));
    await refusal(() => sys.fileSystems.stat(join(top, 'absent')), 'NotFound');
  });
});

describe('sys processes', () => {
  it('signals and awaits exactly one process', async () => {
    const processes = new LinuxProcesses();
    const child = await sys.spawn({ argv: ['/bin/sleep', '1000'] });
    const other = { ...child.ref, startTicks: child.ref.startTicks + 1n };
    assert.deepEqual(sys.processes.refOf(child.pid), child.ref);
    assert.deepEqual([processes.alive(child.ref), processes.alive(other)], [true, false]);
    assert.isFalse(processes.signal(other, SIGKILL));
    await processes.gone(other, op().signal);
    await processes.gone(child.ref, AbortSignal.timeout(10));
    assert.isTrue(processes.alive(child.ref));
    const gone = processes.gone(child.ref, op().signal);
    assert.isTrue(processes.signal(child.ref, SIGTERM));
    await gone;
    await child.exited;
    assert.isFalse(processes.signal(child.ref, SIGTERM));
    assert.isUndefined(sys.processes.refOf(child.pid));
  });

  it('looks at the node', () => {
    const facts: NodeFacts = sys.nodeFacts('cgroupfs');
    assert.isTrue(facts.capabilities.has('CAP_CHOWN'));
    assert.isNotEmpty(facts.kernel);
    assert.equal(facts.rlimitMax.size === 0, facts.capabilities.has('CAP_SYS_RESOURCE'));
  });

  it('reads many kernel files at once', () => {
    const [stat, absent, cut] = sys.readFiles(['/proc/self/stat', '/proc/no-such', '/proc/self/status'], 10);
    assert.deepEqual([stat?.length, absent, cut?.toString().slice(0, 5)], [10, null, 'Name:']);
  });
});

describe('sys network', () => {
  const TABLE = 'inet berth_sys_test';
  // The kernel keeps no table of connections before somebody asks about one.
  before(
    () =>
      void execFileSync('nft', [
        `add table ${TABLE}; add chain ${TABLE} c { type filter hook output priority 0; }; add rule ` +
          `${TABLE} c ct state new accept`,
      ]),
  );
  after(() => void execFileSync('nft', [`delete table ${TABLE}`]));

  it('forgets UDP flows to an address and port, and no others', async () => {
    const [here, there] = [createSocket('udp4'), createSocket('udp6')];
    const send = async (socket: Socket, port: number, address: string): Promise<void> =>
      await new Promise((resolve, reject) => {
        socket.send('x', port, address, (error) => (error === null ? resolve() : reject(error)));
      });
    try {
      for (const port of [20_001, 20_002]) await send(here, port, '127.0.0.1');
      await send(here, 20_001, '127.0.0.2');
      await send(there, 20_001, '::1');
      assert.equal(await sys.network.forgetUdp([]), 0);
      assert.equal(
        await sys.network.forgetUdp([
          { address: '127.0.0.1', port: 20_003 },
          { address: '10.1.2.3', port: 20_001 },
        ]),
        0,
      );
      assert.equal(
        await sys.network.forgetUdp([
          { address: '127.0.0.1', port: 20_001 },
          { address: '::1', port: 20_001 },
        ]),
        2,
      );
      assert.equal(
        await sys.network.forgetUdp([
          { address: '127.0.0.1', port: 20_001 },
          { address: '::1', port: 20_001 },
        ]),
        0,
      );
      assert.equal(
        await sys.network.forgetUdp([
          { address: '127.0.0.2', port: 20_001 },
          { address: '127.0.0.1', port: 20_002 },
        ]),
        2,
      );
    } finally {
      here.close();
      there.close();
    }
  });

  it('refuses what is no address or no port', async () => {
    for (const flow of [
      { address: 'localhost', port: 1 },
      { address: '1.2.3', port: 1 },
      { address: '::1', port: 0 },
      { address: '::1', port: 65_536 },
    ])
      await refusal(() => sys.network.forgetUdp([flow]), 'InvalidArgument');
  });

  it('finds the device that leads to an address, and its switch for 127.0.0.0/8', async () => {
    execFileSync('ip', ['link', 'add', 'berth.sys', 'type', 'bridge']);
    try {
      execFileSync('ip', ['addr', 'add', '10.99.0.1/24', 'dev', 'berth.sys']);
      execFileSync('ip', ['link', 'set', 'berth.sys', 'up']);
      assert.equal(await sys.network.deviceTo('10.99.0.7'), 'berth.sys');
      assert.isUndefined(await sys.network.deviceTo('10.98.0.7'));
      assert.include(sys.network.localAddresses(), '10.99.0.1');
      assert.isFalse(await sys.network.routesLocalnet('berth.sys'));
      await sys.network.setRouteLocalnet('berth.sys', 'on');
      assert.isTrue(await sys.network.routesLocalnet('berth.sys'));
    } finally {
      execFileSync('ip', ['link', 'del', 'berth.sys']);
    }
    assert.isUndefined(await sys.network.routesLocalnet('berth.sys'));
    for (const name of ['', '..', '../all', 'a/b'])
      await refusal(() => sys.network.setRouteLocalnet(name, 'on'), 'InvalidArgument');
  });
});

describe('pinned namespaces', () => {
  const none: PinRequest = { kinds: ['net', 'ipc', 'uts'], sysctls: new Map(), hostname: '', idMap: null };
  const enter = (pins: ReadonlyMap<string, string>, ...argv: string[]): string =>
    execFileSync('nsenter', [...Array.from(pins, ([kind, path]) => `--${kind}=${path}`), ...argv])
      .toString()
      .trim();

  it('pins, configures, lists and destroys', async () => {
    const namespaces = new PinnedNamespaces({ dir: join(fresh('ns'), 'ns'), pinnsPath: PINNS });
    const id = newSandboxId();
    assert.deepEqual(await namespaces.list(), []);
    await namespaces.destroy(op(), id);
    const pins = await namespaces.pin(op(), id, {
      ...none,
      hostname: 'pod-1',
      sysctls: new Map([
        ['net.ipv4.ip_unprivileged_port_start', '80'],
        ['kernel.shmmax', '123456'],
        ['net/ipv4/conf/lo/forwarding', '1'],
      ]),
    });
    assert.deepEqual([...pins.keys()], ['net', 'ipc', 'uts']);
    assert.equal(enter(pins, 'hostname'), 'pod-1');
    assert.equal(
      enter(pins, 'cat', '/proc/sys/net/ipv4/ip_unprivileged_port_start', '/proc/sys/kernel/shmmax'),
      '80\n123456',
    );
    assert.deepEqual(await namespaces.list(), [id]);
    assert.deepEqual(await namespaces.pinned(id), pins);
    assert.match(enter(pins, 'ip', '-br', 'link', 'show', 'lo'), /LOOPBACK,UP/);
    await namespaces.destroy(op(), id);
    await namespaces.destroy(op(), id);
    assert.equal((await namespaces.pinned(id)).size, 0);
    assert.deepEqual(await namespaces.list(), []);
  });

  it('pins all or nothing without a process, and leaves this one where it was', async () => {
    const directory = fresh('native');
    const own = (): string[] => ['net', 'ipc', 'uts'].map((kind) => readlinkSync(`/proc/self/ns/${kind}`));
    const before = [...own(), hostname()];
    const error = await refusal(
      () =>
        sys.namespaces.pin({
          paths: new Map([
            ['net', join(directory, 'net')],
            ['uts', join(directory, 'missing/uts')],
          ]),
          hostname: 'pod',
          sysctls: new Map(),
        }),
      'NotFound',
    );
    assert.include(error.message, 'uts namespace at');
    assert.deepEqual(readdirSync(directory), []);
    await sys.namespaces.pin({
      paths: new Map([['uts', join(directory, 'uts')]]),
      hostname: 'pod',
      sysctls: new Map(),
    });
    await refusal(
      () =>
        sys.namespaces.pin({ paths: new Map([['uts', join(directory, 'uts')]]), hostname: 'pod', sysctls: new Map() }),
      'AlreadyExists',
    );
    assert.equal(enter(new Map([['uts', join(directory, 'uts')]]), 'hostname'), 'pod', 'the first one is still there');
    await refusal(
      () =>
        sys.namespaces.pin({ paths: new Map([['user', join(directory, 'user')]]), hostname: '', sysctls: new Map() }),
      'InvalidArgument',
    );
    await sys.mounts.unmount(join(directory, 'uts'));
    assert.deepEqual([...own(), hostname()], before);
    for (let i = 0; i < 8; i++) assert.equal((await run('/bin/hostname')).stdout.toString().trim(), before.at(-1));
  });

  it('maps ids, and gives the user namespace the others', async () => {
    const namespaces = new PinnedNamespaces({ dir: fresh('ns'), pinnsPath: PINNS });
    const id = newSandboxId();
    const map = [{ containerId: 0, hostId: 200_000, size: 65_536 }];
    const pins = await namespaces.pin(op(), id, {
      ...none,
      kinds: ['user', 'net', 'ipc', 'uts'],
      hostname: 'u',
      idMap: { uids: map, gids: map },
      sysctls: new Map([['net.ipv4.ping_group_range', '0 100']]),
    });
    assert.match(enter(pins, 'cat', '/proc/self/uid_map'), /^\s*0\s+200000\s+65536$/);
    // Root inside may configure the network: the namespace belongs to the user namespace.
    assert.equal(enter(pins, 'sh', '-c', 'ip link add v0 type veth peer name v1 && echo made'), 'made');
    await namespaces.destroy(op(), id);
  });

  it('writes no sysctl of the host and splits no value (CVE-2022-0811, CVE-2022-0532)', async () => {
    const namespaces = new PinnedNamespaces({ dir: fresh('ns'), pinnsPath: PINNS });
    const before = readFileSync('/proc/sys/kernel/core_pattern', 'utf8');
    for (const [key, value] of [
      ['kernel.core_pattern', '|/bin/false'],
      ['kernel.shm_rmid_forced', '1+kernel.core_pattern=|/bin/false'],
      ['kernel.shm_rmid_forced', '1\nkernel.core_pattern=x'],
      ['net/../kernel/core_pattern', 'x'],
      ['net.ipv4.no_such_thing', '1'],
      ['vm.swappiness', '1'],
      ['', '1'],
    ] as const) {
      const id = newSandboxId();
      const error = await refusal(
        () => namespaces.pin(op(), id, { ...none, sysctls: new Map([[key, value]]) }),
        'InvalidArgument',
      );
      assert.include(error.message, 'sysctl');
      assert.equal((await namespaces.pinned(id)).size, 0);
      await namespaces.destroy(op(), id);
    }
    await refusal(
      () =>
        namespaces.pin(op(), newSandboxId(), {
          ...none,
          kinds: ['uts'],
          sysctls: new Map([['net.ipv4.ip_forward', '1']]),
        }),
      'InvalidArgument',
    );
    assert.equal(readFileSync('/proc/sys/kernel/core_pattern', 'utf8'), before);
  });

  it("takes CRI-O's command line", async () => {
    const directory = fresh('crio');
    const { exitCode, stderr } = await run(
      PINNS,
      '-d',
      directory,
      '-f',
      'pod-x',
      '-u',
      '-n',
      '-i',
      '-s',
      'net.ipv4.ip_forward=1',
      '--sysctl=kernel.msgmax=8192',
      '--hostname=h',
      '--log-level=debug',
    );
    assert.deepEqual([exitCode, stderr.toString()], [0, '']);
    const pins = new Map([
      ['net', join(directory, 'netns/pod-x')],
      ['uts', join(directory, 'utsns/pod-x')],
      ['ipc', join(directory, 'ipcns/pod-x')],
    ]);
    assert.equal(enter(pins, 'cat', '/proc/sys/net/ipv4/ip_forward', '/proc/sys/kernel/msgmax'), '1\n8192');
    await sys.mounts.unmountTree(directory);
    assert.equal((await run(PINNS, '--bogus')).exitCode, 2);
    assert.equal((await run(PINNS, '-d', directory, '-f', '../x', '-n')).exitCode, 2);
    assert.equal((await run(PINNS, '--user', join(directory, 'u'))).exitCode, 2);
  });

  it('pins all or nothing', async () => {
    const directory = fresh('all');
    const { exitCode, stderr } = await run(
      PINNS,
      '--net',
      join(directory, 'net'),
      '--uts',
      join(directory, 'missing/uts'),
    );
    assert.equal(exitCode, 1);
    assert.include(stderr.toString(), 'uts');
    assert.deepEqual(readdirSync(directory), []);
  });

  it('connects inside a network namespace', async () => {
    const namespaces = new PinnedNamespaces({ dir: fresh('ns'), pinnsPath: PINNS });
    const id = newSandboxId();
    const netns = (await namespaces.pin(op(), id, { ...none, kinds: ['net'] })).get('net') ?? '';
    await refusal(() => sys.namespaces.connect(op(), netns, ['127.0.0.1', '::1'], 8080), 'Unavailable');
    const server = await sys.spawn({
      argv: [
        '/usr/bin/nsenter',
        `--net=${netns}`,
        '/usr/bin/python3',
        '-c',
        'import socket\ns = socket.create_server(("::1", 8080), family=socket.AF_INET6)\nc, _ = ' +
          's.accept()\nc.sendall(c.recv(100).upper())',
      ],
    });
    let fd = -1;
    await eventually('the server listens', async () => {
      fd = await sys.namespaces.connect(op(), netns, ['127.0.0.1', '::1'], 8080).catch(() => -1);
      return fd >= 0;
    });
    const stream = sys.descriptors.openStream(fd);
    await stream.write(Buffer.from('hello'));
    assert.equal((await bytesOf(stream)).toString(), 'HELLO');
    stream.close();
    await server.exited;
    await namespaces.destroy(op(), id);
    // The daemon's own threads are still where they were.
    const here: Server = createServer((socket) => socket.end('outside')).listen(0, '127.0.0.1');
    await new Promise((resolve) => here.once('listening', resolve));
    const outside = sys.descriptors.openStream(
      await sys.namespaces.connect(op(), '/proc/self/ns/net', ['127.0.0.1'], (here.address() as { port: number }).port),
    );
    assert.equal((await outside.read())?.toString(), 'outside');
    outside.close();
    here.close();
  });

  it('leaves threads to others while connections wait for somebody who takes none', async () => {
    const before = readdirSync('/proc/self/fd').length;
    const deaf = spawn('/usr/bin/python3', [
      '-c',
      'import socket, sys\ns = socket.socket()\ns.bind(("127.0.0.1", ' +
        '0))\ns.listen(0)\nprint(s.getsockname()[1], flush=True)\nsys.stdin.read()',
    ]);
    const port = Number(await new Promise<string>((resolve) => deaf.stdout.setEncoding('utf8').once('data', resolve)));
    const patience = new AbortController();
    const connects = Array.from({ length: 100 }, () =>
      sys.namespaces.connect({ ...op(), signal: patience.signal }, '/proc/self/ns/net', ['127.0.0.1'], port, 60_000),
    );
    const outcomes = Promise.allSettled(connects);
    // As many as there are threads would have to end first.
    assert.equal((await sys.probePath(op(), '/', 'report'))?.realPath, '/');
    patience.abort();
    const given: number[] = [];
    for (const outcome of await outcomes) if (outcome.status === 'fulfilled') given.push(outcome.value);
    assert.isBelow(given.length, 10, 'nobody took the others');
    for (const fd of given) sys.descriptors.close(fd);
    deaf.stdin.end();
    await new Promise((resolve) => deaf.once('close', resolve));
    assert.equal(readdirSync('/proc/self/fd').length, before);
  });
});

describe('pause', () => {
  it('ends on TERM at once, and says its version', async () => {
    const child = await sys.spawn({ argv: [PAUSE] });
    child.kill(SIGTERM);
    const ending = await child.exited;
    // A signal that comes before its first instruction finds the default action.
    assert.include([0, 128 + SIGTERM], sys.exitCodeOf(ending));
    assert.match((await run(PAUSE, '--version')).stdout.toString(), /^pause \(berth\) version \d/);
  });

  it('reaps as PID 1', async () => {
    const child = await sys.spawn({
      argv: ['/usr/bin/unshare', '--pid', '--fork', '--kill-child', '--mount-proc', PAUSE],
      leads: 'group',
    });
    const pausePid = (): number => Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim());
    await eventually('pause runs', () => pausePid() > 0 && readlinkSync(`/proc/${pausePid()}/exe`) === PAUSE);
    const pid = pausePid();
    execFileSync('nsenter', ['-t', String(pid), '-p', '-m', 'sh', '-c', '(true &) ; true']);
    await eventually(
      'no zombies are left',
      () => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim() === '',
    );
    process.kill(pid, 'SIGTERM');
    assert.deepEqual(await child.exited, { kind: 'exited', code: 0 });
  });
});

describe('linux host', () => {
  const host = (): LinuxHost => new LinuxHost({ ownRoots: [top] });

  it('looks at mount sources', async () => {
    const directory = fresh('source');
    writeFileSync(join(directory, 'file'), '');
    symlinkSync(join(directory, 'file'), join(directory, 'link'));
    assert.deepInclude(await host().mountSource(op(), join(directory, 'link'), true), {
      realPath: join(directory, 'file'),
      kind: 'file',
    });
    assert.deepInclude(await host().mountSource(op(), '/dev/null', true), { kind: 'other' });
    await refusal(() => host().mountSource(op(), join(directory, 'absent'), true), 'NotFound');
    assert.deepInclude(await host().mountSource(op(), join(directory, 'a/b'), false), {
      kind: 'directory',
      realPath: join(directory, 'a/b'),
    });
    assert.equal(statSync(join(directory, 'a/b')).mode & 0o777, 0o755);
    await refusal(() => host().mountSource(op(), join(directory, 'file/x'), false), 'FailedPrecondition');
    const shm = join(directory, 'shm');
    await host().mountShm(op(), shm, 65_536n, { uid: 0, gid: 0 });
    await host().mountShm(op(), shm, 65_536n, { uid: 0, gid: 0 });
    assert.equal(statSync(shm).mode & 0o7777, 0o1777);
    await sys.mounts.change(shm, { extent: 'one', propagation: 'shared' });
    const source = await host().mountSource(op(), shm, true);
    assert.deepInclude(source, { propagation: 'shared' });
    assert.sameMembers([...source.flags], ['nosuid', 'nodev', 'noexec']);
    assert.equal((await sys.mounts.read()).filter((mount) => mount.mountPoint === shm).length, 1);
    await sys.mounts.fileSystem({ type: 'tmpfs', target: shm, options: ['size=64k'] });
    await host().unmount(op(), shm);
    assert.isFalse(sys.mounts.isMountPoint(shm), 'over-mounts go too');
    await host().unmount(op(), shm);
  });

  it('gives up on a file system that does not answer, and goes on', async () => {
    const directory = fresh('dead');
    const child = await sys.spawn({
      argv: ['/usr/bin/python3', join(import.meta.dirname, 'dead-fuse.py'), directory],
      fds: ['null', 'null', 2],
    });
    await eventually(
      'the dead file system is mounted',
      () => sys.mounts.mountOf(parse(), `${directory}/x`)?.mountPoint === directory,
    );
    const error = await refusal(() => host().mountSource(op(200), join(directory, 'volume'), true), 'DeadlineExceeded');
    assert.include(error.message, directory);
    assert.deepInclude(await host().mountSource(op(), '/dev/null', true), { kind: 'other' });
    child.kill(SIGKILL);
    await child.exited;
    await host().unmount(op(), directory);
  });
  const parse = (): MountEntry[] => parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8'));

  it('finds devices', async () => {
    assert.deepInclude(there((await host().devices(op(), '/dev/null'))[0]), {
      path: '/dev/null',
      type: 'c',
      major: 1,
      minor: 3,
      fileMode: 0o666,
    });
    const all = (await host().allDevices(op())).map((each) => each.path);
    assert.include(all, '/dev/zero');
    assert.isFalse(all.some((path) => /^\/dev\/(pts|shm|mqueue|console)/.test(path)));
    await refusal(() => host().devices(op(), '/dev/no-such'), 'NotFound');
    await refusal(() => host().devices(op(), '/etc/passwd'), 'InvalidArgument');
  });

  it('removes only below its own roots', async () => {
    const directory = fresh('own');
    writeFileSync(join(directory, 'x'), '');
    for (const path of [
      '/',
      top,
      `${top}/`,
      `${top}/..`,
      `${top}/../etc`,
      `${directory}//x`,
      `${top}x/y`,
      'relative',
      '',
    ])
      await refusal(() => host().removeTree(op(), path), 'PermissionDenied');
    await host().removeTree(op(), directory);
    await host().removeTree(op(), directory);
    await host().removeTree(op(), join(directory, 'deeper', 'still'));
    assert.isFalse(existsSync(directory));
  });

  it('makes, reads, kills and removes cgroups', async () => {
    const path = `/berth-sys-${randomBytes(4).toString('hex')}`;
    const below = `${path}/inner`;
    await host().ensureCgroup(op(), below);
    await host().ensureCgroup(op(), below);
    const layout = sys.cgroups.readLayoutSync();
    const child = await sys.spawn({
      argv: ['/bin/sh', '-c', 'trap "" TERM; sleep 1000 & sleep 1000'],
      cgroupDirs: layout.hierarchies.map((each) => sys.cgroups.directoryOf(each, below)),
    });
    await eventually('the child has forked', async () => (await host().cgroupProcesses(path)).length === 3);
    await host().destroyCgroup(op(), path);
    await host().destroyCgroup(op(), path);
    assert.deepEqual(await child.exited, { kind: 'signalled', signal: SIGKILL });
    for (const hierarchy of layout.hierarchies) assert.isFalse(existsSync(sys.cgroups.directoryOf(hierarchy, path)));
    for (const bad of ['/', '', '/a/../b', 'relative'])
      await refusal(() => host().destroyCgroup(op(), bad), 'InvalidArgument');
  });
});
