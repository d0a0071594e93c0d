/** What is counted as it happens: calls, pulls, networks, ends of containers. */
import type { ErrorCode } from '../../pkg/base/errors.ts';
import type { Op } from '../../pkg/base/op.ts';
import { containerName } from '../../pkg/pod/index.ts';
import type { PullListener } from '../../pkg/ports/image.ts';
import type { NetworkPlugin } from '../../pkg/ports/network.ts';
import type { PodEvent } from '../../pkg/ports/pods.ts';
import type { ContainerRecord, SandboxRecord } from '../../pkg/ports/state.ts';
import type { CallWatch } from '../watch.ts';
import { mediaTypeLabel, pullFailureLabel, sizeLabel, stalledLabel } from './labels.ts';
import type { Registry } from './registry.ts';

const MS_PER_S = 1000;
/** What makes objects that a kubelet waits for. */
const MAKERS: ReadonlySet<string> = new Set(['RunPodSandbox', 'CreateContainer']);

/** What a call ends with whose client has waited long enough. */
const IMPATIENT: ReadonlySet<ErrorCode> = new Set(['DeadlineExceeded', 'Cancelled']);

/** Counts calls as CRI-O's interceptor does: those with one reply, when they have ended. */
export function countCalls(registry: Registry): CallWatch {
  return ({ method: { name, streams } }) => {
    if (streams) return undefined;
    const began = performance.now();
    return {
      stage() {},
      ended(failure) {
        const seconds = (performance.now() - began) / MS_PER_S;
        registry.add('operations_total', [name]);
        registry.set('operations_latency_seconds', [name], seconds);
        registry.observe('operations_latency_seconds_total', [name], seconds);
        if (failure === undefined) return;
        registry.add('operations_errors_total', [name]);
        // The work goes on, or has taken too long. CRI-O counts when the client comes again, and a kubelet always does.
        if (MAKERS.has(name) && IMPATIENT.has(failure.code))
          registry.add('resources_stalled_at_stage', [stalledLabel(name, failure.stage)]);
      },
    };
  };
}

/** Counts pulls and their layers. */
export function countPulls(registry: Registry): PullListener {
  return {
    layer({ mediaType, sizeBytes, digest }, how, reference) {
      const bytes = Number(sizeBytes);
      if (how === 'reused') {
        registry.add('image_layer_reuse_total', [`${reference}@${digest}`]);
        registry.add('image_pulls_skipped_bytes_total', [sizeLabel(bytes)], bytes);
        return;
      }
      registry.add('image_pulls_bytes_total', [mediaTypeLabel(mediaType), sizeLabel(bytes)], bytes);
      registry.observe('image_pulls_layer_size', [], bytes);
    },
    ended(error) {
      if (error === undefined) registry.add('image_pulls_success_total');
      else registry.add('image_pulls_failure_total', [pullFailureLabel(error)]);
    },
  };
}

/** The same network, with the times that its plugins, and all of it with host ports, take (CRI-O's sandbox_network). */
export function timeNetwork(network: NetworkPlugin, registry: Registry): NetworkPlugin {
  return {
    start: (op) => network.start(op),
    close: () => network.close(),
    get ready() {
      return network.ready;
    },
    get inUse() {
      return network.inUse;
    },
    async add(op, pod) {
      const began = performance.now();
      let plugins: number | undefined;
      const own: Op = {
        ...op,
        stage(what) {
          if (what.startsWith('host ports')) plugins ??= performance.now();
          op.stage(what);
        },
      };
      const made = await network.add(own, pod);
      const ended = performance.now();
      const tell = (what: string, at: number): void =>
        registry.set('operations_latency_seconds', [what], (at - began) / MS_PER_S);
      tell('network_setup_pod', plugins ?? ended);
      tell('network_setup_overall', ended);
      return made;
    },
    setPodRanges: (subnets) => network.setPodRanges(subnets),
    destroy: (op, id) => network.destroy(op, id),
    check: (op, id) => network.check(op, id),
    gc: (op, live) => network.gc(op, live),
    list: () => network.list(),
  };
}

/** Counts system calls that seccomp profiles blocked and told of, by container and call. */
export function countBlockedCalls(
  registry: Registry,
  podOf: (id: SandboxRecord['id']) => SandboxRecord | undefined,
): (record: ContainerRecord, call: string) => void {
  return ({ config, sandboxId, id }, call) => {
    const pod = podOf(sandboxId);
    const name = pod === undefined ? id : containerName(config, pod.config);
    registry.add('containers_seccomp_notifier_count_total', [name, call]);
  };
}

/** Counts containers that ran out of memory; the name goes with the container, as CRI-O has it. */
export function countEnds(
  registry: Registry,
  podOf: (id: SandboxRecord['id']) => SandboxRecord | undefined,
): (event: PodEvent) => void {
  const told = new Map<string, string>();
  return ({ type, record }) => {
    if (record.kind !== 'container') return;
    const { id, state, config, sandboxId } = record;
    const name = told.get(id);
    if (type === 'deleted' && name !== undefined) {
      told.delete(id);
      registry.forget('containers_oom_count_total', [name]);
    }
    if (type !== 'stopped' || state.phase !== 'exited' || state.reason !== 'OOMKilled') return;
    registry.add('containers_oom_total');
    const pod = podOf(sandboxId);
    if (pod === undefined) return;
    const called = containerName(config, pod.config);
    told.set(id, called);
    registry.add('containers_oom_count_total', [called]);
  };
}
