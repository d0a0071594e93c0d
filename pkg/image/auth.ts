/**
 * Who we are to a registry: credentials from the request, from files and from helpers, and the dance that turns them
 * into an Authorization header.
 *
 * Secrets live here and nowhere else. No error or log line carries one: JSON that does not parse is reported without
 * the parser's message, which would quote it. A token server is only talked to as safely as its registry
 * (CVE-2019-10214).
 */
import { createHash } from 'node:crypto';
import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { AuthConfig } from '../cri-api/types.ts';
import { ensureDir, readBounded, readDirSorted, removeFile } from '../base/files.ts';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { abortable, KeyedMutex } from '../base/sync.ts';
import { isObject } from '../oci/manifest.ts';
import { parseUrl, readBody, refuseInward, send, shortUrl } from './http.ts';
import type { HttpResponse, RouteOf, Transport } from './http.ts';

export type Credentials =
  | { readonly kind: 'none' }
  | { readonly kind: 'password'; readonly username: string; readonly password: string }
  /** An OAuth2 refresh token for the token server (`identity_token`). */
  | { readonly kind: 'identity'; readonly token: string }
  /** A bearer token for the registry itself (`registry_token`). */
  | { readonly kind: 'bearer'; readonly token: string };

export const anonymous: Credentials = { kind: 'none' };

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
 * The credentials of a CRI request. CRI's order: user name and password, then `auth`, then identity_token, then
 * registry_token. undefined if the request has none.
 * @throws InvalidArgument for an `auth` that is not base64 of `user:password`.
 */
export function requestCredentials(auth: AuthConfig | undefined): Credentials | undefined {
  if (auth === undefined) return undefined;
  if (auth.username !== '' || auth.password !== '')
    return { kind: 'password', username: auth.username, password: auth.password };
  if (auth.auth !== '') return decodeAuth(auth.auth, 'the auth field of the request');
  if (auth.identityToken !== '') return { kind: 'identity', token: auth.identityToken };
  if (auth.registryToken !== '') return { kind: 'bearer', token: auth.registryToken };
  return undefined;
}

/**
 * base64 of `user:password` as clients of all ages write it: any padding, url-safe letters, NULs at the end, colons in
 * the password.
 */
export function decodeAuth(text: string, where: string): Credentials {
  const clean = text.replace(/[\s\0]+/g, '').replace(/=+$/, '');
  const decoded = /^[A-Za-z0-9+/_-]*$/.test(clean) ? Buffer.from(clean, 'base64').toString('utf8') : '';
  const colon = decoded.indexOf(':');
  if (colon < 0) throw new RuntimeError('InvalidArgument', `${where} is not base64 of user:password`);
  return {
    kind: 'password',
    username: decoded.slice(0, colon).replace(/^\0+/, ''),
    password: decoded.slice(colon + 1).replace(/\0+$/, ''),
  };
}

/** One `WWW-Authenticate` challenge. */
export interface Challenge {
  /** Lower case. */
  readonly scheme: string;
  /** Names in lower case. */
  readonly parameters: ReadonlyMap<string, string>;
}

/**
 * Reads the challenges of one or several header lines (RFC 9110 11.6.1). What cannot be read ends the list; nothing
 * throws.
 */
export function parseChallenges(lines: readonly string[]): Challenge[] {
  const challenges: Challenge[] = [];
  for (const line of lines) challenges.push(...parseChallengeLine(line.slice(0, 8192)));
  return challenges;
}

function parseChallengeLine(line: string): Challenge[] {
  const found: { scheme: string; parameters: Map<string, string> }[] = [];
  let at = 0;
  const skip = (characters: string): void => {
    while (at < line.length && characters.includes(line.charAt(at))) at++;
  };
  const word = (): string => {
    const start = at;
    while (at < line.length && !' \t,="'.includes(line.charAt(at))) at++;
    return line.slice(start, at);
  };
  for (;;) {
    skip(' \t,');
    const name = word();
    if (name === '') return found;
    skip(' \t');
    const current = found.at(-1);
    if (line.charAt(at) !== '=') {
      found.push({ scheme: name.toLowerCase(), parameters: new Map() });
      continue;
    }
    at++;
    skip(' \t');
    const value = line.charAt(at) === '"' ? quotedString() : word();
    if (current === undefined || value === undefined) return found;
    current.parameters.set(name.toLowerCase(), value);
  }

  function quotedString(): string | undefined {
    let value = '';
    for (at++; at < line.length; at++) {
      const c = line.charAt(at);
      if (c === '"') {
        at++;
        return value;
      }
      if (c === '\\') at++;
      value += line.charAt(at);
    }
    return undefined;
  }
}

/** Whose door: what a header is good for. */
export interface Door {
  /** Any URL of the registry's API. */
  readonly url: URL;
  readonly routeOf: RouteOf;
  /** Repository path on that host. */
  readonly repository: string;
  readonly credentials: Credentials;
}

interface Token {
  readonly header: string;
  readonly expiresAtMs: number;
}

/** Turns credentials into Authorization headers; keeps tokens until shortly before they expire. */
export class Authorizer {
  readonly #transport: Transport;
  readonly #now: () => number;
  readonly #tokens = new Map<string, Token>();
  readonly #asking = new KeyedMutex<string>();

  constructor(transport: Transport, now: () => number = Date.now) {
    this.#transport = transport;
    this.#now = now;
  }

  /** The header to send first; undefined before the registry has said what it wants. */
  header(door: Door): string | undefined {
    const token = this.#tokens.get(keyOf(door));
    return token !== undefined && token.expiresAtMs > this.#now() ? token.header : undefined;
  }

  /**
   * What to send after a 401 to a request that carried `sent`. Parallel requests of one pull ask the token server once.
   * @throws Unauthenticated when there is nothing (more) to answer with; its message says where credentials were looked
   * for.
   */
  answer(op: Op, door: Door, refusal: HttpResponse, sent: string | undefined): Promise<string> {
    const key = keyOf(door);
    const asking = this.#asking.run(key, async () => {
      const current = this.header(door);
      if (current !== undefined && current !== sent) return current;
      this.#tokens.delete(key);
      const token = await this.#make(op, door, refusal, sent);
      this.#tokens.set(key, token);
      for (const oldest of this.#tokens.keys()) {
        if (this.#tokens.size <= limits.registryTokensCount) break;
        this.#tokens.delete(oldest);
      }
      return token.header;
    });
    return abortable(asking, op.signal, () =>
      abortError(op, `asking for a token for ${door.url.host}/${door.repository}`),
    );
  }

  async #make(op: Op, door: Door, refusal: HttpResponse, sent: string | undefined): Promise<Token> {
    const lines = refusal.headers['www-authenticate'];
    const challenges = parseChallenges(lines === undefined ? [] : typeof lines === 'string' ? [lines] : lines);
    const { credentials } = door;
    const forever = Number.POSITIVE_INFINITY;
    if (credentials.kind === 'bearer') {
      if (sent !== undefined) throw refused(door, 'the registry token of the request was not accepted');
      return { header: `Bearer ${headerSafe(credentials.token)}`, expiresAtMs: forever };
    }
    const bearer = challenges.find((each) => each.scheme === 'bearer' && each.parameters.has('realm'));
    if (bearer !== undefined) return this.#fetchToken(op, door, bearer);
    if (challenges.some((each) => each.scheme === 'basic')) {
      if (credentials.kind !== 'password')
        throw refused(door, 'it wants a user name and a password, and there are none for it');
      if (sent !== undefined) throw refused(door, 'user name or password are wrong');
      return { header: basicHeader(credentials), expiresAtMs: forever };
    }
    throw refused(
      door,
      challenges.length === 0
        ? 'it does not say what it wants'
        : `it wants ${quote(challenges.map((each) => each.scheme).join(', '))}, which is not supported`,
    );
  }

  async #fetchToken(op: Op, door: Door, challenge: Challenge): Promise<Token> {
    const realm = parseUrl(challenge.parameters.get('realm') ?? '');
    if (realm === undefined || (realm.protocol !== 'https:' && realm.protocol !== 'http:'))
      throw refused(door, 'its token server address cannot be read');
    if (door.url.protocol === 'https:' && realm.protocol !== 'https:') {
      throw refused(
        door,
        `it sends us to a token server without TLS (${shortUrl(realm)}); nothing was sent there (CVE-2019-10214)`,
      );
    }
    refuseInward(door.url, realm);
    const scopes = new Set([`repository:${door.repository}:pull`, challenge.parameters.get('scope') ?? '']);
    scopes.delete('');
    const service = challenge.parameters.get('service') ?? '';
    const response = await send(
      op,
      this.#transport,
      tokenRequest(realm, service, [...scopes], door.credentials),
      door.routeOf,
    );
    const body = await readBody(
      op,
      response,
      limits.registryTextBytes,
      `the answer of token server ${shortUrl(realm)}`,
    );
    if (response.status === 429 || response.status >= 500) {
      throw new RuntimeError(
        'Unavailable',
        `token server ${shortUrl(realm)} answers ${response.status}; try again later`,
        { reason: 'RegistryUnavailable' },
      );
    }
    if (response.status !== 200) {
      throw refused(
        door,
        `token server ${shortUrl(realm)} answers ${response.status} to ` +
          `${door.credentials.kind === 'none' ? 'an anonymous request' : 'these credentials'}`,
      );
    }
    return readToken(body, realm, this.#now());
  }
}

function tokenRequest(
  realm: URL,
  service: string,
  scopes: readonly string[],
  credentials: Credentials,
): Parameters<typeof send>[2] {
  if (credentials.kind === 'identity') {
    const form = new URLSearchParams({
      grant_type: 'refresh_token',
      client_id: 'berth',
      service,
      scope: scopes.join(' '),
      refresh_token: credentials.token,
    });
    return {
      method: 'POST',
      url: realm,
      headers: { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' },
      body: form.toString(),
    };
  }
  const url = new URL(realm);
  if (service !== '') url.searchParams.set('service', service);
  for (const scope of scopes) url.searchParams.append('scope', scope);
  if (credentials.kind !== 'password') return { method: 'GET', url, headers: { accept: 'application/json' } };
  url.searchParams.set('account', credentials.username);
  return { method: 'GET', url, headers: { accept: 'application/json', authorization: basicHeader(credentials) } };
}

function readToken(body: Buffer, realm: URL, now: number): Token {
  const answer = parseSecretJson(body, `the answer of token server ${shortUrl(realm)}`);
  const token = answer['token'] ?? answer['access_token'];
  if (typeof token !== 'string' || token === '')
    throw new RuntimeError('Unauthenticated', `token server ${shortUrl(realm)} answers without a token`);
  // Docker's token specification: 60 seconds unless said otherwise, and never less. A tenth off, for clocks and slow
  // lines.
  const seconds = typeof answer['expires_in'] === 'number' && answer['expires_in'] > 60 ? answer['expires_in'] : 60;
  return { header: `Bearer ${headerSafe(token)}`, expiresAtMs: now + seconds * 900 };
}

function basicHeader(credentials: { readonly username: string; readonly password: string }): string {
  return `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')}`;
}

function headerSafe(token: string): string {
  if (!/^[\x21-\x7e]+$/.test(token))
    throw new RuntimeError('Unauthenticated', 'the token for the registry has characters that no header can carry');
  return token;
}

function refused(door: Door, why: string): RuntimeError {
  const hint =
    door.credentials.kind === 'none'
      ? '; no credentials were found for it in the request, the auth files or the helpers'
      : '';
  return new RuntimeError(
    'Unauthenticated',
    `registry ${door.url.host} refuses ${quote(door.repository)}: ${why}${hint}`,
  );
}

/** Credentials enter only as a hash: the key lives as long as the token, and keys get into heap dumps. */
function keyOf(door: Door): string {
  return createHash('sha256')
    .update(JSON.stringify([door.url.origin, door.repository, door.credentials]))
    .digest('hex');
}

/** Runs `docker-credential-<name> get` with `input` on its stdin; bounded in time and output by whoever passes it. */
export type RunHelper = (
  op: Op,
  program: string,
  argument: 'get',
  input: string,
) => Promise<{ readonly exitCode: number; readonly stdout: string }>;

export interface CredentialOptions {
  /** `global_auth_file`: if set, the only file beside the namespace's own. */
  readonly globalAuthFile?: string | undefined;
  /** Looked at in order; absent ones are skipped. See `defaultAuthFiles`. */
  readonly authFiles: readonly string[];
  /**
   * `namespaced_auth_dir`: `<namespace>-<sha256 of the image>.json`, written by CRI-O's credential provider for one
   * pull.
   */
  readonly namespacedAuthDir?: string | undefined;
  readonly runHelper?: RunHelper | undefined;
}

/** Where podman, CRI-O and docker keep the credentials of root, in their order. */
export function defaultAuthFiles(environment: Readonly<Record<string, string | undefined>>): string[] {
  const home = environment['HOME'] ?? '/root';
  const files = [
    '/run/containers/0/auth.json',
    join(home, '.config/containers/auth.json'),
    join(home, '.docker/config.json'),
    join(home, '.dockercfg'),
  ];
  const own = environment['REGISTRY_AUTH_FILE'] ?? '';
  return own === '' ? files : [own];
}

/**
 * The credentials that the node has for registries. Files are read at each pull: what is not kept cannot be stale or
 * leak.
 */
export class NodeCredentials {
  readonly #options: CredentialOptions;

  constructor(options: CredentialOptions) {
    this.#options = options;
  }

  /**
   * The best match for `name` (`host/path`), most specific key first; `helpers` is registries.conf's
   * credential-helpers.
   * @throws FailedPrecondition for a file that exists and cannot be read; it names the file, never its content.
   */
  async find(
    op: Op,
    name: string,
    namespaceFile: string | undefined,
    helpers: readonly string[],
  ): Promise<Credentials> {
    const shared = this.#options.globalAuthFile ?? '';
    const files = [
      ...(namespaceFile === undefined ? [] : [namespaceFile]),
      ...(shared === '' ? this.#options.authFiles : [shared]),
    ];
    for (const path of files) {
      const file = await readAuthFile(path);
      const found = file === undefined ? undefined : await this.#inFile(op, file, name);
      if (found !== undefined) return found;
    }
    for (const helper of helpers) {
      const found = helper === 'containers-auth.json' ? undefined : await this.#ask(op, helper, hostPart(name));
      if (found !== undefined) return found;
    }
    return anonymous;
  }

  /**
   * Takes the namespace's one-time auth file for `images` (the spellings it may have been written for), if there is
   * one: it is moved to `in-use/` while the pull goes on, and `release` deletes it.
   */
  async claim(
    namespace: string,
    images: readonly string[],
  ): Promise<{ readonly path: string; release(): Promise<void> } | undefined> {
    const directory = this.#options.namespacedAuthDir ?? '';
    // A namespace is a DNS label; it becomes part of a file name.
    if (directory === '' || !/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(namespace)) return undefined;
    const names = new Set(await readdir(directory).catch(() => [] as string[]));
    for (const image of images) {
      const name = `${namespace}-${createHash('sha256').update(image).digest('hex')}.json`;
      if (!names.has(name)) continue;
      const used = join(directory, 'in-use', name);
      await ensureDir(join(directory, 'in-use'));
      await rename(join(directory, name), used);
      return { path: used, release: () => removeFile(used) };
    }
    return undefined;
  }

  /** Deletes one-time files that a daemon which died in a pull left in use. */
  async forgetUsed(): Promise<void> {
    const directory = this.#options.namespacedAuthDir ?? '';
    if (directory === '') return;
    for (const name of await readDirSorted(join(directory, 'in-use')).catch(() => [] as string[]))
      if (name.endsWith('.json')) await removeFile(join(directory, 'in-use', name));
  }

  async #inFile(op: Op, file: AuthFile, name: string): Promise<Credentials | undefined> {
    const host = hostPart(name);
    const helper = file.helpers.get(host);
    if (helper !== undefined) {
      const found = await this.#ask(op, helper, host);
      if (found !== undefined) return found;
    }
    for (let key = name; key !== ''; key = key.slice(0, Math.max(0, key.lastIndexOf('/')))) {
      const found = file.entries.get(key);
      if (found !== undefined) return found;
    }
    return file.store === undefined ? undefined : this.#ask(op, file.store, host);
  }

  async #ask(op: Op, helper: string, host: string): Promise<Credentials | undefined> {
    const run = this.#options.runHelper;
    if (run === undefined) return undefined;
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(helper))
      throw new RuntimeError('FailedPrecondition', `${quote(helper)} is not the name of a credential helper`);
    const server = host === 'docker.io' ? 'https://index.docker.io/v1/' : host;
    const { exitCode, stdout } = await run(op, `docker-credential-${helper}`, 'get', server);
    if (exitCode !== 0) {
      op.log.debug('credential helper has nothing', { helper, host, exit: exitCode });
      return undefined;
    }
    const answer = parseSecretJson(Buffer.from(stdout), `the answer of docker-credential-${helper}`);
    const { Username: username, Secret: secret } = answer;
    if (typeof username !== 'string' || typeof secret !== 'string' || secret === '') return undefined;
    // Docker's convention for refresh tokens.
    return username === '<token>'
      ? { kind: 'identity', token: secret }
      : { kind: 'password', username, password: secret };
  }
}

interface AuthFile {
  /** By `host` or `host/path`. */
  readonly entries: ReadonlyMap<string, Credentials>;
  readonly helpers: ReadonlyMap<string, string>;
  readonly store: string | undefined;
}

async function readAuthFile(path: string): Promise<AuthFile | undefined> {
  let bytes: Buffer;
  try {
    bytes = await readBounded(path, limits.configFileBytes);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
    throw error;
  }
  return parseAuthFile(bytes, path);
}

/** Reads docker's config.json, containers' auth.json, or the old .dockercfg (which is the inner map alone). */
export function parseAuthFile(bytes: Buffer, path: string): AuthFile {
  const document = parseSecretJson(bytes, path);
  const isModern = ['auths', 'credHelpers', 'credsStore'].some((key) => Object.hasOwn(document, key));
  const auths = isModern ? document['auths'] : document;
  const entries = new Map<string, Credentials>();
  for (const [key, value] of Object.entries(isObject(auths) ? auths : {})) {
    const found = isObject(value) ? entryCredentials(value, `${path}: the entry for ${quote(key)}`) : undefined;
    // The first spelling of a host wins, as in docker.
    if (found !== undefined && !entries.has(authKey(key))) entries.set(authKey(key), found);
  }
  const helpers = new Map<string, string>();
  for (const [key, value] of Object.entries(isObject(document['credHelpers']) ? document['credHelpers'] : {})) {
    if (typeof value === 'string') helpers.set(authKey(key), value);
  }
  const store = document['credsStore'];
  return { entries, helpers, store: typeof store === 'string' && store !== '' ? store : undefined };
}

function entryCredentials(entry: Readonly<Record<string, unknown>>, where: string): Credentials | undefined {
  const text = (key: string): string => {
    const value = entry[key];
    return typeof value === 'string' ? value : '';
  };
  if (text('identitytoken') !== '') return { kind: 'identity', token: text('identitytoken') };
  if (text('auth') !== '') return decodeAuth(text('auth'), where);
  if (text('username') !== '' || text('password') !== '')
    return { kind: 'password', username: text('username'), password: text('password') };
  if (text('registrytoken') !== '') return { kind: 'bearer', token: text('registrytoken') };
  return undefined;
}

/**
 * A key with a scheme or an API version names a host (docker); otherwise it may name a path below it
 * (containers-auth.json).
 */
function authKey(key: string): string {
  const bare = key
    .trim()
    .replace(/^https?:\/\//i, '')
    .replace(/\/+$/, '');
  if (bare !== key.trim().replace(/\/+$/, '') || /^[^/]+\/v[12]$/.test(bare)) return registryHost(bare);
  const slash = bare.indexOf('/');
  return slash < 0 ? registryHost(bare) : `${registryHost(bare.slice(0, slash))}${bare.slice(slash)}`;
}

function hostPart(name: string): string {
  const slash = name.indexOf('/');
  return slash < 0 ? name : name.slice(0, slash);
}

/** JSON that may hold secrets. The parser's own message quotes its input, so it is not passed on. */
function parseSecretJson(bytes: Buffer, what: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8')) as unknown;
  } catch {
    throw new RuntimeError('FailedPrecondition', `${what} is not valid JSON`);
  }
  if (!isObject(value)) throw new RuntimeError('FailedPrecondition', `${what} is not a JSON object`);
  return value;
}
