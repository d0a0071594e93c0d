/**
 * The plugins of a chain, executed: where they are, what they are called with, and what their answers mean.
 */
import { accessSync, constants, existsSync, statfsSync } from 'node:fs';
import { isCode, RuntimeError, wrap } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { isLate } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import type { PlainObject } from '../base/go.ts';
import { pluginInput } from './conf.ts';
import type { NetworkConf, PluginConf } from './conf.ts';
import { type CniResult, INTERFACE, pluginComplaint } from './results.ts';
import type { PluginOutput, RunPlugin } from './exec.ts';
import type { Attachment } from './attachments.ts';

/** The commands of CNI (CNI 1.1, section 2). */
export type Verb = 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS';

const NSFS_MAGIC = 0x6e736673;

/** Whoever executes plugins. */
export class Plugins {
  readonly #dirs: readonly string[];
  readonly #run: RunPlugin;

  /** `dirs` are searched in their order. */
  constructor(dirs: readonly string[], run: RunPlugin) {
    this.#dirs = dirs;
    this.#run = run;
  }

  /** The executable of a plugin; undefined if it is in none of the directories. */
  find(type: string): string | undefined {
    return this.#dirs
      .map((directory) => `${directory}/${type}`)
      .find((path, index, all) => {
        // Asked for each status of the node, and an exception costs more than a look; in the last place most are there.
        if (index < all.length - 1 && !existsSync(path)) return false;
        try {
          accessSync(path, constants.X_OK);
          return true;
        } catch {
          return false;
        }
      });
  }

  /** As `find`. @throws FailedPrecondition; not NotFound: that would read as "no such pod" to who destroys one. */
  where(network: NetworkConf, plugin: PluginConf): string {
    const path = this.find(plugin.type);
    if (path === undefined) throw new RuntimeError('FailedPrecondition', this.missing(network, plugin));
    return path;
  }

  /** What to tell of a plugin that is not there. */
  missing(network: NetworkConf, plugin: PluginConf): string {
    return (
      `CNI plugin ${plugin.type} of network ${network.name} is not in ` +
      `${this.#dirs.join(', ')}; install it or correct plugin_dirs`
    );
  }

  /** Runs one plugin for the network as a whole (GC, STATUS). @throws what it complains of. */
  async tell(
    op: Op,
    verb: 'GC' | 'STATUS',
    network: NetworkConf,
    plugin: PluginConf,
    extra: PlainObject = {},
  ): Promise<void> {
    const run = {
      path: this.where(network, plugin),
      env: this.#env(verb),
      stdin: pluginInput(network, plugin, { extra }),
    };
    this.#judge(await this.#run(op, run), verb, network, plugin);
  }

  /** Runs one plugin for a pod. @throws what it complains of; DeadlineExceeded or Cancelled when it was killed. */
  async call(
    op: Op,
    verb: 'ADD' | 'DEL' | 'CHECK',
    attachment: Attachment,
    plugin: PluginConf,
    prevResult: CniResult | undefined,
  ): Promise<PluginOutput> {
    const { network, id, netns, args, capabilityArgs: capabilities } = attachment;
    const run = {
      path: this.where(network, plugin),
      env: { ...this.#env(verb), CNI_CONTAINERID: id, CNI_NETNS: netns, CNI_IFNAME: INTERFACE, CNI_ARGS: args },
      stdin: pluginInput(network, plugin, { capabilityArgs: capabilities, prevResult }),
    };
    const started = performance.now();
    try {
      const output = await this.#run(op, run);
      this.#judge(output, verb, network, plugin);
      return output;
    } catch (error) {
      if (!isCode(error, 'DeadlineExceeded') && !isCode(error, 'Cancelled')) throw asOurs(error, verb, network, plugin);
      const late = isCode(error, 'DeadlineExceeded') || isLate(op);
      throw new RuntimeError(
        late ? 'DeadlineExceeded' : 'Cancelled',
        `${named(verb, network, plugin)} was killed after ${Math.round(performance.now() - started)} ms: ${
          late
            ? 'it did not finish in time; look at its own log and at what it waits for (IPAM, API server, ' +
              'iptables lock)'
            : 'the request was cancelled'
        }`,
        { cause: error },
      );
    }
  }

  /** @throws what a plugin that failed, or said too much, said. */
  #judge({ exitCode, stdout, stderr, cut }: PluginOutput, verb: Verb, network: NetworkConf, plugin: PluginConf): void {
    if (exitCode === 0 && !cut) return;
    if (exitCode === 0)
      throw new RuntimeError(
        'Internal',
        `${named(verb, network, plugin)} printed more than ${limits.cniResultBytes} bytes`,
      );
    const { code, text } = pluginComplaint(exitCode, stdout, stderr);
    // 11 is "try again later", 50 and 51 are "not ready"; 1 and 7 are the administrator's (cni.dev/docs/spec, error
    // codes).
    const kind =
      code === 11 || code === 50 || code === 51
        ? 'Unavailable'
        : code === 1 || code === 7
          ? 'FailedPrecondition'
          : 'Internal';
    throw new RuntimeError(kind, `${named(verb, network, plugin)} failed: ${text}`);
  }

  #env(verb: Verb): Record<string, string> {
    return { CNI_COMMAND: verb, CNI_PATH: this.#dirs.join(':') };
  }
}

function named(verb: Verb, network: NetworkConf, plugin: PluginConf): string {
  return `CNI plugin ${plugin.type} (${verb}, network ${network.name})`;
}

/** Runs what finds fault with a plugin's answer, and says whose answer it was. */
export function complete<T>(network: NetworkConf, plugin: PluginConf, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    throw new RuntimeError(error.code, `${named('ADD', network, plugin)} ${error.message}`);
  }
}

function asOurs(error: unknown, verb: Verb, network: NetworkConf, plugin: PluginConf): RuntimeError {
  if (error instanceof RuntimeError && error.message.startsWith('CNI plugin')) return error;
  const wrapped = wrap(`${named(verb, network, plugin)} could not be run`, error);
  return wrapped.code === 'NotFound'
    ? new RuntimeError('FailedPrecondition', wrapped.message, { cause: error })
    : wrapped;
}

/**
 * True if something at `path` is a pinned namespace still: after a reboot, or when somebody unmounted it, an empty file
 * may be left. In memory, so on the spot.
 */
export function isNetns(path: string): boolean {
  if (path === '') return false;
  try {
    return statfsSync(path).type === NSFS_MAGIC;
  } catch {
    return false;
  }
}
