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
import { limits } from '../pkg/base/limits.ts';
import type {
  AttachRequest,
  AuthConfig,
  CreateContainerRequest,
  ExecRequest,
  ExecSyncRequest,
  ImageSpec,
  ImportRequest,
  LinuxContainerResources,
  PortForwardRequest,
  PullImageRequest,
  RunPodSandboxRequest,
  StopContainerRequest,
  UpdateContainerResourcesRequest,
  UpdatePodSandboxResourcesRequest,
  UpdateRuntimeConfigRequest,
} from '../pkg/cri-api/types.ts';
import type { NamedContainerConfig, SandboxConfig } from '../pkg/ports/requests.ts';
import {
  WORD,
  checkAbsolute,
  checkCount,
  checkEntries,
  checkNoNul,
  checkPort,
  checkResources,
  invalid,
  missing,
  namedImage,
  narrowId,
} from './checks.ts';
import { containerConfig } from './validate-container.ts';
import { sandboxConfig } from './validate-pod.ts';

export { narrowId } from './checks.ts';

/** A word without separators at its ends: names of tables in the configuration. */
const HANDLER = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$/;
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

/** `namespace` is that of the pod for which it is pulled, undefined if it is for none. @throws InvalidArgument */
export function narrowPullImage({ image, auth, sandboxConfig }: PullImageRequest): {
  readonly reference: string;
  readonly auth: AuthConfig | undefined;
  readonly namespace: string | undefined;
} {
  return { reference: narrowImageReference(image), auth, namespace: sandboxConfig?.metadata?.namespace };
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
