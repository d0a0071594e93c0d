/**
 * What `info` of a verbose status holds: Berth's own record, and beside its fields those that CRI-O and containerd have
 * there under the same names, which tools read by `crictl inspect`. PURE.
 */
import { explain } from '../pkg/base/errors.ts';
import type { ContainerRecord, SandboxRecord } from '../pkg/ports/state.ts';
import { toJson } from './json.ts';

/**
 * Of a container: `sandboxID`, `pid` (0 unless it lives), `privileged`, `runtimeSpec` (CRI-O's and containerd's
 * container_status.go). The environment is in the spec only, where both have it.
 */
export function containerInfo(record: ContainerRecord, spec: string | undefined): string {
  const { sandboxId, config, state } = record;
  return withSpec(
    {
      ...record,
      config: { ...config, envs: [] },
      sandboxID: sandboxId,
      pid: 'process' in state ? state.process.pid : 0,
      privileged: config.linux?.securityContext?.privileged === true,
    },
    spec,
  );
}

/** Of a pod: `pid` of its infra container, 0 if it has none, and `runtimeSpec`, as CRI-O: server/sandbox_status.go. */
export function podInfo(record: SandboxRecord, spec: string | undefined): string {
  return withSpec({ ...record, pid: record.infra?.process?.pid ?? 0 }, spec);
}

/** The spec goes in as the text that it is: its 64-bit numbers are no doubles. */
function withSpec(fields: object, spec: string | undefined): string {
  try {
    const text = toJson(fields);
    return spec === undefined ? text : `${text.slice(0, -1)},"runtimeSpec":${spec}}`;
  } catch (error) {
    return JSON.stringify({ error: explain(error) });
  }
}
