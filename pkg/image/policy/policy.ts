/**
 * Where an image may come from: the node's registry configuration, as podman, CRI-O and containerd write it.
 *
 *     registries.conf, registries.conf.d/*.conf    prefixes, mirrors, rewriting, insecure, blocked, short names (containers-registries.conf(5))
 *     certs.d/<host>/{*.crt,*.cert,*.key}          authorities and client certificates (containers-certs.d(5))
 *     certs.d/<host>/hosts.toml                    containerd's mirrors, for hosts that registries.conf says nothing about
 *
 * Files are looked at again for each pull (one stat each) and read again when they changed. A changed file that cannot
 * be read leaves the last good configuration in force, with an error in the log. Who must have signed what is in
 * signature/.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { readDirSorted } from '../../base/files.ts';
import { explain, RuntimeError } from '../../base/errors.ts';
import { quote } from '../../base/ids.ts';
import type { Op } from '../../base/op.ts';
import {
  complete,
  formatReference,
  parseName,
  parseReference,
  repositoryName,
  withDefaultTag,
} from '../../oci/reference.ts';
import type { ParsedName, Reference } from '../../oci/reference.ts';
import { readCertificates } from './certs.ts';
import { apiHost, readHostsToml } from './hosts.ts';
import type { HostEntry } from './hosts.ts';
import { directRoute } from '../registry/http.ts';
import type { Route, RouteOf } from '../registry/http.ts';
import type { Endpoint } from '../registry/repository.ts';
import { proxyFor } from './proxy.ts';
import { NO_CONFIG, readRegistries } from './registries-conf.ts';
import type { RegistriesConfig, Registry, ShortNameMode } from './registries-conf.ts';

export interface PolicyOptions {
  readonly registriesConf: string;
  readonly registriesConfDir: string;
  /** Looked through in order; the first that has a directory for the host counts. */
  readonly certsDirs: readonly string[];
  /** containerd's `config_path`. */
  readonly hostsDirs: readonly string[];
  /**
   * For HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in either case, and CONTAINERS_REGISTRIES_CONF, which names another
   * `registriesConf`, as it does for podman and CRI-O.
   */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** `short_name_mode`: enforcing refuses a short name that several registries might mean. */
  readonly shortNames: ShortNameMode;
}

/** Where distributions and CRI-O have these files. */
export const defaultPolicyOptions: PolicyOptions = {
  registriesConf: '/etc/containers/registries.conf',
  registriesConfDir: '/etc/containers/registries.conf.d',
  certsDirs: ['/etc/containers/certs.d', '/etc/docker/certs.d'],
  hostsDirs: ['/etc/containerd/certs.d', '/etc/docker/certs.d'],
  environment: {},
  shortNames: 'enforcing',
};

export class RegistryPolicy {
  readonly #options: PolicyOptions;
  #config: RegistriesConfig = NO_CONFIG;
  #seen = '';

  constructor(options: Partial<PolicyOptions> = {}) {
    const given = { ...defaultPolicyOptions, ...options };
    this.#options = {
      ...given,
      registriesConf: given.environment['CONTAINERS_REGISTRIES_CONF'] || given.registriesConf,
    };
  }

  /**
   * Reads registries.conf if it changed since the last call.
   * @throws FailedPrecondition that names file, line and column, when there is no earlier good configuration to go on
   * with.
   */
  async refresh(op: Op): Promise<void> {
    const files = await this.#files();
    const seen = JSON.stringify(files);
    if (seen === this.#seen) return;
    try {
      this.#config = await readRegistries(files.map(([path]) => path));
      this.#seen = seen;
    } catch (error) {
      if (this.#seen === '') throw error;
      op.log.error('registries configuration cannot be read, the last good one stays in force', {
        error: explain(error),
      });
    }
  }

  /**
   * What `name` may mean, best first: itself if it names its registry; else its alias, else the search registries.
   * Never throws; uses the configuration of the last `refresh`.
   */
  candidates(name: ParsedName): readonly Reference[] {
    if (name.domain !== undefined) return [withDefaultTag(complete(name, name.domain))];
    const alias = this.#config.aliases.get(name.path);
    const target = alias === undefined ? undefined : parseAlias(alias);
    if (target !== undefined) return [withDefaultTag({ ...target, tag: name.tag, digest: name.digest })];
    return this.#config.search.map((domain) => withDefaultTag(complete(name, domain)));
  }

  /**
   * What to pull for `text`.
   * @throws InvalidArgument if it is no reference, or a short name that could mean several registries while short names
   * are enforced.
   */
  resolve(text: string): readonly Reference[] {
    const name = parseName(text);
    const found = this.candidates(name);
    if (found.length === 0) {
      throw new RuntimeError(
        'InvalidArgument',
        `${quote(text)} names no registry, and unqualified-search-registries in registries.conf is ` +
          'empty; write the whole name',
      );
    }
    const mode = this.#config.shortNames ?? this.#options.shortNames;
    if (found.length > 1 && mode === 'enforcing') {
      const names = found.map((each) => each.domain).join(', ');
      throw new RuntimeError(
        'InvalidArgument',
        `${quote(text)} could mean an image on any of ${quote(names, 300)}; write the whole name, or ` +
          'add an alias to registries.conf',
      );
    }
    return found;
  }

  get credentialHelpers(): readonly string[] {
    return this.#config.credentialHelpers;
  }

  /**
   * Where to ask for `reference`, in order: mirrors, then the registry itself. Never empty.
   * @throws PermissionDenied if it is blocked.
   */
  async endpoints(reference: Reference): Promise<readonly Endpoint[]> {
    const full = formatReference(reference);
    const match = findRegistry(this.#config.registries, full);
    if (match === undefined) return this.#hostsEndpoints(reference);
    const { registry, length } = match;
    if (registry.blocked)
      throw new RuntimeError(
        'PermissionDenied',
        `registry ${quote(registry.prefix)} is blocked in registries.conf; ${quote(full)} is not pulled`,
      );
    const isDigest = reference.digest !== undefined;
    const mirrors = registry.mirrors.filter(
      ({ pulls }) => pulls === 'all' || pulls === (isDigest ? 'digest-only' : 'tag-only'),
    );
    const name = repositoryName(reference);
    const endpoints: Endpoint[] = [];
    for (const mirror of mirrors)
      endpoints.push(await this.#endpoint(rewrite(name, length, mirror.location), 'mirror', mirror.insecure));
    // Nothing else said about this host: containerd's files may add mirrors for it.
    if (mirrors.length === 0 && registry.location === '' && !registry.insecure) return this.#hostsEndpoints(reference);
    const own = registry.location === '' ? name : rewrite(name, length, registry.location);
    endpoints.push(await this.#endpoint(own, 'registry', registry.insecure));
    return endpoints;
  }

  /**
   * How to reach a server that is no registry (signatures lie on such): certs.d by its host, proxies. @throws
   * FailedPrecondition for certificates that cannot be read.
   */
  async routesTo(url: URL): Promise<RouteOf> {
    const certificates = await readCertificates(this.#options.certsDirs, url.host);
    return this.#routes({ ...certificates, verification: 'verify', dialTimeoutMs: directRoute.dialTimeoutMs });
  }

  async #hostsEndpoints(reference: Reference): Promise<readonly Endpoint[]> {
    const found = await readHostsToml(this.#options.hostsDirs, reference.domain);
    const name = repositoryName(reference);
    if (found === undefined) return [await this.#endpoint(name, 'registry', false)];
    const endpoints: Endpoint[] = [];
    for (const host of found.hosts) endpoints.push(await this.#hostEndpoint(host, reference));
    const { server } = found;
    endpoints.push(
      server === undefined
        ? await this.#endpoint(name, 'registry', false)
        : await this.#hostEndpoint(server, reference),
    );
    return endpoints;
  }

  async #hostEndpoint(host: HostEntry, reference: Reference): Promise<Endpoint> {
    const certificates = await readCertificates(this.#options.certsDirs, host.url.host);
    const isOwn = host.url.host === apiHost(reference.domain) || host.url.host === reference.domain;
    return {
      root: host.root,
      repository: reference.path,
      credentialName: `${isOwn ? reference.domain : host.url.host}/${reference.path}`,
      kind: isOwn ? 'registry' : 'mirror',
      // hosts.toml says http or https itself; only the certificate check is left to skip_verify.
      security: 'verify',
      routeOf: this.#routes({
        ca: [...certificates.ca, ...host.ca],
        clientCertificates: [...certificates.clientCertificates, ...host.clients],
        verification: host.skipVerify ? 'skip' : 'verify',
        dialTimeoutMs: host.dialTimeoutMs,
      }),
      headers: host.headers,
      namespace: isOwn ? '' : reference.domain,
    };
  }

  /** The endpoint of `host/path`. */
  async #endpoint(name: string, kind: Endpoint['kind'], insecure: boolean): Promise<Endpoint> {
    const reference = parseReference(name);
    const host = apiHost(reference.domain);
    const certificates = await readCertificates(this.#options.certsDirs, reference.domain);
    return {
      root: `https://${host}/v2`,
      repository: reference.path,
      credentialName: repositoryName(reference),
      kind,
      security: insecure ? 'insecure' : 'verify',
      routeOf: this.#routes({
        ...certificates,
        verification: insecure ? 'skip' : 'verify',
        dialTimeoutMs: directRoute.dialTimeoutMs,
      }),
      headers: {},
      namespace: '',
    };
  }

  #routes(tls: Omit<Route, 'proxy'>): RouteOf {
    return (url) => ({ ...tls, proxy: proxyFor(url, this.#options.environment) });
  }

  /** Each file of the configuration with what tells that it changed. */
  async #files(): Promise<(readonly [path: string, stamp: string])[]> {
    const { registriesConf, registriesConfDir } = this.#options;
    const names = registriesConfDir === '' ? [] : await readDirSorted(registriesConfDir);
    const paths = [
      registriesConf,
      ...names.filter((name) => name.endsWith('.conf')).map((name) => join(registriesConfDir, name)),
    ];
    const found: [string, string][] = [];
    for (const path of paths.filter((each) => each !== '')) {
      const info = await stat(path, { bigint: true }).catch(() => undefined);
      if (info?.isFile() === true) found.push([path, `${info.mtimeNs} ${info.ctimeNs} ${info.size} ${info.ino}`]);
    }
    return found;
  }
}

function parseAlias(text: string): Reference | undefined {
  try {
    return parseReference(text);
  } catch {
    return undefined;
  }
}

/** The longest prefix that covers `full` (`host/path:tag@digest`), and how many characters of it were matched. */
function findRegistry(
  registries: ReadonlyMap<string, Registry>,
  full: string,
): { readonly registry: Registry; readonly length: number } | undefined {
  let best: { readonly registry: Registry; readonly length: number; readonly weight: number } | undefined;
  for (const registry of registries.values()) {
    const length = matchedLength(registry.prefix, full);
    const weight = registry.prefix.length;
    if (length >= 0 && (best === undefined || weight > best.weight)) best = { registry, length, weight };
  }
  return best;
}

function matchedLength(prefix: string, full: string): number {
  if (prefix.startsWith('*.')) {
    // A subdomain of any depth; only the host part is matched.
    const host = full.slice(0, full.indexOf('/'));
    return host.endsWith(prefix.slice(1)) && host.length > prefix.length - 1 ? host.length : -1;
  }
  if (!full.startsWith(prefix)) return -1;
  const next = full.charAt(prefix.length);
  return next === '' || next === '/' || next === ':' || next === '@' ? prefix.length : -1;
}

function rewrite(name: string, matched: number, location: string): string {
  return `${location}${name.slice(matched)}`;
}
