/**
 * What CNI plugins answer, in the shapes of all versions. PURE.
 */
import { RuntimeError } from '../base/errors.ts';
import { GoObject, isObject, isUnset, type PlainObject, spelledAs } from '../base/go.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { PodNetwork } from '../ports/network.ts';
import { familyOf } from './addresses.ts';
import { parseJson } from '../base/json.ts';

/** Versions that Berth speaks, in order. */
export const CNI_VERSIONS: readonly string[] = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'];

/** The names of the specification, as plugins are told them. */
const RESULT_NAMES = ['cniVersion', 'interfaces', 'ips', 'routes', 'dns', 'ip4', 'ip6'];
const INTERFACE_NAMES = ['name', 'mac', 'mtu', 'sandbox', 'socketPath', 'pciID'];
const IP_NAMES = ['version', 'address', 'gateway', 'interface'];
const ROUTE_NAMES = ['dst', 'gw', 'mtu', 'advmss', 'priority', 'table', 'scope'];
const DNS_NAMES = ['nameservers', 'domain', 'search', 'options'];
const FAMILY_NAMES = ['ip', 'gateway', 'routes'];

/** The only interface that a pod gets here. */
export const INTERFACE = 'eth0';

/** What ADD returned. */
export interface CniResult {
  readonly cniVersion: string;
  readonly interfaces: readonly { readonly name: string; readonly sandbox: string }[];
  /** Addresses with their prefix length, in the order of the plugin; `interface` is an index or undefined. */
  readonly ips: readonly {
    readonly address: string;
    readonly gateway: string;
    readonly interface: number | undefined;
  }[];
  readonly raw: PlainObject;
}

/** True if `version` is `least` or later. */
export function atLeast(version: string, least: string): boolean {
  return CNI_VERSIONS.indexOf(version) >= CNI_VERSIONS.indexOf(least);
}

/** @throws Internal with a phrase that completes "CNI plugin x …": not JSON, no object, impossible addresses. */
export function parseResult(text: string, configVersion: string): CniResult {
  if (text.trim() === '') throw new RuntimeError('Internal', 'exited 0 without printing a result');
  const raw = jsonOf(text, `printed something that is not JSON: ${quote(text)}`, 'Internal');
  if (!isObject(raw)) throw new RuntimeError('Internal', `printed JSON that is no result: ${quote(text)}`);
  return resultOf(raw, configVersion);
}

/** The same from a result that is parsed already, as the cache keeps it. @throws Internal */
export function resultOf(document: PlainObject, configVersion: string): CniResult {
  const raw = spelled(document);
  const cniVersion =
    typeof raw['cniVersion'] === 'string' && raw['cniVersion'] !== '' ? raw['cniVersion'] : configVersion;
  const listed = atLeast(cniVersion, '0.3.0')
    ? arrayOf(raw['ips'])
    : [raw['ip4'], raw['ip6']].filter(isObject).map((each) => ({ address: each['ip'], gateway: each['gateway'] }));
  if (listed.length > limits.podIpsCount)
    throw new RuntimeError('Internal', `returned ${listed.length} addresses; a pod has at most ${limits.podIpsCount}`);
  return {
    cniVersion,
    interfaces: arrayOf(raw['interfaces']).map((each) =>
      isObject(each) ? { name: textOf(each['name']), sandbox: textOf(each['sandbox']) } : { name: '', sandbox: '' },
    ),
    ips: listed.map((each) => ipOf(each)),
    raw,
  };
}

/** A result with the names of the specification as it spells them; what is not set in it is not there. */
function spelled(document: PlainObject): PlainObject {
  const routes = (value: unknown): unknown => eachSpelled(value, ROUTE_NAMES);
  const family = (value: unknown): unknown => {
    const [each] = [value].filter(isObject).map((one) => set(one, FAMILY_NAMES));
    return each === undefined ? value : { ...each, ...inner(each, 'routes', routes) };
  };
  const raw = set(document, RESULT_NAMES);
  return {
    ...raw,
    ...inner(raw, 'interfaces', (value) => eachSpelled(value, INTERFACE_NAMES)),
    ...inner(raw, 'ips', (value) => eachSpelled(value, IP_NAMES)),
    ...inner(raw, 'routes', routes),
    ...inner(raw, 'dns', (value) => (isObject(value) ? set(value, DNS_NAMES) : value)),
    ...inner(raw, 'ip4', family),
    ...inner(raw, 'ip6', family),
  };
}

function inner(owner: PlainObject, name: string, work: (value: unknown) => unknown): PlainObject {
  return owner[name] === undefined ? {} : { [name]: work(owner[name]) };
}

function eachSpelled(value: unknown, names: readonly string[]): unknown {
  return Array.isArray(value) ? value.map((each: unknown) => (isObject(each) ? set(each, names) : each)) : value;
}

function set(object: PlainObject, names: readonly string[]): PlainObject {
  const known = new Set(names);
  return Object.fromEntries(
    Object.entries(spelledAs(object, names)).filter(([name, value]) => !known.has(name) || !isUnset(value)),
  );
}

function ipOf(entry: unknown): CniResult['ips'][number] {
  const address = isObject(entry) ? textOf(entry['address']) : '';
  if (familyOf(address.split('/')[0] ?? '') === undefined || !/\/[0-9]{1,3}$/.test(address)) {
    throw new RuntimeError(
      'Internal',
      `returned ${show(isObject(entry) ? entry['address'] : entry)} where an address with a prefix length belongs`,
    );
  }
  const index = isObject(entry) ? entry['interface'] : undefined;
  return {
    address,
    gateway: isObject(entry) ? textOf(entry['gateway']) : '',
    interface: typeof index === 'number' && index >= 0 ? index : undefined,
  };
}

/** The result as plugins of `version` read it; untouched if it has that shape already. */
export function resultAs(result: CniResult, version: string): PlainObject {
  if (shapeOf(result.cniVersion) === shapeOf(version)) return { ...result.raw, cniVersion: version };
  if (shapeOf(version) === 'two') return twoAddresses(result, version);
  const kept =
    shapeOf(result.cniVersion) === 'two'
      ? routesOfTwo(result.raw)
      : { interfaces: result.raw['interfaces'], routes: result.raw['routes'] };
  const ips = result.ips.map(({ address, gateway, interface: index }) => ({
    ...(shapeOf(version) === 'versioned' ? { version: familyOf(address.split('/')[0] ?? '') === 6 ? '6' : '4' } : {}),
    address,
    ...(gateway === '' ? {} : { gateway }),
    ...(index === undefined ? {} : { interface: index }),
  }));
  return { cniVersion: version, ...kept, ips, ...(result.raw['dns'] === undefined ? {} : { dns: result.raw['dns'] }) };
}

function shapeOf(version: string): 'two' | 'versioned' | 'plain' {
  if (!atLeast(version, '0.3.0')) return 'two';
  return atLeast(version, '1.0.0') ? 'plain' : 'versioned';
}

function twoAddresses(result: CniResult, version: string): PlainObject {
  const first = (family: 4 | 6): PlainObject | undefined => {
    const found = result.ips.find(({ address }) => familyOf(address.split('/')[0] ?? '') === family);
    return found === undefined
      ? undefined
      : { ip: found.address, ...(found.gateway === '' ? {} : { gateway: found.gateway }) };
  };
  return { cniVersion: version, ip4: first(4), ip6: first(6), dns: result.raw['dns'] ?? {} };
}

function routesOfTwo(raw: PlainObject): PlainObject {
  const routes = [raw['ip4'], raw['ip6']].filter(isObject).flatMap((each) => arrayOf(each['routes']));
  return routes.length === 0 ? {} : { routes };
}

/**
 * The pod's addresses: those of an interface in the pod, or of no named interface; the first family first, as
 * Kubernetes wants the primary one.
 * @throws Internal, completing "CNI plugin x …", when there is none: the kubelet would restart such a pod for ever.
 */
export function podNetworkOf(result: CniResult): PodNetwork {
  const ips = [...new Set(podAddressesOf(result).map((address) => address.split('/')[0] ?? ''))];
  if (ips.length === 0)
    throw new RuntimeError('Internal', 'returned no IP address for the pod; check the "ipam" of the network');
  return { ips, interfaceName: INTERFACE };
}

/** The same addresses with their prefix lengths; may be empty. */
export function podAddressesOf(result: CniResult): string[] {
  return result.ips
    .filter(({ interface: index }) => index === undefined || (result.interfaces[index]?.sandbox ?? '') !== '')
    .map(({ address }) => address);
}

/**
 * What a failing plugin said: its error object on stdout, else the end of stderr, else the beginning of stdout. One
 * line, bounded.
 */
export function pluginComplaint(
  exitCode: number,
  stdout: string,
  stderr: string,
): { readonly code: number | undefined; readonly text: string } {
  try {
    const raw = GoObject.of(parseJson(stdout));
    const message = raw?.get('msg');
    if (raw !== undefined && typeof message === 'string') {
      const details = textOf(raw.get('details'));
      const given = raw.get('code');
      const code = typeof given === 'number' ? given : undefined;
      return {
        code,
        text: oneLine(
          `${message}${details === '' ? '' : `; ${details}`}${code === undefined ? '' : ` (CNI error ${code})`}`,
        ),
      };
    }
  } catch {
    // Not the error object that the specification asks for: say what there is.
  }
  const said = oneLine(stderr.trim() === '' ? stdout : stderr);
  return {
    code: undefined,
    text: said === '' ? `exit code ${exitCode}, and it said nothing` : `exit code ${exitCode}: ${said}`,
  };
}

function oneLine(text: string): string {
  const line = text.replaceAll(/\p{Cc}+/gu, ' ').trim();
  return line.length > limits.cniComplaintChars ? `${line.slice(0, limits.cniComplaintChars)}…` : line;
}

/** @throws RuntimeError of this code and message unless it is JSON. */
export function jsonOf(
  text: string,
  message: string,
  code: 'InvalidArgument' | 'Internal' = 'InvalidArgument',
): unknown {
  try {
    return parseJson(text);
  } catch (cause) {
    throw new RuntimeError(code, message, code === 'InvalidArgument' ? { cause } : {});
  }
}

function arrayOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? (value as readonly unknown[]) : [];
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** A value out of a document, for a message. */
export function show(value: unknown): string {
  return typeof value === 'string' ? quote(value) : quote(JSON.stringify(value) ?? 'nothing');
}
