/**
 * What a node holds beside what its daemon lists: whatever belongs to no sandbox and no container is a leak, and so is
 * a record, a name, an address, a rule or a process too many or too few (docs/RELIABILITY.md).
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Container, PodSandbox } from '../../pkg/cri-api/types.ts';
import { descriptorsOf, mountsBelow, type TestNode } from './harness.ts';
import { cgroupsLeft } from './node-cgroups.ts';

const ID = /[0-9a-f]{64}/;
/** The label of a container by which its process is found: the last but some of the words of its command line. */
export const MARK = 'mark';
/** Descriptors of a daemon with nothing to look after, and at most so many more for each sandbox and container. */
const FDS_BASE = 90;
const FDS_EACH = 14;

interface Process {
  readonly pid: string;
  readonly words: readonly string[];
}

/** What must not be, a line each; asked again until it is empty, since a daemon cleans up behind its answers, too. */
export async function strays(node: TestNode, seen: ReadonlySet<string>): Promise<string[]> {
  const { items: pods } = await node.cri.rpc.listPodSandbox();
  const { containers } = await node.cri.rpc.listContainers();
  const podIds = new Set(pods.map(({ id }) => id));
  const ids = new Set([...podIds, ...containers.map(({ id }) => id)]);
  const ready = pods.filter(({ state }) => state === 'SANDBOX_READY').map(({ id }) => id);
  const processes = commandLines();
  const stray = (what: string, text: string, known: ReadonlySet<string>): string[] => {
    const id = ID.exec(text)?.[0];
    return id === undefined || known.has(id) ? [] : [`${what} of nobody: ${text}`];
  };
  const names = (path: string): string[] => (existsSync(join(node.dir, path)) ? readdirSync(join(node.dir, path)) : []);
  return [
    ...twice(pods, containers),
    ...lacking('run/sandboxes', names('run/sandboxes'), podIds),
    ...lacking('run/containers', names('run/containers'), new Set(containers.map(({ id }) => id))),
    // An infra container has the id of its sandbox.
    ...['run/sandboxes', 'run/containers', 'run/ns', 'run/exits', 'root/rootfs', 'root/cni'].flatMap((path) =>
      names(path).flatMap((name) => stray(path, name, ids)),
    ),
    ...names('run/damaged').map((name) => `a damaged record: ${name}`),
    ...names('root/rootfs').filter((name) => name.startsWith('.')),
    ...names('root/layers')
      .filter((name) => name.startsWith('.tmp-'))
      .map((name) => `a layer half there: ${name}`),
    ...mountsBelow(node.dir).flatMap((path) => stray('mount', path, ids)),
    ...cgroups(seen).flatMap((path) => stray('cgroup', basename(path), ids)),
    ...addresses(node, podIds, ready),
    // The former has our own rules, the latter the comments by which those of plugins are known.
    ...[tell('nft', ['list', 'ruleset']), tell('iptables-save', ['-t', 'nat'])]
      .flatMap((rules) => rules.split('\n'))
      .flatMap((line) => stray('rule', line.trim(), podIds)),
    ...processes
      .filter(({ words }) => words.some((word) => word.includes(node.dir)))
      .flatMap(({ pid, words }) => stray(`process ${pid}`, words.join(' '), ids)),
    ...containers.flatMap((each) => instances(each, processes)),
    ...(await descriptors(node, ids.size)),
  ];
}

/**
 * What is left of rules once there are no pods: the chain in which the plugin bridge masquerades for a pod, chains of a
 * pod's host ports that hold rules, and our own table.
 */
export function ruleRemains(): string[] {
  const chain = /(chain CNI-(?:DN-|SN-)?[0-9a-f]{8,}|table \w+ berth_hostport) \{([^}]*)\}?/g;
  return [...tell('nft', ['list', 'ruleset']).matchAll(chain)]
    .filter(([, name = '', rules = '']) => !/ CNI-(?:DN|SN)-/.test(name) || rules.trim() !== '')
    .map(([, name = '']) => `rule: ${name}`);
}

/** Sandboxes or containers that share a name: two that the kubelet takes for one. */
function twice(pods: readonly PodSandbox[], containers: readonly Container[]): string[] {
  const keys = [
    ...pods.map(({ metadata }) => `sandbox ${metadata?.name} ${metadata?.uid} ${metadata?.attempt}`),
    ...containers.map(
      ({ metadata, podSandboxId }) => `container ${podSandboxId} ${metadata?.name} ${metadata?.attempt}`,
    ),
  ];
  return keys.filter((key, at) => keys.indexOf(key) !== at).map((key) => `a name twice: ${key}`);
}

function lacking(what: string, found: readonly string[], known: ReadonlySet<string>): string[] {
  return [...known].filter((each) => !found.includes(each)).map((each) => `${what} lacks ${each}`);
}

/** Addresses and links: one each for a sandbox that is ready, none for others' but what their stop still gives back. */
function addresses(node: TestNode, pods: ReadonlySet<string>, ready: readonly string[]): string[] {
  const directory = join(node.dir, 'ipam/berth');
  const owners = (existsSync(directory) ? readdirSync(directory) : [])
    .filter((name) => /^\d+\.\d+\.\d+\.\d+$/.test(name))
    .map((name) => readFileSync(join(directory, name), 'utf8').split('\n')[0]?.trim() ?? '');
  const links = tell('ip', ['-o', 'link', 'show', 'master', node.bridge])
    .split('\n')
    .filter((line) => line !== '');
  return [
    ...owners.filter((id) => !pods.has(id)).map((id) => `an address of nobody: ${id}`),
    ...owners.filter((id, at) => owners.indexOf(id) !== at).map((id) => `two addresses for ${id}`),
    ...ready.filter((id) => !owners.includes(id)).map((id) => `no address for ${id}`),
    // A stop that was cut off may have taken the link and not the address: the kubelet will ask for it again.
    ...(links.length >= ready.length && links.length <= owners.length
      ? []
      : [`${links.length} links for ${ready.length} sandboxes that are ready and ${owners.length} addresses`]),
  ];
}

/** cgroups of pods whose id has been seen on this node, with those in them: the hierarchies are the machine's. */
function cgroups(seen: ReadonlySet<string>): string[] {
  return cgroupsLeft((id) => seen.has(id)).flatMap((path) => [
    path,
    ...readdirSync(path, { withFileTypes: true })
      .filter((each) => each.isDirectory())
      .map((each) => join(path, each.name)),
  ]);
}

/** A container that runs is there once; one that does not, not at all. */
function instances({ id, state, labels }: Container, processes: readonly Process[]): string[] {
  const mark = labels[MARK];
  if (mark === undefined) return [];
  const count = processes.filter(({ words }) => words.includes(mark)).length;
  const right = state === 'CONTAINER_RUNNING' ? 1 : 0;
  return count === right ? [] : [`${count} processes of ${id} (${mark}), which is ${state}`];
}

/** The command line of every process but this one. */
export function commandLines(): Process[] {
  const found: Process[] = [];
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
    try {
      found.push({ pid, words: readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0') });
    } catch {
      // It has ended meanwhile.
    }
  }
  return found;
}

async function descriptors(node: TestNode, objects: number): Promise<string[]> {
  const count = await descriptorsOf(node.pid);
  const most = FDS_BASE + FDS_EACH * objects;
  return count <= most ? [] : [`${count} descriptors of the daemon for ${objects} objects; at most ${most} is right`];
}

function tell(command: string, args: readonly string[]): string {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  } catch {
    return '';
  }
}
