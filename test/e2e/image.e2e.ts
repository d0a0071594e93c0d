/**
 * pkg/image and pkg/rootfs together on real things: Debian's docker-registry with images that skopeo pushed, and a
 * registry in this process that misbehaves as told. Each bad input ends in a typed error and leaves the store as it
 * was.
 */
import { expect } from 'chai';
import { execFile, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { AuthConfig } from '../../pkg/cri-api/types.ts';
import type { ErrorCode, KubeletReason } from '../../pkg/base/errors.ts';
import { hexOf } from '../../pkg/base/ids.ts';
import { limits } from '../../pkg/base/limits.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { buildIndex, busybox, dir, file, hardlink, opaque, push, whiteout } from './images.ts';
import type { BuiltImage, LayerFile, LayerPlan } from './images.ts';
import {
  answerWith,
  flipBit,
  freePort,
  isListening,
  neverEnding,
  resetAfter,
  stallAfter,
  startRegistry,
  startScriptedRegistry,
  trickle,
} from './registry.ts';
import type { RunningRegistry, ScriptedRegistry } from './registry.ts';
import { insecure, layerTree, outcome, StoreGround } from './stores.ts';

const run = promisify(execFile);
const op = backgroundOp(silent);
const noAuth: AuthConfig = {
  username: '',
  password: '',
  auth: '',
  serverAddress: '',
  identityToken: '',
  registryToken: '',
};

describe('images, end to end', function () {
  this.timeout(120_000);
  let stores: StoreGround;
  let ground: string;
  before(async () => {
    stores = await StoreGround.make();
    ground = stores.directory;
  });
  after(() => stores.remove());

  const fresh = (what: string): string => stores.fresh(what);
  const build = (layers: readonly LayerPlan[], config = {}): Promise<BuiltImage> => stores.build(layers, config);
  const openStore: StoreGround['open'] = (...args) => stores.open(...args);

  describe('a real registry', () => {
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

  describe('who we are', () => {
    it('names and passwords (htpasswd), in every way CRI gives them', async () => {
      const registry = await startRegistry(ground, { login: { user: 'user', password: 'pa:ss' } });
      const { store, close } = await openStore(insecure(registry.host));
      try {
        await push(await build([{ files: [file('x', 'secret')] }]), `${registry.host}/private:1`, {
          credentials: 'user:pa:ss',
        });
        const pull = (auth: Partial<AuthConfig>): Promise<string> =>
          outcome(store.pull(op, `${registry.host}/private:1`, { auth: { ...noAuth, ...auth } }));
        expect(await pull({})).to.equal('Unauthenticated');
        expect(await pull({ username: 'user', password: 'wrong' })).to.equal('Unauthenticated');
        expect(await pull({ username: 'user', password: 'pa:ss' })).to.equal('undefined');
        expect(
          await pull({
            auth: Buffer.from('user:pa:ss\0\0').toString('base64').replace(/=+$/, ''),
            serverAddress: `http://${registry.host}`,
          }),
        ).to.equal('undefined');
        expect(await pull({ username: 'user', password: 'pa:ss', serverAddress: 'other.example' })).to.equal(
          'Unauthenticated',
        );
      } finally {
        await close();
        await registry.stop();
      }
    });

    it('TLS: refused with the remedy, taken with the CA in certs.d, taken unchecked when marked insecure', async () => {
      const registry = await startRegistry(ground, { tls: true });
      try {
        await push(await build([{ files: [file('x', 'tls')] }]), `${registry.host}/tls:1`);
        const reference = `${registry.host}/tls:1`;
        const strict = await openStore('');
        const error: unknown = await strict.store.pull(op, reference, {}).catch((each: unknown) => each);
        expect(error).to.include({ code: 'Unavailable', reason: 'RegistryUnavailable' });
        expect(error).to.have.property('message').that.contains('certs.d');
        const certs = join(strict.directory, 'certs.d', registry.host);
        await mkdir(certs, { recursive: true });
        await writeFile(join(certs, 'ca.crt'), await readFile(registry.caFile ?? ''));
        expect((await strict.store.pull(op, reference, {})).repoTags).to.deep.equal([reference]);
        await strict.close();
        const lax = await openStore(insecure(registry.host));
        await lax.store.pull(op, reference, {});
        await lax.close();
      } finally {
        await registry.stop();
      }
    });

    it('a token server: one token for the pull, another one when it is gone', async () => {
      const registry = await startScriptedRegistry();
      let [tokens, valid] = [0, ''];
      const server = createServer((request, response) => {
        const basic = `Basic ${Buffer.from('user:pass').toString('base64')}`;
        if (request.headers.authorization !== basic) return void response.writeHead(401).end();
        valid = `t${++tokens}`;
        response.end(JSON.stringify({ token: valid, expires_in: 300 }));
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const realm = `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`;
      const image = await build([{ files: [file('x', 'token')] }, { files: [file('y', 'token')] }]);
      await registry.serve(image, 'private', '1');
      for (const path of [
        'manifests/1',
        ...[image.images[0]?.id, ...(image.images[0]?.layers ?? [])].map((digest) => `blobs/${digest}`),
      ]) {
        registry.on(`/v2/private/${path}`, (request, response, normal) => {
          if (request.headers.authorization === `Bearer ${valid}`)
            answerWith(normal.status, normal.headers, normal.body)(request, response, normal);
          else
            answerWith(401, { 'www-authenticate': `Bearer realm="${realm}",service="test"` })(
              request,
              response,
              normal,
            );
        });
      }
      const { store, close } = await openStore(insecure(registry.host));
      try {
        const pull = (auth: Partial<AuthConfig>): Promise<string> =>
          outcome(store.pull(op, `${registry.host}/private:1`, { auth: { ...noAuth, ...auth } }));
        expect(await pull({})).to.equal('Unauthenticated');
        expect(await pull({ username: 'user', password: 'pass' })).to.equal('undefined');
        expect(tokens).to.equal(1);
        valid = 'revoked';
        await store.remove(op, `${registry.host}/private:1`);
        expect(await pull({ username: 'user', password: 'pass' })).to.equal('undefined');
        expect(tokens).to.equal(2);
        expect(registry.requests.every(({ headers }) => !(headers.authorization ?? '').startsWith('Basic'))).to.equal(
          true,
        );
      } finally {
        await close();
        server.close();
        await registry.stop();
      }
    });
  });

  describe('a registry that misbehaves', () => {
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
      [
        'trickles one byte at a time',
        () => registry.on(layerPath(0), trickle(50)),
        'Unavailable',
        'RegistryUnavailable',
      ],
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
      [
        'has a layer smaller than the manifest says',
        () => lie((manifest) => manifest.layers[0]!.size++),
        'Unavailable',
        'RegistryUnavailable',
      ],
      [
        'has a layer of another digest',
        () => lie((manifest) => (manifest.layers[0] = manifest.layers[1]!)),
        'DataLoss',
      ],
      ['has a config of another size', () => lie((manifest) => manifest.config.size--), 'DataLoss'],
      [
        'has a foreign layer',
        () =>
          lie(
            (manifest) => (manifest.layers[0]!.mediaType = 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip'),
          ),
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
      slow.on(layerPath(0), stallAfter(100_000));
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

  describe('a disk that fails', () => {
    let registry: ScriptedRegistry;
    before(async () => (registry = await startScriptedRegistry()));
    after(() => registry.stop());

    it('full: ResourceExhausted, what is there can be used and removed, and then there is room again', async () => {
      const [small, large] = [
        await build([{ files: [file('s', randomBytes(300_000))] }]),
        await build([{ files: [file('l', randomBytes(1_800_000))] }]),
      ];
      await registry.serve(small, 'small', '1');
      await registry.serve(large, 'large', '1');
      const directory = fresh('full');
      await mkdir(directory);
      await run('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'berth-image-test', directory]);
      try {
        const { store, close } = await openStore(insecure(registry.host), {}, directory);
        await store.pull(op, `${registry.host}/small:1`, {});
        expect(await outcome(store.pull(op, `${registry.host}/large:1`, {}))).to.equal('ResourceExhausted');
        expect(store.list()).to.have.length(1);
        expect(await store.check(op, 'report')).to.deep.equal([]);
        await writeFile(join(directory, 'filler'), Buffer.alloc(3_000_000)).catch(() => {});
        expect(await outcome(store.pull(op, `${registry.host}/large:1`, {}))).to.equal('ResourceExhausted');
        await store.remove(op, `${registry.host}/small:1`);
        expect(store.list()).to.deep.equal([]);
        await rm(join(directory, 'filler'));
        await store.pull(op, `${registry.host}/small:1`, {});
        await close();
      } finally {
        await run('umount', [directory]);
      }
    });

    it('full at any point: a typed error, nothing half there, and what was there stays', async () => {
      const [first, second] = [
        await build([{ files: [file('s', 'small')] }]),
        await build([
          {
            files: [file('one', randomBytes(400_000)), ...Array.from({ length: 60 }, (_, i) => file(`f${i}`, `${i}`))],
          },
          { files: [file('two', randomBytes(300_000))], compression: 'zstd' },
        ]),
      ];
      await registry.serve(first, 'first', '1');
      await registry.serve(second, 'second', '1');
      const outcomes: string[] = [];
      const sizes = Array.from({ length: 14 }, (_, i) => `size=${96 + i * 144}k`);
      const inodes = Array.from({ length: 9 }, (_, i) => `size=64m,nr_inodes=${24 + i * 14}`);
      for (const bound of [...sizes, ...inodes]) {
        const directory = fresh('tight');
        await mkdir(directory);
        await run('mount', ['-t', 'tmpfs', '-o', bound, 'berth-image-test', directory]);
        try {
          const { store, rootfs, close } = await openStore(insecure(registry.host), {}, directory);
          const here = await outcome(store.pull(op, `${registry.host}/first:1`, {}));
          const before = store.list().map(({ id }) => id);
          const got = await outcome(store.pull(op, `${registry.host}/second:1`, {}));
          outcomes.push(here, got);
          expect(
            store.list().map(({ id }) => id),
            bound,
          ).to.deep.equal(got === 'undefined' ? [...before, second.images[0]?.id] : before);
          expect(await store.check(op, 'report'), bound).to.deep.equal([]);
          await close();
          // What the next life finds.
          const next = await openStore(insecure(registry.host), {}, directory).catch((error: unknown) => String(error));
          if (typeof next === 'string') expect(next, bound).to.match(/ENOSPC/);
          else {
            expect(next.store.list().length, bound).to.equal(store.list().length);
            await next.store.sweep(op);
            expect((await rootfs.listLayers()).length, bound).to.equal(
              next.store.list().reduce((sum, { layers }) => sum + layers.length, 0),
            );
            for (const { id } of next.store.list()) await next.store.remove(op, id);
            expect(await readdir(join(directory, 'layers')), bound).to.deep.equal([]);
            await next.close();
          }
        } finally {
          await run('umount', [directory]);
        }
      }
      expect([...new Set(outcomes)].sort()).to.deep.equal(['ResourceExhausted', 'undefined']);
      expect(outcomes.at(-1), 'the largest is large enough').to.equal('undefined');
    });

    it('read-only: a clear error, and images that are there stay usable', async () => {
      const image = await build([{ files: [file('s', 's')] }]);
      const other = await build([{ files: [file('t', 't')] }]);
      await registry.serve(image, 'one', '1');
      await registry.serve(other, 'two', '1');
      const directory = fresh('readonly');
      await mkdir(directory);
      await run('mount', ['-t', 'tmpfs', 'berth-image-test', directory]);
      try {
        const { store, close } = await openStore(insecure(registry.host), {}, directory);
        await store.pull(op, `${registry.host}/one:1`, {});
        await run('mount', ['-o', 'remount,ro', directory]);
        expect(await outcome(store.pull(op, `${registry.host}/two:1`, {}))).to.equal('FailedPrecondition');
        expect(store.find(`${registry.host}/one:1`)?.id).to.equal(image.images[0]?.id);
        expect(await store.check(op, 'report')).to.deep.equal([]);
        await close();
      } finally {
        await run('umount', [directory]);
      }
    });
  });

  describe('kill -9', () => {
    const child = (directory: string, registries: string, mode: 'churn' | 'pull', references: readonly string[]) =>
      spawn(
        process.execPath,
        [join(import.meta.dirname, 'image-child.ts'), directory, registries, mode, ...references],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      );

    it('in the middle of a layer: the next life asks for the rest only', async () => {
      const registry = await startScriptedRegistry();
      const image = await build([{ files: [file('a', randomBytes(3_000_000))], compression: 'none' }]);
      await registry.serve(image, 'app', '1');
      const path = `/v2/app/blobs/${image.images[0]?.layers[0]}`;
      registry.on(path, stallAfter(2_000_000), 1);
      const { directory } = await openStore(insecure(registry.host));
      const victim = child(directory, join(directory, 'registries.conf'), 'pull', [`${registry.host}/app:1`]);
      const partial = join(directory, 'blobs/.partial', (image.images[0]?.layers[0] ?? '').replace(':', '-'));
      while (((await stat(partial).catch(() => undefined))?.size ?? 0) < 1_000_000)
        await new Promise((resolve) => setTimeout(resolve, 20));
      victim.kill('SIGKILL');
      await once(victim, 'exit');
      const kept = (await stat(partial)).size;
      const { store, close } = await openStore(insecure(registry.host), {}, directory);
      await store.sweep(op);
      await store.pull(op, `${registry.host}/app:1`, {});
      expect(
        registry.requests.filter(({ line }) => line.includes(path)).map(({ headers }) => headers.range),
      ).to.deep.equal([undefined, `bytes=${kept}-`]);
      await close();
      await registry.stop();
    });

    it(
      'at random moments of parallel pulls and removes: never a partial layer, never an orphan, ' +
        'and the next pull works',
      async function () {
        const kills = Number(process.env['BERTH_KILLS'] ?? '8');
        this.timeout(60_000 + kills * 5000);
        const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
        let state = seed;
        const random = (n: number): number => (state = (state * 1103515245 + 12345) & 0x7fffffff) % n;
        const registry = await startRegistry(ground);
        const shared = {
          files: [
            file('shared', randomBytes(2_000_000)),
            ...Array.from({ length: 300 }, (_, i) => file(`f${i}`, `${i}`)),
          ],
        };
        const references: string[] = [];
        for (const name of ['a', 'b', 'c']) {
          await push(
            await build([
              shared,
              { files: [file(name, randomBytes(500_000))] },
              { files: [dir('etc'), file('etc/name', name)], compression: 'zstd' },
            ]),
            `${registry.host}/${name}:1`,
          );
          references.push(`${registry.host}/${name}:1`);
        }
        const { directory } = await openStore(insecure(registry.host));
        try {
          const met = { partialBlobs: 0, partialLayers: 0, records: 0, keptLayers: 0 };
          for (let i = 0; i < kills; i++) {
            const victim = child(directory, join(directory, 'registries.conf'), 'churn', references);
            await once(victim.stdout, 'data');
            await new Promise((resolve) => setTimeout(resolve, random(700)));
            victim.kill('SIGKILL');
            await once(victim, 'exit');
            met.partialBlobs += (await readdir(join(directory, 'blobs/.partial'))).length;
            met.partialLayers += (await readdir(join(directory, 'layers'))).filter((name) =>
              name.startsWith('.tmp-'),
            ).length;
            const { store, rootfs, close } = await openStore(
              insecure(registry.host),
              { keepUnfinishedMs: i % 2 === 0 ? 0 : limits.partialKeepMs },
              directory,
            );
            const where = `seed ${seed}, kill ${i}`;
            expect(await store.check(op, 'report'), where).to.deep.equal([]);
            await store.sweep(op);
            const needed = new Set(store.list().flatMap(({ layers }) => layers.map(({ chainId }) => chainId)));
            if (i % 2 === 0) {
              expect(
                (await rootfs.listLayers()).filter((layer) => !needed.has(layer)),
                where,
              ).to.deep.equal([]);
              expect(
                (await readdir(join(directory, 'layers')).catch(() => [] as string[])).sort(),
                where,
              ).to.deep.equal([...needed].map(hexOf).sort());
              expect((await readdir(join(directory, 'blobs/sha256'))).length, where).to.equal(store.list().length * 2);
            }
            met.records += store.list().length;
            const complete = await Promise.all(
              (await rootfs.listLayers()).map(
                async (chainId) =>
                  [hexOf(chainId), (await stat(join(directory, 'layers', hexOf(chainId)))).ino] as const,
              ),
            );
            const [pulled] = await Promise.all(references.map((reference) => store.pull(op, reference, {})));
            expect(await store.check(op, 'report'), where).to.deep.equal([]);
            expect(await readFile(join(layerTree(directory, pulled!, 2), 'etc/name'), 'utf8'), where).to.equal('a');
            // What was complete is used again, not made again.
            met.keptLayers += complete.length;
            for (const [name, ino] of complete)
              expect((await stat(join(directory, 'layers', name))).ino, where).to.equal(ino);
            if (i % 3 === 0) for (const reference of references) await store.remove(op, reference);
            await close();
          }
          if (process.env['BERTH_KILLS'] !== undefined)
            console.log(`seed ${seed}, ${kills} kills: ${JSON.stringify(met)}`);
        } finally {
          await registry.stop();
        }
      },
    );
  });
});
