import { expect } from 'chai';
import { describeEmptiness } from '../../base/fake-emptiness.ts';
import type { PlainObject } from '../../base/go.ts';
import { parseReference, withDefaultTag } from '../../oci/reference.ts';
import { identityMatches, parsePolicy, requirementsFor, scopesOf } from './requirements.ts';
import type { SignedIdentity } from './requirements.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;
const accept = [{ type: 'insecureAcceptAnything' }];
const parse = (value: unknown): ReturnType<typeof parsePolicy> =>
  parsePolicy(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)));
const policyWith = (requirement: unknown): unknown => ({ default: [requirement] });
const reference = (text: string): ReturnType<typeof parseReference> => withDefaultTag(parseReference(text));

const keys = Buffer.from('KEY').toString('base64');
/** Requirements of every kind, and what is read of them. */
const WRITTEN = [
  { type: 'insecureAcceptAnything' },
  { type: 'reject' },
  { type: 'signedBaseLayer', baseLayerIdentity: { type: 'matchExact' } },
  { type: 'signedBy', keyType: 'GPGKeys', keyPath: '/k' },
  { type: 'signedBy', keyType: 'GPGKeys', keyPaths: ['/k', '/l'], signedIdentity: { type: 'matchExact' } },
  { type: 'signedBy', keyType: 'signedByGPGKeys', keyData: keys },
  {
    type: 'sigstoreSigned',
    keyDatas: [keys, `${keys.slice(0, 2)}\n${keys.slice(2)}`],
    signedIdentity: { type: 'exactReference', dockerReference: 'busybox:1' },
  },
  {
    type: 'sigstoreSigned',
    keyData: keys,
    rekorPublicKeyPath: '/r',
    signedIdentity: { type: 'exactRepository', dockerRepository: 'a.example/b' },
  },
  {
    type: 'sigstoreSigned',
    fulcio: { caPath: '/c', oidcIssuer: 'i', subjectEmail: 's' },
    rekorPublicKeyData: keys,
  },
  {
    type: 'sigstoreSigned',
    pki: { caRootsPath: '/c', caIntermediatesData: keys, subjectHostname: 'h' },
    signedIdentity: { type: 'remapIdentity', prefix: 'mirror.example:5000', signedPrefix: 'docker.io/library' },
  },
];
const READ = [
  { type: 'insecureAcceptAnything' },
  { type: 'reject' },
  { type: 'signedBaseLayer' },
  {
    type: 'signedBy',
    keyType: 'GPGKeys',
    keys: { from: 'files', paths: ['/k'] },
    identity: { type: 'matchRepoDigestOrExact' },
  },
  {
    type: 'signedBy',
    keyType: 'GPGKeys',
    keys: { from: 'files', paths: ['/k', '/l'] },
    identity: { type: 'matchExact' },
  },
  {
    type: 'signedBy',
    keyType: 'signedByGPGKeys',
    keys: { from: 'policy', datas: [Buffer.from('KEY')] },
    identity: { type: 'matchRepoDigestOrExact' },
  },
  {
    type: 'sigstoreSigned',
    signer: { by: 'key', keys: { from: 'policy', datas: [Buffer.from('KEY'), Buffer.from('KEY')] } },
    log: undefined,
    identity: { type: 'exactReference', dockerReference: 'busybox:1' },
  },
  {
    type: 'sigstoreSigned',
    signer: { by: 'key', keys: { from: 'policy', datas: [Buffer.from('KEY')] } },
    log: { from: 'files', paths: ['/r'] },
    identity: { type: 'exactRepository', dockerRepository: 'a.example/b' },
  },
  {
    type: 'sigstoreSigned',
    signer: { by: 'fulcio', roots: { from: 'files', paths: ['/c'] }, issuer: 'i', email: 's' },
    log: { from: 'policy', datas: [Buffer.from('KEY')] },
    identity: { type: 'matchRepoDigestOrExact' },
  },
  {
    type: 'sigstoreSigned',
    signer: {
      by: 'pki',
      roots: { from: 'files', paths: ['/c'] },
      between: { from: 'policy', datas: [Buffer.from('KEY')] },
      email: undefined,
      hostname: 'h',
    },
    log: undefined,
    identity: { type: 'remapIdentity', prefix: 'mirror.example:5000', signedPrefix: 'docker.io/library' },
  },
];

const signed = { type: 'signedBy', keyType: 'GPGKeys', keyPath: '/k' };
const sigstore = { type: 'sigstoreSigned', keyPath: '/k' };
const fulcio = { caPath: '/c', oidcIssuer: 'i', subjectEmail: 's' };
const log = { rekorPublicKeyPath: '/r' };
/** What is refused, and why. */
const REFUSED: readonly (readonly [unknown, RegExp])[] = [
  ['{', /not valid JSON/],
  ['\ufeff{"default":[{"type":"reject"}]}', /not valid JSON/],
  ['[]', /not an object/],
  [{}, /no "default"/],
  [{ default: [] }, /at least one requirement/],
  [{ default: accept, Transports: {} }, /"Transports", which is not known/],
  ['{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}', /"default" twice/],
  ['{"default":[{"type":"insecureAcceptAnything","t\\u0079pe":"reject"}]}', /"type" twice/],
  [{ default: accept, transports: null }, /"transports" is not an object/],
  [{ default: accept, transports: [] }, /"transports" is not an object/],
  [{ default: accept, transports: { docker: [] } }, /transport "docker" is not an object/],
  [{ default: accept, transports: { docker: { 'a.example': accept[0] } } }, /docker "a\.example" must be a list/],
  [
    { default: accept, transports: { atomic: { '': [{ type: 'sometimes' }] } } },
    /requirement 1 of atomic "" has the type "sometimes"/,
  ],
  [policyWith('reject'), /not an object/],
  [policyWith({}), /"type" must be text/],
  [policyWith({ type: 'reject', why: 'x' }), /"why", which is not known/],
  [policyWith({ ...signed, keyType: 'RSA' }), /keyType "RSA"/],
  [policyWith({ type: 'signedBy', keyPath: '/k' }), /no "keyType"/],
  [policyWith({ type: 'signedBy', keyType: 'GPGKeys' }), /exactly one of keyPath/],
  [policyWith({ ...signed, keyData: 'AAAA' }), /exactly one of keyPath/],
  [policyWith({ ...signed, keyDatas: ['AAAA'] }), /"keyDatas", which is not known/],
  [policyWith({ ...signed, keyPath: '' }), /"keyPath" must be text/],
  [policyWith({ type: 'sigstoreSigned' }), /exactly one of keyPath/],
  [policyWith({ ...sigstore, keyDatas: ['AAAA'] }), /exactly one of keyPath/],
  [policyWith({ ...sigstore, fulcio: {} }), /exactly one of keyPath/],
  [
    policyWith({ ...sigstore, rekorPublicKeyPath: '/a', rekorPublicKeyData: 'AAAA' }),
    /at most one of rekorPublicKeyPath/,
  ],
  ...(
    [
      [{ fulcio }, /has fulcio and so must have one of rekorPublicKeyPath/],
      [{ fulcio: null, ...log }, /fulcio of requirement 1 .* is not an object/],
      [{ fulcio: {}, ...log }, /fulcio of requirement 1 .* has no "oidcIssuer"/],
      [{ fulcio: { ...fulcio, caPath: undefined }, ...log }, /must have one of caPath and caData/],
      [{ fulcio: { ...fulcio, caData: 'AAAA' }, ...log }, /must have only one of caPath and caData/],
      [{ fulcio: { ...fulcio, oidcIssuer: '' }, ...log }, /"oidcIssuer" must be text/],
      [{ fulcio: { ...fulcio, subject: 's' }, ...log }, /"subject", which is not known/],
      [{ pki: { caRootsPath: '/c' } }, /must have one of subjectEmail and subjectHostname/],
      [{ pki: { subjectEmail: 's' } }, /must have one of caRootsPath and caRootsData/],
      [{ pki: { caRootsPath: '/c', subjectEmail: 's' }, ...log }, /pki, which does not go with rekorPublicKeyPath/],
      [
        { pki: { caRootsPath: '/c', caRootsData: 'AAAA', subjectEmail: 's' } },
        /only one of caRootsPath and caRootsData/,
      ],
      [{ fulcio, pki: {}, ...log }, /exactly one of keyPath/],
    ] as const
  ).map(([more, why]) => [policyWith({ type: 'sigstoreSigned', ...more }), why] as const),
  [policyWith({ type: 'sigstoreSigned', keyPaths: [] }), /keyPaths must be a list/],
  [policyWith({ type: 'sigstoreSigned', keyData: 'A A=' }), /keyData is not base64/],
  [policyWith({ type: 'sigstoreSigned', keyData: 'AAA' }), /keyData is not base64/],
  [policyWith({ ...sigstore, signedIdentity: null }), /signedIdentity of .* not an object/],
  [policyWith({ ...sigstore, signedIdentity: { type: 'matchSomehow' } }), /"matchSomehow"/],
  [policyWith({ ...sigstore, signedIdentity: { type: 'matchExact', x: 1 } }), /"x", which is not known/],
  [
    policyWith({ ...sigstore, signedIdentity: { type: 'exactReference', dockerReference: 'a.example/b' } }),
    /not a name with a tag/,
  ],
  [policyWith({ ...sigstore, signedIdentity: { type: 'exactRepository', dockerRepository: 'A B' } }), /not a name/],
  [policyWith({ ...sigstore, signedIdentity: { type: 'remapIdentity', prefix: 'a.example' } }), /no "signedPrefix"/],
  [
    policyWith({
      ...sigstore,
      signedIdentity: { type: 'remapIdentity', prefix: 'a.example/x:1', signedPrefix: 'b.example' },
    }),
    /not a registry host/,
  ],
  [
    policyWith({
      ...sigstore,
      signedIdentity: { type: 'remapIdentity', prefix: 'a.example', signedPrefix: 'b.example/' },
    }),
    /not a registry host/,
  ],
];

const exact: SignedIdentity = { type: 'matchExact' };
const repoDigestOrExact: SignedIdentity = { type: 'matchRepoDigestOrExact' };
const repository: SignedIdentity = { type: 'matchRepository' };
const exactly: SignedIdentity = { type: 'exactReference', dockerReference: 'v.example/p:1' };
const exactRepository: SignedIdentity = { type: 'exactRepository', dockerRepository: 'v.example/p' };
const remapped: SignedIdentity = {
  type: 'remapIdentity',
  prefix: 'm.example:5000/vendor',
  signedPrefix: 'v.example',
};
const IDENTITIES: readonly (readonly [SignedIdentity, image: string, signed: string, boolean])[] = [
  [exact, 'a.example/b:1', 'a.example/b:1', true],
  [exact, 'a.example/b:1', 'a.example/b:2', false],
  [exact, 'a.example/b:1', 'a.example/b', false],
  [exact, 'a.example/b:1', 'a.example/c:1', false],
  [exact, 'busybox', 'busybox:latest', true],
  [exact, 'busybox', 'index.docker.io/library/busybox:latest', true],
  [exact, 'busybox', 'busybox', false],
  [exact, `a.example/b@${DIGEST}`, 'a.example/b:1', false],
  [exact, `a.example/b@${DIGEST}`, `a.example/b@${DIGEST}`, true],
  [exact, `a.example/b:1@${DIGEST}`, `a.example/b@${DIGEST}`, true],
  [exact, 'a.example/b:1', 'not a reference', false],
  [repoDigestOrExact, 'a.example/b:1', 'a.example/b:1', true],
  [repoDigestOrExact, 'a.example/b:1', 'a.example/b:2', false],
  [repoDigestOrExact, 'a.example/b:1', 'a.example/b', false],
  [repoDigestOrExact, 'a.example/b:1', `a.example/b:1@${DIGEST}`, false],
  [repoDigestOrExact, `a.example/b@${DIGEST}`, 'a.example/b:9', true],
  [repoDigestOrExact, `a.example/b:1@${DIGEST}`, 'a.example/b:9', true],
  [repoDigestOrExact, `a.example/b@${DIGEST}`, `a.example/b@sha256:${'b'.repeat(64)}`, true],
  [repoDigestOrExact, `a.example/b@${DIGEST}`, 'a.example/b', false],
  [repoDigestOrExact, `a.example/b@${DIGEST}`, 'a.example/c:9', false],
  [repository, 'a.example/b:1', 'a.example/b', true],
  [repository, 'a.example/b:1', 'a.example/b:2', true],
  [repository, 'a.example/b:1', 'a.example/b/c', false],
  [repository, 'a.example/b:1', 'a.example:443/b:1', false],
  [exactly, 'a.example/b:1', 'v.example/p:1', true],
  [exactly, 'a.example/b:1', 'v.example/p:2', false],
  [exactly, 'a.example/b:1', 'v.example/p', false],
  [exactly, 'a.example/b:1', 'a.example/b:1', false],
  [exactRepository, 'a.example/b:1', 'v.example/p:7', true],
  [exactRepository, 'a.example/b:1', 'v.example/p', true],
  [exactRepository, 'a.example/b:1', 'v.example/p/q:7', false],
  [remapped, 'm.example:5000/vendor/p/i:1', 'v.example/p/i:1', true],
  [remapped, 'm.example:5000/vendor/p/i:1', 'm.example:5000/vendor/p/i:1', false],
  [remapped, 'm.example:5000/vendor/p/i:1', 'v.example/p/i:2', false],
  [remapped, `m.example:5000/vendor/p@${DIGEST}`, 'v.example/p:3', true],
  [remapped, 'm.example:5000/vendors/p:1', 'm.example:5000/vendors/p:1', true],
  [remapped, 'm.example:5000/vendors/p:1', 'v.example/s/p:1', false],
  [remapped, 'other.example/p:1', 'other.example/p:1', true],
  // What comes out must be a name in full: docker.io's library/ is not added silently.
  [
    { type: 'remapIdentity', prefix: 'm.example', signedPrefix: 'docker.io' },
    'm.example/busybox:1',
    'busybox:1',
    false,
  ],
  [
    { type: 'remapIdentity', prefix: 'm.example', signedPrefix: 'docker.io/library' },
    'm.example/busybox:1',
    'busybox:1',
    true,
  ],
  [
    { type: 'remapIdentity', prefix: 'm.example/whole', signedPrefix: 'v.example/else' },
    'm.example/whole:1',
    'v.example/else:1',
    true,
  ],
];

describe('image/signature/requirements', () => {
  it('finds the most specific scope', () => {
    const docker: Record<string, unknown> = {};
    const scopes = [
      'reg.example/team/app:v1',
      `reg.example/team/app@${DIGEST}`,
      'reg.example/team/app',
      'reg.example/team',
      'reg.example',
      '*.example',
      'port.example:5000',
      '*.deep.example',
      'docker.io/library/busybox',
      '',
    ];
    for (const scope of scopes) docker[scope] = accept;
    const policy = parse({ default: accept, transports: { docker, 'docker-archive': { '': accept } } });
    const rows: readonly (readonly [string, string])[] = [
      ['reg.example/team/app:v1', 'reg.example/team/app:v1'],
      [`reg.example/team/app@${DIGEST}`, `reg.example/team/app@${DIGEST}`],
      // Beside a digest the tag says nothing.
      [`reg.example/team/app:v1@${DIGEST}`, `reg.example/team/app@${DIGEST}`],
      ['reg.example/team/app:v2', 'reg.example/team/app'],
      ['reg.example/team/app/sub:v1', 'reg.example/team/app'],
      ['reg.example/team/application', 'reg.example/team'],
      ['reg.example/other', 'reg.example'],
      ['reg.example:443/other', '*.example'],
      ['x.example/a', '*.example'],
      ['x.y.example/a', '*.example'],
      ['x.deep.example:5000/a', '*.deep.example'],
      ['deep.example/a', '*.example'],
      ['port.example:5000/a', 'port.example:5000'],
      ['busybox', 'docker.io/library/busybox'],
      ['example/a', ''],
      ['localhost:5000/a', ''],
    ];
    for (const [text, scope] of rows)
      expect(requirementsFor(policy, reference(text)).scope, text).to.equal(`docker ${JSON.stringify(scope)}`);
    expect(
      requirementsFor(
        parse({ default: accept, transports: { dir: { '': [{ type: 'reject' }] } } }),
        reference('busybox'),
      ).scope,
    ).to.equal('"default"');
    expect(scopesOf(reference('a.b.c:5000/x/y:1'))).to.deep.equal([
      'a.b.c:5000/x/y:1',
      'a.b.c:5000/x/y',
      'a.b.c:5000/x',
      'a.b.c:5000',
      '*.b.c',
      '*.c',
    ]);
  });

  it('reads every kind of requirement', () => {
    expect(parse({ default: WRITTEN }).default).to.deep.equal(READ);
  });

  it('refuses the whole file for anything that it does not know, has twice, or misses', () => {
    for (const [value, why] of REFUSED)
      expect(() => parse(value), JSON.stringify(value))
        .to.throw(why)
        .with.property('code', 'InvalidArgument');
  });

  it('knows what a signature may call an image', () => {
    for (const [identity, image, signed, matches] of IDENTITIES)
      expect(
        identityMatches(identity, reference(image), signed),
        `${identity.type}: ${image} signed as ${signed}`,
      ).to.equal(matches);
  });
});

const signedBy = { type: 'signedBy', keyType: 'signedByGPGKeys', keyPath: '/k' };
const identified = (signedIdentity: object): PlainObject => ({
  default: [{ type: 'sigstoreSigned', keyPath: '/k', signedIdentity }],
});
/** A policy with empty values is one with mistakes, and a mistake in a policy must not turn into "no requirement". */
const STRICT = { absent: 'refused', empty: 'refused', why: 'a security policy says what it means' } as const;
const OPTIONAL = { absent: 'unset', empty: 'refused', why: 'to leave it out is the only way not to say it' } as const;
const SUBJECT = { subjectEmail: 's', subjectHostname: 'h' };
describeEmptiness({
  name: 'policy.json',
  notation: 'json',
  spelling: 'exact',
  samples: [
    { default: [signedBy], transports: { docker: { 'a.example': accept }, atomic: { '': accept } } },
    { default: [{ type: 'signedBy', keyType: 'GPGKeys', keyPaths: ['/k'] }] },
    { default: [{ type: 'signedBy', keyType: 'GPGKeys', keyData: keys }] },
    { default: [{ type: 'sigstoreSigned', keyDatas: [keys] }] },
    { default: [{ type: 'sigstoreSigned', keyPath: '/k', rekorPublicKeyPath: '/r' }] },
    { default: [{ type: 'sigstoreSigned', keyPath: '/k', rekorPublicKeyPaths: ['/r'] }] },
    { default: [{ type: 'sigstoreSigned', keyPath: '/k', rekorPublicKeyData: keys }] },
    { default: [{ type: 'sigstoreSigned', keyPath: '/k', rekorPublicKeyDatas: [keys] }] },
    { default: [{ type: 'sigstoreSigned', pki: { caRootsPath: '/c', caIntermediatesPath: '/c', ...SUBJECT } }] },
    { default: [{ type: 'sigstoreSigned', pki: { caRootsData: keys, caIntermediatesData: keys, ...SUBJECT } }] },
    { default: [{ type: 'signedBaseLayer', baseLayerIdentity: { type: 'matchExact' } }] },
    identified({ type: 'exactReference', dockerReference: 'a.example/b:1' }),
    identified({ type: 'exactRepository', dockerRepository: 'a.example/b' }),
    identified({ type: 'remapIdentity', prefix: 'm.example', signedPrefix: 'v.example' }),
  ],
  names: ['transports', 'transports.*'],
  read: parse,
  keys: {
    default: STRICT,
    'default[].type': STRICT,
    'default[].keyType': STRICT,
    'default[].keyPath': STRICT,
    'default[].keyPaths': STRICT,
    'default[].keyData': STRICT,
    'default[].keyDatas': STRICT,
    'default[].baseLayerIdentity': { absent: 'refused', empty: 'own', why: 'nobody implements it: it is never met' },
    'default[].baseLayerIdentity.type': 'ignored',
    'default[].signedIdentity': OPTIONAL,
    'default[].signedIdentity.type': STRICT,
    'default[].signedIdentity.dockerReference': STRICT,
    'default[].signedIdentity.dockerRepository': STRICT,
    'default[].signedIdentity.prefix': STRICT,
    'default[].signedIdentity.signedPrefix': STRICT,
    'default[].rekorPublicKeyPath': OPTIONAL,
    'default[].rekorPublicKeyPaths': OPTIONAL,
    'default[].rekorPublicKeyData': OPTIONAL,
    'default[].rekorPublicKeyDatas': OPTIONAL,
    'default[].pki': STRICT,
    'default[].pki.caRootsPath': STRICT,
    'default[].pki.caRootsData': STRICT,
    'default[].pki.caIntermediatesPath': OPTIONAL,
    'default[].pki.caIntermediatesData': OPTIONAL,
    'default[].pki.subjectEmail': OPTIONAL,
    'default[].pki.subjectHostname': OPTIONAL,
    transports: OPTIONAL,
    'transports.*': OPTIONAL,
    'transports.*.*': OPTIONAL,
    'transports.*.*[].type': STRICT,
  },
});
describeEmptiness({
  name: 'policy.json with fulcio',
  notation: 'json',
  spelling: 'exact',
  samples: [
    { default: [{ type: 'sigstoreSigned', fulcio, ...log }] },
    { default: [{ type: 'sigstoreSigned', fulcio: { caData: keys, oidcIssuer: 'i', subjectEmail: 's' }, ...log }] },
  ],
  read: parse,
  keys: {
    default: STRICT,
    'default[].type': STRICT,
    'default[].fulcio': STRICT,
    'default[].fulcio.caPath': STRICT,
    'default[].fulcio.caData': STRICT,
    'default[].fulcio.oidcIssuer': STRICT,
    'default[].fulcio.subjectEmail': STRICT,
    'default[].rekorPublicKeyPath': STRICT,
  },
});
