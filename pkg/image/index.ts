/**
 * Images: what a registry or an archive gives, verified, unpacked and remembered.
 *
 * An image is a record `images/<id>.json` (names, config, layers) that is written last, after every layer is
 * complete on disk; whoever sees a record may use the image. Blobs are content-addressed and immutable; layers are
 * directories named by chain id that `pkg/rootfs` makes. This module has no privilege: network and files only.
 */

export { FileImageStore } from './store.ts';
export type { FileImageStoreOptions } from './options.ts';
export { RegistryPolicy } from './policy/policy.ts';
export type { PolicyOptions } from './policy/policy.ts';
export { ImageTrust, defaultTrustOptions } from './signature/index.ts';
export type { RunGpgv } from './signature/index.ts';
export { NodeCredentials, defaultAuthFiles } from './registry/credentials.ts';
