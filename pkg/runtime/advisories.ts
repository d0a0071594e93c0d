/**
 * PURE. Releases of OCI runtimes with holes that let a container out. A container's confinement is the runtime's work:
 * nothing that we do helps where it can be talked out of it.
 */

/**
 * One advisory: what it is called, what it gives an attacker, and the first release of each line that has it mended,
 * oldest first.
 */
interface Advisory {
  readonly ids: readonly string[];
  readonly what: string;
  readonly fixedIn: readonly [string, ...string[]];
}

/**
 * From the projects' own advisories: what a container or its image can do to the node, and what nobody but the runtime
 * can prevent (an image with a link for /dev, CVE-2026-41579, does not reach it). The newest first.
 */
const ADVISORIES: Readonly<Record<string, readonly Advisory[]>> = {
  runc: [
    {
      ids: ['CVE-2025-31133', 'CVE-2025-52565', 'CVE-2025-52881'],
      what: 'an image can have files of /proc written or unmasked',
      fixedIn: ['1.2.8', '1.3.3', '1.4.0-rc.3'],
    },
    { ids: ['CVE-2024-21626'], what: 'a working directory can lead out of the container', fixedIn: ['1.1.12'] },
    {
      ids: ['CVE-2023-27561', 'CVE-2023-28642'],
      what: 'AppArmor and SELinux can be evaded by a link in place of /proc',
      fixedIn: ['1.1.5'],
    },
    { ids: ['CVE-2022-29162'], what: 'execs have inheritable capabilities', fixedIn: ['1.1.2'] },
    { ids: ['CVE-2021-30465'], what: 'a mount can be led out of the container by a link', fixedIn: ['1.0.0-rc95'] },
    { ids: ['CVE-2019-5736'], what: 'a container can overwrite the runtime', fixedIn: ['1.0.0-rc7'] },
  ],
  crun: [{ ids: ['CVE-2022-27650'], what: 'execs have inheritable capabilities', fixedIn: ['1.4.4'] }],
  youki: [
    {
      ids: ['CVE-2025-62161', 'CVE-2025-62596'],
      what: 'an image can have files of /proc written or unmasked',
      fixedIn: ['0.5.7'],
    },
  ],
};

/**
 * What is known against this release of a runtime, for an operator; undefined if nothing is. By the version alone: a
 * distribution may have mended an old number, which the text says.
 */
export function knownVulnerable(kind: string, version: string): string | undefined {
  const open = Object.hasOwn(ADVISORIES, kind)
    ? (ADVISORIES[kind] ?? []).filter(({ fixedIn }) => isBefore(version, fixedIn))
    : [];
  const [first] = open;
  if (first === undefined) return undefined;
  const ids = open.flatMap((each) => each.ids).join(', ');
  return (
    `${kind} ${version} is older than the releases without ${ids} (${first.what}); use ${kind} ` +
    `${first.fixedIn.filter((each) => !each.includes('-')).join(' or ')} or later, unless your ` +
    'distribution has mended this one (see its changelog)'
  );
}

/** True if neither the release's own line (1.2.x) nor an older one has the fix. */
function isBefore(version: string, fixedIn: readonly string[]): boolean {
  const own = parse(version);
  if (own === undefined) return false;
  return !fixedIn.some((text, index) => {
    const fix = parse(text);
    if (fix === undefined || compare(own, fix) < 0) return false;
    const sameLine = own[0] === fix[0] && own[1] === fix[1];
    return sameLine || index === fixedIn.length - 1;
  });
}

/**
 * `1.1.5+ds1`, `1.2.0-rc.1`, `1.0.0-rc93`: numbers, the last of a candidate; a release is behind all of its candidates.
 */
function parse(version: string): readonly [number, number, number, number] | undefined {
  const match = /^(\d+)\.(\d+)(?:\.(\d+))?(?:[-~]rc\.?(\d+))?/.exec(version);
  if (match === null) return undefined;
  const [, major = '0', minor = '0', patch = '0', candidate] = match;
  return [Number(major), Number(minor), Number(patch), candidate === undefined ? Infinity : Number(candidate)];
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (const [index, each] of a.entries()) if (each !== b[index]) return each - (b[index] ?? 0);
  return 0;
}
