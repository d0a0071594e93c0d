/**
 * The node's own network, as far as host ports need it: addresses, the way to a pod, and what the kernel remembers of
 * UDP.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { endianness, networkInterfaces } from 'node:os';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { attemptAsync } from './addon.ts';

/** Addresses of all interfaces that are up, without prefix length or zone. */
export function localAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((each) => each ?? [])
    .map(({ address }) => address.replace(/%.*$/, ''));
}

/**
 * The device by which the main routing table reaches an IPv4 address; undefined if it does not, or by its default route
 * only.
 */
export async function deviceTo(address: string): Promise<string | undefined> {
  return parseDeviceTo(await readFile('/proc/self/net/route', 'utf8'), address, endianness());
}

const RTF_UP = 0x1;
const RTF_REJECT = 0x200;

/**
 * PURE. The same from /proc/net/route: columns device, destination, gateway, flags, …, mask, …; addresses are memory
 * printed as a number (proc_net(5)). The longest mask wins.
 */
export function parseDeviceTo(routes: string, address: string, order: 'LE' | 'BE'): string | undefined {
  const octets = address.split('.').map(Number);
  const target = (order === 'LE' ? octets.reverse() : octets).reduce((sum, octet) => sum * 256 + octet, 0);
  let best: { readonly device: string; readonly length: number } | undefined;
  for (const line of routes.split('\n').slice(1)) {
    const [device = '', destination = '', , flags = '', , , , mask = ''] = line.split('\t');
    const bits = Number.parseInt(mask, 16);
    const usable = (Number.parseInt(flags, 16) & (RTF_UP | RTF_REJECT)) === RTF_UP;
    const length = (bits >>> 0).toString(2).replaceAll('0', '').length;
    if (usable && length > (best?.length ?? 0) && (target & bits) === (Number.parseInt(destination, 16) | 0))
      best = { device, length };
  }
  return best?.device;
}

/** Whether packets from and to 127.0.0.0/8 may pass the device; undefined if there is none of this name. */
export async function routesLocalnet(device: string): Promise<boolean | undefined> {
  try {
    return (await readFile(localnetSwitch(device), 'utf8')).trim() !== '0';
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** @throws when there is no such device, or /proc/sys is read-only. */
export async function setRouteLocalnet(device: string, value: 'on' | 'off'): Promise<void> {
  await writeFile(localnetSwitch(device), value === 'on' ? '1' : '0');
}

/** Device names come from the kernel and from a file of ours: no name that it would take leaves the directory. */
function localnetSwitch(device: string): string {
  if (device === '' || device === '.' || device === '..' || device.includes('/'))
    throw new RuntimeError('InvalidArgument', `${JSON.stringify(device)} is no network device`);
  return `/proc/sys/net/ipv4/conf/${device}/route_localnet`;
}

/**
 * Makes the kernel forget UDP flows whose first packet went to one of these; how many there were. The next packet of
 * one is looked at as a first.
 */
export async function forgetUdp(
  flows: readonly { readonly address: string; readonly port: number }[],
): Promise<number> {
  return await attemptAsync('delete UDP flows', (native) =>
    native.forgetUdp(
      flows.map(({ address }) => address),
      flows.map(({ port }) => port),
    ),
  );
}
