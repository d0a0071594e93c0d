/**
 * Host ports of pods whose CNI chain has no plugin for them: our table in the packet filter, changed pod by pod.
 *
 *   reserve ──▶ (the chain's ADD) ──▶ map ──▶ (the pod's life) ──▶ release
 *
 * What is in the table follows from this object's index, and the index from the CNI cache: a change is one small
 * transaction, and whenever that fails (somebody flushed the ruleset, a crash came in between), the whole table is made
 * anew in one. A file beside the cache says that there is a table, so that a node without host ports never runs nft,
 * and names the devices that `route_localnet` was switched on for, so that it is switched off again with the last port,
 * whatever happens meanwhile.
 */
import { unlink } from 'node:fs/promises';
import { errnoOf, explain, RuntimeError } from '../base/errors.ts';
import { readJson, replaceFile } from '../base/files.ts';
import type { SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { withTimeout } from '../base/op.ts';
import type { Logger, Op } from '../base/op.ts';
import { KeyedMutex } from '../base/sync.ts';
import {
  addText,
  checkFree,
  loopbackTarget,
  NO_TABLE,
  removeText,
  subnetsOf,
  TABLE,
  tableText,
  udpFlows,
  unreachable,
} from './ports.ts';
import type { PodPorts } from './ports.ts';

/** What the manager does to the node. Tests give their own. */
export interface PacketFilter {
  /** False if nft(8) is not installed. */
  readonly installed: () => boolean;
  /** Runs one transaction. @throws Internal with what nft said; FailedPrecondition if it is not installed. */
  readonly apply: (op: Op, text: string) => Promise<void>;
  /** Addresses of the node's interfaces. */
  readonly localAddresses: () => readonly string[];
  /** The device that leads to an IPv4 address. */
  readonly deviceTo: (address: string) => Promise<string | undefined>;
  /** Whether packets of 127.0.0.0/8 may pass a device; undefined if there is no such device. */
  readonly routesLocalnet: (device: string) => Promise<boolean | undefined>;
  readonly setRouteLocalnet: (device: string, value: 'on' | 'off') => Promise<void>;
  /** Forgets the UDP flows to these, so that their next packet is looked at anew. */
  readonly forgetUdp: (flows: readonly { readonly address: string; readonly port: number }[]) => Promise<void>;
}

/** What HostPorts is made with. */
export interface HostPortsOptions {
  /** The file that says that there is a table; absent without one. */
  readonly stateFile: string;
  readonly filter: PacketFilter;
  readonly log: Logger;
}

/** Host ports that no plugin maps: who has which, and the table in the kernel that leads to the pods. */
export class HostPorts {
  readonly #options: HostPortsOptions;
  readonly #pods = new Map<SandboxId, PodPorts>();
  readonly #turns = new KeyedMutex<'table'>();
  /**
   * How the table in the kernel relates to the index: 'none' = there is none; 'same'; 'old' = what a daemon before us
   * left, to be replaced when the start knows which pods live; 'unknown' = a change failed, or may have.
   */
  #table: 'none' | 'same' | 'old' | 'unknown' = 'none';
  #subnets: ReadonlySet<string> = new Set();
  /** Devices that we let packets of 127.0.0.0/8 pass. */
  #devices: readonly string[] = [];

  constructor(options: HostPortsOptions) {
    this.#options = options;
  }

  /** False where nft is missing. */
  get possible(): boolean {
    return this.#options.filter.installed();
  }

  /**
   * Reads what an earlier daemon left. True if there may be a table: then every pod of the cache is to be told by
   * `recall`, and `settle` called.
   */
  async load(): Promise<boolean> {
    const devices = await this.#readState();
    if (devices === undefined) return false;
    this.#devices = devices;
    this.#table = 'old';
    return true;
  }

  /** A pod that is on the node already. */
  recall(pod: PodPorts): void {
    this.#pods.set(pod.id, pod);
  }

  /** Makes the table that an earlier daemon left that of the pods which are left of it; content if there is none. */
  async settle(op: Op): Promise<void> {
    if (this.#table !== 'old') return;
    await this.#change(op, () => undefined);
  }

  /**
   * Takes ports for a pod, before anything is done for it.
   * @throws ResourceExhausted naming the pod that has one of them; FailedPrecondition without nft.
   */
  reserve(pod: PodPorts): void {
    if (!this.possible) throw notInstalled();
    checkFree(pod, this.#pods.values());
    this.#pods.set(pod.id, pod);
  }

  /** Maps what was reserved to the pod's addresses (with prefix lengths). @throws Internal with what nft said. */
  async map(op: Op, id: SandboxId, addresses: readonly string[]): Promise<void> {
    const reserved = this.#pods.get(id);
    if (reserved === undefined) return;
    const pod = { ...reserved, addresses };
    for (const port of unreachable(pod))
      op.log.warn('pod has no address of the family of a host port, ignoring the port', { sandbox: id, port });
    const text = addText(pod);
    if (text === '') return;
    op.stage('host ports: map');
    await this.#change(op, () => {
      this.#pods.set(id, pod);
      return [...subnetsOf([pod])].every((each) => this.#subnets.has(each)) ? text : undefined;
    });
    await this.#openLoopback(op, pod);
    await this.#forgetFlows(op, pod);
  }

  /** Gives back what a pod has; content if that is nothing. */
  async release(op: Op, id: SandboxId): Promise<void> {
    const pod = this.#pods.get(id);
    if (pod === undefined) return;
    // Nothing of it is in the table, or `settle` will make one without it.
    if (this.#table === 'old' || pod.addresses.length === 0) {
      this.#pods.delete(id);
      return;
    }
    op.stage('host ports: unmap');
    await this.#change(op, () => {
      this.#pods.delete(id);
      return removeText(pod);
    }).catch((error: unknown) => {
      // Nobody else gets the ports as long as packets for them come here.
      this.#pods.set(id, pod);
      throw error;
    });
    await this.#forgetFlows(op, pod);
  }

  // ---- the table -------------------------------------------------------------------------------------------------

  /**
   * Changes the index and the table by what `edit` returns; by a new table where it returns undefined, or the change
   * fails.
   */
  #change(op: Op, edit: () => string | undefined): Promise<void> {
    return this.#turns.run('table', async () => {
      const bounded = withTimeout(op, limits.nftMs);
      const small = edit();
      if (![...this.#pods.values()].some(({ addresses }) => addresses.length > 0)) return this.#drop(bounded);
      if (this.#table === 'same' && small !== undefined && (await this.#tried(bounded, small))) return;
      await this.#renew(bounded);
    });
  }

  async #tried(op: Op, text: string): Promise<boolean> {
    this.#table = 'unknown';
    try {
      await this.#options.filter.apply(op, text);
      this.#table = 'same';
      return true;
    } catch (error) {
      if (op.signal.aborted) throw error;
      op.log.warn('the table of host ports was not as expected, making it anew', { table: TABLE, why: explain(error) });
      return false;
    }
  }

  async #renew(op: Op): Promise<void> {
    const pods = [...this.#pods.values()];
    const first = this.#table === 'none';
    if (first) await this.#writeState();
    this.#table = 'unknown';
    try {
      await this.#options.filter.apply(op, tableText(pods));
    } catch (error) {
      // A transaction that was refused changed nothing: a kernel that cannot do this at all is not asked to undo it.
      if (first && !op.signal.aborted) await this.#forgetTable();
      throw error;
    }
    this.#subnets = subnetsOf(pods);
    this.#table = 'same';
  }

  async #drop(op: Op): Promise<void> {
    if (this.#table === 'none') return;
    this.#table = 'unknown';
    await this.#options.filter.apply(op, NO_TABLE);
    await this.#closeLoopback();
    await this.#forgetTable();
  }

  async #forgetTable(): Promise<void> {
    await this.#removeState();
    this.#table = 'none';
  }

  // ---- 127.0.0.0/8 -----------------------------------------------------------------------------------------------

  async #openLoopback(op: Op, pod: PodPorts): Promise<void> {
    const address = loopbackTarget(pod);
    if (address === undefined) return;
    const { filter } = this.#options;
    try {
      const device = await filter.deviceTo(address);
      if (device === undefined) throw new RuntimeError('NotFound', `no route leads to ${address}`);
      await this.#turns.run('table', async () => {
        if ((await filter.routesLocalnet(device)) !== false) return;
        await this.#writeState(device);
        await filter.setRouteLocalnet(device, 'on');
      });
    } catch (error) {
      op.log.warn('host ports of a pod cannot be reached at 127.0.0.1, going on without that', {
        sandbox: pod.id,
        why: explain(error),
      });
    }
  }

  async #closeLoopback(): Promise<void> {
    for (const device of this.#devices) {
      // The device may be gone with its last pod.
      if ((await this.#options.filter.routesLocalnet(device)) === true)
        await this.#options.filter.setRouteLocalnet(device, 'off');
    }
    this.#devices = [];
  }

  async #forgetFlows(op: Op, pod: PodPorts): Promise<void> {
    const all = udpFlows(pod.mappings, this.#options.filter.localAddresses());
    const flows = [...all.take(limits.udpFlowEndsCount)];
    if (flows.length === 0) return;
    if (flows.length === limits.udpFlowEndsCount)
      op.log.warn(
        'a pod has more host ports on more addresses of the node than flows are forgotten for: some that were open ' +
          'before may go astray until they pause',
        { sandbox: pod.id },
      );
    try {
      await this.#options.filter.forgetUdp(flows);
    } catch (error) {
      op.log.warn(
        'cannot make the kernel forget UDP flows to host ports: those that were open before may go ' +
          'astray until they pause',
        { sandbox: pod.id, why: explain(error) },
      );
    }
  }

  // ---- the file --------------------------------------------------------------------------------------------------

  /** The devices; undefined without a file. A file that cannot be read stands for a table, too. */
  async #readState(): Promise<readonly string[] | undefined> {
    const { stateFile, log } = this.#options;
    try {
      const { routeLocalnet } = (await readJson(stateFile, limits.hostPortsFileBytes)) as {
        readonly routeLocalnet?: unknown;
      };
      return Array.isArray(routeLocalnet) ? routeLocalnet.filter((each) => typeof each === 'string') : [];
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      log.warn('damaged file of host ports, going on without it', { path: stateFile, why: explain(error) });
      return [];
    }
  }

  /** Before what it says becomes true. */
  async #writeState(device?: string): Promise<void> {
    const { stateFile, filter } = this.#options;
    const known = device === undefined || this.#devices.includes(device) ? this.#devices : [...this.#devices, device];
    const alive = await Promise.all(known.map(async (each) => (await filter.routesLocalnet(each)) !== undefined));
    this.#devices = known.filter((_, i) => alive[i]);
    await replaceFile(
      stateFile,
      `${JSON.stringify({ version: 1, table: TABLE, routeLocalnet: this.#devices })}\n`,
      'volatile',
    );
  }

  async #removeState(): Promise<void> {
    try {
      await unlink(this.#options.stateFile);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  }
}

/** What is to be said where nft is wanted and is not there. */
export function notInstalled(): RuntimeError {
  return new RuntimeError(
    'FailedPrecondition',
    'no plugin of the CNI chain maps host ports, and nft, with which Berth would, is not in ' +
      'PATH: install the package nftables, or add portmap (capability portMappings) to the chain',
  );
}
