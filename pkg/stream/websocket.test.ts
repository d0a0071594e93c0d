import { assert } from 'chai';
import { EventEmitter } from 'node:events';
import { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { Pace } from './pace.ts';
import { WebSocketWire } from './websocket.ts';

/** What a wire uses of the library's WebSocket. */
class FakeWebSocket extends EventEmitter {
  readonly OPEN = 1;
  readonly readyState = 1;
  isPaused = false;
  pongs = 0;

  pause(): void {
    this.isPaused = true;
  }
  resume(): void {
    this.isPaused = false;
  }
  pong(): void {
    this.pongs += 1;
  }
}

describe('a WebSocket', () => {
  let ws: FakeWebSocket;
  let socket: Duplex;
  let taken: number;
  /** A wire whose time stands still. */
  function open(perSecond: number): void {
    ws = new FakeWebSocket();
    socket = new Duplex({ read: () => {}, write: (_chunk, _encoding, done) => done() });
    taken = 0;
    const wire = new WebSocketWire(ws as unknown as WebSocket, socket, new Pace(perSecond, () => 0));
    assert.isTrue(ws.isPaused, 'until somebody listens');
    wire.onMessage(async () => void (taken += 1));
    assert.isFalse(ws.isPaused);
  }
  afterEach(() => socket.destroy());
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

  it('is not read on from when its pings come faster than anybody needs', () => {
    open(1_000);
    for (let i = 0; i < 1_000; i++) ws.emit('ping', Buffer.alloc(0));
    assert.isFalse(ws.isPaused);
    assert.equal(ws.pongs, 1_000);
    for (let i = 0; i < 200; i++) ws.emit('ping', Buffer.alloc(0));
    assert.isTrue(ws.isPaused);
  });

  it('is not read on from when its messages say next to nothing, by the thousand', async () => {
    open(1_000);
    for (let i = 0; i < 12_000; i++) ws.emit('message', Buffer.of(0));
    await turn();
    await turn();
    assert.isTrue(ws.isPaused);
    assert.isBelow(taken, 12_000, 'what came before the pause took effect waits');
    assert.isAbove(taken, 10_000);
  });

  it('is read on from when what was said is taken, however much that was', async () => {
    open(100);
    for (let i = 0; i < 1_000; i++) ws.emit('message', Buffer.alloc(8_192));
    assert.isTrue(ws.isPaused);
    while (taken < 1_000) await turn();
    await turn();
    assert.isFalse(ws.isPaused);
  });
});
