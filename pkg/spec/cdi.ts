/**
 * Container Device Interface (CDI, specification 1.1): spec files that say what a named device is made of, and the
 * edits that give it to a container. PURE: files are read, and device nodes looked up, by the caller.
 *
 *   loadCdi(files)  →  registry      cdiDevicesOf(config)  →  names
 *   cdiEdits(registry, names)  →  edits      cdiLookups(edits)  →  host paths to look up
 *   applyCdi(spec, edits, found)  →  spec
 */
import { posix } from 'node:path';
import { explain, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { ContainerConfig } from '../cri-api/types.ts';
import type { RuntimeHook, RuntimeLinux, RuntimeMount, RuntimeSpec } from '../oci/spec-types.ts';
import { Reader } from './parse.ts';
import { type GoObject, isUnset } from '../base/go.ts';
import type {
  CdiDevice,
  CdiDeviceNode,
  CdiEdits,
  CdiMount,
  CdiRegistry,
  ConfigFile,
  DamagedFile,
  HookStage,
} from '../ports/extensions.ts';
import type { FoundDevice } from '../ports/spec.ts';

const STAGES: readonly HookStage[] = [
  'prestart',
  'createRuntime',
  'createContainer',
  'startContainer',
  'poststart',
  'poststop',
];
/** CDI's own readers take a `v` in front. */
const VERSION = /^v?(0\.[3-8]|1\.[01])\.\d+$/;
const VENDOR = /^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$/;
const CLASS = /^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$/;
const NAME = /^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$/;
const QUALIFIED = /^([^/=]{1,253})\/([^/=]{1,253})=([^=/]{1,253})$/;
/** What the fields of a CDI device are in Go. */
const UINT32_MAX = 2 ** 32 - 1;

// Loading

/**
 * The devices of all spec files. A later directory wins over an earlier one; within one directory a device that two
 * files describe is a conflict, and so unusable. A file that breaks a rule is told in `damaged`; devices of other files
 * do not suffer.
 */
export function loadCdi(files: readonly ConfigFile[]): CdiRegistry {
  const devices = new Map<string, CdiDevice>();
  const conflicts = new Map<string, string[]>();
  const damaged: DamagedFile[] = [];
  for (const file of [...files].sort((a, b) => a.directory - b.directory || (a.path < b.path ? -1 : 1))) {
    let parsed: readonly CdiDevice[];
    try {
      parsed = parseSpec(file);
    } catch (error) {
      damaged.push({ path: file.path, why: explain(error) });
      continue;
    }
    for (const device of parsed) {
      const other = devices.get(device.name);
      if (other !== undefined && other.directory === device.directory)
        conflicts.set(device.name, [...(conflicts.get(device.name) ?? [other.path]), device.path]);
      else conflicts.delete(device.name);
      devices.set(device.name, device);
    }
  }
  return { devices, conflicts, damaged };
}

function parseSpec(file: ConfigFile): readonly CdiDevice[] {
  const read = new Reader(`CDI spec ${file.path}`, file.notation);
  const root = read.exactly(file.value, 'file', ['cdiVersion', 'kind', 'annotations', 'containerEdits', 'devices']);
  read.matching(root.get('cdiVersion'), VERSION, 'cdiVersion');
  read.map(root.get('annotations'), 'annotations');
  const kind = read.string(root.get('kind'), 'kind') ?? '';
  const [vendor = '', cls = '', ...rest] = kind.split('/');
  if (!VENDOR.test(vendor) || !CLASS.test(cls) || rest.length > 0)
    throw read.fail('kind', `want vendor/class, got ${quote(kind)}`);
  const common = parseEdits(read, root.get('containerEdits'), 'containerEdits');
  const devices = read.list(root.get('devices'), 'devices', limits.documentEntriesCount).map((value, index) => {
    const at = `devices[${index}]`;
    const device = read.exactly(value, at, ['name', 'annotations', 'containerEdits']);
    read.map(device.get('annotations'), `${at}.annotations`);
    const name = `${kind}=${read.matching(device.get('name'), NAME, `${at}.name`)}`;
    return {
      name,
      path: file.path,
      directory: file.directory,
      edits: parseEdits(
        read,
        device.get('containerEdits') ?? missing(read, `${at}.containerEdits`),
        `${at}.containerEdits`,
      ),
      common,
    };
  });
  const names = new Set<string>();
  for (const { name } of devices) {
    if (names.has(name)) throw read.fail('devices', `${quote(name)} is there twice`);
    names.add(name);
  }
  return devices;
}

/** A device is what its edits are: without any it is a mistake. */
function missing(read: Reader, at: string): never {
  throw read.fail(at, 'want an object');
}

const NO_EDITS: CdiEdits = {
  env: [],
  deviceNodes: [],
  mounts: [],
  hooks: [],
  additionalGids: [],
  intelRdt: undefined,
  unsupported: [],
};

function parseEdits(read: Reader, value: unknown, at: string): CdiEdits {
  if (isUnset(value)) return NO_EDITS;
  const edits = read.exactly(value, at, [
    'env',
    'deviceNodes',
    'netDevices',
    'mounts',
    'hooks',
    'intelRdt',
    'additionalGids',
  ]);
  const each = <T>(key: string, parse: (value: unknown, at: string) => T): readonly T[] =>
    read
      .list(edits.get(key), `${at}.${key}`, limits.documentEntriesCount)
      .map((item, index) => parse(item, `${at}.${key}[${index}]`));
  const env = read.strings(edits.get('env'), `${at}.env`) ?? [];
  for (const entry of env)
    if (entry.indexOf('=') < 1 || entry.includes('\0'))
      throw read.fail(`${at}.env`, `want NAME=value, got ${quote(entry)}`);
  return {
    env,
    deviceNodes: each('deviceNodes', (item, place) => parseNode(read, item, place)),
    mounts: each('mounts', (item, place) => parseMount(read, item, place)),
    hooks: each('hooks', (item, place) => parseHook(read, item, place)),
    additionalGids: each('additionalGids', (item, place) => read.number(item, place, UINT32_MAX) ?? 0).filter(
      (gid) => gid !== 0,
    ),
    intelRdt: parseRdt(read, edits.get('intelRdt'), `${at}.intelRdt`),
    unsupported: unsupportedParts(read, edits, at),
  };
}

/**
 * What came after the runtimes of today: a device that needs it is refused when asked for, not silently given in part.
 */
function unsupportedParts(read: Reader, edits: GoObject, at: string): readonly string[] {
  const rdt = read.object(edits.get('intelRdt') ?? {}, `${at}.intelRdt`);
  return [
    ...(read.list(edits.get('netDevices'), `${at}.netDevices`, limits.documentEntriesCount).length > 0
      ? ['netDevices']
      : []),
    ...(read.list(rdt.get('schemata'), `${at}.intelRdt.schemata`, limits.documentEntriesCount).length > 0
      ? ['intelRdt.schemata']
      : []),
    ...(read.flag(rdt.get('enableMonitoring'), `${at}.intelRdt.enableMonitoring`) === true
      ? ['intelRdt.enableMonitoring']
      : []),
  ];
}

function parseNode(read: Reader, value: unknown, at: string): CdiDeviceNode {
  const node = read.exactly(value, at, [
    'path',
    'hostPath',
    'type',
    'major',
    'minor',
    'fileMode',
    'permissions',
    'uid',
    'gid',
  ]);
  const path = plainPath(read, node.get('path'), `${at}.path`);
  const type = read.string(node.get('type'), `${at}.type`) || undefined;
  if (type !== undefined && !/^[bcup]$/.test(type))
    throw read.fail(`${at}.type`, `want b, c, u or p, got ${quote(type)}`);
  const permissions = read.string(node.get('permissions'), `${at}.permissions`) || 'rwm';
  if (!/^[rwm]{1,3}$/.test(permissions))
    throw read.fail(`${at}.permissions`, `want a combination of r, w and m, got ${quote(permissions)}`);
  const id = (key: string): number | undefined => read.number(node.get(key), `${at}.${key}`, UINT32_MAX);
  return {
    path,
    type,
    permissions,
    hostPath: plainPath(read, node.get('hostPath') ?? path, `${at}.hostPath`),
    major: id('major'),
    minor: id('minor'),
    fileMode: id('fileMode'),
    uid: id('uid'),
    gid: id('gid'),
  };
}

function parseMount(read: Reader, value: unknown, at: string): CdiMount {
  const mount = read.exactly(value, at, ['hostPath', 'containerPath', 'options', 'type']);
  const hostPath = read.string(mount.get('hostPath'), `${at}.hostPath`) ?? '';
  if (hostPath === '' || hostPath.includes('\0')) throw read.fail(`${at}.hostPath`, 'is missing');
  return {
    hostPath,
    containerPath: plainPath(read, mount.get('containerPath'), `${at}.containerPath`),
    type: read.string(mount.get('type'), `${at}.type`) ?? '',
    options: read.strings(mount.get('options'), `${at}.options`) ?? [],
  };
}

function parseHook(read: Reader, value: unknown, at: string): readonly [HookStage, RuntimeHook] {
  const hook = read.exactly(value, at, ['hookName', 'path', 'args', 'env', 'timeout']);
  const stage = STAGES.find((each) => each === hook.get('hookName'));
  if (stage === undefined) throw read.fail(`${at}.hookName`, `want one of ${STAGES.join(', ')}`);
  const args = read.strings(hook.get('args'), `${at}.args`);
  const env = read.strings(hook.get('env'), `${at}.env`);
  const timeout = read.number(hook.get('timeout'), `${at}.timeout`, 86_400);
  return [
    stage,
    {
      path: read.path(hook.get('path'), `${at}.path`),
      ...(args === undefined ? {} : { args: [...args] }),
      ...(env === undefined ? {} : { env: [...env] }),
      ...(timeout ? { timeout } : {}),
    },
  ];
}

function parseRdt(read: Reader, value: unknown, at: string): CdiEdits['intelRdt'] {
  if (isUnset(value)) return undefined;
  const rdt = read.exactly(value, at, [
    'closID',
    'l3CacheSchema',
    'memBwSchema',
    'schemata',
    'enableMonitoring',
    'enableCMT',
    'enableMBM',
  ]);
  const closID = read.string(rdt.get('closID'), `${at}.closID`) ?? '';
  if (closID.length >= 4096 || closID === '.' || closID === '..' || /[/\n]/.test(closID))
    throw read.fail(`${at}.closID`, `not a name: ${quote(closID)}`);
  const text = (key: 'l3CacheSchema' | 'memBwSchema'): Partial<Record<typeof key, string>> => {
    const schema = read.string(rdt.get(key), `${at}.${key}`);
    return schema === undefined ? {} : { [key]: schema };
  };
  return { ...(closID === '' ? {} : { closID }), ...text('l3CacheSchema'), ...text('memBwSchema') };
}

function plainPath(read: Reader, value: unknown, at: string): string {
  const path = read.path(value, at);
  if (path.split('/').includes('..') || posix.normalize(path) === '/')
    throw read.fail(at, `want a path below / without .., got ${quote(path)}`);
  return posix.resolve(path);
}

// Choosing

/**
 * Annotations of a container with this prefix name devices, the way from before CRI had a field (never from a restored
 * checkpoint: CVE-2026-53492).
 */
const ANNOTATION_PREFIX = 'cdi.k8s.io/';

/**
 * The qualified names of the CDI devices that a container asks for, field first, then annotations by key, each once.
 * @throws InvalidArgument for what is no qualified name.
 */
export function cdiDevicesOf(config: Pick<ContainerConfig, 'cdiDevices' | 'annotations'>): readonly string[] {
  const names = new Set<string>();
  for (const { name } of config.cdiDevices) names.add(checkedName(name, 'CDI_devices'));
  for (const [key, value] of Object.entries(config.annotations).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (key.startsWith(ANNOTATION_PREFIX))
      for (const name of value.split(',')) names.add(checkedName(name, `annotation ${quote(key)}`));
  }
  return [...names];
}

function checkedName(name: string, where: string): string {
  const [, vendor = '', cls = '', device = ''] = QUALIFIED.exec(name) ?? [];
  if (VENDOR.test(vendor) && CLASS.test(cls) && NAME.test(device)) return name;
  throw new RuntimeError(
    'InvalidArgument',
    `${where}: ${quote(name)} is not a CDI device name; want vendor/class=name`,
  );
}

/**
 * What giving these devices to a container takes: the edits of each file once, then those of each device, in the order
 * of the names.
 * @throws FailedPrecondition naming every device that is unknown, described twice, or beyond what Berth does.
 */
export function cdiEdits(registry: CdiRegistry, names: readonly string[]): CdiEdits {
  const problems: string[] = [];
  const parts: CdiEdits[] = [];
  const files = new Set<string>();
  for (const name of names) {
    const device = registry.devices.get(name);
    const conflict = registry.conflicts.get(name);
    const unsupported = device === undefined ? [] : [...device.common.unsupported, ...device.edits.unsupported];
    if (device === undefined) problems.push(`${name} (in no spec file)`);
    else if (conflict !== undefined) problems.push(`${name} (described by ${conflict.join(' and ')})`);
    else if (unsupported.length > 0) problems.push(`${name} (needs ${unsupported.join(', ')}, which is not supported)`);
    else {
      if (!files.has(device.path)) parts.push(device.common);
      files.add(device.path);
      parts.push(device.edits);
    }
  }
  if (problems.length > 0) {
    const broken = registry.damaged.map(({ path, why }) => `; ${path} is unusable: ${why}`).join('');
    throw new RuntimeError('FailedPrecondition', `unresolvable CDI devices ${problems.join(', ')}${broken}`);
  }
  return {
    env: parts.flatMap((part) => part.env),
    deviceNodes: parts.flatMap((part) => part.deviceNodes),
    mounts: parts.flatMap((part) => part.mounts),
    hooks: parts.flatMap((part) => part.hooks),
    additionalGids: parts.flatMap((part) => part.additionalGids),
    intelRdt: parts.findLast((part) => part.intelRdt !== undefined)?.intelRdt,
    unsupported: [],
  };
}

// Applying

/** Host paths of the device nodes whose type and numbers the files leave to the host. */
export function cdiLookups(edits: CdiEdits): readonly string[] {
  return [...new Set(edits.deviceNodes.filter(isIncomplete).map((node) => node.hostPath))];
}

function isIncomplete(node: CdiDeviceNode): boolean {
  return node.type !== 'p' && (node.type === undefined || node.major === undefined || node.minor === undefined);
}

/**
 * The spec with the edits. Environment, mounts and device nodes replace what has the same name or place; groups and
 * hooks are added. `found` has what the host has at each path of cdiLookups. @throws FailedPrecondition for a path that
 * is not in it.
 */
export function applyCdi(spec: RuntimeSpec, edits: CdiEdits, found: ReadonlyMap<string, FoundDevice>): RuntimeSpec {
  const nodes = edits.deviceNodes.map((node) => deviceOf(node, found, spec.process.user));
  const paths = new Set(nodes.map((node) => node.path));
  const hooks: NonNullable<RuntimeSpec['hooks']> = { ...spec.hooks };
  for (const [stage, hook] of edits.hooks) hooks[stage] = [...(hooks[stage] ?? []), hook];
  const devices = [
    ...(spec.linux.devices ?? []).filter((device) => !paths.has(device.path)),
    ...new Map(nodes.map((node) => [node.path, node])).values(),
  ];
  const rules = edits.deviceNodes.flatMap((node, at) => {
    const device = nodes[at];
    return device === undefined || device.type === 'p'
      ? []
      : [{ allow: true, type: device.type, major: device.major, minor: device.minor, access: node.permissions }];
  });
  return {
    ...spec,
    process: {
      ...spec.process,
      env: withEnv(spec.process.env, edits.env),
      user: {
        ...spec.process.user,
        additionalGids: [...new Set([...(spec.process.user.additionalGids ?? []), ...edits.additionalGids])],
      },
    },
    mounts: withMounts(spec.mounts, edits.mounts),
    ...(Object.keys(hooks).length === 0 ? {} : { hooks }),
    linux: {
      ...spec.linux,
      ...(devices.length === 0 ? {} : { devices }),
      resources: { ...spec.linux.resources, devices: [...(spec.linux.resources?.devices ?? []), ...rules] },
      ...(edits.intelRdt === undefined ? {} : { intelRdt: edits.intelRdt }),
    },
  };
}

type Device = NonNullable<RuntimeLinux['devices']>[number];

/**
 * A node without an owner belongs to the container's user, so that a process without root can use what it was given
 * (CDI).
 */
function deviceOf(
  node: CdiDeviceNode,
  found: ReadonlyMap<string, FoundDevice>,
  user: { readonly uid: number; readonly gid: number },
): Device {
  const host = found.get(node.hostPath);
  if (isIncomplete(node) && host === undefined)
    throw new RuntimeError('FailedPrecondition', `CDI device node ${quote(node.hostPath)} does not exist on this node`);
  const uid = node.uid ?? (user.uid > 0 ? user.uid : host?.uid);
  const gid = node.gid ?? (user.gid > 0 ? user.gid : host?.gid);
  const fileMode = node.fileMode ?? host?.fileMode;
  return {
    type: node.type ?? host?.type ?? 'c',
    path: node.path,
    major: node.major ?? host?.major ?? 0,
    minor: node.minor ?? host?.minor ?? 0,
    ...(fileMode === undefined ? {} : { fileMode: fileMode & 0o7777 }),
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid }),
  };
}

function withEnv(env: readonly string[], more: readonly string[]): string[] {
  const byName = new Map([...env, ...more].map((entry) => [entry.slice(0, entry.indexOf('=')), entry]));
  return [...byName.values()];
}

/** Sorted by depth again: a mount of a device may lie above or below others. */
function withMounts(mounts: readonly RuntimeMount[], more: readonly CdiMount[]): RuntimeMount[] {
  if (more.length === 0) return [...mounts];
  const taken = new Set(more.map((mount) => mount.containerPath));
  const added = more.map((mount) => ({
    destination: mount.containerPath,
    type: mount.type || 'bind',
    source: mount.hostPath,
    options: isBind(mount) ? [...mount.options] : ['rbind', ...mount.options],
  }));
  return [...mounts.filter((mount) => !taken.has(mount.destination)), ...added].sort(
    (a, b) => a.destination.split('/').length - b.destination.split('/').length,
  );
}

function isBind(mount: CdiMount): boolean {
  return (
    (mount.type !== '' && mount.type !== 'bind') || mount.options.includes('bind') || mount.options.includes('rbind')
  );
}
