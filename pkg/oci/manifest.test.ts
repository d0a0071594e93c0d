import { expect } from 'chai';
import { limits } from '../base/limits.ts';
import { digestOf } from './digest.ts';
import {
  mediaTypes,
  nodePlatform,
  parseImageConfig,
  parseManifest,
  platformCandidates,
  selectPlatform,
} from './manifest.ts';
import type { ImageIndex } from './manifest.ts';

const D = digestOf('x');
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const config = { mediaType: mediaTypes.ociConfig, digest: D, size: 10 };
const layer = { mediaType: mediaTypes.ociLayerGzip, digest: D, size: 20 };
const manifest = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: [layer] };
const entry = (architecture: string, variant?: string, os = 'linux'): object => ({
  mediaType: mediaTypes.ociManifest,
  digest: digestOf(`${os}${architecture}${variant}`),
  size: 1,
  platform: { architecture, os, ...(variant === undefined ? {} : { variant }) },
});

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

  it('refuses ambiguous, damaged and unfit documents', () => {
    const rows: readonly (readonly [string, unknown, string, RegExp, string])[] = [
      ['both kinds', { ...manifest, manifests: [] }, '', /at once/, 'InvalidArgument'],
      ['served as another', manifest, mediaTypes.ociIndex, /served as/, 'InvalidArgument'],
      ['type lies', { ...manifest, mediaType: mediaTypes.ociIndex }, '', /its content is not/, 'InvalidArgument'],
      ['schema 1', { schemaVersion: 1, fsLayers: [] }, '', /schema 1/, 'Unimplemented'],
      ['no schema', { config, layers: [] }, '', /schemaVersion/, 'InvalidArgument'],
      ['unknown type', { ...manifest, mediaType: 'application/x' }, '', /not images/, 'Unimplemented'],
      ['no layers', { ...manifest, layers: undefined }, '', /layers/, 'InvalidArgument'],
      ['no config', { ...manifest, config: undefined }, '', /not an object/, 'InvalidArgument'],
      [
        'digest a path',
        { ...manifest, layers: [{ ...layer, digest: 'sha256:../../../../etc/x' }] },
        '',
        /for a digest/,
        'InvalidArgument',
      ],
      [
        'digest empty',
        { ...manifest, layers: [{ ...layer, digest: 'sha256:' }] },
        '',
        /for a digest/,
        'InvalidArgument',
      ],
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
      [
        'size past 2^53',
        { ...manifest, layers: [{ ...layer, size: 2 ** 60 }] },
        '',
        /number of bytes/,
        'InvalidArgument',
      ],
      [
        'too many layers',
        { ...manifest, layers: Array.from({ length: 129 }, () => layer) },
        '',
        /129 layers/,
        'ResourceExhausted',
      ],
      [
        'foreign layer',
        {
          ...manifest,
          layers: [
            { ...layer, mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip', urls: ['http://evil'] },
          ],
        },
        '',
        /foreign/,
        'Unimplemented',
      ],
      [
        'nondistributable',
        {
          ...manifest,
          layers: [{ ...layer, mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip' }],
        },
        '',
        /foreign/,
        'Unimplemented',
      ],
      [
        'encrypted',
        { ...manifest, layers: [{ ...layer, mediaType: `${mediaTypes.ociLayerGzip}+encrypted` }] },
        '',
        /encrypted/,
        'Unimplemented',
      ],
      [
        'artifact',
        { ...manifest, config: { ...config, mediaType: 'application/vnd.cncf.helm.config.v1+json' } },
        '',
        /artifact of type "application\/vnd.cncf.helm/,
        'Unimplemented',
      ],
      ['a list', [], '', /not a JSON object/, 'InvalidArgument'],
      ['annotations', { ...manifest, annotations: { a: 1 } }, '', /annotations/, 'InvalidArgument'],
    ];
    for (const [name, document, type, why, code] of rows) {
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

  it('ignores urls of ordinary layers (CVE-2020-15157)', () => {
    const read = parseManifest(json({ ...manifest, layers: [{ ...layer, urls: ['http://evil/'] }] }), '');
    expect(read.kind === 'manifest' && read.layers[0]).to.not.have.property('urls');
  });

  it('picks the platform with variant fallbacks', () => {
    const index = (...entries: object[]): ImageIndex =>
      parseManifest(json({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: entries }), '') as ImageIndex;
    const pick = (arch: string, variant: string | undefined, ...entries: object[]): string | undefined => {
      const { platform } = selectPlatform(index(...entries), { os: 'linux', architecture: arch, variant });
      return platform === undefined ? 'any' : `${platform.architecture}${platform.variant ?? ''}`;
    };
    expect(pick('amd64', undefined, entry('arm64'), entry('amd64', undefined, 'windows'), entry('amd64'))).to.equal(
      'amd64',
    );
    expect(pick('amd64', undefined, entry('amd64', 'v3'), entry('amd64', 'v1'))).to.equal('amd64v1');
    expect(pick('arm', 'v7', entry('arm', 'v5'), entry('arm', 'v6'))).to.equal('armv6');
    expect(pick('arm', 'v6', entry('arm', 'v7'), entry('arm'))).to.equal('arm');
    expect(pick('arm64', undefined, entry('arm64', 'v8'))).to.equal('arm64v8');
    expect(pick('riscv64', undefined, { mediaType: mediaTypes.ociManifest, digest: D, size: 1 })).to.equal('any');
    expect(() => pick('amd64', undefined, entry('unknown', undefined, 'unknown'), entry('s390x'))).to.throw(
      /no variant for linux\/amd64; it has "unknown\/unknown, linux\/s390x"/,
    );
    expect(() => pick('amd64', undefined)).to.throw(/none at all/);
  });

  it('names this node as Go does', () => {
    expect(nodePlatform('x64')).to.deep.equal({ os: 'linux', architecture: 'amd64' });
    expect(nodePlatform('arm', '6')).to.deep.equal({ os: 'linux', architecture: 'arm', variant: 'v6' });
    expect(platformCandidates(nodePlatform('arm', '6')).map((each) => each.variant)).to.deep.equal([
      'v6',
      'v5',
      undefined,
    ]);
  });

  it('reads configs, with null for empty as docker writes', () => {
    const full = parseImageConfig(
      json({
        architecture: 'amd64',
        os: 'linux',
        rootfs: { type: 'layers', diff_ids: [D] },
        config: {
          User: '1000:1000',
          Env: ['A=b'],
          Entrypoint: ['/x'],
          Cmd: null,
          Volumes: { '/v': {} },
          WorkingDir: '/w',
          Labels: { a: 'b' },
          StopSignal: 'SIGQUIT',
          ExposedPorts: { '80/tcp': {} },
        },
      }),
    );
    expect(full).to.deep.include({
      user: '1000:1000',
      env: ['A=b'],
      entrypoint: ['/x'],
      cmd: [],
      volumes: ['/v'],
      workingDir: '/w',
      stopSignal: 'SIGQUIT',
      exposedPorts: ['80/tcp'],
      diffIds: [D],
    });
    expect({ ...full.labels }).to.deep.equal({ a: 'b' });
    expect(parseImageConfig(json({ rootfs: { type: 'layers', diff_ids: null }, config: null }))).to.deep.include({
      user: '',
      env: [],
      diffIds: [],
    });
  });

  it('keeps a label named __proto__ a label', () => {
    const read = parseImageConfig(
      Buffer.from(`{"rootfs":{"type":"layers","diff_ids":[]},"config":{"Labels":{"__proto__":"x","constructor":"y"}}}`),
    );
    expect(Object.entries(read.labels)).to.deep.equal([
      ['__proto__', 'x'],
      ['constructor', 'y'],
    ]);
    expect(({} as Record<string, unknown>)['x']).to.equal(undefined);
  });

  it('refuses a User that no login is as long as: it goes into every list of images', () => {
    const config = (user: string): Buffer => json({ rootfs: { type: 'layers', diff_ids: [] }, config: { User: user } });
    expect(parseImageConfig(config('u'.repeat(limits.imageUserBytes))).user).to.have.length(limits.imageUserBytes);
    for (const user of [
      'u'.repeat(limits.imageUserBytes + 1),
      'ü'.repeat(limits.imageUserBytes / 2 + 1),
      'u'.repeat(7 << 20),
    ]) {
      expect(() => parseImageConfig(config(user)))
        .to.throw(/User/)
        .with.property('code', 'ResourceExhausted');
    }
  });

  it('refuses damaged configs', () => {
    for (const wrong of [
      {},
      { rootfs: { type: 'x' } },
      { rootfs: { type: 'layers', diff_ids: ['../x'] } },
      { rootfs: { type: 'layers', diff_ids: 7 } },
      { rootfs: { type: 'layers', diff_ids: [] }, config: { Env: [1] } },
      { rootfs: { type: 'layers', diff_ids: [] }, config: { User: 0 } },
    ]) {
      expect(() => parseImageConfig(json(wrong)), JSON.stringify(wrong))
        .to.throw()
        .with.property('code', 'InvalidArgument');
    }
  });
});
