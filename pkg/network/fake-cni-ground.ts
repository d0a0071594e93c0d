/**
 * What the suites of CniNetwork share: plugins that keep leases and can be told to misbehave, watches that a test tells
 * of events, and a network on a directory of its own.
 */
import { assert } from 'chai';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { isCode, RuntimeError } from '../base/errors.ts';
import type { ErrorCode } from '../base/errors.ts';
import { newSandboxId } from '../base/ids.ts';
import type { SandboxId } from '../base/ids.ts';
import { backgroundOp, silent } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { CniNetwork } from './cni.ts';
import type { PluginOutput, PluginRun } from './exec.ts';
import { FakeFilter } from './fake-filter.ts';
import type { PodNetworkRequest } from '../ports/network.ts';

export interface Call {
  readonly plugin: string;
  readonly verb: string;
  readonly id: string;
  readonly netns: string;
  readonly args: string;
  readonly config: Readonly<Record<string, unknown>>;
}

/** Plugins in memory. They keep leases as host-local does: an address per id, until DEL. */
export class FakePlugins {
  readonly calls: Call[] = [];
  readonly leases = new Map<string, string>();
  /** Keyed `plugin VERB`: what happens in place of the ordinary answer. */
  readonly behaviours = new Map<string, (op: Op) => Promise<PluginOutput> | PluginOutput>();
  /** Calls under way per pod, and the most there were. */
  readonly underWay = new Map<string, number>();
  mostPerPod = 0;
  mostAtOnce = 0;

  readonly run = async (op: Op, { path, env, stdin }: PluginRun): Promise<PluginOutput> => {
    const plugin = path.slice(path.lastIndexOf('/') + 1);
    const verb = env['CNI_COMMAND'] ?? '';
    const id = env['CNI_CONTAINERID'] ?? '';
    this.calls.push({
      plugin,
      verb,
      id,
      netns: env['CNI_NETNS'] ?? '',
      args: env['CNI_ARGS'] ?? '',
      config: JSON.parse(stdin) as Record<string, unknown>,
    });
    this.#enter(id, 1);
    try {
      await Promise.resolve();
      return await (this.behaviours.get(`${plugin} ${verb}`)?.(op) ??
        this.#ordinary(plugin, verb, id, JSON.parse(stdin) as Record<string, unknown>));
    } finally {
      this.#enter(id, -1);
    }
  };

  verbs(): string[] {
    return this.calls.map(({ plugin, verb }) => `${plugin} ${verb}`);
  }

  #enter(id: string, step: number): void {
    this.underWay.set(id, (this.underWay.get(id) ?? 0) + step);
    this.mostPerPod = Math.max(this.mostPerPod, this.underWay.get(id) ?? 0);
    this.mostAtOnce = Math.max(
      this.mostAtOnce,
      [...this.underWay.values()].reduce((sum, each) => sum + each, 0),
    );
  }

  #ordinary(plugin: string, verb: string, id: string, config: Readonly<Record<string, unknown>>): PluginOutput {
    if (verb === 'DEL') this.leases.delete(id);
    if (verb === 'GC') {
      const valid = config['cni.dev/valid-attachments'] as readonly { readonly containerID: string }[];
      for (const each of this.leases.keys())
        if (!valid.some(({ containerID }) => containerID === each)) this.leases.delete(each);
    }
    if (verb !== 'ADD') return ok('');
    if (plugin !== 'bridge') return ok(JSON.stringify(config['prevResult']));
    const address = `10.0.0.${this.leases.size + 2}`;
    this.leases.set(id, address);
    return ok(
      JSON.stringify({
        cniVersion: config['cniVersion'],
        interfaces: [{ name: 'eth0', sandbox: '/ns' }],
        ips: [{ address: `${address}/24`, interface: 0 }],
      }),
    );
  }
}

export function ok(stdout: string): PluginOutput {
  return { exitCode: 0, stdout, stderr: '', cut: false };
}

export function fail(stdout: string, exitCode = 1): PluginOutput {
  return { exitCode, stdout, stderr: '', cut: false };
}

/** A directory whose changes are told by hand. */
export class FakeWatches {
  readonly open = new Set<{ readonly path: string; readonly onChange: () => void }>();
  readonly watch = (path: string, onChange: () => void): { close(): void } => {
    if (this.absent.has(path)) throw new RuntimeError('NotFound', path);
    const entry = { path, onChange };
    this.open.add(entry);
    return { close: () => void this.open.delete(entry) };
  };
  tell(path: string): void {
    const told = [...this.open].filter((entry) => entry.path === path);
    for (const entry of told) entry.onChange();
  }
  readonly absent = new Set<string>();
}

export let base: string;
export let plugins: FakePlugins;
export let watches: FakeWatches;
export let filter: FakeFilter;
export let network: CniNetwork;
export const op = backgroundOp(silent);
export const warnings: string[] = [];
export const swept: SandboxId[] = [];
export const ended: SandboxId[] = [];
export const log = { ...silent, warn: (message: string) => void warnings.push(message) };

export const conflist = (more: object = {}): string =>
  JSON.stringify({
    cniVersion: '1.0.0',
    name: 'net',
    plugins: [{ type: 'bridge' }, { type: 'portmap', capabilities: { portMappings: true } }],
    ...more,
  });
export const cached = (id: SandboxId): string => `${base}/cache/${id}.jsonl`;
export const linesOf = async (id: SandboxId): Promise<unknown[]> =>
  (await readFile(cached(id), 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown);
export const configure = async (text: string, name = '10-net.conflist', directory = 'conf'): Promise<void> => {
  await mkdir(`${base}/${directory}`, { recursive: true });
  await writeFile(`${base}/${directory}/${name}`, text);
};
export const make = (defaultNetwork = ''): CniNetwork =>
  new CniNetwork({
    configDirs: [`${base}/conf`, `${base}/own`],
    pluginDirs: [`${base}/none`, `${base}/bin`],
    cacheDir: `${base}/cache`,
    defaultNetwork,
    log,
    run: plugins.run,
    watch: watches.watch,
    sweep: (_, id) => Promise.resolve(void swept.push(id)),
    endPlugins: async (id) => void ended.push(id),
    filter,
  });
export const pod = (more: Partial<PodNetworkRequest> = {}): PodNetworkRequest => ({
  id: newSandboxId(),
  name: 'web',
  namespace: 'ns',
  uid: 'u',
  netns: `${base}/netns`,
  portMappings: [],
  pinned: Promise.resolve(),
  annotations: {},
  cgroupPath: '',
  dns: { servers: [], searches: [], options: [] },
  ...more,
});
export const changed = (): void => watches.tell(`${base}/conf`);
export const refusal = async (work: Promise<unknown>, code: ErrorCode): Promise<string> => {
  try {
    await work;
  } catch (error) {
    assert.isTrue(isCode(error, code), String(error));
    return (error as RuntimeError).message;
  }
  return assert.fail('was not refused');
};
export const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
};

/** Gives each test of the suite that calls it a network, plugins and a directory of its own. */
export function useCniGround(): void {
  beforeEach(async () => {
    base = await mkdtemp(`${tmpdir()}/berth-cni-`);
    await mkdir(`${base}/bin`);
    for (const name of ['bridge', 'portmap', 'loopback']) {
      await writeFile(`${base}/bin/${name}`, '');
      await chmod(`${base}/bin/${name}`, 0o755);
    }
    plugins = new FakePlugins();
    watches = new FakeWatches();
    filter = new FakeFilter();
    warnings.length = 0;
    swept.length = 0;
    ended.length = 0;
    await configure(conflist());
    network = make();
    await network.start(op);
  });

  afterEach(async () => {
    await network.close();
    assert.equal(watches.open.size, 0, 'watches left open');
    await rm(base, { recursive: true });
  });
}

/** Puts another network in the place of the one at hand: a restart, or other options. */
export function useNetwork(other: CniNetwork): CniNetwork {
  network = other;
  return network;
}
