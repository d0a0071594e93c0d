import { assert } from 'chai';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { explain } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import { silent } from '../base/op.ts';
import { fails, ground, op, sameResources, until } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';
import type { HandlerSettings, PodSettings } from './world.ts';

const ALLOWED = [
  'cpu-quota.crio.io',
  'cpu-load-balancing.crio.io',
  'irq-load-balancing.crio.io',
  'cpu-c-states.crio.io',
  'cpu-shared.crio.io',
  'unified-cgroup.crio.io',
];
/** As the kubelet asks for a guaranteed container with two processors for itself. */
const WHOLE = { ...sameResources, cpuShares: 2048n, cpuQuota: 200_000n, cpuPeriod: 100_000n, cpusetCpus: '2-3' };

describe('annotations about processors', () => {
  const at = ground();

  async function allow(settings: Partial<PodSettings> = {}, handler: Partial<HandlerSettings> = {}): Promise<void> {
    at.mind.close();
    const own: HandlerSettings = {
      privilegedWithoutHostDevices: false,
      minMemoryBytes: 0n,
      allowedAnnotations: ALLOWED,
      defaultAnnotations: new Map(),
      execCpuAffinity: '',
      seccompProfile: undefined,
      ...handler,
    };
    at.node.facts = { ...at.node.facts, controllers: new Set(['cpu', 'cpuset', 'memory']) };
    at.mind = await at.node.boot({ handlers: new Map(['', 'fake'].map((name) => [name, own])), ...settings });
  }
  async function made(
    annotations: Record<string, string>,
    resources = WHOLE,
    cgroupParent = '/kubepods/pod1',
  ): Promise<{ readonly id: ContainerId; readonly pod: SandboxId }> {
    const config = fakePod('web', 0, { annotations });
    const pod = await at.mind.pods.run(
      op(),
      { ...config, linux: { ...config.linux, cgroupParent } } as typeof config,
      '',
    );
    const container = fakeContainer('app', 0, { linux: { resources, securityContext: undefined } });
    return { pod, id: await at.mind.containers.create(op(), pod, container) };
  }
  async function specOf(id: ContainerId): Promise<RuntimeSpec> {
    return JSON.parse(
      await readFile(join(at.node.directory, 'run/containers', id, 'config.json'), 'utf8'),
    ) as RuntimeSpec;
  }

  it('change the node from the start of a container to its end, however that comes', async () => {
    await allow();
    const { id } = await made(
      {
        'cpu-quota.crio.io': 'disable',
        'cpu-load-balancing.crio.io': 'disable',
        'irq-load-balancing.crio.io': 'housekeeping',
        'cpu-c-states.crio.io': 'disable',
      },
      { ...WHOLE, cpusetCpus: '2-3,6' },
    );
    assert.strictEqual(at.node.tuned.size, 0);
    assert.strictEqual(at.mind.containers.get(id).resources?.cpuQuota, -1n);
    assert.include((await specOf(id)).process.env, 'OPENSHIFT_HOUSEKEEPING_CPUS=2,6');
    await at.mind.containers.start(op(), id);
    assert.deepEqual(at.node.tuned.get(id), {
      cpus: [2, 3, 6],
      withoutInterrupts: [3],
      resumeLatency: 'n/a',
      governor: undefined,
      isolatedCgroup: at.mind.containers.get(id).cgroupsPath,
      quotaCgroups: ['/kubepods/pod1'],
      quotaBy: 'all',
    });
    await at.mind.containers.stop(op(), id, 0);
    await at.mind.containers.remove(op(), id);
    // A removal answers before the runtime's side is gone.
    await until(() => at.node.tuned.size === 0);
  });

  it('give back what a daemon that died has changed', async () => {
    await allow();
    const { id } = await made({ 'cpu-c-states.crio.io': 'disable' });
    await at.mind.containers.start(op(), id);
    assert.isTrue(at.node.tuned.has(id));
    at.mind.close();
    at.node.node.crash();
    await allow();
    assert.isTrue(at.node.tuned.has(id), 'it runs on');
    await at.mind.containers.remove(op(), id);
    // A removal answers before the runtime's side is gone.
    await until(() => at.node.tuned.size === 0);
  });

  it('mean nothing to a container without processors of its own', async () => {
    await allow();
    for (const [parent, resources] of [
      ['/kubepods/burstable/pod1', WHOLE],
      ['/kubepods/besteffort/pod1', WHOLE],
      ['/kubepods/pod1', { ...WHOLE, cpuShares: 512n }],
    ] as const) {
      const { id, pod } = await made(
        { 'cpu-quota.crio.io': 'disable', 'cpu-c-states.crio.io': 'disable' },
        resources,
        parent,
      );
      await at.mind.containers.start(op(), id);
      assert.strictEqual(at.mind.containers.get(id).resources?.cpuQuota, 200_000n);
      assert.strictEqual(at.node.tuned.size, 0);
      await at.mind.pods.remove(op(), pod);
    }
  });

  it('add the shared processors, and refuse in the words of CRI-O where there are none', async () => {
    await allow();
    const refused = await fails(made({ 'cpu-shared.crio.io/app': 'enable' }));
    assert.match(explain(refused), /shared CPUs were requested for container "app" but none are defined/);
    await at.mind.pods.remove(op(), at.mind.pods.list()[0]?.id as SandboxId);
    await allow({ sharedCpuset: '0-1' }, { execCpuAffinity: 'first' });
    const { id } = await made({ 'cpu-shared.crio.io/app': 'enable' });
    const { process, linux } = await specOf(id);
    assert.strictEqual(linux.resources?.cpu?.cpus, '0-3');
    assert.includeMembers(process.env, ['OPENSHIFT_ISOLATED_CPUS=2-3', 'OPENSHIFT_SHARED_CPUS=0-1']);
    assert.deepEqual(process.execCPUAffinity, { initial: '0' });
    await at.mind.containers.start(op(), id);
    assert.deepInclude(at.node.tuned.get(id), { cpus: [2, 3], quotaBy: 2 });
  });

  it('have commands begin on the first processor where the handler says so', async () => {
    await allow({}, { execCpuAffinity: 'first' });
    const { id } = await made({ 'cpu-quota.crio.io': 'disable' });
    assert.deepEqual((await specOf(id)).process.execCPUAffinity, { initial: '2' });
  });

  it('set files of the cgroup', async () => {
    await allow();
    const { id } = await made({ 'unified-cgroup.crio.io/app': 'memory.high=MTAwMDAw' });
    assert.deepEqual({ ...(await specOf(id)).linux.resources?.unified }, { 'memory.high': '100000' });
  });

  it('are told of where the pod may not use them', async () => {
    await at.mind.pods.run(op(), fakePod('a', 0, { annotations: { 'cpu-quota.crio.io': 'disable' } }), '');
    assert.deepEqual(at.node.logged, []);
    const heard: string[] = [];
    const log = { ...silent, warn: (message: string) => void heard.push(message), child: () => log };
    await at.mind.pods.run({ ...op(), log }, fakePod('b', 0, { annotations: { 'cpu-quota.crio.io': 'disable' } }), '');
    assert.match(heard.join(), /not in the allowed_annotations of its handler/);
  });

  it('leave GOMAXPROCS to the configuration: twice the request, where there is no limit', async () => {
    await allow({ minGoMaxProcs: 3 });
    const free = { ...WHOLE, cpuQuota: 0n };
    for (const [resources, parent, annotations, value] of [
      [{ ...free, cpuShares: 4096n }, '/kubepods/burstable/p', {}, 'GOMAXPROCS=8'],
      [{ ...free, cpuShares: 2n }, '/kubepods/besteffort/p', {}, 'GOMAXPROCS=3'],
      [WHOLE, '/kubepods/burstable/p', {}, undefined],
      [free, '/kubepods/p', {}, undefined],
      [free, '/kubepods/burstable/p', { 'skip-gomaxprocs.crio.io': 'true' }, undefined],
    ] as const) {
      const { id, pod } = await made(annotations, resources, parent);
      assert.strictEqual(
        (await specOf(id)).process.env.find((entry) => entry.startsWith('GOMAXPROCS=')),
        value,
      );
      await at.mind.pods.remove(op(), pod);
    }
  });
});
