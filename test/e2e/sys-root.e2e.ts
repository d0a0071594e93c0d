/**
 * Directories that no path leaves, against a real kernel. Needs root and built binaries.
 */
import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { RuntimeError } from '../../pkg/base/errors.ts';
import * as sys from '../../pkg/sys/index.ts';
import { top, fresh, refusal, there, useSysGround } from './sys-ground.ts';

describe('sys root', () => {
  useSysGround();

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
        const file = { kind: 'file', mode: 0o644, uid: 0, gid: 0, seconds: 0, nanoseconds: 0, xattrs: [] };
        for (let i = 0; i < 1000; i++) root.writeEntry('d/' + i, { ...file, content: Buffer.from('x') });
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
