/**
 * Requests, narrowed once at the door: what leaves here has its required fields, and no string in it can lead a path
 * out of its place, begin a line of its own in a file that we write, or fill the disk. Pure.
 *
 * What needs to know the node, the image or the pod is checked where that is known (pkg/spec, pkg/pod); rules that
 * pkg/spec has as pure functions are called from here too, so that a bad request is refused before it leaves any trace.
 * Every refusal is InvalidArgument and names the field as the .proto does, the value (shortened), and what is wanted.
 */
import { isIP } from 'node:net';
import { RuntimeError } from '../pkg/base/errors.ts';
import { quote } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';
import type {
  AttachRequest,
  AuthConfig,
  ContainerConfig,
  CreateContainerRequest,
  Device,
  DNSConfig,
  ExecRequest,
  ExecSyncRequest,
  ImageSpec,
  ImportRequest,
  Int64Value,
  KeyValue,
  LinuxContainerResources,
  LinuxContainerSecurityContext,
  LinuxPodSandboxConfig,
  Mount,
  PodSandboxConfig,
  PortForwardRequest,
  PortMapping,
  PullImageRequest,
  RunPodSandboxRequest,
  StopContainerRequest,
  StringMap,
  UpdateContainerResourcesRequest,
  UpdatePodSandboxResourcesRequest,
  UpdateRuntimeConfigRequest,
} from '../pkg/cri-api/types.ts';
import type { HostMount, ImageMount, NamedContainerConfig, SandboxConfig } from '../pkg/ports/requests.ts';
import {
  apparmorChoice,
  checkDeviceRequest,
  checkImageSubPath,
  containerPath,
  seccompChoice,
  validateSysctls,
} from '../pkg/spec/index.ts';

/**
 * Ours are 64 hex digits; others cannot exist here, which NotFound says better than a refusal. Not `.`, `..`, or a
 * path.
 */
const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
/**
 * Wider than Kubernetes' DNS names, since people write pods for crictl by hand; no `/`, `;`, `=`, space or control
 * character.
 */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:@-]*$/;
const HANDLER = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$/;
const HOSTNAME = /^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/;
/** One word of a resolv.conf line. */
const WORD = /^[\x21-\x7e]+$/;
/** setuid(2) and friends take 32 bits of which -1 means "unchanged"; everybody stops at 31 (CVE-2024-40635). */
const ID_MAX = 2n ** 31n - 1n;
const PORT_MAX = 65_535;
/** What setTimeout can hold. */
const TIMER_MAX_MS = 2_147_483_000n;

/** @throws InvalidArgument */
export function narrowRunPodSandbox(request: RunPodSandboxRequest): {
  readonly config: SandboxConfig;
  readonly runtimeHandler: string;
} {
  const { runtimeHandler } = request;
  if (runtimeHandler !== '' && !HANDLER.test(runtimeHandler))
    throw invalid(
      'runtime_handler',
      runtimeHandler,
      'want the name of a configured runtime, or nothing for the default',
    );
  return { config: sandboxConfig(request.config, 'config'), runtimeHandler };
}

/** @throws InvalidArgument */
export function narrowCreateContainer(request: CreateContainerRequest): {
  readonly podSandboxId: string;
  readonly config: NamedContainerConfig;
  readonly sandboxConfig: SandboxConfig;
} {
  return {
    podSandboxId: narrowId(request.podSandboxId, 'pod_sandbox_id'),
    config: containerConfig(request.config),
    sandboxConfig: sandboxConfig(request.sandboxConfig, 'sandbox_config'),
  };
}

/** An id or the beginning of one, safe to look up. `field` is its name in the .proto. @throws InvalidArgument */
export function narrowId(id: string, field: string): string {
  if (id === '') throw missing(field, 'give the id that the create call returned');
  if (!ID.test(id)) throw invalid(field, id, 'want an id or the beginning of one');
  return id;
}

/**
 * `graceMs` is 0 for at once, which a negative time-out means too; nobody waits longer than what a timer holds. @throws
 * InvalidArgument
 */
export function narrowStopContainer(request: StopContainerRequest): {
  readonly containerId: string;
  readonly graceMs: number;
} {
  return {
    containerId: narrowId(request.containerId, 'container_id'),
    graceMs: request.timeout <= 0n ? 0 : timerMs(request.timeout),
  };
}

/** What is undefined in the result, the request does not say. @throws InvalidArgument */
export function narrowUpdatePodResources(request: UpdatePodSandboxResourcesRequest): {
  readonly podSandboxId: string;
  readonly overhead: LinuxContainerResources | undefined;
  readonly resources: LinuxContainerResources | undefined;
} {
  const { overhead, resources } = request;
  if (overhead !== undefined) checkResources('overhead', overhead);
  if (resources !== undefined) checkResources('resources', resources);
  return { podSandboxId: narrowId(request.podSandboxId, 'pod_sandbox_id'), overhead, resources };
}

/** `resources` is undefined if the request has nothing for Linux. @throws InvalidArgument */
export function narrowUpdateResources(request: UpdateContainerResourcesRequest): {
  readonly containerId: string;
  readonly resources: LinuxContainerResources | undefined;
} {
  checkEntries('annotations', request.annotations);
  if (request.linux !== undefined) checkResources('linux', request.linux);
  return { containerId: narrowId(request.containerId, 'container_id'), resources: request.linux };
}

/** `timeoutMs` is 0 for none. @throws InvalidArgument */
export function narrowExecSync(request: ExecSyncRequest): {
  readonly containerId: string;
  readonly cmd: readonly string[];
  readonly timeoutMs: number;
} {
  if (request.timeout < 0n) throw invalid('timeout', String(request.timeout), 'want seconds, or 0 for no timeout');
  return {
    containerId: narrowId(request.containerId, 'container_id'),
    cmd: command(request.cmd),
    timeoutMs: timerMs(request.timeout),
  };
}

/** Seconds as milliseconds that a timer can hold. */
function timerMs(seconds: bigint): number {
  const ms = seconds * 1000n;
  return Number(ms < TIMER_MAX_MS ? ms : TIMER_MAX_MS);
}

/** @throws InvalidArgument */
export function narrowExec(request: ExecRequest): ExecRequest {
  narrowId(request.containerId, 'container_id');
  command(request.cmd);
  checkStreams(request);
  return request;
}

/** @throws InvalidArgument */
export function narrowAttach(request: AttachRequest): AttachRequest {
  narrowId(request.containerId, 'container_id');
  checkStreams(request);
  return request;
}

/** @throws InvalidArgument */
export function narrowPortForward(request: PortForwardRequest): PortForwardRequest {
  narrowId(request.podSandboxId, 'pod_sandbox_id');
  checkCount('port', request.port, limits.portMappingsCount);
  for (const port of request.port) checkPort('port', port, 1);
  return request;
}

/** The node's subnets for pods, one per family; none if the request names none. @throws InvalidArgument */
export function narrowPodRanges(request: UpdateRuntimeConfigRequest): readonly string[] {
  const text = request.runtimeConfig?.networkConfig?.podCidr ?? '';
  const subnets = text === '' ? [] : text.split(',');
  const families = subnets.map((subnet) => {
    const [, address = '', length = ''] = /^([^/%]*)\/([0-9]{1,3})$/.exec(subnet) ?? [];
    const family = isIP(address);
    return family !== 0 && Number(length) <= (family === 4 ? 32 : 128) ? family : 0;
  });
  if (families.includes(0) || new Set(families).size < families.length) {
    throw invalid(
      'runtime_config.network_config.pod_cidr',
      text,
      'want a subnet like "10.1.0.0/24", or one of each family with a comma between them',
    );
  }
  return subnets;
}

/** What an image is called in a request: a reference or an id, not parsed yet. @throws InvalidArgument */
export function narrowImageReference(spec: ImageSpec | undefined): string {
  return namedImage(spec, 'image').image;
}

/** `namespace` is that of the pod for which the image is pulled, undefined if it is for none. @throws InvalidArgument */
export function narrowPullImage({ image, auth, sandboxConfig }: PullImageRequest): {
  readonly reference: string;
  readonly auth: AuthConfig | undefined;
  readonly namespace: string | undefined;
} {
  return { reference: narrowImageReference(image), auth, namespace: sandboxConfig?.metadata?.namespace };
}

/** The same spec, which names something. */
function namedImage(spec: ImageSpec | undefined, field: string): ImageSpec {
  if (spec === undefined || spec.image === '')
    throw missing(`${field}.image`, 'name an image, such as registry.example/app:1.0, or give its id');
  if (spec.image.length > limits.nameBytes || !WORD.test(spec.image)) {
    throw invalid(
      `${field}.image`,
      spec.image,
      `want a reference or an id: printable ASCII without spaces, at most ${limits.nameBytes} characters`,
    );
  }
  checkEntries(`${field}.annotations`, spec.annotations);
  return spec;
}

/** `reference` is undefined to keep the archive's names. @throws InvalidArgument */
export function narrowImport(request: ImportRequest): {
  readonly path: string;
  readonly reference: string | undefined;
} {
  if (request.path === '') throw missing('path', 'name an OCI layout directory or an archive');
  checkAbsolute('path', request.path);
  const { reference } = request;
  if (reference !== '' && (reference.length > limits.nameBytes || !WORD.test(reference)))
    throw invalid('reference', reference, 'want an image reference, or nothing to keep the names in the archive');
  return { path: request.path, reference: reference === '' ? undefined : reference };
}

// Pod sandboxes

function sandboxConfig(config: PodSandboxConfig | undefined, at: string): SandboxConfig {
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

// Containers

function containerConfig(config: ContainerConfig | undefined): NamedContainerConfig {
  if (config === undefined) throw missing('config', 'a container needs a config');
  const { metadata } = config;
  if (metadata === undefined) throw missing('config.metadata', 'a container needs a name');
  checkName('config.metadata.name', metadata.name);
  const image = namedImage(config.image, 'config.image');
  for (const list of ['command', 'args'] as const)
    config[list].forEach((word, i) => checkNoNul(`config.${list}[${i}]`, word));
  checkNoNul('config.working_dir', config.workingDir);
  config.envs.forEach((env, i) => checkVariable(`config.envs[${i}]`, env));
  for (const [name, list] of [
    ['mounts', config.mounts],
    ['devices', config.devices],
    ['CDI_devices', config.cdiDevices],
  ] as const) {
    checkCount(`config.${name}`, list, limits.mountsCount);
  }
  const mounts = config.mounts.map((mount, i) => narrowMount(`config.mounts[${i}]`, mount));
  for (const device of config.devices) checkDevice(device);
  config.cdiDevices.forEach(({ name }, i) => {
    if (name.length > limits.nameBytes || !WORD.test(name))
      throw invalid(`config.CDI_devices[${i}].name`, name, 'want vendor/class=device');
  });
  checkEntries('config.labels', config.labels);
  checkEntries('config.annotations', config.annotations);
  checkLogPath('config.log_path', config.logPath);
  if (config.linux?.securityContext !== undefined)
    checkContainerSecurity('config.linux.security_context', config.linux.securityContext);
  if (config.linux?.resources !== undefined) checkResources('config.linux.resources', config.linux.resources);
  return { ...config, metadata, image, mounts };
}

function checkVariable(field: string, { key, value }: KeyValue): void {
  if (key === '' || key.length > limits.nameBytes || /[=\0]/.test(key))
    throw invalid(`${field}.key`, key, 'want the name of a variable, without "=" and NUL');
  // The value stays out of the message: it may be a secret.
  if (value.includes(0))
    throw new RuntimeError(
      'InvalidArgument',
      `${field}.value, of ${quote(key)}, holds a NUL byte, which no program can receive`,
    );
}

function narrowMount(field: string, mount: Mount): HostMount | ImageMount {
  containerPath(mount.containerPath);
  checkRecursiveReadOnly(field, mount);
  if (mount.image !== undefined && mount.image.image !== '') {
    const image = namedImage(mount.image, `${field}.image`);
    checkImageSubPath(mount.imageSubPath);
    if (mount.hostPath !== '')
      throw invalid(`${field}.host_path`, mount.hostPath, 'leave it empty when image is set: a mount has one source');
    return { ...mount, image };
  }
  if (mount.hostPath === '') throw missing(`${field}.host_path`, 'a mount needs a path of the node, or an image');
  checkAbsolute(`${field}.host_path`, mount.hostPath);
  if (mount.imageSubPath !== '')
    throw invalid(`${field}.image_sub_path`, mount.imageSubPath, 'it is only for a mount with image');
  return { ...mount, image: undefined };
}

function checkRecursiveReadOnly(field: string, mount: Mount): void {
  if (mount.recursiveReadOnly && (!mount.readonly || mount.propagation !== 'PROPAGATION_PRIVATE')) {
    throw invalid(
      `${field}.recursive_read_only`,
      'true',
      'set readonly and PROPAGATION_PRIVATE too (CRI: must be an error)',
    );
  }
}

function checkDevice(device: Device): void {
  if (device.hostPath.length > limits.nameBytes || device.containerPath.length > limits.nameBytes) {
    throw invalid('config.devices', device.hostPath, `want paths of at most ${limits.nameBytes} characters`);
  }
  checkDeviceRequest(device);
}

/** Joined to the pod's log directory by root: relative, and never up. */
function checkLogPath(field: string, path: string): void {
  if (path.length > limits.nameBytes || path.startsWith('/') || hasControl(path) || path.split('/').includes('..')) {
    throw invalid(field, path, 'want a path relative to the log_directory of the pod, without ".."');
  }
}

function checkContainerSecurity(at: string, security: LinuxContainerSecurityContext): void {
  if (security.runAsUser !== undefined && security.runAsUsername !== '')
    throw invalid(`${at}.run_as_username`, security.runAsUsername, 'set either run_as_user or run_as_username');
  if (security.runAsGroup !== undefined && security.runAsUser === undefined && security.runAsUsername === '') {
    throw invalid(
      `${at}.run_as_group`,
      String(security.runAsGroup.value),
      'set run_as_user or run_as_username too (CRI: must be an error)',
    );
  }
  if (security.runAsUsername.length > limits.nameBytes || /[:\s\0]/.test(security.runAsUsername)) {
    throw invalid(`${at}.run_as_username`, security.runAsUsername, 'want a name from /etc/passwd of the image');
  }
  checkIds(at, security);
  for (const list of ['maskedPaths', 'readonlyPaths'] as const) {
    const field = `${at}.${list === 'maskedPaths' ? 'masked_paths' : 'readonly_paths'}`;
    checkCount(field, security[list], limits.mountsCount);
    security[list].forEach((path, i) => checkAbsolute(`${field}[${i}]`, path));
  }
  checkCapabilities(at, security);
  const { pid, targetId } = security.namespaceOptions ?? { pid: 'POD', targetId: '' };
  if (pid === 'TARGET') narrowId(targetId, `${at}.namespace_options.target_id`);
  seccompChoice(security);
  apparmorChoice(security);
}

/** Only the form; which names exist is for pkg/spec to say. */
function checkCapabilities(at: string, { capabilities }: LinuxContainerSecurityContext): void {
  if (capabilities === undefined) return;
  for (const name of [
    ...capabilities.addCapabilities,
    ...capabilities.dropCapabilities,
    ...capabilities.addAmbientCapabilities,
  ]) {
    if (!/^[A-Za-z0-9_]{1,64}$/.test(name))
      throw invalid(`${at}.capabilities`, name, 'want the name of a capability, such as NET_ADMIN, or ALL');
  }
}

// What both have

type Identity = {
  readonly runAsUser?: Int64Value | undefined;
  readonly runAsGroup?: Int64Value | undefined;
  readonly supplementalGroups: readonly bigint[];
};

function checkIds(at: string, { runAsUser, runAsGroup, supplementalGroups }: Identity): void {
  const check = (field: string, id: bigint): void => {
    if (id < 0n || id > ID_MAX) throw invalid(`${at}.${field}`, String(id), `want 0 to ${ID_MAX}`);
  };
  if (runAsUser !== undefined) check('run_as_user', runAsUser.value);
  if (runAsGroup !== undefined) check('run_as_group', runAsGroup.value);
  checkCount(`${at}.supplemental_groups`, supplementalGroups, limits.groupsCount);
  supplementalGroups.forEach((id, i) => check(`supplemental_groups[${i}]`, id));
}

/** Signs and syntax; what the node can do is for pkg/spec to say. */
function checkResources(field: string, resources: LinuxContainerResources): void {
  const least: readonly (readonly [name: string, value: bigint, least: bigint])[] = [
    ['cpu_period', resources.cpuPeriod, 0n],
    ['cpu_quota', resources.cpuQuota, -1n],
    ['cpu_shares', resources.cpuShares, 0n],
    ['memory_limit_in_bytes', resources.memoryLimitInBytes, -1n],
    ['memory_swap_limit_in_bytes', resources.memorySwapLimitInBytes, -1n],
  ];
  for (const [name, value, min] of least) {
    if (value < min)
      throw invalid(
        `${field}.${name}`,
        String(value),
        min < 0n ? 'want -1 for unlimited, 0 to leave it, or a limit' : 'want 0 to leave it, or a positive number',
      );
  }
  if (resources.oomScoreAdj < -1000n || resources.oomScoreAdj > 1000n)
    throw invalid(`${field}.oom_score_adj`, String(resources.oomScoreAdj), 'want -1000 to 1000');
  for (const [name, list] of [
    ['cpuset_cpus', resources.cpusetCpus],
    ['cpuset_mems', resources.cpusetMems],
  ] as const) {
    if (list.length > limits.nameBytes || !/^(\d+(-\d+)?(,\d+(-\d+)?)*)?$/.test(list))
      throw invalid(`${field}.${name}`, list, 'want a list such as 0-3,7');
  }
  for (const { pageSize } of resources.hugepageLimits)
    if (!/^\d{1,7}[KMG]B$/.test(pageSize))
      throw invalid(`${field}.hugepage_limits`, pageSize, 'want a page size such as 2MB');
  checkEntries(`${field}.unified`, resources.unified);
  // The key becomes the name of a file below /sys/fs/cgroup (GHSA-p4rx: never a path).
  for (const [key, value] of Object.entries(resources.unified)) {
    if (!/^[a-z]+(\.[A-Za-z0-9_]+)+$/.test(key))
      throw invalid(`${field}.unified`, key, 'want the name of a cgroup v2 file, such as memory.high');
    checkNoNul(`${field}.unified`, value);
  }
}

function checkStreams(request: {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
}): void {
  if (!request.stdin && !request.stdout && !request.stderr)
    throw new RuntimeError('InvalidArgument', 'stdin, stdout and stderr are all false: ask for at least one stream');
  if (request.tty && request.stderr)
    throw new RuntimeError(
      'InvalidArgument',
      'tty and stderr are both set: a terminal has one output, so leave stderr out',
    );
}

function command(cmd: readonly string[]): readonly string[] {
  if (cmd.length === 0 || cmd[0] === '') throw missing('cmd', 'give the program to run and its arguments');
  cmd.forEach((word, i) => checkNoNul(`cmd[${i}]`, word));
  return cmd;
}

function checkName(field: string, name: string): void {
  if (name === '') throw missing(field, 'it is part of what tells one from another');
  if (name.length > limits.nameBytes || !NAME.test(name))
    throw invalid(field, name, `want letters, digits, ".", "-", "_", ":" and "@", at most ${limits.nameBytes} of them`);
}

function checkPort(field: string, port: number, least: number): void {
  if (port < least || port > PORT_MAX) throw invalid(field, String(port), `want ${least} to ${PORT_MAX}`);
}

function checkAbsolute(field: string, path: string): void {
  if (path.length > limits.nameBytes || !path.startsWith('/') || hasControl(path) || path.split('/').includes('..')) {
    throw invalid(field, path, 'want an absolute path without ".." and control characters');
  }
}

function checkEntries(field: string, entries: StringMap): void {
  let bytes = 0;
  for (const key of Object.keys(entries)) bytes += Buffer.byteLength(key) + Buffer.byteLength(entries[key] ?? '');
  if (bytes > limits.annotationsBytes)
    throw tooMuch(field, `${bytes} bytes`, `${limits.annotationsBytes} in keys and values together`);
}

function checkCount(field: string, list: readonly unknown[], max: number): void {
  if (list.length > max) throw tooMuch(field, `${list.length} entries`, `${max}`);
}

function checkNoNul(field: string, text: string): void {
  if (text.includes('\0'))
    throw new RuntimeError('InvalidArgument', `${field} holds a NUL byte, which no program can receive`);
}

function hasControl(text: string): boolean {
  return /\p{Cc}/u.test(text);
}

function missing(field: string, remedy: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${field} is missing: ${remedy}`);
}

function invalid(field: string, value: string, wanted: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${field} is ${quote(value)}: ${wanted}`);
}

function tooMuch(field: string, found: string, most: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${field} has ${found}: at most ${most}`);
}
