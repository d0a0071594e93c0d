import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import { backgroundOp, silent } from '../base/op.ts';
import type { ServiceManager } from '../ports/kernel.ts';
import { LinuxHost, splitAtRoot } from './host.ts';

describe('splitAtRoot', () => {
  it('refuses every path that is not strictly below an own root (pelagos#347)', () => {
    for (const path of [
      '',
      '/',
      '/run/berth',
      '/run/berth/',
      '/run/berth/..',
      '/run/berth/../x',
      '/run/berth/a/./b',
      '/run/berth//a',
      '/run/berthx/a',
      '/etc',
      'run/berth/a',
      '/run/berth/a/',
    ]) {
      assert.throws(
        () => splitAtRoot(['/run/berth', '/var/lib/berth'], path),
        RuntimeError,
        'refusing to remove',
        path,
      );
    }
    assert.throws(() => splitAtRoot([], '/a/b'), RuntimeError);
    assert.throws(() => splitAtRoot(['', '/'], '/a/b'), RuntimeError);
  });

  it('splits what is below one', () => {
    assert.deepEqual(splitAtRoot(['/run/berth', '/var/lib/berth'], '/var/lib/berth/rootfs/x'), {
      root: '/var/lib/berth',
      below: 'rootfs/x',
    });
  });
});

describe('LinuxHost.resolvConf', () => {
  const resolvConf = (files: Readonly<Record<string, string>>): Promise<string> =>
    new LinuxHost({ ownRoots: [], readText: (path) => Promise.resolve(files[path]) }).resolvConf();
  const STUB = '# systemd\nnameserver 127.0.0.53\noptions edns0\n';

  it("is the host's own", async () => {
    assert.equal(
      await resolvConf({ '/etc/resolv.conf': 'nameserver 10.0.0.1\n', '/run/systemd/resolve/resolv.conf': 'other' }),
      'nameserver 10.0.0.1\n',
    );
    assert.equal(await resolvConf({}), '');
  });

  it("is systemd-resolved's real one where the host asks its stub", async () => {
    assert.equal(await resolvConf({ '/etc/resolv.conf': STUB, '/run/systemd/resolve/resolv.conf': 'real' }), 'real');
    assert.equal(await resolvConf({ '/etc/resolv.conf': STUB }), STUB);
    const mixed = `${STUB}nameserver 10.0.0.1\n`;
    assert.equal(await resolvConf({ '/etc/resolv.conf': mixed, '/run/systemd/resolve/resolv.conf': 'real' }), mixed);
  });
});

describe('LinuxHost.subordinateIds', () => {
  it('are the ranges of the user, in order; lines that are none give nothing', async () => {
    const files: Record<string, string> = {
      '/etc/subuid': 'root:1:2\n# containers:1:1\ncontainers:200000:65536\ncontainers:x:1\ncontainers:9:0\n',
    };
    const host = new LinuxHost({ ownRoots: [], readText: (path) => Promise.resolve(files[path]) });
    assert.deepEqual(await host.subordinateIds('containers'), { uids: [{ start: 200_000, count: 65_536 }], gids: [] });
  });
});

describe('LinuxHost with systemd', () => {
  const told: string[] = [];
  let runs = false;
  const manager: ServiceManager = {
    start: async (_op, name, _pids, properties) => {
      if (runs) throw new RuntimeError('AlreadyExists', name);
      runs = true;
      told.push(`start ${name} ${Object.keys(properties).join()}`);
    },
    stop: async (_op, name) => void told.push(`stop ${name}`),
    setProperties: async (_op, name, properties) =>
      void told.push(
        `${name} ${Object.entries(properties)
          .map(([key, { value }]) => `${key}=${String(value as bigint)}`)
          .join()}`,
      ),
  };
  const op = backgroundOp(silent);

  it('takes a limit of processor time away in its books', async () => {
    told.length = 0;
    await new LinuxHost({ ownRoots: [], manager }).liftCpuQuota(op, 'kubepods-pod1.slice:crio:c0ffee');
    await new LinuxHost({ ownRoots: [] }).liftCpuQuota(op, '/berth/c0ffee');
    assert.deepEqual(told, ['crio-c0ffee.scope CPUQuotaPerSecUSec=18446744073709551615']);
  });

  it('makes a slice with limits, and changes one that is there', async () => {
    told.length = 0;
    const host = new LinuxHost({ ownRoots: [], manager });
    await host.ensureCgroup(op, 'system-berth_podx.slice', { cpu: { shares: 2n } });
    await host.ensureCgroup(op, 'system-berth_podx.slice', { cpu: { shares: 262_144n } });
    // Weights or shares, by what the node under the test has.
    assert.match(told[0] ?? '', /^start system-berth_podx\.slice CPU(Weight|Shares),Description,CollectMode$/);
    assert.match(told[1] ?? '', /^system-berth_podx\.slice CPU(Weight=10000|Shares=262144)$/);
  });

  it('stops slices of its own', async () => {
    told.length = 0;
    await new LinuxHost({ ownRoots: [], manager }).destroyCgroup(op, 'system-berth_podabsent.slice');
    assert.deepEqual(told, ['stop system-berth_podabsent.slice']);
  });
});
