/** Classes of block I/O of `blockio_config_file`, looked at when a container names one: with the devices of then. */
import { glob, realpath, stat } from 'node:fs/promises';
import { explain } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import type { Logger } from '../base/op.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import type { BlockDevice, BlockIoClasses } from '../ports/extensions.ts';
import { hardware } from '../spec/index.ts';

/** A file of classes, which is read again when it has changed. */
export class BlockIoFile {
  readonly #path: string;
  readonly #log: Logger;
  readonly #read: (path: string) => Promise<unknown>;
  #seen = '';
  #classes: BlockIoClasses = new Map();

  /** '' is no file. `read` gives its content, parsed. */
  constructor(path: string, log: Logger, read: (path: string) => Promise<unknown>) {
    this.#path = path;
    this.#log = log;
    this.#read = read;
  }

  /**
   * What a class asks for. As with CRI-O a class that is not known, and whatever is wrong with the file, is a warning:
   * the container runs without one.
   */
  async classOf(name: string): Promise<LinuxResources['blockIO']> {
    if (this.#path === '') return undefined;
    await this.load();
    const entries = this.#classes.get(name);
    if (entries === undefined) {
      this.#log.warn('a container names a class of block I/O that is not in blockio_config_file, ignoring', {
        class: name,
        path: this.#path,
      });
      return undefined;
    }
    const patterns = [...new Set(entries.flatMap(({ devices = [] }) => devices))];
    const found = new Map(await Promise.all(patterns.map(async (each) => [each, await this.#devices(each)] as const)));
    return hardware.toSpec(entries, (pattern) => found.get(pattern) ?? []);
  }

  /** Reads it, unless it is as it was. */
  async load(): Promise<void> {
    if (this.#path === '') return;
    try {
      const { ino, mtimeNs, size } = await stat(this.#path, { bigint: true });
      const seen = [ino, mtimeNs, size].join(' ');
      if (seen === this.#seen) return;
      const { classes, complaints } = hardware.parse(await this.#read(this.#path));
      for (const cause of complaints)
        this.#log.warn('a value in blockio_config_file cannot be used, ignoring', { path: this.#path, cause });
      this.#classes = classes;
      this.#seen = seen;
    } catch (cause) {
      this.#log.warn('blockio_config_file cannot be used; containers keep the classes that were read before', {
        path: this.#path,
        cause: explain(cause),
      });
    }
  }

  /** The block devices of a pattern such as `/dev/disk/by-id/*SSD*`, links followed. */
  async #devices(pattern: string): Promise<readonly BlockDevice[]> {
    const found = new Map<string, BlockDevice>();
    for await (const path of glob(pattern)) {
      const info = await stat(await realpath(path)).catch(() => undefined);
      if (info?.isBlockDevice() === true) found.set(String(info.rdev), deviceOf(info.rdev));
      if (found.size >= limits.blockIoDevicesCount) break;
    }
    if (found.size === 0)
      this.#log.warn('no block device matches a pattern in blockio_config_file, ignoring', {
        path: this.#path,
        pattern,
      });
    return [...found.values()];
  }
}

/** As the kernel splits a device number for programs (linux/kdev_t.h, new_encode_dev). */
function deviceOf(rdev: number): BlockDevice {
  return { major: (rdev >> 8) & 0xfff, minor: (rdev & 0xff) | ((rdev >> 12) & 0xfff00) };
}
