/**
 * pkg/image and pkg/rootfs together on real things: Debian's docker-registry with images that skopeo pushed, and what
 * skopeo writes into files.
 */
import { expect } from 'chai';
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { limits } from '../../pkg/base/limits.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { buildIndex, busybox, dir, file, hardlink, opaque, push, whiteout } from './images.ts';
import { isListening, startRegistry } from './registry.ts';
import type { RunningRegistry } from './registry.ts';
import { insecure, layerTree, outcome, StoreGround } from './stores.ts';

const run = promisify(execFile);
const op = backgroundOp(silent);
describe('images of a real registry', function () {
  this.timeout(120_000);
  let stores: StoreGround;
  let ground: string;
  before(async () => {
    stores = await StoreGround.make();
    ground = stores.directory;
  });
  after(() => stores.remove());
  const fresh = (what: string): string => stores.fresh(what);
  const build: StoreGround['build'] = (...args) => stores.build(...args);
  const openStore: StoreGround['open'] = (...args) => stores.open(...args);

  let registry: RunningRegistry;
  before(async () => (registry = await startRegistry(ground)));
  after(async () => {
    await registry.stop();
    expect(await isListening(registry.host)).to.equal(false);
  });

  it(
    'serves OCI and docker images with gzip, zstd and uncompressed layers; equal content is ' + 'stored once',
    async () => {
      const image = await build(
        [
          { files: await busybox() },
          { files: [dir('data'), file('data/one', 'one'), file('data/two', 'two')], compression: 'zstd' },
          {
            files: [whiteout('data/one'), file('data/three', 'three'), hardlink('data/link', 'data/three')],
            compression: 'none',
          },
        ],
        { User: '33', Cmd: ['sh'], Env: ['A=b'] },
      );
      await push(image, `${registry.host}/app:oci`);
      const plain = await build([{ files: await busybox() }, { files: [dir('data'), file('data/one', 'one')] }]);
      await push(plain, `${registry.host}/app:docker`, { format: 'v2s2' });
      const { store, directory, close } = await openStore(insecure(registry.host));
      const pulled = await store.pull(op, `${registry.host}/app:oci`, {});
      expect(pulled).to.deep.include({
        id: image.images[0]?.id,
        manifestDigest: image.digest,
        repoTags: [`${registry.host}/app:oci`],
        repoDigests: [`${registry.host}/app@${image.digest}`],
      });
      expect(pulled.config).to.deep.include({ user: '33', cmd: ['sh'], env: ['A=b'] });
      expect(await readFile(join(layerTree(directory, pulled, 1), 'data/two'), 'utf8')).to.equal('two');
      expect((await stat(join(layerTree(directory, pulled, 2), 'data/one'))).isCharacterDevice()).to.equal(true);
      expect((await stat(join(layerTree(directory, pulled, 2), 'data/link'))).nlink).to.equal(2);
      expect((await stat(join(layerTree(directory, pulled, 0), 'bin/busybox'))).nlink).to.be.above(200);
      const docker = await store.pull(op, `${registry.host}/app:docker`, {});
      expect(docker.layers[0]?.chainId).to.equal(pulled.layers[0]?.chainId);
      expect(store.counters().layersReused).to.equal(1);
      expect(await store.check(op, 'report')).to.deep.equal([]);
      const usage = await store.usage(op);
      expect(usage.usedBytes > 1_900_000n && usage.usedBytes < 6_000_000n, String(usage.usedBytes)).to.equal(true);
      await store.remove(op, pulled.id);
      await store.remove(op, 'app:docker');
      expect(store.list()).to.have.length(1);
      await store.remove(op, docker.id);
      expect(await readdir(join(directory, 'layers'))).to.deep.equal([]);
      expect(await readdir(join(directory, 'blobs/sha256'))).to.deep.equal([]);
      await close();
    },
  );

  it('serves lists: the variant of this node, by tag and by digest; several names are one image', async () => {
    const mine = { layers: [{ files: [file('arch', 'amd64')] }] };
    const other = { layers: [{ files: [file('arch', 'other')] }], platform: { os: 'linux', architecture: 's390x' } };
    const image = await buildIndex({ directory: fresh('image'), name: 'v1', images: [other, mine] });
    await push(image, `${registry.host}/multi:1`);
    await push(image, `${registry.host}/copy:2`);
    const foreign = await buildIndex({
      directory: fresh('image'),
      name: 'v1',
      images: [other, { ...other, platform: { os: 'linux', architecture: 'arm64' } }],
    });
    await push(foreign, `${registry.host}/foreign:1`);
    const { store, close } = await openStore(insecure(registry.host), {
      platform: { os: 'linux', architecture: 'amd64' },
    });
    const pulled = await store.pull(op, `${registry.host}/multi:1`, {});
    expect(pulled.id).to.equal(image.images[1]?.id);
    expect(pulled.repoDigests).to.deep.equal([`${registry.host}/multi@${image.digest}`]);
    expect(
      (await store.pull(op, `${registry.host}/multi@${image.images[1]?.manifest}`, {})).repoDigests,
    ).to.have.length(2);
    await store.pull(op, `${registry.host}/copy:2`, {});
    expect(store.list()).to.have.length(1);
    expect(store.find(`${registry.host}/copy:2`)?.repoTags).to.have.length(2);
    expect(await outcome(store.pull(op, `${registry.host}/foreign:1`, {}))).to.equal('NotFound');
    expect(await outcome(store.pull(op, `${registry.host}/multi:none`, {}))).to.equal('NotFound');
    await close();
  });

  it('pulled again, an image costs one question; a moved tag is noticed', async () => {
    const [one, two] = [await build([{ files: [file('x', 'one')] }]), await build([{ files: [file('x', 'two')] }])];
    await push(one, `${registry.host}/moving:1`);
    const { store, close } = await openStore(insecure(registry.host));
    const first = await store.pull(op, `${registry.host}/moving:1`, {});
    expect(await store.pull(op, `${registry.host}/moving:1`, {})).to.equal(first);
    await push(two, `${registry.host}/moving:1`);
    expect((await store.pull(op, `${registry.host}/moving:1`, {})).id).to.equal(two.images[0]?.id);
    expect(store.find(first.id)?.repoTags).to.deep.equal([]);
    await close();
  });

  it('docker’s lists, too', async () => {
    const image = await buildIndex({
      directory: fresh('image'),
      name: 'v1',
      images: [
        { layers: [{ files: [file('x', '1')] }] },
        { layers: [{ files: [file('x', '2')] }], platform: { os: 'linux', architecture: 'arm64' } },
      ],
    });
    await push(image, `${registry.host}/dockerlist:1`, { format: 'v2s2' });
    const { store, directory, close } = await openStore(insecure(registry.host), {
      platform: { os: 'linux', architecture: 'arm64' },
    });
    const pulled = await store.pull(op, `${registry.host}/dockerlist:1`, {});
    expect(await readFile(join(layerTree(directory, pulled, 0), 'x'), 'utf8')).to.equal('2');
    await close();
  });

  it('layers that skopeo packs as zstd:chunked, and those that say gzip and are xz', async () => {
    const image = await build([{ files: [file('x', randomBytes(200_000)), dir('d'), file('d/y', 'y')] }]);
    await push(image, `${registry.host}/chunked:1`, { compression: 'zstd:chunked' });
    const { store, directory, close } = await openStore(insecure(registry.host));
    const chunked = await store.pull(op, `${registry.host}/chunked:1`, {});
    expect(chunked.layers[0]).to.include({
      mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd',
      diffId: image.images[0]?.diffIds[0],
    });
    expect(await readFile(join(layerTree(directory, chunked, 0), 'd/y'), 'utf8')).to.equal('y');
    expect(await store.check(op, 'report')).to.deep.equal([]);
    const xz = await build([{ files: [file('z', 'z'.repeat(100_000))], compression: 'xz' }]);
    await push(xz, `${registry.host}/xz:1`);
    const pulled = await store.pull(op, `${registry.host}/xz:1`, {});
    expect((await readFile(join(layerTree(directory, pulled, 0), 'z'))).length).to.equal(100_000);
    await close();
  });

  it('the best variant for this node, and an older one where there is no better', async () => {
    const variant = (name: string, platform: { architecture: string; variant?: string }) => ({
      layers: [{ files: [file('variant', name)] }],
      platform: { os: 'linux', ...platform },
    });
    const image = await buildIndex({
      directory: fresh('image'),
      name: 'v1',
      images: [
        variant('v5', { architecture: 'arm', variant: 'v5' }),
        variant('v6', { architecture: 'arm', variant: 'v6' }),
        variant('64', { architecture: 'arm64' }),
      ],
    });
    await push(image, `${registry.host}/variants:1`);
    for (const [platform, wanted] of [
      [{ architecture: 'arm', variant: 'v7' }, 1],
      [{ architecture: 'arm', variant: 'v5' }, 0],
      [{ architecture: 'arm64', variant: 'v8' }, 2],
      [{ architecture: 'riscv64' }, -1],
    ] as const) {
      const { store, close } = await openStore(insecure(registry.host), { platform: { os: 'linux', ...platform } });
      const pulled = store.pull(op, `${registry.host}/variants:1`, {});
      if (wanted >= 0) expect((await pulled).id).to.equal(image.images[wanted]?.id);
      else
        expect(String(await pulled.catch((each: unknown) => each))).to.contain(
          'no variant for linux/riscv64; it has "linux/arm/v5, linux/arm/v6, linux/arm64"',
        );
      await close();
    }
  });

  it('an image of several large layers arrives whole, in ranges', async () => {
    const large = randomBytes(limits.pullRangesFromBytes + 3_000_000);
    const image = await build([
      { files: [file('large', large)], compression: 'none' },
      { files: [dir('d'), file('d/x', 'x')] },
      { files: [opaque('d'), file('d/y', 'y')] },
    ]);
    await push(image, `${registry.host}/large:1`);
    const { store, directory, close } = await openStore(insecure(registry.host));
    const pulled = await store.pull(op, `${registry.host}/large:1`, {});
    const sum = createHash('sha256')
      .update(await readFile(join(layerTree(directory, pulled, 0), 'large')))
      .digest('hex');
    expect(sum).to.equal(createHash('sha256').update(large).digest('hex'));
    await close();
  });

  it('through a mirror: the name stays, the registry itself is not asked', async () => {
    const image = await build([{ files: [file('x', 'mirrored')] }]);
    await push(image, `${registry.host}/hub/library/busybox:9`);
    const { store, close } = await openStore(
      `[[registry]]\nprefix = "docker.io"\nblocked = false\n[[registry.mirror]]\nlocation = ` +
        `"${registry.host}/hub"\ninsecure = true\n[[registry]]\nlocation = "evil.example"\nblocked = ` +
        `true\n`,
    );
    expect((await store.pull(op, 'busybox:9', {})).repoTags).to.deep.equal(['docker.io/library/busybox:9']);
    expect(await outcome(store.pull(op, 'evil.example/x', {}))).to.equal('PermissionDenied');
    await close();
  });

  it('archives that skopeo writes are imported the same way', async () => {
    const image = await build([{ files: [file('x', 'archived')] }, { files: [file('y', 'too')] }], { Cmd: ['x'] });
    const { store, close } = await openStore('');
    for (const [kind, name] of [
      ['oci-archive', 'one.tar'],
      ['docker-archive', 'two.tar'],
    ] as const) {
      const archive = join(ground, name);
      await run('skopeo', [
        'copy',
        '--quiet',
        '--insecure-policy',
        `oci:${image.layout}:v1`,
        `${kind}:${archive}:team/${kind}:1`,
      ]);
      const [imported] = await store.import(op, archive);
      expect(imported?.config.cmd).to.deep.equal(['x']);
      expect(store.find(`team/${kind}:1`)?.id, kind).to.equal(imported?.id);
    }
    const [direct] = await store.import(op, image.layout, 'direct:1');
    expect(direct?.id).to.equal(image.images[0]?.id);
    expect(direct?.repoTags).to.include('docker.io/library/direct:1');
    await close();
  });
});
