/**
 * What the conformance run needs and this repository does not hold: crictl, critest, ginkgo and a current runc built
 * with Go, a static busybox and nginx from Debian. Each is made once and kept in a cache directory that all clones
 * share; nothing of them is committed.
 *
 * Made means: complete or absent. Every program is built beside its place and renamed.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { arch, availableParallelism, homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { madeOnce } from '../../scripts/made-once.ts';

const CACHE = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'berth/conformance');
const CRI_TOOLS = { module: 'sigs.k8s.io/cri-tools', version: '1.36.0' } as const;
const RUNC = { module: 'github.com/opencontainers/runc', version: '1.3.6' } as const;
/** nginx and the libraries that it is linked with. */
const NGINX_PACKAGES = ['nginx', 'libc6', 'libcrypt1', 'libpcre2-8-0', 'libssl3', 'zlib1g'];

export interface GoPrograms {
  readonly crictl: string;
  readonly critest: string;
  /** The command line of ginkgo, which `critest -parallel` is run by. */
  readonly ginkgo: string;
}

/** True if there is a Go toolchain to build with. */
export function hasGo(): boolean {
  try {
    execFileSync('go', ['version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/**
 * crictl, critest and ginkgo, built from the module of cri-tools with the dependencies that it names. @throws with the
 * compiler's words.
 */
export function goPrograms(): GoPrograms {
  const { module, version } = CRI_TOOLS;
  const source = (): string => goModule(module, version);
  return {
    crictl: made(`bin/crictl-${version}`, (to) =>
      run(
        'go',
        ['build', '-trimpath', '-ldflags', `-X ${module}/pkg/version.Version=${version}`, '-o', to, './cmd/crictl'],
        source(),
      ),
    ),
    // critest is a test binary: its package has no main.
    critest: made(`bin/critest-${version}`, (to) =>
      run(
        'go',
        [
          'test',
          '-c',
          '-trimpath',
          '-ldflags',
          `-X ${module}/pkg/version.Version=${version}`,
          '-o',
          to,
          './cmd/critest',
        ],
        source(),
      ),
    ),
    ginkgo: made(`bin/ginkgo-of-${version}`, (to) =>
      run('go', ['build', '-trimpath', '-o', to, 'github.com/onsi/ginkgo/v2/ginkgo'], source()),
    ),
  };
}

/** Makes everything that needs a network or a compiler, so that later calls find it. */
export function makeAllPrograms(withCurrentRunc: boolean): void {
  goPrograms();
  staticBusybox();
  nginxTree();
  noNewPrivsProgram();
  if (withCurrentRunc) currentRunc();
}

/** A runc of this year, which has idmapped mounts; the distribution's has not. */
export function currentRunc(): string {
  return made(`bin/runc-${RUNC.version}`, (to) => {
    needPackages(['libseccomp-dev', 'pkg-config', 'gcc', 'libc6-dev']);
    run(
      'go',
      [
        'build',
        '-mod=readonly',
        '-trimpath',
        '-tags',
        'seccomp',
        '-ldflags',
        `-X main.version=${RUNC.version}`,
        '-o',
        to,
        '.',
      ],
      goModule(RUNC.module, RUNC.version),
    );
  });
}

/**
 * busybox as the images of Kubernetes' tests have it: static, and with a shell that runs /bin/ls when asked for ls.
 * Debian's own busybox-static runs the applet inside the shell, so hiding /bin/ls hides nothing.
 */
export function staticBusybox(): string {
  return made('bin/busybox', (to) => {
    needPackages(['gcc', 'libc6-dev', 'libcrypt-dev', 'make', 'bzip2', 'xz-utils']);
    inScratch((scratch) => {
      const source = debianSource('busybox', scratch);
      run('make', ['defconfig'], source);
      writeFileSync(
        join(source, '.config'),
        readFileSync(join(source, '.config'), 'utf8').replace('# CONFIG_STATIC is not set', 'CONFIG_STATIC=y'),
      );
      run('make', [`-j${availableParallelism()}`, 'busybox'], source);
      cpSync(join(source, 'busybox'), to);
    });
  });
}

/** A directory with nginx and its libraries where they are on a Debian system; none of it is installed. */
export function nginxTree(): string {
  return made('nginx', (to) => {
    inScratch((scratch) => {
      withFreshLists(() => run('apt-get', [...UNSANDBOXED, 'download', ...NGINX_PACKAGES], scratch));
      for (const name of readdirSync(scratch)) run('dpkg-deb', ['--extract', join(scratch, name), to], scratch);
    });
  });
}

/** Static, prints its effective uid: the image with it makes it set-uid root. */
export function noNewPrivsProgram(): string {
  return made('bin/nnp', (to) => {
    needPackages(['gcc', 'libc6-dev']);
    inScratch((scratch) => {
      writeFileSync(
        join(scratch, 'main.c'),
        '#include <stdio.h>\n#include <unistd.h>\nint main(void) { return printf("Effective uid: ' +
          '%u\\n", geteuid()) < 0; }\n',
      );
      run('gcc', ['-static', '-O1', '-o', to, 'main.c'], scratch);
    });
  });
}

/** The machine's architecture as images and Go call it. */
export const GOARCH = arch() === 'x64' ? 'amd64' : arch();

/**
 * Unpacks the pristine source of a Debian package and returns its directory. The lists of sources are fetched to a
 * place of our own.
 */
function debianSource(name: string, scratch: string): string {
  const apt = [
    '-o',
    `Dir::Etc::sourcelist=${scratch}/sources.list`,
    '-o',
    'Dir::Etc::sourceparts=-',
    '-o',
    `Dir::State::lists=${scratch}/lists`,
    ...UNSANDBOXED,
  ];
  mkdirSync(join(scratch, 'lists/partial'), { recursive: true });
  writeFileSync(join(scratch, 'sources.list'), sourceLines().join(''));
  run('apt-get', [...apt, '-q', 'update'], scratch);
  run('apt-get', [...apt, '-q', 'source', '--download-only', name], scratch);
  const archive = readdirSync(scratch).find((each) => each.includes('.orig.tar.'));
  if (archive === undefined) throw new Error(`apt-get source ${name} brought no original source`);
  const source = join(scratch, 'source');
  mkdirSync(source);
  run('tar', ['--extract', '--strip-components=1', '--file', join(scratch, archive), '--directory', source], scratch);
  return source;
}

/** apt refuses to download into a directory of root's as its own user; we ask it not to try. */
const UNSANDBOXED = ['-o', 'APT::Sandbox::User=root'];

/** The machine's own package sources as sources of source code, signed by the distribution's keys. */
function sourceLines(): string[] {
  const format = '$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)';
  const lines = execFileSync('apt-get', ['indextargets', '--format', format], { encoding: 'utf8' }).split('\n');
  const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg';
  const signed = existsSync(keyring) ? `[signed-by=${keyring}] ` : '';
  return lines
    .filter((line) => line.startsWith('Packages '))
    .map((line) => `deb-src ${signed}${line.slice('Packages '.length)}\n`);
}

function needPackages(names: readonly string[]): void {
  const missing = names.filter((name) => !isInstalled(name));
  if (missing.length === 0) return;
  console.log(`conformance: installing ${missing.join(' ')}`);
  withFreshLists(() => run('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...missing], '/'));
}

function isInstalled(name: string): boolean {
  try {
    return (
      execFileSync('dpkg-query', ['-W', '-f', '${db:Status-Status}', name], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }) === 'installed'
    );
  } catch {
    return false;
  }
}

/** Tries, and again with new package lists: the archive drops superseded packages. */
function withFreshLists(work: () => void): void {
  try {
    work();
  } catch {
    run('apt-get', ['-q', 'update'], '/');
    work();
  }
}

/** The directory of a module's source. By exact version: no question goes to the proxy but for this module. */
function goModule(module: string, version: string): string {
  const reply = execFileSync('go', ['mod', 'download', '-json', `${module}@v${version}`], {
    encoding: 'utf8',
    cwd: tmpdir(),
  });
  return (JSON.parse(reply) as { readonly Dir: string }).Dir;
}

/** `path` below the cache, made by `make` if it is not there. */
function made(path: string, make: (to: string) => void): string {
  return madeOnce(join(CACHE, path), (text) => console.log(`conformance: ${text}`), make);
}

function inScratch(work: (directory: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), 'berth-conformance-'));
  try {
    work(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** @throws with the last of what the command said. */
function run(command: string, args: readonly string[], cwd: string): void {
  try {
    execFileSync(command, args, {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
      maxBuffer: 256 * 1024 * 1024,
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    });
  } catch (error) {
    const said = error as { readonly stdout?: Buffer; readonly stderr?: Buffer };
    const tail = `${String(said.stdout ?? '')}${String(said.stderr ?? '')}`.trim().slice(-2000);
    throw new Error(`${command} ${args.join(' ')} failed:\n${tail}`, { cause: error });
  }
}
