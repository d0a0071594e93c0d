/** Signatures beside an image in its registry, or on servers of their own, through the clients that pulls use. */
import type { Op } from '../../base/op.ts';
import { RuntimeError } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import type { Reference } from '../../oci/reference.ts';
import type { HttpClient } from '../registry/client.ts';
import { shortUrl } from '../registry/http.ts';
import type { RouteOf } from '../registry/http.ts';
import type { Repository } from '../registry/repository.ts';
import type { SignatureSource } from './sources.ts';

/** What signatures need of the network beside their registry. */
export interface RegistryWorld {
  readonly http: HttpClient;
  /** Certificates and proxies for servers that are no registries. */
  routesTo(url: URL): Promise<RouteOf>;
}

/** The signatures for what `repository`, the registry itself or a mirror of it, has as `reference`. */
export function registrySource(world: RegistryWorld, repository: Repository, reference: Reference): SignatureSource {
  return {
    reference: { ...nameOf(repository), tag: reference.tag, digest: reference.digest },
    manifest: (op, tag) => repository.manifest(op, tag),
    async blob(op, digest, size) {
      const parts: Uint8Array[] = [];
      // Lent until the next one.
      for await (const part of repository.blob(op, digest, BigInt(size), 0n)) parts.push(Buffer.from(part));
      return Buffer.concat(parts);
    },
    download: (op, url, max) => download(op, world, url, max),
  };
}

function nameOf({ endpoint }: Repository): { readonly domain: string; readonly path: string } {
  const slash = endpoint.credentialName.indexOf('/');
  return { domain: endpoint.credentialName.slice(0, slash), path: endpoint.credentialName.slice(slash + 1) };
}

/**
 * No credentials are sent: signatures are for everybody, and these servers are not the ones that the node has
 * credentials for.
 */
async function download(op: Op, { http, routesTo }: RegistryWorld, url: URL, max: number): Promise<Buffer | undefined> {
  const routeOf = await routesTo(url);
  return await http.tries(op, `signature ${shortUrl(url)}`, limits.registryTriesCount).run(async () => {
    const response = await http.send(op, { method: 'GET', url, headers: {} }, routeOf);
    if (response.status === 200) return await http.readBody(op, response, max);
    const failure = await http.failureOf(op, response, '');
    if (failure.code === 'NotFound') return undefined;
    if (failure.code === 'Unavailable') throw failure;
    throw new RuntimeError('FailedPrecondition', `${failure.message}; want the signature, or 404, of ${shortUrl(url)}`);
  });
}
