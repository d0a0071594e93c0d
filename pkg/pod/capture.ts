/**
 * The output of an ExecSync, kept up to a bound per stream (CVE-2022-1708), and within a bound for the whole node
 * (CVE-2022-31030).
 *
 * Most commands print a line. Those that print much wait for one of a few places, unread by us and so held back by
 * their own pipe; a command whose output has been sent, or whose caller has left, gives its place back. But places may
 * be held by commands that go on for hours: who has waited for half of the time that it has, or while none was given
 * back for long, goes on without one, and what it prints from there is dropped. A command must neither stand still nor
 * fail because of what others print.
 */
import { discard } from '../base/bytes.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { LONGEST_TIMER_MS, leftMs } from '../base/time.ts';

interface Waiting {
  /** Runs out when no place has been given back for long. */
  readonly patience: NodeJS.Timeout;
  /** False if it has given up. */
  readonly grant: () => boolean;
}

/** The places on this node for commands with much output. */
export class OutputRoom {
  readonly #patienceMs: number;
  readonly #waiting = new Set<Waiting>();
  #free = limits.execLargeOutputsCount;

  constructor(patienceMs: number = limits.execOutputRoomMs) {
    this.#patienceMs = patienceMs;
  }

  /** Room for one command. `release` it when its output is no longer held. */
  open(op: Op): CapturedOutput {
    return new CapturedOutput(op, this);
  }

  /** True when the caller has a place; false if it waited in vain. First come, first served. */
  async take(op: Op): Promise<boolean> {
    if (this.#free > 0) {
      this.#free--;
      return true;
    }
    const { promise, resolve } = Promise.withResolvers<boolean>();
    let isOver = false;
    const end = (granted: boolean): boolean => {
      if (isOver) return false;
      isOver = true;
      resolve(granted);
      return true;
    };
    const giveUp = (): void => void end(false);
    const waiting: Waiting = { patience: setTimeout(giveUp, this.#patienceMs), grant: () => end(true) };
    const half = setTimeout(giveUp, Math.min(leftMs(op.deadline) / 2, LONGEST_TIMER_MS));
    op.signal.addEventListener('abort', giveUp);
    this.#waiting.add(waiting);
    try {
      return await promise;
    } finally {
      this.#waiting.delete(waiting);
      op.signal.removeEventListener('abort', giveUp);
      clearTimeout(half);
      clearTimeout(waiting.patience);
    }
  }

  give(): void {
    for (const { patience } of this.#waiting) patience.refresh();
    for (const { grant } of this.#waiting) if (grant()) return;
    this.#free++;
  }
}

/** The output of one command, as much of it as is kept. */
export class CapturedOutput {
  readonly stdout: Capture;
  readonly stderr: Capture;
  readonly #op: Op;
  readonly #room: OutputRoom;
  #place: Promise<boolean> | undefined;
  #isReleased = false;

  constructor(op: Op, room: OutputRoom) {
    this.#op = op;
    this.#room = room;
    // One place serves both streams.
    this.stdout = new Capture(() => (this.#place ??= this.#take()));
    this.stderr = new Capture(() => (this.#place ??= this.#take()));
  }

  /** The bytes of both streams are gone then. May be called again. */
  release(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    this.stdout.discard();
    this.stderr.discard();
    void this.#place?.then((granted) => granted && this.#room.give());
  }

  async #take(): Promise<boolean> {
    this.#op.stage('wait for room for the output');
    const granted = await this.#room.take(this.#op);
    this.#op.stage('runtime exec');
    if (!granted && !this.#op.signal.aborted)
      this.#op.log.warn('other commands hold all the room for large outputs; the rest of this output is dropped', {
        keptBytes: limits.execSmallOutputBytes,
      });
    return granted;
  }
}

/** Keeps the first bytes of a stream and drops the rest, so that the command goes on. */
export class Capture {
  readonly #widen: () => Promise<boolean>;
  #buffer: Buffer = Buffer.alloc(0);
  #length = 0;
  /** Nothing is kept any more. */
  #isFull = false;

  /** `widen` is asked before more than the few bytes are kept that everybody may have; false: no more may be. */
  constructor(widen: () => Promise<boolean>) {
    this.#widen = widen;
  }

  async add(chunk: Uint8Array): Promise<void> {
    if (this.#isFull) return;
    const wanted = Math.min(this.#length + chunk.length, limits.execOutputBytes);
    if (wanted > this.#buffer.length) {
      // One buffer of full size costs only the pages that are written to; growing step by step would hold two.
      const isLarge = wanted > limits.execSmallOutputBytes;
      if (isLarge && !(await this.#widen())) this.#isFull = true;
      if (this.#isFull) return;
      const buffer = Buffer.allocUnsafeSlow(
        isLarge ? limits.execOutputBytes : Math.max(wanted, 2 * this.#buffer.length),
      );
      buffer.set(this.#buffer.subarray(0, this.#length));
      this.#buffer = buffer;
    }
    // A copy: the reader may use its buffer again.
    this.#buffer.set(chunk.subarray(0, wanted - this.#length), this.#length);
    this.#length = wanted;
  }

  bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }

  discard(): void {
    this.#isFull = true;
    discard(this.#buffer);
    this.#buffer = Buffer.alloc(0);
    this.#length = 0;
  }
}
