/**
 * Pod networks through CNI plugins (spec 1.1). The plugin chain and its result are cached on disk under the sandbox id
 * before the result is used: IPAM leases outlive a reboot, and DEL must be called with what ADD was called with.
 */

export { CniNetwork } from './cni.ts';
export type { CniOptions } from './cni.ts';
export { defaultConflist, freeSubnet } from './addresses.ts';
export type { DefaultConflistOptions } from './addresses.ts';
