/** What the suites of exec, attach and port-forward share: clients of both protocols, and a container to dial into. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { WebSocket } from 'ws';
import type { AttachRequest, ExecRequest, Input } from '../../pkg/cri-api/types.ts';
import { SpdyClient, type SpdyClientStream } from '../../pkg/stream/fake-client.ts';
import { CriError, type Pod } from './cri-client.ts';
import { IMAGE, type MonitorName, processes, type RuntimeName, TestNode } from './harness.ts';
import { INSPECTABLE } from './held.ts';

export function spdy(url: string, protocol: string): Promise<SpdyClient> {
  return new Promise((resolve, reject) => {
    const dial = request(url, {
      method: 'POST',
      agent: false,
      headers: { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': protocol },
    });
    dial.on('error', reject).on('response', (response) => reject(new Error(`HTTP ${response.statusCode}`)));
    dial.on('upgrade', (_response, socket, head) => resolve(new SpdyClient(socket, head)));
    dial.end();
  });
}

export interface Session {
  readonly client: SpdyClient;
  readonly stream: Readonly<Record<'error' | 'stdin' | 'stdout' | 'stderr' | 'resize', SpdyClientStream>>;
  /** The Status that the session ended with. */
  readonly status: Promise<{
    readonly status: string;
    readonly message?: string;
    readonly details?: { readonly causes: readonly { readonly message: string }[] };
  }>;
}

/** Dials with every stream that was asked for. */
export async function dial(
  url: string,
  wanted: { readonly stdin?: boolean; readonly stderr?: boolean; readonly tty?: boolean },
): Promise<Session> {
  const client = await spdy(url, 'v4.channel.k8s.io');
  const names = [
    'error',
    'stdout',
    ...(['stdin', 'stderr'] as const).filter((name) => wanted[name] === true),
    ...(wanted.tty === true ? ['resize'] : []),
  ];
  const streams: Record<string, SpdyClientStream> = {};
  for (const streamType of names) streams[streamType] = await client.open({ streamType });
  const stream = streams as Session['stream'];
  const status = stream.error
    .all()
    .then((text) => JSON.parse(text === '' ? '{"status":"none"}' : text) as Awaited<Session['status']>);
  status.catch(() => {});
  return { client, stream, status };
}

/** What a WebSocket session said, by channel, once it is closed. */
export async function overWebSocket(url: string, protocol: string, input: readonly Buffer[]): Promise<string[]> {
  const ws = new WebSocket(url.replace('http', 'ws'), protocol);
  const got = ['', '', '', ''];
  ws.on('message', (message: Buffer) => {
    got[message[0] ?? 0] += message.subarray(1).toString();
  });
  ws.once('open', () => {
    for (const each of input) ws.send(each);
  });
  await once(ws, 'close');
  return got;
}

export function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

/** The error of a call that is to fail. */
export async function fails(work: Promise<unknown>): Promise<CriError> {
  const error = await work.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  if (!(error instanceof CriError)) throw new Error(`it did not fail as it should: ${String(error)}`);
  return error;
}

/** The runtimes and monitors that streams are tried with. */
export const COMBINATIONS: readonly (readonly [RuntimeName, MonitorName])[] = [
  ['runc', 'ours'],
  ['crun', 'debian'],
  ['runsc', 'ours'],
];

/** A node with a pod and a container that sleeps, and what the suites of streams do with them. */
export class StreamGround {
  readonly node: TestNode;
  readonly pod: Pod;
  readonly container: string;
  readonly runtime: RuntimeName;

  private constructor(runtime: RuntimeName, node: TestNode, pod: Pod, container: string) {
    this.runtime = runtime;
    this.node = node;
    this.pod = pod;
    this.container = container;
  }

  /** Boots the node. */
  static async boot(runtime: RuntimeName, monitor: MonitorName, flags: readonly string[] = []): Promise<StreamGround> {
    const node = await TestNode.boot({ runtime, monitor, flags, env: INSPECTABLE });
    const pod = await node.cri.runPod();
    const container = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '100000'] });
    return new StreamGround(runtime, node, pod, container);
  }

  async execUrl(cmd: readonly string[], options: Input<ExecRequest> = {}): Promise<string> {
    return (
      await this.node.cri.rpc.exec({
        containerId: this.container,
        cmd,
        stdout: true,
        stderr: options.tty !== true,
        stdin: false,
        tty: false,
        ...options,
      })
    ).url;
  }
  async attachUrl(containerId: string, options: Input<AttachRequest> = {}): Promise<string> {
    return (
      await this.node.cri.rpc.attach({
        containerId,
        stdin: true,
        stdout: true,
        stderr: options.tty !== true,
        tty: false,
        ...options,
      })
    ).url;
  }
  /** Processes of a container whose command line is exactly this. */
  async commands(id: string, commandLine: string): Promise<readonly string[]> {
    // The host does not see what runs on a kernel of its own.
    if (this.runtime !== 'runsc') return processes(commandLine);
    return (await this.node.cri.exec(id, ['ps', '-o', 'args'])).stdout
      .split('\n')
      .filter((line) => line.trim() === commandLine);
  }
}
