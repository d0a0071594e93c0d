/**
 * The input half of a golden file: what differs from an ordinary container on an ordinary node, as JSON, made into a
 * ContainerSpecInput or PauseSpecInput. For tests only.
 *
 * The ordinary container: `sh` as root from a small image, no security context beyond what the kubelet always sends, in
 * a pod with its own network, IPC and UTS namespaces, on a cgroup v2 node with cgroupfs, everything enabled but SELinux
 * and AppArmor.
 */
import type { ContainerConfig, PodSandboxConfig } from '../../cri-api/types.ts';
import type { ImageConfig, RuntimeSpec } from '../../oci/spec-types.ts';
import { buildContainerSpec, buildPauseSpec } from '../build.ts';
import { CAPABILITIES } from '../process.ts';
import { resolveUser } from '../user.ts';
import type { ContainerSpecInput, NodeFacts, SpecDefaults } from '../../ports/spec.ts';

type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };
type JsonObject = { readonly [key: string]: Json };

/** A golden file. Everything but `about` and `spec` may be left out. */
export interface GoldenCase {
  readonly about: string;
  /** `pause` builds an infra container's spec from `pod`, `node`, `defaults`, `runtime` and `found`. */
  readonly kind?: 'container' | 'pause';
  readonly container?: JsonObject;
  readonly pod?: JsonObject;
  readonly image?: JsonObject;
  readonly passwd?: string;
  readonly group?: string;
  readonly node?: JsonObject;
  readonly defaults?: JsonObject;
  readonly runtime?: JsonObject;
  /** The other fields of the input, as they are named there; `namespaces` and `annotations` as objects. */
  readonly found?: JsonObject;
  readonly spec?: Json;
}

const PASSWD = 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n';
const GROUP = 'root:x:0:\nwheel:x:10:app\napp:x:1000:\nstaff:x:50:app,root\n';

/** The spec that a golden case becomes. */
export function buildGolden(golden: GoldenCase): RuntimeSpec {
  const input = inputOf(golden);
  if (golden.kind !== 'pause') return buildContainerSpec(input);
  return buildPauseSpec({ ...input, cpuset: textOf(golden.found?.['cpuset']) });
}

const NOTHING_FOUND = {
  volumes: [],
  devices: [],
  hostDevices: [],
  idMap: null,
  selinux: { processLabel: '', mountLabel: '' },
  localhostSeccomp: undefined,
  annotatedSeccomp: undefined,
  hostname: 'web-0',
  seccompListener: '',
  blockIo: undefined,
  cgroupAccess: 'ro',
  umask: undefined,
  fallbackEnv: new Map<string, string>(),
  fixedEnv: new Map<string, string>(),
  execCpus: '',
  envExec: '',
  infra: '',
  pid: { mode: 'private' },
} as const;

/** The whole input of a golden case; also the base of table tests. */
export function inputOf(golden: Partial<GoldenCase> = {}): ContainerSpecInput {
  const config = containerOf(golden.container);
  const pod = podOf(golden.pod);
  const image = imageOf(golden.image);
  const found = golden.found ?? {};
  const facts = factsOf(golden.node);
  return {
    id: 'c0ffee',
    pod,
    config,
    image,
    root: '/rootfs/c0ffee/merged',
    facts,
    defaults: defaultsOf(golden.defaults),
    runtime: {
      ociVersion: '1.1.0',
      recursiveReadOnlyMounts: true,
      idmappedMounts: true,
      privilegedWithoutHostDevices: false,
      capabilities: undefined,
      ownKernel: false,
      ...(golden.runtime as object),
    },
    cgroupsPath: '/kubepods/burstable/pod1/crio-c0ffee.scope',
    user: resolveUser({
      security: config.linux?.securityContext,
      imageUser: image.user,
      passwd: Buffer.from(golden.passwd ?? PASSWD),
      group: Buffer.from(golden.group ?? GROUP),
    }).user,
    mounts: config.mounts.map((mount) => ({
      source: mount.hostPath,
      kind: 'directory',
      propagation: 'private',
      image: false,
    })),
    ...NOTHING_FOUND,
    ...(found as object),
    files: {
      resolvConf: '/run/pod/resolv.conf',
      hostname: '/run/pod/hostname',
      hosts: '',
      shm: '/run/pod/shm',
      passwd: '',
      group: '',
      containerenv: '',
      fips: '',
      localtime: '',
      ...(found['files'] as object),
    },
    namespaces: mapOf(
      found['namespaces'] ?? { net: '/run/ns/net', ipc: '/run/ns/ipc', uts: '/run/ns/uts' },
    ) as ContainerSpecInput['namespaces'],
    annotations: mapOf(found['annotations'] ?? {}),
  };
}

function mapOf(object: Json): ReadonlyMap<string, string> {
  return new Map(Object.entries(object as Record<string, string>));
}

const PROFILES = { apparmorProfile: '', seccompProfilePath: '' };
const SECURITY = {
  privileged: false,
  runAsUsername: '',
  readonlyRootfs: false,
  supplementalGroups: [],
  noNewPrivs: false,
  supplementalGroupsPolicy: 'Merge',
  maskedPaths: ['/proc/kcore', '/proc/keys'],
  readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
  ...PROFILES,
};
const RESOURCES = {
  cpuPeriod: 0n,
  cpuQuota: 0n,
  cpuShares: 0n,
  memoryLimitInBytes: 0n,
  oomScoreAdj: 0n,
  cpusetCpus: '',
  cpusetMems: '',
  hugepageLimits: [],
  unified: {},
  memorySwapLimitInBytes: 0n,
};
const MOUNT = {
  containerPath: '',
  hostPath: '',
  readonly: false,
  selinuxRelabel: false,
  propagation: 'PROPAGATION_PRIVATE',
  uidMappings: [],
  gidMappings: [],
  recursiveReadOnly: false,
  imageSubPath: '',
  mountOptions: [],
};

function containerOf(overlay: JsonObject = {}): ContainerConfig {
  const given = withBigints(overlay) as Record<string, never>;
  const linux = (given['linux'] ?? {}) as Record<string, object>;
  return {
    metadata: { name: 'web', attempt: 0 },
    image: { image: 'sha256:1', annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
    command: [],
    args: [],
    workingDir: '',
    devices: [],
    labels: {},
    annotations: {},
    logPath: 'web/0.log',
    stdin: false,
    stdinOnce: false,
    tty: false,
    cdiDevices: [],
    stopSignal: 'SIGNAL_RUNTIME_DEFAULT',
    ...(given as object),
    envs: ((overlay['envs'] ?? []) as JsonObject[]).map((env) => ({ key: textOf(env['key']), value: bytesOf(env) })),
    mounts: ((given['mounts'] ?? []) as object[]).map((mount) => ({ ...MOUNT, ...mount })),
    linux: {
      securityContext: { ...SECURITY, ...linux['securityContext'] },
      ...(linux['resources'] === undefined ? {} : { resources: { ...RESOURCES, ...linux['resources'] } }),
    },
  } as unknown as ContainerConfig;
}

function podOf(overlay: JsonObject = {}): PodSandboxConfig {
  const given = withBigints(overlay) as Record<string, never>;
  const linux = (given['linux'] ?? {}) as Record<string, object>;
  return {
    metadata: { name: 'web-0', uid: 'u1', namespace: 'default', attempt: 0 },
    hostname: 'web-0',
    logDirectory: '/var/log/pods/1',
    portMappings: [],
    labels: {},
    annotations: {},
    ...(given as object),
    linux: {
      cgroupParent: '',
      sysctls: {},
      ...linux,
      securityContext: {
        privileged: false,
        readonlyRootfs: false,
        supplementalGroups: [],
        supplementalGroupsPolicy: 'Merge',
        ...PROFILES,
        ...linux['securityContext'],
      },
    },
  } as unknown as PodSandboxConfig;
}

function imageOf(overlay: JsonObject = {}): ImageConfig {
  return {
    architecture: 'amd64',
    os: 'linux',
    user: '',
    env: ['PATH=/bin'],
    entrypoint: [],
    cmd: ['sh'],
    volumes: [],
    workingDir: '',
    labels: {},
    stopSignal: '',
    exposedPorts: [],
    diffIds: [],
    ...(overlay as object),
  };
}

/** An ordinary node, and what differs on this one. */
export function factsOf(overlay: JsonObject = {}): NodeFacts {
  const { controllers, withoutCapabilities, rlimitMax, ...plain } = overlay as Record<string, never>;
  return {
    cgroupMode: 'v2',
    cgroupManager: 'cgroupfs',
    ownService: '',
    swapLimit: true,
    oomScoreAdjMin: -1000,
    apparmor: false,
    selinux: false,
    seccomp: true,
    machine: 'x86_64',
    kernel: '6.18.0',
    hugepageSizes: ['2MB', '1GB'],
    maskedPaths: [],
    tellsFips: false,
    ...(plain as object),
    controllers: new Set(controllers ?? ['cpu', 'cpuset', 'memory', 'pids', 'hugetlb', 'io']),
    capabilities: new Set(CAPABILITIES.filter((name) => !((withoutCapabilities ?? []) as string[]).includes(name))),
    rlimitMax: new Map(
      Object.entries((rlimitMax ?? {}) as Record<string, number>).map(([name, limit]) => [name, BigInt(limit)]),
    ),
  } as NodeFacts;
}

/** The defaults of the configuration, and what differs in this one. */
export function defaultsOf(overlay: JsonObject = {}): SpecDefaults {
  const { sysctls, ...plain } = withBigints(overlay) as Record<string, never>;
  return {
    capabilities: [
      'CHOWN',
      'DAC_OVERRIDE',
      'FSETID',
      'FOWNER',
      'SETGID',
      'SETUID',
      'SETPCAP',
      'NET_BIND_SERVICE',
      'KILL',
    ],
    addInheritableCapabilities: false,
    env: [],
    ulimits: [],
    seccompProfile: undefined,
    privilegedSeccompProfile: undefined,
    apparmorProfile: 'berth-default',
    readOnly: false,
    pidsLimit: 0n,
    minMemoryBytes: 0n,
    deviceOwner: 'host',
    ...(plain as object),
    sysctls: mapOf(sysctls ?? {}),
  };
}

/** 64-bit fields of CRI and of our settings: JSON numbers here, bigint in a message. Larger ones are strings. */
const BIGINTS = new Set(
  (
    'cpuPeriod cpuQuota cpuShares memoryLimitInBytes oomScoreAdj memorySwapLimitInBytes limit ' +
    'value supplementalGroups pidsLimit minMemoryBytes soft hard'
  ).split(' '),
);

function withBigints(value: Json, key = ''): unknown {
  if (BIGINTS.has(key) && (typeof value === 'number' || (typeof value === 'string' && /^-?\d+$/.test(value))))
    return BigInt(value);
  if (Array.isArray(value)) return value.map((each) => withBigints(each, key));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, withBigints(each as Json, name)]));
}

/** An environment value: `value` is text, `hex` is bytes. */
function bytesOf(env: JsonObject): Uint8Array {
  const hex = env['hex'];
  return typeof hex === 'string' ? Buffer.from(hex, 'hex') : new TextEncoder().encode(textOf(env['value']));
}

function textOf(json: Json | undefined): string {
  return typeof json === 'string' ? json : '';
}
