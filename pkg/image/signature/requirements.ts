/**
 * policy.json (containers-policy.json(5)): which requirements an image has to meet, and what a signature may call it.
 *
 *     { "default": [requirement, …], "transports": { "docker": { "<scope>": [requirement, …], … } } }
 *
 * The most specific scope decides alone; all of its requirements have to be met. The file is read as strictly as the
 * container tools read it: one unknown or repeated member anywhere refuses all of it, since a typo in a security policy
 * must not turn into "no requirement". Pure.
 */
import { RuntimeError } from '../../base/errors.ts';
import { quote } from '../../base/ids.ts';
import {
  complete,
  DOCKER_DOMAIN,
  formatReference,
  isDomain,
  parseName,
  parseReference,
  repositoryName,
} from '../../oci/reference.ts';
import type { Reference } from '../../oci/reference.ts';
import { members, parseStrictJson, textOf } from './strict-json.ts';
import type { Members } from './strict-json.ts';

/** Public keys: files that are read when they are needed, or the keys themselves. */
export type Keys =
  | { readonly from: 'files'; readonly paths: readonly string[] }
  | { readonly from: 'policy'; readonly datas: readonly Buffer[] };

/** What a signature has to call the image. */
export type SignedIdentity =
  | { readonly type: 'matchExact' | 'matchRepoDigestOrExact' | 'matchRepository' }
  | { readonly type: 'exactReference'; readonly dockerReference: string }
  | { readonly type: 'exactRepository'; readonly dockerRepository: string }
  | { readonly type: 'remapIdentity'; readonly prefix: string; readonly signedPrefix: string };

/** One thing that is wanted of an image. */
export type Requirement =
  | { readonly type: 'insecureAcceptAnything' | 'reject' | 'signedBaseLayer' }
  | { readonly type: 'signedBy'; readonly keyType: string; readonly keys: Keys; readonly identity: SignedIdentity }
  | {
      readonly type: 'sigstoreSigned';
      readonly signer: Signer;
      /** Of a transparency log; undefined = no entry is wanted. */
      readonly log: Keys | undefined;
      readonly identity: SignedIdentity;
    };

/** Who must have signed with sigstore: somebody with a key, or with a certificate from an authority. */
export type Signer =
  | { readonly by: 'key'; readonly keys: Keys }
  /** The certificate lives for minutes: a log's entry says when it was used, so there is one. */
  | { readonly by: 'fulcio'; readonly roots: Keys; readonly issuer: string; readonly email: string }
  | {
      readonly by: 'pki';
      readonly roots: Keys;
      readonly between: Keys | undefined;
      readonly email: string | undefined;
      readonly hostname: string | undefined;
    };

/** A whole policy.json. */
export interface SignaturePolicy {
  readonly default: readonly Requirement[];
  /** Of the transport `docker`, by scope. */
  readonly docker: ReadonlyMap<string, readonly Requirement[]>;
}

/** Reads policy.json. @throws InvalidArgument that says what is wrong where in it. */
export function parsePolicy(bytes: Uint8Array): SignaturePolicy {
  const document = members(parseStrictJson(bytes, 'it'), 'it', ['default'], ['transports']);
  let docker: SignaturePolicy['docker'] = new Map();
  for (const [transport, scopes] of Object.hasOwn(document, 'transports')
    ? entries(document['transports'], '"transports"')
    : []) {
    // Those of other transports do not concern a node, but a policy with a mistake in it is not a policy.
    const read = new Map(
      entries(scopes, `transport ${quote(transport)}`).map(
        ([scope, list]) => [scope, readList(list, `${transport} ${quote(scope)}`)] as const,
      ),
    );
    if (transport === 'docker') docker = read;
  }
  return { default: readList(document['default'], '"default"'), docker };
}

/** The requirements for `reference` and the scope that they stand under, for messages. */
export function requirementsFor(
  policy: SignaturePolicy,
  reference: Reference,
): { readonly scope: string; readonly requirements: readonly Requirement[] } {
  for (const scope of [...scopesOf(reference), '']) {
    const requirements = policy.docker.get(scope);
    if (requirements !== undefined) return { scope: `docker ${quote(scope, 300)}`, requirements };
  }
  return { scope: '"default"', requirements: policy.default };
}

/**
 * Where policy.json and registries.d look for `reference`, most specific first: the image itself, its repository, each
 * namespace above that, the host with its port, then `*.` wildcards for the host without its port.
 */
export function scopesOf(reference: Reference): string[] {
  const scopes = [formatReference(identityOf(reference))];
  for (let scope = repositoryName(reference); scope !== ''; scope = scope.slice(0, Math.max(0, scope.lastIndexOf('/'))))
    scopes.push(scope);
  const labels = withoutPort(reference.domain).split('.');
  for (let i = 1; i < labels.length; i++) scopes.push(`*.${labels.slice(i).join('.')}`);
  return scopes;
}

/** What an image is called where policies speak of it: beside a digest a tag says nothing. */
export function identityOf(reference: Reference): Reference {
  return reference.digest === undefined ? reference : { ...reference, tag: undefined };
}

/**
 * Whether a signature that calls the image `signed` may vouch for `reference`. Text that is no reference never does.
 */
export function identityMatches(identity: SignedIdentity, reference: Reference, signed: string): boolean {
  const named = parsed(signed);
  if (named === undefined) return false;
  const wanted = identityOf(reference);
  switch (identity.type) {
    case 'matchExact':
      return isSame(wanted, named);
    case 'matchRepoDigestOrExact':
      return matchesRepoDigestOrExact(wanted, named);
    case 'matchRepository':
      return repositoryName(wanted) === repositoryName(named);
    case 'exactReference':
      return isSame(parseReference(identity.dockerReference), named);
    case 'exactRepository':
      return repositoryName(parseReference(identity.dockerRepository)) === repositoryName(named);
    case 'remapIdentity': {
      const remapped = remap(identity, wanted);
      return remapped !== undefined && matchesRepoDigestOrExact(remapped, named);
    }
  }
}

/** An identity in words, for messages. */
export function describeIdentity(identity: SignedIdentity, reference: Reference): string {
  const name = quote(formatReference(identityOf(reference)), 300);
  switch (identity.type) {
    case 'exactReference':
      return `exactReference ${quote(identity.dockerReference, 300)}`;
    case 'exactRepository':
      return `exactRepository ${quote(identity.dockerRepository, 300)}`;
    case 'remapIdentity':
      return `remapIdentity from ${quote(identity.prefix, 300)} to ${quote(identity.signedPrefix, 300)} of ${name}`;
    case 'matchExact':
    case 'matchRepoDigestOrExact':
    case 'matchRepository':
      return `${identity.type} of ${name}`;
  }
}

/**
 * A signature for one tag does not vouch for another; where the user gave the digest, the digest says which image it is
 * and any tag of the repository will do.
 */
function matchesRepoDigestOrExact(wanted: Reference, named: Reference): boolean {
  if (isNameOnly(named)) return false;
  return wanted.tag === undefined && wanted.digest !== undefined
    ? repositoryName(wanted) === repositoryName(named)
    : isSame(wanted, named);
}

function isSame(wanted: Reference, named: Reference): boolean {
  return !isNameOnly(wanted) && !isNameOnly(named) && formatReference(wanted) === formatReference(named);
}

function isNameOnly(reference: Reference): boolean {
  return reference.tag === undefined && reference.digest === undefined;
}

/** `wanted` under its signed name; itself if the prefix is another's; undefined if the result is no name in full. */
function remap(
  { prefix, signedPrefix }: { readonly prefix: string; readonly signedPrefix: string },
  wanted: Reference,
): Reference | undefined {
  const name = repositoryName(wanted);
  if (name !== prefix && !name.startsWith(`${prefix}/`)) return wanted;
  const text = `${signedPrefix}${formatReference(wanted).slice(prefix.length)}`;
  const remapped = parsed(text);
  return remapped !== undefined && formatReference(remapped) === text ? remapped : undefined;
}

function parsed(text: string): Reference | undefined {
  try {
    return complete(parseName(text), DOCKER_DOMAIN);
  } catch {
    return undefined;
  }
}

function withoutPort(domain: string): string {
  const colon = domain.indexOf(':');
  return colon < 0 ? domain : domain.slice(0, colon);
}

function readList(value: unknown, where: string): readonly Requirement[] {
  if (!Array.isArray(value) || value.length === 0) throw bad(`${where} must be a list of at least one requirement`);
  return value.map((each: unknown, index) => readRequirement(each, `requirement ${index + 1} of ${where}`));
}

function readRequirement(value: unknown, where: string): Requirement {
  const type = typeOf(value, where);
  switch (type) {
    case 'insecureAcceptAnything':
    case 'reject':
      members(value, where, ['type']);
      return { type };
    case 'signedBaseLayer':
      members(value, where, ['type', 'baseLayerIdentity']);
      return { type };
    case 'signedBy':
      return readSignedBy(
        members(value, where, ['type', 'keyType'], ['keyPath', 'keyPaths', 'keyData', 'signedIdentity']),
        where,
      );
    case 'sigstoreSigned':
      return readSigstoreSigned(
        members(value, where, ['type'], [...KEY_SOURCES, ...AUTHORITIES, ...LOG_KEYS, 'signedIdentity']),
        where,
      );
    default:
      throw bad(`${where} has the type ${quote(type)}, which is not known`);
  }
}

const KEY_TYPES: readonly string[] = ['GPGKeys', 'signedByGPGKeys', 'X509Certificates', 'signedByX509CAs'];
const AUTHORITIES: readonly string[] = ['fulcio', 'pki'];
const PKI: readonly string[] = [
  'caRootsPath',
  'caRootsData',
  'caIntermediatesPath',
  'caIntermediatesData',
  'subjectEmail',
  'subjectHostname',
];
const LOG_KEYS: readonly string[] = [
  'rekorPublicKeyPath',
  'rekorPublicKeyPaths',
  'rekorPublicKeyData',
  'rekorPublicKeyDatas',
];
const KEY_SOURCES: readonly string[] = ['keyPath', 'keyPaths', 'keyData', 'keyDatas'];

function readSignedBy(from: Members, where: string): Requirement {
  const keyType = textOf(from, 'keyType', where);
  if (!KEY_TYPES.includes(keyType)) throw bad(`${where} has the keyType ${quote(keyType)}; want GPGKeys`);
  const sources = ['keyPath', 'keyPaths', 'keyData'].filter((key) => Object.hasOwn(from, key));
  if (sources.length !== 1) throw bad(`${where} must have exactly one of keyPath, keyPaths and keyData`);
  return {
    type: 'signedBy',
    keyType,
    keys: readKeys(from, sources[0] ?? '', where),
    identity: readIdentity(from, where),
  };
}

function readSigstoreSigned(from: Members, where: string): Requirement {
  const given = (keys: readonly string[]): string[] => keys.filter((key) => Object.hasOwn(from, key));
  const [source = '', ...others] = given([...KEY_SOURCES, ...AUTHORITIES]);
  if (source === '' || others.length > 0)
    throw bad(`${where} must have exactly one of ${[...KEY_SOURCES, ...AUTHORITIES].join(', ')}`);
  const [log, ...logs] = given(LOG_KEYS);
  if (logs.length > 0) throw bad(`${where} must have at most one of ${LOG_KEYS.join(', ')}`);
  if (source === 'fulcio' && log === undefined)
    throw bad(`${where} has fulcio and so must have one of ${LOG_KEYS.join(', ')}`);
  if (source === 'pki' && log !== undefined) throw bad(`${where} has pki, which does not go with ${log}`);
  return {
    type: 'sigstoreSigned',
    signer: readSigner(from, source, where),
    log: log === undefined ? undefined : readKeys(from, log, where),
    identity: readIdentity(from, where),
  };
}

function readSigner(from: Members, source: string, where: string): Signer {
  const what = `${source} of ${where}`;
  if (source === 'fulcio') {
    const fulcio = members(from[source], what, ['oidcIssuer', 'subjectEmail'], ['caPath', 'caData']);
    const roots = oneOf(fulcio, 'caPath', 'caData', what);
    if (roots === undefined) throw bad(`${what} must have one of caPath and caData`);
    const [issuer, email] = [textOf(fulcio, 'oidcIssuer', what), textOf(fulcio, 'subjectEmail', what)];
    return { by: 'fulcio', roots, issuer, email };
  }
  if (source === 'pki') {
    const pki = members(from[source], what, [], PKI);
    const roots = oneOf(pki, 'caRootsPath', 'caRootsData', what);
    if (roots === undefined) throw bad(`${what} must have one of caRootsPath and caRootsData`);
    const subject = (key: string): string | undefined => (Object.hasOwn(pki, key) ? textOf(pki, key, what) : undefined);
    const [email, hostname] = [subject('subjectEmail'), subject('subjectHostname')];
    if (email === undefined && hostname === undefined)
      throw bad(`${what} must have one of subjectEmail and subjectHostname, or both`);
    return {
      by: 'pki',
      roots,
      between: oneOf(pki, 'caIntermediatesPath', 'caIntermediatesData', what),
      email,
      hostname,
    };
  }
  return { by: 'key', keys: readKeys(from, source, where) };
}

/** Certificates at a path or in the policy itself; undefined without either. */
function oneOf(from: Members, path: string, data: string, what: string): Keys | undefined {
  const given = [path, data].filter((key) => Object.hasOwn(from, key));
  if (given.length > 1) throw bad(`${what} must have only one of ${path} and ${data}`);
  return given[0] === undefined ? undefined : readKeys(from, given[0], what);
}

/** A member that ends in `s` is a list. */
function readKeys(from: Members, key: string, where: string): Keys {
  const texts = key.endsWith('s') ? textsOf(from, key, where) : [textOf(from, key, where)];
  return /Paths?$/.test(key)
    ? { from: 'files', paths: texts }
    : { from: 'policy', datas: texts.map((text) => base64(text, `${where}: ${key}`)) };
}

function readIdentity(from: Members, where: string): SignedIdentity {
  if (!Object.hasOwn(from, 'signedIdentity')) return { type: 'matchRepoDigestOrExact' };
  const value = from['signedIdentity'];
  const what = `signedIdentity of ${where}`;
  const type = typeOf(value, what);
  switch (type) {
    case 'matchExact':
    case 'matchRepoDigestOrExact':
    case 'matchRepository':
      members(value, what, ['type']);
      return { type };
    case 'exactReference': {
      const dockerReference = textOf(members(value, what, ['type', 'dockerReference']), 'dockerReference', what);
      const reference = parsed(dockerReference);
      if (reference === undefined || isNameOnly(reference))
        throw bad(`${what}: dockerReference ${quote(dockerReference)} is not a name with a tag or a digest`);
      return { type, dockerReference };
    }
    case 'exactRepository': {
      const dockerRepository = textOf(members(value, what, ['type', 'dockerRepository']), 'dockerRepository', what);
      if (parsed(dockerRepository) === undefined)
        throw bad(`${what}: dockerRepository ${quote(dockerRepository)} is not a name`);
      return { type, dockerRepository };
    }
    case 'remapIdentity': {
      const pair = members(value, what, ['type', 'prefix', 'signedPrefix']);
      return { type, prefix: readPrefix(pair, 'prefix', what), signedPrefix: readPrefix(pair, 'signedPrefix', what) };
    }
    default:
      throw bad(`${what} has the type ${quote(type)}, which is not known`);
  }
}

/** A host, or a host with a path; no tag, no digest. */
function readPrefix(from: Members, key: string, what: string): string {
  const text = textOf(from, key, what);
  const reference = parsed(text);
  if (isDomain(text) || (reference !== undefined && isNameOnly(reference) && repositoryName(reference) === text))
    return text;
  // docker.io/library is a namespace, and by itself reads as a repository called docker.io/library/library.
  const name = text.split('/');
  if (
    reference !== undefined &&
    isNameOnly(reference) &&
    name.length > 1 &&
    isDomain(name[0] ?? '') &&
    reference.domain === name[0]
  )
    return text;
  throw bad(`${what}: ${key} ${quote(text)} is not a registry host, with or without a path`);
}

function entries(value: unknown, what: string): [string, unknown][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(`${what} is not an object`);
  return Object.entries(value);
}

function typeOf(value: unknown, what: string): string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(`${what} is not an object`);
  return textOf(value as Members, 'type', what);
}

function textsOf(from: Members, key: string, what: string): readonly string[] {
  const value = from[key];
  if (!Array.isArray(value) || value.length === 0 || !value.every((each) => typeof each === 'string' && each !== ''))
    throw bad(`${what}: ${key} must be a list of texts`);
  return value as string[];
}

/** Base64 with padding; line breaks inside are customary. */
function base64(text: string, what: string): Buffer {
  const compact = text.replace(/[\r\n]/g, '');
  if (compact.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(compact)) throw bad(`${what} is not base64`);
  return Buffer.from(compact, 'base64');
}

function bad(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}
