import { expect } from 'chai';
import { hexOf } from '../base/ids.ts';
import type { ImageId } from '../base/ids.ts';
import { digestOf } from '../oci/digest.ts';
import { fakeImage, testOp } from './fakes.ts';
import type { FakeImage, FakeNetwork, FakeRegistry } from './fakes.ts';
import { id, image, sibling, StoreGround } from './fake-store.ts';
import type { FileImageStore } from './store.ts';
import type { Image } from '../ports/image.ts';

describe('image/names', () => {
  let ground: StoreGround;
  let network: FakeNetwork;
  let registry: FakeRegistry;
  let store: FileImageStore;
  beforeEach(async () => {
    ground = await StoreGround.make();
    ({ network, registry, store } = ground);
  });
  afterEach(() => ground.remove());
  const pull = (reference: string, using = ground.store): Promise<Image> => ground.pull(reference, using);
  const open: StoreGround['open'] = (...args) => ground.open(...args);
  const names: StoreGround['names'] = (...args) => ground.names(...args);

  it('a tag moves to the image that was pulled last; the old image stays, by id', async () => {
    registry.add('x', 'latest', image);
    await pull('reg.example/x');
    registry.add('x', 'latest', sibling);
    await pull('reg.example/x');
    const check = (using: FileImageStore): void => {
      expect(using.find('reg.example/x')?.id).to.equal(id(sibling));
      expect(using.find(image.id)).to.deep.include({
        repoTags: [],
        repoDigests: [`reg.example/x@${image.manifest.digest}`],
      });
    };
    check(store);
    check(await open());
    await store.remove(testOp(), 'reg.example/x');
    expect(store.find('reg.example/x')).to.equal(undefined);
    expect((await open()).find('reg.example/x')).to.equal(undefined);
  });

  it('one image collects all its names', async () => {
    registry.add('x', '1', image).add('x', '2', image).add('y', 'latest', image);
    for (const each of ['x:1', 'x:2', 'y']) await pull(`reg.example/${each}`);
    expect(store.list()).to.have.length(1);
    expect(names()).to.deep.equal([
      'reg.example/x:1',
      'reg.example/x:2',
      `reg.example/x@${image.manifest.digest}`,
      'reg.example/y:latest',
      `reg.example/y@${image.manifest.digest}`,
    ]);
  });

  it('finds an image by all of them, and nothing by odd text', async () => {
    network.hosts.set('https://registry-1.docker.io', registry.host);
    registry.add('library/busybox', '1', image);
    await pull('busybox:1');
    const { id: own } = image;
    for (const good of [
      own,
      hexOf(own),
      hexOf(own).slice(0, 13),
      own.slice(0, 12),
      'busybox:1',
      'docker.io/busybox:1',
      'docker.io/library/busybox:1',
      `busybox@${image.manifest.digest}`,
      `busybox:x@${image.manifest.digest}`,
    ]) {
      expect(store.find(good)?.id, good).to.equal(own);
    }
    for (const odd of [
      '',
      'busybox',
      'busybox:2',
      hexOf(own).slice(0, 3),
      'sha256:',
      'SHA256:ABCD',
      '../..',
      'x'.repeat(1 << 20),
      '\0',
      `busybox@${digestOf('y')}`,
      '__proto__',
      'localhost/busybox:1',
    ])
      expect(store.find(odd), odd.slice(0, 30)).to.equal(undefined);
  });

  it('an id prefix must be the only one', async () => {
    const ids = new Map<string, FakeImage>();
    for (let i = 0; ; i++) {
      const one = fakeImage([], { Cmd: [String(i)] });
      const prefix = hexOf(one.id).slice(0, 4);
      const other = ids.get(prefix);
      ids.set(prefix, one);
      if (other === undefined) continue;
      registry.add('a', 'latest', one).add('b', 'latest', other);
      await pull('reg.example/a');
      await pull('reg.example/b');
      expect(store.find(prefix)).to.equal(undefined);
      expect(store.find(hexOf(one.id).slice(0, 12))?.id).to.equal(one.id);
      return;
    }
  });

  it('tells a container’s image by the name that was asked for, whatever names others gave it since', async () => {
    registry.add('m/victim', '1', image).add('a/alias', '1', image).add('z/late', '1', image);
    network.hosts.set('https://registry-1.docker.io', registry.host);
    registry.add('library/victim', '1', image);
    for (const name of ['m/victim', 'a/alias', 'z/late']) await pull(`reg.example/${name}:1`);
    await pull('victim:1');
    const digest = image.manifest.digest;
    const check = (using: FileImageStore): void => {
      const called = (asked: string): readonly string[] =>
        Object.values(using.called(image.id as string as ImageId, asked));
      for (const asked of ['', image.id, hexOf(image.id), hexOf(image.id).slice(0, 12)])
        expect(called(asked), asked).to.deep.equal(['reg.example/m/victim:1', `reg.example/m/victim@${digest}`]);
      for (const [asked, repository] of [
        ['reg.example/a/alias:1', 'reg.example/a/alias'],
        [`reg.example/z/late@${digest}`, 'reg.example/z/late'],
        ['victim:1', 'docker.io/library/victim'],
      ] as const)
        expect(called(asked)).to.deep.equal([asked, `${repository}@${digest}`]);
      expect(called('reg.example/other/name:1')).to.deep.equal(['reg.example/other/name:1', image.id]);
      expect(using.find(image.id)?.repoTags).to.deep.equal([
        'docker.io/library/victim:1',
        'reg.example/a/alias:1',
        'reg.example/m/victim:1',
        'reg.example/z/late:1',
      ]);
    };
    check(store);
    check(await open());
  });

  it('pins by exact name, prefix and keyword', async () => {
    registry.add('pause', '3.10', image).add('team/tool', 'v1', sibling);
    const pinning = await open({ pinnedImages: ['reg.example/pause:3.10'] });
    await pull('reg.example/pause:3.10', pinning);
    await pull('reg.example/team/tool:v1', pinning);
    const pinned = (...patterns: string[]): string[] => {
      pinning.setPinnedImages(patterns);
      return pinning
        .list()
        .filter((each) => each.pinned)
        .map((each) => each.repoTags[0] ?? '');
    };
    expect(pinning.find('reg.example/pause:3.10')?.pinned).to.equal(true);
    expect(pinned('reg.example/pause')).to.deep.equal([]);
    expect(pinned('reg.example/team/*')).to.deep.equal(['reg.example/team/tool:v1']);
    expect(pinned('*tool*')).to.deep.equal(['reg.example/team/tool:v1']);
    expect(pinned('*', '**', '', 'tool')).to.deep.equal([]);
    expect(pinned('reg.example/*')).to.have.length(2);
    expect(pinned('Pause*'), 'in whatever case, and after a registry that nobody wrote, as with CRI-O').to.deep.equal([
      'reg.example/pause:3.10',
    ]);
    expect(pinned('Reg.example/Team/tool:V1')).to.deep.equal(['reg.example/team/tool:v1']);
  });
});
