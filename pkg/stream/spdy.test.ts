import { assert } from 'chai';
import { type Duplex, duplexPair } from 'node:stream';
import { deflateSync } from 'node:zlib';
import { limits } from '../base/limits.ts';
import { openSpdyPorts, openSpdyStdio, SpdySession, type SpdyStream } from './spdy.ts';
import {
  adler32,
  dataHeader,
  dictionary,
  type Frame,
  FrameReader,
  headerBlock,
  HeaderPacker,
  openFrame,
  parseHeaderBlock,
  pingFrame,
  resetFrame,
  windowFrame,
} from './spdy-frames.ts';
import { SpdyClient } from './fake-client.ts';
import { Pace } from './pace.ts';
import { socketWire } from './wire.ts';

/** mulberry32: the same numbers for the same seed. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** Both ends of a connection in memory. */
function connection(): { readonly server: Duplex; readonly client: Duplex } {
  const [server, client] = duplexPair({ allowHalfOpen: true });
  server.on('close', () => client.destroy());
  client.on('close', () => server.destroy());
  client.on('error', () => {});
  return { server, client };
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}

describe('SPDY frames', () => {
  const headers = new Map([
    ['streamtype', 'stdin'],
    ['port', '80'],
    ['ünïcode', 'välue'],
  ]);

  it('has the dictionary that all of SPDY/3 has', () => {
    assert.deepEqual([dictionary.length, adler32(dictionary).toString(16)], [1_423, 'e3c6a7c2']);
  });

  it('reads what it writes, cut anywhere', () => {
    const bytes = Buffer.concat([
      openFrame(1, Buffer.from('block')),
      openFrame(3, Buffer.from(''), true),
      dataHeader(1, 5, 'more follows'),
      Buffer.from('hello'),
      dataHeader(1, 0, 'the last'),
      pingFrame(7),
      resetFrame(3, 5),
    ]);
    const read = (cut: number): string => {
      const reader = new FrameReader();
      const seen: string[] = [];
      let data = '';
      for (let at = 0; at < bytes.length; at += cut) {
        for (const frame of reader.read(bytes.subarray(at, at + cut))) {
          if (frame.kind === 'data') data += Buffer.from(frame.bytes).toString() + (frame.fin ? '$' : '');
          else seen.push(describeFrame(frame));
        }
      }
      return [...seen, data].join(' ');
    };
    for (let cut = 1; cut <= bytes.length; cut++)
      assert.strictEqual(read(cut), 'open:1:block open:3:$ ping:7 reset:3 hello$');
  });

  it('packs headers so that any zlib unpacks them, blocks in one stream', () => {
    const packer = new HeaderPacker();
    const [first, second] = [packer.pack(headerBlock(headers)), packer.pack(headerBlock(new Map()))];
    assert.deepEqual([...first.subarray(0, 6)], [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2]);
    assert.deepEqual([...second], [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert.deepEqual([...parseHeaderBlock(headerBlock(headers))], [...headers]);
  });

  it('refuses what is no SPDY/3.1, and claims that are too large', () => {
    const wrong: readonly Buffer[] = [
      Buffer.from([0x80, 0x02, 0, 1, 0, 0, 0, 10, ...Buffer.alloc(10)]),
      Buffer.from([0x80, 0x03, 0, 1, 0, 0xff, 0xff, 0xff]),
      Buffer.from([0x80, 0x03, 0, 1, 0, 0, 0, 2, 0, 0]),
      Buffer.from([0x80, 0x03, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1]),
    ];
    for (const bytes of wrong) assert.throws(() => [...new FrameReader().read(bytes)], /no SPDY/);
    for (const block of [
      Buffer.alloc(3),
      Buffer.from([0, 0, 0, 1]),
      Buffer.from([0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff]),
      Buffer.from([0xff, 0xff, 0xff, 0xff]),
    ]) {
      assert.throws(() => parseHeaderBlock(block), /no SPDY/);
    }
  });
});

function describeFrame(frame: Frame): string {
  if (frame.kind === 'open')
    return `open:${frame.stream}:${Buffer.from(frame.block).toString()}${frame.fin ? '$' : ''}`;
  return `${frame.kind}:${'stream' in frame ? frame.stream : 'id' in frame ? frame.id : ''}`;
}

describe('a SPDY session', () => {
  it('ends, with a reason, at headers that unpack to too much', async () => {
    const { server, client } = connection();
    const over = new SpdySession(socketWire(server, Buffer.alloc(0)), () => {}).run();
    client.resume();
    client.write(
      openFrame(
        1,
        deflateSync(Buffer.alloc(4 * 1024 * 1024), { dictionary }).subarray(0, limits.spdyControlBytes - 10),
      ),
    );
    assert.match(String((await over)?.message), /headers of more than/);
  });

  it('ends at a stream number that goes back', async () => {
    const { server, client } = connection();
    const over = new SpdySession(socketWire(server, Buffer.alloc(0)), () => {}).run();
    client.resume();
    const packer = new HeaderPacker();
    client.write(openFrame(3, packer.pack(headerBlock(new Map()))));
    client.write(openFrame(1, packer.pack(headerBlock(new Map()))));
    assert.match(String((await over)?.message), /stream 1 after 3/);
  });

  it('refuses more streams than the limit, and goes on', async () => {
    const { server, client: end } = connection();
    const streams: SpdyStream[] = [];
    const over = new SpdySession(socketWire(server, Buffer.alloc(0)), (stream) => streams.push(stream)).run();
    const client = new SpdyClient(end);
    for (let i = 0; i < limits.spdyStreamsCount; i++) await client.open({ streamType: 'data' });
    assert.strictEqual(await (await client.open({ streamType: 'data' })).ended, 'reset');
    assert.lengthOf(streams, limits.spdyStreamsCount);
    client.close();
    assert.isUndefined(await over);
    assert.isTrue(streams.every((stream) => stream.gone.aborted));
  });

  for (const [what, frame] of [
    ['pings', pingFrame(1)],
    ['pieces of nothing', dataHeader(1, 0, 'more follows')],
    ['ends of streams that are not there', resetFrame(9, 5)],
    ['windows', windowFrame(0, 1)],
    ['what it does not know', Buffer.from([0x80, 3, 0, 99, 0, 0, 0, 0])],
  ] as const) {
    const answersTo = async (pace: Pace): Promise<number> => {
      const { server, client } = connection();
      void new SpdySession(socketWire(server, Buffer.alloc(0)), () => {}, pace).run();
      let bytes = 0;
      client.on('data', (chunk: Buffer) => (bytes += chunk.length));
      client.write(Buffer.concat([...Array<Uint8Array>(2_000).fill(frame), pingFrame(3)]));
      await turns(300);
      client.destroy();
      await turns(5);
      return bytes / pingFrame(3).length;
    };

    it(`takes a flood of ${what} at its pace, and what comes behind it later`, async () => {
      const all = what === 'pings' ? 2_001 : 1;
      const some = await answersTo(new Pace(500, () => 0));
      assert.isBelow(some, all, 'the rest waits');
      assert.isAtMost(some, 600);
      assert.equal(await answersTo(new Pace(Number.POSITIVE_INFINITY)), all);
    });
  }

  it('reads no more from a client that asks and does not read the answers', async () => {
    const { server, client } = connection();
    void new SpdySession(socketWire(server, Buffer.alloc(0)), () => {}, new Pace(Number.POSITIVE_INFINITY)).run();
    const pings = Buffer.concat(Array.from({ length: 1_000 }, () => pingFrame(1)));
    let taken = 0;
    for (let i = 0; i < 200; i++) client.write(pings, () => (taken += 1));
    let before = -1;
    while (taken === 0 || taken !== before) {
      before = taken;
      await turns(50);
    }
    assert.isBelow(taken, 100);
    assert.isBelow(server.writableLength, 1024 * 1024);
    client.destroy();
    await turns(5);
  });

  it('holds a client back that sends more than anybody takes', async () => {
    const { server, client: end } = connection();
    const streams: SpdyStream[] = [];
    void new SpdySession(socketWire(server, Buffer.alloc(0)), (stream) => streams.push(stream)).run();
    const client = new SpdyClient(end);
    const stream = await client.open({ streamType: 'stdin' });
    let sent = 0;
    void (async () => {
      for (const part = Buffer.alloc(10_000); sent < 10_000_000 && !end.destroyed; sent += part.length)
        await stream.write(part);
    })();
    let before = -1;
    while (streams.length === 0 || sent !== before) {
      before = sent;
      await turns(50);
    }
    assert.isBelow(sent, 400_000);
    let got = 0;
    for await (const part of streams[0]?.input ?? []) {
      got += part.length;
      if (got >= 10_000_000) break;
    }
    assert.strictEqual(got, 10_000_000);
    client.close();
  });

  it('tells a client that leaves before all its streams are there from one that is wrong', async () => {
    const wanted = { stdin: true, stdout: true, stderr: false, tty: false };
    const leaving = connection();
    const left = openSpdyStdio(socketWire(leaving.server, Buffer.alloc(0)), wanted, 'v4.channel.k8s.io').then(
      () => '',
      String,
    );
    await new SpdyClient(leaving.client).open({ streamType: 'error' });
    leaving.client.end();
    assert.match(await left, /hung up/);
    const wrong = connection();
    const refused = openSpdyStdio(
      socketWire(wrong.server, Buffer.from('GET / HTTP/1.1\r\n\r\n')),
      wanted,
      'v4.channel.k8s.io',
    ).then(() => '', String);
    wrong.client.resume();
    wrong.client.write(Buffer.from([0x80, 0x09, 0, 0, 0, 0, 0, 0]));
    wrong.client.end();
    assert.match(await refused, /hung up|no SPDY/);
  });

  it('survives whatever arrives: a connection ends or goes on, and nothing is thrown', async function () {
    this.timeout(30_000);
    const seed = Number(process.env['SEED'] ?? 1);
    const random = randomFrom(seed);
    for (let round = 0; round < 400; round++) {
      const { server, client } = connection();
      const over: Promise<unknown> =
        round % 2 === 0
          ? openSpdyPorts(socketWire(server, Buffer.alloc(0))).serve((forward) => forward.finish('no'))
          : new SpdySession(
              socketWire(server, Buffer.alloc(0)),
              (stream) =>
                void (async () => {
                  for await (const part of stream.input) await stream.write(part).catch(() => {});
                  await stream.end();
                })(),
            ).run();
      client.resume();
      const valid = validConversation(random);
      const bytes = mutate(valid, random);
      for (let at = 0; at < bytes.length; ) {
        const cut = 1 + random(200);
        client.write(bytes.subarray(at, at + cut));
        at += cut;
      }
      client.end();
      await over.catch((error: unknown) => assert.match(String(error), /RuntimeError/, `SEED=${seed} round ${round}`));
      client.destroy();
    }
  });
});

/** Frames that a client might send. */
function validConversation(random: (below: number) => number): Buffer {
  const packer = new HeaderPacker();
  const parts: Buffer[] = [];
  for (let i = 0, id = 1; i < 8; i++) {
    const request = String(random(3));
    parts.push(
      openFrame(
        id,
        packer.pack(
          headerBlock(
            new Map([
              ['streamtype', random(2) === 0 ? 'data' : 'error'],
              ['port', String(random(100))],
              ['requestid', request],
            ]),
          ),
        ),
        random(3) === 0,
      ),
    );
    for (let j = random(3); j > 0; j--) {
      const data = Buffer.alloc(random(2_000), j);
      parts.push(dataHeader(id, data.length, random(4) === 0 ? 'the last' : 'more follows'), data);
    }
    if (random(4) === 0) parts.push(resetFrame(id, 5));
    if (random(4) === 0) parts.push(pingFrame(1 + 2 * random(9)));
    id += 2;
  }
  return Buffer.concat(parts);
}

/** Some bytes changed, left out, doubled, or replaced by noise. */
function mutate(valid: Buffer, random: (below: number) => number): Buffer {
  let bytes = Buffer.from(valid);
  for (let i = random(6); i > 0; i--) {
    const at = random(bytes.length);
    switch (random(4)) {
      case 0:
        bytes[at] = random(256);
        break;
      case 1:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random(20))]);
        break;
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.max(0, at - random(50)))]);
        break;
      default:
        bytes = Buffer.concat([
          bytes.subarray(0, at),
          Buffer.from(Array.from({ length: random(30) }, () => random(256))),
          bytes.subarray(at),
        ]);
    }
  }
  return bytes;
}
