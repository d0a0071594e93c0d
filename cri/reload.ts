/**
 * SIGHUP: what of a freshly read configuration a daemon that runs takes over. Each part is taken whole or not at all,
 * with one line per key that names the old and the new value; what waits for a restart is said each time, until it is
 * in force or given up.
 */
import { explain } from '../pkg/base/errors.ts';
import type { Logger } from '../pkg/base/op.ts';
import {
  type Change,
  type Config,
  type LoadedConfig,
  planReload,
  type ReloadPart,
  withPart,
} from '../pkg/config/index.ts';

/** A part that is ready to be taken. */
export interface Taken {
  /** Takes it: at once, without fail. */
  commit(): void;
  /** What changed although its key did not: the content of a file. */
  readonly content?: readonly Change[];
  /** After everything was said. */
  settle?(): void;
}

/** Makes a part ready for `next`: what is in force, with the part's keys as they shall be. Changes nothing itself. */
export type Taker = (next: LoadedConfig) => Promise<Taken>;

/** A way to take each part, in the order in which they are taken. `always`: files of it may have changed, too. */
export type Takers = { readonly [P in ReloadPart]: { readonly take: Taker; readonly when: 'changed' | 'always' } };

/** Holds what is in force. One reload at a time. */
export class Reloader {
  readonly #takers: Takers;
  readonly #log: Logger;
  #inForce: Config;
  #last: Promise<void> = Promise.resolve();

  constructor(config: Config, takers: Takers, log: Logger) {
    this.#inForce = config;
    this.#takers = takers;
    this.#log = log;
  }

  /** The configuration as the daemon follows it now. */
  get inForce(): Config {
    return this.#inForce;
  }

  /**
   * Takes over what may change, after those that came before. `read` gives the fresh configuration; if it throws, all
   * stays as it is. Never rejects: what goes wrong is in the log.
   */
  reload(read: () => Promise<LoadedConfig>): Promise<void> {
    this.#last = this.#last.then(() => this.#reload(read));
    return this.#last;
  }

  async #reload(read: () => Promise<LoadedConfig>): Promise<void> {
    const log = this.#log;
    let fresh: LoadedConfig;
    try {
      fresh = await read();
    } catch (cause) {
      log.error('Unable to reload configuration; all of the old one stays in force', { cause: explain(cause) });
      return;
    }
    for (const warning of fresh.warnings) log.warn(warning);
    const { parts, waiting } = planReload(this.#inForce, fresh.config);
    const settling: (() => void)[] = [];
    let failed = 0;
    for (const [part, { take, when }] of Object.entries(this.#takers) as [ReloadPart, Takers[ReloadPart]][]) {
      const changes = parts.get(part) ?? [];
      if (changes.length === 0 && when === 'changed') continue;
      try {
        const config = withPart(this.#inForce, fresh.config, part);
        const { commit, content = [], settle } = await take({ ...fresh, config });
        commit();
        this.#inForce = config;
        for (const change of [...changes, ...content]) this.#say(change);
        if (settle !== undefined) settling.push(settle);
      } catch (cause) {
        failed++;
        log.error('Unable to reload configuration; the old values of these keys stay in force', {
          keys: changes.map(({ key }) => key).join(' ') || part,
          cause: explain(cause),
        });
      }
    }
    for (const { key, before, after } of waiting)
      log.warn('a change of the configuration waits for a restart', { key, before, after });
    if (failed === 0) log.info('Configuration reload completed', { waiting: waiting.length });
    for (const settle of settling) settle();
  }

  /** In CRI-O's words, for which people look. */
  #say({ key, before, after }: Change): void {
    const name = key.replace(/^crio\.[a-z]+\.(?=[a-z])/, '');
    const value = after.startsWith('"') ? after : JSON.stringify(after);
    this.#log.info(`Set config ${name} to ${value}`, { key, before });
  }
}
