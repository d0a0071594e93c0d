/**
 * The load a noisy container puts on its monitor: 100 MB/s of lines while the log is rotated every
 * second the way the kubelet does it, by rename and reopen. Every line must be there once, in order.
 * LOAD_SECONDS makes it last.
 */
import { closeSync, existsSync, openSync, readSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { assert } from 'chai';
import { Case, subjects, tool, until } from './harness.ts';

const seconds = Number(process.env['LOAD_SECONDS'] ?? 4);
const lineBytes = 100;

/** Checks that the file goes on with line `next`; returns the line after its last. */
function checkFile(path: string, next: number): number {
  const fd = openSync(path, 'r');
  const chunk = Buffer.alloc(8 << 20);
  let rest = '';
  try {
    for (let n = readSync(fd, chunk); n > 0; n = readSync(fd, chunk)) {
      const text = rest + chunk.toString('latin1', 0, n);
      const end = text.lastIndexOf('\n') + 1;
      rest = text.slice(end);
      for (let at = 0; at < end; ) {
        const newline = text.indexOf('\n', at);
        next = checkLine(text.slice(at, newline), next);
        at = newline + 1;
      }
    }
  } finally {
    closeSync(fd);
  }
  assert.equal(rest, '', `${path} ends in half a line`);
  return next;
}

let piece = '';

/** A line may be cut where a read of the monitor ended; the pieces together are the line. */
function checkLine(line: string, next: number): number {
  piece += line.slice(45);
  if (line[43] === 'P') return next;
  if (Number(piece.slice(0, 12)) !== next || piece.length !== lineBytes - 1)
    assert.fail(`line ${next} expected, found ${JSON.stringify(piece.slice(0, 120))}`);
  piece = '';
  return next + 1;
}

describe('conmon (ours) under load', function () {
  this.timeout(seconds * 10_000 + 60_000);

  it(`logs 100 MB/s for ${seconds} s over a rename and reopen every second, every line once and in order`, async () => {
    const c = new Case(subjects[0]!);
    try {
      await c.start({ program: `exec ${tool} lines 100 ${seconds}` }).created();
      let next = 0;
      for (let i = 1; i < seconds; i++) {
        // Rotation is by the clock: this second is the case, not a wait for something to happen.
        await new Promise((done) => setTimeout(done, 1000));
        renameSync(c.log, `${c.log}.${i}`);
        const asked = Date.now();
        writeFileSync(join(c.bundle, 'ctl'), '2 0 0\n', { flag: 'a' });
        await until('the log is reopened', () => existsSync(c.log));
        assert.isBelow(Date.now() - asked, 1000, 'reopening is prompt');
      }
      await c.exit(seconds * 5000);
      for (let i = 1; i < seconds; i++) {
        next = checkFile(`${c.log}.${i}`, next);
        rmSync(`${c.log}.${i}`);
      }
      next = checkFile(c.log, next);
      assert.isAtLeast(
        (next * lineBytes) / 1e6,
        seconds * 100 * 0.5,
        'the container was slowed down to less than half',
      );
    } finally {
      await c.close();
    }
  });
});
