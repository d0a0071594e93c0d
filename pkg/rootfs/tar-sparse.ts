/**
 * PURE. Where the content of an entry lies in its file: the parts that a sparse file really has, in GNU's old format
 * and the three of PAX. Used by tar.ts alone.
 */
import type { ExtendedHeaders } from './tar-extended.ts';
import { BLOCK, decimal, isGnu, numberField, TarFault } from './tar-header.ts';
import { quote } from '../base/ids.ts';

/** A run of bytes that a sparse file really has; the rest is holes. */
export interface SparsePart {
  readonly offset: number;
  readonly length: number;
}

/** Who tells where content lies. */
export type SparseSource = 'none' | 'gnu' | 'pax0' | 'pax1';

/** @throws TarFault for a format that is unknown. */
export function sparseSource(block: Buffer, flag: string, headers: ExtendedHeaders): SparseSource {
  if (flag === 'S') {
    if (!isGnu(block)) throw new TarFault('DataLoss', 'a sparse file in a header that is not GNU');
    return 'gnu';
  }
  const major = headers.own('GNU.sparse.major');
  if (major === undefined)
    return headers.sparseNumbers.length > 0 || headers.own('GNU.sparse.numblocks') !== undefined ? 'pax0' : 'none';
  const version = `${major}.${headers.own('GNU.sparse.minor') ?? ''}`;
  if (version === '1.0') return 'pax1';
  if (version === '0.0' || version === '0.1') return 'pax0';
  throw new TarFault('Unimplemented', `sparse files of version ${quote(version)} are unknown`);
}

/** The logical size of a sparse file. */
export function realSize(block: Buffer, source: SparseSource, headers: ExtendedHeaders): number {
  if (source === 'gnu') return numberField(block, 483, 12, 'real size');
  const size = decimal('real size', headers.own('GNU.sparse.realsize') ?? headers.own('GNU.sparse.size'));
  if (size === undefined) throw new TarFault('DataLoss', 'a sparse file has no real size');
  return size;
}

/** The parts of one entry's content, in order. */
export class ContentParts {
  readonly #partsMax: number;
  readonly #mapBytesMax: number;
  #parts: SparsePart[] = [];
  #index = 0;
  #used = 0;
  #mapText = '';
  #mapLines = 0;

  constructor(limits: { readonly sparsePartsCount: number; readonly recordBytes: number }) {
    this.#partsMax = limits.sparsePartsCount;
    this.#mapBytesMax = limits.recordBytes;
  }

  /** Another entry. */
  clear(): void {
    this.#parts = [];
    this.#index = 0;
    this.#used = 0;
    this.#mapText = '';
    this.#mapLines = 0;
  }

  /** The whole file, without holes. */
  whole(sizeBytes: number): void {
    if (sizeBytes > 0) this.#parts.push({ offset: 0, length: sizeBytes });
  }

  /** Parts in GNU's old header, or in a block that continues it. */
  addGnu(block: Buffer, offset: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const at = offset + i * 24;
      if (block[at] === 0) return;
      this.add([numberField(block, at, 12, 'sparse offset'), numberField(block, at + 12, 12, 'sparse length')]);
    }
  }

  /** Offset and length of each part. */
  add(numbers: readonly number[]): void {
    if (numbers.length % 2 !== 0)
      throw new TarFault('DataLoss', 'the map of a sparse file has an odd number of values');
    if (this.#parts.length + numbers.length / 2 > this.#partsMax)
      throw new TarFault('ResourceExhausted', `a sparse file has more than ${this.#partsMax} parts`);
    for (let i = 0; i < numbers.length; i += 2)
      this.#parts.push({ offset: numbers[i] as number, length: numbers[i + 1] as number });
  }

  /**
   * PAX 1.0: the map is decimal lines in front of the content, padded to a block: count, then offset and length of each
   * part. Takes one block of it; 'whole' when that was the last.
   */
  addMapBlock(block: Buffer): 'whole' | 'more' {
    this.#mapText += block.toString('latin1', 0, BLOCK);
    for (const byte of block) if (byte === 0x0a) this.#mapLines++;
    if (this.#mapText.length > this.#mapBytesMax)
      throw new TarFault('ResourceExhausted', `the map of a sparse file is over ${this.#mapBytesMax} bytes`);
    if (this.#mapLines === 0) throw new TarFault('DataLoss', 'the map of a sparse file does not start with a count');
    const count = decimal('sparse part count', this.#mapText.slice(0, this.#mapText.indexOf('\n'))) ?? 0;
    if (count > this.#partsMax)
      throw new TarFault('ResourceExhausted', `a sparse file has more than ${this.#partsMax} parts`);
    if (this.#mapLines < 2 * count + 1) return 'more';
    const lines = this.#mapText.split('\n', 2 * count + 1).slice(1);
    this.add(lines.map((line) => decimal('sparse map value', line) ?? fail()));
    this.#mapText = '';
    return 'whole';
  }

  /** Parts in order, apart, inside the file, and as long together as the content in the stream. */
  verify(sizeBytes: number, storedBytes: number): void {
    let end = 0;
    let total = 0;
    for (const { offset, length } of this.#parts) {
      if (offset < end || offset + length > sizeBytes)
        throw new TarFault('DataLoss', 'the map of a sparse file is out of order or out of range');
      end = offset + length;
      total += length;
    }
    if (total !== storedBytes) throw new TarFault('DataLoss', 'the map of a sparse file does not match its content');
    // GNU tar ends maps with an empty part that only marks the size.
    this.#parts = this.#parts.filter(({ length }) => length > 0);
  }

  /** The next run of at most `available` bytes: where it belongs. @throws TarFault when there is room for none. */
  take(available: number): { readonly offset: number; readonly length: number } {
    const part = this.#parts[this.#index];
    if (part === undefined) throw new TarFault('DataLoss', 'more content than the sparse map has room for');
    const length = Math.min(part.length - this.#used, available);
    const offset = part.offset + this.#used;
    this.#used += length;
    if (this.#used === part.length) {
      this.#index++;
      this.#used = 0;
    }
    return { offset, length };
  }
}

function fail(): never {
  throw new TarFault('DataLoss', 'the map of a sparse file has an empty value');
}
