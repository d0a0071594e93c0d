/**
 * What a daemon holds: descriptors, processes, and memory that a collection does not free, asked through Node's
 * inspector.
 */
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { WebSocket } from 'ws';
import { waitFor } from './cri-client.ts';
import type { TestNode } from './harness.ts';
import { parentOf } from './terminal.ts';

/** For NodeOptions.env: the inspector, once asked for, takes a free port. */
export const INSPECTABLE = { NODE_OPTIONS: '--inspect-port=127.0.0.1:0' } as const;

export interface Held {
  readonly descriptors: number;
  /** How many of each kind these are: what a test that finds more of them says. */
  readonly kinds: Readonly<Record<string, number>>;
  /** Its children, zombies included. */
  readonly processes: number;
  /** JavaScript heap and buffers after a full collection. */
  readonly bytes: number;
}

/** Looks at the daemon of a node that was booted with INSPECTABLE. */
export async function heldBy(node: TestNode): Promise<Held> {
  // Memory first: the first question leaves the inspector's own descriptors open.
  // Full collections that are forced hold the event loop for some hundred milliseconds after a flood.
  const bytes = await node.uncounted(() => heldBytes(node));
  const kinds = kindsOf(node.pid);
  const descriptors = Object.values(kinds).reduce((sum, count) => sum + count, 0);
  return { bytes, descriptors, kinds, processes: childrenOf(node.pid).length };
}

/** What its descriptors lead to: `socket`, `pipe`, `anon_inode:[eventpoll]`, a path. */
function kindsOf(pid: number): Record<string, number> {
  const kinds: Record<string, number> = {};
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const kind = linkOf(`/proc/${pid}/fd/${fd}`)?.replace(/^(socket|pipe):\[\d+\]$/, '$1');
    if (kind !== undefined) kinds[kind] = (kinds[kind] ?? 0) + 1;
  }
  return kinds;
}

/** Undefined if it has been closed meanwhile. */
function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

/** Pids of the children of a process. */
function childrenOf(parent: number): string[] {
  return readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && parentOf(pid) === parent);
}

/** Where the inspector of each daemon listens that was asked. */
const inspectors = new Map<number, string>();

async function inspectorOf(node: TestNode): Promise<string> {
  const known = inspectors.get(node.pid);
  if (known !== undefined) return known;
  // The log has those of the node's earlier daemons, too.
  const addresses = (): readonly string[] => node.log.match(/(?<=Debugger listening on )ws:\S+/g) ?? [];
  const before = addresses().length;
  process.kill(node.pid, 'SIGUSR1');
  const address = (await waitFor(addresses, (found) => found.length > before, 'the inspector')).at(-1) ?? '';
  inspectors.set(node.pid, address);
  return address;
}

async function heldBytes(node: TestNode): Promise<number> {
  const inspector = new WebSocket(await inspectorOf(node));
  await once(inspector, 'open');
  try {
    let calls = 0;
    const ask = async (
      method: string,
      params: object = {},
    ): Promise<{ readonly result?: { readonly value?: unknown } }> => {
      const id = ++calls;
      const answer = new Promise<{ readonly result?: { readonly value?: unknown } }>((resolve, reject) => {
        const take = (message: Buffer): void => {
          const reply = JSON.parse(message.toString()) as {
            readonly id?: number;
            readonly result?: object;
            readonly error?: unknown;
          };
          if (reply.id !== id) return;
          inspector.off('message', take);
          if (reply.result === undefined) reject(new Error(`${method}: ${JSON.stringify(reply.error)}`));
          else resolve(reply.result);
        };
        inspector.on('message', take).once('close', () => reject(new Error('the inspector hung up')));
      });
      inspector.send(JSON.stringify({ id, method, params }));
      return await answer;
    };
    // Twice: what the first round finalizes, the second frees.
    for (let i = 0; i < 2; i++) await ask('HeapProfiler.collectGarbage');
    const { result } = await ask('Runtime.evaluate', {
      expression: '(({ heapUsed, external }) => heapUsed + external)(process.memoryUsage())',
    });
    return Number(result?.value);
  } finally {
    inspector.close();
    await once(inspector, 'close');
  }
}
