import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import { newSandboxId } from '../pkg/base/ids.ts';
import { backgroundOp, silent } from '../pkg/base/op.ts';
import {
  diskFactList,
  nodeFactList,
  nodeService,
  podNetworkFactList,
  type NodeServiceOptions,
} from './node-service.ts';
import type { PullProgress } from '../pkg/ports/image.ts';
import type { NodeFacts } from '../pkg/ports/spec.ts';

const FACTS: NodeFacts = {
  cgroupMode: 'v2',
  cgroupManager: 'cgroupfs',
  ownService: '',
  controllers: new Set(['cpu', 'cpuset', 'memory', 'pids']),
  swapLimit: true,
  capabilities: new Set(['CAP_SYS_RESOURCE']),
  oomScoreAdjMin: -1000,
  rlimitMax: new Map(),
  apparmor: false,
  selinux: false,
  seccomp: true,
  machine: 'x86_64',
  kernel: '6.18.0',
  hugepageSizes: [],
  maskedPaths: [],
  tellsFips: false,
};
const FEATURES = { recursiveReadOnlyMounts: true } as never;
const IN_USE = {
  name: 'berth',
  file: '/etc/cni/net.d/10-berth.conflist',
  cniVersion: '1.0.0',
  plugins: ['bridge', 'portmap'],
  hostPorts: 'plugin',
} as const;
const handler = (name: string): never => ({ handler: { name } }) as never;

function options(changes: Partial<NodeServiceOptions> = {}): NodeServiceOptions {
  return {
    images: { check: async () => [], progress: () => [] },
    operations: () => [],
    disks: async () => [],
    facts: FACTS,
    network: { ready: { ok: true, why: '' }, inUse: IN_USE, check: async () => {} },
    networkedPods: () => [],
    runtimes: {
      named: new Map([['runc', { features: FEATURES }]]),
      standard: { runtime: handler('runc') },
      trouble: undefined,
    },
    whyNoUserNamespaces: undefined,
    ...changes,
  };
}

describe('nodeFactList', () => {
  it('finds nothing wrong with a node that has everything', () => {
    assert.deepEqual(
      nodeFactList(options()).filter((each) => !each.ok),
      [],
    );
  });

  it('says what containers cannot have, and what to do', () => {
    const list = nodeFactList(
      options({
        facts: {
          ...FACTS,
          controllers: new Set(['cpu', 'memory']),
          capabilities: new Set(),
          swapLimit: false,
          seccomp: false,
        },
        network: { ready: { ok: false, why: 'no CNI configuration' }, inUse: undefined, check: async () => {} },
        whyNoUserNamespaces: 'the kernel is too old',
        runtimes: {
          named: new Map([['runsc', { features: { broken: 'not installed' } as never }]]),
          standard: undefined,
          trouble: 'there is none',
        },
      }),
    );
    const limited = new Map(list.filter((each) => !each.ok).map((each) => [each.name, each.advice]));
    assert.deepEqual(
      [...limited.keys()],
      [
        'cgroups',
        'swap limit',
        'capabilities',
        'seccomp',
        'user namespaces',
        'network',
        'default runtime',
        'runtime runsc',
      ],
    );
    assert.include(limited.get('cgroups'), 'pids, cpuset');
    assert.equal(limited.get('runtime runsc'), 'not installed');
    assert.equal(limited.get('default runtime'), 'there is none');
  });

  it('CVE-2025-31133: names a runtime that is known to be vulnerable', () => {
    const old = {
      broken: undefined,
      vulnerable: 'runc 1.1.5 is older than the releases without CVE-2025-31133',
    } as never;
    const [row] = nodeFactList(
      options({
        runtimes: {
          named: new Map([['runc', { features: old }]]),
          standard: { runtime: handler('runc') },
          trouble: undefined,
        },
      }),
    ).filter(({ name }) => name === 'runtime runc');
    assert.deepEqual([row?.ok, row?.advice], [false, 'runc 1.1.5 is older than the releases without CVE-2025-31133']);
  });
});

describe('the network in nodeFactList', () => {
  const rows = (hostPorts: 'plugin' | 'berth' | 'nobody') =>
    nodeFactList(
      options({ network: { ready: { ok: true, why: '' }, inUse: { ...IN_USE, hostPorts }, check: async () => {} } }),
    )
      .filter(({ name }) => name === 'network' || name === 'host ports')
      .map(({ detail, advice }) => [detail, advice.replace(/:.*/, '')]);

  it('is named, and who maps host ports', () => {
    const network = ['ready: berth (bridge, portmap; CNI 1.0.0) of /etc/cni/net.d/10-berth.conflist', ''];
    assert.deepEqual(rows('plugin'), [network, ['by a CNI plugin', '']]);
    assert.deepEqual(rows('berth'), [network, ['by nftables', '']]);
    assert.deepEqual(rows('nobody'), [network, ['no', 'pods with host ports cannot run']]);
  });
});

describe('podNetworkFactList', () => {
  it('asks about every pod, a few at a time, and names those that are not well', async () => {
    const pods = Array.from({ length: 10 }, (_, i) => ({ id: newSandboxId(), name: `ns/p${i}` }));
    const [broken] = pods;
    let underWay = 0;
    let most = 0;
    const check = async (_: unknown, id: string): Promise<void> => {
      most = Math.max(most, ++underWay);
      await new Promise((resolve) => setImmediate(resolve));
      underWay--;
      if (id === broken?.id)
        throw new RuntimeError('Internal', 'CNI plugin bridge (CHECK, network berth) failed: no address');
    };
    const list = await podNetworkFactList(backgroundOp(silent), {
      network: { ready: { ok: true, why: '' }, inUse: IN_USE, check },
      networkedPods: () => pods,
    });
    assert.deepEqual(list, [
      { name: 'pod networks', ok: true, detail: '9 of 10 as their plugins made them', advice: '' },
      {
        name: 'network of pod ns/p0',
        ok: false,
        detail: broken?.id ?? '',
        advice: 'CNI plugin bridge (CHECK, network berth) failed: no address; if it does not work, delete the pod',
      },
    ]);
    assert.equal(most, 4);
  });
});

describe('diskFactList', () => {
  it('warns before a disk is full, and in time to free inodes', () => {
    const disk = {
      name: 'disk',
      directory: '/d',
      availableBytes: 50n << 20n,
      totalBytes: 100n << 20n,
      inodes: 100n,
      inodesFree: 50n,
      reservedBytes: 1,
    } as const;
    const advice = diskFactList([
      disk,
      { ...disk, availableBytes: 4n << 20n },
      { ...disk, inodesFree: 4n },
      { ...disk, inodes: 0n, inodesFree: 0n },
      { ...disk, reservedBytes: 0 },
    ]).map((each) => each.advice.slice(0, 9));
    assert.deepEqual(advice, ['', 'less than', 'less than', '', 'full: the']);
    assert.equal(diskFactList([disk])[0]?.detail, '/d: 50 of 100 MiB and 50 inodes free');
  });
});

describe('berth.v1.Node', () => {
  it('checks, and repairs only when asked', async () => {
    const modes: string[] = [];
    const service = nodeService(
      options({
        images: {
          progress: () => [],
          check: async (_op, mode) => {
            modes.push(mode);
            return [{ image: 'sha256:1' as never, what: 'a layer is missing', keptBy: [] }];
          },
        },
      }),
    );
    const op = backgroundOp(silent);
    const reply = (await service.check?.(op, { repair: false })) as { readonly problems: readonly object[] };
    await service.check?.(op, { repair: true });
    assert.deepEqual(reply.problems, [{ imageId: 'sha256:1', what: 'a layer is missing', keptBy: [] }]);
    assert.deepEqual(modes, ['report', 'repair']);
  });

  it('tells the progress of pulls at once, then only what is new, until the client leaves', async () => {
    const abort = new AbortController();
    const pull = (bytesDone: bigint): PullProgress => ({
      reference: 'a',
      stage: 'downloading',
      startedAt: 1n,
      layers: [{ digest: 'd', stage: 'downloading', bytesDone, bytesTotal: 9n }],
    });
    const states = [[], [pull(1n)], [pull(1n)], [pull(5n)]];
    let looks = 0;
    const service = nodeService(
      options({
        images: {
          check: async () => [],
          progress() {
            if (looks >= states.length) abort.abort();
            return states[looks++] ?? [];
          },
        },
      }),
    );
    const told: string[] = [];
    for await (const each of service.pullProgress({ ...backgroundOp(silent), signal: abort.signal })) {
      told.push(each.pulls.map((one) => String(one.layers[0]?.bytesDone)).join());
    }
    assert.deepEqual(told, ['', '1', '5', '']);
  });
});
