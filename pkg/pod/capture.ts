/**
 * The output of an ExecSync, kept up to a bound per stream (CVE-2022-1708), and within a bound for the whole node (CVE-2022-31030).
 *
 * Most commands print a line. Those that print much wait for one of a few places, unread by us and so held back by their own pipe; a
 * command whose output has been sent, or whose caller has left, gives its place back.
 */
import { discard } from '../base/bytes.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { abortable, Gate } from '../base/sync.ts';

/** The places on this node for commands with much output. */
export class OutputRoom {
  readonly #gate = new Gate(limits.execLargeOutputsCount);

  /** Room for one command. `release` it when its output is no longer held. */
  open(op: Op): CapturedOutput {
    return new CapturedOutput(op, this.#gate);
  }
}

export class CapturedOutput {
  readonly stdout: Capture;
  readonly stderr: Capture;
  readonly #op: Op;
  readonly #gate: Gate;
  readonly #over = Promise.withResolvers<void>();
  #place: Promise<void> | undefined;

  constructor(op: Op, gate: Gate) {
    this.#op = op;
    this.#gate = gate;
    this.stdout = new Capture(() => this.#take());
    this.stderr = new Capture(() => this.#take());
  }

  /** The bytes of both streams are gone then. May be called again. */
  release(): void {
    this.#over.resolve();
    this.stdout.discard();
    this.stderr.discard();
  }

  /** One place serves both streams. */
  #take(): Promise<void> {
    this.#place ??= new Promise<void>((granted) => {
      this.#op.stage('wait for room for the output');
      void this.#gate.run(async () => {
        granted();
        this.#op.stage('runtime exec');
        await this.#over.promise;
      });
    });
    return abortable(this.#place, this.#op.signal, () => new Error('nobody waits for this output any more'));
  }
}

/** Keeps the first bytes of a stream and drops the rest, so that the command goes on. */
export class Capture {
  readonly #widen: () => Promise<void>;
  #buffer: Buffer = Buffer.alloc(0);
  #length = 0;
  #discarded = false;

  /** `widen` is called once, before more than the few bytes are kept that everybody may have. */
  constructor(widen: () => Promise<void>) {
    this.#widen = widen;
  }

  async add(chunk: Uint8Array): Promise<void> {
    if (this.#discarded) return;
    const wanted = Math.min(this.#length + chunk.length, limits.execOutputBytes);
    if (wanted > this.#buffer.length) {
      // One buffer of full size costs only the pages that are written to; growing step by step would hold two.
      const large = wanted > limits.execSmallOutputBytes;
      if (large) await this.#widen();
      if (this.#discarded) return;
      const buffer = Buffer.allocUnsafeSlow(large ? limits.execOutputBytes : Math.max(wanted, 2 * this.#buffer.length));
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
    this.#discarded = true;
    discard(this.#buffer);
    this.#buffer = Buffer.alloc(0);
    this.#length = 0;
  }
}
