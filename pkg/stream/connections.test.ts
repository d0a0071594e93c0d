import { assert } from 'chai';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { ContainerId } from '../base/ids.ts';
import { silent } from '../base/op.ts';
import type { StreamBackend } from '../ports/stream.ts';
import { StreamServer } from './server.ts';

const GRANT = {
  containerId: 'c'.repeat(64) as ContainerId,
  cmd: ['true'],
  stdin: false,
  stdout: true,
  stderr: false,
  tty: false,
};

const nobody: StreamBackend = {
  exec: () => assert.fail('nobody asked'),
  attach: () => assert.fail('nobody asked'),
  portForward: () => assert.fail('nobody asked'),
};

describe('connections to the stream server', () => {
  let server: StreamServer;
  const sockets: Socket[] = [];

  async function listen(connections: { readonly count: number; readonly headersMs: number }): Promise<void> {
    const options = { backend: nobody, log: silent, address: '127.0.0.1', port: 0, idleTimeoutMs: 0, connections };
    server = await StreamServer.listen(options);
  }

  async function connected(localAddress = '127.0.0.1'): Promise<Socket> {
    const url = new URL(await server.urlForExec(GRANT));
    const socket = connect({ port: Number(url.port), host: url.hostname, localAddress });
    sockets.push(socket);
    await once(socket, 'connect');
    return socket;
  }

  afterEach(async () => {
    for (const each of sockets.splice(0)) each.destroy();
    await server.close();
  });

  it('are so many; one more is closed at once, and takes the place of none', async () => {
    await listen({ count: 2, headersMs: 60_000 });
    const [first, second] = [await connected(), await connected()];
    await once(await connected(), 'close');
    for (const each of [first, second]) {
      each.write('GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n');
      assert.match(String((await once(each, 'data'))[0]), /^HTTP\/1.1 404/);
    }
  });

  it('of somebody who opens many and says nothing keep nobody else out', async () => {
    await listen({ count: 3, headersMs: 60_000 });
    const greedy = [await connected('127.0.0.2'), await connected('127.0.0.2'), await connected('127.0.0.2')];
    const closed = once(greedy[0] as Socket, 'close');
    const other = await connected();
    other.write('GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n');
    assert.match(String((await once(other, 'data'))[0]), /^HTTP\/1.1 404/);
    await closed;
  });

  it('with a session keep their place', async () => {
    await listen({ count: 2, headersMs: 60_000 });
    const session = await connected('127.0.0.2');
    const path = new URL(await server.urlForExec(GRANT)).pathname;
    session.write(`POST ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n`);
    assert.match(String((await once(session, 'data'))[0]), /^HTTP\/1.1 101/);
    const silent = once(await connected(), 'close');
    const other = await connected('127.0.0.3');
    other.write('GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n');
    assert.match(String((await once(other, 'data'))[0]), /^HTTP\/1.1 404/);
    await silent;
    assert.isFalse(session.closed);
  });

  it('that do not say what they want are closed', async () => {
    await listen({ count: 10, headersMs: 50 });
    const idle = await connected();
    const slow = await connected();
    slow.write('GET /nothing HTTP/1.1\r\nHost: ');
    for (const each of [idle, slow]) each.resume();
    await Promise.all([once(idle, 'close'), once(slow, 'close')]);
  });
});
