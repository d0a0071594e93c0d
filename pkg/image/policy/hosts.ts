/**
 * How a registry host is reached by containerd's hosts.toml: mirrors, what each is good for, and the server itself.
 * Everything is read at each pull, so that a changed file counts at once.
 */
import { isAbsolute, join } from 'node:path';
import { errnoOf, explain, RuntimeError } from '../../base/errors.ts';
import { readBounded } from '../../base/files.ts';
import { isObject } from '../../base/go.ts';
import type { GoObject } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import type { Op } from '../../base/op.ts';
import { withoutEnd } from '../../base/text.ts';
import { DOCKER_DOMAIN } from '../../oci/reference.ts';
import { directRoute, parseUrl } from '../registry/http.ts';
import type { Route } from '../registry/http.ts';
import type { Endpoint } from '../registry/repository.ts';
import { readAuthority, readClient } from './certs.ts';
import { flag, namedTables, readToml, tableOf, textOf, texts } from './toml.ts';
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
  readonly serves: Endpoint['serves'];
  readonly ca: readonly string[];
  readonly clients: Route['clientCertificates'];
  readonly skipVerify: boolean;
  readonly headers: Readonly<Record<string, string>>;
  readonly dialTimeoutMs: number;
}

/** Whom to ask about the images of one domain: mirrors in their order, then the server. */
export interface HostsFile {
  readonly mirrors: readonly HostEntry[];
  readonly server: HostEntry;
}

/**
 * containerd's hosts.toml for `domain`: in `<dir>/<host>`, `<dir>/<host>_<port>_` or `<dir>/_default`. undefined if
 * there is none. A mirror with a mistake is left out with a warning; so is a file that cannot be read, unless it may
 * lead the images of the domain to another server: those of the public one by the same name are not what is wanted.
 * @throws FailedPrecondition that names the file.
 */
export async function readHostsToml(
  op: Op,
  directories: readonly string[],
  domain: string,
): Promise<HostsFile | undefined> {
  const escaped = domain.includes(':') ? `${domain.replace(':', '_')}_` : domain;
  for (const directory of directories) {
    for (const name of new Set([domain, escaped, '_default'])) {
      const path = join(directory, name, 'hosts.toml');
      const bytes = await readBounded(path, limits.configFileBytes).catch((error: unknown) => {
        if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
        throw error;
      });
      if (bytes !== undefined) return await readFile(op, bytes.toString('utf8'), path, domain);
    }
  }
  return undefined;
}

async function readFile(op: Op, text: string, path: string, domain: string): Promise<HostsFile | undefined> {
  try {
    return await parseHosts(op, text, path, domain);
  } catch (error) {
    const servers = [...text.matchAll(/^\s*["']?server["']?\s*=\s*(.*)$/gim)].map((match) => match[1] ?? '');
    const own = [domain, apiHost(domain)].map((host) => `https://${host}`);
    if (servers.some((each) => !own.includes(each.trim().replaceAll(/^["']|\/?["']$/g, '')))) throw error;
    op.log.warn('hosts.toml cannot be read, it is left out and the registry itself is asked', {
      file: path,
      error: explain(error),
    });
    return undefined;
  }
}

async function parseHosts(op: Op, text: string, path: string, domain: string): Promise<HostsFile> {
  const document = readToml(text, path);
  const fail = (what: string): RuntimeError => new RuntimeError('FailedPrecondition', `${path}: ${what}`);
  const mirrors: HostEntry[] = [];
  for (const [address, value] of namedTables(document, 'host', fail)) {
    try {
      const entry = await parseHost(address, tableOf(value, `host ${quote(address)}`, fail), path, fail);
      if (entry !== undefined) mirrors.push(entry);
    } catch (error) {
      op.log.warn('a mirror in hosts.toml cannot be used, it is left out', { file: path, error: explain(error) });
    }
  }
  const own = textOf(document, 'server', fail) || `https://${apiHost(domain)}`;
  const server = await parseHost(own, document, path, fail);
  if (server === undefined) throw fail(`the server ${quote(own)} has no capability to pull or to resolve`);
  return { mirrors, server };
}

/** undefined for a host that is of no use for pulling: one that only takes pushes. */
async function parseHost(address: string, table: GoObject, path: string, fail: Fail): Promise<HostEntry | undefined> {
  const url = parseUrl(address.includes('://') ? address : `https://${address}`);
  if (url?.host === DOCKER_DOMAIN) url.host = apiHost(DOCKER_DOMAIN);
  if (url === undefined || (url.protocol !== 'https:' && url.protocol !== 'http:'))
    throw fail(`host ${quote(address)} is not an http or https address`);
  const serves = servesWhat(table, fail);
  if (serves === undefined) return undefined;
  const below = withoutEnd(url.pathname, '/');
  const override = flag(table, 'override_path', fail);
  const beside = (file: string): string => (isAbsolute(file) ? file : join(path, '..', file));
  const ca: string[] = [];
  for (const file of listed(table.get('ca'), 'ca', fail)) ca.push(await readAuthority(beside(file)));
  return {
    url,
    root: `${url.origin}${override || below.endsWith('/v2') ? below : `${below}/v2`}`,
    serves,
    ca,
    clients: await readClients(table.get('client'), beside, fail),
    skipVerify: flag(table, 'skip_verify', fail),
    headers: readHeaders(table, fail),
    dialTimeoutMs: dialTimeout(textOf(table, 'dial_timeout', fail), fail),
  };
}

/** `referrers` (containerd 2.2) is a list of what belongs to an image, for which a pull does not ask. */
const CAPABILITIES: readonly string[] = ['pull', 'resolve', 'push', 'referrers'];

/** None given means all of them. `pull` is content by its digest, `resolve` the way from a tag to a digest. */
function servesWhat(table: GoObject, fail: Fail): Endpoint['serves'] | undefined {
  const given = texts(table.get('capabilities'), 'capabilities', fail) ?? [];
  const unknown = given.find((each) => !CAPABILITIES.includes(each.toLowerCase()));
  if (unknown !== undefined) throw fail(`capability ${quote(unknown)} is none of ${CAPABILITIES.join(', ')}`);
  const has = (name: string): boolean => given.length === 0 || given.some((each) => each.toLowerCase() === name);
  if (has('pull')) return has('resolve') ? 'all' : 'content';
  return has('resolve') ? 'tags' : undefined;
}

function readHeaders(table: GoObject, fail: Fail): Readonly<Record<string, string>> {
  const value = table.get('header') ?? {};
  if (!isObject(value)) throw fail('header is not a table');
  const headers: Record<string, string> = {};
  for (const [name, lines] of Object.entries(value))
    headers[name.toLowerCase()] = listed(lines, `header ${quote(name)}`, fail).join(', ');
  return headers;
}

/** One text or a list of them. */
function listed(value: unknown, key: string, fail: Fail): readonly string[] {
  return texts(typeof value === 'string' ? [value] : value, key, fail) ?? [];
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
  const clients: Route['clientCertificates'][number][] = [];
  for (const [cert = '', key = ''] of pairs as string[][])
    if (cert !== '') clients.push(await readClient(beside(cert), beside(key || cert)));
  return clients;
}

const UNIT_MS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** A duration as Go writes it: `3s`, `1m30s`. */
function dialTimeout(text: string, fail: Fail): number {
  if (text === '') return directRoute.dialTimeoutMs;
  if (!/^(\d{1,9}(\.\d{1,9})?(ns|us|µs|ms|s|m|h))+$/.test(text))
    throw fail('dial_timeout must be a duration like "3s" or "1m30s"');
  const parts = [...text.matchAll(/([\d.]+)([a-zµ]+)/g)];
  const ms = parts.reduce((sum, [, count, unit]) => sum + Number(count) * (UNIT_MS[unit ?? ''] ?? 0), 0);
  return Math.max(1, Math.round(ms));
}
