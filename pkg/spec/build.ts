/** The documents that runtimes read, put together. PURE. */
import { RuntimeError } from '../base/errors.ts';
import { stringifyExact } from '../base/json.ts';
import { limits } from '../base/limits.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import { mountPlan } from './mounts.ts';
import {
  argsWith,
  capabilitySets,
  commandOf,
  effectiveStopSignal,
  environmentOf,
  rlimitsOf,
  workingDirOf,
} from './process.ts';
import { deviceParts, newResources, NO_RESOURCES, oomScoreAdjOf, pidsOf, toLinuxResources } from './resources.ts';
import {
  apparmorOf,
  checkMapped,
  hiddenPaths,
  mappingsOf,
  namespacesOf,
  type Privilege,
  privilegeOf,
  seccompOf,
} from './security.ts';
import { toldTo } from './seccomp.ts';
import { withScopeProperties } from './scope.ts';
import { resolveUser } from './user.ts';
import type { ContainerSpecInput, NodeFacts, PauseSpecInput, SpecRuntime } from '../ports/spec.ts';

/**
 * Infra containers are the last that the kernel kills for memory, but for the node's own daemons (CRI-O has the same).
 */
const INFRA_OOM_SCORE_ADJ = -998n;
/** What pause ends on. */
const SIGTERM = 15;

/**
 * The spec of one container. Everything in it follows from the input; the same input gives the same spec.
 * @throws InvalidArgument, FailedPrecondition or Unimplemented naming the field that is wrong or cannot be had here.
 */
export function buildContainerSpec(input: ContainerSpecInput): RuntimeSpec {
  if (input.config.mounts.length > limits.mountsCount) {
    throw new RuntimeError(
      'ResourceExhausted',
      `${input.config.mounts.length} mounts; a container can have ${limits.mountsCount}`,
    );
  }
  const security = input.config.linux?.securityContext;
  const privilege = privilegeOf(security, input.pod);
  checkMapped(input.idMap, input.user);
  const environment = environmentOf(input);
  const readOnlyRoot = security?.readonlyRootfs === true || input.defaults.readOnly ? 'ro' : 'rw';
  const plan = mountPlan(input, privilege, {
    readOnlyRoot,
    needsEnvExec: environment.escaped.length > 0 ? 'yes' : 'no',
  });
  const capabilities = capabilitySets(
    security?.capabilities,
    privilege,
    { ...input.facts, capabilities: knownTo(input.runtime, input.facts) },
    input.defaults,
  );
  const apparmorProfile = apparmorOf(security, privilege, input.facts, input.defaults);
  const rlimits = rlimitsOf(input.defaults, input.facts);
  return {
    ociVersion: input.runtime.ociVersion,
    process: {
      ...(input.config.tty ? { terminal: true } : {}),
      user: {
        uid: input.user.uid,
        gid: input.user.gid,
        ...(input.umask === undefined ? {} : { umask: input.umask }),
        additionalGids: [...input.user.additionalGids],
      },
      args: argsWith(environment, commandOf(input.config, input.image)),
      env: [...environment.plain],
      cwd: workingDirOf(input.config, input.image),
      capabilities,
      ...(rlimits.length === 0 ? {} : { rlimits }),
      noNewPrivileges: security?.noNewPrivs === true,
      ...(apparmorProfile === undefined ? {} : { apparmorProfile }),
      ...selinuxPart('selinuxLabel', input.selinux.processLabel, input.facts, privilege),
      oomScoreAdj: oomScoreAdjOf(input.config.linux?.resources?.oomScoreAdj ?? 0n, input.facts),
      ...(input.execCpus === '' ? {} : { execCPUAffinity: { initial: input.execCpus } }),
    },
    ...(input.runtime.ownKernel && input.hostname !== '' ? { hostname: input.hostname } : {}),
    root: { path: input.root, ...(readOnlyRoot === 'ro' ? { readonly: true } : {}) },
    mounts: plan.mounts,
    ...annotationsPart(scopeOf(input)),
    linux: linuxPart(input, privilege, capabilities.bounding ?? [], plan.rootfsPropagation),
  };
}

function scopeOf(input: ContainerSpecInput): ContainerSpecInput['annotations'] {
  const { id, facts, defaults, config, image, infra, annotations: allowed } = input;
  const { number: stopSignal } = effectiveStopSignal(config.stopSignal, image.stopSignal);
  return withScopeProperties({ id, facts, defaults, annotations: config.annotations, stopSignal, infra, allowed });
}

/** What the daemon may give, of that what the runtime knows. */
function knownTo({ capabilities }: SpecRuntime, facts: NodeFacts): ReadonlySet<string> {
  return capabilities === undefined ? facts.capabilities : facts.capabilities.intersection(new Set(capabilities));
}

function linuxPart(
  input: ContainerSpecInput,
  privilege: Privilege,
  bounding: readonly string[],
  rootfsPropagation: string | undefined,
): RuntimeSpec['linux'] {
  const security = input.config.linux?.securityContext;
  const hostDevices =
    privilege === 'privileged' && !input.runtime.privilegedWithoutHostDevices ? input.hostDevices : [];
  const { devices, rules } = deviceParts({
    devices: input.devices,
    hostDevices,
    user: input.user,
    defaults: input.defaults,
  });
  const seccomp = seccompOf(
    {
      security,
      facts: input.facts,
      defaults: input.defaults,
      localhostSeccomp: input.localhostSeccomp,
      annotatedSeccomp: input.annotatedSeccomp,
    },
    privilege,
    bounding,
  );
  return {
    namespaces: namespacesOf(input, privilege),
    ...mappingsOf(input.idMap),
    ...(devices.length === 0 ? {} : { devices }),
    cgroupsPath: input.cgroupsPath,
    resources: {
      devices: rules,
      ...pidsOf(input.defaults, input.facts),
      ...newResources(input.config.linux?.resources, input.facts, input.defaults.minMemoryBytes),
      ...(input.blockIo === undefined ? {} : { blockIO: input.blockIo }),
    },
    ...(rootfsPropagation === undefined ? {} : { rootfsPropagation }),
    ...(seccomp === undefined
      ? {}
      : { seccomp: input.seccompListener === '' ? seccomp : toldTo(seccomp, input.seccompListener) }),
    ...hiddenPaths(security, privilege, input.facts),
    ...selinuxPart('mountLabel', input.selinux.mountLabel, input.facts, privilege),
  };
}

/**
 * The spec of an infra container: our `pause` as init of a shared PID namespace, as the sandbox's own security context
 * says, with no capabilities and nothing mounted but /proc and a /dev. @throws as buildContainerSpec.
 */
export function buildPauseSpec(input: PauseSpecInput): RuntimeSpec {
  const security = input.pod.linux?.securityContext;
  const { user } = resolveUser({ security, imageUser: '', passwd: undefined, group: undefined });
  checkMapped(input.idMap, user);
  const apparmorProfile = apparmorOf(security, 'confined', input.facts, input.defaults);
  const seccomp = seccompOf(
    { security, facts: input.facts, defaults: input.defaults, localhostSeccomp: input.localhostSeccomp },
    'confined',
    [],
  );
  const resources = { ...NO_RESOURCES, cpuShares: 2n, cpusetCpus: input.cpuset };
  return {
    ociVersion: input.runtime.ociVersion,
    process: {
      user: { uid: user.uid, gid: user.gid, additionalGids: [...user.additionalGids] },
      args: ['/pause'],
      env: ['PATH=/'],
      cwd: '/',
      capabilities: { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] },
      noNewPrivileges: true,
      ...(apparmorProfile === undefined ? {} : { apparmorProfile }),
      ...selinuxPart('selinuxLabel', input.selinux.processLabel, input.facts, 'confined'),
      oomScoreAdj: oomScoreAdjOf(INFRA_OOM_SCORE_ADJ, input.facts),
    },
    root: { path: input.root, readonly: true },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
      // Runtimes make /dev/null and others in it: not in the root, which all pods share, and which a user namespace
      // cannot write to.
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'noexec', 'mode=755', 'size=64k'] },
    ],
    ...annotationsPart(
      withScopeProperties({ ...input, annotations: {}, stopSignal: SIGTERM, infra: '', allowed: input.annotations }),
    ),
    linux: {
      namespaces: namespacesOf(
        { namespaces: input.namespaces, facts: input.facts, pid: { mode: 'private' } },
        'confined',
      ),
      ...mappingsOf(input.idMap),
      cgroupsPath: input.cgroupsPath,
      resources: { devices: [{ allow: false, access: 'rwm' }], ...toLinuxResources(resources, input.facts) },
      ...(seccomp === undefined ? {} : { seccomp }),
      ...selinuxPart('mountLabel', input.selinux.mountLabel, input.facts, 'confined'),
    },
  };
}

/** A label where SELinux is on and one is given; privileged containers run with the runtime's own. */
function selinuxPart<K extends string>(
  key: K,
  label: string,
  facts: NodeFacts,
  privilege: Privilege,
): Partial<Record<K, string>> {
  return facts.selinux && label !== '' && privilege === 'confined' ? ({ [key]: label } as Record<K, string>) : {};
}

function annotationsPart(annotations: ReadonlyMap<string, string>): { annotations?: Record<string, string> } {
  if (annotations.size === 0) return {};
  const plain: Record<string, string> = Object.create(null);
  for (const [key, value] of annotations) plain[key] = value;
  return { annotations: plain };
}

/**
 * config.json. 64-bit values are written digit by digit, not by way of a double. Runtimes read Unicode only (a byte
 * that is no UTF-8 becomes U+FFFD in runc and an error in crun): see environmentOf for what that means for environment
 * values.
 */
export function stringifySpec(spec: RuntimeSpec): string {
  return stringifyExact(spec);
}
