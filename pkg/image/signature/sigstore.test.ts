import { expect } from 'chai';
import { RuntimeError } from '../../base/errors.ts';
import { digestOf } from '../../oci/digest.ts';
import { parseReference } from '../../oci/reference.ts';
import { failure, testOp } from '../fakes.ts';
import {
  alternativeNames,
  authorityExtension,
  codeSigning,
  der,
  entryOf,
  extension,
  issuerEncoded,
  issuerPlain,
  makeCertificate,
  oid,
} from './fake-authority.ts';
import type { CertificateWishes, EntryWishes, TestCertificate } from './fake-authority.ts';
import { makeKey, payloadOf, signatureOver } from './fakes.ts';
import type { TestKey } from './fakes.ts';
import type { Keys, Requirement } from './requirements.ts';
import { sigstoreCheck } from './sigstore.ts';
import type { Proof } from './sources.ts';

const manifest = Buffer.from('{}');
const image = { reference: parseReference('reg.example/app:v1'), digest: digestOf(manifest), manifest };
const payload = payloadOf(image.digest, 'reg.example/app');
const ISSUER = 'https://accounts.example';
const EMAIL = 'dev@example.org';
const HOUR = 3_600_000;
const ago = (ms: number): Date => new Date(Date.now() - ms);

const root = makeCertificate({ name: 'root', extensions: [authorityExtension()], from: ago(1000 * HOUR) });
const middle = makeCertificate({
  name: 'middle',
  by: root,
  extensions: [authorityExtension(0), codeSigning],
  from: ago(1000 * HOUR),
});
const log = makeKey();
const data = (...pem: readonly string[]): Keys => ({ from: 'policy', datas: pem.map((each) => Buffer.from(each)) });

type SigstoreSigned = Extract<Requirement, { type: 'sigstoreSigned' }>;
const fulcio: SigstoreSigned = {
  type: 'sigstoreSigned',
  signer: { by: 'fulcio', roots: data(root.pem), issuer: ISSUER, email: EMAIL },
  log: data(log.pem),
  identity: { type: 'matchRepository' },
};

const trusting = (roots: Keys): SigstoreSigned => ({
  ...fulcio,
  signer: { by: 'fulcio', roots, issuer: ISSUER, email: EMAIL },
});

/** A certificate of ten minutes, long over. */
const leafOf = (more: CertificateWishes = {}): TestCertificate =>
  makeCertificate({
    by: middle,
    from: ago(100 * HOUR),
    until: ago(100 * HOUR - 600_000),
    extensions: [codeSigning, alternativeNames([0x81, EMAIL]), issuerEncoded(ISSUER), issuerPlain(ISSUER)],
    ...more,
  });
const withNames = (...extensions: readonly Buffer[]): TestCertificate =>
  leafOf({ extensions: [codeSigning, ...extensions] });

interface Case {
  readonly leaf?: TestCertificate;
  /** By whom the text is signed; whoever the certificate names unless given. */
  readonly by?: TestKey;
  readonly entry?: Partial<EntryWishes>;
  readonly proof?: Partial<Proof>;
  readonly requirement?: SigstoreSigned;
}

async function check({ leaf = leafOf(), by = leaf.key, entry, proof, requirement = fulcio }: Case): Promise<void> {
  const signature = signatureOver(payload, by);
  const found = {
    certificate: leaf.pem,
    chain: `${middle.pem}${root.pem}`,
    entry: entryOf({ payload, signature, by: leaf.pem, log, at: ago(100 * HOUR - 300_000), ...entry }),
  };
  const made = await sigstoreCheck(requirement, image);
  await made.check(testOp(), { kind: 'sigstore', from: 'here', payload, signature, proof: { ...found, ...proof } });
}

/** Why it does not count, with its causes. */
async function refusal(of: Case): Promise<string> {
  const error = await failure(check(of));
  expect(error).to.be.instanceOf(RuntimeError);
  expect(error.code).to.be.oneOf(['FailedPrecondition', 'InvalidArgument'], error.message);
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message;
}

/** Each is refused for that reason, and for no other. */
async function refused(rows: Readonly<Record<string, readonly [Case, RegExp]>>): Promise<void> {
  for (const [what, [of, why]] of Object.entries(rows)) expect(await refusal(of), what).to.match(why);
}

describe('image/signature/sigstore', () => {
  describe('with Fulcio and Rekor', () => {
    it('takes what was signed within the minutes of a certificate, long after they are over', async () => {
      await check({});
      await check({ leaf: withNames(alternativeNames([0x81, EMAIL]), issuerPlain(ISSUER)) });
      await check({ leaf: withNames(alternativeNames([0x81, EMAIL]), issuerEncoded(ISSUER)) });
      // One of several names is enough, as for the container tools.
      await check({ leaf: withNames(alternativeNames([0x81, 'a@b.c'], [0x81, EMAIL]), issuerPlain(ISSUER)) });
      for (const kind of ['P-384', 'rsa', 'ed25519'] as const) await check({ leaf: leafOf({ key: makeKey(kind) }) });
      // Whoever is root needs nobody between, and the last of a chain is the root itself.
      await check({ leaf: leafOf({ by: root }), proof: { chain: '' } });
      const spare = makeKey();
      await check({ requirement: { ...fulcio, log: data(spare.pem, log.pem) } });
      // A list of authorities may have some that cannot be read, as that of a whole node has.
      const junk = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n';
      await check({ requirement: trusting(data(`# text\n${junk}${makeCertificate().pem}${root.pem}`)) });
    });

    it('refuses whoever is somebody else', async () => {
      const other = 'https://other.example';
      await refused({
        'another issuer': [
          { leaf: withNames(alternativeNames([0x81, EMAIL]), issuerEncoded(other)) },
          /whom "https:\/\/other\.example" knows; want oidcIssuer "https:\/\/accounts\.example"/,
        ],
        'two issuers': [
          { leaf: withNames(alternativeNames([0x81, EMAIL]), issuerEncoded(ISSUER), issuerPlain(other)) },
          /whom "https:\/\/other\.example" knows/,
        ],
        'no issuer': [{ leaf: withNames(alternativeNames([0x81, EMAIL])) }, /does not say by whom its owner was known/],
        'an issuer that is no text': [
          { leaf: withNames(alternativeNames([0x81, EMAIL]), extension('1.3.6.1.4.1.57264.1.8', Buffer.from(ISSUER))) },
          /not in DER|not a text/,
        ],
        'an issuer with something behind it': [
          {
            leaf: withNames(
              alternativeNames([0x81, EMAIL]),
              extension('1.3.6.1.4.1.57264.1.8', Buffer.concat([der(0x0c, Buffer.from(ISSUER)), Buffer.from([0])])),
            ),
          },
          /something follows it/,
        ],
        'another email': [
          { leaf: withNames(alternativeNames([0x81, 'eve@example.org']), issuerPlain(ISSUER)) },
          /its certificate is of "eve@example\.org"; want subjectEmail "dev@example\.org"/,
        ],
        'an email that only begins so': [
          { leaf: withNames(alternativeNames([0x81, `${EMAIL}\0.evil.example`]), issuerPlain(ISSUER)) },
          /want subjectEmail/,
        ],
        'an email in other letters': [
          { leaf: withNames(alternativeNames([0x81, EMAIL.toUpperCase()]), issuerPlain(ISSUER)) },
          /want subjectEmail/,
        ],
        'the email as another kind of name': [
          { leaf: withNames(alternativeNames([0x86, EMAIL], [0x82, EMAIL]), issuerPlain(ISSUER)) },
          /is of nobody by that kind of name/,
        ],
        'two lists of names': [
          {
            leaf: withNames(
              alternativeNames([0x81, 'eve@example.org']),
              alternativeNames([0x81, EMAIL]),
              issuerPlain(ISSUER),
            ),
          },
          /it has the extension 2\.5\.29\.17 twice/,
        ],
        'another key than the certificate says': [{ by: makeKey() }, /it was made by another key, or changed/],
      });
    });

    it('refuses certificates that do not come from the authority', async () => {
      const stranger = makeCertificate({ name: 'root', extensions: [authorityExtension()], from: ago(1000 * HOUR) });
      const nobody = makeCertificate({ name: 'middle', by: root, from: ago(1000 * HOUR) });
      const narrow = makeCertificate({
        name: 'middle',
        by: root,
        extensions: [authorityExtension(), extension('2.5.29.37', der(0x30, oid('1.3.6.1.5.5.7.3.1')))],
        from: ago(1000 * HOUR),
      });
      const below = makeCertificate({
        name: 'below',
        by: middle,
        extensions: [authorityExtension()],
        from: ago(1000 * HOUR),
      });
      const bound = makeCertificate({
        name: 'middle',
        by: root,
        extensions: [authorityExtension(), extension('2.5.29.30', der(0x30))],
        from: ago(1000 * HOUR),
      });
      await refused({
        'another authority of the same name': [
          { leaf: leafOf({ by: stranger }), proof: { chain: stranger.pem } },
          /from an authority that the policy does not name/,
        ],
        'the chain brings its own root': [
          { leaf: leafOf({ by: stranger }), proof: { chain: `${stranger.pem}${stranger.pem}` } },
          /from an authority that the policy does not name/,
        ],
        itself: [{ leaf: leafOf({ by: undefined as never, name: 'root' }) }, /does not name/],
        'the one between is missing': [{ proof: { chain: root.pem } }, /does not name/],
        'the one between may not issue any': [
          { leaf: leafOf({ by: nobody }), proof: { chain: `${nobody.pem}${root.pem}` } },
          /one on the way may not issue certificates/,
        ],
        'the one between is for servers': [
          { leaf: leafOf({ by: narrow }), proof: { chain: `${narrow.pem}${root.pem}` } },
          /an authority is not for code signing/,
        ],
        'the one between may not have another below': [
          { leaf: leafOf({ by: below }), proof: { chain: `${below.pem}${middle.pem}${root.pem}` } },
          /one on the way may not have so many below it/,
        ],
        'the one between is for some names only': [
          { leaf: leafOf({ by: bound }), proof: { chain: `${bound.pem}${root.pem}` } },
          /certificate 1 is damaged: it has name constraints/,
        ],
      });
    });

    it('refuses certificates that are not for this, and paths that lead nowhere', async () => {
      const stranger = makeCertificate({ name: 'root', extensions: [authorityExtension()], from: ago(1000 * HOUR) });
      await refused({
        'it is for servers': [
          {
            leaf: leafOf({
              extensions: [
                extension('2.5.29.37', der(0x30, oid('1.3.6.1.5.5.7.3.1'))),
                alternativeNames([0x81, EMAIL]),
                issuerPlain(ISSUER),
              ],
            }),
          },
          /its certificate is not for code signing \("1\.3\.6\.1\.5\.5\.7\.3\.1"\)/,
        ],
        'something critical that is not known': [
          { leaf: withNames(extension('1.2.3.4', Buffer.alloc(2), 'critical')) },
          /extension 1\.2\.3\.4 is critical, and not known here/,
        ],
        'signed over SHA-1': [
          { leaf: leafOf({ algorithm: ['1.2.840.10045.4.1', 'sha1'] }) },
          /from an authority that the policy does not name/,
        ],
        'its key is short': [{ leaf: leafOf({ key: makeKey('rsa-1024') }) }, /its key is of a kind that is not taken/],
        'ways without end': [
          {
            leaf: leafOf({ by: stranger }),
            proof: {
              chain: Array.from(
                { length: 20 },
                () =>
                  makeCertificate({
                    name: 'root',
                    key: stranger.key,
                    extensions: [authorityExtension()],
                    from: ago(1000 * HOUR),
                  }).pem,
              ).join(''),
            },
          },
          /more ways than 16 steps/,
        ],
        'two certificates': [
          { leaf: { ...leafOf(), pem: `${leafOf().pem}${leafOf().pem}` } },
          /not one block of PEM|of another key/,
        ],
        none: [{ proof: { certificate: '' } }, /no certificate came with it .*: it was made with a key/],
      });
    });

    it('refuses certificates that were not valid when the log had the signature', async () => {
      await refused({
        'too late': [{ entry: { at: ago(99 * HOUR) } }, /its certificate had expired at \d{4}-.*; it was valid until/],
        'too early': [{ entry: { at: ago(101 * HOUR) } }, /its certificate was not valid yet at/],
        'the authority had expired': [
          (() => {
            const gone = makeCertificate({
              name: 'middle',
              by: root,
              extensions: [authorityExtension()],
              from: ago(1000 * HOUR),
              until: ago(500 * HOUR),
            });
            return { leaf: leafOf({ by: gone }), proof: { chain: `${gone.pem}${root.pem}` } };
          })(),
          /an authority had expired/,
        ],
      });
    });

    it('refuses what the log does not say', async () => {
      const signature = (body: Record<string, unknown>): Record<string, unknown> =>
        (body['spec'] as { signature: Record<string, unknown> }).signature;
      const hash = (body: Record<string, unknown>): Record<string, unknown> =>
        (body['spec'] as { data: { hash: Record<string, unknown> } }).data.hash;
      const withBody = (change: (body: Record<string, unknown>) => void): Case => ({
        entry: { body: (body) => (change(body), body) },
      });
      const tampered = (change: (entry: { Payload: Record<string, unknown> }) => void): Case => {
        const leaf = leafOf();
        const made = signatureOver(payload, leaf.key);
        const entry = JSON.parse(entryOf({ payload, signature: made, by: leaf.pem, log })) as {
          Payload: Record<string, unknown>;
        };
        change(entry);
        return { leaf, proof: { entry: JSON.stringify(entry) } };
      };
      const vouch = /the log that the policy names does not vouch for it/;
      await refused({
        'no entry': [{ proof: { entry: '' } }, /no entry of a transparency log came with it.*--tlog-upload=false/],
        'another log': [{ entry: { log: makeKey() } }, vouch],
        'another time': [tampered((entry) => (entry.Payload['integratedTime'] = 1)), vouch],
        'another place': [tampered((entry) => (entry.Payload['logIndex'] = 1)), vouch],
        'another body': [tampered((entry) => (entry.Payload['body'] = 'e30=')), vouch],
        'another signature of the log': [
          tampered((entry) => Object.assign(entry, { SignedEntryTimestamp: 'AAAA' })),
          vouch,
        ],
        'more than there is': [tampered((entry) => (entry.Payload['more'] = 1)), /"more", which is not known/],
        'less than there is': [tampered((entry) => delete entry.Payload['logID']), /no "logID"/],
        'no JSON': [{ proof: { entry: '{' } }, /the log's entry is not valid JSON/],
        'no number': [{ entry: { changed: (all) => ({ ...all, integratedTime: 1.5 }) } }, /no whole number/],
        'another certificate': [{ entry: { by: leafOf().pem } }, /its entry in the log is of another key/],
        'another signature': [
          withBody((body) => (signature(body)['content'] = Buffer.from('x').toString('base64'))),
          /its entry in the log is of another signature/,
        ],
        'another text': [
          withBody((body) => (hash(body)['value'] = '0'.repeat(64))),
          /its entry in the log is of another text/,
        ],
        'another hash': [withBody((body) => (hash(body)['algorithm'] = 'sha512')), /a hash by "sha512"; want sha256/],
        'another kind': [withBody((body) => (body['kind'] = 'intoto')), /it is a "intoto" of version "0\.0\.1"/],
        'another version': [withBody((body) => (body['apiVersion'] = '0.0.2')), /of version "0\.0\.2"/],
        'no kind': [withBody((body) => delete body['kind']), /it is a "undefined"/],
        'no text': [withBody((body) => (body['spec'] = {})), /it has no spec\.signature\.publicKey\.content/],
        'no base64': [
          withBody((body) => (signature(body)['content'] = 'A')),
          /its entry in the log cannot be used: something in it is not base64/,
        ],
      });
    });
  });

  it('wants an entry for a key, too, where the policy names a log', async () => {
    const [own, spare] = [makeKey(), makeKey('ed25519')];
    const requirement: SigstoreSigned = { ...fulcio, signer: { by: 'key', keys: data(spare.pem, own.pem) } };
    await check({ requirement, by: own, entry: { by: own.pem } });
    await refused({
      'no entry': [{ requirement, by: own, proof: { entry: '' } }, /no entry of a transparency log/],
      'an entry of another key': [{ requirement, by: own, entry: { by: makeKey().pem } }, /is of another key/],
      'an entry of the spare key': [
        { requirement, by: own, entry: { by: spare.pem } },
        /it was made by another key, or changed/,
      ],
    });
    await check({ requirement: { ...requirement, log: undefined }, by: own, proof: { entry: '' } });
  });

  it('takes certificates of an authority of the policy, as long as they are valid', async () => {
    const pki = (more: object): SigstoreSigned => ({
      ...fulcio,
      log: undefined,
      signer: { by: 'pki', roots: data(root.pem), between: undefined, email: undefined, hostname: undefined, ...more },
    });
    const names = alternativeNames(
      [0x81, EMAIL],
      [0x82, '*.build.Example'],
      [0x82, 'ci.example.'],
      [0x87, Buffer.from([10, 0, 0, 1])],
      [0x87, Buffer.from('20010db8000000000000000000000001', 'hex')],
    );
    const leaf = makeCertificate({ by: middle, extensions: [codeSigning, names] });
    for (const wanted of [
      { email: EMAIL },
      { hostname: 'one.build.example' },
      { hostname: 'CI.example' },
      { hostname: '10.0.0.1' },
      { hostname: '2001:db8::1' },
      { email: EMAIL, hostname: 'ci.example' },
    ])
      await check({ leaf, requirement: pki(wanted) });
    await check({ leaf, requirement: pki({ email: EMAIL, between: data(middle.pem) }), proof: { chain: '' } });
    const at = (hostname: string): Case => ({ leaf, requirement: pki({ hostname }) });
    await refused({
      expired: [{ requirement: pki({ email: EMAIL }) }, /had expired/],
      'another email': [{ leaf, requirement: pki({ email: 'eve@example.org' }) }, /want subjectEmail/],
      'one right, one wrong': [{ leaf, requirement: pki({ email: EMAIL, hostname: 'x' }) }, /want subjectHostname "x"/],
      'a star for two labels': [at('a.b.build.example'), /is of "\*\.build\.Example, ci\.example\."; want/],
      'a star for none': [at('build.example'), /want subjectHostname/],
      'another address': [at('10.0.0.2'), /want subjectHostname/],
      'the one between is missing': [
        { leaf, requirement: pki({ email: EMAIL }), proof: { chain: '' } },
        /does not name/,
      ],
      none: [{ requirement: pki({ email: EMAIL }), proof: { certificate: '' } }, /no certificate came with it/],
    });
  });

  it("says which of the policy's own files is of no use", async () => {
    const signer = (more: object): SigstoreSigned => ({ ...fulcio, signer: { ...fulcio.signer, ...more } as never });
    await refused({
      'no certificate': [
        { requirement: signer({ roots: data('x') }) },
        /"caData" has no certificate in PEM that can be used/,
      ],
      'no file': [
        { requirement: signer({ roots: { from: 'files', paths: ['/none/ca.pem'] } }) },
        /the certificate "\/none\/ca\.pem" cannot be read/,
      ],
      "a log's key that is none": [
        { requirement: { ...fulcio, log: data('x') } },
        /"rekorPublicKeyData" is not a public/,
      ],
      "a log's key of another kind": [
        { requirement: { ...fulcio, log: data(log.pem, makeKey('ed25519').pem) } },
        /"rekorPublicKeyDatas\[1\]" of a transparency log is not an ECDSA key/,
      ],
      'damaged ones between': [
        {
          requirement: signer({
            by: 'pki',
            roots: data(root.pem),
            between: data('-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----'),
          }),
        },
        /"caIntermediatesData" is not certificates in PEM: certificate 1 is damaged/,
      ],
    });
  });
});
