import { assert } from 'chai';
import { readdir, rm, writeFile } from 'node:fs/promises';
import { RuntimeError } from '../base/errors.ts';
import type { ErrorCode } from '../base/errors.ts';
import { backgroundOp, silent } from '../base/op.ts';
import type { PluginOutput } from './exec.ts';
import {
  ok,
  fail,
  base,
  plugins,
  network,
  op,
  warnings,
  swept,
  ended,
  linesOf,
  configure,
  make,
  pod,
  changed,
  refusal,
  until,
  useCniGround,
  useNetwork,
} from './fake-cni-ground.ts';

describe('CniNetwork', () => {
  useCniGround();

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

    it('goes on with the plugins of the directory that is called as the network (CNI 1.1)', async () => {
      const more = async (name: string, text: string): Promise<void> => configure(text, name, 'conf/net');
      await more('20-b.conf', '{"type":"loopback","note":2}');
      await more('10-a.conf', '{"type":"portmap"}');
      await more('30-c.conflist', '{"type":"no"}');
      const run = async (written: object): Promise<readonly string[]> => {
        await configure(JSON.stringify({ cniVersion: '1.1.0', name: 'net', ...written }));
        await network.close();
        useNetwork(make());
        await network.start(op);
        plugins.calls.length = 0;
        const request = pod();
        await network.add(op, request);
        await network.destroy(op, request.id);
        return plugins.verbs();
      };
      const bridge = [{ type: 'bridge' }];
      assert.deepEqual(await run({ plugins: bridge }), [
        ...['bridge ADD', 'portmap ADD', 'loopback ADD'],
        ...['loopback DEL', 'portmap DEL', 'bridge DEL'],
      ]);
      assert.deepNestedInclude(plugins.calls[2]?.config, { name: 'net', cniVersion: '1.1.0', note: 2 });
      assert.deepEqual(await run({ plugins: bridge, loadOnlyInlinedPlugins: true }), ['bridge ADD', 'bridge DEL']);
      await more('05-first.conf', '{"type":"bridge"}');
      assert.equal((await run({})).join(), 'bridge ADD,portmap ADD,loopback ADD,loopback DEL,portmap DEL,bridge DEL');
      await more('05-first.conf', '{"type":"../bridge"}');
      await network.close();
      useNetwork(make());
      await network.start(op);
      assert.match(network.ready.why, /net\/05-first\.conf wants a plugin "type"/);
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

    it('ends plugins and sweeps where a DEL was begun before, and after an ADD that failed', async () => {
      const request = pod({ netns: '/proc/self/ns/net' });
      await network.add(op, request);
      plugins.behaviours.set('bridge DEL', () => fail('', 137));
      await refusal(network.destroy(op, request.id), 'Internal');
      assert.deepEqual([ended, swept], [[], []], 'the first has nothing to look for');
      plugins.behaviours.clear();
      const next = make();
      await next.start(op);
      await next.destroy(op, request.id);
      await next.close();
      assert.deepEqual([ended, swept], [[request.id], [request.id]]);

      const other = pod({ netns: '/proc/self/ns/net' });
      plugins.behaviours.set('portmap ADD', () => fail('', 137));
      await refusal(network.add(op, other), 'Internal');
      assert.deepEqual(swept, [request.id, other.id]);
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
        useNetwork(make());
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
        useNetwork(make());
        await network.start(op);
        assert.deepEqual(await told(), ranges);
        await writeFile(`${base}/cache/pod-ranges.json`, '{"');
        await network.close();
        useNetwork(make());
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
});
