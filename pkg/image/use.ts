/** Whether an image that is here may be used by whoever asks now. */
import type { ImageId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { Images } from './artifact-stores.ts';
import type { ImageNames } from './names.ts';
import type { Retention } from './retention.ts';
import { signatureError } from './signature/index.ts';
import type { ImageTrust } from './signature/index.ts';

/** What the answer depends on. */
export interface UseWorld {
  readonly trust: ImageTrust;
  readonly names: ImageNames;
  readonly images: Images;
  readonly kept: Pick<Retention, 'signaturesOf'>;
}

/** As `ImageStore.checkUse`: by the namespace's own policy, and the signatures that came with the image. */
export async function checkUse(
  op: Op,
  { trust, names, images, kept }: UseWorld,
  id: ImageId,
  use: { readonly name: string; readonly namespace: string },
): Promise<void> {
  const demandOf = await trust.demandAtUse(use.namespace);
  const stored = images.get(id);
  if (demandOf === undefined || stored === undefined) return;
  const meanings = names.meanings(use.name, stored);
  if (typeof meanings === 'string') throw signatureError(meanings);
  for (const reference of meanings) {
    const demand = demandOf(reference);
    op.log.debug('using the policy path for image', {
      image: use.name,
      policy: demand.policy,
      namespace: use.namespace,
    });
    if (demand.requirements.length === 0) continue;
    const found = await kept.signaturesOf(id);
    await trust.checkKept(op, demand, found.length > 0 ? found : [{ manifest: stored.manifestDigest, signatures: [] }]);
  }
}
