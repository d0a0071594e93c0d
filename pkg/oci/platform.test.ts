import { expect } from 'chai';
import { digestOf } from './digest.ts';
import { parseManifest } from './manifest.ts';
import type { ImageIndex } from './manifest.ts';
import { mediaTypes } from './media-types.ts';
import { nodePlatform, normalizePlatform, platformCandidates, platformName, selectPlatform } from './platform.ts';

const D = digestOf('x');
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const entry = (architecture: string, variant?: string, os = 'linux'): object => ({
  mediaType: mediaTypes.ociManifest,
  digest: digestOf(`${os}${architecture}${variant}`),
  size: 1,
  platform: { architecture, os, ...(variant === undefined ? {} : { variant }) },
});

describe('oci/platform', () => {
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

  it('knows architectures by the names that others give them', () => {
    const rows: readonly (readonly [os: string, architecture: string, variant: string, name: string])[] = [
      ['', 'x86_64', '', 'linux/amd64'],
      ['Linux', 'X86-64', '', 'linux/amd64'],
      ['linux', 'aarch64', '8', 'linux/arm64/v8'],
      ['linux', 'i386', '', 'linux/386'],
      ['linux', 'armhf', '', 'linux/arm/v7'],
      ['linux', 'armel', '', 'linux/arm/v6'],
      ['linux', 'arm', '7', 'linux/arm/v7'],
      ['linux', 'riscv64', '', 'linux/riscv64'],
      ['linux', 'amd64', 'V2', 'linux/amd64/v2'],
      ['linux', 'constructor', '', 'linux/constructor'],
    ];
    for (const [os, architecture, variant, name] of rows)
      expect(platformName(normalizePlatform(os, architecture, variant))).to.equal(name);
  });

  it('takes an entry that another tool named, and one that says nothing at all as one without a platform', () => {
    const pick = (...platforms: object[]): unknown =>
      selectPlatform(
        parseManifest(
          json({
            schemaVersion: 2,
            manifests: platforms.map((platform) => ({
              mediaType: mediaTypes.ociManifest,
              digest: D,
              size: 1,
              platform,
            })),
          }),
          '',
        ) as ImageIndex,
        { os: 'linux', architecture: 'amd64' },
      ).platform;
    expect(pick({ architecture: 's390x', os: 'linux' }, { Architecture: 'x86_64', OS: '' })).to.deep.equal({
      os: 'linux',
      architecture: 'amd64',
    });
    expect(pick({ architecture: '', os: '' })).to.equal(undefined);
    expect(pick({ architecture: null, os: null, variant: null })).to.equal(undefined);
  });
});
