import { assert } from 'chai';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
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
import type { PodNetworkRequest, PortMapping } from '../ports/network.ts';

interface Call {
  readonly plugin: string;
  readonly verb: string;
  readonly id: string;
  readonly netns: string;
  readonly args: string;
  readonly config: Readonly<Record<string, unknown>>;
}

/** Plugins in memory. They keep leases as host-local does: an address per id, until DEL. */
class FakePlugins {
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

function ok(stdout: string): PluginOutput {
  return { exitCode: 0, stdout, stderr: '', cut: false };
}

function fail(stdout: string, exitCode = 1): PluginOutput {
  return { exitCode, stdout, stderr: '', cut: false };
}

/** A directory whose changes are told by hand. */
class FakeWatches {
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

describe('CniNetwork', () => {
  let base: string;
  let plugins: FakePlugins;
  let watches: FakeWatches;
  let filter: FakeFilter;
  let network: CniNetwork;
  const op = backgroundOp(silent);
  const warnings: string[] = [];
  const swept: SandboxId[] = [];
  const ended: SandboxId[] = [];
  const log = { ...silent, warn: (message: string) => void warnings.push(message) };

  const conflist = (more: object = {}): string =>
    JSON.stringify({
      cniVersion: '1.0.0',
      name: 'net',
      plugins: [{ type: 'bridge' }, { type: 'portmap', capabilities: { portMappings: true } }],
      ...more,
    });
  const cached = (id: SandboxId): string => `${base}/cache/${id}.jsonl`;
  const linesOf = async (id: SandboxId): Promise<unknown[]> =>
    (await readFile(cached(id), 'utf8'))
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown);
  const configure = async (text: string, name = '10-net.conflist', directory = 'conf'): Promise<void> => {
    await mkdir(`${base}/${directory}`, { recursive: true });
    await writeFile(`${base}/${directory}/${name}`, text);
  };
  const make = (defaultNetwork = ''): CniNetwork =>
    new CniNetwork({
      configDirs: [`${base}/conf`, `${base}/own`],
      pluginDirs: [`${base}/none`, `${base}/bin`],
      cacheDir: `${base}/cache`,
      defaultNetwork,
      log,
      run: plugins.run,
      watch: watches.watch,
      sweep: (_, id) => Promise.resolve(void swept.push(id)),
      endPlugins: (id) => void ended.push(id),
      filter,
    });
  const pod = (more: Partial<PodNetworkRequest> = {}): PodNetworkRequest => ({
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
  const changed = (): void => watches.tell(`${base}/conf`);
  const refusal = async (work: Promise<unknown>, code: ErrorCode): Promise<string> => {
    try {
      await work;
    } catch (error) {
      assert.isTrue(isCode(error, code), String(error));
      return (error as RuntimeError).message;
    }
    return assert.fail('was not refused');
  };
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise((resolve) => setImmediate(resolve));
  };

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

  describe('the chain', () => {
    it('runs ADD in order, each with the result before it, and DEL backwards with the last', async () => {
      const request = pod({ portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '' }] });
      assert.deepEqual(await network.add(op, request), { ips: ['10.0.0.2'], interfaceName: 'eth0' });
      await network.destroy(op, request.id);
      assert.deepEqual(plugins.verbs(), ['bridge ADD', 'portmap ADD', 'portmap DEL', 'bridge DEL']);
      const [first, second, third, fourth] = plugins.calls;
      assert.notProperty(first?.config, 'prevResult');
      assert.deepNestedInclude(second?.config, {
        'prevResult.ips[0].address': '10.0.0.2/24',
        'runtimeConfig.portMappings[0].hostPort': 8080,
      });
      assert.deepEqual(third?.config, second?.config);
      assert.deepNestedInclude(fourth?.config, { 'prevResult.ips[0].address': '10.0.0.2/24' });
      assert.deepEqual(new Set(plugins.calls.map(({ id, args }) => `${id} ${args}`)).size, 1);
      assert.equal(first?.netns, request.netns);
      assert.deepEqual(await readdir(`${base}/cache`), []);
    });

    it('writes the intent before the first plugin runs and the result before it answers', async () => {
      const request = pod();
      let intent: unknown[] = [];
      plugins.behaviours.set('portmap ADD', async () => {
        intent = await linesOf(request.id);
        return ok(JSON.stringify({ cniVersion: '1.0.0', ips: [{ address: '10.0.0.9/24' }] }));
      });
      await network.add(op, request);
      assert.lengthOf(intent, 1);
      const [first, second] = await linesOf(request.id);
      assert.deepEqual(first, intent[0]);
      assert.deepNestedInclude(first, { 'config.name': 'net', id: request.id, netns: request.netns });
      assert.deepNestedInclude(second, { 'result.ips[0].address': '10.0.0.9/24' });
      assert.deepEqual(await network.list(), [request.id]);
    });

    it('writes the intent while the namespaces are made, and runs no plugin before they are there', async () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      const request = pod({ pinned: promise });
      const added = network.add(op, request);
      while ((await network.list()).length === 0) await new Promise((done) => setImmediate(done));
      for (let turn = 0; turn < 20; turn++) await new Promise((done) => setImmediate(done));
      assert.deepEqual(plugins.verbs(), []);
      resolve();
      await added;
      assert.deepEqual(plugins.verbs(), ['bridge ADD', 'portmap ADD']);
    });

    it('leaves nothing and calls nobody when the namespaces never come', async () => {
      const pinned = Promise.reject(new RuntimeError('ResourceExhausted', 'no more namespaces'));
      assert.match(await refusal(network.add(op, pod({ pinned })), 'ResourceExhausted'), /no more namespaces/);
      assert.deepEqual([plugins.verbs(), await readdir(`${base}/cache`)], [[], []]);
    });

    it('gives DEL an empty CNI_NETNS when the netns is gone, and sweeps up what plugins then leave', async () => {
      const request = pod();
      await network.add(op, request);
      await network.destroy(op, request.id);
      assert.deepEqual(
        plugins.calls.map(({ verb, netns }) => `${verb} ${netns === ''}`),
        ['ADD false', 'ADD false', 'DEL true', 'DEL true'],
      );
      assert.deepEqual(swept, [request.id]);
    });

    it('gives DEL the netns while there is one, and sweeps nothing', async () => {
      const request = pod({ netns: '/proc/self/ns/net' });
      await network.add(op, request);
      await network.destroy(op, request.id);
      assert.deepEqual([new Set(plugins.calls.map(({ netns }) => netns)), swept], [new Set(['/proc/self/ns/net']), []]);
      assert.deepEqual(ended, [], 'a pod whose ADD was finished has no plugin running');
    });

    it(
      'gives plugins that take them the ranges of the node, those that were told last, also after ' + 'a restart',
      async () => {
        await configure(
          JSON.stringify({
            cniVersion: '1.0.0',
            name: 'net',
            plugins: [{ type: 'bridge', capabilities: { ipRanges: true } }, { type: 'portmap' }],
          }),
        );
        await network.close();
        network = make();
        await network.start(op);
        const told = async (): Promise<unknown[]> => {
          plugins.calls.length = 0;
          await network.add(op, pod());
          return plugins.calls.map(({ config }) => config['runtimeConfig']);
        };
        assert.deepEqual(await told(), [undefined, undefined]);
        await network.setPodRanges(['10.9.0.0/24']);
        await network.setPodRanges(['10.1.0.0/24', 'fd01::/64']);
        const ranges = [{ ipRanges: [[{ subnet: '10.1.0.0/24' }], [{ subnet: 'fd01::/64' }]] }, undefined];
        assert.deepEqual(await told(), ranges);
        await network.close();
        network = make();
        await network.start(op);
        assert.deepEqual(await told(), ranges);
        await writeFile(`${base}/cache/pod-ranges.json`, '{"');
        await network.close();
        network = make();
        await network.start(op);
        assert.deepEqual(
          [await told(), warnings],
          [
            [undefined, undefined],
            ['cannot read the address ranges of pods, going on without until they are told again'],
          ],
        );
      },
    );

    it('takes DEL from the cache, whatever the configuration is by then', async () => {
      const request = pod();
      await network.add(op, request);
      await rm(`${base}/conf/10-net.conflist`);
      changed();
      await until(() => !network.ready.ok);
      await network.destroy(op, request.id);
      assert.equal(plugins.leases.size, 0);
    });

    it('is content to destroy what never was, and what was destroyed', async () => {
      const request = pod();
      await network.destroy(op, request.id);
      await network.add(op, request);
      await Promise.all([network.destroy(op, request.id), network.destroy(op, request.id)]);
      assert.equal(plugins.calls.filter(({ verb }) => verb === 'DEL').length, 2);
    });

    it('serialises one pod and runs different pods side by side', async () => {
      const one = pod();
      plugins.behaviours.set('bridge ADD', async () => {
        await until(() => plugins.mostAtOnce >= 3);
        return ok('{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.9/24"}]}');
      });
      await Promise.all([
        network.add(op, one),
        network.destroy(op, one.id),
        network.add(op, pod()),
        network.add(op, pod()),
      ]);
      assert.deepEqual([plugins.mostPerPod, plugins.mostAtOnce], [1, 3]);
    });

    it('deletes before it adds a pod that is added again', async () => {
      const request = pod();
      await network.add(op, request);
      await network.add(op, request);
      assert.deepEqual(
        plugins.verbs().map((each) => each.split(' ')[1]),
        ['ADD', 'ADD', 'DEL', 'DEL', 'ADD', 'ADD'],
      );
    });

    it('refuses a name that would become two arguments, before anything happens', async () => {
      await refusal(network.add(op, pod({ name: 'x;K8S_POD_UID=0' })), 'InvalidArgument');
      assert.deepEqual([plugins.calls.length, await readdir(`${base}/cache`)], [0, []]);
    });
  });

  describe('bad plugins', () => {
    const cases: readonly (readonly [what: string, output: PluginOutput, code: ErrorCode, message: RegExp])[] = [
      [
        'fails with a JSON error',
        fail('{"code":100,"msg":"no address left","details":"pool x"}'),
        'Internal',
        /CNI plugin portmap \(ADD, network net\) failed: no address left; pool x \(CNI error 100\)/,
      ],
      ['asks to try again', fail('{"code":11,"msg":"later"}'), 'Unavailable', /failed: later/],
      [
        'does not speak the version',
        fail('{"code":1,"msg":"incompatible CNI versions"}'),
        'FailedPrecondition',
        /incompatible CNI versions/,
      ],
      ['dies without a word', fail('', 139), 'Internal', /failed: exit code 139, and it said nothing/],
      [
        'prints garbage',
        ok('Segmentation fault'),
        'Internal',
        /CNI plugin portmap \(ADD, network net\) printed something that is not JSON: "Segmentation fault"/,
      ],
      ['prints nothing', ok(''), 'Internal', /portmap \(ADD, network net\) exited 0 without printing a result/],
      ['prints too much', { ...ok('{'), cut: true }, 'Internal', /printed more than 1048576 bytes/],
      [
        'gives no address',
        ok('{"cniVersion":"1.0.0"}'),
        'Internal',
        /portmap \(ADD, network net\) returned no IP address/,
      ],
    ];
    for (const [what, output, code, message] of cases) {
      it(`undoes the chain when one ${what}`, async () => {
        plugins.behaviours.set('portmap ADD', () => output);
        assert.match(await refusal(network.add(op, pod()), code), message);
        assert.deepEqual(plugins.verbs(), ['bridge ADD', 'portmap ADD', 'portmap DEL', 'bridge DEL']);
        assert.deepEqual([plugins.leases.size, await readdir(`${base}/cache`)], [0, []]);
      });
    }

    it('names the one that hangs, and undoes', async () => {
      plugins.behaviours.set(
        'bridge ADD',
        (inner) =>
          new Promise((_, reject) => {
            const die = (): void => reject(new RuntimeError('DeadlineExceeded', 'killed'));
            // On a busy machine the time may be up before the plugin runs.
            if (inner.signal.aborted) die();
            else inner.signal.addEventListener('abort', die);
          }),
      );
      assert.match(
        await refusal(network.add(backgroundOp(silent, 20), pod()), 'DeadlineExceeded'),
        /CNI plugin bridge \(ADD, network net\) was killed after \d+ ms: it did not finish in time/,
      );
      assert.deepEqual(plugins.verbs(), ['bridge ADD', 'portmap DEL', 'bridge DEL']);
    });

    it('keeps the intent when the undo fails too, and destroy tries again', async () => {
      const request = pod();
      plugins.behaviours.set('portmap ADD', () => fail('{"msg":"first"}'));
      plugins.behaviours.set('bridge DEL', () => fail('{"msg":"second"}'));
      assert.match(await refusal(network.add(op, request), 'Internal'), /first/);
      assert.deepEqual(await network.list(), [request.id]);
      assert.match(
        await refusal(network.destroy(op, request.id), 'Internal'),
        /bridge \(DEL, network net\) failed: second/,
      );
      plugins.behaviours.clear();
      await network.destroy(op, request.id);
      assert.deepEqual([plugins.leases.size, await network.list()], [0, []]);
    });

    it('runs nothing when one of the chain is not installed', async () => {
      await rm(`${base}/bin/portmap`);
      assert.match(
        await refusal(network.add(op, pod()), 'FailedPrecondition'),
        /CNI plugin portmap of network net is not in .*\/none, .*\/bin; install it or correct plugin_dirs/,
      );
      assert.deepEqual([plugins.calls.length, await readdir(`${base}/cache`)], [0, []]);
      assert.match(network.ready.why, /portmap of network net is not in/);
      await writeFile(`${base}/bin/portmap`, '', { mode: 0o755 });
      assert.isTrue(network.ready.ok);
    });

    it('says that it cannot be executed without calling the pod unknown', async () => {
      plugins.behaviours.set('bridge DEL', () => Promise.reject(new RuntimeError('NotFound', 'no such interpreter')));
      const request = pod();
      await network.add(op, request);
      assert.match(
        await refusal(network.destroy(op, request.id), 'FailedPrecondition'),
        /bridge \(DEL, network net\) could not be run/,
      );
    });
  });

  describe('check', () => {
    it('asks every plugin with the result', async () => {
      const request = pod();
      await network.add(op, request);
      await network.check(op, request.id);
      assert.deepEqual(plugins.verbs().slice(2), ['bridge CHECK', 'portmap CHECK']);
      assert.deepNestedInclude(plugins.calls[3]?.config, { 'prevResult.ips[0].address': '10.0.0.2/24' });
      plugins.behaviours.set('portmap CHECK', () => fail('{"code":101,"msg":"rule is gone"}'));
      assert.match(
        await refusal(network.check(op, request.id), 'Internal'),
        /portmap \(CHECK, network net\) failed: rule is gone/,
      );
    });

    it('knows no pod that was not added', async () => {
      await refusal(network.check(op, newSandboxId()), 'NotFound');
    });

    for (const more of [{ cniVersion: '0.3.1' }, { disableCheck: true }]) {
      it(`does not ask with ${JSON.stringify(more)}`, async () => {
        await configure(conflist(more));
        changed();
        const request = pod();
        await until(() => network.ready.ok);
        await network.close();
        network = make();
        await network.start(op);
        await network.add(op, request);
        await network.check(op, request.id);
        assert.notInclude(plugins.verbs().join(), 'CHECK');
      });
    }
  });

  describe('host ports that no plugin maps', () => {
    const web: PortMapping = { protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '' };
    const plain = JSON.stringify({ cniVersion: '1.0.0', name: 'net', plugins: [{ type: 'bridge' }] });
    const restart = async (): Promise<void> => {
      await network.close();
      network = make();
      await network.start(op);
    };

    beforeEach(async () => {
      await configure(plain);
      await restart();
    });

    it('are mapped after the chain and unmapped before it, and the chain is told nothing', async () => {
      const request = pod({ portMappings: [web] });
      const order: string[] = [];
      plugins.behaviours.set('bridge DEL', () => (order.push(`DEL ${filter.of(request.id).length}`), ok('')));
      await network.add(op, request);
      assert.deepEqual(filter.of(request.id), ['any4 { tcp . 8080', 'pods4 { 10.0.0.2 . 10.0.0.2']);
      assert.notProperty(plugins.calls[0]?.config, 'runtimeConfig');
      await network.destroy(op, request.id);
      assert.deepEqual([order, filter.elements, await readdir(`${base}/cache`)], [['DEL 0'], undefined, []]);
    });

    it('are left to a plugin that can, and to nobody if there are none', async () => {
      await configure(conflist());
      await restart();
      await network.add(op, pod({ portMappings: [web] }));
      await network.add(op, pod());
      assert.deepEqual(filter.texts, []);
    });

    it("are one pod's: a second one is refused before its chain runs", async () => {
      const first = pod({ portMappings: [web], name: 'first' });
      await network.add(op, first);
      const second = pod({ portMappings: [web] });
      assert.match(
        await refusal(network.add(op, second), 'ResourceExhausted'),
        new RegExp(`host port 8080/tcp is taken by pod ns/first \\(host port 8080/tcp, sandbox ${first.id}\\)`),
      );
      assert.deepEqual([plugins.verbs(), await network.list()], [['bridge ADD'], [first.id]]);
      await network.destroy(op, first.id);
      await network.add(op, second);
    });

    it('are given back with the chain when they cannot be mapped', async () => {
      filter.failures.push(new Error('no such chain'));
      await network.add(op, pod({ portMappings: [web] })).then(
        () => assert.fail('was added'),
        (error: unknown) => assert.include(String(error), 'no such chain'),
      );
      assert.deepEqual([plugins.leases.size, filter.elements, await readdir(`${base}/cache`)], [0, undefined, []]);
      await network.add(op, pod({ portMappings: [web] }));
    });

    it('are given back when the namespaces never come', async () => {
      await refusal(
        network.add(
          op,
          pod({ portMappings: [web], pinned: Promise.reject(new RuntimeError('Internal', 'no namespaces')) }),
        ),
        'Internal',
      );
      await network.add(op, pod({ portMappings: [web] }));
    });

    it('are given back when a plugin fails', async () => {
      plugins.behaviours.set('bridge ADD', () => fail('{"msg":"no"}'));
      await refusal(network.add(op, pod({ portMappings: [web] })), 'Internal');
      plugins.behaviours.clear();
      await network.add(op, pod({ portMappings: [web] }));
    });

    it("are said to be ours, or a plugin's, or nobody's", async () => {
      const own = {
        name: 'net',
        file: `${base}/conf/10-net.conflist`,
        cniVersion: '1.0.0',
        plugins: ['bridge'],
        hostPorts: 'berth',
      };
      assert.deepEqual(network.inUse, own as never);
      filter.present = false;
      assert.deepEqual(network.inUse, { ...own, hostPorts: 'nobody' } as never);
      await configure(conflist());
      await restart();
      assert.deepEqual(network.inUse, { ...own, plugins: ['bridge', 'portmap'], hostPorts: 'plugin' } as never);
    });

    it('want nft, and only they do', async () => {
      filter.present = false;
      assert.match(
        await refusal(network.add(op, pod({ portMappings: [web] })), 'FailedPrecondition'),
        /package nftables/,
      );
      assert.deepEqual([plugins.calls.length, await readdir(`${base}/cache`)], [0, []]);
      const other = pod();
      await network.add(op, other);
      await network.destroy(op, other.id);
    });

    it('are mapped once when a pod is added again', async () => {
      const request = pod({ portMappings: [web] });
      await network.add(op, request);
      await network.add(op, request);
      assert.deepEqual(filter.of(request.id), ['any4 { tcp . 8080', 'pods4 { 10.0.0.2 . 10.0.0.2']);
      await network.destroy(op, request.id);
      assert.isUndefined(filter.elements);
    });

    it('survive a daemon with their pod; those of pods that are gone are swept', async () => {
      const [alive, dead, half] = [8080, 8081, 8082].map((hostPort) => pod({ portMappings: [{ ...web, hostPort }] }));
      if (alive === undefined || dead === undefined || half === undefined) return assert.fail();
      for (const each of [alive, dead, half]) await network.add(op, each);
      // As if a crash came before the result was written.
      await writeFile(cached(half.id), `${(await readFile(cached(half.id), 'utf8')).split('\n')[0]}\n`);
      const before = filter.of(alive.id);
      await restart();
      await network.gc(op, [alive.id]);
      assert.deepEqual([filter.owners(), filter.of(alive.id)], [new Set([alive.id]), before]);
      await refusal(network.add(op, pod({ portMappings: [web] })), 'ResourceExhausted');
      await network.add(op, pod({ portMappings: [{ ...web, hostPort: 8081 }] }));
    });

    it('of a pod whose file is damaged go with it', async () => {
      const request = pod({ portMappings: [web] });
      await network.add(op, request);
      await writeFile(
        cached(request.id),
        `${JSON.stringify({ config: JSON.parse(plain) as unknown, hostPorts: { pod: 1 } })}\n`,
      );
      await restart();
      await network.gc(op, []);
      assert.deepEqual([filter.elements, plugins.leases.size, await readdir(`${base}/cache`)], [undefined, 0, []]);
    });

    it('keep no node from starting, but keep the address that packets are sent to', async () => {
      const request = pod({ portMappings: [web] });
      await network.add(op, request);
      await restart();
      filter.present = false;
      await network.gc({ ...op, log }, []);
      assert.deepEqual([plugins.leases.size, await network.list()], [1, [request.id]]);
      assert.deepEqual(warnings, [
        'cannot put the host ports of pods in order, will retry with the next change',
        'cannot give back the network of a pod that is gone, will retry',
      ]);
      filter.present = true;
      await network.gc(op, []);
      assert.deepEqual([plugins.leases.size, filter.elements, await readdir(`${base}/cache`)], [0, undefined, []]);
    });
  });

  describe('after a crash', () => {
    async function restart(): Promise<void> {
      await network.close();
      network = make();
      await network.start(op);
    }

    it('gives back what is in the cache and not alive, finished or not', async () => {
      const [alive, dead, half] = [pod(), pod(), pod()];
      for (const each of [alive, dead, half]) await network.add(op, each);
      const file = await readFile(cached(half.id), 'utf8');
      await writeFile(cached(half.id), file.slice(0, -20));
      await restart();
      await network.gc(op, [alive.id]);
      assert.deepEqual([[...plugins.leases.keys()], await network.list()], [[alive.id], [alive.id]]);
      assert.deepEqual(
        plugins.calls
          .filter(({ verb, id }) => verb === 'DEL' && id === half.id)
          .map(({ config }) => 'prevResult' in config),
        [false, false],
      );
    });

    for (const [what, text] of [
      ['empty', ''],
      ['cut', '{"version":1,"con'],
      ['not JSON', 'x\n'],
      ['of another shape', 'null\n'],
      ['without a configuration', '{}\n'],
      ['not ours', '{"config":{"name":"../x","plugins":[]}}\n'],
      ['odd in its result', '{"config":{"name":"x","plugins":[{"type":"bridge"}]}}\n[]\n'],
    ] as const) {
      it(`calls DEL with the present configuration for a file that is ${what}`, async () => {
        const request = pod();
        await network.add(op, request);
        await writeFile(cached(request.id), text);
        await restart();
        await network.gc(op, []);
        assert.deepEqual([plugins.leases.size, await network.list()], [0, []]);
      });
    }

    it('goes on with the others when one fails, and keeps that one for the next time', async () => {
      const [one, two] = [pod(), pod()];
      await network.add(op, one);
      await network.add(op, two);
      const [first = one.id] = await network.list();
      let hits = 0;
      plugins.behaviours.set('portmap DEL', () => (hits++ === 0 ? fail('{"msg":"no"}') : ok('')));
      await network.gc(op, []);
      assert.deepEqual(await network.list(), [first]);
      await network.gc(op, []);
      assert.deepEqual([plugins.leases.size, await network.list()], [0, []]);
    });

    it('leaves foreign files alone', async () => {
      await writeFile(`${base}/cache/leases`, '');
      await network.gc(op, []);
      assert.deepEqual([await readdir(`${base}/cache`), await network.list()], [['leases'], []]);
    });

    it('begins nothing when it cannot write the intent', async () => {
      await rm(`${base}/cache`, { recursive: true });
      assert.match(await refusal(network.add(op, pod()), 'Internal'), /cannot write .*\.jsonl/);
      assert.lengthOf(plugins.calls, 0);
    });

    it('calls GC with who is alive for 1.1, and not if that is switched off', async () => {
      await configure(conflist({ cniVersion: '1.1.0' }));
      changed();
      const request = pod();
      await until(() => plugins.calls.some(({ verb }) => verb === 'STATUS') || !network.ready.ok);
      await network.add(op, request);
      plugins.leases.set('of a pod without a file', '10.0.0.99');
      await network.gc(op, [request.id]);
      assert.deepEqual([...plugins.leases.keys()], [request.id]);
      assert.deepEqual(plugins.calls.find(({ verb }) => verb === 'GC')?.config['cni.dev/valid-attachments'], [
        { containerID: request.id, ifname: 'eth0' },
      ]);
      plugins.calls.length = 0;
      await configure(conflist({ cniVersion: '1.1.0', disableGC: true, note: 2 }));
      changed();
      await network.close();
      network = make();
      await network.start(op);
      await network.gc(op, [request.id]);
      assert.notInclude(plugins.verbs().join(), 'GC');
    });
  });

  describe('configuration', () => {
    it('is not ready without one and says why, then waits for it by the watch', async () => {
      await rm(`${base}/conf/10-net.conflist`);
      changed();
      await until(() => !network.ready.ok);
      assert.match(
        network.ready.why,
        /^cni config uninitialized: no CNI configuration in .*\/conf, .*\/own; has your network provider started\?$/,
      );
      const adding = network.add(op, pod());
      await configure(conflist({ name: 'late' }));
      changed();
      assert.deepEqual((await adding).ips, ['10.0.0.2']);
      assert.equal(plugins.calls[0]?.config['name'], 'late');
    });

    it('waits no longer than the caller does', async () => {
      await rm(`${base}/conf/10-net.conflist`);
      changed();
      await until(() => !network.ready.ok);
      assert.match(
        await refusal(network.add(backgroundOp(silent, 5), pod()), 'Unavailable'),
        /cni config uninitialized/,
      );
      assert.deepEqual(await readdir(`${base}/cache`), []);
    });

    it('takes the first by name, and passes over what cannot be used', async () => {
      await configure('{', '00-broken.conf');
      await configure(conflist({ name: 'first' }), '05.conflist');
      await configure(conflist({ name: 'no' }), '01.conflist.bak');
      changed();
      await network.close();
      network = make();
      await network.start(op);
      await network.add(op, pod());
      assert.equal(plugins.calls[0]?.config['name'], 'first');
    });

    it('takes the network that is asked for by name, else none', async () => {
      await configure(conflist({ name: 'wanted' }), '99.conflist');
      await network.close();
      network = make('wanted');
      await network.start(op);
      await network.add(op, pod());
      assert.equal(plugins.calls[0]?.config['name'], 'wanted');
      await network.close();
      network = make('absent');
      await network.start(op);
      assert.match(network.ready.why, /no CNI configuration of a network named absent/);
    });

    it("uses Berth's own directory only while the system's has nothing", async () => {
      await configure(conflist({ name: 'own' }), 'x.conflist', 'own');
      await rm(`${base}/conf/10-net.conflist`);
      await network.close();
      network = make();
      await network.start(op);
      await network.add(op, pod());
      await configure(conflist({ name: 'system' }));
      changed();
      await until(() => network.ready.ok);
      await network.close();
      network = make();
      await network.start(op);
      await network.add(op, pod());
      assert.deepEqual(
        plugins.calls.filter(({ plugin }) => plugin === 'bridge').map(({ config }) => config['name']),
        ['own', 'system'],
      );
    });

    it('keeps the last good content of a file that is being rewritten', async () => {
      await configure(conflist({ name: 'later' }), '20.conflist');
      await configure('{"cniVersion":"1.0', '10-net.conflist');
      changed();
      await until(() => warnings.includes('unusable cni configuration file, keeping its last good content'));
      await network.close();
      await network.add(op, pod());
      assert.equal(plugins.calls[0]?.config['name'], 'net');
    });

    it('awaits a directory that is not there, and makes none', async () => {
      await network.close();
      await rm(`${base}/conf`, { recursive: true });
      watches.absent.add(`${base}/conf`).add(`${base}/own`);
      network = make();
      await network.start(op);
      assert.deepEqual(
        [...watches.open].map(({ path }) => path),
        [base, base],
      );
      assert.deepEqual((await readdir(base)).sort(), ['bin', 'cache']);
      const adding = network.add(op, pod());
      await configure(conflist());
      watches.absent.delete(`${base}/conf`);
      watches.tell(base);
      assert.deepEqual((await adding).ips, ['10.0.0.2']);
    });
  });

  describe('STATUS (1.1)', () => {
    it('decides readiness, asked in the background and not again at each question', async () => {
      plugins.behaviours.set('portmap STATUS', () => fail('{"code":50,"msg":"controller is down"}'));
      await configure(conflist({ cniVersion: '1.1.0' }));
      await network.close();
      network = make();
      await network.start(op);
      assert.isTrue(network.ready.ok);
      await until(() => !network.ready.ok);
      assert.match(network.ready.why, /CNI plugin portmap \(STATUS, network net\) failed: controller is down/);
      for (let i = 0; i < 5; i++) assert.isFalse(network.ready.ok);
      assert.deepEqual(plugins.verbs(), ['bridge STATUS', 'portmap STATUS']);
      assert.deepEqual(Object.keys(plugins.calls[0]?.config ?? {}).sort(), ['cniVersion', 'name', 'type']);
    });

    it('may fail for a while, if the network was ready before', async () => {
      let now = 0;
      let failing = false;
      plugins.behaviours.set('portmap STATUS', () =>
        failing ? fail('{"code":50,"msg":"controller is down"}') : ok(''),
      );
      await configure(conflist({ cniVersion: '1.1.0' }));
      await network.close();
      const graceful = (): CniNetwork =>
        new CniNetwork({
          configDirs: [`${base}/conf`],
          pluginDirs: [`${base}/bin`],
          cacheDir: `${base}/cache`,
          defaultNetwork: '',
          log,
          run: plugins.run,
          watch: watches.watch,
          filter,
          now: () => now,
          statusGraceMs: 30_000,
        });
      network = graceful();
      await network.start(op);
      /** Asks now, and waits for what the plugins say. */
      const at = async (seconds: number): Promise<boolean> => {
        now = seconds * 1000;
        const asked = plugins.calls.length;
        void network.ready;
        await until(() => plugins.calls.length >= asked + 2 && plugins.underWay.get('') === 0);
        await new Promise((resolve) => setImmediate(resolve));
        return network.ready.ok;
      };
      assert.isTrue(await at(100));
      failing = true;
      assert.deepEqual([await at(120), await at(140), await at(150)], [true, true, false]);
      failing = false;
      assert.isTrue(await at(160));
      failing = true;
      assert.isTrue(await at(170));
      await network.close();
      network = graceful();
      await network.start(op);
      assert.isFalse(await at(180), 'a network that was never ready');
    });

    it('is not asked before 1.1', () => {
      assert.deepEqual([network.ready, plugins.calls.length], [{ ok: true, why: '' }, 0]);
    });
  });
});
