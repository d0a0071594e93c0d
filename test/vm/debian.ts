/** What comes from Debian: a root filesystem, and single packages that are unpacked and never installed here. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CACHE, CannotHave } from './cache.ts';

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** The archive that this machine's apt reads. */
function mirror(): string {
  const targets = execFileSync('apt-get', ['indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages'], {
    encoding: 'utf8',
  });
  const found = targets.split('\n').find((line) => /\/debian\/?$/.test(line));
  if (found === undefined) throw new CannotHave('apt on this machine knows no archive of Debian');
  return found;
}

/** A minimal Debian with these packages in `directory`. */
export function debootstrap(suite: string, packages: readonly string[], directory: string): void {
  const kept = join(CACHE, 'packages');
  mkdirSync(kept, { recursive: true });
  // It mounts /proc there, which would stay if it were killed, and nobody could delete the directory.
  run('unshare', [
    '--mount',
    'debootstrap',
    '--variant=minbase',
    `--cache-dir=${kept}`,
    `--include=${packages.join(',')}`,
    suite,
    directory,
    mirror(),
  ]);
  for (const place of ['var/cache/apt/archives', 'var/lib/apt/lists'])
    rmSync(join(directory, place), { recursive: true, force: true });
}

/** Unpacks the newest `name` of a suite into `directory`. This machine's own apt is neither asked nor changed. */
export function unpackPackage(suite: string, name: string, directory: string): void {
  const state = join(CACHE, 'apt', suite);
  const archives = join(state, 'archives');
  for (const each of ['lists/partial', 'parts', 'archives']) mkdirSync(join(state, each), { recursive: true });
  const sources = join(state, 'sources.list');
  writeFileSync(sources, `deb [signed-by=${KEYRING}] ${mirror()} ${suite} main\n`);
  const options = [
    `Dir::Etc::SourceList=${sources}`,
    `Dir::Etc::SourceParts=${join(state, 'parts')}`,
    `Dir::State::Lists=${join(state, 'lists')}`,
    'Acquire::Languages=none',
    'APT::Sandbox::User=root',
  ].flatMap((option) => ['-o', option]);
  run('apt-get', [...options, '-q', 'update']);
  rmSync(archives, { recursive: true, force: true });
  mkdirSync(archives);
  run('apt-get', [...options, '-q', 'download', name], archives);
  for (const file of readdirSync(archives)) run('dpkg-deb', ['--extract', join(archives, file), directory]);
}

/** Runs a shell script as root of another root filesystem, which reaches the network as this machine does. */
export function inRoot(directory: string, script: string): void {
  run('chroot', [directory, 'bash', '-euc', script]);
}

/** @throws CannotHave with the last of what the command said. */
export function run(command: string, args: readonly string[], cwd = '/'): void {
  try {
    execFileSync(command, args, {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
      maxBuffer: 64 * 1024 * 1024,
      env: {
        ...process.env,
        PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
        DEBIAN_FRONTEND: 'noninteractive',
        LC_ALL: 'C',
      },
    });
  } catch (error) {
    const said = error as { readonly stdout?: Buffer; readonly stderr?: Buffer; readonly message: string };
    const tail = `${String(said.stdout ?? '')}${String(said.stderr ?? said.message)}`.trim().slice(-2000);
    throw new CannotHave(`${command} ${args.join(' ')} failed:\n${tail}`, { cause: error });
  }
}
