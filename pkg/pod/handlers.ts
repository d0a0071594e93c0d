/** What the configuration of a runtime handler says about the pods that have it. Pure. */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { annotations, workloads } from '../spec/index.ts';
import type { NamedContainerConfig, SandboxConfig } from '../ports/requests.ts';
import { refuseLostUserNamespace } from './id-maps.ts';
import { parseUsernsMode, type UsernsMode } from './userns-mode.ts';
import type { HandlerSettings, MadeBy, PodSettings } from './world.ts';

/** The settings of a pod's handler; '' is the default's. @throws InvalidArgument if there is none. */
export function handlerSettings(settings: PodSettings, handler: string): HandlerSettings {
  const found = settings.handlers.get(handler);
  if (found === undefined) throw new RuntimeError('InvalidArgument', `no runtime handler is called ${quote(handler)}`);
  return found;
}

/** The handler whose settings hold for what is there: that of its making, whichever is the default by now. */
export function handlerOf({ runtime, runtimeHandler }: MadeBy): string {
  return runtime?.name ?? runtimeHandler;
}

/**
 * The annotations of a pod, and of one of its containers, that its handler or its workload allows, and over those the
 * handler's own.
 */
export function podAnnotations(
  settings: PodSettings,
  config: SandboxConfig,
  handler: string,
  container?: NamedContainerConfig,
): ReadonlyMap<string, string> {
  const allowed = allowedFor(settings, config, handler);
  return new Map([
    ...handlerSettings(settings, handler).defaultAnnotations,
    ...annotations.passed(config.annotations, container?.annotations ?? {}, container?.metadata.name ?? '', allowed),
  ]);
}

/** Annotations that a pod may use, by its handler and its workload. */
export function allowedFor(settings: PodSettings, config: SandboxConfig, handler: string): readonly string[] {
  const workload = workloads.workloadOf(settings.workloads, config.annotations);
  return [...handlerSettings(settings, handler).allowedAnnotations, ...(workload?.allowedAnnotations ?? [])];
}

/** Tells of annotations of CRI-O's that the pod carries and may not use. */
export function tellForbidden(op: Op, settings: PodSettings, config: SandboxConfig, handler: string): void {
  for (const name of annotations.forbidden(config.annotations, allowedFor(settings, config, handler)))
    op.log.warn('an annotation of the pod is not in the allowed_annotations of its handler, ignoring', {
      annotation: name,
      handler,
    });
}

/** Seccomp profile for RuntimeDefault and least memory of a handler's containers, over what holds for all. */
export function specDefaults(settings: PodSettings, handler: string): PodSettings['spec'] {
  const { seccompProfile, minMemoryBytes } = handlerSettings(settings, handler);
  return { ...settings.spec, minMemoryBytes, seccompProfile: seccompProfile ?? settings.spec.seccompProfile };
}

/**
 * The user namespace that a pod asks for by an annotation that it may use; undefined for none. One by CRI's own options
 * comes first. Options with mode NODE do not: the kubelet writes them for every pod that does not say hostUsers: false.
 * @throws InvalidArgument for a mode that cannot be read, or that the pod may not ask for.
 */
export function usernsModeOf(settings: PodSettings, config: SandboxConfig, handler: string): UsernsMode | undefined {
  if (config.linux?.securityContext?.namespaceOptions?.usernsOptions?.mode === 'POD') return undefined;
  const passed = podAnnotations(settings, config, handler);
  const { usernsMode } = annotations.settings(passed, settings.allowedDevices);
  if (usernsMode !== undefined) return parseUsernsMode(usernsMode);
  refuseLostUserNamespace(config.annotations);
  return undefined;
}

/** Size of the pod's /dev/shm. @throws InvalidArgument for an annotation that is no size. */
export function shmBytesOf(settings: PodSettings, config: SandboxConfig, handler: string): bigint {
  return (
    annotations.settings(podAnnotations(settings, config, handler), settings.allowedDevices).shmBytes ??
    settings.shmBytes
  );
}
