/**
 * Where an image may come from: the node's registry configuration, as podman, CRI-O and containerd write it.
 *
 *     registries.conf, registries.conf.d/*.conf    prefixes, mirrors, rewriting, insecure, blocked, short names
 *     certs.d/<host>/{*.crt,*.cert,*.key}          authorities and client certificates
 *     certs.d/<host>/hosts.toml                    containerd's mirrors, where registries.conf says nothing
 *
 * Files are looked at again for each pull and read again when they changed. One that cannot be read costs what it would
 * have said, with a warning that names it, where that makes nothing less safe; and if it could be read before, it stays
 * in force as it was. Who must have signed what is in signature/.
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
import { NO_CONFIG, RegistriesFiles } from './registries-conf.ts';
import type { RegistriesConfig, Registry, ShortNameMode } from './registries-conf.ts';

/** Where the files are, and what else has a say. */
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
const defaultPolicyOptions: PolicyOptions = {
  registriesConf: '/etc/containers/registries.conf',
  registriesConfDir: '/etc/containers/registries.conf.d',
  certsDirs: ['/etc/containers/certs.d', '/etc/docker/certs.d', '/etc/containerd/certs.d'],
  hostsDirs: ['/etc/containerd/certs.d', '/etc/docker/certs.d'],
  environment: {},
  shortNames: 'enforcing',
};

/** The node's registry configuration, as of the last `refresh`. */
export class RegistryPolicy {
  #options: PolicyOptions;
  readonly #read = new RegistriesFiles();
  #config: RegistriesConfig = NO_CONFIG;
  #seen = '';

  constructor(options: Partial<PolicyOptions> = {}) {
    this.#options = complement(options);
  }

  /** Goes by other options from the next `refresh` on, as if it were made anew. */
  use(options: Partial<PolicyOptions>): void {
    this.#options = complement(options);
    this.#seen = '';
  }

  /** The files that `refresh` reads now, in order. */
  async files(): Promise<readonly string[]> {
    return (await this.#files()).map(([path]) => path);
  }

  /**
   * Reads what of registries.conf and its drop-ins changed since the last call. @throws as `RegistriesFiles`.
   */
  async refresh(op: Op): Promise<void> {
    const files = await this.#files();
    const seen = JSON.stringify(files);
    if (seen === this.#seen) return;
    this.#config = await this.#read.read(op, this.#options.registriesConf, files);
    this.#seen = seen;
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
    return this.#config.search.flatMap((place) => searched(place, name)).map(withDefaultTag);
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
   * @throws PermissionDenied if it is blocked; FailedPrecondition if a file that cannot be read may have blocked it.
   */
  async endpoints(op: Op, reference: Reference): Promise<readonly Endpoint[]> {
    const doubt = this.#read.doubtAbout(reference.domain);
    if (doubt !== undefined)
      throw new RuntimeError(
        'FailedPrecondition',
        `${doubt}; the file speaks of ${reference.domain} and may block or redirect it, so nothing is pulled from ` +
          'there until the file is mended or removed',
      );
    const full = formatReference(reference);
    const match = findRegistry(this.#config.registries, full);
    if (match === undefined) return this.#hostsEndpoints(op, reference);
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
    for (const mirror of mirrors) {
      try {
        endpoints.push(await this.#endpoint(op, rewrite(name, length, mirror.location), 'mirror', securityOf(mirror)));
      } catch (error) {
        op.log.warn('a mirror in registries.conf cannot be used, it is left out', { error: explain(error) });
      }
    }
    // Nothing else said about this host: containerd's files may add mirrors for it.
    if (mirrors.length === 0 && registry.location === '' && !registry.insecure)
      return this.#hostsEndpoints(op, reference);
    const own = registry.location === '' ? name : rewrite(name, length, registry.location);
    endpoints.push(await this.#endpoint(op, own, 'registry', securityOf(registry)));
    return endpoints;
  }

  /**
   * How to reach a server that is no registry (signatures lie on such): certs.d by its host, proxies.
   */
  async routesTo(op: Op, url: URL): Promise<RouteOf> {
    const certificates = await readCertificates(op, this.#options.certsDirs, url.host);
    return this.#routes({ ...certificates, verification: 'verify', dialTimeoutMs: directRoute.dialTimeoutMs });
  }

  async #hostsEndpoints(op: Op, reference: Reference): Promise<readonly Endpoint[]> {
    const found = await readHostsToml(op, this.#options.hostsDirs, reference.domain);
    if (found === undefined) return [await this.#endpoint(op, repositoryName(reference), 'registry', 'verify')];
    const endpoints: Endpoint[] = [];
    for (const host of [...found.mirrors, found.server]) endpoints.push(await this.#hostEndpoint(op, host, reference));
    return endpoints;
  }

  async #hostEndpoint(op: Op, host: HostEntry, reference: Reference): Promise<Endpoint> {
    const isOwn = host.url.host === apiHost(reference.domain) || host.url.host === reference.domain;
    const domain = isOwn ? reference.domain : host.url.host;
    const certificates = await readCertificates(op, this.#options.certsDirs, domain);
    return {
      root: host.root,
      repository: reference.path,
      credentialName: `${domain}/${reference.path}`,
      kind: isOwn ? 'registry' : 'mirror',
      serves: host.serves,
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

  /** The endpoint of `host/path`. @throws FailedPrecondition for what is not that. */
  async #endpoint(op: Op, name: string, kind: Endpoint['kind'], security: Endpoint['security']): Promise<Endpoint> {
    const reference = placeOf(name);
    const certificates = await readCertificates(op, this.#options.certsDirs, reference.domain);
    return {
      root: `https://${apiHost(reference.domain)}/v2`,
      repository: reference.path,
      credentialName: repositoryName(reference),
      kind,
      serves: 'all',
      security,
      routeOf: this.#routes({
        ...certificates,
        verification: security === 'insecure' ? 'skip' : 'verify',
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

function complement(options: Partial<PolicyOptions>): PolicyOptions {
  const given = { ...defaultPolicyOptions, ...options };
  return { ...given, registriesConf: given.environment['CONTAINERS_REGISTRIES_CONF'] || given.registriesConf };
}

function securityOf({ insecure }: { readonly insecure: boolean }): Endpoint['security'] {
  return insecure ? 'insecure' : 'verify';
}

/** `name` below one of the search registries, which may have a path; nothing if that gives no name. */
function searched(place: string, name: ParsedName): readonly Reference[] {
  if (!place.includes('/')) return [complete(name, place)];
  const below = parseAlias(`${place}/${name.path}`);
  return below === undefined ? [] : [{ ...below, tag: name.tag, digest: name.digest }];
}

/** Where registries.conf leads a name. A short one would lead to Docker Hub, which nobody has written there. */
function placeOf(name: string): Reference {
  const fail = (why: string): RuntimeError =>
    new RuntimeError('FailedPrecondition', `registries.conf leads to ${quote(name)}, ${why}`);
  try {
    const parsed = parseName(name);
    if (parsed.domain !== undefined) return complete(parsed, parsed.domain);
  } catch (error) {
    throw fail(`where no images can be: ${explain(error)}`);
  }
  throw fail('which does not begin with a registry host; a name without a dot needs a port');
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
