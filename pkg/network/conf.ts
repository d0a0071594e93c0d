/**
 * CNI as data: configuration files, what a plugin is told on its stdin, what it answers. PURE.
 *
 * Versions 0.1.0 to 1.1.0 of the specification (cni.dev/docs/spec). They differ, as far as a runtime cares, in the
 * shape of a result: up to 0.2.0 it has `ip4` and `ip6`, up to 0.4.0 every entry of `ips` says its `version`, since
 * 1.0.0 it does not. A chain's plugins expect `prevResult` in the version of the configuration, whatever was answered.
 */
import { RuntimeError } from '../base/errors.ts';
import { isUnset } from '../base/go.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { PodNetwork, PodNetworkRequest } from '../ports/network.ts';

/** Any JSON object; keys are own properties only. */
export type Json = Readonly<Record<string, unknown>>;

/** Versions that Berth speaks, in order. */
const CNI_VERSIONS: readonly string[] = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'];

/** The only interface that a pod gets here. */
export const INTERFACE = 'eth0';

/** One network: a conflist, or a conf as a list of one. */
export interface NetworkConf {
  readonly name: string;
  /** The highest of `cniVersion` and `cniVersions` that Berth speaks. */
  readonly cniVersion: string;
  readonly plugins: readonly PluginConf[];
  readonly disableCheck: boolean;
  readonly disableGc: boolean;
  /** The conflist as it was written, for the cache. */
  readonly raw: Json;
}

/** One plugin of a chain. */
export interface PluginConf {
  /** File name of the plugin. */
  readonly type: string;
  /** Names of `capabilities` that are true. */
  readonly capabilities: ReadonlySet<string>;
  readonly raw: Json;
}

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
  readonly raw: Json;
}

/** @throws InvalidArgument that names `file` and what is wrong in it. */
export function parseNetworkConf(file: string, text: string): NetworkConf {
  const parsed = parseJson(text, `${file} is not valid JSON`);
  if (!isObject(parsed) || !isUnset(parsed['plugins'])) return networkConfOf(file, parsed);
  const { cniVersion, name } = parsed;
  return networkConfOf(file, { ...(cniVersion === undefined ? {} : { cniVersion }), name, plugins: [parsed] });
}

/** The same from a conflist that is parsed already, as the cache keeps it. @throws InvalidArgument */
export function networkConfOf(file: string, raw: unknown): NetworkConf {
  if (!isObject(raw)) throw bad(file, 'wants a JSON object');
  const name = raw['name'];
  if (typeof name !== 'string' || !/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(name)) {
    throw bad(file, `wants a "name" of letters, digits, ".", "_" and "-", got ${show(name)}`);
  }
  const plugins = raw['plugins'];
  if (!Array.isArray(plugins) || plugins.length === 0) throw bad(file, 'has no plugins');
  if (plugins.length > limits.cniPluginsCount) throw bad(file, `has more than ${limits.cniPluginsCount} plugins`);
  return {
    name,
    cniVersion: versionOf(file, raw),
    plugins: plugins.map((each) => pluginOf(file, each)),
    disableCheck: isTrue(raw['disableCheck']),
    disableGc: isTrue(raw['disableGC']),
    raw,
  };
}

function pluginOf(file: string, raw: unknown): PluginConf {
  const type = isObject(raw) ? raw['type'] : undefined;
  if (!isObject(raw) || typeof type !== 'string' || !/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(type)) {
    throw bad(file, `wants a plugin "type" that is a file name, got ${show(type)}`);
  }
  const declared = isObject(raw['capabilities']) ? raw['capabilities'] : {};
  return { type, capabilities: new Set(Object.keys(declared).filter((each) => declared[each] === true)), raw };
}

function versionOf(file: string, raw: Json): string {
  const offered = [
    // "" and null are as absent: so Go programs write what is not set.
    raw['cniVersion'] || '0.1.0',
    ...(Array.isArray(raw['cniVersions']) ? (raw['cniVersions'] as readonly unknown[]) : []),
  ];
  const spoken = CNI_VERSIONS.filter((each) => offered.includes(each)).at(-1);
  if (spoken === undefined)
    throw bad(
      file,
      `has "cniVersion" ${offered.map(show).join(', ')}; Berth speaks ${CNI_VERSIONS[0]} to ${CNI_VERSIONS.at(-1)}`,
    );
  return spoken;
}

/** True if `version` is `least` or later. */
export function atLeast(version: string, least: string): boolean {
  return CNI_VERSIONS.indexOf(version) >= CNI_VERSIONS.indexOf(least);
}

// ---- to the plugin ---------------------------------------------------------------------------------------------

/**
 * What the plugins of a chain may be told, by capability (cni.dev/docs/conventions). Each gets what it declares.
 * `ranges`: the node's subnets for pods.
 */
export function capabilityArgs(pod: PodNetworkRequest, ranges: readonly string[]): Json {
  const args: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  if (pod.portMappings.length > 0) {
    args['portMappings'] = pod.portMappings.map(({ hostPort, containerPort, protocol, hostIp }) =>
      hostIp === '' ? { hostPort, containerPort, protocol } : { hostPort, containerPort, protocol, hostIP: hostIp },
    );
  }
  const bandwidth = bandwidthOf(pod.annotations);
  if (bandwidth !== undefined) args['bandwidth'] = bandwidth;
  const { servers, searches, options } = pod.dns;
  if (servers.length + searches.length + options.length > 0) args['dns'] = { servers, searches, options };
  if (Object.keys(pod.annotations).length > 0) args['io.kubernetes.cri.pod-annotations'] = pod.annotations;
  if (pod.cgroupPath !== '') args['cgroupPath'] = pod.cgroupPath;
  if (ranges.length > 0) args['ipRanges'] = ranges.map((subnet) => [{ subnet }]);
  if (pod.mac !== undefined && pod.mac !== '') args['mac'] = pod.mac;
  if (pod.aliases !== undefined && pod.aliases.length > 0) args['aliases'] = pod.aliases;
  return args;
}

/** The JSON for a plugin's stdin: its configuration with the network's name and version, and what the verb adds. */
export function pluginInput(
  network: NetworkConf,
  plugin: PluginConf,
  more: { readonly capabilityArgs?: Json; readonly prevResult?: CniResult | undefined; readonly extra?: Json },
): string {
  const input: Record<string, unknown> = {
    ...plugin.raw,
    name: network.name,
    cniVersion: network.cniVersion,
    ...more.extra,
  };
  const runtimeConfig: Record<string, unknown> = {};
  for (const capability of plugin.capabilities) {
    const value = more.capabilityArgs?.[capability];
    // Aliases are told per network, by its name.
    if (value !== undefined) runtimeConfig[capability] = capability === 'aliases' ? { [network.name]: value } : value;
  }
  if (Object.keys(runtimeConfig).length > 0) input['runtimeConfig'] = runtimeConfig;
  if (more.prevResult !== undefined) input['prevResult'] = resultAs(more.prevResult, network.cniVersion);
  return JSON.stringify(input);
}

/**
 * The CNI_ARGS that Kubernetes plugins read.
 * @throws InvalidArgument for a name that would end its entry and begin another.
 */
export function podArgs(pod: Pick<PodNetworkRequest, 'id' | 'name' | 'namespace' | 'uid'>): string {
  const entries: readonly (readonly [key: string, value: string])[] = [
    ['IgnoreUnknown', '1'],
    ['K8S_POD_NAMESPACE', pod.namespace],
    ['K8S_POD_NAME', pod.name],
    ['K8S_POD_INFRA_CONTAINER_ID', pod.id],
    ['K8S_POD_UID', pod.uid],
  ];
  for (const [key, value] of entries) {
    if (/[;=\p{Cc}]/u.test(value))
      throw new RuntimeError(
        'InvalidArgument',
        `${key} for CNI plugins must not contain ";", "=" or control characters: ${quote(value)}`,
      );
  }
  return entries.map(([key, value]) => `${key}=${value}`).join(';');
}

/** Burst of a rate limit in bits: as good as none, and what the plugin's 32 bits can hold. */
const NO_BURST_LIMIT = 2_147_483_647;

function bandwidthOf(annotations: Readonly<Record<string, string>>): Json | undefined {
  const ingress = rateOf(annotations, 'kubernetes.io/ingress-bandwidth');
  const egress = rateOf(annotations, 'kubernetes.io/egress-bandwidth');
  if (ingress === undefined && egress === undefined) return undefined;
  return {
    ...(ingress === undefined ? {} : { ingressRate: ingress, ingressBurst: NO_BURST_LIMIT }),
    ...(egress === undefined ? {} : { egressRate: egress, egressBurst: NO_BURST_LIMIT }),
  };
}

const QUANTITY_SUFFIXES: ReadonlyMap<string, number> = new Map([
  ['', 1],
  ['k', 1e3],
  ['M', 1e6],
  ['G', 1e9],
  ['T', 1e12],
  ['P', 1e15],
  ['Ki', 2 ** 10],
  ['Mi', 2 ** 20],
  ['Gi', 2 ** 30],
  ['Ti', 2 ** 40],
  ['Pi', 2 ** 50],
]);

/**
 * A Kubernetes quantity in bits per second, from 1k to 1P as the API server has it. @throws InvalidArgument naming the
 * annotation.
 */
function rateOf(annotations: Readonly<Record<string, string>>, name: string): number | undefined {
  const text = Object.hasOwn(annotations, name) ? annotations[name] : undefined;
  if (text === undefined) return undefined;
  const match = /^([0-9]{1,16}(?:\.[0-9]{1,9})?)(|[kMGTP]|[KMGTP]i)$/.exec(text.trim());
  const rate =
    match === null ? Number.NaN : Math.ceil(Number(match[1]) * (QUANTITY_SUFFIXES.get(match[2] ?? '') ?? Number.NaN));
  if (!(rate >= 1e3 && rate <= 1e15))
    throw new RuntimeError(
      'InvalidArgument',
      `annotation ${name} wants bits per second from 1k to 1P, like "10M", got ${quote(text)}`,
    );
  return rate;
}

// ---- from the plugin -------------------------------------------------------------------------------------------

/** @throws Internal with a phrase that completes "CNI plugin x …": not JSON, no object, impossible addresses. */
export function parseResult(text: string, configVersion: string): CniResult {
  if (text.trim() === '') throw new RuntimeError('Internal', 'exited 0 without printing a result');
  const raw = parseJson(text, `printed something that is not JSON: ${quote(text)}`, 'Internal');
  if (!isObject(raw)) throw new RuntimeError('Internal', `printed JSON that is no result: ${quote(text)}`);
  return resultOf(raw, configVersion);
}

/** The same from a result that is parsed already, as the cache keeps it. @throws Internal */
export function resultOf(raw: Json, configVersion: string): CniResult {
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
export function resultAs(result: CniResult, version: string): Json {
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

function twoAddresses(result: CniResult, version: string): Json {
  const first = (family: 4 | 6): Json | undefined => {
    const found = result.ips.find(({ address }) => familyOf(address.split('/')[0] ?? '') === family);
    return found === undefined
      ? undefined
      : { ip: found.address, ...(found.gateway === '' ? {} : { gateway: found.gateway }) };
  };
  return { cniVersion: version, ip4: first(4), ip6: first(6), dns: result.raw['dns'] ?? {} };
}

function routesOfTwo(raw: Json): Json {
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
    const raw = JSON.parse(stdout) as unknown;
    if (isObject(raw) && typeof raw['msg'] === 'string') {
      const details = textOf(raw['details']);
      const code = typeof raw['code'] === 'number' ? raw['code'] : undefined;
      return {
        code,
        text: oneLine(
          `${raw['msg']}${details === '' ? '' : `; ${details}`}${code === undefined ? '' : ` (CNI error ${code})`}`,
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

/**
 * What to feed to `iptables-restore --noflush` so that no rule in `saved` (of `iptables-save -t nat`) carries the id of
 * a pod; '' if none does. Plugins put the id in a comment. Of chains, only those that a plugin makes for one pod go.
 */
export function withoutRulesOf(id: string, saved: string): string {
  const rules = saved
    .split('\n')
    .filter((line) => line.startsWith('-A ') && line.includes(id))
    .map((line) => ({ line, chain: line.split(' ')[1] ?? '' }));
  if (rules.length === 0) return '';
  const chains = [
    ...new Set(rules.map(({ chain }) => chain).filter((chain) => /^CNI-(?:[A-Z]+-)?[0-9a-f]{16,24}$/.test(chain))),
  ];
  const single = rules.filter(({ chain }) => !chains.includes(chain)).map(({ line }) => line.replace(/^-A /, '-D '));
  return [
    '*nat',
    ...single,
    ...chains.map((chain) => `-F ${chain}`),
    ...chains.map((chain) => `-X ${chain}`),
    'COMMIT',
    '',
  ].join('\n');
}

// ---- a network of our own --------------------------------------------------------------------------------------

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

// ---- small things ----------------------------------------------------------------------------------------------

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

function parseJson(text: string, message: string, code: 'InvalidArgument' | 'Internal' = 'InvalidArgument'): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new RuntimeError(code, message, code === 'InvalidArgument' ? { cause } : {});
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isTrue(value: unknown): boolean {
  return value === true || value === 'true';
}

function arrayOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? (value as readonly unknown[]) : [];
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function show(value: unknown): string {
  return typeof value === 'string' ? quote(value) : quote(JSON.stringify(value) ?? 'nothing');
}

function bad(file: string, what: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `CNI configuration ${file} ${what}`);
}
