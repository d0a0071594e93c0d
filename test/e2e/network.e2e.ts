/**
 * Pod networks with the distribution's CNI plugins (bridge, host-local, portmap, loopback), and with plugins that
 * misbehave.
 *
 * The "node" is a network namespace of its own: the plugin directory holds one-line scripts that enter it and execute
 * the real plugin. So bridges, addresses and packet-filter rules are made there and vanish with it; the machine's own
 * network is not touched, and the leak check at the end says so.
 */
import { assert } from 'chai';
import { execa } from 'execa';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import type { ErrorCode } from '../../pkg/base/errors.ts';
import { newSandboxId } from '../../pkg/base/ids.ts';
import type { SandboxId } from '../../pkg/base/ids.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { CniNetwork, defaultConflist } from '../../pkg/network/index.ts';
import type { PodNetworkRequest, PortMapping } from '../../pkg/ports/network.ts';
import { spawn } from '../../pkg/sys/index.ts';
import {
  PLUGINS,
  TAG,
  NODE,
  SUBNET,
  GATEWAY,
  SUBNET6,
  BRIDGE,
  netnsPath,
  ip,
  refusal,
  until,
  natRules,
  sweep,
  holdings,
} from './network-ground.ts';

describe('network (CNI)', function () {
  this.timeout(60_000);
  const op = backgroundOp(silent);
  let base: string;
  let left: Readonly<Record<string, unknown>>;
  let network: CniNetwork;
  let count = 0;
  const requests: PodNetworkRequest[] = [];
  const servers: (() => Promise<unknown>)[] = [];

  const make = (): CniNetwork =>
    new CniNetwork({
      configDirs: [`${base}/conf`, `${base}/own`],
      pluginDirs: [`${base}/bin`],
      cacheDir: `${base}/cache`,
      defaultNetwork: '',
      log: silent,
      sweep,
    });
  const conflist = (subnets: readonly string[] = [SUBNET]): string =>
    defaultConflist({ dataDir: `${base}/leases`, bridge: BRIDGE, subnets });
  const configure = async (text: string): Promise<void> => {
    await mkdir(`${base}/conf`, { recursive: true });
    await writeFile(`${base}/conf/.new`, text);
    await rename(`${base}/conf/.new`, `${base}/conf/10-berth.conflist`);
  };
  /** A conflist of the bridge and one more. */
  const withPlugin = (plugin: object): string => {
    const list = JSON.parse(conflist()) as { plugins: object[] };
    return JSON.stringify({ ...list, plugins: [list.plugins[0], plugin] });
  };
  const restart = async (text: string): Promise<void> => {
    await configure(text);
    await network.close();
    network = make();
    await network.start(op);
  };
  const leases = async (): Promise<string[]> =>
    (await readdir(`${base}/leases/berth`)).filter((name) => !name.startsWith('last_reserved_ip') && name !== 'lock');
  const pod = async (portMappings: readonly PortMapping[] = []): Promise<PodNetworkRequest> => {
    const name = `${TAG}-p${++count}`;
    await ip('', 'netns', 'add', name);
    await ip(name, 'link', 'set', 'lo', 'up');
    const request = {
      id: newSandboxId(),
      name,
      namespace: 'e2e',
      uid: `uid-${count}`,
      netns: netnsPath(name),
      pinned: Promise.resolve(),
      portMappings,
      annotations: {},
      cgroupPath: '',
      dns: { servers: [], searches: [], options: [] },
    };
    requests.push(request);
    return request;
  };
  /** A TCP server in a pod that says hello and hangs up. */
  const serve = async (request: PodNetworkRequest, port: number): Promise<void> => {
    const source = `require('net').createServer((s) => s.end('hello')).listen(${port}, '::', () => console.log('up'))`;
    const server = execa('ip', ['netns', 'exec', request.name, process.execPath, '-e', source], {
      reject: false,
      buffer: false,
    });
    servers.push(() => (server.kill('SIGKILL'), server));
    await new Promise((resolve) => server.stdout.once('data', resolve));
  };
  /** What a client on the node hears. */
  const hear = async (host: string, port: number): Promise<string> => {
    const source =
      `const s = require('net').connect({ host: '${host}', port: ${port}, timeout: 3000 }); ` +
      `s.on('data', (d) => console.log(String(d))); s.on('error', (e) => console.log(e.code)); ` +
      `s.on('timeout', () => { console.log('silence'); s.destroy(); })`;
    return (await execa('ip', ['netns', 'exec', NODE, process.execPath, '-e', source])).stdout;
  };

  before(async () => {
    base = await mkdtemp(`${tmpdir()}/berth-e2e-cni-`);
    await mkdir(`${base}/bin`);
    for (const name of ['bridge', 'host-local', 'portmap', 'loopback', 'bandwidth']) {
      await writeFile(`${base}/bin/${name}`, `#!/bin/sh\nexec nsenter --net=${netnsPath(NODE)} ${PLUGINS}/${name}\n`, {
        mode: 0o755,
      });
    }
    network = make();
    await network.start(op);
    await network.close();
    // The first child of a process makes the null device of all that follow, which stays.
    await (await spawn({ argv: ['/bin/true'] })).exited;
    left = await holdings();
    assert.deepEqual(left['ours'], []);
    await ip('', 'netns', 'add', NODE);
    await ip(NODE, 'link', 'set', 'lo', 'up');
  });

  beforeEach(async () => {
    await configure(conflist());
    network = make();
    await network.start(op);
  });

  afterEach(async () => {
    for (const stop of servers.splice(0)) await stop();
    await network.close();
    network = make();
    await network.start(op);
    await network.gc(op, []);
    assert.deepEqual(await network.list(), [], 'attachments left');
    await network.close();
    for (const { name } of requests.splice(0)) await execa('ip', ['netns', 'delete', name], { reject: false });
  });

  after(async () => {
    await ip('', 'netns', 'delete', NODE);
    await rm(base, { recursive: true });
    assert.deepEqual(await holdings(), left, 'left behind');
  });

  it('adds, checks and removes a pod', async () => {
    const request = await pod();
    const { ips, interfaceName } = await network.add(op, request);
    assert.match(ips.join(), /^10\.213\.0\.\d+$/);
    assert.equal(interfaceName, 'eth0');
    assert.include(await ip(request.name, '-4', '-o', 'addr', 'show', 'eth0'), `${ips[0]}/16`);
    await network.check(op, request.id);
    await ip(request.name, 'addr', 'flush', 'dev', 'eth0');
    assert.match(
      await refusal(network.check(op, request.id), 'Internal'),
      /CNI plugin bridge \(CHECK, network berth\) failed/,
    );
    await network.destroy(op, request.id);
    assert.notInclude(await ip(request.name, '-br', 'link'), 'eth0');
    assert.deepEqual([await leases(), await network.list()], [[], []]);
    await network.destroy(op, request.id);
  });

  it('gives a pod an address of each family', async () => {
    await restart(conflist([SUBNET, SUBNET6]));
    const request = await pod();
    const { ips } = await network.add(op, request);
    assert.match(ips.join(), /^10\.213\.\d+\.\d+,fd00:b1:e2::[0-9a-f]+$/);
    await serve(request, 8080);
    // The node's own IPv6 address on the bridge is tentative for a second (duplicate address detection).
    for (const address of ips)
      await until(`an answer from ${address}`, async () => (await hear(address, 8080)) === 'hello');
    await network.destroy(op, request.id);
    assert.deepEqual(await leases(), []);
  });

  it('gives a pod an IPv6 address alone', async () => {
    await restart(conflist([SUBNET6]));
    const request = await pod();
    const { ips } = await network.add(op, request);
    assert.match(ips.join(), /^fd00:b1:e2::[0-9a-f]+$/);
    await serve(request, 8080);
    await until('an answer', async () => (await hear(ips[0] ?? '', 8080)) === 'hello');
    await network.destroy(op, request.id);
    assert.deepEqual(await leases(), []);
  });

  it('limits the bandwidth of a pod by its annotations', async () => {
    await restart(withPlugin({ type: 'bandwidth', capabilities: { bandwidth: true } }));
    const request = {
      ...(await pod()),
      annotations: { 'kubernetes.io/ingress-bandwidth': '8M', 'kubernetes.io/egress-bandwidth': '4M' },
    };
    const free = await pod();
    await network.add(op, request);
    const qdiscs = async (): Promise<string[]> =>
      (await execa('tc', ['-n', NODE, 'qdisc', 'show'])).stdout
        .match(/tbf .* rate \S+/g)
        ?.map((each) => each.replace(/.* rate /, ''))
        .sort() ?? [];
    assert.deepEqual(await qdiscs(), ['4Mbit', '8Mbit']);
    await network.add(op, free);
    assert.lengthOf(await qdiscs(), 2);
    await network.destroy(op, request.id);
    assert.deepEqual(await qdiscs(), []);
    await network.destroy(op, free.id);
  });

  it('speaks CNI 1.1 to plugins that do: STATUS, CHECK and GC', async () => {
    await writeFile(
      `${base}/bin/modern`,
      `#!/bin/sh
echo "$CNI_COMMAND \${CNI_CONTAINERID:--} \${CNI_NETNS:--} $(cat)" >> ${base}/asked
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.213.0.9/16"}]}' ;;
STATUS) [ -e ${base}/ready ] || { echo '{"code":50,"msg":"the agent is not running"}'; exit 1; } ;;
CHECK) [ -e ${base}/ready ] || { echo '{"code":100,"msg":"no such interface"}'; exit 1; } ;;
esac
`,
      { mode: 0o755 },
    );
    const modern = JSON.stringify({
      cniVersion: '0.4.0',
      cniVersions: ['0.4.0', '1.0.0', '1.1.0'],
      name: 'modern',
      plugins: [{ type: 'modern', flavour: 'plain' }],
    });
    await restart(modern);
    await until('STATUS is asked', () => !network.ready.ok);
    assert.match(
      network.ready.why,
      /^CNI plugin modern \(STATUS, network modern\) failed: the agent is not running \(CNI error 50\)/,
    );
    await writeFile(`${base}/ready`, '');
    await restart(modern);
    assert.isTrue(network.ready.ok);
    const request = await pod();
    assert.deepEqual((await network.add(op, request)).ips, ['10.213.0.9']);
    await network.check(op, request.id);
    await rm(`${base}/ready`);
    assert.match(
      await refusal(network.check(op, request.id), 'Internal'),
      /CNI plugin modern \(CHECK, network modern\) failed: no such interface/,
    );
    await network.gc(op, [request.id]);
    await network.destroy(op, request.id);
    const asked = (await readFile(`${base}/asked`, 'utf8'))
      .trimEnd()
      .split('\n')
      .map((line) => /^(\S+) (\S+) (\S+) (.*)$/.exec(line)?.slice(1) ?? []);
    const last = (verb: string): readonly unknown[] => {
      const [, id, netns, config = '{}'] = asked.findLast(([each]) => each === verb) ?? [];
      return [id, netns, JSON.parse(config)];
    };
    const own = { type: 'modern', flavour: 'plain', name: 'modern', cniVersion: '1.1.0' };
    const prevResult = { cniVersion: '1.1.0', ips: [{ address: '10.213.0.9/16' }] };
    const valid = [{ containerID: request.id, ifname: 'eth0' }];
    assert.deepEqual(last('STATUS'), ['-', '-', own]);
    assert.deepEqual(last('ADD'), [request.id, request.netns, own]);
    for (const verb of ['CHECK', 'DEL'])
      assert.deepEqual(last(verb), [request.id, request.netns, { ...own, prevResult }]);
    assert.deepEqual(last('GC'), [
      '-',
      '-',
      { ...own, 'cni.dev/valid-attachments': valid, 'cni.dev/attachments': valid },
    ]);
  });

  it('maps host ports, on one address only if asked, and unmaps them', async () => {
    const request = await pod([
      { protocol: 'tcp', containerPort: 8080, hostPort: 18080, hostIp: '' },
      { protocol: 'tcp', containerPort: 8080, hostPort: 18081, hostIp: GATEWAY },
    ]);
    await network.add(op, request);
    await serve(request, 8080);
    assert.equal(await hear(GATEWAY, 18080), 'hello');
    assert.equal(await hear('127.0.0.1', 18080), 'hello');
    assert.equal(await hear(GATEWAY, 18081), 'hello');
    assert.equal(await hear('127.0.0.1', 18081), 'ECONNREFUSED');
    await network.destroy(op, request.id);
    assert.equal(await hear(GATEWAY, 18080), 'ECONNREFUSED');
    assert.notMatch(await natRules(), /CNI-DN-|18080/);
  });

  for (const [what, spoil] of [
    ['is deleted', ['ip', 'netns', 'delete']],
    ['is an empty file, as after a reboot', ['umount', '-l']],
  ] as const) {
    it(`gives everything back when the netns ${what}`, async () => {
      const request = await pod([{ protocol: 'tcp', containerPort: 8080, hostPort: 18082, hostIp: '' }]);
      await network.add(op, request);
      assert.lengthOf(await leases(), 1);
      const [tool, ...args] = spoil;
      await execa(tool, [...args, tool === 'umount' ? request.netns : request.name]);
      assert.include(await natRules(), request.id);
      await network.destroy(op, request.id);
      assert.deepEqual([await leases(), await network.list()], [[], []]);
      assert.notInclude(await natRules(), request.id);
      await rm(request.netns, { force: true });
    });
  }

  it('runs a chain with the loopback plugin in it', async () => {
    await restart(withPlugin({ type: 'loopback' }));
    const request = await pod();
    assert.lengthOf((await network.add(op, request)).ips, 1);
    await network.check(op, request.id);
    await network.destroy(op, request.id);
    assert.deepEqual(await leases(), []);
  });

  it('adds and removes twenty pods at once', async () => {
    const pods = await Promise.all(Array.from({ length: 20 }, () => pod()));
    const added = await Promise.all(pods.map((each) => network.add(op, each)));
    assert.equal(new Set(added.map(({ ips }) => ips[0])).size, 20);
    assert.sameMembers(
      [...(await network.list())],
      pods.map(({ id }) => id),
    );
    await Promise.all(pods.map(({ id }) => network.destroy(op, id)));
    assert.deepEqual([await leases(), await network.list()], [[], []]);
  });

  for (const point of ['cni.intent.after', 'cni.add.after', 'cni.result.after', 'cni.del.after']) {
    it(`gives back what a daemon held that was killed at ${point}`, async () => {
      const request = await pod([{ protocol: 'tcp', containerPort: 8080, hostPort: 18083, hostIp: '' }]);
      const survivor = await pod();
      const kept = await network.add(op, survivor);
      const options = {
        configDirs: [`${base}/conf`],
        pluginDirs: [`${base}/bin`],
        cacheDir: `${base}/cache`,
        defaultNetwork: '',
      };
      const source = `
        import { CniNetwork } from ${JSON.stringify(new URL('../../pkg/network/index.ts', import.meta.url).href)};
        import { backgroundOp, silent } from ${JSON.stringify(new URL('../../pkg/base/op.ts', import.meta.url).href)};
        const network = new CniNetwork({ ...${JSON.stringify(options)}, log: silent });
        await network.start(backgroundOp(silent));
        await network.add(backgroundOp(silent), ${JSON.stringify(request)});
        await network.destroy(backgroundOp(silent), ${JSON.stringify(request.id)});
        console.log('not killed');`;
      const daemon = await execa(process.execPath, ['--input-type=module', '-e', source], {
        env: { BERTH_FAILPOINTS: `${point}=kill` },
        reject: false,
      });
      assert.deepEqual([daemon.signal, daemon.stdout], ['SIGKILL', ''], daemon.stderr);
      await ip('', 'netns', 'delete', request.name);
      assert.sameMembers([...(await network.list())], [request.id, survivor.id]);
      await network.gc(op, [survivor.id]);
      assert.deepEqual([await leases(), await network.list()], [kept.ips, [survivor.id]]);
      assert.notInclude(await natRules(), request.id);
      assert.include(await natRules(), survivor.id);
      await network.check(op, survivor.id);
    });
  }

  describe('plugins that misbehave', () => {
    /** `text` runs for ADD; everything else succeeds in silence. */
    const script = async (text: string): Promise<void> => {
      await writeFile(`${base}/bin/bad`, `#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\n${text}\n`, { mode: 0o755 });
      await restart(withPlugin({ type: 'bad' }));
    };

    const cases: readonly (readonly [what: string, text: string, code: ErrorCode, message: RegExp])[] = [
      [
        'prints garbage',
        'echo Segmentation fault',
        'Internal',
        /^CNI plugin bad \(ADD, network berth\) printed something that is not JSON: "Segmentation fault/,
      ],
      ['prints two megabytes', 'head -c 2097152 /dev/zero | tr "\\0" x', 'Internal', /printed more than 1048576 bytes/],
      ['exits 0 with no result', 'exit 0', 'Internal', /exited 0 without printing a result/],
      [
        'fails as the specification says',
        'echo \'{"code":100,"msg":"pool is empty","details":"10.0.0.0\\u002f8"}\'; exit 1',
        'Internal',
        /failed: pool is empty; 10\.0\.0\.0\/8 \(CNI error 100\)/,
      ],
      [
        'fails with noise on stderr',
        'echo "no such bridge" >&2; exit 3',
        'Internal',
        /failed: exit code 3: no such bridge/,
      ],
      ['is killed', 'kill -9 $$', 'Internal', /failed: exit code 137, and it said nothing/],
      ['asks to try again', 'echo \'{"code":11,"msg":"later"}\'; exit 1', 'Unavailable', /failed: later/],
      ['does not read its input', 'exec 0<&-; echo "{}"', 'Internal', /returned no IP address/],
    ];
    for (const [what, text, code, message] of cases) {
      it(`are named and undone when one (K12) ${what}`, async () => {
        await script(text);
        const request = await pod();
        assert.match(await refusal(network.add(op, request), code), message);
        assert.deepEqual([await leases(), await network.list()], [[], []]);
        assert.notInclude(await ip(request.name, '-br', 'link'), 'eth0');
      });
    }

    it('are killed with their children when they hang, and undone (K12)', async () => {
      await script(`sleep 600 & echo $! $$ > ${base}/pids.new; mv ${base}/pids.new ${base}/pids; wait`);
      const request = await pod();
      const caller = new AbortController();
      const adding = refusal(
        network.add({ ...backgroundOp(silent, 30_000), signal: caller.signal }, request),
        'Cancelled',
      );
      let pids: number[] = [];
      await until('the plugin hangs', async () => {
        pids = await readFile(`${base}/pids`, 'utf8').then(
          (text) => text.trim().split(' ').map(Number),
          () => [],
        );
        return pids.length === 2;
      });
      caller.abort();
      assert.match(await adding, /CNI plugin bad \(ADD, network berth\) was killed after \d+ ms/);
      assert.deepEqual([await leases(), await network.list()], [[], []]);
      await until('all of its process group are dead', async () => {
        const states = await Promise.all(
          pids.map((pid) =>
            readFile(`/proc/${pid}/stat`, 'utf8').then(
              (text) => text.split(') ')[1]?.[0],
              () => 'gone',
            ),
          ),
        );
        return states.every((state) => state === 'Z' || state === 'gone');
      });
    });

    it('are named when the deadline passes', async () => {
      await script('sleep 600');
      assert.match(
        await refusal(network.add(backgroundOp(silent, 1_000), await pod()), 'DeadlineExceeded'),
        /CNI plugin bad \(ADD, network berth\) was killed after \d+ ms: it did not finish in time/,
      );
      assert.deepEqual([await leases(), await network.list()], [[], []]);
    });

    it('may be absent: nothing is begun, and readiness says what is missing', async () => {
      await restart(withPlugin({ type: 'nowhere' }));
      assert.match(network.ready.why, /CNI plugin nowhere of network berth is not in/);
      await refusal(network.add(op, await pod()), 'FailedPrecondition');
      assert.deepEqual([await leases(), await network.list()], [[], []]);
    });

    it('may lack their interpreter', async () => {
      await writeFile(`${base}/bin/odd`, '#!/no/such/interpreter\n', { mode: 0o755 });
      await restart(withPlugin({ type: 'odd' }));
      const request = await pod();
      assert.match(
        await refusal(network.add(op, request), 'FailedPrecondition'),
        /CNI plugin odd \(ADD, network berth\) could not be run/,
      );
      // Neither can its DEL be: the pod is remembered until the plugin is mended.
      const lease: readonly SandboxId[] = await network.list();
      assert.deepEqual(lease, [request.id]);
      await writeFile(`${base}/bin/odd`, '#!/bin/sh\nexit 0\n', { mode: 0o755 });
      await network.destroy(op, request.id);
      assert.deepEqual([await leases(), await network.list()], [[], []]);
    });
  });

  it('sees configurations come, change and go by inotify', async () => {
    await network.close();
    await rm(`${base}/conf`, { recursive: true });
    network = make();
    await network.start(op);
    assert.match(network.ready.why, /^cni config uninitialized: no CNI configuration in /);
    const request = await pod();
    const adding = network.add(op, request);
    await configure(conflist());
    assert.lengthOf((await adding).ips, 1);
    assert.isTrue(network.ready.ok);
    await rm(`${base}/conf/10-berth.conflist`);
    await until('the network is gone', () => !network.ready.ok);
    await mkdir(`${base}/own`, { recursive: true });
    await writeFile(`${base}/own/x.conflist`, conflist());
    await until('our own network is used', () => network.ready.ok);
    await rm(`${base}/own`, { recursive: true });
    await until('that is gone too', () => !network.ready.ok);
    await configure(conflist());
    await until('the first is back', () => network.ready.ok);
    await network.destroy(op, request.id);
    assert.deepEqual(await leases(), []);
  });
});
