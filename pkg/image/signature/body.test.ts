import { expect } from 'chai';
import { RuntimeError } from '../../base/errors.ts';
import { digestOf } from '../../oci/digest.ts';
import { parseReference } from '../../oci/reference.ts';
import { checkBody } from './body.ts';
import type { SignedImage } from './body.ts';
import { bodyOf } from './fakes.ts';

const SIGSTORE = 'cosign container image signature';
const OPENPGP = 'atomic container signature';

describe('image/signature/body', () => {
  const manifest = Buffer.from('{"schemaVersion":2}');
  const digest = digestOf(manifest);
  const image: SignedImage = { reference: parseReference('reg.example/app:1'), digest, manifest };
  const matchRepository = { type: 'matchRepository' } as const;
  const check = (body: Uint8Array | string, type: typeof SIGSTORE | typeof OPENPGP = SIGSTORE, of = image): void =>
    checkBody(Buffer.from(body), type, of, matchRepository);
  const good = {
    critical: {
      identity: { 'docker-reference': 'reg.example/app' },
      image: { 'docker-manifest-digest': digest },
      type: SIGSTORE,
    },
    optional: null,
  };
  const changed = (
    change: (body: { critical: Record<string, unknown>; optional?: unknown } & Record<string, unknown>) => void,
  ): string => {
    const body = structuredClone(good) as never;
    change(body);
    return JSON.stringify(body);
  };

  it('vouches for the manifest and the name', () => {
    check(JSON.stringify(good));
    check(
      bodyOf(OPENPGP, digest, 'reg.example/app:7', {
        optional: { creator: 'me', timestamp: 1_483_228_800, more: [1] },
      }),
      OPENPGP,
    );
  });

  it('takes another algorithm for the digest where the manifest is at hand', () => {
    const body = bodyOf(SIGSTORE, digestOf(manifest, 'sha512'), 'reg.example/app');
    check(body);
    expect(() => check(bodyOf(SIGSTORE, digestOf('other', 'sha512'), 'reg.example/app'))).to.throw(
      /it is for the manifest sha512:/,
    );
    expect(() => check(body, SIGSTORE, { ...image, manifest: undefined })).to.throw(/it is for the manifest sha512:/);
  });

  it('refuses another manifest and another name, and says which', () => {
    expect(() => check(bodyOf(SIGSTORE, digestOf('other'), 'reg.example/app'))).to.throw(
      RuntimeError,
      `it is for the manifest ${digestOf('other')}, not for ${digest}`,
    );
    expect(() => check(bodyOf(SIGSTORE, digest, 'reg.example/other'))).to.throw(
      RuntimeError,
      'it calls the image "reg.example/other", and the policy wants matchRepository of "reg.example/app:1"',
    );
    expect(() =>
      checkBody(bodyOf(SIGSTORE, digest, 'reg.example/app'), SIGSTORE, image, { type: 'matchRepoDigestOrExact' }),
    ).to.throw(
      /cosign signs a repository without a tag, which "signedIdentity": \{"type": "matchRepository"\} accepts/,
    );
    expect(() =>
      checkBody(bodyOf(SIGSTORE, digest, 'reg.example:5000/app:2'), SIGSTORE, image, { type: 'matchExact' }),
    ).to.throw(/wants matchExact of "reg\.example\/app:1"$/);
  });

  it('refuses what is not of the format, or has more in it than is known', () => {
    const rows: readonly (readonly [string, RegExp])[] = [
      ['', /not valid JSON/],
      ['null', /not an object/],
      [`${JSON.stringify(good)}x`, /not valid JSON/],
      ['\ufeff{}', /not valid JSON/],
      [JSON.stringify(good).replace('"critical"', '"critical":{},"critical"'), /"critical" twice/],
      [changed((body) => delete body.optional), /no "optional"/],
      [changed((body) => (body['extra'] = 1)), /"extra", which is not known/],
      [changed((body) => (body.critical['extra'] = 1)), /"critical" has the member "extra"/],
      [changed((body) => delete body.critical['type']), /no "type"/],
      [changed((body) => (body.critical['type'] = OPENPGP)), /is of type "atomic container signature"/],
      [
        changed((body) => (body.critical['image'] = { 'docker-manifest-digest': digest, tag: 'x' })),
        /"image" has the member "tag"/,
      ],
      [changed((body) => (body.critical['image'] = { 'docker-manifest-digest': 'sha256:1' })), /is not a digest/],
      [changed((body) => (body.critical['image'] = { 'docker-manifest-digest': [digest] })), /must be text/],
      [
        changed((body) => (body.critical['identity'] = { 'docker-reference': 'reg.example/app', x: 1 })),
        /"identity" has the member "x"/,
      ],
      [changed((body) => (body.critical['identity'] = {})), /no "docker-reference"/],
      [changed((body) => (body.optional = [])), /"optional" is not an object/],
      [changed((body) => (body.optional = { creator: 1 })), /"creator" is not text/],
      [changed((body) => (body.optional = { timestamp: 1.5 })), /"timestamp" is not a whole number/],
      [changed((body) => (body.optional = { timestamp: '1' })), /"timestamp" is not a whole number/],
    ];
    for (const [body, why] of rows) expect(() => check(body), body).to.throw(why);
    // cosign alone writes null.
    expect(() => check(bodyOf(OPENPGP, digest, 'reg.example/app'), OPENPGP)).to.throw(/"optional" is not an object/);
  });
});
