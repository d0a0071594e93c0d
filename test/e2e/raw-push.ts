/** Pushes whatever it is told to a registry on loopback, in its own words: what no client would push. */
import { sha256 } from './images.ts';

export interface RawManifest {
  readonly manifest: Readonly<Record<string, unknown>>;
  readonly blobs: readonly Buffer[];
}

/** `reference` is `host:port/repository:tag`. Gives the digest of the manifest. */
export async function pushRaw(reference: string, { manifest, blobs }: RawManifest): Promise<string> {
  const colon = reference.lastIndexOf(':');
  const api = `http://${reference.slice(0, colon).replace('/', '/v2/')}`;
  for (const bytes of new Map(blobs.map((each) => [sha256(each), each])).values()) await upload(api, bytes);
  const text = Buffer.from(JSON.stringify(manifest));
  const done = await fetch(`${api}/manifests/${reference.slice(colon + 1)}`, {
    method: 'PUT',
    body: new Uint8Array(text),
    headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
  });
  if (done.status !== 201) throw new Error(`manifest: ${done.status} ${await done.text()}`);
  return sha256(text);
}

async function upload(api: string, bytes: Buffer): Promise<void> {
  const started = await fetch(`${api}/blobs/uploads/`, { method: 'POST' });
  const location = new URL(started.headers.get('location') ?? '', api);
  location.searchParams.set('digest', sha256(bytes));
  const done = await fetch(location, {
    method: 'PUT',
    body: new Uint8Array(bytes),
    headers: { 'content-type': 'application/octet-stream' },
  });
  if (done.status !== 201) throw new Error(`blob: ${done.status} ${await done.text()}`);
}

/** An artifact of these files, by title, as `oras push` makes it. `changes` replace members of the manifest. */
export function artifactOf(
  files: readonly (readonly [title: string | undefined, content: string | Buffer])[],
  changes: Readonly<Record<string, unknown>> = {},
): RawManifest {
  const config = Buffer.from('{}');
  const named = files.map(([title, content]) => ({ title, bytes: Buffer.from(content) }));
  return {
    blobs: [config, ...named.map(({ bytes }) => bytes)],
    manifest: {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      artifactType: 'application/vnd.example.model',
      config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256(config), size: config.length },
      layers: named.map(({ title, bytes }) => ({
        mediaType: 'application/vnd.oci.image.layer.v1.tar',
        digest: sha256(bytes),
        size: bytes.length,
        ...(title === undefined ? {} : { annotations: { 'org.opencontainers.image.title': title } }),
      })),
      ...changes,
    },
  };
}
