/** Proxies from the environment. Pure. */
import { BlockList } from 'node:net';

/**
 * The proxy for a URL by Go's rules, which administrators know: HTTPS_PROXY or HTTP_PROXY by scheme, never for
 * loopback, and NO_PROXY lists hosts (with their subdomains), `.domains`, addresses, CIDR ranges, each with an optional
 * port, or `*`.
 */
export function proxyFor(url: URL, environment: Readonly<Record<string, string | undefined>>): string | undefined {
  // The first that is not empty, as Go has it: setting a variable to nothing is how people unset it.
  const variable = (name: string): string => environment[name] || environment[name.toLowerCase()] || '';
  const proxy = variable(url.protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY');
  if (proxy === '') return undefined;
  const host = url.hostname.replace(/^\[|\]$/g, '').toLowerCase();
  if (host === 'localhost' || host === '::1' || isIn(host, '127.0.0.0/8')) return undefined;
  const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
  const isExempt = variable('NO_PROXY')
    .split(',')
    .some((entry) => exempts(entry.trim().toLowerCase(), host, port));
  return isExempt ? undefined : proxy;
}

function exempts(entry: string, host: string, port: string): boolean {
  if (entry === '') return false;
  if (entry === '*') return true;
  if (entry.includes('/')) return isIn(host, entry);
  const withPort = /^(.*[^:]):(\d{1,5})$/.exec(entry);
  if (withPort !== null && withPort[2] !== port) return false;
  const name = (withPort?.[1] ?? entry).replace(/^\*/, '').replace(/^\[|\]$/g, '');
  if (name.startsWith('.')) return host.endsWith(name);
  return host === name || host.endsWith(`.${name}`);
}

function isIn(host: string, cidr: string): boolean {
  const [network = '', bits = ''] = cidr.split('/');
  const family = host.includes(':') ? 'ipv6' : 'ipv4';
  if (family === 'ipv4' && !/^\d{1,3}(\.\d{1,3}){3}$/.test(host)) return false;
  try {
    const list = new BlockList();
    list.addSubnet(network, Number(bits), network.includes(':') ? 'ipv6' : 'ipv4');
    return list.check(host, family);
  } catch {
    return false;
  }
}
