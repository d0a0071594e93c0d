import { assert } from 'chai';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { newSandboxId } from '../base/ids.ts';
import { backgroundOp, silent } from '../base/op.ts';
import { CniNetwork } from './cni.ts';
import {
  ok,
  fail,
  base,
  plugins,
  watches,
  filter,
  network,
  op,
  warnings,
  log,
  conflist,
  cached,
  configure,
  make,
  pod,
  changed,
  refusal,
  until,
  useCniGround,
  useNetwork,
} from './fake-cni-ground.ts';

describe('CniNetwork: what it keeps, finds and answers', () => {
  useCniGround();

  it('begins without what a daemon has left that died while it replaced a file', async () => {
    const request = pod();
    await network.add(op, request);
    await network.close();
    for (const name of ['hostports.json', 'pod-ranges.json'])
      await writeFile(`${base}/cache/${name}.tmp-0123456789ab`, '{');
    useNetwork(make());
    await network.start(op);
    assert.deepEqual(await readdir(`${base}/cache`), [`${request.id}.jsonl`]);
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
        useNetwork(make());
        await network.start(op);
        await network.add(op, request);
        await network.check(op, request.id);
        assert.notInclude(plugins.verbs().join(), 'CHECK');
      });
    }
  });

  describe('after a crash', () => {
    async function restart(): Promise<void> {
      await network.close();
      useNetwork(make());
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
      useNetwork(make());
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
      useNetwork(make());
      await network.start(op);
      await network.add(op, pod());
      assert.equal(plugins.calls[0]?.config['name'], 'first');
    });

    it('takes the network that is asked for by name, else none', async () => {
      await configure(conflist({ name: 'wanted' }), '99.conflist');
      await network.close();
      useNetwork(make('wanted'));
      await network.start(op);
      await network.add(op, pod());
      assert.equal(plugins.calls[0]?.config['name'], 'wanted');
      await network.close();
      useNetwork(make('absent'));
      await network.start(op);
      assert.match(network.ready.why, /no CNI configuration of a network named absent/);
    });

    it("uses Berth's own directory only while the system's has nothing", async () => {
      await configure(conflist({ name: 'own' }), 'x.conflist', 'own');
      await rm(`${base}/conf/10-net.conflist`);
      await network.close();
      useNetwork(make());
      await network.start(op);
      await network.add(op, pod());
      await configure(conflist({ name: 'system' }));
      changed();
      await until(() => network.ready.ok);
      await network.close();
      useNetwork(make());
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
      useNetwork(make());
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
      useNetwork(make());
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
      const said: string[] = [];
      const graceful = (): CniNetwork =>
        new CniNetwork({
          configDirs: [`${base}/conf`],
          pluginDirs: [`${base}/bin`],
          cacheDir: `${base}/cache`,
          defaultNetwork: '',
          log: { ...log, info: (message) => void said.push(message), warn: (message) => void said.push(message) },
          run: plugins.run,
          watch: watches.watch,
          filter,
          now: () => now,
          statusGraceMs: 30_000,
        });
      useNetwork(graceful());
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
      assert.deepEqual(
        said.filter((message) => message.startsWith('CNI plugin')),
        ['CNI plugin status check failed: the network says that it is not ready', 'CNI plugin is now healthy'],
      );
      failing = true;
      assert.isTrue(await at(170));
      await network.close();
      useNetwork(graceful());
      await network.start(op);
      assert.isFalse(await at(180), 'a network that was never ready');
    });

    it('is not asked before 1.1', () => {
      assert.deepEqual([network.ready, plugins.calls.length], [{ ok: true, why: '' }, 0]);
    });
  });
});
