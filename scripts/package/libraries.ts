/** Which Debian packages bring the libraries that programs are linked with, read from the programs themselves. */
import { execFileSync } from 'node:child_process';

/** The package of each library, and which versions of symbols its own version can be read from. */
const PACKAGES: Readonly<Record<string, { readonly name: string; readonly symbols: string }>> = {
  'libc.so.6': { name: 'libc6', symbols: 'GLIBC' },
  'libstdc++.so.6': { name: 'libstdc++6', symbols: 'GLIBCXX' },
  'libgcc_s.so.1': { name: 'libgcc-s1', symbols: 'GCC' },
  'libatomic.so.1': { name: 'libatomic1', symbols: 'LIBATOMIC' },
};
/** Of libc6, too. */
const LIBC_PARTS = /^(libdl\.so\.2|libm\.so\.6|libpthread\.so\.0|librt\.so\.1|ld-linux-.*)$/;
/** The release of gcc that each version of libstdc++ came with (gcc's manual, abi.html), as Debian numbers them. */
const LIBSTDCXX: Readonly<Record<string, string>> = {
  '3.4.21': '5.2',
  '3.4.22': '6',
  '3.4.23': '7',
  '3.4.24': '7',
  '3.4.25': '8',
  '3.4.26': '9',
  '3.4.28': '9.3',
  '3.4.29': '11',
  '3.4.30': '12',
  '3.4.31': '13',
  '3.4.32': '13.1',
  '3.4.33': '14',
};

/** `libc6 (>= 2.34), libstdc++6 (>= 7)`: what these programs need. @throws for a library of no known package. */
export function librariesOf(programs: readonly string[]): string {
  const needed = programs.map((program) => neededBy(execFileSync('readelf', ['-dVW', program], { encoding: 'utf8' })));
  return dependencies(needed);
}

/** What one program needs: libraries, and versions of symbols such as `GLIBC_2.34`. */
export interface Needed {
  readonly libraries: readonly string[];
  readonly versions: readonly string[];
}

/** PURE. Reads what `readelf -dVW` prints. */
export function neededBy(text: string): Needed {
  const all = (pattern: RegExp): string[] => [...text.matchAll(pattern)].map(([, name = '']) => name);
  return {
    libraries: all(/\(NEEDED\).*\[(.+)\]/g),
    versions: all(/Name: ((?:GLIBC|GLIBCXX|GCC|LIBATOMIC)_[\d.]+)/g),
  };
}

/** PURE. The packages that bring it all, each once and in its highest version. */
export function dependencies(programs: readonly Needed[]): string {
  const libraries = new Set(programs.flatMap((each) => each.libraries));
  const found: string[] = [];
  for (const library of [...libraries].sort()) {
    if (LIBC_PARTS.test(library)) continue;
    const known = PACKAGES[library];
    if (known === undefined) throw new Error(`no package is known that brings ${library}`);
    const { name, symbols } = known;
    const highest = programs
      .flatMap((each) => each.versions)
      .filter((version) => version.startsWith(`${symbols}_`))
      .map((version) => version.slice(symbols.length + 1))
      .sort(byNumber)
      .at(-1);
    const version = symbols === 'GLIBCXX' && highest !== undefined ? LIBSTDCXX[highest] : highest;
    if (version === undefined) throw new Error(`no release of ${name} is known to have ${symbols}_${highest}`);
    found.push(`${name} (>= ${version})`);
  }
  return found.join(', ');
}

function byNumber(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}
