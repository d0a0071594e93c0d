/**
 * What a cluster is made of and this repository does not hold: Kubernetes' programs, built from the Go module
 * k8s.io/kubernetes, CoreDNS from its own, and etcd from Debian's package, unpacked and never installed. Each is made
 * once for each version and kept in a cache directory that all clones share.
 *
 * Made means: complete or absent. Everything is built beside its place and renamed.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

const CACHE = process.env['BERTH_CLUSTER_CACHE'] ?? '/var/cache/berth-cluster';

/** By their short names; a newer one may want a newer Go, which the toolchain fetches as Go modules. */
const KUBERNETES = { '1.36': '1.36.3', '1.37': '1.37.2' } as const;
const GO_FOR: Readonly<Partial<Record<KubernetesName, string>>> = { '1.37': 'go1.27.3' };
export type KubernetesName = keyof typeof KUBERNETES;

/** Whatever a node needs beside its kubelet, and what nodes need. */
const AROUND = ['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubectl', 'kube-proxy'] as const;
/** What node conformance takes: its specs, what runs several of them at a time, and the program of its images. */
const CONFORMANCE = ['e2e_node.test', 'ginkgo', 'agnhost'] as const;
/** With those of which one suite or another takes no more. */
export type KubernetesProgram = (typeof AROUND)[number] | (typeof CONFORMANCE)[number] | 'kubelet' | 'kubeadm';
/** Packages that are not ./cmd/NAME. */
const ELSEWHERE: Readonly<Partial<Record<KubernetesProgram, string>>> = {
  'e2e_node.test': './test/e2e_node',
  ginkgo: 'github.com/onsi/ginkgo/v2/ginkgo',
  agnhost: './test/images/agnhost',
};
const COREDNS = { module: 'github.com/coredns/coredns', version: '1.14.7' } as const;
/** Those of its plugins that we use; with those for other people's clouds it takes much longer to build. */
const COREDNS_PLUGINS = ['bind', 'cache', 'errors', 'kubernetes', 'ready'];

/** @throws with the names that there are. */
export function kubernetesNamed(name: string): KubernetesName {
  const found = (Object.keys(KUBERNETES) as KubernetesName[]).find((each) => each === name);
  if (found === undefined) throw new Error(`--kubernetes ${name}: want ${Object.keys(KUBERNETES).join(' or ')}`);
  return found;
}

/** Where a program is kept, whether it is there or not. */
export function programOf(kubernetes: KubernetesName, name: KubernetesProgram): string {
  return join(CACHE, `kubernetes-${KUBERNETES[kubernetes]}`, name);
}

/** The programs of these that are not there. */
function missingOf(kubernetes: KubernetesName, names: readonly KubernetesProgram[]): KubernetesProgram[] {
  return names.filter((name) => !existsSync(programOf(kubernetes, name)));
}

/** Whether a whole cluster can be had at once. */
export function isBuilt(kubernetes: KubernetesName): boolean {
  const others = [join(CACHE, 'etcd'), coreDnsPlace()];
  return missingOf(kubernetes, ['kubelet', ...AROUND]).length === 0 && others.every((place) => existsSync(place));
}

/** Builds and fetches what is not there of a whole cluster. @throws with the words of the compiler or of apt. */
export function makeAll(kubernetes: KubernetesName): void {
  makeKubernetes(kubernetes, ['kubelet', ...AROUND]);
  etcd();
  coreDns();
}

/** A build that took longer than it was given. What is compiled is kept by Go: the next one has the less to do. */
export class NotInTime extends Error {}

/** Builds what is not there of node conformance; a quarter of an hour more. @throws with the compiler's words. */
export function makeConformance(kubernetes: KubernetesName): void {
  makeKubernetes(kubernetes, CONFORMANCE);
}

/**
 * Builds what is not there of these; needs Go, a network and some minutes. @throws with the compiler's words, or
 * NotInTime.
 */
export function makeKubernetes(
  kubernetes: KubernetesName,
  names: readonly KubernetesProgram[],
  timeoutMs?: number,
): void {
  const missing = missingOf(kubernetes, names);
  if (missing.length === 0) return;
  const version = KUBERNETES[kubernetes];
  say(`building ${missing.join(', ')} ${version} (once; the whole takes a quarter of an hour on two cores)`);
  inScratch((scratch) => {
    const source = copyOf(`k8s.io/kubernetes@v${version}`, scratch, goEnv(kubernetes));
    for (const name of ['go.work', 'go.work.sum', 'vendor'])
      rmSync(join(source, name), { recursive: true, force: true });
    const file = join(source, 'go.mod');
    writeFileSync(file, withoutStaging(readFileSync(file, 'utf8'), version));
    const built = join(CACHE, `kubernetes-${version}.${process.pid}.new`);
    try {
      mkdirSync(built, { recursive: true });
      const bound = timeoutMs === undefined ? {} : { timeout: timeoutMs };
      for (const args of buildArgs(version, missing, built))
        run('go', args, { cwd: source, env: goEnv(kubernetes), ...bound });
      for (const name of missing) {
        const place = programOf(kubernetes, name);
        mkdirSync(dirname(place), { recursive: true });
        renameSync(join(built, name), place);
      }
    } finally {
      rmSync(built, { recursive: true, force: true });
    }
  });
}

/** Without inlining and debugging data the compiler takes half of the time, and these programs are fast enough. */
const QUICKLY = ['-trimpath', '-gcflags=all=-l -dwarf=false'];

/** A command for all programs, and one for each test binary. */
function buildArgs(version: string, names: readonly KubernetesProgram[], to: string): string[][] {
  const [major = '', minor = ''] = version.split('.');
  const told = { gitVersion: `v${version}`, gitMajor: major, gitMinor: minor };
  const flags = Object.entries(told).map(([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`);
  const how = [...QUICKLY, '-ldflags', ['-s', '-w', ...flags].join(' ')];
  const packageOf = (name: KubernetesProgram): string => ELSEWHERE[name] ?? `./cmd/${name}`;
  const [tests, programs] = [true, false].map((wanted) => names.filter((name) => name.endsWith('.test') === wanted));
  return [
    ...(programs?.length === 0 ? [] : [['build', ...how, '-o', `${to}/`, ...(programs ?? []).map(packageOf)]]),
    ...(tests ?? []).map((name) => ['test', '-c', '-vet=off', ...how, '-o', join(to, name), packageOf(name)]),
  ];
}

function goEnv(kubernetes?: KubernetesName): NodeJS.ProcessEnv {
  const toolchain = kubernetes === undefined ? undefined : GO_FOR[kubernetes];
  return {
    ...process.env,
    CGO_ENABLED: '0',
    GOFLAGS: '-mod=mod -buildvcs=false',
    ...(toolchain === undefined ? {} : { GOTOOLCHAIN: toolchain }),
  };
}

/** A copy of a module's source below `scratch`, which may be changed: modules themselves are kept read-only. */
function copyOf(module: string, scratch: string, env: NodeJS.ProcessEnv): string {
  const said = execFileSync('go', ['mod', 'download', '-json', module], { encoding: 'utf8', cwd: tmpdir(), env });
  const source = join(scratch, 'source');
  run('cp', ['-r', '--no-preserve=mode', (JSON.parse(said) as { readonly Dir: string }).Dir, source], { cwd: '/' });
  return source;
}

/**
 * PURE. go.mod with published modules in the place of `./staging`, directories of the repository that its module does
 * not carry: of Kubernetes 1.36.3 the same `k8s.io/X` are 0.36.3.
 */
function withoutStaging(mod: string, version: string): string {
  const published = `v0.${version.split('.').slice(1).join('.')}`;
  return mod
    .replace(/^replace \([^)]*^\)\n/m, '')
    .replace(/^(\s+k8s\.io\/\S+) v0\.0\.0(?=$| )/gm, (_all, module: string) => `${module} ${published}`);
}

function coreDnsPlace(): string {
  return join(CACHE, `coredns-${COREDNS.version}`, 'coredns');
}

/** CoreDNS with few plugins. @throws with the compiler's words. */
export function coreDns(): string {
  const place = coreDnsPlace();
  if (existsSync(place)) return place;
  say(`building CoreDNS ${COREDNS.version} (once)`);
  inScratch((scratch) => {
    const source = copyOf(`${COREDNS.module}@v${COREDNS.version}`, scratch, goEnv());
    const imports = COREDNS_PLUGINS.map((name) => `import _ "${COREDNS.module}/plugin/${name}"\n`);
    writeFileSync(join(source, 'core/plugin/zplugin.go'), `package plugin\n\n${imports.join('')}`);
    mkdirSync(dirname(place), { recursive: true });
    const draft = `${place}.${process.pid}.new`;
    run('go', ['build', ...QUICKLY, '-ldflags', '-s -w', '-o', draft, '.'], { cwd: source, env: goEnv() });
    renameSync(draft, place);
  });
  return place;
}

/** etcd as Debian has it. @throws with apt's words. */
export function etcd(): string {
  const place = join(CACHE, 'etcd');
  if (!existsSync(place)) {
    say('unpacking etcd (once)');
    inScratch((scratch) => {
      // apt refuses to download into a directory of root's as its own user; we ask it not to try.
      const download = ['-o', 'APT::Sandbox::User=root', 'download', 'etcd-server'];
      try {
        run('apt-get', download, { cwd: scratch });
      } catch {
        run('apt-get', ['-q', 'update'], { cwd: '/' });
        run('apt-get', download, { cwd: scratch });
      }
      for (const name of readdirSync(scratch)) run('dpkg-deb', ['--extract', name, 'etcd'], { cwd: scratch });
      mkdirSync(CACHE, { recursive: true });
      cpSync(join(scratch, 'etcd/usr/bin/etcd'), `${place}.${process.pid}.new`);
      renameSync(`${place}.${process.pid}.new`, place);
    });
  }
  return place;
}

/** Drafts of builds that were killed, in a cache or beside a program in it; others may be building there. */
export function forgetTheDead(cache: string): void {
  if (!existsSync(cache)) return;
  const draft = /\.(\d+)\.new$/;
  const top = readdirSync(cache, { withFileTypes: true });
  // A living builder's draft is a tree that changes: whoever walked it would miss a directory sooner or later.
  const made = top.filter((each) => each.isDirectory() && !draft.test(each.name)).map(({ name }) => name);
  const below = made.flatMap((name) => readdirSync(join(cache, name)).map((each) => join(name, each)));
  for (const name of [...top.map((each) => each.name), ...below]) {
    const pid = draft.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) rmSync(join(cache, name), { recursive: true, force: true });
  }
}

function inScratch(work: (directory: string) => void): void {
  const directory = join(CACHE, `source.${process.pid}.new`);
  forgetTheDead(CACHE);
  mkdirSync(directory, { recursive: true });
  try {
    work(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** @throws with the last of what the command said, or NotInTime after `timeout` milliseconds. */
function run(
  command: string,
  args: readonly string[],
  options: { readonly cwd: string; readonly env?: NodeJS.ProcessEnv; readonly timeout?: number },
): void {
  try {
    execFileSync(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 256 * 1024 * 1024 });
  } catch (error) {
    const said = error as NodeJS.ErrnoException & { readonly stdout?: Buffer; readonly stderr?: Buffer };
    if (said.code === 'ETIMEDOUT') throw new NotInTime(`${command} took longer than ${options.timeout} ms`);
    const tail = `${String(said.stdout ?? '')}${String(said.stderr ?? said.message)}`.trim().slice(-2000);
    throw new Error(`${command} ${args.join(' ')} failed:\n${tail}`, { cause: error });
  }
}

export function say(text: string): void {
  console.log(`cluster: ${text}`);
}
