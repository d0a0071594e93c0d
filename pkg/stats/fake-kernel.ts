/** Trees of cgroup files as nodes really have them, for tests. */
import { readFileSync } from 'node:fs';
import type { CgroupHierarchy, CgroupLayout, CgroupMode, FilesIn, KernelFiles } from '../ports/kernel.ts';

export interface RecordedTree {
  readonly cgroup: string;
  readonly layout: CgroupLayout;
  /** Content by path; change it to let time pass. */
  readonly files: Map<string, string>;
  /** As readKernelFiles of pkg/sys. */
  read(wanted: readonly FilesIn[]): Promise<KernelFiles>;
}

/** The tree in `recorded-<name>.json`, with the container in it copied to each of `cgroups` as well. */
export function recordedTree(name: 'hybrid' | 'v2', cgroups: readonly string[] = []): RecordedTree {
  const found = JSON.parse(readFileSync(new URL(`./recorded-${name}.json`, import.meta.url), 'utf8')) as {
    readonly mode: CgroupMode;
    readonly cgroup: string;
    readonly hierarchies: readonly CgroupHierarchy[];
    readonly files: Readonly<Record<string, string>>;
  };
  const own = Object.entries(found.files);
  const files = new Map([
    ...own,
    ...cgroups.flatMap((cgroup) => own.map(([path, text]) => [path.replace(found.cgroup, cgroup), text] as const)),
  ]);
  return {
    cgroup: found.cgroup,
    layout: {
      mode: found.mode,
      hierarchies: found.hierarchies,
      controllers: new Set(found.hierarchies.flatMap((each) => each.controllers)),
    },
    files,
    read(wanted) {
      const texts = wanted.flatMap(({ directory, names, netns = '' }) =>
        names.split('\n').map((each) => files.get(`${netns}${directory}/${each}`)),
      );
      return Promise.resolve({ text: texts.join(''), lengths: Int32Array.from(texts, (text) => text?.length ?? -2) });
    },
  };
}
