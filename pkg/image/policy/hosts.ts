/**
 * How a registry host is reached: containerd's hosts.toml, certificates in certs.d, proxies from the environment.
 * Everything is read at each pull, so that a changed certificate counts at once.
 */
import { isAbsolute, join } from 'node:path';
import { readBounded } from '../../base/files.ts';
import { errnoOf, RuntimeError } from '../../base/errors.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { DOCKER_DOMAIN } from '../../oci/reference.ts';
import { isObject } from '../../base/go.ts';
import { directRoute, parseUrl } from '../registry/http.ts';
import type { Route } from '../registry/http.ts';
import { readPem } from './certs.ts';
import { flag, readToml, texts } from './toml.ts';
import type { Fail } from './toml.ts';

/** Docker Hub's API is not where its name says. */
export function apiHost(domain: string): string {
  return domain === DOCKER_DOMAIN ? 'registry-1.docker.io' : domain;
}

/** One host of a hosts.toml. */
export interface HostEntry {
  readonly url: URL;
  /** With `/v2` unless override_path. */
  readonly root: string;
  readonly ca: readonly string[];
  readonly clients: Route['clientCertificates'];
  readonly skipVerify: boolean;
  readonly headers: Readonly<Record<string, string>>;
  readonly dialTimeoutMs: number;
}

/**
 * containerd's hosts.toml for `domain`: in `<dir>/<host>`, `<dir>/<host>_<port>_` or `<dir>/_default`. undefined if
 * there is none.
 */
export async function readHostsToml(
  directories: readonly string[],
  domain: string,
): Promise<{ readonly hosts: readonly HostEntry[]; readonly server: HostEntry | undefined } | undefined> {
  const escaped = domain.includes(':') ? `${domain.replace(':', '_')}_` : domain;
  for (const directory of directories) {
    for (const name of new Set([domain, escaped, '_default'])) {
      const path = join(directory, name, 'hosts.toml');
      const bytes = await readBounded(path, limits.configFileBytes).catch((error: unknown) => {
        if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
        throw error;
      });
      if (bytes !== undefined) return parseHosts(bytes.toString('utf8'), path);
    }
  }
  return undefined;
}

async function parseHosts(
  text: string,
  path: string,
): Promise<{ readonly hosts: readonly HostEntry[]; readonly server: HostEntry | undefined }> {
  const document = readToml(text, path);
  const fail = (what: string): RuntimeError => new RuntimeError('FailedPrecondition', `${path}: ${what}`);
  const hosts: HostEntry[] = [];
  for (const [address, table] of Object.entries(isObject(document['host']) ? document['host'] : {})) {
    if (!isObject(table)) throw fail(`host ${quote(address)} is not a table`);
    const capabilities = texts(table['capabilities'], 'capabilities', fail);
    // Pulling needs both: a host that only stores, or only knows tags, is of no use here.
    if (capabilities !== undefined && !(capabilities.includes('pull') && capabilities.includes('resolve'))) continue;
    hosts.push(await parseHost(address, table, path, fail));
  }
  const server = document['server'];
  if (server === undefined) return { hosts, server: undefined };
  if (typeof server !== 'string') throw fail('server is not text');
  return { hosts, server: await parseHost(server, document, path, fail) };
}

async function parseHost(
  address: string,
  table: Readonly<Record<string, unknown>>,
  path: string,
  fail: Fail,
): Promise<HostEntry> {
  const url = parseUrl(address.includes('://') ? address : `https://${address}`);
  if (url?.host === DOCKER_DOMAIN) url.host = apiHost(DOCKER_DOMAIN);
  if (url === undefined || (url.protocol !== 'https:' && url.protocol !== 'http:'))
    throw fail(`host ${quote(address)} is not an http or https address`);
  const below = url.pathname.replace(/\/+$/, '');
  const override = flag(table, 'override_path', fail);
  const beside = (file: string): string => (isAbsolute(file) ? file : join(path, '..', file));
  const ca: string[] = [];
  for (const file of typeof table['ca'] === 'string' ? [table['ca']] : (texts(table['ca'], 'ca', fail) ?? []))
    ca.push(await readPem(beside(file)));
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(isObject(table['header']) ? table['header'] : {})) {
    const lines = typeof value === 'string' ? [value] : (texts(value, `header ${quote(name)}`, fail) ?? []);
    headers[name.toLowerCase()] = lines.join(', ');
  }
  return {
    url,
    root: `${url.origin}${override || below.endsWith('/v2') ? below : `${below}/v2`}`,
    ca,
    clients: await readClients(table['client'], beside, fail),
    skipVerify: flag(table, 'skip_verify', fail),
    headers,
    dialTimeoutMs: dialTimeout(table['dial_timeout'], fail),
  };
}

/** `client = "both.pem"`, `["a.pem", "b.pem"]` or `[["cert", "key"], …]`. */
async function readClients(
  value: unknown,
  beside: (file: string) => string,
  fail: Fail,
): Promise<Route['clientCertificates']> {
  if (value === undefined) return [];
  const pairs =
    typeof value === 'string'
      ? [[value]]
      : Array.isArray(value)
        ? (value as unknown[]).map((each) => (Array.isArray(each) ? (each as unknown[]) : [each]))
        : undefined;
  if (pairs === undefined || !pairs.flat().every((each) => typeof each === 'string'))
    throw fail('client must be a file, a list of files, or a list of [certificate, key]');
  const clients: { cert: string; key: string }[] = [];
  for (const [cert, key] of pairs as string[][]) {
    if (cert === undefined) continue;
    const certificate = await readPem(beside(cert));
    clients.push({
      cert: certificate,
      key: key === undefined || key === '' ? certificate : await readPem(beside(key)),
    });
  }
  return clients;
}

function dialTimeout(value: unknown, fail: Fail): number {
  if (value === undefined) return directRoute.dialTimeoutMs;
  const match = typeof value === 'string' ? /^(\d{1,6}(?:\.\d{1,3})?)(ms|s|m)$/.exec(value) : null;
  if (match === null) throw fail('dial_timeout must be a duration like "3s"');
  const scale: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 };
  return Math.max(1, Number(match[1]) * (scale[match[2] ?? ''] ?? 1));
}
