/** For tests: what reading a tar gives, with the content of files put together, and how it is refused. */
import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import { type TarEntry, type TarLimits, TarReader } from './tar.ts';

export const LIMITS: TarLimits = {
  entriesCount: 100,
  contentBytes: 1_000_000,
  recordBytes: 65_536,
  pathBytes: 4096,
  sparsePartsCount: 1000,
};

export interface Read {
  readonly entry: TarEntry;
  /** The file with holes filled; undefined where nothing was written. */
  readonly content: Buffer;
  ended: boolean;
}

export type Bounds = Partial<TarLimits>;

export function readAll(tar: Buffer, limits: Bounds = {}, chunkBytes = tar.length): Read[] {
  const reads: Read[] = [];
  const reader = new TarReader(
    {
      // The values of attributes are views that do not last.
      entry: (entry) =>
        void reads.push({ entry: structuredClone(entry), content: Buffer.alloc(entry.sizeBytes), ended: false }),
      data: (bytes, offset) => reads.at(-1)?.content.set(bytes, offset),
      end: () => {
        const last = reads.at(-1);
        if (last !== undefined) last.ended = true;
      },
    },
    { ...LIMITS, ...limits },
  );
  for (let at = 0; at < tar.length; at += chunkBytes) reader.push(tar.subarray(at, at + chunkBytes));
  reader.finish();
  assert.isTrue(reads.every(({ ended }) => ended));
  return reads;
}

export function readOne(tar: Buffer): Read {
  const reads = readAll(tar);
  assert.lengthOf(reads, 1);
  return reads[0] as Read;
}

/** Code and message of the error that reading ends with. */
export function refusal(tar: Buffer, limits: Bounds = {}): string {
  try {
    readAll(tar, limits);
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    return `${error.code}: ${error.message}`;
  }
  return 'accepted';
}
