import { existsSync, writeFileSync } from 'node:fs';
import { createServer, connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { mock } from 'node:test';
import { Readable } from 'node:stream';
import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { ground, refusal } from './fake-server.ts';
import type { Pages } from './http.ts';

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
/** An empty SETTINGS frame, with which either side begins. */
const SETTINGS = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);

const pages: Pages = (path) => {
  switch (path) {
    case '/text':
      return { type: 'text/plain', body: 'hello' };
    case '/stream':
      return { type: 'application/octet-stream', body: Readable.from(['a', 'b']) };
    case '/bug':
      throw new TypeError('x is undefined');
    case '/absent':
      throw new RuntimeError('NotFound', 'no container has the id "x"');
    case '/wrong':
      throw new RuntimeError('FailedPrecondition', 'it is paused');
    case '/never':
      return new Promise<never>(() => {});
    default:
      return undefined;
  }
};

describe('cri/front', () => {
  const at = ground();
  const open = (path = at.socket): Socket => {
    const socket = connect({ path, allowHalfOpen: true });
    at.open.push({ close: () => socket.destroy() });
    return socket.on('error', () => {});
  };
  const all = async (socket: Socket): Promise<string> => {
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    return text;
  };
  const ask = (text: string, path?: string): Promise<string> => {
    const socket = open(path);
    socket.write(text);
    return all(socket);
  };
  const get = (path: string): Promise<string> => ask(`GET ${path} HTTP/1.1\r\nHost: crio\r\n\r\n`);
  const serve = () => at.start({ version: () => ({ runtimeName: 'both' }) }, { pages });
  const connected = (socket: Socket): Promise<unknown> => new Promise((resolve) => socket.once('connect', resolve));
  const closed = (socket: Socket): Promise<unknown> =>
    new Promise((resolve) => socket.resume().once('end', resolve).once('close', resolve));

  it('speaks both protocols on one socket', async () => {
    await serve();
    assert.match(await get('/text'), /^HTTP\/1.1 200 OK\r\n(.*\r\n)*content-type: text\/plain\r\n(.*\r\n)*\r\nhello$/i);
    assert.equal((await at.client().version()).runtimeName, 'both');
    assert.include(await get('/text?x=/bug'), 'hello');
  });

  it('knows gRPC by its preface, however it comes', async () => {
    await serve();
    for (const pieces of [
      [PREFACE, SETTINGS],
      ['P', 'R', 'I * HTTP/2.0\r\n\r\nSM', '\r\n\r\n', SETTINGS],
      ['PR', PREFACE.slice(2), SETTINGS],
    ]) {
      const socket = open();
      for (const piece of pieces) await new Promise((sent) => socket.write(piece, sent));
      const frame = await new Promise<Buffer>((resolve) => socket.once('data', resolve));
      assert.equal(frame[3], 4, 'the type of the frame is SETTINGS');
      socket.destroy();
    }
  });

  it('takes a request in pieces, and from one who has closed his half', async () => {
    await serve();
    const socket = open();
    for (const piece of ['G', 'ET /te', 'xt HTTP/1.1\r\nHost: c', 'rio\r\n\r\n'])
      await new Promise((sent) => socket.write(piece, sent));
    socket.end();
    assert.match(await all(socket), /hello$/);
  });

  it('answers one request of a connection', async () => {
    await serve();
    const text = await ask('GET /text HTTP/1.1\r\nHost: a\r\n\r\nGET /text HTTP/1.1\r\nHost: a\r\n\r\n');
    assert.lengthOf(text.match(/hello/g) ?? [], 1);
    assert.match(text, /\r\nconnection: close\r\n/i);
  });

  it('sends what is streamed', async () => {
    await serve();
    assert.match(await get('/stream'), /^HTTP\/1.1 200(.|\r\n)*a(.|\r\n)*b/);
  });

  const refused: readonly (readonly [what: string, request: string, answer: RegExp])[] = [
    ['what is not there', 'GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n', /^HTTP\/1.1 404 (.|\r\n)*page not found\n$/],
    [
      'another method',
      'POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc',
      /^HTTP\/1.1 405 (.|\r\n)*allow: GET/i,
    ],
    ['a method that begins as the preface does', 'PROPFIND /text HTTP/1.1\r\nHost: a\r\n\r\n', /^HTTP\/1.1 405 /],
    ['an object that is not there', 'GET /absent HTTP/1.1\r\nHost: a\r\n\r\n', /^HTTP\/1.1 404 (.|\r\n)*no container/],
    ['what cannot be now', 'GET /wrong HTTP/1.1\r\nHost: a\r\n\r\n', /^HTTP\/1.1 409 (.|\r\n)*it is paused/],
    ['a bug', 'GET /bug HTTP/1.1\r\nHost: a\r\n\r\n', /^HTTP\/1.1 500 /],
    ['no host', 'GET /text HTTP/1.1\r\n\r\n', /^HTTP\/1.1 400 /],
    ['noise', '\0\x16\x03\x01 noise\r\n\r\n', /^HTTP\/1.1 400 /],
    [
      'headers beyond the bound',
      `GET /text HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(limits.httpHeaderBytes)}\r\n\r\n`,
      /^HTTP\/1.1 431 /,
    ],
  ];
  for (const [what, request, answer] of refused) {
    it(`refuses ${what}`, async () => {
      await serve();
      assert.match(await ask(request), answer);
    });
  }

  it('lets go who says nothing, and nobody else', async () => {
    await serve();
    const client = at.client();
    await client.version();
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      const silent = open();
      const slow = open();
      await Promise.all([connected(silent), connected(slow)]);
      const asked = at.open.length;
      await new Promise((sent) => slow.write('GET /text HTTP/1.1\r\n', sent));
      // A round trip on each: by then the server knows both.
      assert.match(await get('/text'), /hello/);
      const both = Promise.all([closed(silent), closed(slow)]);
      mock.timers.tick(limits.connectionSilentMs);
      await both;
      assert.isAbove(at.open.length, asked);
    } finally {
      mock.timers.reset();
    }
    assert.equal((await client.version()).runtimeName, 'both');
  });

  it('lets the oldest go where too many say nothing, so that whoever speaks is heard', async () => {
    await serve();
    const first = open();
    await connected(first);
    const gone = closed(first);
    const others = Array.from({ length: limits.silentConnectionsCount }, () => open());
    await Promise.all(others.map(connected));
    await gone;
    assert.equal((await at.client().version()).runtimeName, 'both');
  });

  it('answers so many at once and tells the others', async () => {
    await serve();
    const many = Array.from({ length: limits.httpRequestsCount }, () => open());
    for (const each of many) await new Promise((sent) => each.write('GET /never HTTP/1.1\r\nHost: a\r\n\r\n', sent));
    assert.match(await get('/text'), /^HTTP\/1.1 503 /);
    assert.equal((await at.client().version()).runtimeName, 'both');
  });

  it('serves at a second place as at the first, and takes both away', async () => {
    const server = await serve();
    const second = join(at.home, 'second.sock');
    await server.listen(second);
    assert.match(await ask('GET /text HTTP/1.1\r\nHost: a\r\n\r\n', second), /hello/);
    await server.close(0);
    assert.deepEqual([existsSync(second), existsSync(at.socket)], [false, false]);
  });

  it('does not take a second place that is somebody’s', async () => {
    const server = await serve();
    const other = createServer(() => {});
    at.open.push({ close: () => new Promise((resolve) => other.close(resolve)) });
    const taken = join(at.home, 'taken.sock');
    await new Promise<void>((resolve) => other.listen(taken, resolve));
    assert.include((await refusal(server.listen(taken))).message, 'is in use');
    const file = join(at.home, 'file');
    writeFileSync(file, 'precious');
    assert.include((await refusal(server.listen(file))).message, 'is not a socket');
  });
});
