import { assert } from 'chai';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf } from '../base/errors.ts';
import { backgroundOp, silent } from '../base/op.ts';
import type { UnitValue } from '../ports/kernel.ts';
import { decode, encode, type Message } from './dbus-wire.ts';
import { Systemd } from './systemd.ts';

/** What a peer sends when it was called; it keeps the connection. */
type Answer = (call: Message, send: (message: Partial<Message>) => void, socket: Socket) => void;

/** A service manager that promises what systemd does: it takes units, and says of each job when it is done. */
class Peer {
  readonly units = new Map<string, UnitValue>();
  readonly calls: string[] = [];
  result = 'done';
  answer: Answer = (call, send) => this.#manage(call, send);
  readonly #server: Server;
  #serial = 100;
  #jobs = 0;

  constructor(path: string) {
    this.#server = createServer((socket) => {
      let bytes = Buffer.alloc(0);
      let authenticated = false;
      socket.on('error', () => {});
      socket.on('data', (more) => {
        bytes = Buffer.concat([bytes, more]);
        if (!authenticated) {
          const end = bytes.indexOf('BEGIN\r\n');
          if (end < 0) return;
          assert.match(bytes.toString('latin1', 0, end), /^\0AUTH EXTERNAL [0-9a-f]+\r\n/);
          authenticated = true;
          bytes = bytes.subarray(end + 'BEGIN\r\n'.length);
          socket.write('OK 0123456789abcdef\r\n');
        }
        for (let next = decode(bytes); next !== undefined; next = decode(bytes)) {
          bytes = bytes.subarray(next.length);
          const call = next.message;
          this.calls.push(`${call.member} ${call.body[0] as string}`);
          this.answer(
            call,
            (message) =>
              void socket.write(encode({ kind: 'reply', signature: '', body: [], ...message, serial: ++this.#serial })),
            socket,
          );
        }
      });
    }).listen(path);
  }

  async close(): Promise<void> {
    await new Promise((done) => this.#server.close(done));
  }

  #manage(call: Message, send: (message: Partial<Message>) => void): void {
    const [name = ''] = call.body as string[];
    const refuse = (word: string): void =>
      send({
        kind: 'error',
        replyTo: call.serial,
        errorName: `org.freedesktop.systemd1.${word}`,
        signature: 's',
        body: [`Unit ${name}: ${word}`],
      });
    if (call.member === 'StartTransientUnit' && this.units.has(name)) return refuse('UnitExists');
    if (call.member !== 'StartTransientUnit' && !this.units.has(name)) return refuse('NoSuchUnit');
    if (call.member === 'SetUnitProperties') return send({ replyTo: call.serial });
    if (call.member === 'ResetFailedUnit') {
      this.units.delete(name);
      return send({ replyTo: call.serial });
    }
    if (call.member === 'StopUnit') this.units.delete(name);
    else this.units.set(name, call.body[2] ?? []);
    const job = `/org/freedesktop/systemd1/job/${++this.#jobs}`;
    const removed = { kind: 'signal', member: 'JobRemoved', signature: 'uoss' } as const;
    // Another's job ends first, and ours before its number is known: both happen.
    send({ ...removed, body: [99, '/org/freedesktop/systemd1/job/99', 'other.service', 'done'] });
    if (this.#jobs % 2 === 0) send({ ...removed, body: [this.#jobs, job, name, this.result] });
    send({ replyTo: call.serial, signature: 'o', body: [job] });
    if (this.#jobs % 2 === 1) send({ ...removed, body: [this.#jobs, job, name, this.result] });
  }
}

describe('the service manager', () => {
  let directory: string;
  let peer: Peer;
  let systemd: Systemd;
  const op = (): ReturnType<typeof backgroundOp> => backgroundOp(silent);
  const failure = async (work: Promise<unknown>): Promise<string> =>
    await work.then(
      () => 'nothing',
      (cause: unknown) => `${codeOf(cause)}: ${cause instanceof Error ? cause.message : ''}`,
    );

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'berth-systemd-'));
    peer = new Peer(join(directory, 'private'));
    systemd = new Systemd(join(directory, 'private'), 5);
  });
  afterEach(async () => {
    systemd.close();
    await peer.close();
    await rm(directory, { recursive: true });
  });

  it('takes processes into a scope, and has it when the job is done', async () => {
    const slice = { Slice: { type: 's', value: 'system.slice' } };
    for (const name of ['a.scope', 'b.scope']) await systemd.start(op(), name, [4242], slice);
    assert.deepEqual(peer.units.get('a.scope'), [
      ['Slice', slice.Slice],
      ['PIDs', { type: 'au', value: [4242] }],
    ]);
    assert.deepEqual([...peer.units.keys()], ['a.scope', 'b.scope']);
  });

  it('forgets a failed unit of the same name first', async () => {
    peer.units.set('a.scope', []);
    await systemd.start(op(), 'a.scope', [1], {});
    assert.deepEqual(peer.calls, [
      'StartTransientUnit a.scope',
      'ResetFailedUnit a.scope',
      'StartTransientUnit a.scope',
    ]);
  });

  it('stops what is there, and is content with what is not', async () => {
    await systemd.start(op(), 'a.slice', [], {});
    await systemd.stop(op(), 'a.slice');
    await systemd.stop(op(), 'a.slice');
    assert.equal(peer.units.size, 0);
  });

  it('tells what systemd refuses, and how a job failed', async () => {
    assert.equal(
      await failure(systemd.setProperties(op(), 'a.scope', {})),
      'NotFound: systemd could not set properties of a.scope: Unit a.scope: NoSuchUnit',
    );
    peer.result = 'canceled';
    assert.equal(
      await failure(systemd.start(op(), 'a.scope', [1], {})),
      'Internal: systemd could not start a.scope: the job ended as "canceled"',
    );
  });

  it('fails when the manager goes, rather than wait for a job; and finds it when it is back', async () => {
    const manage = peer.answer;
    peer.answer = (call, send, socket) => {
      send({ replyTo: call.serial, signature: 'o', body: ['/job/1'] });
      socket.end();
    };
    assert.match(await failure(systemd.start(op(), 'a.scope', [1], {})), /^Unavailable: nobody answers at /);
    peer.answer = manage;
    await systemd.start(op(), 'a.scope', [1], {});
    assert.isTrue(peer.units.has('a.scope'));
  });

  it('is not there', async () => {
    const absent = new Systemd(join(directory, 'absent'));
    assert.match(await failure(absent.stop(op(), 'a.slice')), /^Unavailable: nobody answers at /);
  });

  it('that does not speak D-Bus is given up', async () => {
    peer.answer = (_call, _send, socket) => void socket.write('HTTP/1.1 400 Bad Request\r\n\r\n');
    assert.match(await failure(systemd.stop(op(), 'a.slice')), /^Internal: the peer does not speak D-Bus/);
  });
});
