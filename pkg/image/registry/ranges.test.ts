/** What comes of ranges where servers do not know them, or know them wrong. */
import { expect } from 'chai';
import { limits } from '../../base/limits.ts';
import { digestOf } from '../../oci/digest.ts';
import { broken, drain, failure, testOp } from '../fakes.ts';
import type { FakeAnswer } from '../fakes.ts';
import type { Ranges } from './blob-transfer.ts';
import type { HttpRequest } from './http.ts';
import { path, RANGES, setUp } from './fakes.ts';
import type { Setup } from './fakes.ts';

const large = Buffer.alloc(RANGES.fromBytes + 1000);
for (let at = 0; at + 4 <= large.length; at += 4) large.writeUInt32BE(at, at);
const digest = digestOf(large);
const size = BigInt(large.length);

/** A registry with a large blob, which answers what has a range by `ranged`. */
function withLarge(
  ranged: (request: HttpRequest, setup: Setup) => FakeAnswer | undefined,
  ranges: Ranges = RANGES,
): Setup {
  const made = setUp({ client: { ranges } });
  made.registry.put(path('blobs', digest), large);
  made.registry.special.set(path('blobs', digest), (request) =>
    request.headers['range'] === undefined ? undefined : ranged(request, made),
  );
  return made;
}
const read = async ({ repository }: Setup, offset = 0n): Promise<boolean> =>
  (await drain(repository.blob(testOp(), digest, size, offset))).equals(large.subarray(Number(offset)));
const asked = ({ network }: Setup): (string | undefined)[] => network.requests.map(({ headers }) => headers['range']);
const FIRST = `bytes=0-${RANGES.eachBytes - 1}`;

describe('image/registry: servers and ranges', () => {
  for (const status of [400, 403, 405, 406, 412, 416, 501, 505])
    it(`asks again without, where a range is answered ${status}, at once, and remembers it`, async () => {
      const made = withLarge(() => ({ status }));
      expect(await read(made)).to.equal(true);
      expect(asked(made)).to.deep.equal([FIRST, undefined]);
      expect(made.pauses).to.deep.equal([]);
      expect(await read(made)).to.equal(true);
      expect(asked(made).slice(2)).to.deep.equal([undefined]);
    });

  it('asks again without where a server fails over a range more than once', async () => {
    const made = withLarge(() => ({ status: 500 }));
    expect(await read(made)).to.equal(true);
    expect(asked(made)).to.deep.equal([FIRST, FIRST, undefined]);
  });

  it('does not take a missing blob or a busy server for a server without ranges', async () => {
    const gone = withLarge(() => ({ status: 404 }));
    expect((await failure(read(gone))).message).to.match(/has lost a part of the image: push it again$/);
    const busy = withLarge(() => ({ status: 429 }));
    await failure(read(busy));
    expect(new Set([...asked(gone), ...asked(busy)])).to.deep.equal(new Set([FIRST]));
  });

  const wrong: Readonly<Record<string, FakeAnswer>> = {
    'another part': { status: 206, headers: { 'content-range': 'bytes 5-9/10' }, body: large.subarray(5, 10) },
    'more than was asked for': {
      status: 206,
      headers: { 'content-range': `bytes 70001-${large.length + 9}/${large.length + 10}` },
      body: large.subarray(70_001),
    },
    'no word of which part': { status: 206, body: large.subarray(0, 10) },
    'nonsense for a part': { status: 206, headers: { 'content-range': 'pieces a-b' }, body: large },
    'a part of something coded': {
      status: 206,
      headers: { 'content-range': `bytes 70001-70010/${large.length}`, 'content-encoding': 'gzip' },
      body: large.subarray(0, 10),
    },
  };
  for (const [name, answer] of Object.entries(wrong))
    it(`goes on from where it was when a server answers with ${name}`, async () => {
      const made = withLarge(() => answer);
      expect(await read(made, 70_001n)).to.equal(true);
      expect(asked(made)).to.deep.equal(['bytes=70001-', undefined]);
    });

  it('skips what it has where a server sends all of it instead of the rest', async () => {
    const made = withLarge(() => ({ body: large, headers: { 'content-length': String(large.length) } }));
    expect(await read(made, 70_001n)).to.equal(true);
    expect(asked(made)).to.deep.equal(['bytes=70001-']);
  });

  it('takes a 206 that nobody asked for as what it says', async () => {
    const made = setUp();
    const small = Buffer.from('small');
    const answers: FakeAnswer[] = [
      { status: 206, headers: { 'content-range': 'bytes 0-4/5' }, body: small },
      { status: 206, headers: { 'content-range': 'bytes 2-4/5' }, body: small.subarray(2) },
    ];
    made.registry.special.set(path('blobs', digestOf(small)), () => answers.shift());
    const blob = (): Promise<Buffer> => drain(made.repository.blob(testOp(), digestOf(small), 5n, 0n));
    expect(await blob()).to.deep.equal(small);
    expect((await failure(blob())).message).to.match(/answers bytes 2 to 4 when asked for 0 to 4; .* is broken$/);
  });

  it('asks at once for what a server has left away, and plainly where that is crumbs', async () => {
    const half = (request: HttpRequest, { registry }: Setup): FakeAnswer | undefined => {
      const [, first = '', last = ''] = /^bytes=(\d+)-(\d*)$/.exec(request.headers['range'] ?? '') ?? [];
      const [from, to] = [Number(first), last === '' ? large.length - 1 : Number(last)];
      const range = `bytes=${from}-${from + ((to - from) >> 1)}`;
      return registry.normal({ ...request, headers: { ...request.headers, range } });
    };
    const made = withLarge(half, { fromBytes: 100_000, eachBytes: 3 * limits.pullProgressBytes });
    expect(await read(made)).to.equal(true);
    expect(asked(made)[0]).to.equal(`bytes=0-${3 * limits.pullProgressBytes - 1}`);
    expect(asked(made)).to.include(`bytes=${1.5 * limits.pullProgressBytes}-${3 * limits.pullProgressBytes - 1}`);
    expect([asked(made).at(-1), made.pauses]).to.deep.equal([undefined, []]);
    const crumbs = withLarge(half);
    expect(await read(crumbs)).to.equal(true);
    expect(asked(crumbs)).to.deep.equal([FIRST, undefined]);
  });

  it('takes it up plainly where a break and a server without ranges come together', async () => {
    const made = withLarge(() => ({ status: 416 }));
    let plain = 0;
    const special = made.registry.special.get(path('blobs', digest));
    made.registry.special.set(path('blobs', digest), (request, route) =>
      request.headers['range'] === undefined && plain++ === 0
        ? { body: broken(large.subarray(0, 80_000)) }
        : special?.(request, route),
    );
    expect(await read(made)).to.equal(true);
    expect(asked(made)).to.deep.equal([FIRST, undefined, undefined]);
  });

  it('goes on in ranges where one of those fetched ahead is refused, and plainly where it stays so', async () => {
    for (const times of [1, Number.POSITIVE_INFINITY]) {
      let left = times;
      const made = withLarge((request) =>
        request.headers['range'] === FIRST || left-- <= 0 ? undefined : { status: 400 },
      );
      expect(await read(made)).to.equal(true);
      expect(asked(made).includes(undefined)).to.equal(times > 1);
    }
  });

  it('asks no second time for what is no part', async () => {
    const made = setUp();
    const small = Buffer.from('small');
    made.registry.special.set(path('blobs', digestOf(small)), () => ({ status: 403 }));
    await failure(drain(made.repository.blob(testOp(), digestOf(small), 5n, 0n)));
    expect(made.network.requests).to.have.length(1);
    expect(limits.registryTriesCount).to.be.above(1);
  });
});
