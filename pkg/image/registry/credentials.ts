/**
 * Who we are to a registry: credentials from the request, from files and from helpers.
 *
 * Secrets live here and in the authorizer, and nowhere else. No error or log line carries one: JSON that does not parse
 * is reported without the parser's message, which would quote it.
 */
import { createHash } from 'node:crypto';
import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { AuthConfig } from '../../cri-api/types.ts';
import { ensureDir, readBounded, readDirSorted, removeFile } from '../../base/files.ts';
import { errnoOf, RuntimeError } from '../../base/errors.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import type { Op } from '../../base/op.ts';
import { isObject } from '../../base/go.ts';

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
export function parseSecretJson(bytes: Buffer, what: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8')) as unknown;
  } catch {
    throw new RuntimeError('FailedPrecondition', `${what} is not valid JSON`);
  }
  if (!isObject(value)) throw new RuntimeError('FailedPrecondition', `${what} is not a JSON object`);
  return value;
}
