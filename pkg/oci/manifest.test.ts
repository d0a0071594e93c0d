import { expect } from 'chai';
import { describeEmptiness } from '../base/fake-emptiness.ts';
import { digestOf } from './digest.ts';
import { parseManifest } from './manifest.ts';
import { mediaTypes } from './media-types.ts';

const D = digestOf('x');
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const config = { mediaType: mediaTypes.ociConfig, digest: D, size: 10 };
const layer = { mediaType: mediaTypes.ociLayerGzip, digest: D, size: 20 };
const manifest = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: [layer] };

/** Name, document, content type, why it is refused, by which code. */
const REFUSED: readonly (readonly [string, unknown, string, RegExp, string])[] = [
  ['both kinds', { ...manifest, manifests: [] }, '', /at once/, 'InvalidArgument'],
  ['served as another', manifest, mediaTypes.ociIndex, /served as .*its content is an image/, 'InvalidArgument'],
  [
    'type lies',
    { ...manifest, mediaType: mediaTypes.ociIndex },
    '',
    /says it is .*its content is an image/,
    'InvalidArgument',
  ],
  ['schema 1', { schemaVersion: 1, fsLayers: [] }, '', /schema 1/, 'Unimplemented'],
  ['schema 1 by its layers', { fsLayers: [] }, '', /schema 1/, 'Unimplemented'],
  ['schema 3', { ...manifest, schemaVersion: 3 }, '', /schemaVersion "3"/, 'InvalidArgument'],
  ['schema as text', { ...manifest, schemaVersion: '2' }, '', /schemaVersion/, 'InvalidArgument'],
  ['two spellings', { ...manifest, Layers: [] }, '', /"Layers" in two spellings/, 'InvalidArgument'],
  ['both kinds in two cases', { ...manifest, MANIFESTS: [] }, '', /at once/, 'InvalidArgument'],
  ['both kinds, one as text', { ...manifest, manifests: '' }, '', /at once/, 'InvalidArgument'],
  [
    'an index called an image',
    { schemaVersion: 2, manifests: [] },
    mediaTypes.ociManifest,
    /an index/,
    'InvalidArgument',
  ],
  ['nothing', { schemaVersion: 2 }, '', /not an object/, 'InvalidArgument'],
  ['unknown type', { ...manifest, mediaType: 'application/x' }, '', /not images/, 'Unimplemented'],
  ['layers no list', { ...manifest, layers: {} }, '', /layers/, 'InvalidArgument'],
  [
    'chart as layer',
    { ...manifest, layers: [{ ...layer, mediaType: 'application/vnd.cncf.helm.chart.content.v1.tar+gzip' }] },
    '',
    /not a file system layer/,
    'Unimplemented',
  ],
  ['no config', { ...manifest, config: undefined }, '', /not an object/, 'InvalidArgument'],
  [
    'digest a path',
    { ...manifest, layers: [{ ...layer, digest: 'sha256:../../../../etc/x' }] },
    '',
    /for a digest/,
    'InvalidArgument',
  ],
  [
    'config of sha512',
    { ...manifest, config: { ...config, digest: digestOf('x', 'sha512') } },
    '',
    /the config has the digest "sha512:[0-9a-f]+…"; the ID of an image is a sha256 digest: push it again/,
    'Unimplemented',
  ],
  ['digest empty', { ...manifest, layers: [{ ...layer, digest: 'sha256:' }] }, '', /for a digest/, 'InvalidArgument'],
  [
    'digest upper case',
    { ...manifest, config: { ...config, digest: D.toUpperCase() } },
    '',
    /for a digest/,
    'InvalidArgument',
  ],
  [
    'digest short',
    { ...manifest, config: { ...config, digest: D.slice(0, -1) } },
    '',
    /for a digest/,
    'InvalidArgument',
  ],
  ['size negative', { ...manifest, layers: [{ ...layer, size: -1 }] }, '', /number of bytes/, 'InvalidArgument'],
  ['size a fraction', { ...manifest, layers: [{ ...layer, size: 1.5 }] }, '', /number of bytes/, 'InvalidArgument'],
  ['size a string', { ...manifest, layers: [{ ...layer, size: '1' }] }, '', /number of bytes/, 'InvalidArgument'],
  ['size past 2^53', { ...manifest, layers: [{ ...layer, size: 2 ** 60 }] }, '', /number of bytes/, 'InvalidArgument'],
  [
    'too many layers',
    { ...manifest, layers: Array.from({ length: 129 }, () => layer) },
    '',
    /129 layers/,
    'ResourceExhausted',
  ],
  [
    'encrypted',
    { ...manifest, layers: [{ ...layer, mediaType: `${mediaTypes.ociLayerGzip}+encrypted` }] },
    '',
    /encrypted/,
    'Unimplemented',
  ],
  ['a list', [], '', /not a JSON object/, 'InvalidArgument'],
  ['annotations', { ...manifest, annotations: { a: 1 } }, '', /annotations/, 'InvalidArgument'],
];

describe('oci/manifest', () => {
  it('reads OCI and docker manifests', () => {
    const oci = parseManifest(json(manifest), `${mediaTypes.ociManifest}; charset=utf-8`);
    expect(oci).to.deep.include({ kind: 'manifest', mediaType: mediaTypes.ociManifest });
    if (oci.kind === 'manifest') {
      expect(oci.config.size).to.equal(10n);
      expect(oci.layers.map((each) => each.size)).to.deep.equal([20n]);
    }
    const docker = {
      ...manifest,
      mediaType: mediaTypes.dockerManifest,
      config: { ...config, mediaType: mediaTypes.dockerConfig },
      layers: [{ ...layer, mediaType: mediaTypes.dockerLayerGzip }],
    };
    expect(parseManifest(json(docker), 'application/json').mediaType).to.equal(mediaTypes.dockerManifest);
    const untyped = { schemaVersion: 2, config, layers: [] };
    expect(parseManifest(json(untyped), '').kind).to.equal('manifest');
    expect(parseManifest(json({ schemaVersion: 2, manifests: [] }), '').kind).to.equal('index');
  });

  it('takes layers that need not be in the registry, and a schemaVersion that is not set', () => {
    for (const type of [
      'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
      'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
      'application/vnd.oci.image.layer.nondistributable.v1.tar+zstd',
    ]) {
      const foreign = { ...layer, mediaType: type, urls: ['http://evil'] };
      expect(parseManifest(json({ ...manifest, schemaVersion: 0, layers: [foreign] }), '').kind).to.equal('manifest');
    }
  });

  it('refuses ambiguous, damaged and unfit documents', () => {
    for (const [name, document, type, why, code] of REFUSED) {
      expect(() => parseManifest(json(document), type), name)
        .to.throw(why)
        .with.property('code', code);
    }
    expect(() => parseManifest(Buffer.from('{'), '')).to.throw(/not valid JSON/);
    expect(() => parseManifest(Buffer.from([0x7b, 0xff, 0x7d]), '')).to.throw(/not valid JSON/);
    expect(() => parseManifest(Buffer.alloc(4 * 1024 * 1024 + 1, 0x20), ''))
      .to.throw(/at most/)
      .with.property('code', 'ResourceExhausted');
  });

  it('lets the structure decide where OCI’s and docker’s names are mixed up', () => {
    const { ociManifest, dockerManifest, ociIndex, dockerList } = mediaTypes;
    const entries = { schemaVersion: 2, manifests: [{ ...config, mediaType: ociManifest }] };
    for (const [own, said] of [
      [dockerManifest, ociManifest],
      [ociManifest, dockerManifest],
      ['', dockerManifest],
      [undefined, 'text/plain'],
      [null, 'application/vnd.docker.distribution.manifest.v2+json; charset=utf-8'],
      ['application/json', 'application/octet-stream'],
    ] as const)
      expect(parseManifest(json({ ...manifest, mediaType: own }), said).kind, `${own} ${said}`).to.equal('manifest');
    for (const [own, said] of [
      [ociIndex, dockerList],
      [dockerList, ociIndex],
      [undefined, 'text/html'],
      ['', ''],
    ] as const)
      expect(parseManifest(json({ ...entries, mediaType: own }), said).kind, `${own} ${said}`).to.equal('index');
    expect(parseManifest(json({ mediaType: ociIndex, manifests: null }), '')).to.deep.include({ manifests: [] });
    expect(parseManifest(json({ ...manifest, manifests: null }), '').kind).to.equal('manifest');
    expect(parseManifest(json({ SchemaVersion: 2, Config: config, LAYERS: null }), '')).to.deep.include({ layers: [] });
  });

  it('loses an entry of an index whose digest nobody here can compute, and keeps the others', () => {
    const [mine, other] = [
      { ...layer, mediaType: mediaTypes.ociManifest, platform: { os: 'linux', architecture: 'amd64' } },
      { ...layer, mediaType: mediaTypes.ociManifest, platform: { os: 'linux', architecture: 'riscv64' } },
    ];
    for (const digest of [`blake3:${'a'.repeat(64)}`, `sha384:${'a'.repeat(96)}`, '', null, 'sha256:../../etc'])
      for (const manifests of [
        [{ ...other, digest }, mine],
        [mine, { ...other, digest }],
      ]) {
        const read = parseManifest(json({ schemaVersion: 2, manifests }), '');
        expect(read.kind === 'index' && read.manifests.map((each) => each.platform?.architecture)).to.deep.equal([
          'amd64',
        ]);
      }
    expect(() => parseManifest(json({ manifests: [{ ...other, digest: 'blake3:0' }] }), '')).to.throw(/for a digest/);
  });

  it('reads bytes that are no UTF-8 as Go does', () => {
    const latin = JSON.stringify({ ...manifest, annotations: { by: 'Jos\xe9' } });
    const read = parseManifest(Buffer.from(latin, 'latin1'), '');
    expect({ ...read.annotations }).to.deep.equal({ by: 'Jos\ufffd' });
  });

  it('takes a config of any type that names no format for an image’s', () => {
    for (const mediaType of ['text/html', 'application/json', '', null, 'application/octet-stream', 'text/html; a=b'])
      expect(parseManifest(json({ ...manifest, config: { ...config, mediaType } }), '').kind).to.equal('manifest');
    for (const mediaType of ['', 'application/octet-stream', 'application/x-gzip'])
      expect(parseManifest(json({ ...manifest, layers: [{ ...layer, mediaType }] }), '').kind).to.equal('manifest');
  });

  it('tells artifacts from images by the type of the config, or by what they say and have', () => {
    const read = (more: object): unknown => {
      const document = parseManifest(json({ ...manifest, ...more }), '');
      return document.kind === 'artifact' ? document.type : document.kind;
    };
    const file = { ...layer, mediaType: 'text/x-model', annotations: { 'org.opencontainers.image.title': '../a' } };
    for (const mediaType of [
      'application/vnd.oci.empty.v1+json',
      'application/vnd.docker.plugin.v1+json',
      'application/vnd.cncf.helm.config.v1+json',
      'application/x',
    ]) {
      expect(read({ config: { ...config, mediaType } })).to.equal(mediaType);
      expect(read({ config: { ...config, mediaType }, artifactType: 'a/b', layers: [file] })).to.equal('a/b');
    }
    // One that may be an image is one, as for CRI-O; what cannot be mounted makes it an artifact, if it says so.
    const binary = { ...layer, mediaType: 'application/x-binary' };
    expect(read({ artifactType: 'a/b' })).to.equal('manifest');
    expect(read({ artifactType: 'a/b', layers: [layer, binary] })).to.equal('a/b');
    expect(() => read({ layers: [binary] })).to.throw(/not a file system layer/);
    const many = (count: number, mediaType: string): object => ({
      config: { ...config, mediaType },
      layers: Array.from({ length: count }, () => file),
    });
    expect(read(many(4_096, 'a/b'))).to.equal('a/b');
    for (const [count, type] of [
      [4_097, 'a/b'],
      [100_000, 'a/b'],
      [200, mediaTypes.ociConfig],
    ] as const)
      expect(() => read({ ...many(count, type), ...(type === 'a/b' ? {} : { layers: Array(count).fill(layer) }) }))
        .to.throw(/at most|bytes|members/)
        .with.property('code', 'ResourceExhausted');
  });

  it('ignores urls of ordinary layers (CVE-2020-15157)', () => {
    const read = parseManifest(json({ ...manifest, layers: [{ ...layer, urls: ['http://evil/'] }] }), '');
    expect(read.kind === 'manifest' && read.layers[0]).to.not.have.property('urls');
  });
});

const DESCRIPTOR = {
  mediaType: mediaTypes.ociManifest,
  digest: D,
  size: 7,
  urls: ['https://x/'],
  data: 'e30=',
  artifactType: 'a/b',
  annotations: { a: 'b' },
};
describeEmptiness({
  name: 'image manifests',
  notation: 'json',
  samples: [
    {
      schemaVersion: 2,
      mediaType: mediaTypes.dockerManifest,
      artifactType: 'a/b',
      config: { ...DESCRIPTOR, mediaType: mediaTypes.ociConfig },
      layers: [{ ...DESCRIPTOR, mediaType: mediaTypes.ociLayerGzip }],
      subject: { ...DESCRIPTOR },
      annotations: { a: 'b' },
    },
  ],
  names: ['annotations', 'config.annotations', 'layers[].annotations', 'subject.annotations'],
  read: (document) => parseManifest(json(document), ''),
  keys: {
    schemaVersion: 'ignored',
    mediaType: 'unset',
    artifactType: 'ignored',
    config: 'needed',
    'config.mediaType': 'unset',
    'config.digest': 'needed',
    'config.size': 'unset',
    'config.urls': 'ignored',
    'config.data': 'ignored',
    'config.artifactType': 'ignored',
    'config.annotations': 'unset',
    'config.annotations.*': { absent: 'unset', empty: 'own', why: 'a name without a value' },
    layers: 'unset',
    'layers[].mediaType': 'unset',
    'layers[].digest': 'needed',
    'layers[].size': 'unset',
    'layers[].urls': 'ignored',
    'layers[].data': 'ignored',
    'layers[].artifactType': 'ignored',
    'layers[].annotations': 'unset',
    'layers[].annotations.*': { absent: 'unset', empty: 'own', why: 'a name without a value' },
    subject: 'ignored',
    'subject.mediaType': 'ignored',
    'subject.digest': 'ignored',
    'subject.size': 'ignored',
    'subject.urls': 'ignored',
    'subject.data': 'ignored',
    'subject.artifactType': 'ignored',
    'subject.annotations': 'ignored',
    'subject.annotations.*': 'ignored',
    annotations: 'unset',
    'annotations.*': { absent: 'unset', empty: 'own', why: 'a name without a value' },
  },
});

describeEmptiness({
  name: 'image indexes',
  notation: 'json',
  samples: [
    {
      schemaVersion: 2,
      mediaType: mediaTypes.dockerList,
      artifactType: 'a/b',
      manifests: [
        {
          mediaType: mediaTypes.dockerManifest,
          digest: D,
          size: 7,
          annotations: { a: 'b' },
          platform: {
            architecture: 'arm',
            os: 'windows',
            variant: 'v6',
            'os.version': '10',
            'os.features': ['x'],
            features: ['y'],
          },
        },
      ],
      annotations: { a: 'b' },
    },
  ],
  names: ['annotations', 'manifests[].annotations'],
  read: (document) => parseManifest(json(document), mediaTypes.ociIndex),
  keys: {
    schemaVersion: 'ignored',
    mediaType: 'unset',
    artifactType: 'ignored',
    manifests: 'unset',
    'manifests[].mediaType': 'unset',
    'manifests[].digest': 'needed',
    'manifests[].size': 'unset',
    'manifests[].annotations': 'unset',
    'manifests[].annotations.*': { absent: 'unset', empty: 'own', why: 'a name without a value' },
    'manifests[].platform': 'unset',
    'manifests[].platform.architecture': 'unset',
    'manifests[].platform.os': 'unset',
    'manifests[].platform.variant': 'unset',
    'manifests[].platform.os.version': 'ignored',
    'manifests[].platform.os.features': 'ignored',
    'manifests[].platform.features': 'ignored',
    annotations: 'unset',
    'annotations.*': { absent: 'unset', empty: 'own', why: 'a name without a value' },
  },
});
