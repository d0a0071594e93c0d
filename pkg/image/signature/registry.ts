/** Signatures beside an image in its registry, or on servers of their own, through the clients that pulls use. */
import type { Op } from '../../base/op.ts';
import { withTimeout } from '../../base/op.ts';
import { RuntimeError } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import type { Reference } from '../../oci/reference.ts';
import { readBody, send, shortUrl } from '../registry/http.ts';
import type { RouteOf, Transport } from '../registry/http.ts';
import type { Repository } from '../registry/repository.ts';
import type { SignatureSource } from './sources.ts';

/** What signatures need of the network beside their registry. */
export interface RegistryWorld {
  readonly transport: Transport;
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
async function download(
  op: Op,
  { transport, routesTo }: RegistryWorld,
  url: URL,
  max: number,
): Promise<Buffer | undefined> {
  const bounded = withTimeout(op, limits.registryHeadersMs);
  const response = await send(
    bounded,
    transport,
    { method: 'GET', url, headers: { 'user-agent': 'berth' } },
    await routesTo(url),
  );
  if (response.status === 200) return await readBody(bounded, response, max, shortUrl(url));
  response.discard();
  if (response.status === 404) return undefined;
  const code = response.status >= 500 || response.status === 429 ? 'Unavailable' : 'FailedPrecondition';
  throw new RuntimeError(
    code,
    `the signature server answers ${response.status} for ${shortUrl(url)}; want the signature, ` +
      'or 404 where there is none',
  );
}
