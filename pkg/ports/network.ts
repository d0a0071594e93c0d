/**
 * The port of the pod network: CNI seen from a pod.
 */
import type { SandboxId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';

/** The networks of pods: made once per pod, given back by the id alone, also after any crash. */
export interface NetworkPlugin {
  /** Watches the configuration directory. Call once. */
  start(op: Op): Promise<void>;
  close(): Promise<void>;
  /**
   * Drives Status.NetworkReady; `why` is what users see ("cni config uninitialized: no *.conflist in /etc/cni/net.d").
   */
  readonly ready: { readonly ok: boolean; readonly why: string };
  /** The network that pods join now, for people; undefined while there is none. */
  readonly inUse: NetworkInUse | undefined;
  /**
   * Runs the chain's ADD for a pod. Waits for a configuration (inotify) as long as `op` allows. Undoes itself (DEL)
   * when a plugin fails.
   * @throws Unavailable when there is no configuration by the deadline, DeadlineExceeded naming the plugin that hangs
   * (its process group is killed), Internal with the plugin's own message.
   */
  add(op: Op, pod: PodNetworkRequest): Promise<PodNetwork>;
  /**
   * Subnets from which plugins with the ipRanges capability give addresses from now on, one per family. Kept for later
   * daemons.
   */
  setPodRanges(subnets: readonly string[]): Promise<void>;
  /**
   * CNI DEL from the cache, also when the netns is gone (then with an empty CNI_NETNS); content if never added. Tries
   * again later by being called again.
   */
  destroy(op: Op, id: SandboxId): Promise<void>;
  /** CNI CHECK from the cache where the configuration allows it; undefined cache = NotFound. */
  check(op: Op, id: SandboxId): Promise<void>;
  /**
   * DEL for every cached id that is not in `live`; CNI GC for configurations of 1.1. Failures are logged and tried
   * again next time.
   */
  gc(op: Op, live: readonly SandboxId[]): Promise<void>;
  /** Ids in the cache. */
  list(): Promise<readonly SandboxId[]>;
}

/** The network that new pods join, and where it is configured. */
export interface NetworkInUse {
  readonly name: string;
  /** Where it is configured. */
  readonly file: string;
  /** The version of the CNI specification that its plugins are spoken to in. */
  readonly cniVersion: string;
  /** Types of its plugins, in the order of ADD. */
  readonly plugins: readonly string[];
  /** Who maps host ports: one of the plugins, Berth itself by nftables, or nobody, as it cannot. */
  readonly hostPorts: 'plugin' | 'berth' | 'nobody';
}

/** What a pod wants of its network; `id` is the key by which all of it is given back. */
export interface PodNetworkRequest {
  readonly id: SandboxId;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  /** Path of the pinned network namespace. */
  readonly netns: string;
  /** Resolves when it is there. If it rejects, so does `add`, and nothing was done. */
  readonly pinned: Promise<unknown>;
  readonly portMappings: readonly PortMapping[];
  readonly annotations: Readonly<Record<string, string>>;
  /** cgroup parent of the pod, for plugins with the cgroupPath capability; '' if none. */
  readonly cgroupPath: string;
  readonly dns: {
    readonly servers: readonly string[];
    readonly searches: readonly string[];
    readonly options: readonly string[];
  };
  /** Hardware address for plugins with the mac capability. */
  readonly mac?: string;
  /** Further names for plugins with the aliases capability. */
  readonly aliases?: readonly string[];
}

/** One port of the host that leads to a port of the pod. */
export interface PortMapping {
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  readonly containerPort: number;
  /** 1-65535; entries without a host port are left out before. */
  readonly hostPort: number;
  /** '' = all addresses. */
  readonly hostIp: string;
}

/** What a pod got: the answer of the last plugin of the chain (CNI 1.1, section 5). */
export interface PodNetwork {
  /** The pod's addresses without prefix length, the primary one first (first family of the result). */
  readonly ips: readonly string[];
  /** The interface in the pod (`eth0`). */
  readonly interfaceName: string;
}
