/**
 * What all targets stand on: a directory, a registry on loopback with the images, CNI configuration with a bridge for
 * each, one parent cgroup; and at the end the proof that nothing of it is left.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { chmod, copyFile, cp, mkdir, mkdtemp, readdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { defaultConflist } from '../pkg/network/index.ts';
import { EMBEDDED_IMAGE } from '../scripts/embedded-image.ts';
import { waitFor } from '../test/e2e/cri-client.ts';
import { mountsBelow } from '../test/e2e/harness.ts';
import { buildImage, dir, file, push } from '../test/e2e/images.ts';
import { type RunningRegistry, startRegistry } from '../test/e2e/registry.ts';

export const run = promisify(execFile);
const BUILD = new URL('../build/', import.meta.url).pathname;
export const CNI_PLUGINS = '/usr/lib/cni';
const SHIPPED = [
  'berth.cjs',
  'unpack-worker.cjs',
  'bin/berth',
  'bin/addon.node',
  'bin/conmon',
  'bin/pinns',
  'bin/pause',
  'bin/env-exec',
  'bin/keep',
];

export interface Network {
  /** Directory with one conflist. */
  readonly confDir: string;
  readonly bridge: string;
  /** A bridge with masquerade and portmap, as every node has it; the one that is measured. */
  readonly conflist: string;
  /** The same bridge and nothing else, under the name PLAIN: its plugins execute no iptables. */
  readonly plain: string;
}

export const PLAIN = 'plain';

export class Ground {
  readonly dir: string;
  readonly registry: RunningRegistry;
  /** `127.0.0.1:port/bench/busybox:latest`, for pods. */
  readonly image: string;
  readonly pauseImage: string;
  /** Absolute cgroup path of all that is measured. */
  readonly cgroup = `/berth-bench-${process.pid}`;
  readonly #bridges: string[] = [];

  private constructor(directory: string, registry: RunningRegistry) {
    this.dir = directory;
    this.registry = registry;
    this.image = `${registry.host}/bench/busybox:latest`;
    this.pauseImage = `${registry.host}/bench/pause:latest`;
  }

  /** Call it on private ground (scripts/ground.ts): what it mounts and unmounts is nobody else's. */
  static async make(): Promise<Ground> {
    await leaveOthersBehind();
    const directory = await mkdtemp('/tmp/berth-bench-');
    // Containers with user namespaces pass through it.
    await chmod(directory, 0o711);
    await mkdir(join(directory, 'run'));
    await run('mount', ['-t', 'tmpfs', 'tmpfs', join(directory, 'run')]);
    const ground = new Ground(directory, await startRegistry(directory));
    await ground.#copyBuild();
    await push({ layout: join(BUILD, 'embedded-image'), name: EMBEDDED_IMAGE }, ground.image);
    const pause = await buildImage({
      directory: join(directory, 'images/pause'),
      name: 'pause',
      config: { Entrypoint: ['/pause'] },
      layers: [
        {
          files: [
            file('pause', readFileSync(join(BUILD, 'bin/pause')), { mode: 0o755 }),
            ...['dev', 'proc', 'sys', 'etc'].map((name) => dir(name)),
          ],
        },
      ],
    });
    await push(pause, ground.pauseImage);
    // Pull images are made with the same registry; it takes plain HTTP, which Berth has to be told.
    await writeFile(
      join(directory, 'registries.conf'),
      `[[registry]]\nlocation = "${ground.registry.host}"\ninsecure = true\n`,
    );
    return ground;
  }

  /**
   * Our own copy of what is measured: nobody changes it under us, and the daemon shares no page with this process'
   * Node.
   */
  readonly build = (path: string): string => join(this.dir, 'build', path);

  async network(name: string): Promise<Network> {
    const bridge = `bench-${name.slice(0, 6)}`;
    const confDir = join(this.dir, `net-${name}`);
    await mkdir(confDir);
    const conflist = defaultConflist({
      dataDir: join(this.dir, `ipam-${name}`),
      bridge,
      subnets: [`10.${180 + this.#bridges.length}.0.0/16`],
    });
    this.#bridges.push(bridge);
    const network = { confDir, bridge, conflist, plain: plainOf(conflist) };
    await this.configure(network, conflist);
    return network;
  }

  /**
   * Makes `conflist` the only configuration of a network, at once. Who watches the directory takes it when they see it.
   */
  async configure({ confDir }: Network, conflist: string): Promise<void> {
    await writeFile(join(confDir, '.new'), conflist);
    await rename(join(confDir, '.new'), join(confDir, '10-bench.conflist'));
  }

  /**
   * Stops the registry and deletes everything; a line for each thing that those who run on this ground should have
   * given back themselves.
   */
  async clear(): Promise<string[]> {
    await this.registry.stop();
    const bound = { timeoutMs: 10_000, intervalMs: 50 };
    const left = await waitFor(
      () => this.#leaks(),
      (found) => found.length === 0,
      'the ground to be clean',
      bound,
    ).then(
      () => [],
      () => this.#leaks(),
    );
    for (const pid of [...processesOf(this.dir), ...this.#cgroups().flatMap(processesIn)])
      process.kill(Number(pid), 'SIGKILL');
    for (const mount of [...this.#mounts().reverse(), join(this.dir, 'run')])
      await run('umount', ['-l', mount]).catch(() => {});
    for (const path of this.#cgroups()) await removeCgroups(path);
    await rm(this.dir, { recursive: true, force: true, maxRetries: 3 });
    return left;
  }

  async #copyBuild(): Promise<void> {
    await mkdir(this.build('bin'), { recursive: true });
    for (const name of SHIPPED) await copyFile(join(BUILD, name), this.build(name));
    await cp(join(BUILD, 'lib'), this.build('lib'), { recursive: true });
    await copyFile(process.execPath, this.build('bin/node'));
  }

  async #leaks(): Promise<string[]> {
    return [
      ...processesOf(this.dir).map(
        (pid) => `process ${pid} ${readOr(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').slice(0, 200)}`,
      ),
      ...this.#mounts().map((path) => `mount ${path}`),
      ...this.#cgroups().flatMap((path) => processesIn(path).map((pid) => `process ${pid} in ${path}`)),
      ...(
        await Promise.all(
          this.#bridges.map(async (bridge) => (await portsOf(bridge)).map((port) => `link ${port} on ${bridge}`)),
        )
      ).flat(),
    ];
  }

  #mounts(): string[] {
    return mountsBelow(this.dir).filter((path) => path !== join(this.dir, 'run'));
  }

  #cgroups(): string[] {
    return ['', ...readdirSync('/sys/fs/cgroup')]
      .map((hierarchy) => join('/sys/fs/cgroup', hierarchy, this.cgroup))
      .filter((path) => existsSync(path));
  }
}

/** PURE. The conflist without what calls iptables. */
function plainOf(conflist: string): string {
  const {
    plugins: [bridge],
    ...rest
  } = JSON.parse(conflist) as { readonly plugins: readonly object[] };
  return JSON.stringify({ ...rest, name: PLAIN, plugins: [{ ...bridge, ipMasq: false }] });
}

/** A child of ours that is ended, and awaited, by its handle alone. */
export interface Daemon {
  readonly pid: number;
  readonly ended: Promise<unknown>;
  kill(signal: 'SIGTERM' | 'SIGKILL'): Promise<void>;
}

/**
 * Starts a daemon with its output in `logFile`, and an environment as a service manager gives it: nothing of ours (a
 * list of certificates to load, say) is measured with it.
 */
export async function startDaemon(
  argv: readonly [string, ...string[]],
  logFile: string,
  env: Readonly<Record<string, string>> = {},
): Promise<Daemon> {
  const { open } = await import('node:fs/promises');
  const log = await open(logFile, 'a');
  try {
    const child = spawn(argv[0], argv.slice(1), {
      stdio: ['ignore', log.fd, log.fd],
      env: { PATH: process.env['PATH'] ?? '', HOME: '/root', ...env },
    });
    const ended = once(child, 'exit');
    await once(child, 'spawn');
    return {
      pid: child.pid ?? 0,
      ended,
      async kill(signal) {
        child.kill(signal);
        await ended;
      },
    };
  } finally {
    await log.close();
  }
}

/**
 * Living processes, this one aside, that name the directory on their command line: daemons, monitors, shims, plugins.
 */
export function processesOf(directory: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter(
      (pid) =>
        readOr(`/proc/${pid}/cmdline`).includes(directory) && !/^State:\s+Z/m.test(readOr(`/proc/${pid}/status`)),
    )
    .map(Number);
}

/** A field of smaps_rollup or status in kB; 0 if the process is gone. */
export function memoryKb(pid: number, file: 'smaps_rollup' | 'status', field: string): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readOr(`/proc/${pid}/${file}`))?.[1] ?? 0);
}

export function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function processesIn(cgroup: string): string[] {
  const own = readOr(join(cgroup, 'cgroup.procs'))
    .split('\n')
    .filter((line) => line !== '');
  return [
    ...own,
    ...readdirSync(cgroup, { withFileTypes: true })
      .filter((each) => each.isDirectory())
      .flatMap((each) => processesIn(join(cgroup, each.name))),
  ];
}

async function removeCgroups(path: string): Promise<void> {
  for (const each of await readdir(path, { withFileTypes: true }))
    if (each.isDirectory()) await removeCgroups(join(path, each.name));
  await rmdir(path).catch(() => {});
}

/** Links that are plugged into the bridge, by netlink: /sys shows the network namespace that it was mounted in. */
async function portsOf(bridge: string): Promise<string[]> {
  // There may be no such bridge.
  const { stdout } = await run('ip', ['-o', 'link', 'show', 'master', bridge]).catch(() => ({ stdout: '' }));
  return stdout.split('\n').flatMap((line) => /^\d+: ([^:@]+)/.exec(line)?.[1] ?? []);
}

/**
 * As on a node of our own: /run in memory, no lock of the packet filter that others take, no mounts of others below
 * /tmp to count.
 */
async function leaveOthersBehind(): Promise<void> {
  for (const mount of mountsBelow('/tmp').reverse()) await run('umount', ['-l', mount]).catch(() => {});
  await run('mount', ['-t', 'tmpfs', 'tmpfs', '/run']);
}
