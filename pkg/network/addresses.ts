/** Addresses and subnets as text, and the network that a node without one gets. PURE. */

/**
 * Subnets for our own bridge, tried in this order. 10.85 is CRI-O's example, 10.88 podman's, 172.17 docker's: not among
 * them.
 */
const OWN_SUBNETS = ['10.89.128.0/17', '10.201.0.0/16', '172.29.0.0/16', '192.168.208.0/20'] as const;

/**
 * The first of our subnets that overlaps none of `used` (CIDRs of the node's interfaces and routes; IPv6 and the
 * default route do not count).
 */
export function freeSubnet(used: readonly string[]): string {
  const taken = used
    .map(rangeOf)
    .filter((each) => each !== undefined)
    .filter(([low, high]) => high - low < 2 ** 31);
  const free = OWN_SUBNETS.find((subnet) => {
    const [low = 0, high = 0] = rangeOf(subnet) ?? [];
    return taken.every(([from, to]) => to < low || from > high);
  });
  return free ?? OWN_SUBNETS[0];
}

function rangeOf(cidr: string): readonly [number, number] | undefined {
  const match = /^([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)\/([0-9]+)$/.exec(cidr);
  if (match === null) return undefined;
  const [a = 0, b = 0, c = 0, d = 0, prefix = 0] = match.slice(1).map(Number);
  const size = 2 ** (32 - prefix);
  const low = Math.floor((((a * 256 + b) * 256 + c) * 256 + d) / size) * size;
  return [low, low + size - 1];
}

/** What the conflist of a node without one is made from. */
export interface DefaultConflistOptions {
  /** Directory for host-local's leases; on disk, in Berth's root. */
  readonly dataDir: string;
  /** Bridge on the node; at most 15 characters. */
  readonly bridge?: string;
  /** One or two subnets, IPv4 and IPv6; the pod gets an address of each. */
  readonly subnets: readonly string[];
}

/** The conflist for a node that has none: bridge, host-local, portmap. Text of a file. */
export function defaultConflist({ dataDir, bridge = 'berth0', subnets }: DefaultConflistOptions): string {
  const routes = subnets.map((subnet) => ({ dst: subnet.includes(':') ? '::/0' : '0.0.0.0/0' }));
  const ipam = { type: 'host-local', dataDir, ranges: subnets.map((subnet) => [{ subnet }]), routes };
  const conflist = {
    cniVersion: '1.0.0',
    name: 'berth',
    plugins: [
      { type: 'bridge', bridge, isGateway: true, ipMasq: true, hairpinMode: true, ipam },
      { type: 'portmap', capabilities: { portMappings: true }, snat: true },
    ],
  };
  return `${JSON.stringify(conflist, undefined, 2)}\n`;
}

/** 4 or 6 for the text of an address, undefined for anything else (also one with a zone). */
export function familyOf(address: string): 4 | 6 | undefined {
  if (isIpv4(address)) return 4;
  if (address.length > 45) return undefined;
  // The last two groups may be written as an IPv4 address.
  const last = address.slice(address.lastIndexOf(':') + 1);
  const text = isIpv4(last) ? `${address.slice(0, -last.length)}0:0` : address;
  const halves = text.split('::');
  const groups = halves.flatMap((each) => (each === '' ? [] : each.split(':')));
  if (halves.length > 2 || !groups.every((each) => /^[0-9a-fA-F]{1,4}$/.test(each))) return undefined;
  return (halves.length === 2 ? groups.length < 8 : groups.length === 8) ? 6 : undefined;
}

function isIpv4(text: string): boolean {
  const octets = /^([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})$/.exec(text);
  return octets !== null && octets.slice(1).every((each) => Number(each) <= 255);
}
