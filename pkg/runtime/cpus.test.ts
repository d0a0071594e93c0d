import { assert } from 'chai';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { explain } from '../base/errors.ts';
import { backgroundOp, silent } from '../base/op.ts';
import type { CpuTuning } from '../ports/runtime.ts';
import { LinuxCpus } from './cpus.ts';

const op = backgroundOp(silent);
const CONFIG = '/etc/sysconfig/irqbalance';

/** What a node with eight processors has, as read on one; files that are changed only. */
const NODE: Readonly<Record<string, string>> = {
  '/proc/irq/default_smp_affinity': 'ff\n',
  [CONFIG]: '# irqbalance\nIRQBALANCE_BANNED_CPUS="0"\n',
  ...Object.fromEntries(
    [2, 3, 4].flatMap((cpu) => [
      [`/sys/devices/system/cpu/cpu${cpu}/power/pm_qos_resume_latency_us`, '0\n'],
      [`/sys/devices/system/cpu/cpu${cpu}/cpufreq/scaling_governor`, 'powersave\n'],
      [`/sys/devices/system/cpu/cpu${cpu}/cpufreq/scaling_available_governors`, 'performance powersave \n'],
      [`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`, `${cpu},${cpu + 4}\n`],
    ]),
  ),
};
const V1 = {
  '/sys/fs/cgroup/cpuset/pod/app/cpuset.sched_load_balance': '1\n',
  '/sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us': '200000\n',
  '/sys/fs/cgroup/cpu/pod/cpu.cfs_period_us': '100000\n',
};
const V2 = {
  '/sys/fs/cgroup/pod/cpuset.cpus.exclusive': '7\n',
  '/sys/fs/cgroup/pod/app/cpuset.cpus.exclusive': '\n',
  '/sys/fs/cgroup/pod/app/cpuset.cpus.partition': 'member\n',
  '/sys/fs/cgroup/pod/cpu.max': '200000 100000\n',
};

const NOTHING: CpuTuning = {
  cpus: [2, 3],
  withoutInterrupts: [],
  resumeLatency: undefined,
  governor: undefined,
  isolatedCgroup: '',
  quotaCgroups: [],
  quotaBy: 'all',
};

describe('the CPUs of a node', () => {
  let root: string;
  let ran: string[];
  let service: number | undefined;
  const path = (file: string): string => join(root, file);
  const at = async (file: string): Promise<string> => (await readFile(path(file), 'utf8')).trim();
  const journal = (): string => path('/run/cpus.json');
  const states = (): Promise<readonly string[]> =>
    Promise.all(
      [2, 3].flatMap((cpu) => [
        at(`/sys/devices/system/cpu/cpu${cpu}/power/pm_qos_resume_latency_us`),
        at(`/sys/devices/system/cpu/cpu${cpu}/cpufreq/scaling_governor`),
      ]),
    );

  async function node(files: Readonly<Record<string, string>>, version: 1 | 2 = 1): Promise<LinuxCpus> {
    for (const [file, content] of Object.entries({ ...NODE, ...files, '/run/x': '' })) {
      await mkdir(dirname(path(file)), { recursive: true });
      await writeFile(path(file), content);
    }
    const hierarchy = (name: string): object =>
      version === 2
        ? { version, mountPoint: '/sys/fs/cgroup', controllers: ['cpu', 'cpuset'] }
        : { version, mountPoint: `/sys/fs/cgroup/${name}`, controllers: [name] };
    return new LinuxCpus({
      root,
      irqbalance: path(CONFIG),
      irqbalanceOriginal: path('/etc/sysconfig/original'),
      layout: () =>
        ({
          mode: version === 2 ? 'v2' : 'v1',
          hierarchies: version === 2 ? [hierarchy('')] : [hierarchy('cpuset'), hierarchy('cpu')],
          controllers: new Set(['cpu', 'cpuset']),
        }) as never,
      run: async (_op, argv, env) => {
        ran.push([...Object.entries(env ?? {}).map((pair) => pair.join('=')), ...argv].join(' '));
        return argv[0] === 'systemctl' ? service : 0;
      },
    });
  }

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'berth-cpus-'));
    ran = [];
    service = 1;
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  it('get other idle states and governors, and their own back', async () => {
    const cpus = await node({});
    await cpus.tune(op, journal(), { ...NOTHING, resumeLatency: 'n/a', governor: 'performance' });
    assert.deepEqual(await states(), ['n/a', 'performance', 'n/a', 'performance']);
    // Another daemon gives them back, and what it finds there is not what was there before.
    await (await node({ '/run/y': '' })).siblings(2);
    await writeFile(path('/sys/devices/system/cpu/cpu2/power/pm_qos_resume_latency_us'), 'n/a');
    await cpus.restore(op, journal());
    assert.deepEqual(await states(), ['0', 'powersave', '0', 'powersave']);
    await writeFile(path('/sys/devices/system/cpu/cpu2/power/pm_qos_resume_latency_us'), '5');
    await cpus.restore(op, journal());
    assert.strictEqual((await states())[0], '5', 'once is enough');
  });

  it('keep what was first there when a start is tried again', async () => {
    const cpus = await node({});
    await cpus.tune(op, journal(), { ...NOTHING, resumeLatency: '10' });
    await cpus.tune(op, journal(), { ...NOTHING, resumeLatency: '20' });
    assert.strictEqual((await states())[0], '20');
    await cpus.restore(op, journal());
    assert.strictEqual((await states())[0], '0');
  });

  it('are left as they are where one of them cannot be changed', async () => {
    const cpus = await node({ '/sys/devices/system/cpu/cpu3/cpufreq/scaling_available_governors': 'powersave' });
    const refused = await cpus
      .tune(op, journal(), { ...NOTHING, resumeLatency: 'n/a', governor: 'performance' })
      .then(() => '', explain);
    assert.match(refused, /governor performance not available for cpu 3/);
    assert.deepEqual(await states(), ['0', 'powersave', '0', 'powersave']);
    const absent = await cpus
      .tune(op, journal(), { ...NOTHING, cpus: [9], resumeLatency: '1' })
      .then(() => '', explain);
    assert.match(absent, /no \/sys\/devices\/system\/cpu\/cpu9/);
  });

  it('take no interrupts, which irqbalance learns from its configuration, or at once', async () => {
    const cpus = await node({});
    await cpus.tune(op, journal(), { ...NOTHING, withoutInterrupts: [2, 3] });
    assert.strictEqual(await at('/proc/irq/default_smp_affinity'), '000000f3');
    assert.strictEqual(await at(CONFIG), '# irqbalance\nIRQBALANCE_BANNED_CPUS="0000000c"');
    assert.deepEqual(ran, [
      'systemctl is-enabled --quiet irqbalance',
      'IRQBALANCE_BANNED_CPUS=0000000c irqbalance --oneshot',
    ]);
    service = 0;
    ran = [];
    await cpus.restore(op, journal());
    assert.strictEqual(await at('/proc/irq/default_smp_affinity'), '000000ff');
    assert.deepEqual(ran, ['systemctl is-enabled --quiet irqbalance', 'systemctl restart irqbalance']);
  });

  it('give irqbalance back what it had, after a boot', async () => {
    const cpus = await node({});
    await cpus.recover(op);
    assert.strictEqual(await at('/etc/sysconfig/original'), '0');
    await writeFile(path(CONFIG), 'IRQBALANCE_BANNED_CPUS="0000000c"\n');
    await writeFile(path('/proc/irq/default_smp_affinity'), 'f3');
    await cpus.recover(op);
    assert.include(await at(CONFIG), '0000000c', 'no boot');
    await writeFile(path('/proc/irq/default_smp_affinity'), 'ff');
    await cpus.recover(op);
    assert.strictEqual(await at(CONFIG), 'IRQBALANCE_BANNED_CPUS="0"');
  });

  it('are set apart on v1, and the quota of the pod is lifted, or raised', async () => {
    const cpus = await node(V1);
    await cpus.tune(op, journal(), { ...NOTHING, isolatedCgroup: '/pod/app', quotaCgroups: ['/pod'], quotaBy: 2 });
    assert.strictEqual(await at('/sys/fs/cgroup/cpuset/pod/app/cpuset.sched_load_balance'), '0');
    assert.strictEqual(await at('/sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us'), '400000');
    await cpus.tune(op, journal(), { ...NOTHING, quotaCgroups: ['/pod'] });
    assert.strictEqual(await at('/sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us'), '-1');
  });

  it('are set apart on v2, all the way down, and nobody else loses theirs when they go', async () => {
    const cpus = await node(V2, 2);
    await cpus.tune(op, journal(), { ...NOTHING, isolatedCgroup: '/pod/app', quotaCgroups: ['/pod'] });
    assert.strictEqual(await at('/sys/fs/cgroup/pod/cpuset.cpus.exclusive'), '2-3,7');
    assert.strictEqual(await at('/sys/fs/cgroup/pod/app/cpuset.cpus.exclusive'), '2-3');
    assert.strictEqual(await at('/sys/fs/cgroup/pod/app/cpuset.cpus.partition'), 'isolated');
    assert.match(await at('/sys/fs/cgroup/pod/cpu.max'), /^max/);
    rmSync(path('/sys/fs/cgroup/pod/app'), { recursive: true });
    await cpus.restore(op, journal());
    assert.strictEqual(await at('/sys/fs/cgroup/pod/cpuset.cpus.exclusive'), '7');
  });

  it('know their siblings', async () => {
    const cpus = await node({});
    assert.deepEqual(await cpus.siblings(2), [2, 6]);
    assert.deepEqual(await cpus.siblings(5), [5]);
  });
});
