import { expect } from 'chai';
import { codecs } from './codec.ts';
import { backgroundOp, silent } from '../pkg/base/op.ts';
import { criImage, imageService } from './image-service.ts';
import type { Image, ImageStore } from '../pkg/ports/image.ts';

const imageOf = (user: string): Image => ({
  id: `sha256:${'a'.repeat(64)}` as Image['id'],
  repoTags: [],
  repoDigests: [],
  manifestDigest: `sha256:${'b'.repeat(64)}` as Image['manifestDigest'],
  sizeBytes: 1n,
  config: {
    architecture: 'amd64',
    os: 'linux',
    user,
    env: [],
    entrypoint: [],
    cmd: [],
    volumes: [],
    workingDir: '',
    labels: {},
    stopSignal: '',
    exposedPorts: [],
    diffIds: [],
  },
  layers: [],
  top: null,
  pinned: false,
  annotations: {},
  pulledAt: 0n,
});

describe('cri/image-service', () => {
  it('shows an artifact as CRI-O does: by its names and its size, of no user', async () => {
    const artifact = { type: 'a/model', blobs: [], files: [{ name: 'w/a', path: '/blobs/1' }] };
    const image: Image = { ...imageOf(''), repoTags: ['reg.example/m:1'], sizeBytes: 7n, artifact };
    expect(criImage(image)).to.deep.include({ repoTags: ['reg.example/m:1'], size: 7n, uid: undefined, username: '' });
    const images = { find: () => image, list: () => [image] } as unknown as ImageStore;
    const service = imageService({ images, rootfs: undefined, stats: undefined, clock: () => 0n } as never);
    const asked = { image: criImage(image).spec, verbose: true };
    const status = service.imageStatus(backgroundOp(silent), asked as never);
    expect(status.image?.id).to.equal(image.id);
    expect(JSON.parse(status.info?.info ?? '')).to.deep.equal({
      artifact: { artifactType: 'a/model', files: ['w/a'] },
    });
  });

  it('gives USER as a uid where it is one, else as a name; every one of them can be sent', () => {
    const rows: readonly (readonly [string, bigint | undefined, string])[] = [
      ['', undefined, ''],
      ['0', 0n, ''],
      ['1000:1000', 1000n, ''],
      ['nobody:users', undefined, 'nobody'],
      ['12x', undefined, '12x'],
      ['9223372036854775807', 9_223_372_036_854_775_807n, ''],
      ['9223372036854775808', undefined, '9223372036854775808'],
      ['9999999999999999999', undefined, '9999999999999999999'],
      ['00000000000000000000001', undefined, '00000000000000000000001'],
    ];
    for (const [user, uid, username] of rows) {
      const image = criImage(imageOf(user));
      expect([image.uid?.value, image.username], user).to.deep.equal([uid, username]);
      const sent = codecs.Image.encode(image);
      expect(codecs.Image.decode(sent), user).to.deep.include({
        username,
        uid: uid === undefined ? undefined : { value: uid },
      });
    }
  });
});
