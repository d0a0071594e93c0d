/**
 * What a cluster has of the machine beyond its namespaces: a directory, cgroups and sysctls. One that is killed cannot
 * give them back; the next one does, since only one is up at a time.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CgroupTree, cgroupsNamed } from './cgroup-tree.ts';

const PLACE = '/tmp';
const NAME = /^berth-cluster-[A-Za-z0-9]{6}$/;
/** What a kubelet sets for the whole machine. */
const SYSCTLS = ['vm/overcommit_memory', 'kernel/panic', 'kernel/panic_on_oops'];

const fileOf = (directory: string): string => join(directory, 'sysctls.json');

/** A directory for a cluster, which has on file how the machine was before. */
export function makeDirectory(): string {
  const directory = mkdtempSync(join(PLACE, 'berth-cluster-'));
  const before = SYSCTLS.map((name) => [name, readFileSync(`/proc/sys/${name}`, 'utf8').trim()]);
  writeFileSync(fileOf(directory), JSON.stringify(Object.fromEntries(before)));
  return directory;
}

/** Puts the sysctls back, then removes the directory: whoever is killed in between is tidied up after again. */
export function removeDirectory(directory: string): void {
  for (const [name, value] of Object.entries(sysctlsOf(directory))) writeFileSync(`/proc/sys/${name}`, value);
  rmSync(directory, { recursive: true, force: true });
}

/** Empty if the cluster was killed before it could write that down, when it had changed nothing. */
function sysctlsOf(directory: string): Readonly<Record<string, string>> {
  try {
    return JSON.parse(readFileSync(fileOf(directory), 'utf8')) as Record<string, string>;
  } catch {
    return {};
  }
}

/**
 * Gives back what clusters have left that were killed, but for those of `except`, and returns their names. @throws
 * naming a cgroup that cannot be removed.
 */
export async function sweepLeftovers(except: readonly string[] = []): Promise<string[]> {
  const places = readdirSync(PLACE).filter((name) => NAME.test(name));
  const left = [...new Set([...places, ...cgroupsNamed(NAME)])].filter((name) => !except.includes(name));
  for (const name of left) {
    await new CgroupTree(name).remove();
    removeDirectory(join(PLACE, name));
  }
  return left;
}
