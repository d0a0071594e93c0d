/** Cgroups of a node's own: a group in each hierarchy that the machine has, which the node takes for the top. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { errnoOf } from '../../pkg/base/errors.ts';
import { waitFor } from '../e2e/cri-client.ts';

const TOP = '/sys/fs/cgroup';

/** A hierarchy, and how it is mounted. */
export interface Hierarchy {
  readonly name: string;
  readonly type: 'cgroup' | 'cgroup2';
  /** For `mount -o`; '' where there is nothing to say. */
  readonly options: string;
}

/** The hierarchies that are mounted here. */
export function hierarchies(): Hierarchy[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [before = '', after = ''] = line.split(' - ');
      const path = before.split(' ')[4] ?? '';
      const [type, , options = ''] = after.split(' ');
      if (dirname(path) !== TOP || (type !== 'cgroup' && type !== 'cgroup2')) return [];
      const told = options.split(',').filter((each) => !['rw', 'ro', 'xattr', 'nsdelegate'].includes(each));
      const named = told.some((each) => each.startsWith('name=')) ? ['none', ...told] : told;
      return [{ name: basename(path), type, options: type === 'cgroup' ? named.join(',') : '' }];
    });
}

/** The groups below the top whose names match, each once, in whatever hierarchies they are. */
export function cgroupsNamed(pattern: RegExp): string[] {
  const names = hierarchies().flatMap(({ name }) => readdirSync(join(TOP, name)).filter((each) => pattern.test(each)));
  return [...new Set(names)];
}

export class CgroupTree {
  readonly #path: string;

  /** `path` is below the top of each hierarchy. */
  constructor(path: string) {
    this.#path = path;
  }

  /** The group in each hierarchy. */
  get directories(): string[] {
    return hierarchies().map(({ name }) => join(TOP, name, this.#path));
  }

  /** Makes it, with all processors and all memory: a cpuset begins without. */
  make(): void {
    for (const directory of this.directories) {
      mkdirSync(directory, { recursive: true });
      const cpusets = join(TOP, 'cpuset');
      if (!directory.startsWith(`${cpusets}/`)) continue;
      const groups = this.#path.split('/').map((_part, at, parts) => join(cpusets, ...parts.slice(0, at + 1)));
      for (const group of groups)
        for (const file of ['cpuset.cpus', 'cpuset.mems'])
          writeFileSync(join(group, file), readFileSync(join(cpusets, file), 'utf8'));
    }
  }

  /** The groups below it whose own names match, in each hierarchy, while others make and remove such. */
  below(pattern: RegExp): string[] {
    return this.directories.flatMap(allBelow).filter((each) => pattern.test(basename(each)));
  }

  /** Removes it, with what is below; its processes are gone, or about to be. @throws naming what stays. */
  async remove(): Promise<void> {
    await waitFor(
      () => this.directories.flatMap(removed),
      (left) => left.length === 0,
      `the cgroups of ${this.#path} to go`,
      { intervalMs: 50 },
    );
  }
}

/** The groups that could not be removed. */
function removed(directory: string): string[] {
  if (!existsSync(directory)) return [];
  const below = groupsIn(directory).flatMap(removed);
  try {
    rmdirSync(directory);
    return below;
  } catch {
    return [...below, directory];
  }
}

function allBelow(directory: string): string[] {
  return groupsIn(directory).flatMap((each) => [each, ...allBelow(each)]);
}

/** The groups right below; none where the group is gone, which may be at any moment. */
function groupsIn(directory: string): string[] {
  try {
    const found = readdirSync(directory, { withFileTypes: true });
    return found.filter((each) => each.isDirectory()).map(({ name }) => join(directory, name));
  } catch (error) {
    if (['ENOENT', 'ENODEV'].includes(errnoOf(error) ?? '')) return [];
    throw error;
  }
}
