/** The OCI spec of a container or a pod, for who asks to see it: as the runtime was given it. */
import type { ContainerId } from '../base/ids.ts';
import { parseJson } from '../base/json.ts';
import { cgroupsPathFor } from '../spec/index.ts';
import type { NodeFacts } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import { pinnedNamespaces } from './sandbox-plan.ts';
import type { World } from './world.ts';

/** What is needed of the world. */
type Seen = { readonly workspace: Pick<World['workspace'], 'readBundle'>; readonly facts: NodeFacts };

/**
 * The spec as JSON, to the letter: a number of 64 bits would lose its end on the way through an object. A pod without
 * an infra container has the part of one that tools look for, its namespaces and cgroup. undefined if there is none
 * (yet, or any more).
 */
export async function shownSpec(
  { workspace, facts }: Seen,
  record: ContainerRecord | SandboxRecord,
): Promise<string | undefined> {
  const id = record.kind === 'container' ? record.id : record.infra?.id;
  return record.kind === 'sandbox' && id === undefined
    ? JSON.stringify(specWithoutInfra(record, facts))
    : await wholeJson(workspace, id as ContainerId);
}

async function wholeJson(workspace: Seen['workspace'], id: ContainerId): Promise<string | undefined> {
  try {
    const text = await workspace.readBundle(id);
    parseJson(text);
    return text;
  } catch {
    return undefined;
  }
}

/** PURE. CRI-O spoofs a container for such a pod: `crictl inspectp` is how people find the path of its network. */
function specWithoutInfra(record: SandboxRecord, facts: NodeFacts): object {
  return {
    ociVersion: '1.0.0',
    hostname: record.config.hostname,
    annotations: record.config.annotations,
    linux: {
      namespaces: [...pinnedNamespaces(record)].map(([kind, path]) => ({
        type: kind === 'net' ? 'network' : kind,
        path,
      })),
      cgroupsPath: cgroupsPathFor({ manager: facts.cgroupManager, parent: record.cgroupParent, id: record.id }),
    },
  };
}
