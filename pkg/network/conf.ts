/**
 * CNI as data: configuration files and what a plugin is told on its stdin; what it answers is in results.ts. PURE.
 *
 * Versions 0.1.0 to 1.1.0 of the specification (cni.dev/docs/spec). They differ, as far as a runtime cares, in the
 * shape of a result: up to 0.2.0 it has `ip4` and `ip6`, up to 0.4.0 every entry of `ips` says its `version`, since
 * 1.0.0 it does not. A chain's plugins expect `prevResult` in the version of the configuration, whatever was answered.
 */
import { posix } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import { isObject, isUnset, type PlainObject, spelledAs } from '../base/go.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { PodNetworkRequest } from '../ports/network.ts';
import { CNI_VERSIONS, type CniResult, jsonOf, resultAs, show } from './results.ts';

/** The names of the specification, as plugins are told them. */
const LIST_NAMES = [
  ...['cniVersion', 'cniVersions', 'name', 'disableCheck', 'disableGC', 'loadOnlyInlinedPlugins', 'plugins'],
];
const NETWORK_NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
const PLUGIN_NAMES = [
  'cniVersion',
  'name',
  'type',
  'capabilities',
  'runtimeConfig',
  'prevResult',
  'args',
  'ipam',
  'dns',
];

/** One network: a conflist, or a conf as a list of one. */
export interface NetworkConf {
  readonly name: string;
  /** The highest of `cniVersion` and `cniVersions` that Berth speaks. */
  readonly cniVersion: string;
  readonly plugins: readonly PluginConf[];
  readonly disableCheck: boolean;
  readonly disableGc: boolean;
  /** The conflist as it was written, for the cache. */
  readonly raw: PlainObject;
}

/** One plugin of a chain. */
export interface PluginConf {
  /** File name of the plugin. */
  readonly type: string;
  /** Names of `capabilities` that are true. */
  readonly capabilities: ReadonlySet<string>;
  readonly raw: PlainObject;
}

/** A file, and what is in it. */
export interface ConfText {
  readonly file: string;
  readonly text: string;
}

/**
 * The directory of which each `*.conf` is one plugin more at the end of the chain (CNI 1.1, as libcni has it since
 * 1.3): beside a conflist, called as its network. undefined for a conf, and for a conflist that wants none.
 */
export function pluginsDirectory({ file, text }: ConfText): string | undefined {
  if (!file.endsWith('.conflist')) return undefined;
  const document = jsonOf(text, `${file} is not valid JSON`);
  const { name, loadOnlyInlinedPlugins } = isObject(document) ? spelledAs(document, LIST_NAMES) : {};
  const isMeant = typeof name === 'string' && NETWORK_NAME.test(name) && !isTrue(loadOnlyInlinedPlugins);
  return isMeant ? posix.join(posix.dirname(file), name) : undefined;
}

/**
 * `beside`: what lies in `pluginsDirectory`, in order.
 * @throws InvalidArgument that names the file and what is wrong in it.
 */
export function parseNetworkConf(file: string, text: string, beside: readonly ConfText[] = []): NetworkConf {
  const document = jsonOf(text, `${file} is not valid JSON`);
  if (!isObject(document)) return networkConfOf(file, document);
  const given = spelledAs(document, LIST_NAMES);
  // A network without a name is called as its file, as with CRI-O.
  const parsed = isUnset(given['name']) ? { ...given, name: posix.basename(file) } : given;
  const more = beside.map((each) => {
    const plugin = jsonOf(each.text, `${each.file} is not valid JSON`);
    return pluginOf(each.file, plugin).raw;
  });
  const own = parsed['plugins'];
  if (Array.isArray(own) && own.length > 0) return networkConfOf(file, { ...parsed, plugins: [...own, ...more] });
  if (!isUnset(own)) return networkConfOf(file, parsed);
  if (more.length > 0) return networkConfOf(file, { ...parsed, plugins: more });
  const { cniVersion, name } = parsed;
  return networkConfOf(file, { ...(cniVersion === undefined ? {} : { cniVersion }), name, plugins: [parsed] });
}

/** The same from a conflist that is parsed already, as the cache keeps it. @throws InvalidArgument */
export function networkConfOf(file: string, document: unknown): NetworkConf {
  if (!isObject(document)) throw bad(file, 'wants a JSON object');
  const raw = spelledAs(document, LIST_NAMES);
  const name = raw['name'];
  if (typeof name !== 'string' || !NETWORK_NAME.test(name)) {
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

function pluginOf(file: string, document: unknown): PluginConf {
  const raw = isObject(document) ? spelledAs(document, PLUGIN_NAMES) : undefined;
  const type = raw?.['type'];
  if (raw === undefined || typeof type !== 'string' || !/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(type)) {
    throw bad(file, `wants a plugin "type" that is a file name, got ${show(type)}`);
  }
  const declared = isObject(raw['capabilities']) ? raw['capabilities'] : {};
  return { type, capabilities: new Set(Object.keys(declared).filter((each) => declared[each] === true)), raw };
}

function versionOf(file: string, raw: PlainObject): string {
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

// ---- to the plugin ---------------------------------------------------------------------------------------------

/**
 * What the plugins of a chain may be told, by capability (cni.dev/docs/conventions). Each gets what it declares.
 * `ranges`: the node's subnets for pods.
 */
export function capabilityArgs(pod: PodNetworkRequest, ranges: readonly string[]): PlainObject {
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
  more: {
    readonly capabilityArgs?: PlainObject;
    readonly prevResult?: CniResult | undefined;
    readonly extra?: PlainObject;
  },
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

function bandwidthOf(annotations: Readonly<Record<string, string>>): PlainObject | undefined {
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

/** libcni takes the text in any case, too. */
function isTrue(value: unknown): boolean {
  return value === true || (typeof value === 'string' && value.toLowerCase() === 'true');
}

function bad(file: string, what: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `CNI configuration ${file} ${what}`);
}
