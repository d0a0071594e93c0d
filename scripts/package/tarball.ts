/** The tarball: the tree below a directory of the release's name, and `install.sh`, which lays it out at a prefix. */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import type { Tree } from './tree.ts';

const INSTALLER = join(import.meta.dirname, '../../contrib/install.sh');

/** Makes `file` of the tree. The installer is part of the archive only. */
export function makeTarball(tree: Tree, name: string, epoch: number, file: string): void {
  tree.copy('install.sh', INSTALLER, 0o755);
  tree.seal(epoch);
  const output = openSync(file, 'w');
  try {
    const tar = ['--sort=name', '--owner=0', '--group=0', '--numeric-owner', '--format=gnu', `--mtime=@${epoch}`];
    // `r`: names of files only, not what links say.
    const archive = ['-C', tree.root, ...tar, `--transform=flags=r;s,^\\.,${name},`, '-I', 'gzip -6n', '-cf', '-', '.'];
    execFileSync('tar', archive, { stdio: ['ignore', output, 'inherit'], env: { ...process.env, LC_ALL: 'C' } });
  } finally {
    closeSync(output);
  }
  tree.remove('install.sh');
}
