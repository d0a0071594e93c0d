/**
 * Pod networks by CNI plugins: the chain of plugins for each verb, and the cache that makes DEL possible after
 * anything.
 *
 *   add:      intent on disk ──▶ ADD plugin by plugin ──▶ result on disk ──▶ answer
 *                                    ╰─ fails ─▶ DEL, all plugins, backwards ─▶ file removed
 *   destroy:  what is on disk ──▶ DEL backwards ──▶ file removed
 *
 * A pod's file has two lines: what its plugins are called with, written before the first one runs, so that a crash at
 * any point leaves an id here that `gc` finds; and the result, added when the whole chain has answered. A line that a
 * crash cut short counts as not written. The file is not synced: what a power cut takes from it, it takes from the
 * plugins' own leases of the same second, and a file that comes back empty still names the pod, for which DEL is then
 * called with the present configuration.
 */
import { accessSync, constants, statfsSync } from 'node:fs';
import { open, unlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { explain, errnoOf, isCode, RuntimeError, wrap } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { ensureDir, readBounded, readDirSorted, readJson, replaceFile } from '../base/files.ts';
import { parseSandboxId } from '../base/ids.ts';
import type { SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { backgroundOp, detached, isLate, withTimeout } from '../base/op.ts';
import type { Logger, Op } from '../base/op.ts';
import { KeyedMutex } from '../base/sync.ts';
import {
  atLeast,
  capabilityArgs,
  INTERFACE,
  networkConfOf,
  parseResult,
  pluginComplaint,
  pluginInput,
  podAddressesOf,
  podArgs,
  podNetworkOf,
  resultAs,
  resultOf,
} from './conf.ts';
import type { CniResult, Json, NetworkConf, PluginConf } from './conf.ts';
import { ConfDirs } from './confdir.ts';
import { endPlugins, nodeFilter, runPlugin, sweepNat, watchWithInotify } from './exec.ts';
import type { EndPlugins, PluginOutput, RunPlugin, SweepRules, WatchDirectory } from './exec.ts';
import { HostPorts } from './hostports.ts';
import type { PacketFilter } from './hostports.ts';
import { mapperOf, mapsPorts, normalised } from './ports.ts';
import type { PodPorts } from './ports.ts';
import type { NetworkInUse, NetworkPlugin, PodNetwork, PodNetworkRequest } from '../ports/network.ts';

/** What a CniNetwork is made with. */
export interface CniOptions {
  /**
   * Directories of configurations: the first that holds a usable one is used, and only that. All are watched; none need
   * exist.
   */
  readonly configDirs: readonly [string, ...string[]];
  /** Directories of plugins, in the order of the search. */
  readonly pluginDirs: readonly string[];
  /** Where `<sandbox>.jsonl` are; survives a reboot. */
  readonly cacheDir: string;
  /** Name of the network to join; '' = the first by file name. */
  readonly defaultNetwork: string;
  /** For how long STATUS of a network that was ready may fail before it counts as not ready; default 0. */
  readonly statusGraceMs?: number;
  readonly log: Logger;
  /** Milliseconds of any clock. */
  readonly now?: () => number;
  readonly run?: RunPlugin;
  readonly watch?: WatchDirectory;
  readonly sweep?: SweepRules;
  readonly endPlugins?: EndPlugins;
  readonly filter?: PacketFilter;
}

type Verb = 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS';

/** What a pod's file holds: all that DEL and CHECK need. */
interface Attachment {
  readonly id: SandboxId;
  readonly netns: string;
  /** CNI_ARGS */
  readonly args: string;
  readonly capabilityArgs: Json;
  readonly network: NetworkConf;
  /** What Berth itself maps for the pod; undefined if nothing. */
  readonly hostPorts: Pick<PodPorts, 'pod' | 'mappings'> | undefined;
  /** undefined until the whole chain has answered. */
  readonly result: CniResult | undefined;
}

/** What STATUS of a network said last. */
interface Answer {
  readonly network: NetworkConf | undefined;
  /** '' = ready */
  readonly why: string;
  readonly at: number;
  /** When it began to fail, if it does. */
  readonly since: number;
}

const NSFS_MAGIC = 0x6e736673;

/** NetworkPlugin over CNI plugins that are executed. */
export class CniNetwork implements NetworkPlugin {
  readonly #options: CniOptions;
  readonly #run: RunPlugin;
  readonly #locks = new KeyedMutex<SandboxId>();
  /** What the files of the pods hold that were added since the start, so that stopping one reads nothing. */
  readonly #attached = new Map<SandboxId, Attachment>();
  readonly #conf: ConfDirs;
  readonly #ports: HostPorts;
  #ranges: readonly string[] = [];
  #closed = false;
  #status: Answer = { network: undefined, why: '', at: 0, since: 0 };
  #asking: Promise<void> | undefined;

  constructor(options: CniOptions) {
    this.#options = options;
    this.#run = options.run ?? runPlugin;
    this.#conf = new ConfDirs({
      dirs: options.configDirs,
      defaultNetwork: options.defaultNetwork,
      log: options.log,
      watch: options.watch ?? watchWithInotify,
    });
    this.#ports = new HostPorts({
      stateFile: `${options.cacheDir}/hostports.json`,
      filter: options.filter ?? nodeFilter,
      log: options.log,
    });
  }

  async start(op: Op): Promise<void> {
    await ensureDir(this.#options.cacheDir);
    await this.#recallPorts();
    await this.#recallRanges();
    await this.#conf.start(op);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#conf.close();
    await this.#asking;
  }

  get ready(): { readonly ok: boolean; readonly why: string } {
    const { network, why } = this.#conf.current();
    if (network === undefined) return { ok: false, why };
    this.#refresh(network);
    const missing = network.plugins.find(({ type }) => this.#find(type) === undefined);
    if (missing !== undefined) return { ok: false, why: this.#missing(network, missing) };
    const { why: trouble, since } = this.#status;
    const bad =
      this.#status.network === network && trouble !== '' && this.#now() - since >= (this.#options.statusGraceMs ?? 0);
    return bad ? { ok: false, why: trouble } : { ok: true, why: '' };
  }

  get inUse(): NetworkInUse | undefined {
    const { network, file } = this.#conf.current();
    if (network === undefined) return undefined;
    const { name, cniVersion, plugins } = network;
    return {
      name,
      file,
      cniVersion,
      plugins: plugins.map(({ type }) => type),
      hostPorts: mapsPorts(network) ? 'plugin' : this.#ports.possible ? 'berth' : 'nobody',
    };
  }

  async add(op: Op, pod: PodNetworkRequest): Promise<PodNetwork> {
    const args = podArgs(pod);
    const capabilities = capabilityArgs(pod, this.#ranges);
    return this.#locks.run(pod.id, async () => {
      const network = await this.#conf.wait(op);
      // All or none: half a chain could not be taken down either.
      for (const plugin of network.plugins) this.#where(network, plugin);
      const hostPorts =
        mapperOf(network, pod.portMappings) === 'berth'
          ? { pod: `${pod.namespace}/${pod.name}`, mappings: normalised(pod.portMappings) }
          : undefined;
      const intent: Attachment = {
        id: pod.id,
        netns: pod.netns,
        args,
        capabilityArgs: capabilities,
        network,
        hostPorts,
        result: undefined,
      };
      const file = await this.#begin(op, intent, pod.pinned);
      try {
        return await this.#attach(withTimeout(op, limits.cniAddMs), intent, file);
      } catch (error) {
        await this.#undo(op, pod.id);
        throw error;
      } finally {
        file
          .close()
          .catch((error: unknown) =>
            op.log.warn('cannot close cni cache file, ignoring', { sandbox: pod.id, why: explain(error) }),
          );
      }
    });
  }

  async setPodRanges(subnets: readonly string[]): Promise<void> {
    if (subnets.join() === this.#ranges.join()) return;
    await replaceFile(this.#rangesFile, `${JSON.stringify(subnets)}\n`, 'durable');
    this.#ranges = subnets;
    this.#options.log.info('addresses of pods come from the ranges of the node, where plugins take them', {
      ranges: subnets.join(','),
    });
  }

  destroy(op: Op, id: SandboxId): Promise<void> {
    return this.#locks.run(id, () => this.#detach(op, id));
  }

  check(op: Op, id: SandboxId): Promise<void> {
    return this.#locks.run(id, async () => {
      const found = await this.#load(id);
      if (found === undefined || found === 'damaged' || found.result === undefined) {
        throw new RuntimeError('NotFound', `sandbox ${id} is in no CNI network`);
      }
      if (found.network.disableCheck || !atLeast(found.network.cniVersion, '0.4.0')) return;
      const bounded = withTimeout(op, limits.cniDelMs);
      for (const plugin of found.network.plugins) await this.#call(bounded, 'CHECK', found, plugin, found.result);
    });
  }

  async gc(op: Op, live: readonly SandboxId[]): Promise<void> {
    try {
      await this.#ports.settle(op);
    } catch (error) {
      op.log.warn('cannot put the host ports of pods in order, will retry with the next change', {
        why: explain(error),
      });
    }
    const keep = new Set(live);
    for (const id of await this.list()) {
      // Who holds the lock is adding or removing this very pod.
      if (keep.has(id) || this.#locks.busy(id)) continue;
      try {
        await this.destroy(op, id);
        op.log.info('network of a pod that is gone given back', { sandbox: id });
      } catch (error) {
        op.log.warn('cannot give back the network of a pod that is gone, will retry', {
          sandbox: id,
          why: explain(error),
        });
      }
    }
    await this.#collect(op, live);
  }

  async list(): Promise<readonly SandboxId[]> {
    const names = await readDirSorted(this.#options.cacheDir);
    return names
      .filter((name) => /^[0-9a-f]{64}\.jsonl$/.test(name))
      .map((name) => parseSandboxId(name.slice(0, -'.jsonl'.length)));
  }

  // ---- the chain -----------------------------------------------------------------------------------------------

  async #attach(op: Op, intent: Attachment, file: FileHandle): Promise<PodNetwork> {
    let result: CniResult | undefined;
    for (const plugin of intent.network.plugins) {
      op.stage(`cni add: ${plugin.type}`);
      const { stdout } = await this.#call(op, 'ADD', intent, plugin, result);
      result = complete(intent.network, plugin, () => parseResult(stdout, intent.network.cniVersion));
    }
    const last = intent.network.plugins.at(-1);
    if (result === undefined || last === undefined)
      throw new RuntimeError('Internal', `network ${intent.network.name} has no plugins`);
    const final = result;
    const pod = complete(intent.network, last, () => podNetworkOf(final));
    await failpoint('cni.add.after');
    await this.#ports.map(op, intent.id, podAddressesOf(final));
    await failpoint('cni.ports.after');
    await this.#write(file, intent.id, { result: resultAs(final, intent.network.cniVersion) });
    this.#attached.set(intent.id, { ...intent, result: final });
    await failpoint('cni.result.after');
    return pod;
  }

  /**
   * DEL after a failed ADD, beyond the caller's patience. If it fails too the file stays, and `destroy` or `gc` tries
   * again.
   */
  async #undo(op: Op, id: SandboxId): Promise<void> {
    try {
      await this.#detach(detached(op, limits.cniDelMs), id);
    } catch (error) {
      op.log.warn('cannot undo a failed cni add, will retry', { sandbox: id, why: explain(error) });
    }
  }

  async #detach(op: Op, id: SandboxId): Promise<void> {
    const found = await this.#load(id);
    if (found === undefined) return;
    const attachment = found === 'damaged' ? this.#guess(id) : found;
    // First: the addresses may be another pod's a moment after DEL.
    await this.#ports.release(op, id);
    if (attachment.result === undefined) (this.#options.endPlugins ?? endPlugins)(id);
    const netns = isNetns(attachment.netns) ? attachment.netns : '';
    const bounded = withTimeout(op, limits.cniDelMs);
    for (const plugin of attachment.network.plugins.toReversed()) {
      op.stage(`cni del: ${plugin.type}`);
      const prevResult = atLeast(attachment.network.cniVersion, '0.4.0') ? attachment.result : undefined;
      await this.#call(bounded, 'DEL', { ...attachment, netns }, plugin, prevResult);
    }
    if (netns === '') await this.#sweep(bounded, id);
    await failpoint('cni.del.after');
    this.#attached.delete(id);
    await forget(this.#path(id));
  }

  async #sweep(op: Op, id: SandboxId): Promise<void> {
    try {
      await (this.#options.sweep ?? sweepNat)(op, id);
    } catch (error) {
      op.log.warn('cannot look for packet-filter rules of a pod whose network namespace is gone, ignoring', {
        sandbox: id,
        why: explain(error),
      });
    }
  }

  /** For a file that cannot be read: plugins find a pod's leases and rules by its id alone. */
  #guess(id: SandboxId): Attachment {
    const { network, why } = this.#conf.current();
    if (network === undefined) {
      throw new RuntimeError(
        'FailedPrecondition',
        `${this.#path(id)} is damaged, and there is no CNI network to give the addresses of sandbox ` +
          `${id} back to: ${why}`,
      );
    }
    return { id, netns: '', args: '', capabilityArgs: {}, network, hostPorts: undefined, result: undefined };
  }

  /** After a crash or a reboot: who has which host port is in the cache. */
  async #recallPorts(): Promise<void> {
    if (!(await this.#ports.load())) return;
    for (const id of await this.list()) {
      const found = await this.#load(id);
      if (found === undefined || found === 'damaged' || found.hostPorts === undefined) continue;
      this.#ports.recall({
        id,
        ...found.hostPorts,
        addresses: found.result === undefined ? [] : podAddressesOf(found.result),
      });
    }
  }

  async #collect(op: Op, live: readonly SandboxId[]): Promise<void> {
    const { network } = this.#conf.current();
    if (network === undefined || network.disableGc || !atLeast(network.cniVersion, '1.1.0')) return;
    const valid = live.map((containerID) => ({ containerID, ifname: INTERFACE }));
    const extra = { 'cni.dev/valid-attachments': valid, 'cni.dev/attachments': valid };
    for (const plugin of network.plugins) {
      try {
        const run = {
          path: this.#where(network, plugin),
          env: this.#env('GC'),
          stdin: pluginInput(network, plugin, { extra }),
        };
        this.#judge(await this.#run(withTimeout(op, limits.cniDelMs), run), 'GC', network, plugin);
      } catch (error) {
        op.log.warn('cni gc failed, will retry', { network: network.name, why: explain(error) });
      }
    }
  }

  async #call(
    op: Op,
    verb: 'ADD' | 'DEL' | 'CHECK',
    attachment: Attachment,
    plugin: PluginConf,
    prevResult: CniResult | undefined,
  ): Promise<PluginOutput> {
    const { network, id, netns, args, capabilityArgs: capabilities } = attachment;
    const run = {
      path: this.#where(network, plugin),
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
    return { CNI_COMMAND: verb, CNI_PATH: this.#options.pluginDirs.join(':') };
  }

  #find(type: string): string | undefined {
    return this.#options.pluginDirs
      .map((directory) => `${directory}/${type}`)
      .find((path) => {
        try {
          accessSync(path, constants.X_OK);
          return true;
        } catch {
          return false;
        }
      });
  }

  /** Not NotFound: that would read as "no such pod" to who destroys one. */
  #where(network: NetworkConf, plugin: PluginConf): string {
    const path = this.#find(plugin.type);
    if (path === undefined) throw new RuntimeError('FailedPrecondition', this.#missing(network, plugin));
    return path;
  }

  #missing(network: NetworkConf, plugin: PluginConf): string {
    return (
      `CNI plugin ${plugin.type} of network ${network.name} is not in ` +
      `${this.#options.pluginDirs.join(', ')}; install it or correct plugin_dirs`
    );
  }

  // ---- the cache -----------------------------------------------------------------------------------------------

  #path(id: SandboxId): string {
    return `${this.#options.cacheDir}/${id}.jsonl`;
  }

  get #rangesFile(): string {
    return `${this.#options.cacheDir}/pod-ranges.json`;
  }

  async #recallRanges(): Promise<void> {
    try {
      const subnets = await readJson(this.#rangesFile, limits.configFileBytes);
      if (!Array.isArray(subnets)) throw new RuntimeError('FailedPrecondition', `${this.#rangesFile} holds no list`);
      this.#ranges = subnets.filter((each) => typeof each === 'string');
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT')
        this.#options.log.warn('cannot read the address ranges of pods, going on without until they are told again', {
          why: explain(error),
        });
    }
  }

  /**
   * Writes the first line; the second follows through the same descriptor. What an earlier try left is given back
   * before.
   */
  async #begin(op: Op, intent: Attachment, pinned: Promise<unknown>): Promise<FileHandle> {
    const { id, netns, args, capabilityArgs: capabilities, network, hostPorts } = intent;
    const path = this.#path(id);
    let file: FileHandle;
    try {
      file = await open(path, 'wx', 0o600);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw unwritable(path, error);
      await this.#detach(op, id);
      return this.#begin(op, intent, pinned);
    }
    try {
      if (hostPorts !== undefined) this.#ports.reserve({ id, ...hostPorts, addresses: [] });
      await this.#write(file, id, {
        version: 1,
        id,
        netns,
        interface: INTERFACE,
        args,
        capabilityArgs: capabilities,
        config: network.raw,
        hostPorts,
      });
      await failpoint('cni.intent.after');
      await pinned;
      return file;
    } catch (error) {
      await this.#ports.release(op, id);
      await file.close();
      await forget(path);
      throw error;
    }
  }

  async #write(file: FileHandle, id: SandboxId, line: Json): Promise<void> {
    try {
      await file.writeFile(`${JSON.stringify(line)}\n`);
    } catch (error) {
      throw unwritable(this.#path(id), error);
    }
  }

  async #load(id: SandboxId): Promise<Attachment | 'damaged' | undefined> {
    const attached = this.#attached.get(id);
    if (attached !== undefined) return attached;
    const path = this.#path(id);
    try {
      const [intent, result] = linesOf((await readBounded(path, limits.cniCacheFileBytes)).toString('utf8'));
      const network = networkConfOf(path, intent?.['config']);
      return {
        id,
        netns: stringIn(intent, 'netns'),
        args: stringIn(intent, 'args'),
        capabilityArgs: (intent?.['capabilityArgs'] ?? {}) as Json,
        network,
        hostPorts: hostPortsOf(intent?.['hostPorts']),
        result: result === undefined ? undefined : resultOf(result['result'] as Json, network.cniVersion),
      };
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      if (errnoOf(error) !== undefined) throw wrap(`cannot read ${path}`, error);
      this.#options.log.warn('damaged cni cache file, using the present configuration', { path, why: explain(error) });
      return 'damaged';
    }
  }

  // ---- readiness -----------------------------------------------------------------------------------------------

  /** Asks for STATUS now and then; never awaited by who wants to know. */
  #refresh(network: NetworkConf): void {
    if (
      this.#closed ||
      !atLeast(network.cniVersion, '1.1.0') ||
      (this.#status.network === network && this.#now() - this.#status.at < limits.cniStatusAgeMs)
    )
      return;
    this.#asking ??= this.#askStatus(network).finally(() => (this.#asking = undefined));
  }

  async #askStatus(network: NetworkConf): Promise<void> {
    let why = '';
    try {
      const op = backgroundOp(this.#options.log, limits.cniStatusMs);
      for (const plugin of network.plugins) {
        const run = {
          path: this.#where(network, plugin),
          env: this.#env('STATUS'),
          stdin: pluginInput(network, plugin, {}),
        };
        this.#judge(await this.#run(op, run), 'STATUS', network, plugin);
      }
    } catch (error) {
      why = explain(error);
    }
    const at = this.#now();
    const { network: before, why: whyBefore, since } = this.#status;
    // A network that was never ready has no grace.
    this.#status = {
      network,
      why,
      at,
      since: before !== network ? Number.NEGATIVE_INFINITY : whyBefore === '' ? at : since,
    };
    if (why !== '' && (before !== network || whyBefore === ''))
      this.#options.log.warn('the cni network says that it is not ready', { network: network.name, why });
  }

  #now(): number {
    return (this.#options.now ?? Date.now)();
  }
}

function named(verb: Verb, network: NetworkConf, plugin: PluginConf): string {
  return `CNI plugin ${plugin.type} (${verb}, network ${network.name})`;
}

/** Runs what finds fault with a plugin's answer, and says whose answer it was. */
function complete<T>(network: NetworkConf, plugin: PluginConf, work: () => T): T {
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
function isNetns(path: string): boolean {
  if (path === '') return false;
  try {
    return statfsSync(path).type === NSFS_MAGIC;
  } catch {
    return false;
  }
}

/** The whole lines of a cache file; the piece after the last newline was cut off by a crash. */
function linesOf(text: string): (Json | undefined)[] {
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Json);
}

/** unlink, and nothing more: one trip to the disk. */
async function forget(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw wrap(`cannot remove ${path}`, error);
  }
}

function unwritable(path: string, error: unknown): RuntimeError {
  const full = errnoOf(error) === 'ENOSPC' || errnoOf(error) === 'EDQUOT';
  return wrap(
    `cannot write ${path}${full ? '; make room on its file system' : ''}`,
    error,
    full ? 'ResourceExhausted' : 'Internal',
  );
}

/** As it was written. @throws InvalidArgument if it was not written so. */
function hostPortsOf(raw: unknown): Attachment['hostPorts'] {
  if (raw === undefined) return undefined;
  const { pod, mappings } = raw as { readonly pod: unknown; readonly mappings: unknown };
  if (typeof pod !== 'string' || !Array.isArray(mappings))
    throw new RuntimeError('InvalidArgument', 'hostPorts are not as they were written');
  return { pod, mappings: normalised(mappings as PodPorts['mappings']) };
}

function stringIn(file: Json | undefined, key: string): string {
  const value = file?.[key];
  return typeof value === 'string' ? value : '';
}
