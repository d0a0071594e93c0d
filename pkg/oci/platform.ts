/** Platforms: what they are called, and which of several images fits a node. */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { isKnown } from './media-types.ts';
import type { Descriptor, Platform } from './spec-types.ts';

/** What other tools call GOARCH's architectures, and the variant that is in the name (as in containerd). */
const ALIASES: Readonly<Record<string, readonly [architecture: string, variant?: string]>> = {
  i386: ['386'],
  x86_64: ['amd64'],
  'x86-64': ['amd64'],
  aarch64: ['arm64'],
  armhf: ['arm', 'v7'],
  armel: ['arm', 'v6'],
};

/** A platform in Go's names. Without a system it is linux: nobody else's images run here. */
export function normalizePlatform(os: string, architecture: string, variant: string): Platform {
  const said = architecture.toLowerCase();
  const [arch, own] = Object.hasOwn(ALIASES, said) ? (ALIASES[said] ?? [said]) : [said];
  const level = own ?? variant.toLowerCase();
  const named = arch.startsWith('arm') && /^\d$/.test(level) ? `v${level}` : level;
  return {
    os: os === '' ? 'linux' : os.toLowerCase(),
    architecture: arch,
    ...(named === '' ? {} : { variant: named }),
  };
}

/**
 * What to look for in an index on a node of `architecture` (GOARCH name), best first: compatible variants, then none.
 */
export function platformCandidates(platform: Platform): readonly Platform[] {
  const { os, architecture } = platform;
  const variants = variantsOf(architecture, platform.variant);
  return variants.map((variant) => ({ os, architecture, variant }));
}

/**
 * The platform of a node by Node's `process.arch`; `armVersion` is the value of process.config.variables.arm_version.
 */
export function nodePlatform(arch: string, armVersion?: string): Platform {
  const names: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' };
  const architecture = names[arch] ?? arch;
  if (architecture === 'arm') return { os: 'linux', architecture, variant: `v${armVersion ?? '7'}` };
  return { os: 'linux', architecture };
}

/**
 * The entry of `index` for `platform`. An entry that names no platform is taken last.
 * @throws NotFound that lists what the index has.
 */
export function selectPlatform(index: { readonly manifests: readonly Descriptor[] }, platform: Platform): Descriptor {
  for (const wanted of platformCandidates(platform)) {
    const found = index.manifests.find(
      ({ platform: has }) =>
        has !== undefined &&
        has.os === wanted.os &&
        has.architecture === wanted.architecture &&
        (has.variant ?? '') === (wanted.variant ?? ''),
    );
    if (found !== undefined) return found;
  }
  const anywhere = index.manifests.find((each) => each.platform === undefined && isKnown(each.mediaType));
  if (anywhere !== undefined) return anywhere;
  const has = index.manifests.map((each) => (each.platform === undefined ? '?' : platformName(each.platform)));
  throw new RuntimeError(
    'NotFound',
    `the image has no variant for ${platformName(platform)}; it has ` +
      `${quote([...new Set(has)].join(', ') || 'none at all', 512)}`,
  );
}

/** `linux/arm64/v8` */
export function platformName(platform: Platform): string {
  return [platform.os, platform.architecture, platform.variant]
    .filter((part) => part !== undefined && part !== '')
    .join('/');
}

function variantsOf(architecture: string, variant: string | undefined): readonly (string | undefined)[] {
  // An ARM core runs code for every older one; images without a variant are for the lowest common one.
  if (architecture === 'arm') {
    const level = Number((variant ?? 'v7').slice(1));
    return [...[8, 7, 6, 5].filter((each) => each <= level).map((each) => `v${each}`), undefined];
  }
  if (architecture === 'arm64') return [...new Set([variant, 'v8', undefined])];
  if (architecture === 'amd64') {
    const level = Number((variant ?? 'v1').slice(1));
    return [...[4, 3, 2].filter((each) => each <= level).map((each) => `v${each}`), undefined, 'v1'];
  }
  return [...new Set([variant, undefined])];
}
