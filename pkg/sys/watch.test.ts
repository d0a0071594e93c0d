import { assert } from 'chai';
import { parseInotify } from './watch.ts';

/** struct inotify_event: descriptor, mask, cookie, length, name padded with NULs. */
function record(mask: number, name = ''): Buffer {
  const length = name === '' ? 0 : 16;
  const bytes = Buffer.alloc(16 + length);
  bytes.writeInt32LE(1, 0);
  bytes.writeUInt32LE(mask, 4);
  bytes.writeUInt32LE(length, 12);
  bytes.write(name, 16);
  return bytes;
}

describe('parseInotify', () => {
  it('tells the four kinds of event, in order', () => {
    const bytes = Buffer.concat([
      record(0x100, 'made'),
      record(0x80, 'moved'),
      record(0x8, 'written'),
      record(0x200, 'deleted'),
      record(0x40, 'left'),
      record(0x4000),
      record(0x400),
      record(0x8000),
    ]);
    assert.deepEqual(parseInotify(bytes), [
      { kind: 'changed', name: 'made' },
      { kind: 'changed', name: 'moved' },
      { kind: 'changed', name: 'written' },
      { kind: 'removed', name: 'deleted' },
      { kind: 'removed', name: 'left' },
      { kind: 'overflow' },
      { kind: 'gone' },
    ]);
  });

  it('stops at a cut record', () => {
    assert.deepEqual(parseInotify(Buffer.concat([record(0x100, 'a'), record(0x100, 'b').subarray(0, 10)])), [
      { kind: 'changed', name: 'a' },
    ]);
  });
});
