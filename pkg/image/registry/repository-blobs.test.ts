import { expect } from 'chai';
import { mock } from 'node:test';
import { gzipSync } from 'node:zlib';
import { explain } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { digestOf } from '../../oci/digest.ts';
import { broken, cancellable, drain, failure, RecordingLog, stalled, testOp } from '../fakes.ts';
import type { FakeAnswer } from '../fakes.ts';
import { image, path, RANGES, setUp } from './fakes.ts';
import type { Setup } from './fakes.ts';

describe('image/registry/repository: blobs', () => {
  const content = Buffer.alloc(100_000, 'abcdefghij');
  const digest = digestOf(content);
  const size = BigInt(content.length);
  const withBlob = (...parameters: Parameters<typeof setUp>): Setup => {
    const made = setUp(...parameters);
    made.registry.put(path('blobs', digest), content);
    return made;
  };
  const ranges = ({ network }: Setup): (string | undefined)[] =>
    network.requests.map(({ headers }) => headers['range']);

  it('comes whole, or from an offset', async () => {
    const made = withBlob();
    expect(await drain(made.repository.blob(testOp(), digest, size, 0n))).to.deep.equal(content);
    expect(await drain(made.repository.blob(testOp(), digest, size, 99_990n))).to.deep.equal(content.subarray(99_990));
    expect(await drain(made.repository.blob(testOp(), digest, size, size))).to.have.length(0);
    expect(ranges(made)).to.deep.equal([undefined, 'bytes=99990-']);
  });

  it('goes on where a connection broke', async () => {
    const made = withBlob();
    let times = 0;
    made.registry.special.set(path('blobs', digest), (request) => {
      const normal = made.registry.normal(request);
      return ++times > 2 || !(normal?.body instanceof Uint8Array)
        ? undefined
        : { ...normal, body: broken(normal.body.subarray(0, 30_000)) };
    });
    expect(await drain(made.repository.blob(testOp(), digest, size, 0n))).to.deep.equal(content);
    expect(ranges(made)).to.deep.equal([undefined, 'bytes=30000-', 'bytes=60000-']);
    expect(made.pauses).to.have.length(2);
  });

  it('goes on although the server ends early without an error', async () => {
    const made = withBlob();
    made.registry.special.set(path('blobs', digest), (request) =>
      request.headers['range'] === undefined ? { body: content.subarray(0, 10) } : undefined,
    );
    expect(await drain(made.repository.blob(testOp(), digest, size, 0n))).to.deep.equal(content);
  });

  it('copes with a server that ignores ranges', async () => {
    const made = withBlob();
    made.registry.special.set(path('blobs', digest), () => ({ body: content }));
    expect(await drain(made.repository.blob(testOp(), digest, size, 70_001n))).to.deep.equal(content.subarray(70_001));
  });

  it('gives up after some tries without progress', async () => {
    const made = withBlob();
    made.registry.special.set(path('blobs', digest), () => ({ body: broken(Buffer.alloc(0)) }));
    const error = await failure(drain(made.repository.blob(testOp(), digest, size, 0n)));
    expect(error.reason).to.equal('RegistryUnavailable');
    expect(made.network.requests).to.have.length(limits.registryTriesCount);
  });

  it('waits for no error document longer than for anything else', async () => {
    const made = withBlob({ client: { bodyMs: 20 } });
    made.registry.special.set(path('blobs', digest), () => ({ status: 500, body: stalled(Buffer.from('{"errors":')) }));
    const error = await failure(drain(made.repository.blob(testOp(), digest, size, 0n)));
    expect([error.reason, error.message]).to.deep.equal([
      'RegistryUnavailable',
      `blob ${digest} of reg.example/team/app: reg.example answers 500; it, or what stands before it, is in trouble: ` +
        'try again later',
    ]);
  });

  it('refuses too many bytes', async () => {
    const long = withBlob();
    const body = Buffer.concat([content, Buffer.from('x')]);
    long.registry.special.set(path('blobs', digest), () => ({ body }));
    expect((await failure(drain(long.repository.blob(testOp(), digest, size, 0n)))).code).to.equal('DataLoss');
    const honest = withBlob();
    honest.registry.special.set(path('blobs', digest), () => ({ body, headers: { 'content-length': '100001' } }));
    expect((await failure(drain(honest.repository.blob(testOp(), digest, size, 0n)))).message).to.match(
      /^blob sha256:.* of reg\.example\/team\/app: .* has 100001 bytes where the manifest promises 100000; /,
    );
  });

  it('ends at once when the caller leaves', async () => {
    const made = withBlob();
    const caller = cancellable();
    made.registry.special.set(path('blobs', digest), () => ({
      body: (async function* () {
        yield content.subarray(0, 10);
        caller.cancel();
        await new Promise<never>(() => {});
      })(),
    }));
    expect((await failure(drain(made.repository.blob(caller.op, digest, size, 0n)))).code).to.equal('Cancelled');
  });

  it('fetches large ones in ranges, several at once, and gives them in order', async () => {
    const large = Buffer.alloc(RANGES.fromBytes + 12_345);
    for (let at = 0; at < large.length; at += 4096) large.writeUInt32BE(at, Math.min(at, large.length - 4));
    const name = digestOf('large');
    for (const failing of [undefined, 3 * RANGES.eachBytes]) {
      const made = setUp();
      made.registry.put(path('blobs', name), large);
      let [open, most] = [0, 0];
      made.registry.special.set(path('blobs', name), async (request) => {
        most = Math.max(most, ++open);
        const normal = made.registry.normal(request);
        const first = Number(/^bytes=(\d+)/.exec(request.headers['range'] ?? '')?.[1]);
        await new Promise((resolve) => setImmediate(resolve));
        open--;
        if (
          first === failing &&
          made.network.requests.filter(({ headers }) => headers['range'] === request.headers['range']).length === 1
        )
          return { error: new Error('reset') };
        return normal;
      });
      const received = await drain(made.repository.blob(testOp(), name, BigInt(large.length), 0n));
      expect(received.equals(large)).to.equal(true);
      expect(most).to.be.within(2, 1 + limits.pullRangesAheadCount);
      expect(made.network.requests.length).to.equal(
        Math.ceil(large.length / RANGES.eachBytes) + (failing === undefined ? 0 : 1),
      );
    }
  });

  it('asks again for the rest of a range that ended early', async () => {
    const large = Buffer.alloc(RANGES.fromBytes + 12_345);
    for (let at = 0; at < large.length; at += 4096) large.writeUInt32BE(at, Math.min(at, large.length - 4));
    const name = digestOf('large');
    const made = setUp();
    made.registry.put(path('blobs', name), large);
    made.registry.special.set(path('blobs', name), (request) => {
      const normal = made.registry.normal(request);
      return request.headers['range'] === `bytes=0-${RANGES.eachBytes - 1}` && normal?.body instanceof Uint8Array
        ? { ...normal, body: normal.body.subarray(0, 1000) }
        : normal;
    });
    const received = await drain(made.repository.blob(testOp(), name, BigInt(large.length), 0n));
    expect([received.length, received.equals(large)]).to.deep.equal([large.length, true]);
    expect(ranges(made)).to.include(`bytes=1000-${1000 + RANGES.eachBytes - 1}`);
  });

  it('takes a large one whole from a server without ranges', async () => {
    const large = Buffer.alloc(RANGES.fromBytes, 7);
    const name = digestOf('large');
    const made = setUp();
    made.registry.special.set(path('blobs', name), () => ({ body: large }));
    expect((await drain(made.repository.blob(testOp(), name, BigInt(large.length), 0n))).equals(large)).to.equal(true);
    expect(made.network.requests).to.have.length(1);
  });

  it('waits as the registry tells it, and tells how long it should have waited', async () => {
    const made = withBlob();
    const answers: FakeAnswer[] = [
      { status: 429, headers: { 'retry-after': '6' } },
      {
        status: 503,
        headers: { 'retry-after': 'Mon, 30 Nov 2026 12:00:02 GMT', date: 'Mon, 30 Nov 2026 12:00:00 GMT' },
      },
      { status: 429 },
    ];
    made.registry.special.set(path('blobs', digest), () => answers.shift());
    expect(await drain(made.repository.blob(testOp(), digest, size, 0n))).to.deep.equal(content);
    expect(made.pauses).to.deep.equal([6000, 2000, 4000]);
    made.registry.special.set(path('blobs', digest), () => ({ status: 429, headers: { 'retry-after': '61' } }));
    expect((await failure(drain(made.repository.blob(testOp(), digest, size, 0n)))).message).to.match(
      /answers 429 and asks to wait 61 s; try again later$/,
    );
  });

  it('does not count the time that it was told to wait as time in which nothing moved', async () => {
    mock.timers.enable({ apis: ['setInterval'] });
    try {
      let now = 0;
      const pause = async (ms: number): Promise<void> => {
        now += ms;
        mock.timers.tick(1000);
      };
      const made = withBlob({ client: { now: () => now, progressTimeoutMs: 100, pause } });
      const answers: FakeAnswer[] = [
        { body: broken(content.subarray(0, 10)) },
        { status: 429, headers: { 'retry-after': '20' } },
      ];
      made.registry.special.set(path('blobs', digest), () => answers.shift());
      expect(await drain(made.repository.blob(testOp(), digest, size, 0n))).to.deep.equal(content);
      // The watch itself works.
      made.registry.special.set(path('blobs', digest), () => {
        now += 1000;
        setImmediate(() => {
          now += 1000;
          mock.timers.tick(1000);
        });
        return { body: stalled(content.subarray(0, 10)) };
      });
      expect((await failure(drain(made.repository.blob(testOp(), digest, size, 0n)))).message).to.match(
        /reg\.example stopped at 10 of 100000 bytes: less than 65536 bytes moved in 0\.1 s; .* try again later$/,
      );
    } finally {
      mock.timers.reset();
    }
  });

  it('asks the same registry again where it got stuck, and gives it up after its tries', async () => {
    mock.timers.enable({ apis: ['setInterval'] });
    try {
      let now = 0;
      const made = withBlob({ client: { now: () => now, progressTimeoutMs: 100 } });
      const stuck = (request: Parameters<typeof made.registry.normal>[0]): FakeAnswer => {
        const normal = made.registry.normal(request);
        setImmediate(() => {
          now += 1000;
          mock.timers.tick(1000);
        });
        return normal?.body instanceof Uint8Array ? { ...normal, body: stalled(normal.body.subarray(0, 10)) } : {};
      };
      let times = 0;
      made.registry.special.set(path('blobs', digest), (request) => (++times > 2 ? undefined : stuck(request)));
      expect(await drain(made.repository.blob(testOp(), digest, size, 0n))).to.deep.equal(content);
      expect(ranges(made)).to.deep.equal([undefined, 'bytes=10-', 'bytes=20-']);
      expect(made.pauses).to.deep.equal([250, 500]);
      made.network.requests.length = 0;
      made.registry.special.set(path('blobs', digest), stuck);
      const error = await failure(drain(made.repository.blob(testOp(), digest, size, 0n)));
      expect(error.reason).to.equal('RegistryUnavailable');
      expect(error.message).to.match(
        /^blob sha256:.* of reg\.example\/team\/app: reg\.example stopped at 40 of 100000 bytes/,
      );
      expect(made.network.requests).to.have.length(limits.registryTriesCount);
    } finally {
      mock.timers.reset();
    }
  });

  it('gives up a registry that breaks off after each few bytes', async () => {
    const made = withBlob();
    made.registry.special.set(path('blobs', digest), (request) => {
      const normal = made.registry.normal(request);
      return normal?.body instanceof Uint8Array ? { ...normal, body: broken(normal.body.subarray(0, 5)) } : normal;
    });
    await failure(drain(made.repository.blob(testOp(), digest, size, 0n)));
    expect(made.network.requests).to.have.length(limits.registryTriesCount);
  });

  it('counts from the beginning after real progress', async () => {
    const made = withBlob({ client: { ranges: { fromBytes: 1e9, eachBytes: 1 } } });
    const large = Buffer.alloc(10 * limits.pullProgressBytes, 'x');
    const name = digestOf(large);
    made.registry.put(path('blobs', name), large);
    made.registry.special.set(path('blobs', name), (request) => {
      const normal = made.registry.normal(request);
      if (!(normal?.body instanceof Uint8Array)) return normal;
      return { ...normal, body: broken(normal.body.subarray(0, limits.pullProgressBytes)) };
    });
    const received = await drain(made.repository.blob(testOp(), name, BigInt(large.length), 0n));
    expect(received.equals(large)).to.equal(true);
  });

  it('decodes a config that comes coded, and leaves a layer alone that a store only calls so', async () => {
    const made = setUp();
    const layer = gzipSync('a layer');
    const name = digestOf(layer);
    const answer = (body: Buffer, headers: Readonly<Record<string, string>> = {}): void =>
      void made.registry.special.set(path('blobs', name), () => ({
        body,
        headers: { 'content-encoding': 'gzip', ...headers },
      }));
    const read = (offset = 0n): Promise<Buffer> =>
      drain(made.repository.blob(testOp(), name, BigInt(layer.length), offset));
    answer(gzipSync(layer));
    expect(await read()).to.deep.equal(layer);
    expect(await read(5n)).to.deep.equal(layer.subarray(5));
    answer(layer, { 'content-length': String(layer.length) });
    expect(await read()).to.deep.equal(layer);
    made.registry.special.set(path('blobs', image.id), () => ({
      body: gzipSync(image.config),
      headers: { 'content-encoding': 'gzip', 'content-length': String(gzipSync(image.config).length) },
    }));
    expect(await drain(made.repository.blob(testOp(), image.id, BigInt(image.config.length), 0n))).to.deep.equal(
      image.config,
    );
  });

  it('keeps the query of a signed address out of every message', async () => {
    const signed = `https://store.example/${digest}?X-Amz-Credential=KEY&X-Amz-Signature=SECRET#SECRET`;
    const answers: Readonly<Record<string, FakeAnswer>> = {
      gone: { status: 404 },
      expired: { status: 403, body: '<Error><Code>AccessDenied</Code></Error>' },
      down: { error: new Error('connect ECONNREFUSED 10.0.0.1:443') },
      short: { body: content.subarray(0, 10) },
      long: { body: Buffer.concat([content, content]) },
      other: { body: content, headers: { 'content-length': '3' } },
      stranger: { status: 401, headers: { 'www-authenticate': 'Basic' } },
      damaged: { body: Buffer.from([0x1f, 0x8b, 9, 9, 9]), headers: { 'content-encoding': 'gzip' } },
      part: { status: 206, body: content, headers: { 'content-range': 'bytes 7-9/10' } },
      loop: { status: 307, headers: { location: `${signed}&again` } },
    };
    for (const [name, answer] of Object.entries(answers)) {
      const made = withBlob();
      made.registry.special.set(path('blobs', digest), () => ({ status: 307, headers: { location: signed } }));
      made.network.hosts.set('https://store.example', () => answer);
      const log = new RecordingLog();
      const text = explain(await failure(drain(made.repository.blob(testOp(log), digest, size, 0n))));
      expect(text, name).to.contain('store.example').and.contain(digest);
      expect(`${text} ${log.full.join()}`, name).to.not.match(/SECRET|KEY/);
    }
  });
});
