/**
 * CRI config + image config + facts about the node → OCI runtime spec. PURE: no clock, no disk, no kernel; what must be
 * looked up is passed in as facts. Golden-tested (golden/*.json: a request, and the spec it becomes).
 *
 * A container's way through it: draft (`workloads`, `cgroupsPathFor`, `effectiveStopSignal`) → what to look up
 * (`annotations.settings`, `seccompChoice`, `cdiDevicesOf`, `resolveDevices`, `workingDirOf`) → who it is
 * (`identityOf`) → `buildContainerSpec` → `applyCdi`, `withHooks`, `withTargets` → `stringifySpec`.
 */
export * as annotations from './annotations.ts';
export { apparmorProfileText } from './apparmor.ts';
export { buildContainerSpec, buildPauseSpec, stringifySpec } from './build.ts';
export { applyCdi, cdiDevicesOf, cdiEdits, cdiLookups, loadCdi } from './cdi.ts';
export * as hardware from './block-io.ts';
export { loadHooks, withHooks } from './hooks.ts';
export { checkImageSubPath, containerPath, targetsOf, withTargets } from './mounts.ts';
export { planPodUpdate, podLimits } from './pod-resources.ts';
export { checkWorkingDir, effectiveStopSignal, execProcess, workingDirOf } from './process.ts';
export { cgroupsPathFor, checkDeviceRequest, checkedParent, oomScoreAdjOf, resolveDevices } from './resources.ts';
export * as cpus from './cpus.ts';
export { DEFAULT_PROFILE } from './seccomp.ts';
export { parseSeccompProfile } from './seccomp-profile.ts';
export {
  apparmorChoice,
  podSysctls,
  relabelRefusal,
  seccompChoice,
  selinuxLabels,
  validateSysctls,
} from './security.ts';
export { planUpdate } from './update.ts';
export { identityOf } from './user.ts';
export * as workloads from './workloads.ts';
