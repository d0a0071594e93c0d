/** The config of a container, narrowed. Pure. */
import { RuntimeError } from '../pkg/base/errors.ts';
import { quote } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';
import type { ContainerConfig, Device, KeyValue, LinuxContainerSecurityContext, Mount } from '../pkg/cri-api/types.ts';
import type { HostMount, ImageMount, NamedContainerConfig } from '../pkg/ports/requests.ts';
import {
  apparmorChoice,
  checkDeviceRequest,
  checkImageSubPath,
  containerPath,
  seccompChoice,
} from '../pkg/spec/index.ts';
import {
  WORD,
  checkAbsolute,
  checkCount,
  checkEntries,
  checkIds,
  checkName,
  checkNoNul,
  checkResources,
  hasControl,
  invalid,
  missing,
  namedImage,
  narrowId,
} from './checks.ts';

/** The config of a container, with its name and its image. @throws InvalidArgument */
export function containerConfig(config: ContainerConfig | undefined): NamedContainerConfig {
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

/** Linux' own, of one name in a path. */
const NAME_MAX_BYTES = 255;

/** Joined to the pod's log directory by root: relative, never up, and the name of a file. */
function checkLogPath(field: string, path: string): void {
  const parts = path.split('/');
  const fits = parts.every((part) => part !== '..' && Buffer.byteLength(part) <= NAME_MAX_BYTES);
  const isDirectory = path !== '' && ['', '.'].includes(parts.at(-1) ?? '');
  if (path.length > limits.nameBytes || path.startsWith('/') || hasControl(path) || !fits || isDirectory) {
    const wanted = `names of at most ${NAME_MAX_BYTES} bytes`;
    throw invalid(field, path, `want the path of a file relative to the log_directory of the pod: no "..", ${wanted}`);
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
