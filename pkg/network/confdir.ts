/**
 * Directories of CNI configurations, watched: which network pods join right now, and if none, why.
 *
 * Files count in the order of their names, the first directory before the next; what cannot be used is passed over with
 * a warning. A file that was good and is being rewritten keeps its last good content, so that no pod joins the wrong
 * network for the blink of an eye. Directories need not exist: the nearest one above is watched until they do, and
 * nothing is made on the node.
 */
import { accessSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { errnoOf, explain, isCode, RuntimeError } from '../base/errors.ts';
import { readBounded, readDirSorted } from '../base/files.ts';
import { limits } from '../base/limits.ts';
import { abortError } from '../base/op.ts';
import type { Logger, Op } from '../base/op.ts';
import { abortable } from '../base/sync.ts';
import { parseNetworkConf, pluginsDirectory } from './conf.ts';
import type { ConfText, NetworkConf } from './conf.ts';
import type { WatchDirectory } from './exec.ts';

/** Which directories are looked at, and how. */
export interface ConfDirsOptions {
  readonly dirs: readonly string[];
  /** Name of the network to use; '' = the first. */
  readonly defaultNetwork: string;
  readonly log: Logger;
  readonly watch: WatchDirectory;
}

/** What the directories hold. */
export interface Configured {
  readonly network: NetworkConf | undefined;
  /** Where `network` was read. */
  readonly file: string;
  /** Why there is none. */
  readonly why: string;
}

const NOT_READ: Configured = {
  network: undefined,
  file: '',
  why: 'cni config uninitialized: the configuration has not been read yet',
};
const CONF_NAME = /\.(conf|conflist|json)$/;

/** The network that the directories configure, as they are now: watched, or read again when somebody asks. */
export class ConfDirs {
  readonly #options: ConfDirsOptions;
  readonly #lastGood = new Map<string, NetworkConf>();
  readonly #watches = new Map<string, { close(): void }>();
  #configured = NOT_READ;
  #changed = Promise.withResolvers<void>();
  #reading: Promise<void> | undefined;
  #dirty = false;
  /** By performance.now(). */
  #readAt = Number.NEGATIVE_INFINITY;
  #closed = false;

  constructor(options: ConfDirsOptions) {
    this.#options = options;
  }

  /** Watches, then reads. */
  async start(op: Op): Promise<void> {
    await this.#read();
    op.log.info('cni configuration read', fieldsOf(this.#configured));
  }

  /** Who waits gets Unavailable. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const watch of this.#watches.values()) watch.close();
    this.#watches.clear();
    this.#changed.resolve();
    await this.#reading;
  }

  /** Never waits. Where a directory cannot be watched, an old answer starts a new reading for the next time. */
  current(): Configured {
    const unwatched = this.#options.dirs.some((directory) => !this.#watches.has(directory));
    if (unwatched && !this.#closed && performance.now() - this.#readAt > limits.cniConfUnwatchedMs) this.#readSoon();
    return this.#configured;
  }

  /**
   * The network, as soon as there is one. @throws Unavailable with the reason when `op` ends before, Cancelled if the
   * caller left.
   */
  async wait(op: Op): Promise<NetworkConf> {
    for (;;) {
      const { network } = this.current();
      if (network !== undefined) return network;
      if (this.#closed) throw new RuntimeError('Unavailable', 'berth is stopping');
      op.stage('cni: waiting for a configuration');
      await abortable(this.#changed.promise, op.signal, () => this.#noNetwork(op));
    }
  }

  #noNetwork(op: Op): RuntimeError {
    const { code } = abortError(op, 'waiting for a CNI configuration');
    return new RuntimeError(code === 'Cancelled' ? 'Cancelled' : 'Unavailable', this.#configured.why);
  }

  /** Reads the directories; changes that come meanwhile make it read once more. */
  #read(): Promise<void> {
    this.#dirty = true;
    this.#reading ??= this.#readAll();
    return this.#reading;
  }

  async #readAll(): Promise<void> {
    try {
      while (this.#dirty && !this.#closed) {
        this.#dirty = false;
        this.#watchAll();
        this.#use(await this.#choose());
      }
    } finally {
      this.#reading = undefined;
    }
  }

  #readSoon(): void {
    this.#read().catch((error: unknown) =>
      this.#options.log.warn('cannot read cni configuration, will retry', { why: explain(error) }),
    );
  }

  #use(next: Configured): void {
    const before = this.#configured;
    this.#readAt = performance.now();
    if (JSON.stringify(before.network?.raw) === JSON.stringify(next.network?.raw) && before.why === next.why) return;
    this.#configured = next;
    if (before !== NOT_READ) this.#options.log.info('cni configuration changed', fieldsOf(next));
    const waiting = this.#changed;
    this.#changed = Promise.withResolvers<void>();
    waiting.resolve();
  }

  async #choose(): Promise<Configured> {
    const { dirs, defaultNetwork } = this.#options;
    const complaints: string[] = [];
    for (const directory of dirs) {
      for (const { file, network } of await this.#networksIn(directory, complaints)) {
        if (defaultNetwork === '' || network.name === defaultNetwork) return { network, file, why: '' };
      }
    }
    const wanted =
      defaultNetwork === '' ? 'no CNI configuration' : `no CNI configuration of a network named ${defaultNetwork}`;
    const extra = complaints.length === 0 ? '' : ` (${complaints.slice(0, 3).join('; ')})`;
    return {
      network: undefined,
      file: '',
      why: `cni config uninitialized: ${wanted} in ${dirs.join(', ')}; has your network provider started?${extra}`,
    };
  }

  async #networksIn(
    directory: string,
    complaints: string[],
  ): Promise<{ readonly file: string; readonly network: NetworkConf }[]> {
    let names: string[];
    try {
      names = (await readDirSorted(directory))
        .filter((name) => CONF_NAME.test(name))
        .slice(0, limits.cniConfFilesCount);
    } catch (error) {
      complaints.push(explain(error));
      return [];
    }
    for (const file of this.#lastGood.keys())
      if (dirname(file) === directory && !names.includes(basename(file))) this.#lastGood.delete(file);
    const networks: { file: string; network: NetworkConf }[] = [];
    for (const name of names) {
      const file = `${directory}/${name}`;
      const network = await this.#parse(file, complaints);
      if (network !== undefined) networks.push({ file, network });
    }
    return networks;
  }

  async #parse(file: string, complaints: string[]): Promise<NetworkConf | undefined> {
    try {
      const conf = await textOf(file);
      const network = parseNetworkConf(file, conf.text, await textsIn(pluginsDirectory(conf)));
      this.#lastGood.set(file, network);
      return network;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') {
        this.#lastGood.delete(file);
        return undefined;
      }
      const last = this.#lastGood.get(file);
      complaints.push(explain(error));
      this.#options.log.warn(
        last === undefined
          ? 'unusable cni configuration file, ignoring'
          : 'unusable cni configuration file, keeping its last good content',
        { path: file, why: explain(error) },
      );
      return last;
    }
  }

  #watchAll(): void {
    for (const directory of this.#options.dirs) {
      for (let at = directory; !this.#watches.has(directory); at = dirname(at)) {
        try {
          this.#watches.set(
            directory,
            this.#options.watch(at, () => this.#onChange(directory, at)),
          );
        } catch (error) {
          if (at !== '/' && isCode(error, 'NotFound')) continue;
          this.#options.log.warn('cannot watch cni configuration directory, reading it now and then', {
            path: directory,
            why: explain(error),
          });
          break;
        }
      }
    }
  }

  /** Something happened in `watched`: the directory itself, or the nearest one above it. */
  #onChange(directory: string, watched: string): void {
    if (this.#closed) return;
    if (watched !== directory || !exists(directory)) {
      this.#watches.get(directory)?.close();
      this.#watches.delete(directory);
      if (!exists(directory) && watched !== directory) {
        this.#watchAll();
        return;
      }
    }
    this.#readSoon();
  }
}

async function textOf(file: string): Promise<ConfText> {
  return { file, text: (await readBounded(file, limits.configFileBytes)).toString('utf8') };
}

/** The confs in a directory, which need not be there. */
async function textsIn(directory: string | undefined): Promise<readonly ConfText[]> {
  const names = directory === undefined ? [] : await readDirSorted(directory);
  const files = names.filter((name) => name.endsWith('.conf')).map((name) => `${directory}/${name}`);
  return await Promise.all(files.slice(0, limits.cniPluginsCount + 1).map(textOf));
}

function fieldsOf({ network, file, why }: Configured): Readonly<Record<string, string | undefined>> {
  return { network: network?.name, path: file === '' ? undefined : file, why: why === '' ? undefined : why };
}

function exists(path: string): boolean {
  try {
    accessSync(path);
    return true;
  } catch {
    return false;
  }
}
