/** How plugins are run and directories watched on a real node: through pkg/sys. Tests of the chain give their own. */
import { RuntimeError } from '../base/errors.ts';
import type { SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { capture, findExecutable, inheritedEnv, killByEnvironment, network, watchDirectory } from '../sys/index.ts';
import { withoutRulesOf } from './nat-rules.ts';
import { notInstalled } from './hostports.ts';
import type { PacketFilter } from './hostports.ts';

/** One call of one plugin. */
export interface PluginRun {
  /** Absolute path of the plugin. */
  readonly path: string;
  /** The CNI_ variables; the daemon's own environment (PATH, proxies) is added. */
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: string;
}

/** How a plugin ended, and what it said. */
export interface PluginOutput {
  /** 0-255; 128 + signal when killed by one. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  /** stdout had more than limits.cniResultBytes. */
  readonly cut: boolean;
}

/**
 * Runs a plugin to its end; any exit code is an answer. When `op.signal` fires its process group is killed.
 * @throws DeadlineExceeded or Cancelled then; NotFound or PermissionDenied when it cannot be executed.
 */
export type RunPlugin = (op: Op, run: PluginRun) => Promise<PluginOutput>;

/** Calls back after every change in a directory. @throws when it cannot be watched (NotFound if absent). */
export type WatchDirectory = (path: string, onChange: () => void) => { close(): void };

/** As a child process, in a process group of its own. */
export const runPlugin: RunPlugin = async (op, { path, env, stdin }) => {
  const ended = await capture(op, {
    argv: [path],
    env: inheritedEnv(env),
    stdin,
    stdoutMax: limits.cniResultBytes,
    stderrMax: limits.commandErrorBytes,
    what: `CNI plugin ${path}`,
  });
  return {
    exitCode: ended.exitCode,
    stdout: ended.stdout.toString('utf8'),
    stderr: ended.stderr.toString('utf8'),
    cut: ended.stdoutCut,
  };
};

/** By inotify. */
export const watchWithInotify: WatchDirectory = (path, onChange) => watchDirectory(path, onChange);

/**
 * Removes what plugins leave in the nat table when DEL finds no network namespace, or no link because an ADD or a DEL
 * was cut off: the bridge plugin then returns before it takes its masquerading down. Only rules that carry the pod's id
 * are touched, and the chain that is called by it; content without iptables.
 */
export type SweepRules = (op: Op, id: SandboxId, network: string) => Promise<void>;

/** By iptables-save and iptables-restore, for both families. */
export const sweepNat: SweepRules = async (op, id, network) => {
  for (const tool of ['iptables', 'ip6tables']) {
    if (findExecutable(`${tool}-save`) === undefined) continue;
    const restore = withoutRulesOf({ id, network }, await output(op, [`${tool}-save`, '-t', 'nat']));
    if (restore !== '') await output(op, [`${tool}-restore`, '--noflush', '-w', '10'], restore);
  }
};

/**
 * Ends plugins that a daemon before us started for a pod and that still run: their call and our DEL must not overlap.
 * They are known by the CNI_CONTAINERID in their environment.
 */
export type EndPlugins = (id: SandboxId) => Promise<void>;

/** By SIGKILL, with all that they started. */
export const endPlugins: EndPlugins = async (id) => {
  await killByEnvironment(`CNI_CONTAINERID=${id}`);
};

/** nft(8), looked up along PATH each time: it may be installed while we run. */
export const nodeFilter: PacketFilter = {
  installed: () => findExecutable('nft') !== undefined,
  async apply(op, text) {
    const nft = findExecutable('nft');
    if (nft === undefined) throw notInstalled();
    await output(op, [nft, '-f', '-'], text);
  },
  localAddresses: network.localAddresses,
  deviceTo: network.deviceTo,
  routesLocalnet: network.routesLocalnet,
  setRouteLocalnet: network.setRouteLocalnet,
  async forgetUdp(flows) {
    await network.forgetUdp(flows);
  },
};

async function output(op: Op, argv: readonly [string, ...string[]], stdin?: string): Promise<string> {
  const ended = await capture(op, {
    argv,
    stdin,
    stdoutMax: limits.natRulesBytes,
    stderrMax: limits.commandErrorBytes,
  });
  if (ended.exitCode !== 0)
    throw new RuntimeError('Internal', `${argv.join(' ')} failed: ${ended.stderr.toString('utf8').trim()}`);
  return ended.stdout.toString('utf8');
}
