/** For tests: tars written by hand, correct or wrong on purpose. Byte strings as in tar.ts. */

export interface HeaderFields {
  readonly name?: string;
  readonly type?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** What the size field claims; default: the length of the content. */
  readonly size?: number;
  readonly mtime?: number;
  readonly link?: string;
  readonly magic?: 'ustar\x0000' | 'ustar  \0' | '';
  readonly prefix?: string;
  readonly major?: number;
  readonly minor?: number;
  /** Bytes put over the header at an offset before the checksum is made. */
  readonly raw?: readonly (readonly [offset: number, bytes: Uint8Array])[];
}

/** Records of a PAX header. */
export type PaxList = readonly (readonly [key: string, value: string])[];

/** One 512-byte header with a right checksum. */
export function tarHeader(fields: HeaderFields, contentLength = 0): Buffer {
  const block = Buffer.alloc(512);
  const text = (offset: number, length: number, value: string): void =>
    void block.write(value.slice(0, length), offset, 'latin1');
  const octal = (offset: number, length: number, value: number): void =>
    text(offset, length, `${value.toString(8).padStart(length - 1, '0')}\0`);
  const isDirectory = fields.type === '5';
  text(0, 100, fields.name ?? 'file');
  octal(100, 8, fields.mode ?? (isDirectory ? 0o755 : 0o644));
  octal(108, 8, fields.uid ?? 0);
  octal(116, 8, fields.gid ?? 0);
  octal(124, 12, fields.size ?? contentLength);
  octal(136, 12, fields.mtime ?? 1_600_000_000);
  text(156, 1, fields.type ?? '0');
  text(157, 100, fields.link ?? '');
  text(257, 8, fields.magic ?? 'ustar\x0000');
  if (fields.magic !== '') {
    octal(329, 8, fields.major ?? 0);
    octal(337, 8, fields.minor ?? 0);
  }
  if (fields.prefix !== undefined) text(345, 155, fields.prefix);
  for (const [offset, bytes] of fields.raw ?? []) block.set(bytes, offset);
  return withChecksum(block);
}

/** Sets the checksum of a header anew. */
export function withChecksum(block: Buffer): Buffer {
  block.fill(0x20, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** Header and padded content. */
export function tarEntry(fields: HeaderFields, content: string | Uint8Array = ''): Buffer {
  const bytes = typeof content === 'string' ? Buffer.from(content, 'latin1') : content;
  return Buffer.concat([tarHeader(fields, bytes.length), bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)]);
}

/** A PAX header ('g' for a global one) with these records, repeated keys kept. */
export function paxHeader(records: PaxList, type: 'x' | 'g' = 'x'): Buffer {
  return tarEntry({ name: 'PaxHeaders/x', type }, records.map(([key, value]) => paxRecord(key, value)).join(''));
}

/** An entry with a PAX header in front. */
export function paxEntry(records: PaxList, fields: HeaderFields, content: string | Uint8Array = ''): Buffer {
  return Buffer.concat([paxHeader(records), tarEntry(fields, content)]);
}

/** Entries and the two zero blocks at the end. */
export function tarOf(...entries: readonly Buffer[]): Buffer {
  return Buffer.concat([...entries, Buffer.alloc(1024)]);
}

function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length}${rest}`;
}
