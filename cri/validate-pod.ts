/** The config of a pod sandbox, narrowed. Pure. */
import { isIP } from 'node:net';
import { limits } from '../pkg/base/limits.ts';
import type { DNSConfig, LinuxPodSandboxConfig, PodSandboxConfig, PortMapping } from '../pkg/cri-api/types.ts';
import type { SandboxConfig } from '../pkg/ports/requests.ts';
import { apparmorChoice, seccompChoice, validateSysctls } from '../pkg/spec/index.ts';
import {
  WORD,
  checkAbsolute,
  checkCount,
  checkEntries,
  checkIds,
  checkName,
  checkPort,
  checkResources,
  hasControl,
  invalid,
  missing,
  tooMuch,
} from './checks.ts';

/** As sethostname(2) and DNS have it between them. */
const HOSTNAME = /^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/;

/** The config of a pod, with its metadata. `at` is its place in the request. @throws InvalidArgument */
export function sandboxConfig(config: PodSandboxConfig | undefined, at: string): SandboxConfig {
  if (config === undefined) throw missing(at, 'a pod sandbox needs a config');
  const { metadata } = config;
  if (metadata === undefined) throw missing(`${at}.metadata`, 'a pod sandbox needs a name, a namespace and a uid');
  for (const part of ['name', 'namespace', 'uid'] as const) checkName(`${at}.metadata.${part}`, metadata[part]);
  checkHostname(`${at}.hostname`, config.hostname);
  if (config.logDirectory !== '') checkAbsolute(`${at}.log_directory`, config.logDirectory);
  if (config.dnsConfig !== undefined) checkDns(`${at}.dns_config`, config.dnsConfig);
  checkCount(`${at}.port_mappings`, config.portMappings, limits.portMappingsCount);
  config.portMappings.forEach((mapping, i) => checkPortMapping(`${at}.port_mappings[${i}]`, mapping));
  checkEntries(`${at}.labels`, config.labels);
  checkEntries(`${at}.annotations`, config.annotations);
  if (config.linux !== undefined) checkLinuxSandbox(`${at}.linux`, config.linux);
  return { ...config, metadata };
}

function checkHostname(field: string, hostname: string): void {
  if (hostname === '') return;
  if (hostname.length > limits.hostnameBytes || !HOSTNAME.test(hostname))
    throw invalid(field, hostname, `want letters, digits, "-", "_" and ".", at most ${limits.hostnameBytes} of them`);
}

function checkDns(field: string, dns: DNSConfig): void {
  const bytes = [...dns.servers, ...dns.searches, ...dns.options].reduce(
    (sum, each) => sum + Buffer.byteLength(each) + 1,
    0,
  );
  if (bytes > limits.dnsConfigBytes) throw tooMuch(field, `${bytes} bytes`, `${limits.dnsConfigBytes}`);
  dns.servers.forEach((server, i) => {
    if (isIP(server) === 0) throw invalid(`${field}.servers[${i}]`, server, 'want an IP address');
  });
  // Each becomes a word of one line of resolv.conf; white space would make it two, a line end a directive of its own.
  for (const list of ['searches', 'options'] as const) {
    dns[list].forEach((word, i) => {
      if (!WORD.test(word)) throw invalid(`${field}.${list}[${i}]`, word, 'want printable ASCII without spaces');
    });
  }
}

function checkPortMapping(field: string, mapping: PortMapping): void {
  checkPort(`${field}.container_port`, mapping.containerPort, 1);
  checkPort(`${field}.host_port`, mapping.hostPort, 0);
  if (mapping.hostIp !== '' && isIP(mapping.hostIp) === 0)
    throw invalid(`${field}.host_ip`, mapping.hostIp, 'want an IP address of the node, or nothing for all');
}

function checkLinuxSandbox(field: string, linux: LinuxPodSandboxConfig): void {
  checkCgroupParent(`${field}.cgroup_parent`, linux.cgroupParent);
  checkEntries(`${field}.sysctls`, linux.sysctls);
  const security = linux.securityContext;
  const namespaces = security?.namespaceOptions;
  validateSysctls(linux.sysctls, {
    network: namespaces?.network === 'NODE' ? 'host' : 'pod',
    ipc: namespaces?.ipc === 'NODE' ? 'host' : 'pod',
  });
  if (security !== undefined) {
    const at = `${field}.security_context`;
    if (security.runAsGroup !== undefined && security.runAsUser === undefined)
      throw invalid(
        `${at}.run_as_group`,
        String(security.runAsGroup.value),
        'set run_as_user too (CRI: must be an error)',
      );
    checkIds(at, security);
    seccompChoice(security);
    apparmorChoice(security);
  }
  if (linux.overhead !== undefined) checkResources(`${field}.overhead`, linux.overhead);
  if (linux.resources !== undefined) checkResources(`${field}.resources`, linux.resources);
}

/** Its form depends on the cgroup manager, which pkg/spec knows. */
function checkCgroupParent(field: string, parent: string): void {
  if (parent.length > limits.nameBytes || hasControl(parent) || parent.split('/').includes('..'))
    throw invalid(field, parent, 'want a cgroup path or slice without ".." and control characters');
}
