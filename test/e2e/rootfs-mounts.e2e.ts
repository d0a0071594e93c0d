/**
 * Root filesystems mounted from layers, image volumes, and what is looked up inside a root, on the real kernel.
 */
import { assert } from 'chai';
import { waitFor } from './cri-client.ts';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { lstat, mkdir, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type ContainerId, newContainerId, parseChainId } from '../../pkg/base/ids.ts';
import { OverlayRootfs } from '../../pkg/rootfs/index.ts';
import { paxEntry, tarEntry, tarOf } from '../../pkg/rootfs/tar-build.ts';
import {
  PLAIN,
  op,
  WHOLE,
  dir,
  driver,
  sh,
  sha256,
  stackOf,
  refusal,
  mounts,
  useRootfsGround,
} from './rootfs-ground.ts';

describe('root filesystems', function () {
  this.timeout(120_000);
  useRootfsGround();

  describe('mounts', () => {
    const lines = async (id: ContainerId): Promise<string[]> => (await mounts()).filter((line) => line.includes(id));
    /** The name is free at once; what was mounted below it goes in the background. */
    const unmounted = async (id: ContainerId): Promise<void> =>
      void (await waitFor(
        () => lines(id),
        (left) => left.length === 0,
        'what was mounted to be gone',
      ));

    for (const count of [0, 1, 2, 128]) {
      it(`${count} layers, writable, and gives all of it back`, async () => {
        const chain = await stackOf(
          ...Array.from({ length: count }, (_, i) => tarOf(tarEntry({ name: `f${i}` }, String(i)))),
        );
        const id = newContainerId();
        const merged = await driver.mount(op, id, chain, PLAIN);
        assert.lengthOf(await readdir(merged), count);
        await writeFile(join(merged, 'new'), 'x');
        assert.equal(await driver.mount(op, id, chain, PLAIN), merged, 'again');
        assert.lengthOf(await lines(id), 1);
        assert.deepEqual(await driver.list(), [id]);
        await driver.destroy(op, id);
        assert.deepEqual(await driver.list(), []);
        await unmounted(id);
        await driver.destroy(op, id);
      });
    }

    it('come back after a restart with what was written', async () => {
      const id = newContainerId();
      const chain = await stackOf(tarOf(tarEntry({ name: 'f' })));
      const options = { ...PLAIN, mountOptions: ['metacopy=on', 'volatile', 'nodev'] };
      const merged = await driver.mount(op, id, chain, options);
      await writeFile(join(merged, 'kept'), 'x');
      assert.match((await lines(id)).join(), /nodev.*volatile/);
      sh(`umount -l ${merged}`);
      const restarted = new OverlayRootfs({ root: join(dir, 'root') });
      await restarted.mount(op, id, chain, options);
      assert.equal(await readFile(join(merged, 'kept'), 'utf8'), 'x');
      await restarted.destroy(op, id);
      await restarted.close();
    });

    it('refuse options that are not theirs', async () => {
      for (const option of [
        'lowerdir=/',
        'upperdir=/etc',
        'workdir=/',
        'context=x',
        'userxattr',
        'metacopy=on,lowerdir=/',
      ]) {
        assert.match(
          await refusal(driver.mount(op, newContainerId(), [], { ...PLAIN, mountOptions: [option] })),
          /^InvalidArgument/,
          option,
        );
      }
      assert.match(
        await refusal(driver.mount(op, newContainerId(), [], { ...PLAIN, quotaBytes: 1n })),
        /^Unimplemented/,
      );
    });

    it('a missing layer is told', async () => {
      assert.match(
        await refusal(driver.mount(op, newContainerId(), [parseChainId(sha256('nothing'))], PLAIN)),
        /^NotFound: .*pull the image again/,
      );
      assert.lengthOf(await driver.list(), 0);
    });

    it('with a user namespace the files belong to it', async () => {
      const id = newContainerId();
      const chain = await stackOf(
        tarOf(tarEntry({ name: './', type: '5', uid: 0 }), tarEntry({ name: 'a', uid: 5, gid: 6 })),
        tarOf(tarEntry({ name: 'b' })),
      );
      const map = [{ containerId: 0, hostId: 200_000, size: 65_536 }];
      const merged = await driver.mount(op, id, chain, { ...PLAIN, idMap: { uids: map, gids: map } });
      const owner = async (path: string): Promise<string> => {
        const st = await stat(join(merged, path));
        return `${st.uid}:${st.gid}`;
      };
      assert.deepEqual(
        [await owner('a'), await owner('b'), await owner('.')],
        ['200005:200006', '200000:200000', '200000:200000'],
      );
      assert.equal((await stat(join(merged, '..'))).mode & 0o777, 0o711);
    });

    it('one that leaked into another mount namespace does not hold up its removal', async () => {
      const id = newContainerId();
      const merged = await driver.mount(op, id, await stackOf(tarOf(tarEntry({ name: 'f' }))), PLAIN);
      await writeFile(join(merged, 'data'), 'x');
      const holder = spawn(
        'unshare',
        ['--mount', '--propagation', 'private', 'sh', '-c', `cd ${merged} && echo ready && exec sleep 1000`],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      );
      await once(holder.stdout, 'data');
      await driver.destroy(op, id);
      assert.deepEqual(await driver.list(), []);
      await driver.close();
      assert.deepEqual(await lines(id), []);
      assert.deepEqual(await readdir(join(dir, 'root/rootfs')), []);
      holder.kill('SIGKILL');
      await once(holder, 'exit');
    });

    it('what somebody mounted inside or beside goes along, but nothing that is in it', async () => {
      const id = newContainerId();
      const merged = await driver.mount(op, id, [], PLAIN);
      await mkdir(join(merged, 'mnt'));
      await mkdir(join(dir, 'theirs'));
      await writeFile(join(dir, 'theirs/f'), 'x');
      sh(`mount -t tmpfs none ${merged}/mnt; mount --bind ${dir}/theirs ${merged}/../work`);
      await driver.destroy(op, id);
      await unmounted(id);
      await driver.close();
      assert.deepEqual(await readdir(join(dir, 'root/rootfs')), []);
      assert.deepEqual(await readdir(join(dir, 'theirs')), ['f']);
    });

    it('half removed containers of a crash are swept', async () => {
      sh('mkdir -p root/rootfs/.trash-x/upper/a/b; : > root/rootfs/.trash-x/upper/a/b/c');
      await driver.sweepLayers(op);
      await driver.close();
      assert.deepEqual(await readdir(join(dir, 'root/rootfs')), []);
    });

    it('directories are closed to other users (CVE-2021-41103)', async () => {
      const id = newContainerId();
      await driver.mount(op, id, await stackOf(tarOf(tarEntry({ name: 'f' }))), PLAIN);
      const mode = async (path: string): Promise<number> => (await stat(join(dir, 'root', path))).mode & 0o777;
      assert.deepEqual(
        [await mode('.'), await mode('layers'), await mode('rootfs'), await mode(`rootfs/${id}`)],
        [0o711, 0o700, 0o711, 0o700],
      );
    });

    it('usage of the writable layer, as it is now', async () => {
      const id = newContainerId();
      const merged = await driver.mount(
        op,
        id,
        await stackOf(tarOf(tarEntry({ name: 'f' }, 'x'.repeat(50_000)))),
        PLAIN,
      );
      await writeFile(join(merged, 'new'), Buffer.alloc(100_000, 1));
      const usage = await driver.usage(op, id);
      assert.deepEqual([usage.usedBytes > 100_000n && usage.usedBytes < 130_000n, usage.inodesUsed], [true, 2n]);
      await writeFile(join(merged, 'more'), 'x');
      assert.equal((await driver.usage(op, id)).inodesUsed, 3n, 'as it is now');
    });

    it('only ids lead to anything', async () => {
      for (const id of ['', '.', '..', '/', '../layers', 'x']) {
        assert.match(await refusal(driver.destroy(op, id as ContainerId)), /^InvalidArgument/, id);
        assert.match(
          await refusal((async () => driver.mount(op, id as ContainerId, [], PLAIN))()),
          /^InvalidArgument/,
          id,
        );
      }
      assert.isTrue(existsSync(join(dir, 'root/layers')));
    });
  });

  describe('image volumes', () => {
    const tar = tarOf(
      tarEntry({ name: './', type: '5', mode: 0o750, uid: 3 }),
      tarEntry({ name: 'a/', type: '5' }),
      tarEntry({ name: 'a/f' }, 'x'),
      tarEntry({ name: 'up', type: '2', link: '/' }),
      tarEntry({ name: 'out', type: '2', link: '/../../../etc' }),
      tarEntry({ name: 'in', type: '2', link: '/a' }),
      tarEntry({ name: 'null', type: '3', major: 1, minor: 3, mode: 0o666 }),
    );

    it('are read-only, from any number of layers, and go with the container', async () => {
      const id = newContainerId();
      const chain = await stackOf(tar, tarOf(tarEntry({ name: 'b' }, 'y'), tarEntry({ name: '.wh.null' })));
      const paths = await Promise.all([
        driver.mountImageVolume(op, id, 0, chain, WHOLE),
        driver.mountImageVolume(op, id, 1, chain.slice(0, 1), WHOLE),
        driver.mountImageVolume(op, id, 2, [], WHOLE),
      ]);
      assert.deepEqual(await Promise.all(paths.map(async (path) => (await readdir(path)).sort())), [
        ['a', 'b', 'in', 'out', 'up'],
        ['a', 'in', 'null', 'out', 'up'],
        [],
      ]);
      for (const path of paths) {
        const error = await writeFile(join(path, 'new'), '').then(
          () => 'written',
          (cause: NodeJS.ErrnoException) => cause.code,
        );
        assert.equal(error, 'EROFS');
      }
      const st = await stat(paths[0]);
      assert.deepEqual([st.mode & 0o777, st.uid], [0o750, 3]);
      for (const line of await mounts()) assert.match(line, /ro,nosuid,nodev,noexec/);
      assert.equal(
        await driver.mountImageVolume(op, id, 0, chain, { subPath: 'a', idMap: null }),
        join(paths[0], 'a'),
        'again',
      );
      assert.lengthOf(await mounts(), 3);
      await driver.destroy(op, id);
      await waitFor(mounts, (left) => left.length === 0, 'the volumes to be unmounted');
    });

    it('sub paths stay inside', async () => {
      const id = newContainerId();
      const chain = await stackOf(tar);
      const at = (subPath: string): Promise<string> =>
        driver.mountImageVolume(op, id, 0, chain, { subPath, idMap: null });
      const top = await at('');
      assert.deepEqual(
        [await at('a/f'), await at('in/f'), await at('a/')],
        [join(top, 'a/f'), join(top, 'a/f'), join(top, 'a')],
      );
      assert.match(await refusal(at('../../etc')), /^InvalidArgument: .*relative and without/);
      assert.match(await refusal(at('/etc')), /^InvalidArgument/);
      assert.match(await refusal(at('up')), /^InvalidArgument: .*leads out of the image/);
      assert.match(await refusal(at('out')), /^NotFound: .*does not exist in the image/);
      assert.match(await refusal(at('no')), /^NotFound: .*does not exist in the image/);
    });
  });

  describe('inside a root', () => {
    const start = async (
      ...entries: readonly Buffer[]
    ): Promise<{ readonly merged: string; readonly inside: ReturnType<OverlayRootfs['inside']> }> => {
      const merged = await driver.mount(op, newContainerId(), await stackOf(tarOf(...entries)), PLAIN);
      return { merged, inside: driver.inside(merged) };
    };

    it('files are read within bounds, and nothing else is opened (CVE-2025-4437, GHSA-jpcc-p29g-p8mq)', async () => {
      const { inside } = await start(
        tarEntry({ name: 'etc/passwd' }, 'root:x:0:0'),
        paxEntry(
          [
            ['GNU.sparse.size', String(60 * 2 ** 20)],
            ['GNU.sparse.map', ''],
          ],
          { name: 'huge' },
        ),
        tarEntry({ name: 'fifo', type: '6' }),
        tarEntry({ name: 'zero', type: '2', link: '/dev/zero' }),
        tarEntry({ name: 'dev/zero', type: '3', major: 1, minor: 5 }),
        tarEntry({ name: 'host', type: '2', link: '/../../../etc/hostname' }),
        tarEntry({ name: 'self', type: '2', link: '/proc/self/root/etc/hostname' }),
        tarEntry({ name: 'back', type: '2', link: '/proc/self/root/../../../etc/passwd' }),
        tarEntry({ name: 'l', type: '2', link: 'etc/passwd' }),
      );
      assert.equal((await inside.readFile('/etc/passwd', 100))?.toString(), 'root:x:0:0');
      assert.equal((await inside.readFile('l', 100))?.toString(), 'root:x:0:0');
      for (const path of ['huge', 'fifo', 'zero', 'etc'])
        assert.match(await refusal(inside.readFile(path, 1000)), /^FailedPrecondition/, path);
      assert.match(await refusal(inside.readFile('etc/passwd', 5)), /^FailedPrecondition: .*larger than 5 bytes/);
      for (const path of ['none', 'etc/passwd/x']) assert.isUndefined(await inside.readFile(path, 1000), path);
      assert.isUndefined(await inside.readFile('host', 1000), 'what leads nowhere is absent');
      for (const path of ['self', 'back'])
        assert.match(
          await refusal(inside.readFile(path, 1000)),
          /^FailedPrecondition: .*by the symlink .* to "\/proc", which the kernel provides/,
          path,
        );
    });

    it('paths lead inside, though nothing may be there (CVE-2024-5154)', async () => {
      const { merged, inside } = await start(
        tarEntry({ name: 'a/b' }),
        tarEntry({ name: 'abs', type: '2', link: '/a' }),
        tarEntry({ name: 'up', type: '2', link: '../../../..' }),
        tarEntry({ name: 'etc/mtab', type: '2', link: `/../..${dir}/evil/x` }),
        tarEntry({ name: 'etc/resolv.conf', type: '2', link: '../run/systemd/resolv.conf' }),
        tarEntry({ name: 'var/run', type: '2', link: '/run' }),
        tarEntry({ name: 'loop', type: '2', link: 'loop' }),
      );
      const rows: readonly (readonly [path: string, lands: string, dangles: boolean])[] = [
        ['/abs/b', '/a/b', false],
        ['up', '/', false],
        ['../../a', '/a', false],
        ['none/x', '/none/x', false],
        ['/etc/mtab', `${dir}/evil/x`, true],
        ['/etc/resolv.conf', '/run/systemd/resolv.conf', true],
        ['/var/run/secrets', '/run/secrets', true],
      ];
      const found = await inside.landings(rows.map(([path]) => path));
      assert.deepEqual(
        found.map(({ path, dangles }) => [path, dangles]),
        rows.map(([, lands, dangles]) => [lands, dangles]),
      );
      assert.match(await refusal(inside.landings(['/loop/x'])), /^FailedPrecondition: .*in a circle/);
      await inside.symlinkIfAbsent('/etc/mtab', '/proc/mounts');
      await inside.symlinkIfAbsent('/etc/hosts', '/x');
      await inside.symlinkIfAbsent('/etc/hosts', '/y');
      assert.deepEqual(
        [await readlink(join(merged, 'etc/mtab')), await readlink(join(merged, 'etc/hosts'))],
        [`/../..${dir}/evil/x`, '/x'],
      );
    });

    it('directories are made where links lead, and nothing outside', async () => {
      const { merged, inside } = await start(
        tarEntry({ name: 'work', type: '2', link: `/../..${dir}/evil` }),
        tarEntry({ name: 'var/run', type: '2', link: '/run' }),
        tarEntry({ name: 'file' }),
        tarEntry({ name: 'own/', type: '5', mode: 0o700, uid: 9 }),
      );
      await mkdir(join(dir, 'evil'));
      const owner = { uid: 5, gid: 6 };
      assert.equal(await inside.ensureDir('/work/app', owner, 0o750), `${dir}/evil/app`);
      assert.deepEqual(await readdir(join(dir, 'evil')), []);
      assert.isTrue((await lstat(join(merged, dir, 'evil/app'))).isDirectory());
      assert.equal(await inside.ensureDir('/var/run/app', owner, 0o750), '/run/app');
      await inside.ensureDir('own', owner, 0o750);
      const [app, own] = [await stat(join(merged, 'run/app')), await stat(join(merged, 'own'))];
      assert.deepEqual([app.uid, app.gid, app.mode & 0o777, own.uid, own.mode & 0o777], [5, 6, 0o750, 9, 0o700]);
      for (const path of ['/file', '/file/x', '/own/../file/x/y']) {
        const said = await refusal(inside.ensureDir(path, owner, 0o755));
        assert.equal(said, 'FailedPrecondition: "/file" in the image is a file', path);
      }
      await rm(join(dir, 'evil'), { recursive: true });
    });

    it('the content of a VOLUME is copied out as it is (CVE-2022-23648)', async () => {
      const { inside } = await start(
        tarEntry({ name: 'data/', type: '5', mode: 0o711 }),
        tarEntry({ name: 'data/f', mode: 0o640, uid: 7, gid: 8 }, 'x'),
        tarEntry({ name: 'data/l', type: '2', link: '/etc/shadow' }),
        tarEntry({ name: 'out', type: '2', link: '/../../../../../etc' }),
      );
      const to = join(dir, 'volume');
      await mkdir(to);
      await inside.copyOut('/data', to);
      const st = await stat(join(to, 'f'));
      assert.deepEqual([st.mode & 0o777, st.uid, st.gid, await readlink(join(to, 'l'))], [0o640, 7, 8, '/etc/shadow']);
      for (const path of ['/none', '/../../../../etc', 'out', '/data/f']) {
        sh(`rm -rf ${to}; mkdir ${to}`);
        await inside.copyOut(path, to);
        assert.deepEqual(await readdir(to), [], path);
      }
      await rm(to, { recursive: true });
    });
  });
});
