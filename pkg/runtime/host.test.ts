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

describe('LinuxHost with systemd', () => {
  const told: string[] = [];
  const manager: ServiceManager = {
    start: async () => {},
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
    await new LinuxHost({ ownRoots: [], manager }).liftCpuQuota(op, 'kubepods-pod1.slice:berth:c0ffee');
    await new LinuxHost({ ownRoots: [] }).liftCpuQuota(op, '/berth/c0ffee');
    assert.deepEqual(told, ['berth-c0ffee.scope CPUQuotaPerSecUSec=18446744073709551615']);
  });

  it('stops slices of its own', async () => {
    told.length = 0;
    await new LinuxHost({ ownRoots: [], manager }).destroyCgroup(op, 'system-berth_podabsent.slice');
    assert.deepEqual(told, ['stop system-berth_podabsent.slice']);
  });
});
