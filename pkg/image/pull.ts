/**
 * One pull: policy (short name, blocked, mirrors), credentials, what the registry says, and then the way that every
 * image takes to the disk (install.ts).
 */
import type { AuthConfig } from '../cri-api/types.ts';
import { explain, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { formatReference, repositoryName } from '../oci/reference.ts';
import type { Reference } from '../oci/reference.ts';
import { registryHost } from './registry/auth-file.ts';
import type { Credentials } from './registry/auth-file.ts';
import { requestCredentials } from './registry/credentials.ts';
import type { NodeCredentials } from './registry/credentials.ts';
import type { Transport } from './registry/http.ts';
import { install } from './install.ts';
import type { InstallWorld } from './install.ts';
import { MirroredSource } from './registry/mirrors.ts';
import { namesOf } from './names.ts';
import type { RegistryPolicy } from './policy/policy.ts';
import type { PullTracker } from './progress.ts';
import type { StoredImage } from './records.ts';
import type { Endpoint, ManifestAnswer, RegistryClient } from './registry/repository.ts';
import { registrySource } from './signature/index.ts';
import type { Demand, ImageTrust, KeptManifest } from './signature/index.ts';

/** What pulls need around them. */
export interface PullWorld extends InstallWorld {
  readonly policy: RegistryPolicy;
  readonly trust: ImageTrust;
  readonly credentials: NodeCredentials;
  readonly transport: Transport;
  readonly registries: RegistryClient;
}

/** What is to be pulled, and for whom. */
export interface PullRequest {
  /** As the user wrote it. */
  readonly written: string;
  /** What that may mean, best first. */
  readonly wanted: readonly Reference[];
  readonly auth: AuthConfig | undefined;
  /** '' = none in particular. */
  readonly namespace: string;
}

/** A pull under way: who asks, for what, and how far it is. */
export class Pull {
  readonly #op: Op;
  readonly #world: PullWorld;
  readonly #request: PullRequest;
  readonly #track: PullTracker;

  constructor(op: Op, world: PullWorld, request: PullRequest, track: PullTracker) {
    this.#op = op;
    this.#world = world;
    this.#request = request;
    this.#track = track;
  }

  /** A short name may mean several images; the first that can be had is meant. @throws what the last one fails with. */
  async run(): Promise<StoredImage> {
    const { written, wanted } = this.#request;
    const failed: string[] = [];
    for (const reference of wanted) {
      try {
        return await this.#pull(reference);
      } catch (error) {
        if (this.#op.signal.aborted || reference === wanted.at(-1)) throw error;
        failed.push(explain(error));
        this.#op.log.warn('candidate of a short name failed, will try the next one', {
          candidate: formatReference(reference),
          error: explain(error),
        });
      }
    }
    throw new RuntimeError('NotFound', `${quote(written)} could not be pulled: ${failed.join('; ')}`);
  }

  async #pull(reference: Reference): Promise<StoredImage> {
    const { credentials, policy, registries, trust } = this.#world;
    const { namespace, written } = this.#request;
    const name = formatReference(reference);
    const demand = await trust.demand(reference, namespace);
    this.#op.log.debug('using the policy path for image', { image: name, policy: demand.policy, namespace });
    const endpoints = await policy.endpoints(this.#op, reference);
    const oneTime = await credentials.claim(namespace, [written, repositoryName(reference), name]);
    try {
      const source = new MirroredSource(name, endpoints, async (endpoint) =>
        registries.repository(endpoint, await this.#credentialsFor(endpoint, reference, oneTime?.path)),
      );
      const known = demand.requirements.length > 0 ? undefined : await this.#knownAlready(source, reference);
      if (known !== undefined) return known;
      const root = await source.manifest(this.#op, reference.digest ?? reference.tag ?? '');
      return await install(this.#op, this.#world, {
        source,
        root,
        key: name,
        names: namesOf(reference, root.digest),
        track: this.#track,
        vouch: (manifest) => this.#vouch(demand, manifest, source),
      });
    } finally {
      await oneTime?.release();
    }
  }

  /**
   * The image, if this reference was pulled before and the registry says that nothing changed: one HEAD, which asks for
   * credentials like a pull (the kubelet counts on that for private images that are here already), but is no pull where
   * pulls are counted.
   */
  async #knownAlready(source: MirroredSource, reference: Reference): Promise<StoredImage | undefined> {
    const { kept } = this.#world;
    const repository = repositoryName(reference);
    const mine =
      reference.digest === undefined
        ? kept.images.byName(formatReference(reference))
        : kept.images.byName(`${repository}@${reference.digest}`);
    if (mine === undefined) return undefined;
    const digest = await source.promisedDigest(this.#op, reference.digest ?? reference.tag ?? '');
    const stored = digest === undefined ? undefined : kept.images.byName(`${repository}@${digest}`);
    if (digest === undefined || stored === undefined || (reference.digest !== undefined && digest !== reference.digest))
      return undefined;
    if (!(await kept.isWhole(stored))) return undefined;
    return await kept.addNames(stored.id, namesOf(reference, digest));
  }

  /**
   * The request's own credentials are for the registry that the reference names (or that `server_address` names); a
   * mirror gets them only when named there. Everybody else gets what the node has for that host.
   */
  async #credentialsFor(endpoint: Endpoint, reference: Reference, oneTime: string | undefined): Promise<Credentials> {
    const { auth } = this.#request;
    const { credentials, policy } = this.#world;
    const own = requestCredentials(auth);
    const server = auth?.serverAddress ?? '';
    const meant = server === '' ? undefined : registryHost(server);
    const isMeant =
      meant === undefined
        ? endpoint.kind === 'registry'
        : meant === registryHost(endpoint.credentialName) ||
          (endpoint.kind === 'registry' && meant === reference.domain);
    if (own !== undefined && isMeant) return own;
    if (own !== undefined && endpoint.kind === 'registry')
      this.#op.log.warn('credentials of the request are for another registry, not used', {
        server: quote(server),
        registry: reference.domain,
      });
    return credentials.find(this.#op, endpoint.credentialName, oneTime, policy.credentialHelpers);
  }

  /** The signatures of `manifest`, to be kept. @throws unless they meet what policy.json demands. */
  async #vouch(
    demand: Demand,
    { digest, bytes }: ManifestAnswer,
    source: MirroredSource,
  ): Promise<KeptManifest | undefined> {
    const { policy, registries, trust } = this.#world;
    const world = { http: registries.http, routesTo: (url: URL) => policy.routesTo(this.#op, url) };
    const beside = registrySource(world, await source.current(), demand.reference);
    const image = { reference: demand.reference, digest, manifest: bytes };
    const found = await trust.vouch(this.#op, demand, image, beside);
    return found === undefined ? undefined : { manifest: digest, signatures: found.signatures };
  }
}
