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
import type { FileHandle } from 'node:fs/promises';
import { explain, errnoOf, RuntimeError } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { ensureDir, readJson, replaceFile } from '../base/files.ts';
import type { SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { backgroundOp, detached, withTimeout } from '../base/op.ts';
import type { Logger, Op } from '../base/op.ts';
import { KeyedMutex } from '../base/sync.ts';
import { type Turn, Turns } from '../base/turns.ts';
import { capabilityArgs, podArgs } from './conf.ts';
import type { NetworkConf } from './conf.ts';
import { atLeast, type CniResult, INTERFACE, parseResult, podAddressesOf, podNetworkOf } from './results.ts';
import { AttachmentFiles } from './attachments.ts';
import type { Attachment } from './attachments.ts';
import { ConfDirs } from './confdir.ts';
import { endPlugins, nodeFilter, runPlugin, sweepNat, watchWithInotify } from './exec.ts';
import type { EndPlugins, RunPlugin, SweepRules, WatchDirectory } from './exec.ts';
import { complete, isNetns, Plugins } from './plugins.ts';
import { HostPorts } from './hostports.ts';
import type { PacketFilter } from './hostports.ts';
import { mapperOf, mapsPorts, normalised } from './ports.ts';
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

/** What STATUS of a network said last. */
interface Answer {
  readonly network: NetworkConf | undefined;
  /** '' = ready */
  readonly why: string;
  readonly at: number;
  /** When it began to fail, if it does. */
  readonly since: number;
}

/** NetworkPlugin over CNI plugins that are executed. */
export class CniNetwork implements NetworkPlugin {
  readonly #options: CniOptions;
  readonly #plugins: Plugins;
  readonly #locks = new KeyedMutex<SandboxId>();
  /** By the name of the network. */
  readonly #turns = new Map<string, Turns>();
  readonly #files: AttachmentFiles;
  readonly #conf: ConfDirs;
  readonly #ports: HostPorts;
  #ranges: readonly string[] = [];
  #closed = false;
  #status: Answer = { network: undefined, why: '', at: 0, since: 0 };
  #asking: Promise<void> | undefined;

  constructor(options: CniOptions) {
    this.#options = options;
    this.#plugins = new Plugins(options.pluginDirs, options.run ?? runPlugin);
    this.#files = new AttachmentFiles(options.cacheDir, options.log);
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
    await this.#files.clear();
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
    const missing = network.plugins.find(({ type }) => this.#plugins.find(type) === undefined);
    if (missing !== undefined) return { ok: false, why: this.#plugins.missing(network, missing) };
    const { why: trouble, since } = this.#status;
    const bad =
      this.#status.network === network && trouble !== '' && this.#now() - since >= (this.#options.statusGraceMs ?? 0);
    return bad ? { ok: false, why: trouble } : { ok: true, why: '' };
  }

  /** Chains of plugins that wait for their turn. */
  get turnsWaitingCount(): number {
    return [...this.#turns.values()].reduce((sum, { waitingCount }) => sum + waitingCount, 0);
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
      for (const plugin of network.plugins) this.#plugins.where(network, plugin);
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
        del: 'first',
      };
      const { file, turn } = await this.#begin(op, intent, pod.pinned);
      try {
        return await this.#attach(withTimeout(op, limits.cniAddMs), intent, file).finally(turn);
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
      const found = await this.#files.load(id);
      if (found === undefined || found === 'damaged' || found.result === undefined) {
        throw new RuntimeError('NotFound', `sandbox ${id} is in no CNI network`);
      }
      if (found.network.disableCheck || !atLeast(found.network.cniVersion, '0.4.0')) return;
      const bounded = withTimeout(op, limits.cniDelMs);
      for (const plugin of found.network.plugins)
        await this.#plugins.call(bounded, 'CHECK', found, plugin, found.result);
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

  list(): Promise<readonly SandboxId[]> {
    return this.#files.list();
  }

  // ---- the chain -----------------------------------------------------------------------------------------------

  async #attach(op: Op, intent: Attachment, file: FileHandle): Promise<PodNetwork> {
    let result: CniResult | undefined;
    for (const plugin of intent.network.plugins) {
      op.stage(`cni add: ${plugin.type}`);
      const { stdout } = await this.#plugins.call(op, 'ADD', intent, plugin, result);
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
    await this.#files.conclude(file, intent, final);
    await failpoint('cni.result.after');
    return pod;
  }

  /**
   * DEL after a failed ADD, beyond the caller's patience. If it fails too the file stays, and `destroy` or `gc` tries
   * again.
   */
  async #undo(op: Op, id: SandboxId): Promise<void> {
    try {
      await this.#detach(detached(op, limits.podStopMs), id);
    } catch (error) {
      op.log.warn('cannot undo a failed cni add, will retry', { sandbox: id, why: explain(error) });
    }
  }

  async #detach(op: Op, id: SandboxId): Promise<void> {
    const found = await this.#files.load(id);
    if (found === undefined) return;
    const attachment = found === 'damaged' ? this.#guess(id) : found;
    const [turn] = await Promise.all([this.#turn(op, attachment.network, 'DEL'), this.#files.leave(id)]);
    await this.#takeDown(op, attachment).finally(turn);
    await failpoint('cni.del.after');
    await this.#files.forget(id);
  }

  async #takeDown(op: Op, attachment: Attachment): Promise<void> {
    const { id } = attachment;
    // First: the addresses may be another pod's a moment after DEL.
    await this.#ports.release(op, id);
    // Plugins that were cut off may still run, and do not look for what they have taken away or made in part.
    const cutOff = attachment.result === undefined || attachment.del === 'again';
    if (cutOff) await (this.#options.endPlugins ?? endPlugins)(id);
    const netns = isNetns(attachment.netns) ? attachment.netns : '';
    const bounded = withTimeout(op, limits.cniDelMs);
    for (const plugin of attachment.network.plugins.toReversed()) {
      op.stage(`cni del: ${plugin.type}`);
      const prevResult = atLeast(attachment.network.cniVersion, '0.4.0') ? attachment.result : undefined;
      await this.#plugins.call(bounded, 'DEL', { ...attachment, netns }, plugin, prevResult);
    }
    if (netns === '' || cutOff) await this.#sweep(bounded, attachment);
  }

  /** The plugins of one network get in each other's way; making and giving back come in turn. @throws as Turns.take. */
  #turn(op: Op, { name }: NetworkConf, verb: 'ADD' | 'DEL'): Promise<Turn> {
    const turns =
      this.#turns.get(name) ?? new Turns(limits.cniChainsCount, limits.cniTurnMs, `wait for a turn of network ${name}`);
    this.#turns.set(name, turns);
    return turns.take(op, verb);
  }

  async #sweep(op: Op, { id, network }: Attachment): Promise<void> {
    try {
      await (this.#options.sweep ?? sweepNat)(op, id, network.name);
    } catch (error) {
      op.log.warn('cannot look for packet-filter rules that plugins have left of a pod, ignoring', {
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
        `${this.#files.path(id)} is damaged, and there is no CNI network to give the addresses of sandbox ` +
          `${id} back to: ${why}`,
      );
    }
    return {
      id,
      netns: '',
      args: '',
      capabilityArgs: {},
      network,
      hostPorts: undefined,
      result: undefined,
      del: 'again',
    };
  }

  /** After a crash or a reboot: who has which host port is in the cache. */
  async #recallPorts(): Promise<void> {
    if (!(await this.#ports.load())) return;
    for (const id of await this.list()) {
      const found = await this.#files.load(id);
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
        await this.#plugins.tell(withTimeout(op, limits.cniDelMs), 'GC', network, plugin, extra);
      } catch (error) {
        op.log.warn('cni gc failed, will retry', { network: network.name, why: explain(error) });
      }
    }
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
   * Writes the first line and waits for a turn; the second line follows through the same descriptor. What an earlier
   * try left is given back before.
   */
  async #begin(op: Op, intent: Attachment, pinned: Promise<unknown>): Promise<{ file: FileHandle; turn: Turn }> {
    const { id, hostPorts, network } = intent;
    const file = await this.#files.make(id);
    if (file === undefined) {
      await this.#detach(op, id);
      return await this.#begin(op, intent, pinned);
    }
    try {
      if (hostPorts !== undefined) this.#ports.reserve({ id, ...hostPorts, addresses: [] });
      await this.#files.intend(file, intent);
      await failpoint('cni.intent.after');
      await pinned;
      return { file, turn: await this.#turn(op, network, 'ADD') };
    } catch (error) {
      await this.#ports.release(op, id);
      await file.close();
      await this.#files.forget(id);
      throw error;
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
        await this.#plugins.tell(op, 'STATUS', network, plugin);
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
    const { log } = this.#options;
    // Of the words of CRI-O, for which people look.
    if (why !== '' && (before !== network || whyBefore === ''))
      log.warn('CNI plugin status check failed: the network says that it is not ready', { network: network.name, why });
    else if (why === '' && before === network && whyBefore !== '')
      log.info('CNI plugin is now healthy', { network: network.name, was: whyBefore });
  }

  #now(): number {
    return this.#options.now?.() ?? performance.now();
  }
}
