/**
 * What the configuration says about pods, with everything that has to be read or found on the node for it: at start,
 * and when a reload changes it.
 */
import { stat } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';
import { errnoOf, explain, RuntimeError } from '../pkg/base/errors.ts';
import { readBounded, readJson } from '../pkg/base/files.ts';
import { limits } from '../pkg/base/limits.ts';
import type { LogFields, Logger } from '../pkg/base/op.ts';
import { annotations, DEFAULT_PROFILE, parseSeccompProfile } from '../pkg/spec/index.ts';
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

/** Who is told what, and what a refusal names. */
export interface Telling {
  readonly log: Logger;
  /** Who set a key, by its full name (`LoadedConfig.places`). */
  readonly places: ReadonlyMap<string, string>;
}

/**
 * What the configuration says about pods.
 * @throws InvalidArgument naming key, place, file and remedy for what would leave containers less isolated than the
 * configuration means them to be.
 */
export async function podSettings(
  config: Config,
  handlers: ReadonlyMap<string, HandlerSettings>,
  own: OwnFiles,
  telling: Telling,
): Promise<PodSettings> {
  const { runtime } = config;
  for (const { name, allowedAnnotations } of runtime.workloads)
    tellIneffective(allowedAnnotations, { workload: name }, telling);
  return {
    spec: {
      capabilities: runtime.defaultCapabilities,
      addInheritableCapabilities: runtime.addInheritableCapabilities,
      env: runtime.defaultEnv,
      sysctls: runtime.defaultSysctls,
      ulimits: runtime.defaultUlimits,
      seccompProfile: await commonProfile('crio.runtime.seccomp_profile', runtime.seccompProfile, telling),
      privilegedSeccompProfile: await commonProfile(
        'crio.runtime.privileged_seccomp_profile',
        runtime.privilegedSeccompProfile,
        telling,
      ),
      apparmorProfile: runtime.apparmorProfile === 'unconfined' ? '' : runtime.apparmorProfile,
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
    sharedCpuset: runtime.sharedCpuset,
    minGoMaxProcs: runtime.minInjectedGomaxprocs,
    leastMappable: { uid: runtime.minimumMappableUid, gid: runtime.minimumMappableGid },
    imageVolumes: config.image.imageVolumes,
    artifactVolumes: config.image.ociArtifactMountSupport,
    defaultMounts: await defaultMounts(runtime.defaultMountsFile, telling.log),
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
    localtime: await localtimeOf(runtime.timezone, telling),
    selinux: own.selinux && runtime.selinux ? await policyLabels() : null,
    envExec: (await exists(own.envExec)) ? own.envExec : '',
    overlayOptions: config.storage.storageOptions
      .filter((each) => each.startsWith('overlay.mountopt='))
      .flatMap((each) => each.slice('overlay.mountopt='.length).split(',')),
  };
}

/**
 * The part of a handler's table that concerns its containers. `name` is the handler's. @throws InvalidArgument for a
 * seccomp profile that is absent or none: its containers would run under another one than theirs.
 */
export async function handlerSettings(
  name: string,
  handler: HandlerConfig | undefined,
  features: RuntimeFeatures,
  telling: Telling,
): Promise<HandlerSettings> {
  const least = features.kind === 'crun' ? MIN_MEMORY_BYTES.crun : MIN_MEMORY_BYTES.others;
  tellIneffective(handler?.allowedAnnotations ?? [], { handler: name }, telling);
  const profile = handler?.seccompProfile ?? '';
  return {
    privilegedWithoutHostDevices: handler?.privilegedWithoutHostDevices ?? false,
    minMemoryBytes: handler?.containerMinMemoryBytes || least,
    allowedAnnotations: handler?.allowedAnnotations ?? [],
    defaultAnnotations: handler?.defaultAnnotations ?? new Map(),
    execCpuAffinity: handler?.execCpuAffinity === 'first' ? 'first' : '',
    seccompProfile:
      profile === ''
        ? undefined
        : await profileIn(`crio.runtime.runtimes.${name}.seccomp_profile`, profile, telling.places),
  };
}

/** Why a handler cannot be had for what its table names; undefined if it can. */
export async function whyUnusable({ name, seccompProfile }: HandlerConfig): Promise<string | undefined> {
  if (seccompProfile === '') return undefined;
  return await profileIn(`crio.runtime.runtimes.${name}.seccomp_profile`, seccompProfile, new Map()).then(
    () => undefined,
    explain,
  );
}

/** A warning for each annotation that is allowed and changes nothing here. */
function tellIneffective(allowed: readonly string[], whose: LogFields, { log }: Telling): void {
  for (const annotation of annotations.ineffective(allowed))
    log.warn('an allowed annotation has no effect, ignoring', { ...whose, annotation });
}

/**
 * A profile for all handlers; undefined for ''. One that is not there is the built-in one, with a warning, as with
 * CRI-O: distributions' crio.conf names files that few nodes have, and the built-in one is strict as well.
 */
async function commonProfile(key: string, path: string, { log, places }: Telling): Promise<unknown> {
  if (path === '') return undefined;
  if (await exists(path)) return await profileIn(key, path, places);
  log.warn('a seccomp profile is not there, the built-in one is used', { key, path, place: places.get(key) });
  return DEFAULT_PROFILE;
}

async function profileIn(key: string, path: string, places: Telling['places']): Promise<unknown> {
  try {
    const found: unknown = await readJson(path, limits.configFileBytes);
    parseSeccompProfile(found);
    return found;
  } catch (cause) {
    throw new RuntimeError(
      'InvalidArgument',
      `${places.get(key) ?? key}: ${key} ${path} cannot be used; mend the file, or remove the key`,
      { cause },
    );
  }
}

/** A file that is named and absent has nothing, as with CRI-O. */
async function defaultMounts(file: string, log: Logger): Promise<readonly DefaultMount[]> {
  for (const path of file === '' ? MOUNTS_FILES : [file]) {
    try {
      return parseMounts(path, (await readBounded(path, limits.configFileBytes)).toString('utf8'), log);
    } catch (cause) {
      if (errnoOf(cause) === 'ENOENT' && file === '') continue;
      log.warn('the default_mounts_file cannot be read, containers get none of its mounts', {
        path,
        cause: explain(cause),
      });
    }
  }
  return [];
}

/**
 * `/source:/destination` per line, or one path for both; empty lines and comments (#) are skipped. What is neither
 * costs itself and a warning.
 */
function parseMounts(path: string, text: string, log: Logger): readonly DefaultMount[] {
  return text.split('\n').flatMap((line, index) => {
    const entry = line.trim();
    if (entry === '' || entry.startsWith('#')) return [];
    const [source = '', destination = '', ...more] = entry.split(':');
    const containerPath = destination === '' ? source : destination;
    const plain = [source, containerPath].every((each) => posix.isAbsolute(each) && !each.split('/').includes('..'));
    if (plain && more.length === 0 && posix.normalize(containerPath) !== '/') return [{ source, containerPath }];
    log.warn('a line of the default_mounts_file is not /source:/destination, ignoring', {
      place: `${path}:${index + 1}`,
      line: entry,
    });
    return [];
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

/** The host's file for /etc/localtime; '' = the image's own. @throws InvalidArgument for a zone that nobody knows. */
async function localtimeOf(timezone: string, { log, places }: Telling): Promise<string> {
  if (timezone === '') return '';
  const path = timezone === 'Local' ? '/etc/localtime' : join('/usr/share/zoneinfo', timezone);
  if (!timezone.split('/').includes('..') && (await exists(path))) return path;
  // Without a file a node is in UTC, and so is a container.
  if (timezone !== 'Local' && timezone !== 'UTC')
    throw new RuntimeError(
      'InvalidArgument',
      `${places.get('crio.runtime.timezone') ?? 'crio.runtime.timezone'}: crio.runtime.timezone ` +
        `${JSON.stringify(timezone)} is not known on this node (${path}); install tzdata, or name a zone that is there`,
    );
  log.warn('the time zone of containers is left to their images', { timezone, cause: `there is no ${path}` });
  return '';
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
