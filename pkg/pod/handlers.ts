/** What the configuration of a runtime handler says about the pods that have it. Pure. */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { annotationSettings, passedAnnotations, workloadOf } from '../spec/index.ts';
import type { NamedContainerConfig, SandboxConfig } from '../ports/requests.ts';
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
  const { allowedAnnotations, defaultAnnotations } = handlerSettings(settings, handler);
  const allowed = [
    ...allowedAnnotations,
    ...(workloadOf(settings.workloads, config.annotations)?.allowedAnnotations ?? []),
  ];
  return new Map([
    ...defaultAnnotations,
    ...passedAnnotations(config.annotations, container?.annotations ?? {}, container?.metadata.name ?? '', allowed),
  ]);
}

/** Seccomp profile for RuntimeDefault and least memory of a handler's containers, over what holds for all. */
export function specDefaults(settings: PodSettings, handler: string): PodSettings['spec'] {
  const { seccompProfile, minMemoryBytes } = handlerSettings(settings, handler);
  return { ...settings.spec, minMemoryBytes, seccompProfile: seccompProfile ?? settings.spec.seccompProfile };
}

/** Size of the pod's /dev/shm. @throws InvalidArgument for an annotation that is no size. */
export function shmBytesOf(settings: PodSettings, config: SandboxConfig, handler: string): bigint {
  return (
    annotationSettings(podAnnotations(settings, config, handler), settings.allowedDevices).shmBytes ?? settings.shmBytes
  );
}
