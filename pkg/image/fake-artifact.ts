/** For tests: artifacts, as `oras push` and hostile people make them. */
import type { Digest } from '../base/ids.ts';
import { digestOf } from '../oci/digest.ts';
import { mediaTypes } from '../oci/media-types.ts';
import type { FakeRegistry } from './fakes.ts';

export interface FakeArtifact {
  readonly manifest: Buffer;
  /** Its id, too. */
  readonly digest: Digest;
  readonly blobs: readonly Buffer[];
}

/** The config of most artifacts. */
export const EMPTY_CONFIG = Buffer.from('{}');

/** An artifact of these files, by title; `changes` replace members of its manifest. */
export function fakeArtifact(
  files: Readonly<Record<string, string>>,
  changes: Readonly<Record<string, unknown>> = {},
): FakeArtifact {
  const named = Object.entries(files).map(([title, text]) => ({ title, bytes: Buffer.from(text) }));
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      artifactType: 'application/vnd.example.model',
      config: {
        mediaType: 'application/vnd.oci.empty.v1+json',
        digest: digestOf(EMPTY_CONFIG),
        size: EMPTY_CONFIG.length,
      },
      layers: named.map(({ title, bytes }) => ({
        mediaType: 'application/octet-stream+model',
        digest: digestOf(bytes),
        size: bytes.length,
        annotations: { 'org.opencontainers.image.title': title },
      })),
      ...changes,
    }),
  );
  return { manifest, digest: digestOf(manifest), blobs: [EMPTY_CONFIG, ...named.map(({ bytes }) => bytes)] };
}

/** Puts it into a registry; without its blobs if it only names them. */
export function offer(
  registry: FakeRegistry,
  repository: string,
  tag: string,
  { manifest, digest, blobs }: FakeArtifact,
): void {
  for (const name of [tag, digest])
    registry.put(`/v2/${repository}/manifests/${name}`, manifest, mediaTypes.ociManifest);
  for (const bytes of blobs) registry.put(`/v2/${repository}/blobs/${digestOf(bytes)}`, bytes);
}
