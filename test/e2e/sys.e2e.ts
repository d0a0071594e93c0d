/** Streams, mounts and the network of the node against a real kernel. Needs root and built binaries. */
import { assert } from 'chai';
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as sys from '../../pkg/sys/index.ts';
import { isAtOrBelow } from '../../pkg/sys/mountinfo.ts';
import type { FdStream } from '../../pkg/ports/kernel.ts';
import { op, fresh, refusal, bytesOf, there, eventually, useSysGround } from './sys-ground.ts';

describe('sys streams', () => {
  useSysGround();

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
    const socket = sys.sockets.listenForDescriptors(path);
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
    const lock = await sys.lockFile(path);
    assert.include((await refusal(() => sys.lockFile(path), 'FailedPrecondition')).message, `pid ${process.pid}`);
    lock.release();
    (await sys.lockFile(path)).release();
  });

  it('waits for the lock of a holder that is dead, whose child has it until it executes its program', async () => {
    const path = join(fresh('lock'), 'lock');
    const held = await sys.lockFile(path);
    writeFileSync(path, `${spawnSync('/bin/true').pid}\n`);
    const next = sys.lockFile(path);
    held.release();
    (await next).release();
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
  useSysGround();

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

  it('binds with attributes, and unmounts trees with over-mounts', async () => {
    const directory = fresh('bind');
    const [source, target] = [join(directory, 'source'), join(directory, 'target with space')];
    for (const path of [source, target, join(source, 'below')]) mkdirSync(path);
    await sys.mounts.fileSystem({ type: 'tmpfs', target: join(source, 'below'), options: ['size=64k', 'noexec'] });
    await sys.mounts.bind({ source, target, extent: 'tree', attributes: ['ro', 'nosuid'], propagation: 'private' });
    assert.throws(() => writeFileSync(join(target, 'below', 'x'), ''), /EROFS/);
    await sys.mounts.bind({ source, target, extent: 'one' });
    assert.equal((await sys.mounts.read()).filter((mount) => mount.mountPoint === target).length, 2);
    await sys.mounts.unmountTree(directory);
    assert.deepEqual(
      (await sys.mounts.read()).filter((mount) => isAtOrBelow(mount.mountPoint, directory)),
      [],
    );
  });
});

describe('sys network', () => {
  useSysGround();

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
