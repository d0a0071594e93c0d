import { assert } from 'chai';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { RuntimeError } from '../base/errors.ts';
import type { PortMapping } from '../ports/network.ts';
import {
  ok,
  fail,
  base,
  plugins,
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
  refusal,
  useCniGround,
  useNetwork,
} from './fake-cni-ground.ts';

describe('CniNetwork: host ports', () => {
  useCniGround();

  describe('host ports that no plugin maps', () => {
    const web: PortMapping = { protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '' };
    const plain = JSON.stringify({ cniVersion: '1.0.0', name: 'net', plugins: [{ type: 'bridge' }] });
    const restart = async (): Promise<void> => {
      await network.close();
      useNetwork(make());
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
});
