/**
 * The dance that turns credentials into an Authorization header: challenges answered, tokens fetched and kept.
 *
 * No error or log line carries a secret. A token server is only talked to as safely as its registry (CVE-2019-10214).
 */
import { createHash } from 'node:crypto';
import { codeOf, explain, RuntimeError } from '../../base/errors.ts';
import { GoObject } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { abortError } from '../../base/op.ts';
import type { Op } from '../../base/op.ts';
import { abortable, KeyedMutex } from '../../base/sync.ts';
import { parseChallenges } from './challenge.ts';
import type { Challenge } from './challenge.ts';
import type { HttpClient } from './client.ts';
import { parseSecretJson } from './auth-file.ts';
import type { Credentials } from './auth-file.ts';
import { parseUrl, refuseInward, shortUrl } from './http.ts';
import type { HttpRequest, HttpResponse, RouteOf } from './http.ts';

/** Whose door: what a header is good for. */
export interface Door {
  /** Any URL of the registry's API. */
  readonly url: URL;
  readonly routeOf: RouteOf;
  /** Repository path on that host. */
  readonly repository: string;
  readonly credentials: Credentials;
  /** Failures in a row after which its token server is given up. */
  readonly tries: number;
}

interface Token {
  readonly header: string;
  readonly expiresAtMs: number;
}

/** Turns credentials into Authorization headers; keeps tokens until shortly before they expire. */
export class Authorizer {
  readonly #http: HttpClient;
  readonly #tokens = new Map<string, Token>();
  readonly #asking = new KeyedMutex<string>();

  constructor(http: HttpClient) {
    this.#http = http;
  }

  /** The header to send first; undefined before the registry has said what it wants. */
  header(door: Door): string | undefined {
    const token = this.#tokens.get(keyOf(door));
    return token !== undefined && token.expiresAtMs > this.#http.now() ? token.header : undefined;
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
      if (sent !== undefined) throw refused(door, 'the registry token of the request was not accepted; get a new one');
      return { header: `Bearer ${headerSafe(credentials.token)}`, expiresAtMs: forever };
    }
    const bearer = challenges.find((each) => each.scheme === 'bearer' && each.parameters.has('realm'));
    if (bearer !== undefined) return this.#fetchToken(op, door, bearer);
    if (challenges.some((each) => each.scheme === 'basic')) {
      if (credentials.kind !== 'password')
        throw refused(door, 'it wants a user name and a password, and there are none for it');
      if (sent !== undefined) throw refused(door, 'user name or password are wrong; log in again');
      return { header: basicHeader(credentials), expiresAtMs: forever };
    }
    throw refused(
      door,
      challenges.length === 0
        ? 'it does not say what it wants (no WWW-Authenticate); look at what stands before it'
        : `it wants ${quote(challenges.map((each) => each.scheme).join(', '))}, which is not supported; it has to ` +
            'take Basic or Bearer',
    );
  }

  async #fetchToken(op: Op, door: Door, challenge: Challenge): Promise<Token> {
    const realm = parseUrl(challenge.parameters.get('realm') ?? '');
    if (realm === undefined || (realm.protocol !== 'https:' && realm.protocol !== 'http:'))
      throw refused(door, 'the address of its token server cannot be read; the registry has to name one');
    if (door.url.protocol === 'https:' && realm.protocol !== 'https:') {
      throw refused(
        door,
        `it sends us to a token server without TLS (${shortUrl(realm)}); nothing was sent there (CVE-2019-10214), it ` +
          'has to name one with TLS',
      );
    }
    refuseInward(door.url, realm);
    const scopes = new Set([`repository:${door.repository}:pull`, challenge.parameters.get('scope') ?? '']);
    scopes.delete('');
    const request = tokenRequest(realm, challenge.parameters.get('service') ?? '', [...scopes], door.credentials);
    const tries = this.#http.tries(op, `token server ${shortUrl(realm)}`, door.tries);
    const answer = await tries.run(async () => {
      const response = await this.#http.send(op, request, door.routeOf);
      if (response.status === 200) return await this.#http.readBody(op, response, limits.registryTextBytes);
      const failure = this.#http.wordlessFailureOf(response, 'there is no token server; the registry has to name one');
      if (failure.code === 'Unavailable') throw failure;
      return failure;
    });
    if (Buffer.isBuffer(answer)) return readToken(answer, realm, this.#http.now());
    const to = door.credentials.kind === 'none' ? 'an anonymous request' : 'these credentials';
    throw refused(door, `token server ${shortUrl(realm)} refuses ${to}: ${answer.message}`);
  }
}

function tokenRequest(realm: URL, service: string, scopes: readonly string[], credentials: Credentials): HttpRequest {
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
  const answer = tokenAnswer(body, realm);
  const token = answer.get('token') ?? answer.get('access_token');
  if (typeof token !== 'string')
    throw new RuntimeError(
      'Unauthenticated',
      `token server ${shortUrl(realm)} answers without a token; something else is there`,
    );
  // Docker's token specification: 60 seconds unless said otherwise, and never less. A tenth off, for clocks and slow
  // lines. Some servers write the number as text.
  const told = Number(answer.get('expires_in') ?? 0);
  const seconds = told > 60 && told < Number.MAX_SAFE_INTEGER ? told : 60;
  return { header: `Bearer ${headerSafe(token)}`, expiresAtMs: now + seconds * 900 };
}

function tokenAnswer(body: Buffer, realm: URL): GoObject {
  try {
    return new GoObject(parseSecretJson(body, `the answer of token server ${shortUrl(realm)}`));
  } catch (error) {
    throw new RuntimeError(codeOf(error), `${explain(error)}; something else answers there`);
  }
}

function basicHeader(credentials: { readonly username: string; readonly password: string }): string {
  return `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')}`;
}

function headerSafe(token: string): string {
  if (!/^[\x21-\x7e]+$/.test(token))
    throw new RuntimeError(
      'Unauthenticated',
      'the token for the registry has characters that no header can carry; its token server is broken',
    );
  return token;
}

function refused(door: Door, why: string): RuntimeError {
  const hint =
    door.credentials.kind === 'none'
      ? `; no credentials were found for it in the request, the auth files or the helpers${unread(door.credentials)}`
      : '';
  return new RuntimeError(
    'Unauthenticated',
    `registry ${door.url.host} refuses ${quote(door.repository)}: ${why}${hint}`,
  );
}

function unread({ unread: places = [] }: Extract<Credentials, { kind: 'none' }>): string {
  return places.length === 0 ? '' : ` (${places.join('; ').slice(0, 500)})`;
}

/** Credentials enter only as a hash: the key lives as long as the token, and keys get into heap dumps. */
function keyOf(door: Door): string {
  return createHash('sha256')
    .update(JSON.stringify([door.url.origin, door.repository, door.credentials]))
    .digest('hex');
}
