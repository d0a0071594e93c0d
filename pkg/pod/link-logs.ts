/**
 * The logs of a pod in a volume of its own, by CRI-O's annotation `link-logs.crio.io`: its emptyDir of that name shows
 * the directory of the pod's logs. CRI-O mounts that over the kubelet's directory of the volume; here containers are
 * given it in the volume's place, so that nothing of the kubelet's has mounts of ours on it. And they may only read:
 * who could write there could lead whoever reads logs of the node elsewhere.
 */
import { join, posix } from 'node:path';
import { ensureLink } from '../base/files.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';

/** PURE. The config with the directory of the logs in place of the volume. `volume`: undefined for none. */
export function withLinkedLogs(
  config: NamedContainerConfig,
  { config: pod, logDirectory }: Pick<SandboxRecord, 'config' | 'logDirectory'>,
  volume: string | undefined,
): NamedContainerConfig {
  if (volume === undefined) return config;
  // Where the kubelet keeps what pods have of the node; CRI-O knows no other place either (internal/linklogs).
  const place = `/var/lib/kubelet/pods/${pod.metadata.uid}/volumes/kubernetes.io~empty-dir/${volume}`;
  const mounts = config.mounts.map((mount) =>
    mount.image === undefined && posix.resolve(mount.hostPath) === place
      ? {
          ...mount,
          hostPath: logDirectory,
          readonly: true,
          propagation: 'PROPAGATION_PRIVATE' as const,
          selinuxRelabel: true,
        }
      : mount,
  );
  return { ...config, mounts };
}

/** `<container id>.log` among the logs, as CRI-O makes it: a relative link, the same inside and outside. */
export async function linkLog(
  draft: ContainerRecord,
  sandbox: SandboxRecord,
  volume: string | undefined,
): Promise<void> {
  if (volume === undefined || draft.config.logPath === '') return;
  await ensureLink(join(sandbox.logDirectory, `${draft.id}.log`), draft.config.logPath);
}
