/**
 * One blob from one server, in order: whole, from where an earlier try stopped, or in ranges of which some are fetched
 * ahead over connections of their own.
 */
import { RuntimeError } from '../../base/errors.ts';
import type { Op } from '../../base/op.ts';
import { giveBack } from '../blocks.ts';
import { networkError, shortUrl } from './http.ts';
import { RequestError } from './patience.ts';
import type { Form } from './patience.ts';
import type { RateWatch } from './rate-watch.ts';

/** The answer to one request for a blob or for a part of it. */
export interface RangeAnswer {
  readonly url: URL;
  /** Without its encoding. */
  readonly body: AsyncIterable<Uint8Array>;
  /** Bytes of the body that lie before what was asked for. */
  readonly skip: bigint;
  /** The server sent all of the blob, whatever was asked. */
  readonly whole: boolean;
  /** Where the part that it sends ends; it may be before what was asked for. undefined if it does not say. */
  readonly end: bigint | undefined;
  discard(): void;
}

/** Asks for the bytes from `first` up to `last`, or to the end; in the plain form for all of them. */
export type AskRange = (op: Op, first: bigint, last: bigint | undefined, form: Form) => Promise<RangeAnswer>;

/** From which size on blobs come in ranges, and of which size those are. */
export interface Ranges {
  readonly fromBytes: number;
  readonly eachBytes: number;
}

/** What all transfers share. */
export interface TransferWorld {
  readonly ranges: Ranges;
  /** Of what may be in memory at once. */
  readonly ahead: Budget;
  readonly now: () => number;
}

/** Reads one blob. */
export class BlobTransfer {
  readonly #world: TransferWorld;
  readonly #watch: RateWatch;
  readonly #op: Op;
  readonly #ask: AskRange;
  #asked: Form = 'plain';

  constructor(world: TransferWorld, watch: RateWatch, op: Op, ask: AskRange) {
    this.#world = world;
    this.#watch = watch;
    this.#op = op;
    this.#ask = (inner, first, last, form) => {
      if (form === 'ranged' && (first > 0n || last !== undefined)) this.#asked = 'ranged';
      return watch.waiting(world.now, () => ask(inner, first, last, form));
    };
  }

  /** `ranged` if the last `read` asked for a part at all. */
  get asked(): Form {
    return this.#asked;
  }

  /**
   * The bytes from `from` up to `size`. A piece is valid until the next one is asked for. @throws RequestError when
   * something is in the way, after the last byte that came; DataLoss if the server sends more.
   */
  async *read(from: bigint, size: bigint, form: Form): AsyncGenerator<Uint8Array, void, void> {
    this.#asked = 'plain';
    const { fromBytes, eachBytes } = this.#world.ranges;
    const step = BigInt(eachBytes);
    if (form === 'plain' || size - from < BigInt(fromBytes)) {
      yield* this.#part(from, size, form === 'plain' ? form : 'rest', undefined);
      return;
    }
    const first = await this.#ask(this.#op, from, from + step - 1n, form);
    if (first.whole) yield* this.#stream(first, size - from);
    else yield* this.#ranges(first, from, size, step);
  }

  async *#ranges(first: RangeAnswer, from: bigint, size: bigint, step: bigint): AsyncGenerator<Uint8Array, void, void> {
    const { ahead: budget } = this.#world;
    const ahead = new Map<bigint, Promise<Buffer | undefined>>();
    let planned = from + step;
    let current: RangeAnswer | undefined = first;
    const planAhead = (): void => {
      while (planned < size && budget.take()) {
        ahead.set(planned, this.#fetchAhead(planned, min(step, size - planned)));
        planned += step;
      }
    };
    try {
      for (let at = from; at < size; at += step) {
        planAhead();
        const length = min(step, size - at);
        const ready = await ahead.get(at);
        if (ahead.delete(at)) budget.give();
        if (ready !== undefined) {
          yield ready;
          giveBack(ready);
        } else yield* this.#part(at, at + length, 'part', current);
        current = undefined;
        if (planned <= at + step) planned = at + step + step;
      }
    } finally {
      for (const range of ahead.values()) void range.finally(() => budget.give());
    }
  }

  /** undefined when it failed: the reader asks again itself and meets the error with its own tries. */
  async #fetchAhead(at: bigint, length: bigint): Promise<Buffer | undefined> {
    try {
      const bytes = Buffer.allocUnsafeSlow(Number(length));
      let total = 0;
      for await (const chunk of this.#part(at, at + length, 'part', undefined)) {
        bytes.set(chunk, total);
        total += chunk.length;
      }
      return total === bytes.length ? bytes : undefined;
    } catch {
      return undefined;
    }
  }

  /**
   * The bytes from `from` up to `to`, in as many answers as the server likes: one that sends less than was asked for is
   * asked for the rest (RFC 9110 15.3.7). `first` is the answer that is here already.
   */
  async *#part(
    from: bigint,
    to: bigint,
    wanted: 'part' | 'rest' | 'plain',
    first: RangeAnswer | undefined,
  ): AsyncGenerator<Uint8Array, void, void> {
    let given = first;
    for (let at = from; at < to; ) {
      const last = wanted === 'part' ? to - 1n : undefined;
      const answer = given ?? (await this.#ask(this.#op, at, last, wanted === 'plain' ? 'plain' : 'ranged'));
      const end = answer.end === undefined ? to : min(to, answer.end);
      yield* this.#stream(answer, end - at);
      at = end;
      given = undefined;
    }
  }

  /**
   * `length` bytes of an answer. A server that sends more is cut off here; the digest tells the rest. @throws
   * RequestError after the last byte if it sends fewer.
   */
  async *#stream(answer: RangeAnswer, length: bigint): AsyncGenerator<Uint8Array, void, void> {
    let skip = answer.skip;
    let left = length;
    try {
      for await (const chunk of answer.body) {
        this.#watch.add(chunk.length, this.#world.now());
        const dropped = min(skip, BigInt(chunk.length));
        skip -= dropped;
        const rest = chunk.subarray(Number(dropped));
        if (BigInt(rest.length) > left)
          throw new RuntimeError(
            'DataLoss',
            `${shortUrl(answer.url)} sends more bytes than the manifest promises; the image must be pushed again`,
          );
        left -= BigInt(rest.length);
        if (rest.length > 0) yield rest;
      }
      if (left > 0n)
        throw new RequestError(
          'Unavailable',
          `${shortUrl(answer.url)} ends ${left} bytes before what was asked for; try again later`,
          { kind: 'line' },
        );
    } catch (error) {
      throw networkError(answer.url, error);
    } finally {
      answer.discard();
    }
  }
}

/** A counter of what may be there at once. */
export class Budget {
  #left: number;
  constructor(count: number) {
    this.#left = count;
  }
  /** True if there was one left, which is taken then. */
  take(): boolean {
    if (this.#left === 0) return false;
    this.#left--;
    return true;
  }
  give(): void {
    this.#left++;
  }
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}
