/** `berth logs`: what a container wrote, read from its log file as the kubelet does. Needs to run on the node. */
import { type FileHandle, open, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { errnoOf, RuntimeError } from '../../pkg/base/errors.ts';
import { type CommandContext, interrupted, now, wholeNumber, withClient } from './context.ts';

interface LogsOptions {
  readonly follow?: true;
  readonly tail?: number;
  readonly since?: bigint;
  readonly timestamps?: true;
}

/** Read at once: many lines, and no more memory than a terminal is worth. */
const BLOCK_BYTES = 64 * 1024;
/** How often a log that is followed is looked at, and how often its container. */
const LOOK_MS = 100;
const ALIVE_MS = 500;

/** Adds `logs`. */
export function addLogs(program: Command, context: CommandContext): void {
  program
    .command('logs')
    .description('print the log of a container, both streams in order')
    .argument('<container>')
    .option('-f, --follow', 'go on until the container ends')
    .option('-n, --tail <lines>', 'only the last lines', wholeNumber)
    .option('--since <duration>', 'only what is newer, such as 10s, 5m, 2h, 1d', parseDuration)
    .option('-t, --timestamps', 'with the time of each line')
    .action(async (containerId: string, options: LogsOptions) => {
      await withClient(context, async (client) => {
        const { status } = await client.containerStatus({ containerId });
        if (status === undefined || status.logPath === '')
          throw new RuntimeError('FailedPrecondition', `container ${containerId} has no log file`);
        const runs = async (): Promise<boolean> => {
          const found = await client.containerStatus({ containerId: status.id }).catch(() => undefined);
          return found?.status?.state === 'CONTAINER_RUNNING' || found?.status?.state === 'CONTAINER_CREATED';
        };
        const signal = interrupted();
        const since =
          options.since === undefined
            ? undefined
            : new Date(Number((now() - options.since) / 1_000_000n)).toISOString();
        // Streams whose last entry was a piece: the next one goes on with its line.
        const inLine = new Set<LogEntry['stream']>();
        for await (const line of logFileLines(status.logPath, {
          tail: options.tail,
          goesOn: options.follow === true ? runs : undefined,
          signal,
        })) {
          const entry = parseLogLine(line);
          if (since !== undefined && entry.at !== '' && new Date(entry.at).toISOString() < since) continue;
          const stamp = options.timestamps === true && !inLine.has(entry.stream) ? entry.at : '';
          if (entry.content.at(-1) === 10) inLine.delete(entry.stream);
          else inLine.add(entry.stream);
          if (!(await print(entry, stamp))) return;
        }
      });
    });
}

/** One line of a CRI log. */
export interface LogEntry {
  /** As written; '' for a line that is none of CRI's. */
  readonly at: string;
  readonly stream: 'stdout' | 'stderr';
  /** Without the line feed where the line was only a piece (P). */
  readonly content: Buffer;
}

/** PURE. `2026-11-22T07:15:00.123456789Z stdout F text`. What does not look like it passes as it is. */
export function parseLogLine(line: Buffer): LogEntry {
  const match = /^(\S+) (stdout|stderr) ([PF])(?::\S*)? /.exec(line.toString('latin1'));
  if (match === null) return { at: '', stream: 'stdout', content: Buffer.concat([line, NEWLINE]) };
  const [head, at = '', stream, tag] = match;
  const content = line.subarray(head.length);
  return {
    at,
    stream: stream === 'stderr' ? 'stderr' : 'stdout',
    content: tag === 'F' ? Buffer.concat([content, NEWLINE]) : content,
  };
}
const NEWLINE = Buffer.from('\n');

/** Which lines, and for how long. */
export interface FollowOptions {
  /** Only so many lines that are there already; undefined = all. */
  readonly tail: number | undefined;
  /** Asked when there is no more to read: whether more may come. undefined = do not wait. */
  readonly goesOn: (() => Promise<boolean>) | undefined;
  readonly signal: AbortSignal;
}

/** Lines of a log file without their line feeds, through rotations: the old file to its end, then the new one. */
export async function* logFileLines(path: string, { tail, goesOn, signal }: FollowOptions): AsyncGenerator<Buffer> {
  let file = await openLog(path);
  try {
    let at = tail === undefined ? 0 : await startOfLast(file, tail);
    let rest: Buffer[] = [];
    let askedAt = 0;
    for (let over = false; !signal.aborted; ) {
      const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(BLOCK_BYTES), 0, BLOCK_BYTES, at);
      if (bytesRead > 0) {
        at += bytesRead;
        const [first = Buffer.alloc(0), ...more] = split(buffer.subarray(0, bytesRead));
        rest.push(first);
        for (const next of more) {
          yield Buffer.concat(rest);
          rest = [next];
        }
        continue;
      }
      const fresh = await rotated(path, file);
      if (fresh !== undefined) {
        await file.close();
        [file, at, rest] = [fresh, 0, []];
        continue;
      }
      if (over) return;
      if (performance.now() - askedAt >= ALIVE_MS || goesOn === undefined) {
        // What was written between the last read and the end is read in one more round.
        over = goesOn === undefined || !(await goesOn());
        askedAt = performance.now();
      }
      if (!over) await sleep(LOOK_MS, undefined, { signal }).catch(() => {});
    }
  } finally {
    await file.close();
  }
}

async function openLog(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (cause) {
    throw new RuntimeError(
      errnoOf(cause) === 'ENOENT' ? 'NotFound' : 'PermissionDenied',
      `cannot read the log ${path}; it is on the node that the container runs on, for root only`,
      { cause },
    );
  }
}

/** The file that has taken the place of `file`; undefined if it is still the same, or the new one is not there yet. */
async function rotated(path: string, file: FileHandle): Promise<FileHandle | undefined> {
  const [old, found] = await Promise.all([file.stat(), stat(path).catch(() => undefined)]);
  return found === undefined || (found.ino === old.ino && found.dev === old.dev)
    ? undefined
    : await open(path, 'r').catch(() => undefined);
}

/** Pieces between line feeds; the last one is not ended yet. */
function split(block: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  let from = 0;
  for (let end = block.indexOf(10); end >= 0; end = block.indexOf(10, from)) {
    parts.push(block.subarray(from, end));
    from = end + 1;
  }
  return [...parts, block.subarray(from)];
}

/** Where the last `count` lines begin, looked for from the end. A line that was written in pieces is one line. */
async function startOfLast(file: FileHandle, count: number): Promise<number> {
  const { size } = await file.stat();
  if (count === 0) return size;
  let wanted = count;
  // The end of an entry whose beginning is still looked for: if it ends a line, the next entry begins one.
  let entryEnd: number | undefined;
  for (let end = size; end > 0; ) {
    const start = Math.max(0, end - BLOCK_BYTES);
    const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(end - start), 0, end - start, start);
    for (let i = bytesRead - 1; i >= 0; i--) {
      if (buffer[i] !== 10) continue;
      if (entryEnd !== undefined && entryEnd + 1 < size && (await endsLine(file, start + i + 1)) && --wanted === 0)
        return entryEnd + 1;
      entryEnd = start + i;
    }
    end = start;
  }
  return entryEnd !== undefined && entryEnd + 1 < size && (await endsLine(file, 0)) && wanted === 1 ? entryEnd + 1 : 0;
}

/** False if the entry that begins there is a piece of a line, and not its last. */
async function endsLine(file: FileHandle, at: number): Promise<boolean> {
  const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(HEAD_BYTES), 0, HEAD_BYTES, at);
  return !/^\S+ std(out|err) P/.test(buffer.toString('latin1', 0, bytesRead));
}
/** Time, stream and tag. */
const HEAD_BYTES = 64;

/** False when nobody reads any more (`logs | head`). */
async function print({ stream, content }: LogEntry, stamp: string): Promise<boolean> {
  const target = stream === 'stderr' ? process.stderr : process.stdout;
  if (target.destroyed || target.errored !== null) return false;
  const text = stamp === '' ? content : Buffer.concat([Buffer.from(`${stamp} `), content]);
  if (!target.write(text)) await new Promise<void>((resolve) => target.once('drain', resolve).once('close', resolve));
  return true;
}

/** `10s`, `5m`, `2h`, `1d` in nanoseconds. For commander. */
export function parseDuration(text: string): bigint {
  const match = /^(\d{1,9})(s|m|h|d)$/.exec(text);
  const seconds = { s: 1n, m: 60n, h: 3600n, d: 86_400n }[match?.[2] ?? ''];
  if (match === null || seconds === undefined)
    throw new InvalidArgumentError(`want a duration such as 10s, 5m, 2h or 1d, got ${JSON.stringify(text)}`);
  return BigInt(match[1] ?? 0) * seconds * 1_000_000_000n;
}
