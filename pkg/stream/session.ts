/**
 * What happens between a client and the pod, whatever carries it: exec, attach, port-forward. A session owns everything
 * it started; when it returns nothing of it is left. It ends with the process or the container, when the client hangs
 * up, when nothing but pings has passed for the idle time, and when the daemon stops.
 */
import { explain, isCode, RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { nextTurn } from '../base/loop-share.ts';
import type { Op } from '../base/op.ts';
import { within } from '../base/time.ts';
import { abortable } from '../base/sync.ts';
import type { Ending, Forward, PortsClient, Sink, StdioClient } from './client.ts';
import type { Inbox } from './inbox.ts';
import type { TerminalSize } from '../ports/runtime.ts';
import type { StreamBackend } from '../ports/stream.ts';
import type { AttachGrant, ExecGrant, ForwardGrant } from './client.ts';
import { parseJson } from '../base/json.ts';

/** Counts what passes, and notices when nothing does. */
export class Meter {
  readonly #idleMs: number;
  readonly #onIdle: () => void;
  readonly #now: () => number;
  #timer: NodeJS.Timeout | undefined;
  #last: number;
  inBytes = 0;
  outBytes = 0;

  /**
   * Calls `onIdle` once, `idleMs` after the last data; 0 is never. `now` is a clock in milliseconds that does not jump.
   */
  constructor(idleMs: number, onIdle: () => void, now: () => number = () => performance.now()) {
    this.#idleMs = idleMs;
    this.#onIdle = onIdle;
    this.#now = now;
    this.#last = now();
    if (idleMs > 0) this.#arm(idleMs);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  /** Input of a client, counted. */
  async *in(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, void> {
    for await (const data of source) {
      this.#last = this.#now();
      this.inBytes += data.length;
      yield data;
    }
  }

  /** Output to a client, counted when it has been taken. */
  out(sink: Sink): Sink;
  out(sink: Sink | null): Sink | null;
  out(sink: Sink | null): Sink | null {
    if (sink === null) return null;
    return async (data) => {
      await sink(data);
      this.#last = this.#now();
      this.outBytes += data.length;
    };
  }

  #arm(ms: number): void {
    // setTimeout takes 24 days at most; looking too early costs nothing.
    this.#timer = setTimeout(
      () => {
        const left = this.#last + this.#idleMs - this.#now();
        if (left <= 0) this.#onIdle();
        else this.#arm(left);
      },
      Math.min(ms, 2_147_483_000),
    );
    this.#timer.unref();
  }
}

/**
 * The newest size that a client asked for, given to the terminal at most once per turn of the event loop: a flood costs
 * nothing.
 */
export class TerminalSizes {
  #text = '';
  #latest: TerminalSize | undefined;
  #apply: ((size: TerminalSize) => Promise<void> | void) | undefined;
  #applying = false;

  /** Reads sizes until there are no more. What is no size is passed over. */
  async read(source: Inbox): Promise<void> {
    for await (const data of source) {
      const text = this.#text + Buffer.from(data).toString('latin1');
      const end = text.lastIndexOf('}') + 1;
      this.#text = text.slice(end, end + limits.terminalSizeBytes);
      const size = newestSize(text.slice(0, end));
      if (size === undefined) continue;
      this.#latest = size;
      void this.#run();
    }
  }

  /** From now on sizes go here, first the newest there is. */
  connect(apply: (size: TerminalSize) => Promise<void> | void): void {
    this.#apply = apply;
    void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#applying || this.#apply === undefined) return;
    this.#applying = true;
    while (this.#latest !== undefined) {
      await nextTurn();
      const size = this.#latest;
      this.#latest = undefined;
      try {
        await this.#apply(size);
      } catch {
        // The terminal is gone, and with it soon the session.
      }
    }
    this.#applying = false;
  }
}

/**
 * The last size in the text, which ends with a brace. JSON that is none costs an exception: a client that sent nothing
 * but braces had the event loop to itself, so only the end of a flood is looked at.
 */
function newestSize(text: string): TerminalSize | undefined {
  let end = text.length;
  for (let tries = 0; end > 0 && tries < limits.terminalSizesCount; tries++) {
    const begin = end < 2 ? 0 : text.lastIndexOf('}', end - 2) + 1;
    const size = parseSize(text.slice(begin, end));
    if (size !== undefined) return size;
    end = begin;
  }
  return undefined;
}

/** Kubernetes' TerminalSize: 16 bits each, as the terminal has them; 0 says nothing. */
function parseSize(text: string): TerminalSize | undefined {
  if (text.length > limits.terminalSizeBytes) return undefined;
  let value: unknown;
  try {
    value = parseJson(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null || !('Width' in value) || !('Height' in value)) return undefined;
  const { Width: width, Height: height } = value;
  const fits = (cells: unknown): cells is number =>
    typeof cells === 'number' && Number.isInteger(cells) && cells > 0 && cells <= 0xffff;
  return fits(width) && fits(height) ? { width, height } : undefined;
}

/** Runs the command with the client's streams. Never rejects. */
export async function runExec(
  op: Op,
  backend: StreamBackend,
  grant: ExecGrant,
  client: StdioClient,
  meter: Meter,
): Promise<Ending> {
  const sizes = readSizes(client);
  try {
    const { exitCode } = await backend.exec(op, grant.containerId, grant.cmd, {
      tty: grant.tty,
      stdin: client.stdin === null ? null : meteredInput(client.stdin, meter),
      stdout: meter.out(client.stdout),
      stderr: meter.out(client.stderr),
      // A terminal is its command's, as for CRI-O and containerd: who left a shell must get his own terminal back.
      lateOutput: grant.tty ? 'cut' : 'follow',
      onTerminal: (resize) => sizes.connect(resize),
    });
    return { kind: 'exited', exitCode };
  } catch (error) {
    const exitCode = error instanceof RuntimeError ? error.exitCode : undefined;
    return exitCode === undefined
      ? { kind: 'failed', message: whyOf(op, error) }
      : await unrunnable(explain(error), exitCode, grant, client);
  } finally {
    client.stdin?.drop();
    client.sizes?.drop();
  }
}

/** As with a shell: words on stderr, and an exit code. kubectl passes on only the code of an ending that has one. */
async function unrunnable(
  why: string,
  exitCode: number,
  { tty }: ExecGrant,
  { stdout, stderr }: StdioClient,
): Promise<Ending> {
  const sink = tty ? stdout : stderr;
  await sink?.(Buffer.from(`${why}${tty ? '\r\n' : '\n'}`)).catch(() => {});
  return { kind: 'exited', exitCode, why };
}

/**
 * Joins the client to the container's own stdio until the container ends, or until the client detaches from a terminal:
 * a person's input ends there when the detach keys were typed, and without it the session would hold that person's own
 * terminal for ever. Never rejects.
 */
export async function runAttach(
  op: Op,
  backend: StreamBackend,
  grant: AttachGrant,
  client: StdioClient,
  meter: Meter,
): Promise<Ending> {
  const sizes = readSizes(client);
  try {
    op.stage('connect to the monitor');
    const channel = await backend.attach(op, grant.containerId);
    op.stage('attached');
    const close = (): void => channel.close();
    op.signal.addEventListener('abort', close, { once: true });
    try {
      if (op.signal.aborted) close();
      if (grant.tty && !channel.tty)
        throw new RuntimeError('InvalidArgument', `container ${grant.containerId} has no terminal; attach without tty`);
      if (channel.tty) sizes.connect((size) => channel.resize(size));
      const endInput = grant.tty ? close : (): void => channel.closeInput();
      if (client.stdin !== null)
        void feed(meter.in(client.stdin), (data) => channel.write(data), endInput, client.stdin);
      const sinks = { stdout: meter.out(client.stdout), stderr: meter.out(client.stderr) };
      for await (const { stream, data } of channel.output) await sinks[stream]?.(data);
      if (op.signal.aborted) throw new RuntimeError('Cancelled', 'detached');
      return { kind: 'exited', exitCode: 0 };
    } finally {
      op.signal.removeEventListener('abort', close);
      close();
    }
  } catch (error) {
    return { kind: 'failed', message: whyOf(op, error) };
  } finally {
    client.stdin?.drop();
    client.sizes?.drop();
  }
}

/**
 * Connects every connection that the client asks for; returns when the client is done or the pod is gone. @throws what
 * was wrong with the connection.
 */
export async function runForward(
  op: Op,
  backend: StreamBackend,
  grant: ForwardGrant,
  client: PortsClient,
  meter: Meter,
): Promise<void> {
  op.stage('forward');
  await client.serve(async (forward) => {
    const failure = await forwardOne(op, backend, grant, forward, meter);
    await forward.finish(
      failure === undefined ? undefined : `error forwarding port ${forward.port}: ${whyOf(op, failure)}`,
    );
    // Nothing more can come of this session.
    if (isCode(failure, 'NotFound') || isCode(failure, 'FailedPrecondition')) void client.finish();
  });
}

/** One connection, to the end of both directions; what went wrong, if anything did. Never rejects. */
async function forwardOne(
  op: Op,
  backend: StreamBackend,
  grant: ForwardGrant,
  forward: Forward,
  meter: Meter,
): Promise<unknown> {
  try {
    if (grant.port.length > 0 && !grant.port.includes(forward.port))
      throw new RuntimeError('PermissionDenied', `it was not asked for; asked for: ${grant.port.join(', ')}`);
    const connection = await backend.portForward(op, grant.podSandboxId, forward.port);
    const close = (): void => connection.close();
    const signal = AbortSignal.any([op.signal, forward.gone]);
    signal.addEventListener('abort', close, { once: true });
    try {
      if (signal.aborted) close();
      const upstream = feed(
        meter.in(forward.input),
        (data) => connection.write(data),
        () => void connection.endWrite().catch(() => {}),
        forward.input,
      );
      const output = meter.out(forward.output);
      for await (const data of connection) await output(data);
      if (forward.endOutput !== null && !signal.aborted) {
        await forward.endOutput();
        // The pod may still listen, but a client that has nothing to say must not keep the connection.
        await within(
          limits.streamLingerMs,
          abortable(upstream, signal, () => new Error('the client is gone')).catch(() => {}),
        );
      }
    } finally {
      signal.removeEventListener('abort', close);
      close();
      forward.input.drop();
    }
    return undefined;
  } catch (error) {
    return forward.gone.aborted ? undefined : error;
  }
}

/** Writes a source until it ends or nobody takes it, then `end`. Never rejects. */
async function feed(
  source: AsyncIterable<Uint8Array>,
  write: (data: Uint8Array) => Promise<void>,
  end: () => void,
  inbox: Inbox,
): Promise<void> {
  try {
    // Half-close only after the last byte was taken (containerd#13934).
    for await (const data of source) await write(data);
    end();
  } catch {
    inbox.drop(); // Nobody reads it any more; the session goes on without.
  }
}

/** As the runtime wants it: its `return` must work while a `next` waits, which a generator's does not. */
function meteredInput(inbox: Inbox, meter: Meter): AsyncIterable<Uint8Array> {
  const counted = meter.in(inbox);
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => counted.next(),
      return: () => {
        inbox.drop();
        return Promise.resolve({ done: true as const, value: undefined });
      },
    }),
  };
}

function readSizes(client: StdioClient): TerminalSizes {
  const sizes = new TerminalSizes();
  if (client.sizes !== null) void sizes.read(client.sizes);
  return sizes;
}

/** Why it ended, in words: an operation that was aborted says by whom. */
function whyOf(op: Op, error: unknown): string {
  return op.signal.aborted && op.signal.reason instanceof RuntimeError ? op.signal.reason.message : explain(error);
}
