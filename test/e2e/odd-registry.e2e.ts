/**
 * Images as the world has them: a registry that is odd in one way at a time, each seen with a real one. Berth pulls all
 * of them, and so whatever skopeo pulls. `BERTH_ODD_PEERS=containerd` asks Debian's containerd, too (scripts/setup.sh
 * bench installs it).
 */
import { expect } from 'chai';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { explain } from '../../pkg/base/errors.ts';
import { file } from './images.ts';
import type { Fault } from './odd-faults.ts';
import { Containerd } from './odd-peers.ts';
import { digestOf, LOGIN, OddRegistry, PLAIN } from './odd-registry.ts';
import type { Mood, OddImage } from './odd-registry.ts';
import { insecure, StoreGround } from './stores.ts';

const run = promisify(execFile);
const op = backgroundOp(silent);
const RETRIED: Fault['what'] = { kind: 'status', status: 429, headers: { 'retry-after': '1' } };
/** `large` has a layer above the size from which it is fetched in ranges. */
type Size = 'small' | 'large';
type Edit = (document: Record<string, unknown>) => void;

/** One oddity: of the registry, of the manifest, of the config. */
interface Oddity {
  readonly mood?: Partial<Mood>;
  readonly manifest?: Edit;
  readonly config?: Edit;
  readonly size?: Size;
}

const DOCKER = 'application/vnd.docker.distribution.manifest.v2+json';
const typed =
  (mediaType: string): Edit =>
  (manifest) =>
    ((manifest['config'] as Record<string, unknown>)['mediaType'] = mediaType);

const layered =
  (mediaType: string): Edit =>
  (manifest) => {
    for (const layer of manifest['layers'] as Record<string, unknown>[]) layer['mediaType'] = mediaType;
  };
const status = (code: number): Extract<Fault['what'], { readonly kind: 'status' }> => ({
  kind: 'status',
  status: code,
  headers: {},
});

const ODDITIES: Readonly<Record<string, Oddity>> = {
  'nothing odd': {},
  'manifests in gzip': { mood: { manifestCoding: 'gzip' } },
  'manifests and configs in gzip': { mood: { manifestCoding: 'gzip', blobCoding: 'gzip' } },
  'manifests in zstd': { mood: { manifestCoding: 'zstd' } },
  'manifests said to be in gzip': { mood: { manifestCoding: 'gzip, said only' } },
  'a coding that is none': { mood: { manifestCoding: 'utf-8, said only', blobCoding: 'utf-8, said only' } },
  'a coding that is none, and no length': {
    mood: { manifestCoding: 'utf-8, said only', blobCoding: 'utf-8, said only', chunked: true },
  },
  'headers of 100 KB': { mood: { headerBytes: 100_000 } },
  'nothing with a length': { mood: { chunked: true } },
  'no digest in a header': { mood: { digestHeader: 'missing' } },
  'an empty digest in a header': { mood: { digestHeader: 'empty' } },
  'HEAD refused': { mood: { head: 405 } },
  'HEAD not found': { mood: { head: 404 } },
  'a password': { mood: { auth: 'basic' } },
  'a token': { mood: { auth: 'bearer' } },
  'a token called access_token': { mood: { auth: 'bearer', token: '{"access_token":"TOKEN"}' } },
  'an empty token beside access_token': { mood: { auth: 'bearer', token: '{"token":"","access_token":"TOKEN"}' } },
  'a null token beside access_token': { mood: { auth: 'bearer', token: '{"token":null,"access_token":"TOKEN"}' } },
  'a repository hidden from strangers': { mood: { auth: 'hidden' } },
  'blobs in a store': { mood: { redirect: { status: 307, hops: 1, to: 'store' } } },
  'blobs in a store, behind a token': { mood: { auth: 'bearer', redirect: { status: 302, hops: 2, to: 'store' } } },
  'blobs elsewhere on itself': { mood: { redirect: { status: 307, hops: 1, to: 'itself' } } },
  'ranges ignored': { mood: { ranges: 'ignored' }, size: 'large' },
  'ranges answered 400': { mood: { ranges: 'refused 400' }, size: 'large' },
  'ranges answered 416': { mood: { ranges: 'refused 416' }, size: 'large' },
  'ranges answered 501': { mood: { ranges: 'refused 501' }, size: 'large' },
  'ranges answered with another part': { mood: { ranges: 'wrong part' }, size: 'large' },
  'ranges without a Content-Range': { mood: { ranges: 'part unsaid' }, size: 'large' },
  'ranges answered in part': { mood: { ranges: 'shorter part' }, size: 'large' },
  'a busy registry': { mood: { faults: [{ where: 'manifest', times: 1, what: RETRIED }] } },
  'a busy store': { mood: { faults: [{ where: 'layer', times: 2, what: RETRIED }] } },
  'a busy token server': { mood: { auth: 'bearer', faults: [{ where: 'token', times: 1, what: RETRIED }] } },
  'a blob that breaks off': {
    mood: { faults: [{ where: 'layer', times: 1, what: { kind: 'cut', afterBytes: 5_000 } }] },
  },
  'docker’s type for OCI’s manifest': { mood: { contentType: DOCKER } },
  'a docker manifest served as OCI’s': { manifest: (document) => (document['mediaType'] = DOCKER) },
  'application/json for the manifest': { mood: { contentType: 'application/json' } },
  'no type for the manifest': { mood: { contentType: '' } },
  'a type with a charset': { mood: { contentType: `${PLAIN.contentType}; charset=utf-8` } },
  'a config of type text/html': { manifest: typed('text/html') },
  'a config of type application/json': { manifest: typed('application/json') },
  'a config of no type': { manifest: typed('') },
  'a config of type octet-stream': { manifest: typed('application/octet-stream') },
  'null in the config': {
    config: (document) => (document['config'] = { Env: null, Labels: { a: null }, Cmd: [null], Volumes: null }),
  },
  'the config’s names in lower case': {
    config: (document) => (document['config'] = { env: ['A=b'], cmd: ['sh'], labels: { a: 'b' } }),
  },
  x86_64: { config: (document) => (document['architecture'] = 'x86_64') },
  // Their siblings.
  'manifests in x-gzip': { mood: { manifestCoding: 'x-gzip' } },
  'manifests and configs in deflate': { mood: { manifestCoding: 'deflate', blobCoding: 'deflate' } },
  'a wrong digest in a header': { mood: { digestHeader: 'wrong' } },
  'HEAD forbidden': { mood: { head: 403 } },
  'HEAD answered 500': { mood: { head: 500 } },
  'a token in capitals': { mood: { auth: 'bearer', token: '{"TOKEN":"","Access_Token":"TOKEN"}' } },
  'a token that lives for a text': { mood: { auth: 'bearer', token: '{"token":"TOKEN","expires_in":"300"}' } },
  'a token that lives for null': {
    mood: { auth: 'bearer', token: '{"token":"TOKEN","expires_in":null,"issued_at":""}' },
  },
  'blobs moved for good': { mood: { redirect: { status: 308, hops: 3, to: 'store' } } },
  'blobs to be seen elsewhere': { mood: { redirect: { status: 303, hops: 1, to: 'store' } } },
  'ranges forbidden': { mood: { ranges: 'refused 403' }, size: 'large' },
  'ranges answered 500': { mood: { ranges: 'refused 500' }, size: 'large' },
  'a reset for a manifest': { mood: { faults: [{ where: 'manifest', times: 1, what: { kind: 'reset' } }] } },
  'a reset for a token': { mood: { auth: 'bearer', faults: [{ where: 'token', times: 1, what: { kind: 'reset' } }] } },
  'a registry that restarts': { mood: { faults: [{ where: 'config', times: 2, what: status(502) }] } },
  'a store that has too much to do': { mood: { faults: [{ where: 'layer', times: 2, what: status(503) }] } },
  'a blob that ends early': {
    mood: { faults: [{ where: 'layer', times: 1, what: { kind: 'end early', afterBytes: 5_000 } }] },
  },
  'a page for a busy registry': {
    mood: { faults: [{ where: 'manifest', times: 1, what: { ...status(503), headers: { 'retry-after': '' } } }] },
  },
  'null in the manifest': {
    manifest: (document) => Object.assign(document, { annotations: null, subject: null, artifactType: '' }),
  },
  'no type in the manifest': { manifest: (document) => (document['mediaType'] = '') },
  'a layer of docker’s type': { manifest: layered('application/vnd.docker.image.rootfs.diff.tar.gzip') },
  'a layer that is said to be plain': { manifest: layered('application/vnd.oci.image.layer.v1.tar') },
  'a layer that is said to be in zstd': { manifest: layered('application/vnd.oci.image.layer.v1.tar+zstd') },
  'a foreign layer that is here': { manifest: layered('application/vnd.docker.image.rootfs.foreign.diff.tar.gzip') },
  'a layer that is not to be distributed': {
    manifest: layered('application/vnd.oci.image.layer.nondistributable.v1.tar+gzip'),
  },
  'no schemaVersion': { manifest: (document) => (document['schemaVersion'] = 0) },
  'no sizes': {
    manifest: (document) => {
      for (const layer of document['layers'] as Record<string, unknown>[]) layer['size'] = 0;
    },
  },
  'an image that says it is for darwin': { config: (document) => (document['os'] = 'darwin') },
  'null all over the config': {
    config: (document) =>
      Object.assign(document, {
        ...{ created: null, author: null, history: null, variant: null, 'os.version': null, 'os.features': null },
        config: Object.fromEntries(
          'User Entrypoint WorkingDir StopSignal ExposedPorts Healthcheck OnBuild Shell ArgsEscaped'
            .split(' ')
            .map((name) => [name, null]),
        ),
      }),
  },
  'no config in the config': { config: (document) => (document['config'] = null) },
  'the config’s names in capitals': {
    config: (document) => {
      const { architecture, os, rootfs } = document;
      for (const name of Object.keys(document)) delete document[name];
      Object.assign(document, { ARCHITECTURE: architecture, Os: os, RootFS: rootfs, Config: { CMD: ['sh'] } });
    },
  },
};

describe('an odd registry', function () {
  this.timeout(120_000);
  const peers = (process.env['BERTH_ODD_PEERS'] ?? '').split(',');
  const images = new Map<Size, OddImage>();
  let stores: StoreGround;
  let containerd: Containerd | undefined;

  before(async () => {
    stores = await StoreGround.make();
    // The contents do not compress, so that the layer is as large as its file.
    const noise = Buffer.allocUnsafe(70 << 20);
    for (let at = 0, seed = 1; at < noise.length; at += 4) {
      seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
      noise.writeUInt32LE(seed, at);
    }
    for (const [size, content] of [
      ['small', Buffer.from(noise.subarray(0, 20_000))],
      ['large', noise],
    ] as const) {
      const built = await stores.build([{ files: [file('noise', content)] }], { Cmd: ['sh'] });
      const blob = (digest: string): Promise<Buffer> => readFile(join(built.layout, 'blobs', digest.replace(':', '/')));
      const [own] = built.images;
      if (own === undefined) throw new Error('no image was built');
      images.set(size, {
        manifest: await blob(own.manifest),
        config: await blob(own.id),
        layers: await Promise.all(own.layers.map(blob)),
      });
    }
    if (peers.includes('containerd')) containerd = await Containerd.start(stores.fresh('containerd'));
  });
  after(async () => {
    await containerd?.stop();
    await stores.remove();
  });

  const start = async ({ mood = {}, manifest, config, size = 'small' }: Oddity): Promise<OddRegistry> => {
    const image = images.get(size);
    if (image === undefined) throw new Error('no such image');
    return await OddRegistry.start(edited(image, manifest, config), { ...PLAIN, ...mood });
  };
  const berth = async (odd: OddRegistry, mood: Partial<Mood>): Promise<string> => {
    const { store, close } = await stores.open(insecure(odd.host));
    const auth = { ...LOGIN, auth: '', serverAddress: '', identityToken: '', registryToken: '' };
    try {
      return (await store.pull(op, odd.reference, (mood.auth ?? 'none') === 'none' ? {} : { auth })).id;
    } catch (error) {
      return explain(error);
    } finally {
      await close();
    }
  };
  const skopeo = async (odd: OddRegistry, mood: Partial<Mood>): Promise<boolean> => {
    const login = (mood.auth ?? 'none') === 'none' ? [] : ['--src-creds', `${LOGIN.username}:${LOGIN.password}`];
    const to = `oci:${stores.fresh('copy')}:v1`;
    const args = [
      '--insecure-policy',
      'copy',
      '-q',
      '--src-tls-verify=false',
      ...login,
      `docker://${odd.reference}`,
      to,
    ];
    return await run('skopeo', args, { timeout: 60_000 }).then(
      () => true,
      () => false,
    );
  };

  const containerdPulls = async (oddity: Oddity): Promise<boolean> => {
    const odd = await start(oddity);
    try {
      return (
        (await containerd?.pulls(odd.reference, (oddity.mood?.auth ?? 'none') === 'none' ? undefined : LOGIN)) === true
      );
    } finally {
      await odd.stop();
    }
  };

  for (const [name, oddity] of Object.entries(ODDITIES))
    it(`${name}: pulled`, async () => {
      const { mood = {} } = oddity;
      const [own, theirs] = [await start(oddity), await start(oddity)];
      try {
        const image = images.get(oddity.size ?? 'small');
        const outcome = await berth(own, mood);
        const others = {
          skopeo: await skopeo(theirs, mood),
          ...(containerd === undefined ? {} : { containerd: await containerdPulls(oddity) }),
        };
        // A peer that pulls nothing at all would compare to nothing.
        if (name === 'nothing odd') expect(Object.values(others)).to.not.include(false);
        const config = image === undefined ? '' : digestOf(edited(image, oddity.manifest, oddity.config).config);
        expect(outcome, `who pulls it: ${JSON.stringify(others)}`).to.equal(config);
        if (process.env['BERTH_ODD_SHOW'] !== undefined) console.log(`        ${JSON.stringify(others)}`);
      } finally {
        await Promise.all([own.stop(), theirs.stop()]);
      }
    });

  it('what is two things at once, and what is no image, is refused by its name', async () => {
    const rows: readonly (readonly [Oddity, RegExp])[] = [
      [{ manifest: (document) => (document['manifests'] = []) }, /an index and an image at once \(CVE-2021-41190\)/],
      [{ mood: { contentType: 'application/vnd.oci.image.index.v1+json' } }, /served as .*CVE-2021-41190/],
    ];
    for (const [oddity, why] of rows) {
      const odd = await start(oddity);
      expect(await berth(odd, {})).to.match(why);
      await odd.stop();
    }
  });
});

/** The image with changes, and with digests that fit again. */
function edited(image: OddImage, manifest: Edit = () => {}, config: Edit = () => {}): OddImage {
  const configDocument = JSON.parse(image.config.toString()) as Record<string, unknown>;
  config(configDocument);
  const configBytes = Buffer.from(JSON.stringify(configDocument));
  const document = JSON.parse(image.manifest.toString()) as Record<string, unknown>;
  Object.assign(document['config'] as object, { digest: digestOf(configBytes), size: configBytes.length });
  manifest(document);
  return { manifest: Buffer.from(JSON.stringify(document)), config: configBytes, layers: image.layers };
}
