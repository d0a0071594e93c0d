/**
 * Who we are to a registry: credentials from the request, from files and from helpers.
 *
 * Secrets live here and in the authorizer, and nowhere else; no error or log line carries one. A file or a helper from
 * which nothing can be had costs itself: it is named in a warning, and again by the registry's refusal if there is one.
 */
import { createHash } from 'node:crypto';
import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { AuthConfig } from '../../cri-api/types.ts';
import { ensureDir, readBounded, readDirSorted, removeFile } from '../../base/files.ts';
import { errnoOf, explain, RuntimeError } from '../../base/errors.ts';
import { GoObject } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { abortError } from '../../base/op.ts';
import type { Op } from '../../base/op.ts';
import { anonymous, decodeAuth, parseAuthFile, parseSecretJson } from './auth-file.ts';
import type { AuthFile, Credentials } from './auth-file.ts';

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

/** Runs `docker-credential-<name> get` with `input` on its stdin; bounded in time and output by whoever passes it. */
export type RunHelper = (
  op: Op,
  program: string,
  argument: 'get',
  input: string,
) => Promise<{ readonly exitCode: number; readonly stdout: string }>;

/** Where the node keeps credentials. */
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
  const home = environment['HOME'] || '/root';
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
  #options: CredentialOptions;

  constructor(options: CredentialOptions) {
    this.#options = options;
  }

  /** Goes by other options from now on, as if it were made anew. */
  use(options: CredentialOptions): void {
    this.#options = options;
  }

  /**
   * The best match for `name` (`host/path`), most specific key first; `helpers` is registries.conf's
   * credential-helpers. Anonymous if there is none; then it says what could not be read.
   * @throws Cancelled or DeadlineExceeded.
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
    const search = new Search(op, name, this.#options.runHelper);
    for (const path of files) {
      const found = await search.inFile(path);
      if (found !== undefined) return found;
    }
    for (const helper of helpers) {
      const found = helper === 'containers-auth.json' ? undefined : await search.ask(helper);
      if (found !== undefined) return found;
    }
    return search.unread.length === 0 ? anonymous : { kind: 'none', unread: search.unread };
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
}

/** One look for the credentials of one name. */
class Search {
  readonly unread: string[] = [];
  readonly #op: Op;
  readonly #name: string;
  readonly #host: string;
  readonly #run: RunHelper | undefined;

  constructor(op: Op, name: string, run: RunHelper | undefined) {
    const slash = name.indexOf('/');
    this.#op = op;
    this.#name = name;
    this.#host = slash < 0 ? name : name.slice(0, slash);
    this.#run = run;
  }

  async inFile(path: string): Promise<Credentials | undefined> {
    const file = await this.#orNothing(() => readAuthFile(path));
    if (file === undefined) return undefined;
    const helper = file.helpers.get(this.#host);
    const given = helper === undefined ? undefined : await this.ask(helper);
    const found = given ?? this.#entry(file);
    // A helper of its own, even none, keeps a host away from the store, as in docker.
    return found ?? (helper === undefined ? await this.ask(file.store) : undefined);
  }

  /** What a helper has; undefined if nothing, or if there is no helper ('') . */
  async ask(helper: string): Promise<Credentials | undefined> {
    const run = this.#run;
    if (helper === '' || run === undefined) return undefined;
    return await this.#orNothing(async () => {
      if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(helper))
        throw new RuntimeError('FailedPrecondition', `${quote(helper)} is not the name of a credential helper`);
      const server = this.#host === 'docker.io' ? 'https://index.docker.io/v1/' : this.#host;
      const { exitCode, stdout } = await run(this.#op, `docker-credential-${helper}`, 'get', server);
      if (exitCode !== 0) {
        this.#op.log.debug('credential helper has nothing', { helper, host: this.#host, exit: exitCode });
        return undefined;
      }
      const answer = new GoObject(parseSecretJson(Buffer.from(stdout), `the answer of docker-credential-${helper}`));
      const [username, secret] = [answer.get('Username') ?? '', answer.get('Secret')];
      if (typeof username !== 'string' || typeof secret !== 'string') return undefined;
      // Docker's convention for refresh tokens.
      return username === '<token>'
        ? { kind: 'identity', token: secret }
        : { kind: 'password', username, password: secret };
    });
  }

  #entry(file: AuthFile): Credentials | undefined {
    for (let key = this.#name; key !== ''; key = key.slice(0, Math.max(0, key.lastIndexOf('/')))) {
      const found = file.entries.get(key);
      if (found instanceof RuntimeError) this.#note(found);
      else if (found !== undefined) return found;
    }
    return undefined;
  }

  async #orNothing<T>(work: () => Promise<T | undefined>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      if (this.#op.signal.aborted) throw abortError(this.#op, `looking for credentials for ${this.#host}`);
      this.#note(error);
      return undefined;
    }
  }

  #note(error: unknown): void {
    const why = explain(error);
    this.unread.push(why);
    this.#op.log.warn('credentials cannot be read, going on without', { registry: this.#host, error: why });
  }
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
