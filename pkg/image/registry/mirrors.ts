/** Several endpoints as one source: asked in order, one that fails hands over to the next where it stopped. */
import { codeOf, explain, RuntimeError } from '../../base/errors.ts';
import { isDigest } from '../../base/ids.ts';
import type { Digest } from '../../base/ids.ts';
import { abortError } from '../../base/op.ts';
import type { Op } from '../../base/op.ts';
import type { PullSource } from '../source.ts';
import type { Endpoint, ManifestAnswer, Repository } from './repository.ts';

/** The endpoints of one image, mirrors first. */
export class MirroredSource implements PullSource {
  readonly describe: string;
  readonly #open: (endpoint: Endpoint) => Promise<Repository>;
  readonly #repositories = new Map<Endpoint, Promise<Repository>>();
  /** Whoever failed comes after the one that answered instead. */
  #order: readonly Endpoint[];
  readonly #wrong = new Map<Digest, Set<Endpoint>>();
  /** Whose bytes came first in the last download of a blob; as long as none came, who was asked last. */
  readonly #suspects = new Map<Digest, Endpoint>();

  /**
   * `open` finds credentials, which takes files; it is called at most once per endpoint, and only for those that are
   * asked.
   */
  constructor(describe: string, endpoints: readonly Endpoint[], open: (endpoint: Endpoint) => Promise<Repository>) {
    this.describe = describe;
    this.#order = endpoints;
    this.#open = open;
  }

  /** @throws the error of the last endpoint, which is the registry itself; its message tells how the mirrors failed. */
  async manifest(op: Op, tagOrDigest: string): Promise<ManifestAnswer> {
    const order = this.#order.filter(({ serves }) => serves !== (isDigest(tagOrDigest) ? 'tags' : 'content'));
    const failed = new Map<Endpoint, string>();
    for (const endpoint of order) {
      try {
        const answer = await this.#manifestFrom(op, endpoint, tagOrDigest);
        this.#prefer(endpoint, failed);
        return answer;
      } catch (error) {
        if (op.signal.aborted) throw abortError(op, `pulling ${this.describe}`);
        if (endpoint === order.at(-1)) throw withHistory(error, [...failed.values()]);
        failed.set(endpoint, explain(error));
        op.log.warn('mirror failed, will try the next one', { endpoint: endpoint.root, error: explain(error) });
      }
    }
    throw new RuntimeError(
      'FailedPrecondition',
      `${this.describe}: hosts.toml gives no host the capability to ` +
        `${isDigest(tagOrDigest) ? '"pull"' : '"resolve"'}; give it to the server at least`,
    );
  }

  /** Of a host that only knows what tags stand for, the content comes from the others. */
  async #manifestFrom(op: Op, endpoint: Endpoint, tagOrDigest: string): Promise<ManifestAnswer> {
    const repository = await this.#repository(endpoint);
    if (isDigest(tagOrDigest) || endpoint.serves !== 'tags') return await repository.manifest(op, tagOrDigest);
    const digest = await repository.promisedDigest(op, tagOrDigest);
    if (digest === undefined)
      throw new RuntimeError('NotFound', `${endpoint.root} does not say the digest of ${this.describe}`);
    return await this.manifest(op, digest);
  }

  /**
   * Where what belongs to the last manifest is asked for by a tag: the repository that gave it, unless that one has no
   * tags; before the first manifest, the one that will be asked first.
   */
  async current(): Promise<Repository> {
    const first = this.#order.find(({ serves }) => serves === 'all') ?? this.#order[0];
    if (first === undefined) throw new RuntimeError('Internal', `${this.describe}: no endpoint to ask`);
    return await this.#repository(first);
  }

  /**
   * The digest of a tag as the first endpoint says that knows tags; undefined if it does not, for whatever reason:
   * `manifest` will meet that reason.
   */
  async promisedDigest(op: Op, tagOrDigest: string): Promise<Digest | undefined> {
    const first = this.#order.find(({ serves }) => serves !== 'content');
    if (first === undefined) return undefined;
    return (await this.#repository(first)).promisedDigest(op, tagOrDigest).catch(() => undefined);
  }

  async sizeOf(op: Op, digest: Digest): Promise<bigint> {
    const order = this.#content;
    for (const endpoint of order) {
      try {
        return await (await this.#repository(endpoint)).blobSize(op, digest);
      } catch (error) {
        if (endpoint === order.at(-1) || op.signal.aborted) throw error;
        op.log.debug('endpoint does not say how large a blob is', { endpoint: endpoint.root, error: explain(error) });
      }
    }
    throw new RuntimeError('FailedPrecondition', `${this.describe}: nobody to ask for the size of ${digest}`);
  }

  async *blob(
    op: Op,
    want: { readonly digest: Digest; readonly size: bigint },
    offset: bigint,
  ): AsyncGenerator<Uint8Array, void, void> {
    const failed: string[] = [];
    const order = this.#content.filter((endpoint) => this.#wrong.get(want.digest)?.has(endpoint) !== true);
    let at = offset;
    for (const endpoint of order) {
      if (at === offset) this.#suspects.set(want.digest, endpoint);
      try {
        const repository = await this.#repository(endpoint);
        for await (const chunk of repository.blob(op, want.digest, want.size, at)) {
          at += BigInt(chunk.length);
          yield chunk;
        }
        return;
      } catch (error) {
        if (endpoint === order.at(-1)) throw withHistory(error, failed);
        if (op.signal.aborted) throw abortError(op, `downloading ${want.digest}`);
        failed.push(explain(error));
        op.log.warn('endpoint failed, the next one goes on', {
          endpoint: endpoint.root,
          digest: want.digest,
          atBytes: at,
          error: explain(error),
        });
      }
    }
  }

  /**
   * Of several that gave a part each, the first: those after it went on from what it had given, and the last of them is
   * the registry itself.
   */
  discredit(digest: Digest): boolean {
    const suspect = this.#suspects.get(digest);
    if (suspect === undefined) return false;
    const wrong = this.#wrong.get(digest) ?? new Set();
    this.#wrong.set(digest, wrong.add(suspect));
    return this.#content.some((endpoint) => !wrong.has(endpoint));
  }

  /** Those who give content by its digest. */
  get #content(): readonly Endpoint[] {
    return this.#order.filter(({ serves }) => serves !== 'tags');
  }

  #repository(endpoint: Endpoint): Promise<Repository> {
    const known = this.#repositories.get(endpoint) ?? this.#open(endpoint);
    this.#repositories.set(endpoint, known);
    return known;
  }

  /** Who failed before `endpoint` comes after it; who was not asked stays where it was. */
  #prefer(endpoint: Endpoint, failed: ReadonlyMap<Endpoint, string>): void {
    const at = this.#order.indexOf(endpoint);
    const before = this.#order.slice(0, at);
    this.#order = [
      ...before.filter((each) => !failed.has(each)),
      endpoint,
      ...before.filter((each) => failed.has(each)),
      ...this.#order.slice(at + 1),
    ];
  }
}

function withHistory(error: unknown, failed: readonly string[]): unknown {
  if (failed.length === 0) return error;
  const reason = error instanceof RuntimeError && error.reason !== undefined ? { reason: error.reason } : {};
  return new RuntimeError(codeOf(error), `${explain(error)} (mirrors before it: ${failed.join('; ').slice(0, 1000)})`, {
    ...reason,
    cause: error,
  });
}
