/** The programs of a package: C, built for its machine; the bundle; Node. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Machine } from './machine.ts';
import { nodeFor } from './node.ts';

const ROOT = join(import.meta.dirname, '../..');

/** Where the programs of one machine are, and what they were made of. */
export interface Programs {
  /** What goes to /usr/lib/berth. */
  readonly directory: string;
  /** The text of Node's license, with those of all that is in it. */
  readonly nodeLicense: string;
}

/** Builds them below `work`, by the compilers of the machine. */
export function buildPrograms(machine: Machine, version: string, work: string): Programs {
  const directory = join(work, 'programs');
  const bin = join(directory, 'bin');
  const objects = join(work, 'objects');
  for (const each of [bin, objects]) mkdirSync(each, { recursive: true });
  const cc = `CC=${machine.triplet}-gcc`;
  // Without debug information, which names the directory of the build; what is shipped is stripped anyway.
  run('make', '-s', '-C', 'native', cc, 'CFLAGS=-O2', `BIN=${bin}`, `OBJ=${objects}`, `VERSION=${version}`);
  run('make', '-s', '-C', 'conmon', cc, 'SMALL=-O2 -ffunction-sections -fdata-sections', `OUT=${bin}`, 'static');
  run(process.execPath, 'scripts/build.ts', '--out', directory, '--as', version);
  const node = nodeFor(machine);
  copyFileSync(join(node, 'bin/node'), join(bin, 'node'));
  for (const each of ['node', 'addon.node']) run(`${machine.triplet}-strip`, '--strip-unneeded', join(bin, each));
  return { directory, nodeLicense: join(node, 'LICENSE') };
}

function run(command: string, ...args: readonly string[]): void {
  execFileSync(command, args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'] });
}
