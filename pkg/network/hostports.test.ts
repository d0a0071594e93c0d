import { assert } from 'chai';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { isCode } from '../base/errors.ts';
import type { ErrorCode } from '../base/errors.ts';
import { newSandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { backgroundOp, silent } from '../base/op.ts';
import { FakeFilter } from './fake-filter.ts';
import { HostPorts } from './hostports.ts';
import { normalised } from './ports.ts';
import type { PodPorts } from './ports.ts';
import type { PortMapping } from '../ports/network.ts';

describe('HostPorts', () => {
  let base: string;
  let filter: FakeFilter;
  let ports: HostPorts;
  let warnings: string[];
  const op = backgroundOp({ ...silent, warn: (message) => void warnings.push(message) });
  const make = (): HostPorts => new HostPorts({ stateFile: `${base}/hostports.json`, filter, log: op.log });
  const pod = (hostPort: number, more: Partial<PortMapping> = {}): PodPorts => ({
    id: newSandboxId(),
    pod: `ns/p${hostPort}`,
    mappings: normalised([{ protocol: 'tcp', hostPort, containerPort: 80, hostIp: '', ...more }]),
    addresses: [],
  });
  const up = async (each: PodPorts, address = '10.1.0.2/16'): Promise<PodPorts> => {
    ports.reserve(each);
    await ports.map(op, each.id, [address]);
    return { ...each, addresses: [address] };
  };
  const state = async (): Promise<unknown> => JSON.parse(await readFile(`${base}/hostports.json`, 'utf8')) as unknown;
  const refusal = async (work: () => unknown, code: ErrorCode): Promise<string> => {
    try {
      await work();
    } catch (error) {
      assert.isTrue(isCode(error, code), String(error));
      return (error as Error).message;
    }
    return assert.fail('was not refused');
  };
  /** A new daemon on the node of this one. */
  const restart = async (...known: readonly PodPorts[]): Promise<void> => {
    ports = make();
    if (await ports.load()) for (const each of known) ports.recall(each);
    filter.texts.length = 0;
  };

  beforeEach(async () => {
    base = await mkdtemp(`${tmpdir()}/berth-ports-`);
    filter = new FakeFilter();
    warnings = [];
    ports = make();
    assert.isFalse(await ports.load());
  });

  afterEach(async () => {
    await rm(base, { recursive: true });
  });

  it('makes the table with the first pod, changes it by one transaction a pod, removes it with the last', async () => {
    const [a, b] = [pod(80), pod(81)];
    await up(a);
    assert.deepEqual(filter.of(a.id), ['any4 { tcp . 80', 'pods4 { 10.1.0.2 . 10.1.0.2']);
    await up(b, '10.1.0.3/16');
    assert.deepEqual(filter.of(b.id), ['any4 { tcp . 81', 'pods4 { 10.1.0.3 . 10.1.0.3']);
    await ports.release(op, a.id);
    assert.deepEqual(filter.owners(), new Set([b.id]));
    assert.deepEqual(await state(), { version: 1, table: 'inet berth_hostport', routeLocalnet: ['cni0'] });
    await ports.release(op, b.id);
    assert.deepEqual([filter.elements, await readdir(base), filter.texts.length, warnings], [undefined, [], 4, []]);
  });

  it('keeps ports from the moment they are reserved until they are given back', async () => {
    const first = pod(80);
    ports.reserve(first);
    assert.match(
      await refusal(() => ports.reserve(pod(80)), 'ResourceExhausted'),
      /host port 80\/tcp is taken by pod ns\/p80/,
    );
    assert.equal(filter.texts.length, 0);
    await ports.release(op, first.id);
    assert.deepEqual([filter.texts.length, await readdir(base)], [0, []]);
    await up(pod(80));
  });

  it('is refused by name of the package without nft, before anything is kept', async () => {
    filter.present = false;
    assert.match(await refusal(() => ports.reserve(pod(80)), 'FailedPrecondition'), /install the package nftables/);
    filter.present = true;
    await up(pod(80));
  });

  it('leaves pods without host ports alone, whatever state the table is in', async () => {
    const one = await up(pod(80));
    filter.present = false;
    await refusal(() => ports.release(op, one.id), 'FailedPrecondition');
    await ports.release(op, newSandboxId());
    await ports.map(op, newSandboxId(), ['10.1.0.9/16']);
  });

  it('makes the table anew with a subnet that it does not know, and only then', async () => {
    await up(pod(80));
    await up(pod(81), '10.1.0.3/16');
    await up(pod(82), '10.2.0.3/16');
    await up(pod(83), '10.3.0.3/32');
    assert.deepEqual(
      filter.texts.map((text) => text.startsWith('add table')),
      [true, false, true, false],
    );
    assert.equal(filter.elements?.size, 8);
  });

  it('makes the table anew when somebody flushed it', async () => {
    const [a, b] = [await up(pod(80)), await up(pod(81), '10.1.0.3/16')];
    filter.elements = undefined;
    const c = await up(pod(82), '10.1.0.4/16');
    assert.deepEqual(filter.owners(), new Set([a.id, b.id, c.id]));
    filter.elements = undefined;
    await ports.release(op, b.id);
    assert.deepEqual(filter.owners(), new Set([a.id, c.id]));
    assert.deepEqual(
      warnings,
      Array.from({ length: 2 }, () => 'the table of host ports was not as expected, making it anew'),
    );
  });

  it('keeps the ports of a pod that it cannot unmap, and tries again', async () => {
    const one = await up(pod(80));
    filter.failures.push(new Error('busy'), new Error('busy'));
    await ports.release(op, one.id).then(
      () => assert.fail('was released'),
      () => {},
    );
    await refusal(() => ports.reserve(pod(80)), 'ResourceExhausted');
    await ports.release(op, one.id).then(
      () => assert.fail('was released'),
      () => {},
    );
    await ports.release(op, one.id);
    assert.deepEqual([filter.elements, await readdir(base)], [undefined, []]);
    await up(pod(80));
  });

  it('takes a pod whose mapping failed out again', async () => {
    const other = await up(pod(80));
    const one = pod(81);
    ports.reserve(one);
    filter.failures.push(new Error('no'), new Error('no'));
    await ports.map(op, one.id, ['10.1.0.3/16']).then(
      () => assert.fail('was mapped'),
      () => {},
    );
    await ports.release(op, one.id);
    assert.deepEqual(filter.owners(), new Set([other.id]));
  });

  it('asks a kernel that cannot make the table for nothing more', async () => {
    const one = pod(80);
    ports.reserve(one);
    filter.failures.push(new Error('Operation not supported'));
    await ports.map(op, one.id, ['10.1.0.3/16']).then(
      () => assert.fail('was mapped'),
      () => {},
    );
    await ports.release(op, one.id);
    assert.deepEqual([filter.texts.length, await readdir(base)], [1, []]);
  });

  it('changes the table for one pod after the other', async () => {
    const pods = Array.from({ length: 10 }, (_, i) => pod(80 + i));
    await Promise.all(pods.map((each, i) => up(each, `10.1.0.${i + 2}/16`)));
    assert.deepEqual([filter.elements?.size, filter.texts.length], [20, 10]);
    await Promise.all(pods.map(({ id }) => ports.release(op, id)));
    assert.deepEqual([filter.elements, warnings], [undefined, []]);
  });

  describe('after a crash', () => {
    it('knows who has which port, and leaves only those in the table that live', async () => {
      const [alive, dead] = [await up(pod(80)), await up(pod(81), '10.1.0.3/16')];
      await restart(alive, dead);
      await ports.release(op, dead.id);
      assert.equal(filter.texts.length, 0, 'one transaction at the end is enough');
      await ports.settle(op);
      assert.deepEqual([filter.owners(), filter.texts.length], [new Set([alive.id]), 1]);
      await refusal(() => ports.reserve(pod(80)), 'ResourceExhausted');
      await up(pod(81), '10.1.0.4/16');
      await ports.settle(op);
      assert.equal(filter.texts.length, 2);
    });

    it('removes what nobody knows any more', async () => {
      await up(pod(80));
      await restart();
      await ports.settle(op);
      assert.deepEqual([filter.elements, filter.devices.get('cni0'), await readdir(base)], [undefined, false, []]);
    });

    it('does nothing on a node that had none', async () => {
      await restart();
      await ports.settle(op);
      assert.deepEqual(filter.texts, []);
    });

    it('takes a damaged file for a table', async () => {
      const one = await up(pod(80));
      await writeFile(`${base}/hostports.json`, '{"rou');
      await restart(one);
      await ports.settle(op);
      assert.deepEqual(
        [filter.owners(), warnings],
        [new Set([one.id]), ['damaged file of host ports, going on without it']],
      );
    });

    it('makes the table of a pod that comes first', async () => {
      const old = await up(pod(80));
      await restart(old);
      const fresh = await up(pod(81), '10.1.0.3/16');
      assert.deepEqual(filter.owners(), new Set([old.id, fresh.id]));
    });
  });

  describe('127.0.0.1', () => {
    it('is switched on for the device of the pod, and off with the last port', async () => {
      const one = await up(pod(80));
      assert.isTrue(filter.devices.get('cni0'));
      await ports.release(op, one.id);
      assert.isFalse(filter.devices.get('cni0'));
    });

    it('is left as it is where it was on before', async () => {
      filter.devices.set('cni0', true);
      const one = await up(pod(80));
      assert.deepNestedInclude(await state(), { routeLocalnet: [] });
      await ports.release(op, one.id);
      assert.isTrue(filter.devices.get('cni0'));
    });

    it('is switched off after a crash, too', async () => {
      const one = await up(pod(80));
      await restart(one);
      await ports.settle(op);
      await ports.release(op, one.id);
      assert.isFalse(filter.devices.get('cni0'));
    });

    it('is not touched for a port on another address', async () => {
      await up(pod(80, { hostIp: '192.168.0.1' }));
      assert.isFalse(filter.devices.get('cni0'));
    });

    it('is said to be missing where no device leads to the pod', async () => {
      filter.devices.clear();
      const one = await up(pod(80));
      assert.deepEqual(warnings, ['host ports of a pod cannot be reached at 127.0.0.1, going on without that']);
      await ports.release(op, one.id);
    });

    it('does not mind that the device went with the pod', async () => {
      const one = await up(pod(80));
      filter.devices.clear();
      await ports.release(op, one.id);
      assert.deepEqual([filter.devices.size, await readdir(base)], [0, []]);
    });
  });

  it('makes the kernel forget UDP flows when a port comes and when it goes', async () => {
    const one = await up(pod(53, { protocol: 'udp' }));
    assert.deepEqual(filter.forgotten, ['127.0.0.1 53', '192.168.0.1 53']);
    await ports.release(op, one.id);
    assert.lengthOf(filter.forgotten, 4);
    await up(pod(54));
    assert.lengthOf(filter.forgotten, 4);
  });

  it('forgets no more UDP flows than it may, on a node of many addresses, and says so', async () => {
    filter.localAddresses = () => Array.from({ length: 1_000 }, (_, index) => `10.9.${index >> 8}.${index & 255}`);
    const mappings = Array.from({ length: limits.portMappingsCount }, (_, index) => ({
      protocol: 'udp' as const,
      hostPort: 1 + index,
      containerPort: 80,
      hostIp: '',
    }));
    await up({ ...pod(1), mappings: normalised(mappings) });
    assert.lengthOf(filter.forgotten, limits.udpFlowEndsCount);
    assert.include(warnings.join(), 'more host ports on more addresses');
  });

  it('says which port leads nowhere, and does nothing for it', async () => {
    const one = await up(pod(80, { hostIp: 'fd00::1' }));
    assert.deepEqual(
      [warnings, filter.texts],
      [['pod has no address of the family of a host port, ignoring the port'], []],
    );
    await ports.release(op, one.id);
  });
});
