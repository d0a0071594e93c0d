/**
 * The floor: what the CNI plugins and the OCI runtime take when they are run by hand, one after the other, with nobody
 * in between. Processes are started as cheaply as Berth starts them (vfork), and the container is a copy of one that
 * Berth runs, in its pod.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { backgroundOp, silent } from '../pkg/base/op.ts';
import { capture, exitCodeOf, inheritedEnv, mounts, spawn } from '../pkg/sys/index.ts';
import { CNI_PLUGINS, type Ground, type Network, run } from './ground.ts';
import type { Report } from './report.ts';
import type { RuntimeProgram } from './programs.ts';

interface Spec {
  readonly root: Readonly<Record<string, unknown>>;
  readonly linux: Readonly<Record<string, unknown>>;
}

/**
 * The rootfs of every container: an overlay of its own, since a runtime has more to do in one that nothing was mounted
 * in before.
 */
interface Overlay {
  /** Topmost first. */
  readonly lower: readonly string[];
  readonly options: readonly string[];
}

export class Floor {
  readonly #ground: Ground;
  readonly #network: Network;
  readonly #runtime: readonly [string, ...string[]];
  readonly #spec: Spec;
  readonly #overlay: Overlay;
  readonly #dir: string;

  private constructor(ground: Ground, network: Network, runtime: RuntimeProgram, spec: Spec, overlay: Overlay) {
    this.#ground = ground;
    this.#network = network;
    this.#dir = join(ground.dir, 'run/floor');
    this.#runtime = [runtime.path, '--root', join(this.#dir, 'runtime')];
    this.#spec = spec;
    this.#overlay = overlay;
  }

  /** `bundle`: that of a container which Berth runs now, and for as long as the floor is used. */
  static async open(ground: Ground, runtime: RuntimeProgram, bundle: string): Promise<Floor> {
    const spec = JSON.parse(await readFile(join(bundle, 'config.json'), 'utf8')) as Spec;
    const floor = new Floor(
      ground,
      await ground.network('floor'),
      runtime,
      spec,
      await overlayAt(String(spec.root['path'])),
    );
    await mkdir(floor.#dir);
    return floor;
  }

  /** One pod's life by hand. */
  async round(report: Report): Promise<void> {
    const id = randomBytes(32).toString('hex');
    const netns = join(this.#dir, `netns-${id.slice(0, 12)}`);
    const bundle = join(this.#dir, id);
    // Not in memory: what a runtime creates in the writable layer costs what the disk costs.
    const root = join(this.#ground.dir, `floor-root-${id.slice(0, 12)}`);
    const measure = async (name: string, work: () => Promise<void>): Promise<number> => {
      const from = performance.now();
      await work();
      const took = performance.now() - from;
      report.add('floor', name, took);
      return took;
    };
    await run(this.#ground.build('bin/pinns'), ['--net', netns]);
    await mkdir(bundle);
    for (const name of ['upper', 'work', 'merged']) await mkdir(join(root, name), { recursive: true });
    await mounts.overlay({
      ...this.#overlay,
      writable: { upper: join(root, 'upper'), work: join(root, 'work') },
      target: join(root, 'merged'),
    });
    await writeFile(
      join(bundle, 'config.json'),
      JSON.stringify({
        ...this.#spec,
        root: { ...this.#spec.root, path: join(root, 'merged') },
        linux: { ...this.#spec.linux, cgroupsPath: `${this.#ground.cgroup}/floor/${id}` },
      }),
    );
    const up =
      (await measure('RunPodSandbox', () => this.#cni('ADD', id, netns))) +
      (await measure('CreateContainer', () => this.#oci('create', '--bundle', bundle, id))) +
      (await measure('StartContainer', () => this.#oci('start', id)));
    report.add('floor', 'pod up', up);
    await measure('ExecSync', () => this.#oci('exec', id, 'true'));
    await this.#oci('delete', '--force', id);
    await measure('StopPodSandbox', () => this.#cni('DEL', id, netns));
    await mounts.unmount(netns);
    await mounts.unmount(join(root, 'merged'));
    for (const path of [netns, bundle, root]) await rm(path, { recursive: true });
  }

  async #cni(command: 'ADD' | 'DEL', id: string, netns: string): Promise<void> {
    const { cniVersion, name, plugins } = JSON.parse(this.#network.conflist) as {
      readonly cniVersion: string;
      readonly name: string;
      readonly plugins: readonly { readonly type: string }[];
    };
    const env = inheritedEnv({
      CNI_COMMAND: command,
      CNI_CONTAINERID: id,
      CNI_NETNS: netns,
      CNI_IFNAME: 'eth0',
      CNI_PATH: CNI_PLUGINS,
      CNI_ARGS: 'IgnoreUnknown=1',
    });
    let prevResult: unknown;
    for (const plugin of command === 'ADD' ? plugins : [...plugins].reverse()) {
      const stdin = JSON.stringify({
        cniVersion,
        name,
        ...plugin,
        ...(prevResult === undefined ? {} : { prevResult }),
      });
      const { exitCode, stdout } = await capture(backgroundOp(silent), {
        argv: [join(CNI_PLUGINS, plugin.type)],
        env,
        stdin,
        stdoutMax: 1e6,
        stderrMax: 1e4,
      });
      if (exitCode !== 0) throw new Error(`CNI ${command} ${plugin.type} failed: ${stdout.toString()}`);
      if (command === 'ADD') prevResult = JSON.parse(stdout.toString());
    }
  }

  async #oci(...args: readonly string[]): Promise<void> {
    const child = await spawn({ argv: [...this.#runtime, ...args] });
    const code = exitCodeOf(await child.exited);
    if (code !== 0) throw new Error(`${this.#runtime[0]} ${args.join(' ')} failed with exit code ${code}`);
  }
}

async function overlayAt(path: string): Promise<Overlay> {
  const mount = mounts.mountOf(await mounts.read(), path);
  if (mount?.fsType !== 'overlay') throw new Error(`${path} is no overlay`);
  const lower = mount.superOptions.flatMap((option) => /^lowerdir\+?=(.*)$/.exec(option)?.[1]?.split(':') ?? []);
  return {
    lower,
    options: mount.superOptions.filter(
      (option) => !/^(rw|(lower|upper|work)dir\+?=.*|uuid=.*|xino=.*|nouserxattr|userxattr)$/.test(option),
    ),
  };
}
