/** Several endpoints as one source: asked in order, one that fails hands over to the next where it stopped. */
import { codeOf, explain, RuntimeError } from '../../base/errors.ts';
import type { Digest } from '../../base/ids.ts';
import { abortError } from '../../base/op.ts';
import type { Op } from '../../base/op.ts';
import type { PullSource } from '../source.ts';
import type { Endpoint, ManifestAnswer, Repository } from './repository.ts';

export class MirroredSource implements PullSource {
  readonly describe: string;
  readonly #open: (endpoint: Endpoint) => Promise<Repository>;
  readonly #repositories = new Map<Endpoint, Promise<Repository>>();
  /** The one that answered last comes first. */
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
    const failed: string[] = [];
    for (const endpoint of this.#order) {
      try {
        const answer = await (await this.#repository(endpoint)).manifest(op, tagOrDigest);
        this.#prefer(endpoint);
        return answer;
      } catch (error) {
        this.#giveUpUnless(op, error, endpoint, failed, `pulling ${this.describe}`);
        op.log.warn('mirror failed, will try the next one', { endpoint: endpoint.root, error: explain(error) });
      }
    }
    throw new RuntimeError('Internal', `${this.describe}: no endpoint to ask`);
  }

  /** The repository that gave the last manifest; before the first one, the one that will be asked first. */
  async current(): Promise<Repository> {
    const [first] = this.#order;
    if (first === undefined) throw new RuntimeError('Internal', `${this.describe}: no endpoint to ask`);
    return await this.#repository(first);
  }

  /**
   * The digest of a tag as the first endpoint says; undefined if it does not, for whatever reason: `manifest` will meet
   * that reason.
   */
  async promisedDigest(op: Op, tagOrDigest: string): Promise<Digest | undefined> {
    const [first] = this.#order;
    if (first === undefined) return undefined;
    return (await this.#repository(first)).promisedDigest(op, tagOrDigest).catch(() => undefined);
  }

  async *blob(
    op: Op,
    want: { readonly digest: Digest; readonly size: bigint },
    offset: bigint,
  ): AsyncGenerator<Uint8Array, void, void> {
    const failed: string[] = [];
    const order = this.#order.filter((endpoint) => this.#wrong.get(want.digest)?.has(endpoint) !== true);
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
        this.#giveUpUnless(op, error, undefined, failed, `downloading ${want.digest}`);
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
    return this.#order.some((endpoint) => !wrong.has(endpoint));
  }

  /** Notes the failure and returns if somebody else can be asked; throws otherwise. */
  #giveUpUnless(op: Op, error: unknown, endpoint: Endpoint | undefined, failed: string[], doing: string): void {
    if (op.signal.aborted) throw abortError(op, doing);
    if (endpoint !== undefined && endpoint === this.#order.at(-1)) throw withHistory(error, failed);
    failed.push(explain(error));
  }

  #repository(endpoint: Endpoint): Promise<Repository> {
    const known = this.#repositories.get(endpoint) ?? this.#open(endpoint);
    this.#repositories.set(endpoint, known);
    return known;
  }

  #prefer(endpoint: Endpoint): void {
    this.#order = [endpoint, ...this.#order.filter((each) => each !== endpoint)];
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
