/**
 * `npm run package [-- --arch amd64|arm64] [--version V]`: build/package/berth_<version>_<arch>.deb and
 * build/package/berth-<version>-<arch>.tar.gz, the same bytes for the same commit. Without --arch for this machine;
 * --out makes them elsewhere; --fetch only brings here what is downloaded.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { makeDeb } from './package/deb.ts';
import { type Machine, MACHINES } from './package/machine.ts';
import { nodeFor } from './package/node.ts';
import { buildPrograms } from './package/programs.ts';
import { type Release, stage } from './package/stage.ts';
import { makeTarball } from './package/tarball.ts';
import { Tree } from './package/tree.ts';

const ROOT = join(import.meta.dirname, '..');

const { values } = parseArgs({
  options: {
    arch: { type: 'string', multiple: true, default: [process.arch === 'arm64' ? 'arm64' : 'amd64'] },
    version: { type: 'string', default: ownVersion() },
    fetch: { type: 'boolean', default: false },
    out: { type: 'string', default: join(ROOT, 'build/package') },
  },
});
if (values.fetch) {
  for (const machine of MACHINES) nodeFor(machine);
  process.exit();
}
const release: Release = { version: values.version, epoch: commitTime() };
for (const arch of values.arch) {
  const machine = MACHINES.find((each) => each.arch === arch);
  if (machine === undefined)
    throw new Error(`--arch ${arch}: there are ${MACHINES.map((each) => each.arch).join(', ')}`);
  for (const file of makePackages(machine, release, values.out))
    console.log(`${file}  ${(statSync(file).size / 1e6).toFixed(1)} MB`);
}

function makePackages(machine: Machine, { version, epoch }: Release, out: string): readonly string[] {
  const work = join(out, `work-${machine.arch}`);
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const programs = buildPrograms(machine, version, work);
  const tree = new Tree(join(work, 'tree'));
  stage(tree, programs, { version, epoch });
  const tarball = join(out, `berth-${version}-${machine.arch}.tar.gz`);
  makeTarball(tree, `berth-${version}`, epoch, tarball);
  const deb = join(out, `berth_${version}_${machine.arch}.deb`);
  makeDeb(tree, machine, { version, epoch }, deb);
  rmSync(work, { recursive: true });
  return [deb, tarball];
}

function ownVersion(): string {
  return (JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { readonly version: string }).version;
}

/** When the commit was made, in seconds since the epoch; SOURCE_DATE_EPOCH where there is no git. */
function commitTime(): number {
  const given = process.env['SOURCE_DATE_EPOCH'];
  return Number(given ?? execFileSync('git', ['log', '-1', '--format=%ct'], { cwd: ROOT, encoding: 'utf8' }));
}
