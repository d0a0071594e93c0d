/**
 * A registry in this process that misbehaves as told. Each bad input ends in a typed error and leaves the store as it
 * was.
 */
import { expect } from 'chai';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ErrorCode, KubeletReason } from '../../pkg/base/errors.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { file, hardlink } from './images.ts';
import type { BuiltImage, LayerFile } from './images.ts';
import {
  answerWith,
  flipBit,
  freePort,
  neverEnding,
  resetAfter,
  stallAfter,
  startScriptedRegistry,
  trickle,
} from './registry.ts';
import type { ScriptedRegistry } from './registry.ts';
import { insecure, noAuth, outcome, StoreGround } from './stores.ts';

const op = backgroundOp(silent);
describe('images of a registry that misbehaves', function () {
  this.timeout(120_000);
  let stores: StoreGround;
  before(async () => {
    stores = await StoreGround.make();
  });
  after(() => stores.remove());
  const build: StoreGround['build'] = (...args) => stores.build(...args);
  const openStore: StoreGround['open'] = (...args) => stores.open(...args);

  let registry: ScriptedRegistry;
  let image: BuiltImage;
  const layerPath = (index: number): string => `/v2/app/blobs/${image.images[0]?.layers[index]}`;
  beforeEach(async () => {
    registry = await startScriptedRegistry();
    image = await build([
      { files: [file('a', randomBytes(300_000))] },
      { files: [file('b', 'b')], compression: 'zstd' },
    ]);
    await registry.serve(image, 'app', '1');
  });
  afterEach(() => registry.stop());

  interface Manifest {
    config: { digest: string; size: number };
    layers: { digest: string; size: number; mediaType: string }[];
  }
  const blobOf = (digest: string): Buffer => readFileSync(join(image.layout, 'blobs', digest.replace(':', '/')));
  /** Serves a manifest under the tag that says something else than what is there. */
  const lie = (change: (manifest: Manifest) => unknown): void => {
    const manifest = JSON.parse(
      readFileSync(join(image.layout, 'blobs', image.digest.replace(':', '/')), 'utf8'),
    ) as Manifest;
    change(manifest);
    registry.on(
      '/v2/app/manifests/1',
      answerWith(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' }, JSON.stringify(manifest)),
    );
  };

  /** Everything on disk, but what may be kept for the next try. */
  const visible = async (directory: string): Promise<string[]> =>
    (await readdir(directory, { recursive: true }))
      .filter((name) => !/registries\.conf|\.partial|unfinished/.test(name))
      .sort();

  const cases: readonly (readonly [what: string, script: () => void, code: ErrorCode, reason?: KubeletReason])[] = [
    ['resets every time', () => registry.on(layerPath(0), resetAfter(0)), 'Unavailable', 'RegistryUnavailable'],
    ['stalls', () => registry.on(layerPath(0), stallAfter(1000)), 'Unavailable', 'RegistryUnavailable'],
    ['trickles one byte at a time', () => registry.on(layerPath(0), trickle(50)), 'Unavailable', 'RegistryUnavailable'],
    ['flips a bit in a layer', () => registry.on(layerPath(0), flipBit()), 'DataLoss'],
    ['flips a bit in the config', () => registry.on(`/v2/app/blobs/${image.images[0]?.id}`, flipBit()), 'DataLoss'],
    ['sends a layer without end', () => registry.on(layerPath(1), neverEnding()), 'DataLoss'],
    ['sends a manifest without end', () => registry.on('/v2/app/manifests/1', neverEnding()), 'ResourceExhausted'],
    [
      'sends a manifest of a gigabyte',
      () =>
        registry.on(
          '/v2/app/manifests/1',
          (_request, response) => void response.writeHead(200, { 'content-length': 1 << 30 }).write('{'),
        ),
      'ResourceExhausted',
    ],
    ['sends no JSON', () => registry.on('/v2/app/manifests/1', answerWith(200, {}, '<html>')), 'InvalidArgument'],
    [
      'loops redirects',
      () => registry.on(layerPath(0), answerWith(307, { location: layerPath(0) })),
      'FailedPrecondition',
    ],
    [
      'redirects to a file',
      () => registry.on(layerPath(0), answerWith(302, { location: 'file:///etc/shadow' })),
      'FailedPrecondition',
    ],
    [
      'redirects to the cloud’s metadata',
      () => registry.on('/v2/app/manifests/1', answerWith(302, { location: 'http://169.254.169.254/latest/' })),
      'FailedPrecondition',
    ],
    ['has no such blob', () => registry.on(layerPath(1), answerWith(404)), 'NotFound'],
    [
      'is overloaded',
      () => registry.on('/v2/app/manifests/1', answerWith(429, { 'retry-after': '3600' })),
      'Unavailable',
      'RegistryUnavailable',
    ],
    [
      'is broken',
      () => registry.on('/v2/app/manifests/1', answerWith(500, { 'retry-after': '0' })),
      'Unavailable',
      'RegistryUnavailable',
    ],
    [
      'asks for a token for ever',
      () => registry.on('/v2/app/manifests/1', answerWith(401, { 'www-authenticate': 'Basic realm="x"' })),
      'Unauthenticated',
    ],
    ['has a layer larger than the manifest says', () => lie((manifest) => manifest.layers[0]!.size--), 'DataLoss'],
    ['has a layer smaller than the manifest says', () => lie((manifest) => manifest.layers[0]!.size++), 'DataLoss'],
    ['has a layer of another digest', () => lie((manifest) => (manifest.layers[0] = manifest.layers[1]!)), 'DataLoss'],
    ['has a config of another size', () => lie((manifest) => manifest.config.size--), 'DataLoss'],
    [
      'has a foreign layer that only another server has',
      () => {
        lie((manifest) =>
          Object.assign(manifest.layers[0]!, {
            mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
            urls: [`http://${registry.host}/elsewhere`],
          }),
        );
        registry.on(layerPath(0), answerWith(404, {}, ''));
        // It would do, were it asked.
        registry.on('/elsewhere', answerWith(200, {}, blobOf(image.images[0]!.layers[0]!)));
      },
      'Unimplemented',
    ],
    [
      'has 200 layers',
      () => lie((manifest) => (manifest.layers = Array.from({ length: 200 }, () => manifest.layers[0]!))),
      'ResourceExhausted',
    ],
    [
      'serves another manifest under a digest',
      () =>
        registry.on(
          `/v2/app/manifests/1`,
          answerWith(
            200,
            {},
            JSON.stringify({
              schemaVersion: 2,
              manifests: [
                {
                  mediaType: 'application/vnd.oci.image.manifest.v1+json',
                  digest: image.images[0]?.id,
                  size: 1,
                  platform: { os: 'linux', architecture: 'amd64' },
                },
              ],
            }),
          ),
        ),
      'NotFound',
    ],
  ];
  for (const [what, script, code, reason] of cases) {
    it(`${what}: ${code}, and nothing stays`, async () => {
      const { store, directory, close } = await openStore(insecure(registry.host), {
        pullProgressTimeoutMs: 1500,
        platform: { os: 'linux', architecture: 'amd64' },
      });
      const before = await visible(directory);
      script();
      expect(await outcome(store.pull(op, `${registry.host}/app:1`, {}))).to.equal(
        reason === undefined ? code : `${code} ${reason}`,
      );
      expect(store.list()).to.deep.equal([]);
      await store.sweep(op);
      const whole = (await visible(directory)).filter((name) => !before.includes(name));
      // A layer or a config that was whole may wait for the next try after a failure of the line; nothing else.
      if (code !== 'Unavailable' && code !== 'Unauthenticated')
        expect(whole.filter((name) => name !== 'layers')).to.deep.equal([]);
      registry.on('/v2/app/manifests/1', () => {}, 0);
      for (const path of [layerPath(0), layerPath(1), `/v2/app/blobs/${image.images[0]?.id}`])
        registry.on(path, () => {}, 0);
      expect((await store.pull(op, `${registry.host}/app:1`, {})).id).to.equal(image.images[0]?.id);
      await close();
    });
  }

  const hostile: readonly (readonly [what: string, files: () => LayerFile[], code: ErrorCode])[] = [
    ['climbs out', () => [file('../../../berth-evil', 'evil')], 'PermissionDenied'],
    ['links out', () => [hardlink('shadow', '../../../../etc/shadow')], 'PermissionDenied'],
    ['has a file where a directory has to be', () => [file('a', 'a'), file('a/b', 'b')], 'DataLoss'],
    ['has a name of 100 000 bytes', () => [file('n'.repeat(100_000), '')], 'ResourceExhausted'],
  ];
  for (const [what, files, code] of hostile) {
    it(`an image whose layer ${what}: ${code}, and nothing stays`, async () => {
      const evil = await build([{ files: [file('fine', 'fine')] }, { files: files() }]);
      await registry.serve(evil, 'evil', '1');
      const { store, directory, close } = await openStore(insecure(registry.host));
      const before = await visible(directory);
      expect(await outcome(store.pull(op, `${registry.host}/evil:1`, {}))).to.equal(code);
      expect(store.list()).to.deep.equal([]);
      expect((await visible(directory)).filter((name) => !before.includes(name) && name !== 'layers')).to.deep.equal(
        [],
      );
      expect((await store.pull(op, `${registry.host}/app:1`, {})).id).to.equal(image.images[0]?.id);
      await close();
    });
  }

  it('resets, but moves on each time: the layer arrives in pieces', async () => {
    registry.on(layerPath(0), resetAfter(70_000), 4);
    const { store, close } = await openStore(insecure(registry.host));
    await store.pull(op, `${registry.host}/app:1`, {});
    const ranges = registry.requests
      .filter(({ line }) => line.includes(layerPath(0)))
      .map(({ headers }) => headers.range ?? 'whole');
    // A reset may throw away what was sent last.
    expect(ranges.slice(0, 2).join()).to.match(/^whole,bytes=[1-9]\d*-$/);
    await close();
  });

  it('stalls: the next mirror goes on where it stopped', async () => {
    const slow = await startScriptedRegistry();
    await slow.serve(image, 'app', '1');
    slow.on(layerPath(0), (request, ...rest) =>
      stallAfter(request.headers.range === undefined ? 100_000 : 0)(request, ...rest),
    );
    const { store, close } = await openStore(
      `[[registry]]\nprefix = "reg.example"\nlocation = "${registry.host}"\ninsecure = ` +
        `true\n[[registry.mirror]]\nlocation = "${slow.host}"\ninsecure = true\n`,
      { pullProgressTimeoutMs: 1000 },
    );
    try {
      expect((await store.pull(op, 'reg.example/app:1', {})).repoTags).to.deep.equal(['reg.example/app:1']);
      const asked = registry.requests
        .filter(({ line }) => line.includes(layerPath(0)))
        .map(({ headers }) => headers.range);
      expect(asked).to.deep.equal(['bytes=100000-']);
    } finally {
      await close();
      await slow.stop();
    }
  });

  it('nobody listens: RegistryUnavailable at once', async () => {
    const host = `127.0.0.1:${await freePort()}`;
    const { store, close } = await openStore(insecure(host));
    expect(await outcome(store.pull(op, `${host}/x`, {}))).to.equal('Unavailable RegistryUnavailable');
    await close();
  });

  it('credentials stay at home when a blob is elsewhere', async () => {
    const elsewhere = await startScriptedRegistry();
    elsewhere.offer(
      '/blob',
      await readFile(join(image.layout, 'blobs', (image.images[0]?.layers[0] ?? '').replace(':', '/'))),
      'application/octet-stream',
    );
    registry.on('/v2/app/manifests/1', answerWith(401, { 'www-authenticate': 'Basic realm="x"' }), 1);
    registry.on(layerPath(0), answerWith(307, { location: `http://${elsewhere.host}/blob?signature=1` }));
    const { store, close } = await openStore(insecure(registry.host));
    await store.pull(op, `${registry.host}/app:1`, { auth: { ...noAuth, username: 'u', password: 'p' } });
    expect(registry.requests.at(-1)?.headers.authorization).to.match(/^Basic/);
    expect(elsewhere.requests.map(({ headers }) => headers.authorization)).to.deep.equal([undefined]);
    await close();
    await elsewhere.stop();
  });

  it('thousands of tags are one image’s names', async () => {
    const { store, close } = await openStore(insecure(registry.host));
    const manifest = await readFile(join(image.layout, 'blobs', image.digest.replace(':', '/')));
    for (let i = 0; i < 50; i++) {
      registry.offer(`/v2/app/manifests/t${i}`, manifest, 'application/vnd.oci.image.manifest.v1+json');
      await store.pull(op, `${registry.host}/app:t${i}`, {});
    }
    expect(store.list().map(({ repoTags }) => repoTags.length)).to.deep.equal([50]);
    await store.remove(op, `${registry.host}/app:t7`);
    expect(store.list()).to.deep.equal([]);
    await close();
  });
});
