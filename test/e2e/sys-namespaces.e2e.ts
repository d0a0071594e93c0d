/** Pinned namespaces and the facts of the host against a real kernel. Needs root and built binaries. */
import { assert } from 'chai';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { cpus, hostname } from 'node:os';
import { join } from 'node:path';
import { newSandboxId } from '../../pkg/base/ids.ts';
import { LinuxHost, PinnedNamespaces } from '../../pkg/runtime/index.ts';
import * as sys from '../../pkg/sys/index.ts';
import { parseMountinfo } from '../../pkg/sys/mountinfo.ts';
import type { MountEntry } from '../../pkg/ports/kernel.ts';
import type { PinRequest } from '../../pkg/ports/runtime.ts';
import {
  PINNS,
  SIGKILL,
  top,
  op,
  run,
  fresh,
  refusal,
  bytesOf,
  there,
  eventually,
  useSysGround,
} from './sys-ground.ts';

const LAUNCHER = new URL('../../build/bin/berth', import.meta.url).pathname;

describe('pinned namespaces', () => {
  useSysGround();

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

  it('pins a mount namespace, which the launcher joins that KUBENSMNT names', async () => {
    const directory = fresh('mount');
    try {
      const { exitCode, stderr } = await run(PINNS, '-d', directory, '-f', 'kubens', '-m');
      assert.deepEqual([exitCode, stderr.toString()], [0, '']);
      const pinned = join(directory, 'mntns/kubens');
      const own = readlinkSync('/proc/self/ns/mnt');
      const inside = (await run('/usr/bin/nsenter', `--mount=${pinned}`, 'readlink', '/proc/self/ns/mnt')).stdout;
      assert.notEqual(inside.toString().trim(), own);

      const shows = join(directory, 'shows-its-namespace');
      writeFileSync(shows, '#!/bin/sh\nreadlink /proc/self/ns/mnt\n', { mode: 0o755 });
      const launched = async (file: string): Promise<readonly string[]> => {
        const { stdout, stderr: said } = await run(
          '/usr/bin/env',
          `BERTH_NODE=${shows}`,
          `KUBENSMNT=${file}`,
          LAUNCHER,
          'version',
        );
        return [stdout.toString().trim(), said.toString()];
      };
      assert.deepEqual(await launched(pinned), [inside.toString().trim(), '']);
      for (const other of [join(directory, 'nothing'), shows, '/proc/self/ns/net']) {
        const [where, said] = await launched(other);
        assert.equal(where, own);
        assert.include(said ?? '', 'no mount namespace that can be joined');
      }
    } finally {
      await sys.mounts.unmountTree(directory);
    }
  });

  it('pins a mount namespace whatever processor it is made on', async () => {
    for (const [outer, inner] of [0, cpus().length - 1].flatMap((one) =>
      [0, cpus().length - 1].map((two) => [one, two]),
    )) {
      const directory = fresh('processors');
      const pins = `exec taskset -c ${inner} ${PINNS} -d ${directory} -f kubens -m`;
      const { exitCode, stderr } = await run(
        '/usr/bin/taskset',
        '-c',
        `${outer}`,
        '/usr/bin/unshare',
        '-m',
        'sh',
        '-c',
        pins,
      );
      assert.deepEqual([exitCode, stderr.toString()], [0, ''], `ours from ${outer}, the new one from ${inner}`);
    }
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

describe('linux host', () => {
  useSysGround();

  const host = (): LinuxHost => new LinuxHost({ ownRoots: [top] });

  it('looks at mount sources', async () => {
    const directory = fresh('source');
    writeFileSync(join(directory, 'file'), '');
    symlinkSync(join(directory, 'file'), join(directory, 'link'));
    assert.deepInclude(await host().mountSource(op(), join(directory, 'link'), 'refuse'), {
      realPath: join(directory, 'file'),
      kind: 'file',
    });
    assert.deepInclude(await host().mountSource(op(), '/dev/null', 'refuse'), { kind: 'other' });
    await refusal(() => host().mountSource(op(), join(directory, 'absent'), 'refuse'), 'NotFound');
    assert.deepInclude(await host().mountSource(op(), join(directory, 'a/b'), 'make'), {
      kind: 'directory',
      realPath: join(directory, 'a/b'),
    });
    assert.equal(statSync(join(directory, 'a/b')).mode & 0o777, 0o755);
    await refusal(() => host().mountSource(op(), join(directory, 'file/x'), 'make'), 'FailedPrecondition');
    const shm = join(directory, 'shm');
    await host().mountShm(op(), shm, 65_536n, { uid: 0, gid: 0 }, '');
    await host().mountShm(op(), shm, 65_536n, { uid: 0, gid: 0 }, '');
    assert.equal(statSync(shm).mode & 0o7777, 0o1777);
    await run('mount', '--make-shared', shm);
    const source = await host().mountSource(op(), shm, 'refuse');
    assert.deepInclude(source, { propagation: 'shared' });
    assert.sameMembers([...source.flags], ['nosuid', 'nodev', 'noexec']);
    assert.equal((await sys.mounts.read()).filter((mount) => mount.mountPoint === shm).length, 1);
    await sys.mounts.fileSystem({ type: 'tmpfs', target: shm, options: ['size=64k'] });
    await host().unmount(op(), shm);
    assert.isFalse(sys.mounts.isMountPoint(shm), 'over-mounts go too');
    await host().unmount(op(), shm);
  });

  it('gives up on a file system that does not answer, and goes on (K14)', async () => {
    const directory = fresh('dead');
    const child = await sys.spawn({
      argv: ['/usr/bin/python3', join(import.meta.dirname, 'dead-fuse.py'), directory],
      fds: ['null', 'null', 2],
    });
    await eventually(
      'the dead file system is mounted',
      () => sys.mounts.mountOf(parse(), `${directory}/x`)?.mountPoint === directory,
    );
    const error = await refusal(
      () => host().mountSource(op(200), join(directory, 'volume'), 'refuse'),
      'DeadlineExceeded',
    );
    assert.include(error.message, directory);
    assert.deepInclude(await host().mountSource(op(), '/dev/null', 'refuse'), { kind: 'other' });
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
    const layout = sys.cgroups.readLayoutSync();
    for (const _twice of [1, 2]) sys.cgroups.create(layout, below);
    const child = await sys.spawn({
      argv: ['/bin/sh', '-c', 'trap "" TERM; sleep 1000 & sleep 1000'],
      cgroupDirs: layout.hierarchies.map((each) => sys.cgroups.directoryOf(each, below)),
    });
    await eventually('the child has forked', async () => (await host().cgroupProcesses(path)).length === 3);
    await host().destroyCgroup(op(), path);
    await host().destroyCgroup(op(), path);
    assert.deepEqual(await child.exited, { kind: 'signalled', signal: SIGKILL });
    for (const hierarchy of layout.hierarchies) assert.isFalse(existsSync(sys.cgroups.directoryOf(hierarchy, path)));
    for (const _twice of [1, 2]) await host().showCgroup(op(), below);
    const shown = layout.hierarchies.filter((each) => existsSync(sys.cgroups.directoryOf(each, below)));
    assert.lengthOf(shown, 1);
    await host().destroyCgroup(op(), path);
    assert.isFalse(existsSync(sys.cgroups.directoryOf(shown[0] as never, path)));
    for (const bad of ['/', '', '/a/../b', 'relative'])
      await refusal(() => host().destroyCgroup(op(), bad), 'InvalidArgument');
  });
});
