/** Files with V8's bytecode of a bundle, for cri/boot.ts: whole or not there. */
import { readFileSync } from 'node:fs';
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';

const PREFIX = 'berth-';
/** A CRC-32 stands in front of the bytecode. */
const CRC_BYTES = 4;

/** A file for the bytecode of one bundle and one V8. */
export class CodeCache {
  readonly #directory: string;
  readonly #name: string;

  /** `directory` need not exist. `bundle` and `version` tell one bundle, and one V8 with its flags, from another. */
  constructor(directory: string, bundle: string, version: number) {
    this.#directory = directory;
    this.#name = `${PREFIX}${bundle}-${version.toString(16)}`;
  }

  /** What was kept last; undefined if nothing was, or not all of it is there: V8 would run whatever it is given. */
  read(): Buffer | undefined {
    try {
      const bytes = readFileSync(join(this.#directory, this.#name));
      const data = bytes.subarray(CRC_BYTES);
      return crc32(data) === bytes.readUInt32LE() ? data : undefined;
    } catch {
      return undefined;
    }
  }

  /**
   * Replaces what was kept, and deletes what was kept of other bundles. @throws when the directory cannot be written.
   */
  async keep(data: Buffer): Promise<void> {
    const crc = Buffer.alloc(CRC_BYTES);
    crc.writeUInt32LE(crc32(data));
    await mkdir(this.#directory, { recursive: true });
    const fresh = join(this.#directory, `${this.#name}.${process.pid}`);
    const file = await open(fresh, 'w', 0o600);
    try {
      await file.writev([crc, data]);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(fresh, join(this.#directory, this.#name));
    for (const name of await readdir(this.#directory))
      if (name.startsWith(PREFIX) && name !== this.#name) await rm(join(this.#directory, name), { force: true });
  }
}
