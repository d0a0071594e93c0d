/** Parts of files, read in pieces. */
import type { FileHandle } from 'node:fs/promises';
import { openRegular } from '../base/files.ts';
import { giveBack } from './blocks.ts';

/** One trip through the thread pool for so much. */
const READ_BYTES = 256 * 1024;

/**
 * The bytes of a file from `from` up to but not including `to`, or to its end; a piece is valid until the next one is
 * asked for.
 */
export async function* fileRange(path: string, from: bigint, to: bigint): AsyncGenerator<Uint8Array, void, void> {
  if (from >= to) return;
  const file = await openRegular(path);
  try {
    yield* blocksOf(file, from, to);
  } finally {
    await file.close();
  }
}

/** The same of a file that is open. */
export async function* blocksOf(file: FileHandle, from: bigint, to: bigint): AsyncGenerator<Uint8Array, void, void> {
  const block = Buffer.allocUnsafeSlow(Number(to - from < READ_BYTES ? to - from : READ_BYTES));
  try {
    for (let at = from; at < to; ) {
      const { bytesRead } = await file.read(
        block,
        0,
        Number(to - at < block.length ? to - at : block.length),
        Number(at),
      );
      if (bytesRead === 0) return;
      yield block.subarray(0, bytesRead);
      at += BigInt(bytesRead);
    }
  } finally {
    giveBack(block);
  }
}
