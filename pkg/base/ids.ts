/**
 * Identifiers as types. A sandbox id cannot be passed where a container id is wanted, and nothing becomes an id
 * without passing one of the parse functions here: an id is a file name, a cgroup name and an argv word later on.
 */
import { randomBytes } from 'node:crypto';
import { RuntimeError } from './errors.ts';

declare const brand: unique symbol;
type Branded<T, B extends string> = T & { readonly [brand]: B };

/** 64 lower-case hexadecimal characters. */
export type SandboxId = Branded<string, 'SandboxId'>;
/** 64 lower-case hexadecimal characters. */
export type ContainerId = Branded<string, 'ContainerId'>;
/** `sha256:<64 hex>`: the digest of an image's config blob, which is what CRI calls the image id. */
export type ImageId = Branded<string, 'ImageId'>;
/** `<algorithm>:<hex>`, sha256 or sha512, of exact length (image-spec, descriptor.md). */
export type Digest = Branded<string, 'Digest'>;
/** The digest that names a layer with all its parents (image-spec, config.md: ChainID). */
export type ChainId = Branded<string, 'ChainId'>;

/**
 * A process that cannot be mistaken for another that got its pid later: pid and start time in clock ticks since boot.
 */
export interface ProcessRef {
  readonly pid: number;
  readonly startTicks: bigint;
}

const HEX_ID = /^[0-9a-f]{64}$/;

/** A fresh random id; 256 bits, so that no check for a clash is needed. */
export function newSandboxId(): SandboxId {
  return randomBytes(32).toString('hex') as SandboxId;
}

/** A fresh random id; 256 bits, so that no check for a clash is needed. */
export function newContainerId(): ContainerId {
  return randomBytes(32).toString('hex') as ContainerId;
}

/** What a container's cgroup is called, and its unit where systemd makes it: so cAdvisor knows whom to ask (ADR 6). */
export function containerScope(id: string): string {
  return `crio-${id}.scope`;
}

/** The unit that a container's monitor lives in where systemd manages the node. */
export function monitorScope(id: string): string {
  return `berth-conmon-${id}.scope`;
}

/** @throws InvalidArgument unless `text` is 64 hex characters. */
export function parseSandboxId(text: string): SandboxId {
  if (!HEX_ID.test(text))
    throw new RuntimeError('InvalidArgument', `not a sandbox id: ${quote(text)} (want 64 hex characters)`);
  return text as SandboxId;
}

/** @throws InvalidArgument unless `text` is 64 hex characters. */
export function parseContainerId(text: string): ContainerId {
  if (!HEX_ID.test(text))
    throw new RuntimeError('InvalidArgument', `not a container id: ${quote(text)} (want 64 hex characters)`);
  return text as ContainerId;
}

/**
 * @throws InvalidArgument unless `text` is a digest of a known algorithm and exact length, lower case (CVE-2024-3727:
 * before any use as a path).
 */
export function parseDigest(text: string): Digest {
  if (!/^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/.test(text)) {
    throw new RuntimeError(
      'InvalidArgument',
      `not a digest: ${quote(text)} (want sha256:<64 hex> or sha512:<128 hex>)`,
    );
  }
  return text as Digest;
}

/** True if `text` is a digest by the rule of parseDigest. */
export function isDigest(text: string): text is Digest {
  return /^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/.test(text);
}

/** @throws InvalidArgument unless `text` is a sha256 digest. */
export function parseImageId(text: string): ImageId {
  return sha256(text) as unknown as ImageId;
}

/** @throws InvalidArgument unless `text` is a sha256 digest. */
export function parseChainId(text: string): ChainId {
  return sha256(text) as unknown as ChainId;
}

/** The hexadecimal half of a digest, safe as a file name. */
export function hexOf(digest: Digest | ImageId | ChainId): string {
  return digest.slice(digest.indexOf(':') + 1);
}

/** Shortens and escapes untrusted text for a message. */
export function quote(text: string, max = 128): string {
  return JSON.stringify(text.length > max ? `${text.slice(0, max)}…` : text);
}

function sha256(text: string): Digest {
  const digest = parseDigest(text);
  if (!digest.startsWith('sha256:')) throw new RuntimeError('InvalidArgument', `not a sha256 digest: ${quote(text)}`);
  return digest;
}
