/**
 * Files with credentials: docker's config.json, containers' auth.json (containers-auth.json(5)), the old .dockercfg.
 *
 * No error carries a secret: JSON that does not parse is reported without the parser's message, which would quote it.
 * Pure.
 */
import { explain, RuntimeError } from '../../base/errors.ts';
import { GoObject, isObject } from '../../base/go.ts';
import type { PlainObject } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';
import { parseJson } from '../../base/json.ts';
import { withoutEnd } from '../../base/text.ts';

/** Who somebody is to a registry. */
export type Credentials =
  /** `unread`: where there may have been some, and why nothing came of it. */
  | { readonly kind: 'none'; readonly unread?: readonly string[] }
  | { readonly kind: 'password'; readonly username: string; readonly password: string }
  /** An OAuth2 refresh token for the token server (`identity_token`). */
  | { readonly kind: 'identity'; readonly token: string }
  /** A bearer token for the registry itself (`registry_token`). */
  | { readonly kind: 'bearer'; readonly token: string };

/** Nobody in particular. */
export const anonymous: Credentials = { kind: 'none' };

/** What one file says. */
export interface AuthFile {
  /** By `host` or `host/path`. An entry that makes no sense is an error for whoever needs it, and nobody else. */
  readonly entries: ReadonlyMap<string, Credentials | RuntimeError>;
  /** By host; '' = none, and the store is not asked either. */
  readonly helpers: ReadonlyMap<string, string>;
  /** The helper for all other hosts; '' = none. */
  readonly store: string;
}

/** Reads one file. @throws FailedPrecondition that names `path` and nothing of what is in it. */
export function parseAuthFile(bytes: Buffer, path: string): AuthFile {
  const raw = parseSecretJson(bytes, path);
  const document = new GoObject(raw);
  // .dockercfg is the inner map alone.
  const isModern = ['auths', 'credHelpers', 'credsStore'].some((key) => document.has(key));
  const entries = new Map<string, Credentials | RuntimeError>();
  for (const [key, value] of membersOf(isModern ? document.get('auths') : raw)) {
    const found = entryCredentials(value, `${path}: the entry for ${quote(key)}`);
    // The first spelling of a host wins, as in docker.
    if (found !== undefined && !entries.has(authKey(key))) entries.set(authKey(key), found);
  }
  const helpers = new Map<string, string>();
  for (const [key, value] of membersOf(document.get('credHelpers'))) {
    const helper = value ?? '';
    if (typeof helper === 'string') helpers.set(authKey(key), helper);
  }
  const store = document.get('credsStore');
  return { entries, helpers, store: typeof store === 'string' ? store : '' };
}

function membersOf(value: unknown): readonly (readonly [string, unknown])[] {
  return isObject(value) ? Object.entries(value) : [];
}

function entryCredentials(value: unknown, where: string): Credentials | RuntimeError | undefined {
  const entry = GoObject.of(value);
  const text = (key: string): string => {
    const found = entry?.get(key);
    return typeof found === 'string' ? found : '';
  };
  if (text('identitytoken') !== '') return { kind: 'identity', token: text('identitytoken') };
  if (text('auth') !== '') {
    try {
      return decodeAuth(text('auth'), where);
    } catch (error) {
      return new RuntimeError('FailedPrecondition', explain(error));
    }
  }
  if (text('username') !== '' || text('password') !== '')
    return { kind: 'password', username: text('username'), password: text('password') };
  if (text('registrytoken') !== '') return { kind: 'bearer', token: text('registrytoken') };
  return undefined;
}

/**
 * base64 of `user:password` as clients of all ages write it: any padding, url-safe letters, NULs at the end, colons in
 * the password. @throws InvalidArgument for anything else; it names `where`.
 */
export function decodeAuth(text: string, where: string): Credentials {
  const clean = withoutEnd(text.replace(/[\s\0]+/g, ''), '=');
  const decoded = /^[A-Za-z0-9+/_-]*$/.test(clean) ? Buffer.from(clean, 'base64').toString('utf8') : '';
  const colon = decoded.indexOf(':');
  if (colon < 0) throw new RuntimeError('InvalidArgument', `${where} is not base64 of user:password`);
  return {
    kind: 'password',
    username: decoded.slice(0, colon).replace(/^\0+/, ''),
    password: withoutEnd(decoded.slice(colon + 1), '\0'),
  };
}

/**
 * `registry.example:5000` out of anything that people write for a registry: with scheme, path, or docker's many names.
 */
export function registryHost(text: string): string {
  const bare = text.trim().replace(/^https?:\/\//i, '');
  const slash = bare.indexOf('/');
  return dockerHub((slash < 0 ? bare : bare.slice(0, slash)).toLowerCase());
}

function dockerHub(host: string): string {
  return host === 'index.docker.io' || host === 'registry-1.docker.io' || host === 'registry.docker.io'
    ? 'docker.io'
    : host;
}

/**
 * A key with a scheme or an API version names a host (docker); otherwise it may name a path below it
 * (containers-auth.json).
 */
function authKey(key: string): string {
  const whole = withoutEnd(key.trim(), '/');
  const bare = whole.replace(/^https?:\/\//i, '');
  if (bare !== whole || /^[^/]+\/v[12]$/.test(bare)) return registryHost(bare);
  const slash = bare.indexOf('/');
  return slash < 0 ? registryHost(bare) : `${registryHost(bare.slice(0, slash))}${bare.slice(slash)}`;
}

/** JSON that may hold secrets. The parser's own message quotes its input, so it is not passed on. */
export function parseSecretJson(bytes: Buffer, what: string): PlainObject {
  let value: unknown;
  try {
    value = parseJson(bytes.toString('utf8'));
  } catch {
    throw new RuntimeError('FailedPrecondition', `${what} is not valid JSON`);
  }
  if (!isObject(value)) throw new RuntimeError('FailedPrecondition', `${what} is not a JSON object`);
  return value;
}
