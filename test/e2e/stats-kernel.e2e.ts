/** What statistics are read with, against a real kernel: other network namespaces, and files that are kept open. */
import { assert } from 'chai';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FileGroup, KernelFiles } from '../../pkg/ports/kernel.ts';
import { KeptFiles, processes, readKernelFiles } from '../../pkg/sys/index.ts';

describe('native calls of statistics', () => {
  it('read interfaces of other network namespaces, and count what processes have open', async () => {
    const dev = { directory: '/proc/thread-self/net', names: 'dev' };
    const { text, lengths } = await readKernelFiles([
      { ...dev, netns: '/proc/self/ns/net' },
      { ...dev, netns: '/no/such/namespace' },
    ]);
    assert.include(text, 'lo:');
    assert.deepEqual([...lengths], [text.length, -constants.errno.ENOENT]);
    const before = await processes.countDescriptors([process.pid]);
    const server = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const after = await processes.countDescriptors([process.pid, 999_999_999]);
    server.close();
    assert.isAtLeast(after.sockets, before.sockets + 1);
    assert.isAbove(after.descriptors, after.sockets);
    assert.deepEqual(await processes.countDescriptors([]), { descriptors: 0, sockets: 0 });
  });
});

describe('kernel files that are kept open', () => {
  const descriptors = (): number => readdirSync('/proc/self/fd').length;
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'berth-kept-'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));
  /** A group of files; those in `missing` are not there. */
  function group(key: string, ...missing: string[]): FileGroup {
    mkdirSync(join(directory, key), { recursive: true });
    for (const name of ['a', 'b'])
      if (!missing.includes(name)) writeFileSync(join(directory, key, name), `${name} of ${key}\n`);
    return { files: () => [{ directory: join(directory, key), names: 'a\nb' }], count: 2 };
  }
  const say = ({ text, lengths }: KernelFiles): string =>
    `${text.replaceAll('\n', ';')} ${[...lengths].map((length) => (length < 0 ? 'no' : String(length))).join(' ')}`;

  it('are opened once and read anew each time', async () => {
    const before = descriptors();
    const files = new KeptFiles(100);
    const [x, y] = [group('x'), group('y')];
    const groups = [x, y];
    assert.equal(say(await files.read(groups)), 'a of x;b of x;a of y;b of y; 7 7 7 7');
    assert.equal(descriptors(), before + 4);
    writeFileSync(join(directory, 'x/a'), 'new\n');
    assert.equal(say(await files.read(groups)), 'new;b of x;a of y;b of y; 4 7 7 7');
    assert.equal(descriptors(), before + 4);
    files.drop(x);
    assert.equal(descriptors(), before + 2);
    files.close();
    assert.equal(descriptors(), before);
  });

  it('are not kept where there are too many, and read all the same', async () => {
    const before = descriptors();
    const files = new KeptFiles(3);
    const x = group('x');
    assert.equal(say(await files.read([x])), 'a of x;b of x; 7 7');
    assert.equal(say(await files.read([x, group('y')])), 'a of x;b of x;a of y;b of y; 7 7 7 7');
    assert.equal(descriptors(), before + 2);
    files.close();
    assert.equal(descriptors(), before);
  });

  it('are let go where they are gone, or not all there yet', async () => {
    const before = descriptors();
    const files = new KeptFiles(100);
    const part = group('part', 'b');
    assert.equal(
      say(
        await files.read([
          group('whole'),
          part,
          { ...group('x'), files: () => [{ directory: '/no/such', names: 'a\nb' }] },
        ]),
      ),
      'a of whole;b of whole;a of part; 11 11 10 no no no',
    );
    assert.equal(descriptors(), before + 2);
    group('part');
    assert.equal(say(await files.read([part])), 'a of part;b of part; 10 10');
    files.close();
    assert.equal(descriptors(), before);
  });

  it('are not closed under a read', async () => {
    const before = descriptors();
    const files = new KeptFiles(100);
    const x = group('x');
    const groups = [x];
    await files.read(groups);
    const reads = Array.from({ length: 20 }, () => files.read(groups));
    files.drop(x);
    assert.deepEqual(new Set((await Promise.all(reads)).map(say)), new Set(['a of x;b of x; 7 7']));
    files.close();
    assert.equal(descriptors(), before);
  });
});
