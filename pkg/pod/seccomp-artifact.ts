/** Seccomp profiles that come as OCI artifacts, by CRI-O's annotation `seccomp-profile.crio.io`. */
import { RuntimeError, wrap } from '../base/errors.ts';
import { readJson } from '../base/files.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { annotations, seccompChoice } from '../spec/index.ts';
import type { Image } from '../ports/image.ts';
import type { Subject } from './gather.ts';
import { allowedFor, handlerOf } from './handlers.ts';
import type { World } from './world.ts';

/**
 * The profile of a container whose annotations name one, pulled if it is not here; undefined if they do not, or if its
 * own security context names another, which comes first. @throws as annotations.seccompArtifact, as ImageStore.pull.
 */
export async function artifactSeccomp(
  op: Op,
  world: World,
  { draft, sandbox, image }: Pick<Subject, 'draft' | 'sandbox' | 'image'>,
): Promise<unknown> {
  const security = draft.config.linux?.securityContext;
  const { kind } = seccompChoice(security);
  if (security?.privileged === true || kind === 'runtimeDefault' || kind === 'localhost') return undefined;
  const { annotations: ofPod, metadata } = sandbox.config;
  const allowed = allowedFor(world.settings, sandbox.config, handlerOf(sandbox));
  const found = annotations.seccompArtifact(ofPod, image.annotations, allowed, draft.config.metadata.name);
  if (found === undefined) return undefined;
  const { annotation, reference } = found;
  op.stage(`seccomp profile ${reference}`);
  try {
    return await readProfile(op, world, reference, metadata.namespace);
  } catch (cause) {
    throw wrap(`annotation ${annotation}: seccomp profile ${quote(reference)}`, cause);
  }
}

async function readProfile(op: Op, { images }: World, reference: string, namespace: string): Promise<unknown> {
  const found: Image = images.find(reference) ?? (await images.pull(op, reference, { namespace }));
  await images.checkUse(op, found.id, { name: reference, namespace });
  const file = found.artifact?.files[0];
  if (file === undefined)
    throw new RuntimeError(
      'FailedPrecondition',
      'it is no OCI artifact with a file in it; push the profile with oras, for one',
    );
  return await readJson(file.path, limits.configFileBytes);
}
