/**
 * The output of an ExecSync, kept up to a bound per stream (CVE-2022-1708), and within a bound for the whole node (CVE-2022-31030).
 *
 * Most commands print a line. What is longer takes its bytes from the node's room, and gives them back when it has been sent or its caller has
 * left. Where there is no room left, the command's pipe is not read for a moment, and then the rest is dropped, as beyond the bound of the
 * stream: a command must not stand still, nor fail, because of what others print.
 */
import { discard } from '../base/bytes.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';

/** What the outputs of this node's commands may take together. */
export class OutputRoom {
  readonly #patienceMs: number;
  readonly #waiting = new Set<() => void>();
  #free: number;

  constructor(bytes: number = limits.execOutputRoomBytes, patienceMs: number = limits.execOutputRoomMs) {
    this.#free = bytes;
    this.#patienceMs = patienceMs;
  }

  /** Room for one command. `release` it when its output is no longer held. */
  open(op: Op): CapturedOutput {
    return new CapturedOutput(op, this);
  }

  /** True if the bytes are the caller's now; false if there was no room for as long as it may wait. */
  async take(op: Op, bytes: number): Promise<boolean> {
    const until = performance.now() + this.#patienceMs;
    while (this.#free < bytes) {
      const left = until - performance.now();
      if (left <= 0 || op.signal.aborted) return false;
      await this.#change(op.signal, left);
    }
    this.#free -= bytes;
    return true;
  }

  give(bytes: number): void {
    this.#free += bytes;
    for (const wake of [...this.#waiting]) wake();
  }

  /** Until something was given back, `ms` are over, or nobody waits any more. */
  async #change(signal: AbortSignal, ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const wake = (): void => resolve();
    const timer = setTimeout(wake, ms);
    this.#waiting.add(wake);
    signal.addEventListener('abort', wake);
    await promise;
    signal.removeEventListener('abort', wake);
    this.#waiting.delete(wake);
    clearTimeout(timer);
  }
}

export class CapturedOutput {
  readonly stdout: Capture;
  readonly stderr: Capture;
  readonly #op: Op;
  readonly #room: OutputRoom;
  #taken = 0;
  #over = false;

  constructor(op: Op, room: OutputRoom) {
    this.#op = op;
    this.#room = room;
    this.stdout = new Capture((bytes) => this.#widen(bytes));
    this.stderr = new Capture((bytes) => this.#widen(bytes));
  }

  /** The bytes of both streams are gone then. May be called again. */
  release(): void {
    this.#over = true;
    this.stdout.discard();
    this.stderr.discard();
    if (this.#taken > 0) this.#room.give(this.#taken);
    this.#taken = 0;
  }

  async #widen(bytes: number): Promise<boolean> {
    if (!(await this.#room.take(this.#op, bytes))) {
      if (!this.#op.signal.aborted) this.#op.log.warn('the node has no room left for the output of commands; the rest of this one is dropped', { bytes: limits.execOutputRoomBytes });
      return false;
    }
    if (this.#over) this.#room.give(bytes);
    else this.#taken += bytes;
    return !this.#over;
  }
}

/** Each buffer is so many times as large as the one before: few copies, and little that is never written to. */
const GROWTH = 4;

/** Keeps the first bytes of a stream and drops the rest, so that the command goes on. */
export class Capture {
  readonly #widen: (bytes: number) => Promise<boolean>;
  #buffer: Buffer = Buffer.alloc(0);
  #length = 0;
  #full = false;

  /** `widen` asks for bytes beyond the few that everybody may have; false: there are none. */
  constructor(widen: (bytes: number) => Promise<boolean>) {
    this.#widen = widen;
  }

  async add(chunk: Uint8Array): Promise<void> {
    if (this.#full) return;
    const wanted = Math.min(this.#length + chunk.length, limits.execOutputBytes);
    if (wanted > this.#buffer.length) await this.#grow(wanted);
    // A copy: the reader may use its buffer again.
    const end = Math.min(wanted, this.#buffer.length);
    this.#buffer.set(chunk.subarray(0, end - this.#length), this.#length);
    this.#length = end;
  }

  bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }

  discard(): void {
    this.#full = true;
    discard(this.#buffer);
    this.#buffer = Buffer.alloc(0);
    this.#length = 0;
  }

  async #grow(wanted: number): Promise<void> {
    const small = limits.execSmallOutputBytes;
    const ample = Math.min(limits.execOutputBytes, Math.max(wanted, GROWTH * this.#buffer.length));
    const size = wanted <= small ? Math.min(ample, small) : ample;
    const asked = size - Math.max(small, this.#buffer.length);
    if (asked > 0 && !(await this.#widen(asked))) this.#full = true;
    if (this.#full) return;
    const buffer = Buffer.allocUnsafeSlow(size);
    buffer.set(this.#buffer.subarray(0, this.#length));
    discard(this.#buffer);
    this.#buffer = buffer;
  }
}
