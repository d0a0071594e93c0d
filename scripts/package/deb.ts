/** The Debian package: the tree, what dpkg is to know of it, and the scripts that it runs. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { librariesOf } from './libraries.ts';
import type { Machine } from './machine.ts';
import type { Release } from './stage.ts';
import type { Tree } from './tree.ts';

const SOURCES = join(import.meta.dirname, '../../contrib/debian');
const SCRIPTS = ['preinst', 'postinst', 'prerm', 'postrm'];
/** Programs with libraries; all others are static. */
const LINKED = ['usr/lib/berth/bin/node', 'usr/lib/berth/bin/addon.node'];
/** As dpkg counts what is installed. */
const BLOCK_BYTES = 1024;

/** Makes `file` of the tree, which gets Debian's own files. */
export function makeDeb(tree: Tree, machine: Machine, { version, epoch }: Release, file: string): void {
  tree.gzip('usr/share/doc/berth/changelog', changelog(version, epoch));
  tree.copy('usr/share/lintian/overrides/berth', join(SOURCES, 'lintian-overrides'));
  const entries = tree.entries();
  const files = entries.filter(({ kind }) => kind === 'file').map(({ path }) => path);
  const blocks = entries.map(({ kind, sizeBytes }) => (kind === 'file' ? Math.ceil(sizeBytes / BLOCK_BYTES) : 1));
  const conffiles = files.filter((path) => path.startsWith('etc/'));
  const sums = files
    .filter((path) => !conffiles.includes(path))
    .map((path) => `${md5(readFileSync(join(tree.root, path)))}  ${path}\n`);
  const size = blocks.reduce((sum, each) => sum + each, 0);
  const filled = (text: string): string =>
    text
      .replaceAll('@VERSION@', version)
      .replaceAll('@ARCH@', machine.arch)
      .replaceAll('@SIZE@', String(size))
      .replaceAll('@LIBRARIES@', librariesOf(LINKED.map((path) => join(tree.root, path))))
      .replaceAll('@CRICTL@', md5(tree.read('usr/share/doc/berth/examples/crictl.yaml')));
  tree.write('DEBIAN/control', filled(readFileSync(join(SOURCES, 'control'), 'utf8')));
  tree.write('DEBIAN/conffiles', conffiles.map((path) => `/${path}\n`).join(''));
  tree.write('DEBIAN/md5sums', sums.join(''));
  for (const script of SCRIPTS)
    tree.write(`DEBIAN/${script}`, filled(readFileSync(join(SOURCES, script), 'utf8')), 0o755);
  tree.seal(epoch);
  // Level 1 is an eighth larger than the best and takes a tenth of the time. More threads would make other bytes.
  execFileSync('dpkg-deb', ['--root-owner-group', '--threads-max=1', '-Zxz', '-z1', '--build', tree.root, file], {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch) },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

/** That of contrib/debian, with an entry for a version that is not in it. */
function changelog(version: string, epoch: number): string {
  const written = readFileSync(join(SOURCES, 'changelog'), 'utf8');
  if (written.startsWith(`berth (${version}) `)) return written;
  const [, signature = ''] = /\n( -- .+?  )/.exec(written) ?? [];
  const date = new Date(epoch * 1_000).toUTCString().replace('GMT', '+0000');
  const entry = `berth (${version}) unstable; urgency=medium\n\n  * Built from the sources.\n\n${signature}${date}\n`;
  return `${entry}\n${written}`;
}

function md5(content: string | Buffer): string {
  return createHash('md5').update(content).digest('hex');
}
