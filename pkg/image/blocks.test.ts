import { expect } from 'chai';
import { Readable } from 'node:stream';
import { giveBack, inBlocks } from './blocks.ts';
import { drain } from './fakes.ts';

describe('image/blocks', () => {
  const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 251));
  /** As a socket gives them: each in memory of its own. */
  const reads = (size: number): Buffer[] =>
    Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => {
      const part = bytes.subarray(i * size, (i + 1) * size);
      const own = Buffer.allocUnsafeSlow(part.length);
      part.copy(own);
      return own;
    });

  it('gives all bytes in order, whatever the sizes', async () => {
    for (const [read, block] of [
      [1000, 256],
      [1000, 1000],
      [70_000, 4096],
      [65_536, 100_000],
      [60_000, 1_000_000],
    ] as const) {
      expect(await drain(inBlocks(Readable.from(reads(read)), block)), `${read} in ${block}`).to.deep.equal(bytes);
    }
  });

  it('gives the memory of reads back when they are copied, and leaves memory alone that others may share', async () => {
    const large = reads(50_000);
    await drain(inBlocks(Readable.from(large), 65_536));
    expect(large.map((each) => each.buffer.byteLength)).to.deep.equal(large.map(() => 0));
    const [head, tail, small] = [bytes.subarray(0, 50_000), Buffer.alloc(200_000), Buffer.from('small')];
    await drain(inBlocks(Readable.from([head, tail, small]), 65_536));
    expect([head.length, tail.length, small.toString()]).to.deep.equal([50_000, 200_000, 'small']);
  });

  it('does not touch a read while it is being told of: the parser that tells looks at it again', async () => {
    const seen: number[] = [];
    const body = new Readable({ read() {} });
    const blocks = inBlocks(body, 1_000_000);
    for (const read of reads(50_000)) {
      const next = blocks.next();
      if (seen.length === 0) body.on('data', (chunk: Buffer) => seen.push(chunk.length));
      body.push(read);
      await next;
    }
    expect(seen).to.deep.equal(Array.from({ length: 6 }, () => 50_000));
    await blocks.return();
  });

  it('holds the sender up while nobody reads', async () => {
    let sent = 0;
    const body = new Readable({
      highWaterMark: 1000,
      read() {
        sent += 1000;
        this.push(Buffer.alloc(1000));
      },
    });
    const blocks = inBlocks(body, 10_000);
    await blocks.next();
    for (let i = 0; i < 100; i++) await new Promise(setImmediate);
    expect(sent).to.be.below(20_000);
    await blocks.return();
    expect(body.destroyed).to.equal(true);
  });

  it('what has arrived comes before the error', async () => {
    const body = new Readable({ read() {} });
    const blocks = inBlocks(body, 10);
    const first = blocks.next();
    body.push('abc');
    expect((await first).value?.toString()).to.equal('abc');
    body.push('def');
    await new Promise(setImmediate);
    body.destroy(new Error('reset'));
    await new Promise(setImmediate);
    expect((await blocks.next()).value?.toString()).to.equal('def');
    expect(await blocks.next().catch((error: Error) => error.message)).to.equal('reset');
  });

  it('tells of an end that came before anybody looked', async () => {
    const outcome = (body: Readable): Promise<unknown> =>
      drain(inBlocks(body, 10)).catch((error: Error) => error.message);
    const broken = new Readable({ read() {} }).on('error', () => {});
    broken.destroy(new Error('reset'));
    await new Promise(setImmediate);
    expect(await outcome(broken)).to.equal('reset');
    const closed = new Readable({ read() {} });
    closed.destroy();
    expect(await outcome(closed)).to.match(/closed before the end/);
    expect(await outcome(Readable.from([]))).to.deep.equal(Buffer.alloc(0));
  });

  it('memory that was given back is gone', () => {
    const block = Buffer.allocUnsafeSlow(10);
    giveBack(block);
    expect(block.length).to.equal(0);
  });
});
