/**
 * `berth exec`, `attach`: a command in a container, over WebSocket (v5.channel.k8s.io) as newer clients of Kubernetes
 * do it.
 */
import type { Command } from 'commander';
import type { WebSocket } from 'ws';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { type CommandContext, wholeNumber, withClient } from './context.ts';
import { parseJson } from '../../pkg/base/json.ts';

interface StreamOptions {
  readonly stdin?: true;
  readonly tty?: true;
}

const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, status: 3, resize: 4, close: 255 } as const;
/** What may wait for a slow connection before stdin is read on. */
const AHEAD_BYTES = 1 << 20;

/** Adds `exec` and `attach`. */
export function addExec(program: Command, context: CommandContext): void {
  program
    .command('exec')
    .description('run a command in a container; its exit code becomes ours')
    .argument('<container>')
    .argument('<command...>')
    .option('-i, --stdin', 'pass our input on')
    .option('-t, --tty', 'give it a terminal')
    .option('-s, --sync', 'wait for its end and print what it wrote then, as probes do')
    .option('--timeout <seconds>', 'kill it after so long; with --sync', wholeNumber, 0)
    .passThroughOptions()
    .action(
      async (
        containerId: string,
        cmd: string[],
        options: StreamOptions & { readonly sync?: true; readonly timeout: number },
      ) => {
        if (options.sync !== true && options.timeout > 0)
          throw new RuntimeError('InvalidArgument', '--timeout goes with --sync only');
        await withClient(context, async (client) => {
          if (options.sync === true) {
            const { stdout, stderr, exitCode } = await client.execSync({
              containerId,
              cmd,
              timeout: BigInt(options.timeout),
            });
            process.stdout.write(stdout);
            process.stderr.write(stderr);
            process.exitCode = exitCode;
            return;
          }
          const wanted = streams(options);
          const { url } = await client.exec({ containerId, cmd, ...wanted });
          process.exitCode = await talk(url, wanted);
        });
      },
    );
  program
    .command('attach')
    .description("see a running container's output and, with -i, write to its input")
    .argument('<container>')
    .option('-i, --stdin', 'pass our input on')
    .option('-t, --tty', 'the container has a terminal')
    .action(async (containerId: string, options: StreamOptions) => {
      await withClient(context, async (client) => {
        const wanted = streams(options);
        const { url } = await client.attach({ containerId, ...wanted });
        process.exitCode = await talk(url, wanted);
      });
    });
}

interface Wanted {
  readonly stdin: boolean;
  readonly stdout: true;
  readonly stderr: boolean;
  readonly tty: boolean;
}

/** A terminal has one output only. */
function streams({ stdin, tty }: StreamOptions): Wanted {
  if (tty === true && !process.stdin.isTTY && stdin === true)
    throw new RuntimeError('InvalidArgument', 'our input is no terminal; leave out --tty');
  return { stdin: stdin === true, stdout: true, stderr: tty !== true, tty: tty === true };
}

/** Carries the session to its end; the exit code. @throws with what the daemon says when it could not be run. */
async function talk(url: string, { stdin, tty }: Wanted): Promise<number> {
  const { WebSocket } = await import('ws');
  const ws = new WebSocket(url.replace(/^http/, 'ws'), ['v5.channel.k8s.io', 'v4.channel.k8s.io'], {
    perMessageDeflate: false,
  });
  const status: Buffer[] = [];
  const restore: (() => void)[] = [];
  ws.on('message', (data: Buffer) => {
    const channel = data[0];
    if (channel === CHANNEL.status) status.push(data.subarray(1));
    else if (channel === CHANNEL.stdout) passOn(ws, process.stdout, data.subarray(1));
    else if (channel === CHANNEL.stderr) passOn(ws, process.stderr, data.subarray(1));
  });
  ws.once('open', () => {
    if (tty) restore.push(followWindow(ws));
    if (stdin) restore.push(sendInput(ws, tty ? 'terminal' : 'pipe'));
  });
  try {
    await new Promise<void>((resolve, reject) => {
      ws.once('close', () => resolve());
      ws.once('error', (cause) =>
        reject(
          new RuntimeError('Unavailable', `cannot talk to ${new URL(url).host}, where the daemon streams`, { cause }),
        ),
      );
    });
  } finally {
    for (const each of restore) each();
  }
  return exitCodeOf(Buffer.concat(status).toString());
}

/** Reads no more from the connection until the terminal or pipe has taken this. */
function passOn(ws: WebSocket, target: NodeJS.WriteStream, data: Buffer): void {
  if (data.length === 0 || target.write(data)) return;
  ws.pause();
  target.once('drain', () => ws.resume());
}

/** Sends what is typed or piped, and the end of it; the way to stop. */
function sendInput(ws: WebSocket, to: 'terminal' | 'pipe'): () => void {
  const { stdin } = process;
  const raw = to === 'terminal' && stdin.isTTY;
  if (raw) stdin.setRawMode(true);
  const onData = (data: Buffer): void => {
    ws.send(Buffer.concat([Buffer.of(CHANNEL.stdin), data]), () => {
      if (stdin.isPaused() && ws.bufferedAmount < AHEAD_BYTES) stdin.resume();
    });
    if (ws.bufferedAmount >= AHEAD_BYTES) stdin.pause();
  };
  const onEnd = (): void => {
    // v4 has no word for the end of input; there it comes with the end of the connection.
    if (ws.protocol === 'v5.channel.k8s.io') ws.send(Buffer.of(CHANNEL.close, CHANNEL.stdin));
  };
  stdin.on('data', onData).once('end', onEnd);
  return () => {
    stdin.off('data', onData).off('end', onEnd).pause();
    if (raw) stdin.setRawMode(false);
    // A pipe that nobody ends must not keep us; a file has no such thing, and ends.
    (stdin as Partial<NodeJS.ReadStream>).unref?.();
  };
}

/** Tells the size of our terminal, now and whenever it changes; the way to stop. */
function followWindow(ws: WebSocket): () => void {
  const tell = (): void => {
    const { columns, rows } = process.stdout;
    if (process.stdout.isTTY)
      ws.send(
        Buffer.concat([Buffer.of(CHANNEL.resize), Buffer.from(JSON.stringify({ Width: columns, Height: rows }))]),
      );
  };
  tell();
  process.stdout.on('resize', tell);
  return () => void process.stdout.off('resize', tell);
}

/**
 * PURE. What Kubernetes' Status object says of the exit code. @throws Internal with its message if the command did not
 * run, or the session broke.
 */
export function exitCodeOf(text: string): number {
  if (text === '') throw new RuntimeError('Unavailable', 'the connection ended before the command did');
  const { status, message, details } = parseJson(text) as {
    readonly status?: string;
    readonly message?: string;
    readonly details?: { readonly causes?: readonly { readonly reason: string; readonly message: string }[] };
  };
  if (status === 'Success') return 0;
  const code = Number(details?.causes?.find((each) => each.reason === 'ExitCode')?.message);
  if (Number.isInteger(code) && code > 0) return code;
  throw new RuntimeError('Internal', message ?? 'the command failed');
}
