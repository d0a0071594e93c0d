/**
 * systemd as the manager of cgroups: transient scopes, slices that end, properties that change while they run. Spoken
 * over its private socket, which root has without a bus daemon.
 */
import { existsSync, readFileSync } from 'node:fs';
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError, type Op, withTimeout } from '../base/op.ts';
import { abortable } from '../base/sync.ts';
import type { ServiceManager, UnitProperties, UnitValue } from '../ports/kernel.ts';
import { parseProcCgroup } from './cgroups.ts';
import { PeerConnection, RefusedCall } from './dbus.ts';
import type { Message } from './dbus-wire.ts';

const SOCKET = '/run/systemd/private';
const MANAGER = { path: '/org/freedesktop/systemd1', interface: 'org.freedesktop.systemd1.Manager' } as const;
const NO_SUCH_UNIT = 'org.freedesktop.systemd1.NoSuchUnit';
const UNIT_EXISTS = 'org.freedesktop.systemd1.UnitExists';

/** Whether systemd is PID 1 (sd_booted(3)). */
export function isBooted(): boolean {
  return existsSync('/run/systemd/system');
}

/** The unit that this process runs in (`berth.service`); '' if it is no service. */
export function ownService(): string {
  const paths = parseProcCgroup(readFileSync('/proc/self/cgroup', 'utf8'));
  const path = paths.get('') ?? paths.get('name=systemd') ?? '';
  return path.split('/').findLast((part) => part.endsWith('.service')) ?? '';
}

/** The service manager of this node. One for a daemon: it keeps a connection open while it is used. */
export class Systemd implements ServiceManager {
  readonly #socket: string;
  readonly #idleMs: number;
  #connection: PeerConnection | undefined;
  #users = 0;
  #closing: NodeJS.Timeout | undefined;

  constructor(socket = SOCKET, idleMs: number = limits.systemdIdleMs) {
    this.#socket = socket;
    this.#idleMs = idleMs;
  }

  async start(op: Op, name: string, pids: readonly number[], properties: UnitProperties): Promise<void> {
    const all = pids.length === 0 ? properties : { ...properties, PIDs: { type: 'au', value: pids } };
    const start = (): Promise<void> =>
      this.#job(op, `start ${name}`, 'StartTransientUnit', 'ssa(sv)a(sa(sv))', [name, 'fail', entries(all), []]);
    try {
      await start();
    } catch (cause) {
      if (!isRefusal(cause, UNIT_EXISTS)) throw cause;
      // In the state failed it is a name only; if it runs, this changes nothing and the second attempt says so.
      await this.#call(op, `forget ${name}`, 'ResetFailedUnit', 's', [name]).catch(() => {});
      await start();
    }
  }

  async stop(op: Op, name: string): Promise<void> {
    await this.#job(op, `stop ${name}`, 'StopUnit', 'ss', [name, 'replace']).catch(contentWithout);
  }

  async setProperties(op: Op, name: string, properties: UnitProperties): Promise<void> {
    await this.#call(op, `set properties of ${name}`, 'SetUnitProperties', 'sba(sv)', [
      name,
      true,
      entries(properties),
    ]);
  }

  /** Closes the connection; the next call opens another. */
  close(): void {
    clearTimeout(this.#closing);
    this.#connection?.close();
    this.#connection = undefined;
  }

  /** Calls a method that answers with a job, and waits for the end of that. */
  async #job(op: Op, what: string, member: string, signature: string, body: readonly UnitValue[]): Promise<void> {
    await this.#connected(op, what, async (connection) => {
      const ended = new Map<string, string>();
      const { promise: result, resolve } = Promise.withResolvers<string>();
      let job: string | undefined;
      const stopListening = connection.listen((signal) => {
        const removed = removedJob(signal);
        if (removed === undefined) return;
        ended.set(removed.job, removed.result);
        if (removed.job === job) resolve(removed.result);
      });
      try {
        [job] = (await connection.call({ ...MANAGER, member, signature, body })) as readonly [string];
        const outcome = ended.get(job) ?? (await Promise.race([result, connection.lost]));
        if (outcome !== 'done' && outcome !== 'skipped')
          throw new RuntimeError('Internal', `systemd could not ${what}: the job ended as ${quote(outcome)}`);
      } finally {
        stopListening();
      }
    });
  }

  async #call(op: Op, what: string, member: string, signature: string, body: readonly UnitValue[]): Promise<void> {
    await this.#connected(op, what, (connection) => connection.call({ ...MANAGER, member, signature, body }));
  }

  async #connected<T>(op: Op, what: string, work: (connection: PeerConnection) => Promise<T>): Promise<T> {
    const stage = `systemd: ${what}`;
    op.stage(stage);
    const bounded = withTimeout(op, limits.runtimeCommandMs);
    if (this.#connection?.isOpen !== true) this.#connection = new PeerConnection(this.#socket);
    const connection = this.#connection;
    clearTimeout(this.#closing);
    this.#users++;
    try {
      return await abortable(work(connection), bounded.signal, () => abortError(bounded, stage));
    } catch (cause) {
      throw cause instanceof RefusedCall ? refusal(what, cause) : cause;
    } finally {
      this.#users--;
      if (this.#users === 0) this.#closing = setTimeout(() => this.close(), this.#idleMs).unref();
    }
  }
}

function entries(properties: UnitProperties): UnitValue {
  return Object.entries(properties);
}

function removedJob(signal: Message): { readonly job: string; readonly result: string } | undefined {
  if (signal.member !== 'JobRemoved' || signal.signature !== 'uoss') return undefined;
  const [, job, , result] = signal.body as readonly [number, string, string, string];
  return { job, result };
}

function refusal(what: string, cause: RefusedCall): RuntimeError {
  const code =
    cause.errorName === NO_SUCH_UNIT
      ? 'NotFound'
      : cause.errorName === UNIT_EXISTS
        ? 'AlreadyExists'
        : cause.errorName.endsWith('.InvalidArgs')
          ? 'InvalidArgument'
          : 'Internal';
  return new RuntimeError(code, `systemd could not ${what}: ${cause.message || cause.errorName}`, { cause });
}

function isRefusal(cause: unknown, errorName: string): boolean {
  return cause instanceof RuntimeError && cause.cause instanceof RefusedCall && cause.cause.errorName === errorName;
}

function contentWithout(cause: unknown): void {
  if (!isRefusal(cause, NO_SUCH_UNIT)) throw cause;
}
