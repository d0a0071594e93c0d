/**
 * Host ports as data: who maps them, which of them exclude each other, and what nft(8) is told. PURE.
 *
 * One table of our own. The path of a packet in it does not depend on how many pods there are: a look-up by address,
 * one by port alone, both in hashes; only where the answer to a pod's neighbours goes, there is a rule for each of
 * their subnets.
 *
 *   prerouting, output:  to an address of the node ──▶ at4/at6 (one address), any4/any6 (all) ──▶ pod address . port
 *   postrouting:         back to the pod itself, to a neighbour, from 127.0.0.0/8 ──▶ masquerade
 *                        (the answer must pass here, too)
 *   input:               127.0.0.0/8 from outside is dropped: `route_localnet`, which 127.0.0.1 needs, would let it
 *                        in (CVE-2020-8558)
 *
 * We come after kube-proxy and other CNI plugins (priority 10 behind theirs): a host port takes no traffic of a service
 * (CVE-2019-9946).
 */
import { RuntimeError } from '../base/errors.ts';
import type { SandboxId } from '../base/ids.ts';
import { familyOf } from './addresses.ts';
import type { NetworkConf } from './conf.ts';
import type { PortMapping } from '../ports/network.ts';

/** What one pod has of the node's ports. */
export interface PodPorts {
  readonly id: SandboxId;
  /** `namespace/name`, for those who meet it in an error. */
  readonly pod: string;
  /** As normalised returns them. */
  readonly mappings: readonly PortMapping[];
  /**
   * The pod's addresses with prefix length; of each family the first counts. None yet: ports are reserved, nothing is
   * mapped.
   */
  readonly addresses: readonly string[];
}

type Family = 4 | 6;
const FAMILIES: readonly Family[] = [4, 6];

/** The table's family and name: everything that is ours, and nothing else, is in it. */
export const TABLE = 'inet berth_hostport';

/** Who maps a pod's host ports: a plugin of the chain that says it can, else Berth. 'nobody' if there are none. */
export function mapperOf(network: NetworkConf, mappings: readonly PortMapping[]): 'nobody' | 'plugin' | 'berth' {
  if (mappings.length === 0) return 'nobody';
  return mapsPorts(network) ? 'plugin' : 'berth';
}

/** True if a plugin of the chain maps host ports. */
export function mapsPorts(network: NetworkConf): boolean {
  return network.plugins.some(({ capabilities }) => capabilities.has('portMappings'));
}

/**
 * The mappings one by one: without a host IP for each family, addresses in one spelling, none twice.
 * @throws InvalidArgument if one host port is to lead to two places.
 */
export function normalised(mappings: readonly PortMapping[]): PortMapping[] {
  const found = new Map<string, PortMapping>();
  for (const each of mappings) {
    for (const hostIp of each.hostIp === '' ? [ALL_IPV4, ALL_IPV6] : [spelt(bytesOf(each.hostIp))]) {
      const key = `${each.protocol} ${each.hostPort} ${hostIp}`;
      const other = found.get(key);
      if (other !== undefined && other.containerPort !== each.containerPort) {
        throw new RuntimeError(
          'InvalidArgument',
          `${nameOf(other)} is to lead to the container ports ${other.containerPort} and ` +
            `${each.containerPort}; give one of them another host port`,
        );
      }
      found.set(key, { ...each, hostIp });
    }
  }
  return [...found.values()];
}

/**
 * @throws ResourceExhausted when a port that `mine` wants is another pod's, on the same address, or for one of them on
 * all.
 */
export function checkFree(mine: PodPorts, all: Iterable<PodPorts>): void {
  const ports = new Set(mine.mappings.map(({ hostPort }) => hostPort));
  const wanted = new Map<string, PortMapping>();
  for (const each of mine.mappings) {
    wanted.set(placeOf(each, each.hostIp), each);
    wanted.set(placeOf(each, `any of ${allOf(each)}`), each);
  }
  for (const other of all) {
    if (other.id === mine.id) continue;
    for (const theirs of other.mappings) {
      if (!ports.has(theirs.hostPort)) continue;
      const places = [theirs.hostIp, allOf(theirs), ...(isAll(theirs) ? [`any of ${theirs.hostIp}`] : [])];
      const clash = places.map((each) => wanted.get(placeOf(theirs, each))).find((each) => each !== undefined);
      if (clash !== undefined) {
        throw new RuntimeError(
          'ResourceExhausted',
          `${nameOf(clash)} is taken by pod ${other.pod} (${nameOf(theirs)}, sandbox ${other.id}); ` +
            'remove that pod, or give one of the two another host port or host IP',
        );
      }
    }
  }
}

function placeOf({ protocol, hostPort }: PortMapping, address: string): string {
  return `${protocol} ${hostPort} ${address}`;
}

/** All addresses of the family of a mapping. */
function allOf({ hostIp }: PortMapping): string {
  return hostIp.includes(':') ? ALL_IPV6 : ALL_IPV4;
}

function isAll({ hostIp }: PortMapping): boolean {
  return hostIp === ALL_IPV4 || hostIp === ALL_IPV6;
}

/** `host port 53/udp`, with its address if it is for one only. */
export function nameOf(mapping: PortMapping): string {
  return `host port ${mapping.hostPort}/${mapping.protocol}${isAll(mapping) ? '' : ` on ${mapping.hostIp}`}`;
}

/** Ports that lead nowhere, as the pod has no address of the family of their host IP. */
export function unreachable({ mappings, addresses }: PodPorts): string[] {
  const leads = ({ hostIp }: PortMapping): boolean =>
    addresses.some((each) => familyOf(each.split('/')[0] ?? '') === familyOf(hostIp));
  const ports = Map.groupBy(mappings, ({ protocol, hostPort }) => `${protocol} ${hostPort}`);
  return [...ports.values()].flatMap((each) => (each[0] === undefined || each.some(leads) ? [] : [nameOf(each[0])]));
}

/**
 * The pod's IPv4 address if one of its ports is to be had at 127.0.0.1 (or another of 127.0.0.0/8): the kernel has to
 * be told that this may leave the node.
 */
export function loopbackTarget({ mappings, addresses }: PodPorts): string | undefined {
  const wanted = mappings.some(({ hostIp }) => hostIp === ALL_IPV4 || /^127\.[0-9.]+$/.test(hostIp));
  return wanted ? addressOf(addresses, 4) : undefined;
}

/** Address and port of UDP flows whose fate changes with these mappings. `local`: the node's addresses. */
export function* udpFlows(
  mappings: readonly PortMapping[],
  local: readonly string[],
): Generator<{ readonly address: string; readonly port: number }, void, void> {
  const byFamily = Map.groupBy(local, (address) => familyOf(address));
  for (const mapping of mappings) {
    if (mapping.protocol !== 'udp') continue;
    const addresses = isAll(mapping) ? (byFamily.get(familyOf(mapping.hostIp)) ?? []) : [mapping.hostIp];
    for (const address of addresses) yield { address, port: mapping.hostPort };
  }
}

// ---- nft ---------------------------------------------------------------------------------------------------------

/**
 * Replaces our table, whatever it holds, by one with these pods; in one transaction, so that no packet finds it half
 * done.
 */
export function tableText(pods: readonly PodPorts[]): string {
  const mapped = pods.filter(({ addresses }) => addresses.length > 0);
  return [
    NO_TABLE,
    skeleton([...subnetsOf(mapped)]),
    ...mapped.flatMap((pod) => elementsOf(pod).map((each) => addElement('add', pod, each))),
    '',
  ].join('\n');
}

/** Removes our table; content if there is none. */
export const NO_TABLE = `add table ${TABLE}\ndelete table ${TABLE}`;

/** Adds one pod to the table. Fails as a whole if the table is not there or holds one of its ports. */
export function addText(pod: PodPorts): string {
  return elementsOf(pod)
    .map((each) => `${addElement('create', pod, each)}\n`)
    .join('');
}

/** Removes one pod from the table. Fails as a whole if something of it is not there. */
export function removeText(pod: PodPorts): string {
  return elementsOf(pod)
    .map(({ set, key }) => `delete element ${TABLE} ${set} { ${key} }\n`)
    .join('');
}

interface Element {
  readonly set: string;
  readonly key: string;
  /** Absent in a set. */
  readonly value?: string;
}

function elementsOf({ mappings, addresses }: PodPorts): Element[] {
  return FAMILIES.flatMap((family) => {
    const address = addressOf(addresses, family);
    const mine = mappings.filter(({ hostIp }) => familyOf(hostIp) === family);
    if (address === undefined || mine.length === 0) return [];
    const ports = mine.map((mapping) => {
      const port = `${mapping.protocol} . ${mapping.hostPort}`;
      const place = isAll(mapping)
        ? { set: `any${family}`, key: port }
        : { set: `at${family}`, key: `${mapping.hostIp} . ${port}` };
      return { ...place, value: `${address} . ${mapping.containerPort}` };
    });
    return [...ports, { set: `pods${family}`, key: `${address} . ${address}` }];
  });
}

/** The sandbox's id as comment: for those who look at the table and want to know whose that is. */
function addElement(verb: 'add' | 'create', { id }: PodPorts, { set, key, value }: Element): string {
  return `${verb} element ${TABLE} ${set} { ${key} comment "${id}"${value === undefined ? '' : ` : ${value}`} }`;
}

/**
 * Subnets of pods, whose members reach each other past the node's own IP stack: there the answer to a DNAT would not be
 * turned back.
 */
export function subnetsOf(pods: readonly PodPorts[]): Set<string> {
  const cidrs = pods.flatMap(({ addresses }) => FAMILIES.flatMap((family) => cidrOf(addresses, family) ?? []));
  return new Set(cidrs.map(subnetOf).filter((subnet) => !ALONE.test(subnet)));
}

/** A subnet of one address. */
const ALONE = /^[0-9.]+\/32$|:.*\/128$/;

function skeleton(subnets: readonly string[]): string {
  const near = subnets.map((subnet) => {
    const [ip, pods] = subnet.includes(':') ? ['ip6', 'pods6'] : ['ip', 'pods4'];
    return `    ${ip} saddr ${subnet} ${ip} daddr . ${ip} daddr @${pods} masquerade`;
  });
  return `table ${TABLE} {
  comment "host ports of pods, kept by Berth"
  map any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
  map any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
  map at4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
  map at6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
  set pods4 { type ipv4_addr . ipv4_addr; }
  set pods6 { type ipv6_addr . ipv6_addr; }
  chain ports {
    dnat ip to ip daddr . meta l4proto . th dport map @at4
    dnat ip to meta l4proto . th dport map @any4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
    dnat ip6 to meta l4proto . th dport map @any6
  }
  chain prerouting {
    type nat hook prerouting priority -90;
    ip daddr 127.0.0.0/8 return
    fib daddr type local goto ports
  }
  chain output {
    type nat hook output priority -90;
    ip6 daddr ::1 return
    fib daddr type local goto ports
  }
  chain postrouting {
    type nat hook postrouting priority 90;
    ct status & dnat != dnat return
    ip saddr . ip daddr @pods4 masquerade
    ip6 saddr . ip6 daddr @pods6 masquerade
    ip saddr 127.0.0.0/8 ip daddr . ip daddr @pods4 masquerade
${near.map((line) => `${line}\n`).join('')}  }
  chain input {
    type filter hook input priority -10;
    iif != "lo" ip daddr 127.0.0.0/8 ct state != { established, related } drop
  }
}`;
}

// ---- addresses ---------------------------------------------------------------------------------------------------

function cidrOf(addresses: readonly string[], family: Family): string | undefined {
  return addresses.find((each) => familyOf(each.split('/')[0] ?? '') === family);
}

function addressOf(addresses: readonly string[], family: Family): string | undefined {
  const cidr = cidrOf(addresses, family);
  return cidr === undefined ? undefined : spelt(bytesOf(cidr.split('/')[0] ?? ''));
}

/** 4 or 16 bytes of the text of an address. @throws InvalidArgument */
function bytesOf(address: string): number[] {
  const family = familyOf(address);
  if (family === 4) return address.split('.').map(Number);
  if (family === undefined)
    throw new RuntimeError('InvalidArgument', `${JSON.stringify(address.slice(0, 60))} is no IP address`);
  const last = address.slice(address.lastIndexOf(':') + 1);
  const tail = last.includes('.') ? bytesOf(last) : [];
  const [before = '', after] = (
    tail.length === 0 ? address : address.slice(0, -last.length).replace(/([^:]):$/, '$1')
  ).split('::');
  const groups = (text: string): number[] =>
    text
      .split(':')
      .flatMap((each) => (each === '' ? [] : [Number.parseInt(each, 16) >> 8, Number.parseInt(each, 16) & 255]));
  const head = groups(before);
  const end = [...groups(after ?? ''), ...tail];
  return [...head, ...Array.from({ length: 16 - head.length - end.length }, () => 0), ...end];
}

/** The one spelling that we compare: nft and the kernel read any. */
function spelt(bytes: readonly number[]): string {
  if (bytes.length === 4) return bytes.join('.');
  return Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] ?? 0) * 256 + (bytes[2 * i + 1] ?? 0)).toString(16)).join(
    ':',
  );
}

const ALL_IPV4 = '0.0.0.0';
const ALL_IPV6 = '0:0:0:0:0:0:0:0';

function subnetOf(cidr: string): string {
  const [address = '', length = ''] = cidr.split('/');
  const bits = Number(length);
  const bytes = bytesOf(address).map((byte, i) => byte & (0xff00 >> Math.min(8, Math.max(0, bits - 8 * i))) & 0xff);
  return `${spelt(bytes)}/${bits}`;
}
