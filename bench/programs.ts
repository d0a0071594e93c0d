/**
 * What Berth is measured beside and with where the distribution's is too old: containerd and runc of a given version,
 * built from the Go module proxy, and Debian unstable's crun, unpacked with the libraries that it was linked with.
 * Nothing is installed. Each is made once and kept outside the tree, by version.
 *
 * Made means: complete or absent. Everything is built beside its place and renamed.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { arch, tmpdir } from 'node:os';
import { join } from 'node:path';
import { DRAFT, madeOnce } from '../scripts/made-once.ts';

const CACHE = process.env['BERTH_BENCH_CACHE'] ?? '/var/cache/berth-bench';
const VERSION = /^\d+\.\d+\.\d+$/;

type Say = (text: string) => void;

/** The OCI runtime of all targets. */
export interface RuntimeProgram {
  readonly name: 'runc' | 'crun';
  readonly path: string;
}

/** A containerd to measure beside. */
export interface ContainerdProgram {
  /** As `--vs` has it. */
  readonly name: string;
  readonly path: string;
  /** 1 or 2: they are configured in different words. */
  readonly generation: 1 | 2;
}

const INSTALLED = { crun: '/usr/bin/crun', runc: '/usr/sbin/runc' } as const;
const CRUN_NOW = 'crun-sid';

/** True if `runtimeProgram` knows what it is. */
export function isRuntimeName(name: string): boolean {
  return name in INSTALLED || name === CRUN_NOW || VERSION.test(versionOf(name, 'runc') ?? '');
}

/** What `--runtime` takes, in words. */
export const RUNTIME_NAMES = `crun, runc, ${CRUN_NOW} or runc@X.Y.Z`;

/** The program that `--runtime` names, made if it is not there. @throws with the words of apt or the compiler. */
export function runtimeProgram(name: string, say: Say): RuntimeProgram {
  if (name === 'crun' || name === 'runc') return { name, path: INSTALLED[name] };
  if (name === CRUN_NOW) return { name: 'crun', path: currentCrun(say) };
  return { name: 'runc', path: runc(versionOf(name, 'runc') ?? '', say) };
}

/** True if `containerdProgram` knows what it is. */
export function isContainerdName(name: string): boolean {
  return name === 'containerd' || VERSION.test(versionOf(name, 'containerd') ?? '');
}

/** Debian's containerd, or the one of a version `containerd@2.X.Y`. @throws with the compiler's words. */
export function containerdProgram(name: string, say: Say): ContainerdProgram {
  const version = versionOf(name, 'containerd');
  if (version === undefined) return { name, path: 'containerd', generation: 1 };
  const directory = madeOnce(join(CACHE, `containerd-${version}`), say, (to) => {
    const source = goModule('github.com/containerd/containerd/v2', version);
    // Snapshotters that want libraries of their own; none of them is used.
    const tags = 'seccomp no_btrfs no_devmapper no_zfs';
    const told = `-s -w -X github.com/containerd/containerd/v2/version.Version=${version}`;
    const commands = ['./cmd/containerd', './cmd/containerd-shim-runc-v2'];
    mkdirSync(to);
    goBuild(source, ['-tags', tags, '-ldflags', told, '-o', `${to}/`, ...commands], { CGO_ENABLED: '0' });
  });
  return { name, path: join(directory, 'containerd'), generation: 2 };
}

function runc(version: string, say: Say): string {
  const directory = madeOnce(join(CACHE, `runc-${version}`), say, (to) => {
    const source = goModule('github.com/opencontainers/runc', version);
    mkdirSync(to);
    goBuild(source, ['-tags', 'seccomp', '-ldflags', `-s -w -X main.version=${version}`, '-o', join(to, 'runc'), '.']);
  });
  return join(directory, 'runc');
}

/** The newest that was kept; else what Debian unstable has now. */
function currentCrun(say: Say): string {
  const names = existsSync(CACHE) ? readdirSync(CACHE) : [];
  const kept = names.filter((name) => name.startsWith('crun-') && !name.endsWith(DRAFT));
  const newest = kept.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1);
  return join(newest === undefined ? unpackCrun(say) : join(CACHE, newest), 'usr/bin/crun');
}

const UNSTABLE =
  'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n';

function unpackCrun(say: Say): string {
  const scratch = mkdtempSync(join(tmpdir(), 'berth-bench-crun-'));
  try {
    mkdirSync(join(scratch, 'lists/partial'), { recursive: true });
    mkdirSync(join(scratch, 'archives/partial'), { recursive: true });
    writeFileSync(join(scratch, 'sources.list'), UNSTABLE);
    // As if nothing were installed: everything that it is linked with comes, too.
    writeFileSync(join(scratch, 'status'), '');
    const apt = [
      ...aptOptions({ 'Dir::Etc::sourcelist': join(scratch, 'sources.list'), 'Dir::Etc::sourceparts': '-' }),
      ...aptOptions({ 'Dir::State::lists': join(scratch, 'lists'), 'Dir::State::status': join(scratch, 'status') }),
      ...aptOptions({ 'Dir::Cache': scratch, 'APT::Sandbox::User': 'root', 'APT::Install-Recommends': 'false' }),
    ];
    run('apt-get', [...apt, '-q', 'update'], scratch);
    run('apt-get', [...apt, '-q', '-y', '--download-only', 'install', 'crun'], scratch);
    const packages = readdirSync(join(scratch, 'archives')).filter((name) => name.endsWith('.deb'));
    const version = /^crun_([^_]+)_/.exec(packages.find((name) => name.startsWith('crun_')) ?? '')?.[1];
    if (version === undefined) throw new Error('apt-get brought no crun');
    return madeOnce(join(CACHE, `crun-${version}`), say, (to) => {
      for (const name of packages) run('dpkg-deb', ['--extract', join(scratch, 'archives', name), to], scratch);
      linkWithin(join(CACHE, `crun-${version}`), to);
    });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Lets the program find its loader and its libraries at `place`, where `tree` will be. */
function linkWithin(place: string, tree: string): void {
  const machine = arch() === 'x64' ? 'x86_64' : 'aarch64';
  const libraries = `usr/lib/${machine}-linux-gnu`;
  const loader = readdirSync(join(tree, libraries)).find((name) => /^ld-linux.*\.so\.\d+$/.test(name));
  if (loader === undefined) throw new Error(`no loader in ${libraries} of the packages`);
  // DT_RPATH, not DT_RUNPATH: libraries of libraries are looked for there, too.
  const paths = ['--force-rpath', '--set-rpath', join(place, libraries)];
  run('patchelf', ['--set-interpreter', join(place, libraries, loader), ...paths, join(tree, 'usr/bin/crun')], tree);
}

function aptOptions(options: Readonly<Record<string, string>>): string[] {
  return Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
}

function versionOf(name: string, program: string): string | undefined {
  return name.startsWith(`${program}@`) ? name.slice(program.length + 1) : undefined;
}

/** The directory of a module's source; by exact version, no question but for this module goes to the proxy. */
function goModule(module: string, version: string): string {
  const reply = execFileSync('go', ['mod', 'download', '-json', `${module}@v${version}`], {
    encoding: 'utf8',
    cwd: tmpdir(),
  });
  return (JSON.parse(reply) as { readonly Dir: string }).Dir;
}

function goBuild(source: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): void {
  run('go', ['build', '-mod=readonly', '-trimpath', '-buildvcs=false', ...args], source, env);
}

/** @throws with the last of what the command said. */
function run(command: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}): void {
  try {
    execFileSync(command, args, {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
      maxBuffer: 256 * 1024 * 1024,
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', ...env },
    });
  } catch (error) {
    const said = error as { readonly stdout?: Buffer; readonly stderr?: Buffer; readonly message: string };
    const tail = `${String(said.stdout ?? '')}${String(said.stderr ?? said.message)}`.trim().slice(-2000);
    throw new Error(`${command} ${args.join(' ')} failed:\n${tail}`, { cause: error });
  }
}
