/**
 * Who must have signed what, decided as podman and CRI-O decide it: policy.json says what is wanted (requirements.ts),
 * registries.d where signatures are (sources.ts), keys.ts whether they are good, body.ts whether they are about this
 * image. Refusals begin with the words that the kubelet recognises, and say which policy, which scope, which
 * requirement, and why.
 *
 *     demand      before the registry is asked: what the policy wants of an image; an image that it rejects ends here
 *     vouch       once the manifest for this platform is known, and before anything else of the image is read: every
 *                 requirement is met, each by one signature at least
 *     checkKept   the same for an image that is here, from the signatures that were kept with it
 *
 * Where the registry gives an index, the signature must be on the manifest of this platform, as with the container
 * tools: they verify the instance that they pull, not the list. (`cosign sign --recursive` signs both.)
 *
 * When a container is made, the question is asked again of an image that is here already, if the node names its
 * policies explicitly: a namespace's own, or `signature_policy`. CRI-O does the same, from the signatures that came
 * with the image.
 */
import { join } from 'node:path';
import { readBounded } from '../../base/files.ts';
import { errnoOf, explain, isCode, RuntimeError, wrap } from '../../base/errors.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { nextTurn } from '../../base/loop-share.ts';
import { abortError, withTimeout } from '../../base/op.ts';
import type { Op } from '../../base/op.ts';
import { formatReference } from '../../oci/reference.ts';
import type { Reference } from '../../oci/reference.ts';
import { checkBody } from './body.ts';
import type { SignedImage } from './body.ts';
import { openMessage, readKeyring, readKeys } from './keys.ts';
import type { RunGpgv } from './keys.ts';
import { identityOf, parsePolicy, requirementsFor } from './requirements.ts';
import type { Requirement } from './requirements.ts';
import { sigstoreCheck } from './sigstore.ts';
import { SignatureSources } from './sources.ts';
import type { FoundSignatures, Signature, SignatureSource } from './sources.ts';
import type { KeptManifest } from './kept.ts';

/** Where policies are, and what checks signatures. */
export interface TrustOptions {
  /**
   * `signature_policy`: must exist if it is named; '' = the first of `defaultPolicies` that exists, and without any
   * everything is accepted.
   */
  readonly signaturePolicy: string;
  readonly defaultPolicies: readonly string[];
  /** `signature_policy_dir`: `<namespace>.json` there wins. '' = none. */
  readonly signaturePolicyDir: string;
  /** Of registries.d; the first that exists counts. */
  readonly registriesDirs: readonly string[];
  /** For `signedBy`; without it such images are refused. */
  readonly runGpgv?: RunGpgv | undefined;
}

/** Where the container tools look when they run as root: the home directory first. */
export function defaultTrustOptions(environment: Readonly<Record<string, string | undefined>>): TrustOptions {
  const places = [join(environment['HOME'] || '/root', '.config/containers'), '/etc/containers'];
  return {
    signaturePolicy: '',
    defaultPolicies: places.map((place) => join(place, 'policy.json')),
    signaturePolicyDir: '/etc/crio/policies',
    registriesDirs: places.map((place) => join(place, 'registries.d')),
  };
}

/** What a policy wants of one image, and where that stands. */
export interface Demand {
  readonly reference: Reference;
  /** Of the file, or what is said instead of one. */
  readonly policy: string;
  readonly scope: string;
  /** Those that a signature has to meet; empty = accepted as it is. */
  readonly requirements: readonly SignatureRequirement[];
}
type SignatureRequirement =
  | Exclude<Requirement, { readonly type: 'insecureAcceptAnything' | 'reject' | 'signedBaseLayer' }>
  | { readonly type: 'signedBaseLayer' };

/** Policies and signatures of a node. */
export class ImageTrust {
  #options: TrustOptions;
  #sources: SignatureSources;

  constructor(options: Partial<TrustOptions> = {}) {
    this.#options = { ...defaultTrustOptions({}), ...options };
    this.#sources = new SignatureSources(this.#options.registriesDirs);
  }

  /** Goes by other options from now on, as if it were made anew. */
  use(options: Partial<TrustOptions>): void {
    this.#options = { ...defaultTrustOptions({}), ...options };
    this.#sources = new SignatureSources(this.#options.registriesDirs);
  }

  /** The policy file for pods of no namespace in particular; undefined if there is none. @throws if it is unusable */
  async policyFile(): Promise<string | undefined> {
    const found = await this.#policyFor('');
    if (found !== undefined) policyIn(found);
    return found?.path;
  }

  /**
   * What is wanted of `reference` for pods of `namespace` ('' = none in particular). Files are read at each call.
   * @throws FailedPrecondition with reason SignatureValidationFailed if the policy rejects it, or cannot be read: a
   * policy that is broken accepts nothing.
   */
  async demand(reference: Reference, namespace: string): Promise<Demand> {
    const found = await this.#policyFor(namespace);
    return found === undefined
      ? { reference, policy: 'no policy.json', scope: '', requirements: [] }
      : demandOf(found, reference);
  }

  /**
   * What is wanted of images that are here and about to be used in `namespace`; undefined where the pull's answer
   * stands. Throws, and gives what throws, as `demand`.
   */
  async demandAtUse(namespace: string): Promise<((reference: Reference) => Demand) | undefined> {
    const named = await this.#namedPolicy(namespace);
    return named === undefined ? undefined : (reference) => demandOf(named, reference);
  }

  /**
   * Finds the signatures of a manifest and checks that they meet `demand`. Gives what was found, to be kept with the
   * image; undefined if nothing can be said: where no signature is wanted, a server that cannot be asked is no reason
   * not to pull.
   * @throws as `check`; the network's error if signatures are wanted and a server cannot be asked.
   */
  async vouch(
    op: Op,
    demand: Demand,
    image: SignedImage,
    source: SignatureSource,
  ): Promise<FoundSignatures | undefined> {
    let found: FoundSignatures;
    try {
      found = await within(op, `signatures of ${formatReference(source.reference)} were not read`, (bounded) =>
        this.#sources.find(bounded, image.digest, source),
      );
    } catch (error) {
      if (op.signal.aborted) throw abortError(op, `reading signatures of ${formatReference(demand.reference)}`);
      if (demand.requirements.length > 0)
        throw isRefusal(error)
          ? refused(demand, typesOf(demand), explain(error))
          : wrap(`signatures of ${formatReference(demand.reference)} cannot be read`, error);
      op.log.warn(
        'signatures cannot be read; none is needed for this pull, but a namespace that wants one will refuse the image',
        { error: explain(error) },
      );
      return undefined;
    }
    await this.#check(op, demand, image, found);
    return found;
  }

  /**
   * Content if the signatures that came with an image meet `demand`; an image that was pulled by several manifests
   * needs one of them to do. `kept` has one manifest at least, without signatures if none came.
   * @throws FailedPrecondition with reason SignatureValidationFailed that names policy, scope, requirement and the
   * reason for each signature that does not count.
   */
  async checkKept(op: Op, demand: Demand, kept: readonly KeptManifest[]): Promise<void> {
    const notes = [
      'these are the signatures that came with the image when it was pulled; if it was signed since, pull it again',
    ];
    let first: unknown;
    for (const { manifest, signatures } of kept) {
      try {
        return await this.#check(
          op,
          demand,
          { reference: demand.reference, digest: manifest, manifest: undefined },
          { signatures, notes },
        );
      } catch (error) {
        first ??= error;
      }
    }
    throw first;
  }

  async #check(op: Op, demand: Demand, image: SignedImage, found: FoundSignatures): Promise<void> {
    for (const requirement of demand.requirements) {
      try {
        await within(op, 'signatures were not checked', (bounded) => this.#meet(bounded, requirement, image, found));
      } catch (error) {
        if (op.signal.aborted) throw abortError(op, `checking signatures of ${formatReference(demand.reference)}`);
        throw refused(demand, requirement.type, explain(error));
      }
    }
  }

  async #meet(op: Op, requirement: SignatureRequirement, image: SignedImage, found: FoundSignatures): Promise<void> {
    if (requirement.type === 'signedBaseLayer')
      throw new RuntimeError('Unimplemented', 'nobody implements it; use signedBy or sigstoreSigned');
    const accepts =
      requirement.type === 'signedBy'
        ? await this.#openPgp(requirement, image)
        : await sigstoreCheck(requirement, image);
    const reasons: string[] = [];
    for (const signature of found.signatures) {
      if (signature.kind !== accepts.kind) continue;
      // What a stranger sends may be dear to check: others come in between.
      await nextTurn();
      if (op.signal.aborted) throw abortError(op, 'checking signatures');
      try {
        return await accepts.check(op, signature);
      } catch (error) {
        if (op.signal.aborted || !isRefusal(error)) throw error;
        reasons.push(`${signature.from}: ${shortened(explain(error), limits.refusalReasonChars)}`);
      }
    }
    throw new RuntimeError('FailedPrecondition', summary(reasons, found.notes));
  }

  async #openPgp(
    { keyType, keys, identity }: Extract<Requirement, { type: 'signedBy' }>,
    image: SignedImage,
  ): Promise<Check> {
    if (keyType !== 'GPGKeys')
      throw new RuntimeError('Unimplemented', `nobody implements the keyType ${quote(keyType)}; use GPGKeys`);
    const { runGpgv } = this.#options;
    if (runGpgv === undefined) throw new RuntimeError('Unimplemented', 'nothing here can check OpenPGP signatures');
    const keyrings = (await readKeys(keys)).map(readKeyring);
    return {
      kind: 'openpgp',
      async check(op, signature) {
        if (signature.kind !== 'openpgp') return;
        checkBody(
          await openMessage(op, runGpgv, keyrings, signature.message),
          'atomic container signature',
          image,
          identity,
        );
      },
    };
  }

  /** The policy that was named explicitly: the namespace's, else `signature_policy`. */
  async #policyFor(namespace: string): Promise<PolicyFile | undefined> {
    const own = await this.#namedPolicy(namespace);
    if (own !== undefined) return own;
    for (const path of this.#options.defaultPolicies) {
      const bytes = await readIfThere(path);
      if (bytes !== undefined) return { path, bytes };
    }
    return undefined;
  }

  async #namedPolicy(namespace: string): Promise<PolicyFile | undefined> {
    const { signaturePolicy, signaturePolicyDir } = this.#options;
    // A namespace is a DNS label; nothing else becomes part of a path.
    if (signaturePolicyDir !== '' && /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(namespace)) {
      const path = join(signaturePolicyDir, `${namespace}.json`);
      const bytes = await readIfThere(path);
      if (bytes !== undefined) return { path, bytes };
    }
    if (signaturePolicy === '') return undefined;
    const bytes = await readIfThere(signaturePolicy);
    if (bytes === undefined)
      throw signatureError(
        `${signaturePolicy}, which signature_policy names, does not exist; without it no image is accepted`,
      );
    return { path: signaturePolicy, bytes };
  }
}

/**
 * One kind of signature, and what makes one of it count. @throws (check) FailedPrecondition or InvalidArgument for one
 * that does not.
 */
interface Check {
  readonly kind: Signature['kind'];
  check(op: Op, signature: Signature): Promise<void>;
}

interface PolicyFile {
  readonly path: string;
  readonly bytes: Buffer;
}

function policyIn({ path, bytes }: PolicyFile): ReturnType<typeof parsePolicy> {
  try {
    return parsePolicy(bytes);
  } catch (cause) {
    throw signatureError(`${path} is not a signature policy, so no image is accepted`, cause);
  }
}

function demandOf(file: PolicyFile, reference: Reference): Demand {
  const { scope, requirements } = requirementsFor(policyIn(file), reference);
  const demand: Demand = { reference, policy: file.path, scope, requirements: requirements.filter(isForSignatures) };
  if (requirements.some(({ type }) => type === 'reject'))
    throw refused(demand, 'reject', 'images of this scope are not accepted');
  return demand;
}

function isForSignatures(requirement: Requirement): requirement is SignatureRequirement {
  return requirement.type !== 'insecureAcceptAnything' && requirement.type !== 'reject';
}

async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await readBounded(path, limits.configFileBytes);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
    throw signatureError(`${path} cannot be read, so no image is accepted`, error);
  }
}

/** As `work`, with our own bound on its time. */
async function within<T>(op: Op, what: string, work: (bounded: Op) => Promise<T>): Promise<T> {
  const bounded = withTimeout(op, limits.signaturesMs);
  try {
    return await work(bounded);
  } catch (error) {
    if (op.signal.aborted || !bounded.signal.aborted) throw error;
    throw new RuntimeError('DeadlineExceeded', `${what} in ${limits.signaturesMs / 1000} s`, { cause: error });
  }
}

/** True for errors that are about one signature; the others (no gpgv, no time) are about all of them. */
function isRefusal(error: unknown): boolean {
  return isCode(error, 'FailedPrecondition') || isCode(error, 'InvalidArgument');
}

function typesOf({ requirements }: Demand): string {
  return requirements.map(({ type }) => type).join(', ');
}

function summary(reasons: readonly string[], notes: readonly string[]): string {
  const left = reasons.length - limits.refusalReasonsCount;
  const why = [
    ...reasons.slice(0, limits.refusalReasonsCount),
    ...(left > 0 ? [`and ${left} more`] : []),
    ...notes,
  ].join('; ');
  const what =
    reasons.length === 0
      ? 'there is no signature of that kind'
      : reasons.length === 1
        ? 'the only signature does not count'
        : `none of ${reasons.length} signatures counts`;
  return why === '' ? what : `${what} (${why})`;
}

function refused({ reference, policy, scope }: Demand, type: string, why: string): RuntimeError {
  return signatureError(
    `${quote(formatReference(identityOf(reference)), 400)} is refused by ${policy}, ${scope}: ` +
      `${type}: ${shortened(why, limits.refusalChars)}`,
  );
}

function shortened(text: string, max: number): string {
  return text.length > max ? `${text.slice(0, max)}…` : text;
}

/** A refusal in the words that the kubelet recognises. */
export function signatureError(message: string, cause?: unknown): RuntimeError {
  return new RuntimeError(
    'FailedPrecondition',
    message,
    cause === undefined ? { reason: 'SignatureValidationFailed' } : { reason: 'SignatureValidationFailed', cause },
  );
}

export { KeptSignatures } from './kept.ts';
export type { KeptManifest } from './kept.ts';
export { registrySource } from './registry.ts';
export type { RunGpgv } from './keys.ts';
