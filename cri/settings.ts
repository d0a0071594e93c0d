/**
 * What the configuration says about pods, with everything that has to be read or found on the node for it. Called once,
 * by daemon.ts.
 */
import { stat } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';
import { errnoOf, RuntimeError } from '../pkg/base/errors.ts';
import { readBounded, readJson } from '../pkg/base/files.ts';
import { limits } from '../pkg/base/limits.ts';
import type { Logger } from '../pkg/base/op.ts';
import { parseSeccompProfile } from '../pkg/spec/index.ts';
import type { Config, HandlerConfig } from '../pkg/config/index.ts';
import type { DefaultMount, HandlerSettings, PodSettings } from '../pkg/pod/index.ts';
import type { RuntimeFeatures } from '../pkg/ports/runtime.ts';

const KiB = 1024n;
/** What the runtime's own process needs before it becomes the container's, as CRI-O has measured it. */
const MIN_MEMORY_BYTES = { crun: 500n * KiB, others: 12n * KiB * KiB };
/** Looked at when default_mounts_file is not set; the first that is there counts, as with CRI-O and podman. */
const MOUNTS_FILES = ['/etc/containers/mounts.conf', '/usr/share/containers/mounts.conf'];

/** Programs and directories of ours that pods need, and what the kernel has. */
export interface OwnFiles {
  readonly pauseRoot: string;
  /** Path of env-exec; used if it is there. */
  readonly envExec: string;
  /** Whether the kernel enforces or logs SELinux. */
  readonly selinux: boolean;
}

/** @throws InvalidArgument or FailedPrecondition naming what cannot be read: containers would run without it. */
export async function podSettings(
  config: Config,
  handlers: ReadonlyMap<string, HandlerSettings>,
  own: OwnFiles,
  log: Logger,
): Promise<PodSettings> {
  const { runtime } = config;
  return {
    spec: {
      capabilities: runtime.defaultCapabilities,
      addInheritableCapabilities: runtime.addInheritableCapabilities,
      env: runtime.defaultEnv,
      sysctls: runtime.defaultSysctls,
      ulimits: runtime.defaultUlimits,
      seccompProfile: await defaultProfile(runtime.seccompProfile, log),
      privilegedSeccompProfile: await profile(runtime.privilegedSeccompProfile),
      apparmorProfile: runtime.apparmorProfile,
      readOnly: runtime.readOnly,
      pidsLimit: BigInt(runtime.pidsLimit),
      minMemoryBytes: 0n,
      deviceOwner: runtime.deviceOwnershipFromSecurityContext ? 'containerUser' : 'host',
    },
    handlers,
    workloads: runtime.workloads,
    infraCpuset: runtime.infraCtrCpuset,
    bindMountPrefix: runtime.bindMountPrefix,
    selinuxOnHostNetwork: runtime.hostnetworkDisableSelinux ? 'none' : 'label',
    logDir: config.storage.logDir,
    absentMountSourcesToReject: runtime.absentMountSourcesToReject,
    imageVolumes: config.image.imageVolumes,
    defaultMounts: await defaultMounts(runtime.defaultMountsFile),
    additionalDevices: runtime.additionalDevices.map((each) => ({
      hostPath: each.hostPath,
      containerPath: each.containerPath,
      permissions: each.permissions,
    })),
    allowedDevices: runtime.allowedDevices,
    shmBytes: 64n * KiB * KiB,
    pauseRoot: own.pauseRoot,
    dropInfra: runtime.dropInfraCtr,
    hostPorts: runtime.disableHostportMapping ? 'others' : 'network',
    localtime: await localtimeOf(runtime.timezone),
    selinux: own.selinux ? await policyLabels() : null,
    envExec: (await exists(own.envExec)) ? own.envExec : '',
    overlayOptions: config.storage.storageOptions
      .filter((each) => each.startsWith('overlay.mountopt='))
      .flatMap((each) => each.slice('overlay.mountopt='.length).split(',')),
  };
}

/**
 * The part of a handler's table that concerns its containers. @throws InvalidArgument for a seccomp profile that is
 * none.
 */
export async function handlerSettings(
  handler: HandlerConfig | undefined,
  features: RuntimeFeatures,
  log: Logger,
): Promise<HandlerSettings> {
  const least = features.kind === 'crun' ? MIN_MEMORY_BYTES.crun : MIN_MEMORY_BYTES.others;
  return {
    privilegedWithoutHostDevices: handler?.privilegedWithoutHostDevices ?? false,
    minMemoryBytes: handler?.containerMinMemoryBytes || least,
    allowedAnnotations: handler?.allowedAnnotations ?? [],
    defaultAnnotations: handler?.defaultAnnotations ?? new Map(),
    seccompProfile: await defaultProfile(handler?.seccompProfile ?? '', log),
  };
}

/**
 * The profile for RuntimeDefault. One that is not there leaves the next one in force, which is strict as well:
 * distributions' crio.conf names files that few nodes have.
 */
async function defaultProfile(path: string, log: Logger): Promise<unknown> {
  try {
    const found = await profile(path);
    if (found !== undefined) parseSeccompProfile(found);
    return found;
  } catch (cause) {
    if (errnoOf(cause) !== 'ENOENT')
      throw new RuntimeError('InvalidArgument', `seccomp_profile ${path} cannot be used`, { cause });
    log.warn('seccomp_profile is not there, going on without it', { path });
    return undefined;
  }
}

/** A seccomp profile by path, '' = none. */
async function profile(path: string): Promise<unknown> {
  return path === '' ? undefined : await readJson(path, limits.configFileBytes);
}

async function defaultMounts(file: string): Promise<readonly DefaultMount[]> {
  for (const path of file === '' ? MOUNTS_FILES : [file]) {
    const text = await readBounded(path, limits.configFileBytes).catch((cause: unknown) => {
      if (errnoOf(cause) === 'ENOENT' && file === '') return undefined;
      throw new RuntimeError('InvalidArgument', `default_mounts_file ${path} cannot be read`, { cause });
    });
    if (text !== undefined) return parseMounts(path, text.toString('utf8'));
  }
  return [];
}

/** `/source:/destination` per line; empty lines and comments (#) are skipped. */
function parseMounts(path: string, text: string): readonly DefaultMount[] {
  return text.split('\n').flatMap((line, index) => {
    const entry = line.trim();
    if (entry === '' || entry.startsWith('#')) return [];
    const [source = '', containerPath = '', ...more] = entry.split(':');
    const plain = [source, containerPath].every((each) => posix.isAbsolute(each) && !each.split('/').includes('..'));
    if (!plain || more.length > 0 || posix.normalize(containerPath) === '/')
      throw new RuntimeError(
        'InvalidArgument',
        `${path}:${index + 1}: want /source:/destination, got ${JSON.stringify(entry)}`,
      );
    return [{ source, containerPath }];
  });
}

/** `lxc_contexts` of the policy in use, where every container runtime looks; else what the reference policy says. */
async function policyLabels(): Promise<NonNullable<PodSettings['selinux']>> {
  const textOf = async (path: string): Promise<string> =>
    (await readBounded(path, limits.configFileBytes).catch(() => Buffer.alloc(0))).toString('utf8');
  const type = /^\s*SELINUXTYPE\s*=\s*([A-Za-z0-9_-]+)/m.exec(await textOf('/etc/selinux/config'))?.[1] ?? 'targeted';
  const contexts = await textOf(`/etc/selinux/${type}/contexts/lxc_contexts`);
  const labelOf = (name: string): string | undefined =>
    new RegExp(`^\\s*${name}\\s*=\\s*"([A-Za-z0-9_.:,-]+)"`, 'm').exec(contexts)?.[1];
  return {
    processLabel: labelOf('process') ?? 'system_u:system_r:container_t:s0',
    mountLabel: labelOf('file') ?? 'system_u:object_r:container_file_t:s0',
  };
}

async function localtimeOf(timezone: string): Promise<string> {
  if (timezone === '') return '';
  const path = timezone === 'Local' ? '/etc/localtime' : join('/usr/share/zoneinfo', timezone);
  if (timezone.includes('..') || !(await exists(path)))
    throw new RuntimeError(
      'InvalidArgument',
      `timezone ${JSON.stringify(timezone)} is not known on this node (${path})`,
    );
  return path;
}

/**
 * Why the mapped root of a user namespace cannot reach what is below `directory`; undefined if it can. Our own
 * directories let it pass.
 */
export async function whyImpassable(directory: string): Promise<string | undefined> {
  for (let path = directory; path !== '/'; path = dirname(path)) {
    if (((await stat(path)).mode & 0o001) === 0) return `${path} lets only its owner pass; chmod o+x ${path}`;
  }
  return undefined;
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
