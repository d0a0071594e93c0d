import { expect } from 'chai';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestOf } from '../oci/digest.ts';
import type { ChainId } from '../base/ids.ts';
import { Claims } from './claims.ts';
import { cancellable, failure, testOp } from './fakes.ts';
import { Flight } from './flight.ts';

describe('image/flight', () => {
  it('gives all passengers one outcome', async () => {
    let runs = 0;
    const flight = new Flight(async () => ++runs);
    expect(await Promise.all([flight.join(testOp(), 'x'), flight.join(testOp(), 'x')])).to.deep.equal([1, 1]);
    expect(flight.isClosed).to.equal(true);
  });

  it('goes on when one leaves, ends when all have left', async () => {
    const ended = Promise.withResolvers<void>();
    const flight = new Flight(
      (signal) =>
        new Promise<number>((_resolve, reject) =>
          signal.addEventListener('abort', () => {
            ended.resolve();
            reject(new Error('given up'));
          }),
        ),
    );
    const [a, b] = [cancellable(), cancellable()];
    const first = failure(flight.join(a.op, 'pulling x'));
    const second = failure(flight.join(b.op, 'pulling x'));
    a.cancel();
    expect((await first).message).to.equal('cancelled while: pulling x');
    expect(flight.isClosed).to.equal(false);
    b.cancel();
    expect((await second).code).to.equal('Cancelled');
    expect(flight.isClosed).to.equal(true);
    await ended.promise;
    await flight.settled();
  });

  it('tells every passenger the stage', async () => {
    const stages: string[] = [];
    const go = Promise.withResolvers<void>();
    const flight = new Flight(async (_signal, stage) => {
      await go.promise;
      stage('here');
    });
    const op = (name: string): ReturnType<typeof testOp> => ({
      ...testOp(),
      stage: (what) => void stages.push(`${name} ${what}`),
    });
    const all = Promise.all([flight.join(op('a'), ''), flight.join(op('b'), '')]);
    go.resolve();
    await all;
    expect(stages).to.deep.equal(['a here', 'b here']);
  });
});

describe('image/claims', () => {
  let directory: string;
  let now = 1_000_000;
  beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'claims-'))));
  afterEach(() => rm(directory, { recursive: true }));
  const made = async (): Promise<Claims> => {
    const claims = new Claims(directory, 1000, () => now);
    await claims.load();
    return claims;
  };
  const [a, b] = [digestOf('a'), digestOf('b')];
  const layer = digestOf('layer') as string as ChainId;

  it('protects while a pull lasts, and no longer when it is finished', async () => {
    const claims = await made();
    const claim = await claims.take('x', { blobs: [a], layers: [layer] });
    const other = await claims.take('y', { blobs: [a, b], layers: [] });
    expect([claims.hasBlob(a), claims.hasLayer(layer), claims.hasBlob(digestOf('c'))]).to.deep.equal([
      true,
      true,
      false,
    ]);
    expect([claim.isShared(a), claim.isShared(b), other.isShared(b)]).to.deep.equal([true, true, false]);
    await claim.finish();
    expect([claims.hasBlob(a), claims.hasLayer(layer)]).to.deep.equal([true, false]);
    await other.finish();
    expect(claims.hasBlob(a)).to.equal(false);
    expect(await readdir(directory)).to.deep.equal([]);
  });

  it('remembers a broken pull for a while, across restarts', async () => {
    (await (await made()).take('x', { blobs: [a], layers: [layer] })).abandon();
    const claims = await made();
    expect([claims.hasBlob(a), claims.hasLayer(layer)]).to.deep.equal([true, true]);
    now += 1001;
    expect((await made()).hasBlob(a)).to.equal(false);
    expect(await readdir(directory)).to.deep.equal([]);
  });

  it('a later try of the same pull replaces the memory of the first', async () => {
    const claims = await made();
    (await claims.take('x', { blobs: [a], layers: [] })).abandon();
    await (await claims.take('x', { blobs: [b], layers: [] })).finish();
    expect([claims.hasBlob(a), claims.hasBlob(b)]).to.deep.equal([false, false]);
  });

  it('drops files that are damaged or not its own', async () => {
    await writeFile(join(directory, 'x.json'), '{');
    await writeFile(join(directory, 'y.json'), '{"blobs":["../../x"],"layers":[],"sinceMs":1000000}');
    await writeFile(join(directory, 'z.tmp'), '');
    now = 1_000_000;
    await made();
    expect(await readdir(directory)).to.deep.equal(['y.json']);
  });
});
