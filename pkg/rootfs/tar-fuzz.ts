/** For tests: random tars, some damaged, cut at random places. `scripts/fuzz.mjs` runs it for longer. */
import { RuntimeError } from '../base/errors.ts';
import { type HeaderFields, paxEntry, type PaxList, tarEntry, tarHeader, tarOf, withChecksum } from './tar-build.ts';
import { TarReader } from './tar.ts';

const LIMITS = { entriesCount: 50, contentBytes: 100_000, recordBytes: 8_192, pathBytes: 4096, sparsePartsCount: 50 };

type Random = (below: number) => number;

/**
 * Reads `rounds` random tars whole and in pieces. @returns how many were read to their end without an error.
 * @throws Error if the pieces tell another story than the whole, if an entry breaks a promise, or if anything but a
 * RuntimeError comes out.
 */
export function fuzzTar(seed: number, rounds: number): number {
  const random = generator(seed);
  let accepted = 0;
  for (let round = 0; round < rounds; round++) {
    const tar = randomTar(random);
    const whole = story(tar, () => tar.length);
    const pieces = story(tar, () => 1 + random(random(2) === 0 ? 9 : 1500));
    if (whole !== pieces)
      throw new Error(`seed ${seed} round ${round}: in pieces it reads\n${pieces}\ninstead of\n${whole}`);
    if (whole.endsWith('end\n')) accepted++;
  }
  return accepted;
}

/** Everything that reading gives, as text. */
function story(tar: Buffer, next: () => number): string {
  let text = '';
  let [size, end] = [0, 0];
  let content = '';
  const reader = new TarReader(
    {
      entry: (entry) => {
        if (entry.path === '' || entry.path.includes('\0') || entry.path.length > LIMITS.pathBytes)
          throw new Error(`bad path ${entry.path}`);
        if (
          ![entry.mode, entry.uid, entry.gid, entry.sizeBytes, entry.mtimeSeconds, entry.mtimeNanos].every(
            Number.isSafeInteger,
          )
        )
          throw new Error('bad number');
        [size, end, content] = [entry.sizeBytes, 0, ''];
        text += `${JSON.stringify(entry)}\n`;
      },
      data: (bytes, offset) => {
        if (bytes.length === 0 || offset < end || offset + bytes.length > size)
          throw new Error(`content at ${offset} of ${size}`);
        content += offset === end ? '' : `@${offset}:`;
        content += Buffer.from(bytes).toString('hex');
        end = offset + bytes.length;
      },
      end: () => {
        text += `${content}\n`;
      },
    },
    LIMITS,
  );
  try {
    for (let at = 0; at < tar.length; ) {
      const length = next();
      reader.push(tar.subarray(at, at + length));
      at += length;
    }
    reader.finish();
    return `${text}end\n`;
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    return `${text}${error.code} ${error.message}\n`;
  }
}

function randomTar(random: Random): Buffer {
  const tar = tarOf(...Array.from({ length: random(6) }, () => randomEntry(random)));
  for (let damage = random(2) * random(4); damage > 0; damage--) {
    const at = random(tar.length);
    tar[at] = random(256);
    const header = at - (at % 512);
    // With a wrong checksum nothing behind it would ever be tried.
    if (random(4) > 0) withChecksum(tar.subarray(header, header + 512));
  }
  return random(5) === 0 ? tar.subarray(0, random(tar.length)) : tar;
}

function randomEntry(random: Random): Buffer {
  const type = ['0', '\0', '1', '2', '3', '5', '6', '7', 'D', 'V'][random(10)] ?? '0';
  const length = '0\x007DV'.includes(type) ? (random(3) === 0 ? random(1600) : random(20)) : 0;
  const content = Buffer.from(Array.from({ length }, () => random(256)));
  const fields: HeaderFields = {
    name: 'dir/'.repeat(random(4)) + 'n'.repeat(random(30) + 1),
    type,
    link: 'target',
    uid: random(70_000),
    mode: random(0o10000),
    magic: (['ustar\x0000', 'ustar  \0', ''] as const)[random(3)] ?? '',
  };
  switch (random(7)) {
    case 0:
      return paxEntry(randomPax(random), fields, content);
    case 1:
      return Buffer.concat([
        tarEntry({ type: random(2) === 0 ? 'L' : 'K' }, `${'long/'.repeat(random(60))}x\0`),
        tarEntry(fields, content),
      ]);
    case 2:
      return paxEntry(
        [
          ['GNU.sparse.size', String(random(8000))],
          ['GNU.sparse.map', `${random(9)},0,${random(2000)},${content.length}`],
        ],
        fields,
        content,
      );
    case 3:
      return paxEntry(
        [
          ['GNU.sparse.major', '1'],
          ['GNU.sparse.minor', '0'],
          ['GNU.sparse.realsize', String(random(9000))],
        ],
        { ...fields, type: '0' },
        Buffer.concat([Buffer.from(`1\n${random(900)}\n${content.length}\n`.padEnd(512, '\0')), content]),
      );
    case 4: {
      const number = (value: number): string => `${value.toString(8).padStart(11, '0')}\0`;
      return Buffer.concat([
        tarHeader({
          ...fields,
          type: 'S',
          magic: 'ustar  \0',
          size: 5,
          raw: [
            [386, Buffer.from(number(random(50)) + number(5))],
            [483, Buffer.from(number(random(100)))],
          ],
        }),
        Buffer.alloc(512, 0x61),
      ]);
    }
    default:
      return tarEntry(fields, content);
  }
}

function randomPax(random: Random): PaxList {
  const all: PaxList = [
    ['path', 'pax/'.repeat(random(50)) + 'x'],
    ['mtime', `${random(2) === 0 ? '-' : ''}${random(1e9)}.${random(1e9)}`],
    ['uid', String(random(2 ** 32))],
    ['SCHILY.xattr.user.x', String.fromCharCode(...Array.from({ length: random(40) }, () => random(256)))],
    ['linkpath', 'l'],
    ['comment', ''],
  ];
  return all.filter(() => random(3) === 0);
}

/** xorshift32: the same numbers for the same seed, everywhere. */
function generator(seed: number): Random {
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return below === 0 ? 0 : state % below;
  };
}
