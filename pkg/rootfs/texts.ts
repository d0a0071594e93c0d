/** Byte strings that end in NUL, in files that are as long as a layer likes: written and read piece by piece. */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { RuntimeError } from '../base/errors.ts';

/** What one call of the kernel moves: some thousand lines. */
const BLOCK_BYTES = 65_536;

/** Opens a file of texts for writing, anew. The caller closes the descriptor. */
export function createTexts(path: string): number {
  return openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600);
}

/** All of these bytes. */
export function writeAll(fd: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
}

/** Collects texts and hands them on in large pieces. Call `flush` at the end. */
export class TextWriter {
  readonly #write: (bytes: Buffer) => void;
  #text = '';

  constructor(write: (bytes: Buffer) => void) {
    this.#write = write;
  }

  /** Text with its NULs. */
  add(text: string): void {
    this.#text += text;
    if (this.#text.length >= BLOCK_BYTES) this.flush();
  }

  flush(): void {
    if (this.#text !== '') this.#write(Buffer.from(this.#text, 'latin1'));
    this.#text = '';
  }
}

/** The texts of a file, without their NULs. @throws DataLoss naming `what` if the last one is cut short. */
export function* textsOf(path: string, what: string): Generator<string, void, void> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
    let rest = '';
    for (let count = readSync(fd, block); count > 0; count = readSync(fd, block)) {
      const parts = (rest + block.toString('latin1', 0, count)).split('\0');
      rest = parts.pop() ?? '';
      yield* parts;
    }
    if (rest !== '') throw new RuntimeError('DataLoss', `${what} is damaged`);
  } finally {
    closeSync(fd);
  }
}
