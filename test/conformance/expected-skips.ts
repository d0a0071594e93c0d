/**
 * Specs of critest that may be skipped, each with its reason and only where the reason holds. Any other skip counts as
 * a failure.
 */
import { existsSync } from 'node:fs';

/** What a skip may depend on. */
export interface Ground {
  /** The runtime has idmapped mounts. */
  readonly idmappedMounts: boolean;
  readonly apparmor: boolean;
  readonly selinux: boolean;
  /** The kernel translates addresses. */
  readonly nat: boolean;
}

/** What this kernel has. */
export function thisKernel(): Omit<Ground, 'idmappedMounts'> {
  return {
    nat: true,
    apparmor: existsSync('/sys/module/apparmor/parameters/enabled'),
    selinux: existsSync('/sys/fs/selinux/enforce'),
  };
}

export interface ExpectedSkip {
  readonly spec: RegExp;
  readonly reason: string;
  /** Default: everywhere. */
  readonly where?: (ground: Ground) => boolean;
  /** We ask critest not to run it; without this, critest skips it by itself. */
  readonly asked?: true;
}

/** Specs that a kernel without NAT fails. */
export const NEEDS_NAT = /port mapping with host port and container port/;

export const EXPECTED_SKIPS: readonly ExpectedSkip[] = [
  {
    spec: /\bAppArmor\b/,
    reason: 'this kernel has no AppArmor',
    where: ({ apparmor }) => !apparmor,
  },
  { spec: /\bSELinux\b/i, reason: 'this kernel has no SELinux', where: ({ selinux }) => !selinux },
  {
    spec: /\bbenchmark\b/,
    reason:
      'a measurement, not a check: critest leaves it out itself unless asked for benchmarks (ours is npm run bench)',
  },
  {
    spec: /public image with digest should be pulled and removed/,
    asked: true,
    reason: 'it wants one image by its digest, which nobody can make again',
  },
  {
    spec: NEEDS_NAT,
    reason: 'this kernel translates no addresses, so no CNI plugin can map a host port',
    where: ({ nat }) => !nat,
  },
  {
    spec: /UserNamespaces/,
    reason: 'this runtime has no idmapped mounts',
    where: ({ idmappedMounts }) => !idmappedMounts,
  },
];

/** The reason why `spec` may be skipped on this ground; undefined if it may not. */
export function reasonToSkip(spec: string, ground: Ground): string | undefined {
  return EXPECTED_SKIPS.find(({ spec: pattern, where }) => pattern.test(spec) && (where === undefined || where(ground)))
    ?.reason;
}
