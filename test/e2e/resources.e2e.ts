/** Limits of containers as the kernel has them, at creation and after updates, with runc and crun. */
import { assert } from 'chai';
import { existsSync, readFileSync } from 'node:fs';
import type { Input, LinuxContainerResources } from '../../pkg/cri-api/types.ts';
import type { Pod } from './cri-client.ts';
import { IMAGE, processesOf, type RuntimeName, TestNode } from './harness.ts';
import { cgroupFile, cgroupOfKubelet, containerCgroup, HAS_CPUSETS, podCgroup, V2 } from './node-cgroups.ts';
import { idle, IDLE, reconfigure, refusal, sh } from './inside.ts';

const RUNTIMES: readonly RuntimeName[] = ['runc', 'crun'];
const MiB = 1n << 20n;
const limited = (
  resources: Input<LinuxContainerResources>,
): { readonly linux: { readonly resources: Input<LinuxContainerResources> } } => ({ linux: { resources } });

for (const runtime of RUNTIMES) {
  describe(`resources with ${runtime}`, function () {
    this.timeout(60_000);
    let node: TestNode;
    let pod: Pod;
    before(async () => {
      node = await TestNode.boot({ runtime });
    });
    after(() => node.close());
    beforeEach(async () => {
      pod = await node.cri.runPod();
    });
    afterEach(() => node.clear());

    const cgroup = (owner: Pod, id: string, controller: string, v1: string, v2 = v1): string =>
      cgroupFile(containerCgroup(node.driver, owner.id, id), controller, v1, v2);
    const ofPod = (controller: string, file: string): string =>
      cgroupFile(podCgroup(node.driver, pod.id), controller, file);
    const shares = (id: string): string => cgroup(pod, id, 'cpu', 'cpu.shares', 'cpu.weight');
    const quota = (id: string): string =>
      V2
        ? cgroup(pod, id, 'cpu', '', 'cpu.max')
        : `${cgroup(pod, id, 'cpu', 'cpu.cfs_quota_us')} ${cgroup(pod, id, 'cpu', 'cpu.cfs_period_us')}`;
    const memory = (id: string): string => cgroup(pod, id, 'memory', 'memory.limit_in_bytes', 'memory.max');
    const cpus = (id: string): string => cgroup(pod, id, 'cpuset', 'cpuset.cpus');
    const oomScore = (id: string): Promise<string> => sh(node, id, 'cat /proc/1/oom_score_adj');
    const reported = async (id: string): Promise<Partial<LinuxContainerResources>> =>
      (await node.cri.container(id)).resources?.linux ?? {};
    const update = (containerId: string, linux: Input<LinuxContainerResources>): Promise<unknown> =>
      node.cri.rpc.updateContainerResources({ containerId, linux });

    it('are set when a container is made, and reported', async () => {
      const wanted = {
        cpuPeriod: 50_000n,
        cpuQuota: 25_000n,
        cpuShares: 512n,
        memoryLimitInBytes: 64n * MiB,
        cpusetCpus: '0',
        cpusetMems: '0',
        oomScoreAdj: 321n,
      };
      const id = await idle(node, pod, limited(wanted));
      if (!V2) assert.equal(shares(id), '512');
      assert.deepEqual(
        [quota(id), memory(id), cpus(id), await oomScore(id)],
        ['25000 50000', String(64n * MiB), HAS_CPUSETS ? '0' : '', '321'],
      );
      assert.include(await reported(id), wanted);
    });

    it('are left alone where the config says nothing, or unlimited', async () => {
      const id = await idle(node, pod, limited({ cpuQuota: -1n, memoryLimitInBytes: -1n }));
      assert.match(quota(id), V2 ? /^max / : /^-1 /);
      assert.match(memory(id), V2 ? /^max$/ : /^9223372036854771712$/);
    });

    it('change while it runs, and survive the daemon', async () => {
      const id = await idle(node, pod, limited({ memoryLimitInBytes: 64n * MiB, cpuShares: 512n }));
      await update(id, {
        cpuPeriod: 100_000n,
        cpuQuota: 30_000n,
        cpuShares: 256n,
        memoryLimitInBytes: 128n * MiB,
        cpusetCpus: '0',
        oomScoreAdj: 500n,
      });
      if (!V2) assert.equal(shares(id), '256');
      assert.deepEqual(
        [quota(id), memory(id), cpus(id), await oomScore(id)],
        ['30000 100000', String(128n * MiB), HAS_CPUSETS ? '0' : '', '500'],
      );
      await update(id, { memoryLimitInBytes: 32n * MiB });
      assert.equal(memory(id), String(32n * MiB), 'and down again');
      await node.kill();
      await node.start();
      assert.include(await reported(id), {
        cpuPeriod: 100_000n,
        cpuQuota: 30_000n,
        cpuShares: 256n,
        memoryLimitInBytes: 32n * MiB,
        cpusetCpus: '0',
        oomScoreAdj: 500n,
      });
      await update(id, { cpuQuota: -1n });
      assert.match(quota(id), V2 ? /^max 100000$/ : /^-1 100000$/);
      await update(id, { cpuShares: 128n });
      assert.match(quota(id), V2 ? /^max 100000$/ : /^-1 100000$/, 'what was lifted stays lifted');
      assert.equal((await reported(id)).cpuQuota, -1n);
      assert.equal(memory(id), String(32n * MiB));
    });

    it('do not begin with the precedence of the event loop', async () => {
      const id = await idle(node, pod);
      const monitor = Number(
        processesOf(node.dir)
          .find((each) => each.endsWith(' conmon'))
          ?.split(' ')[0],
      );
      const nice = (stat: string): string | undefined => stat.split(') ')[1]?.split(' ')[16];
      const statOf = (pid: number): string => readFileSync(`/proc/${pid}/stat`, 'utf8');
      assert.deepEqual(
        [
          nice(statOf(node.pid)),
          nice(statOf(monitor)),
          nice(await sh(node, id, 'cat /proc/1/stat')),
          nice(await sh(node, id, 'cat /proc/self/stat')),
        ],
        ['-10', '0', '0', '0'],
      );
    });

    it('reach every process that is there, and those to come, as an OOM score', async () => {
      const id = await node.cri.runContainer(pod, IMAGE, { command: ['sh', '-c', 'sleep 1000 & wait'] });
      await sh(node, id, 'until busybox pidof sleep; do :; done');
      await update(id, { oomScoreAdj: 700n });
      assert.equal(await sh(node, id, 'for p in $(busybox pidof sleep); do cat /proc/$p/oom_score_adj; done'), '700');
    });

    it('are those of commands, too: an OOM score as it was asked for, and as it was updated', async () => {
      const id = await idle(node, pod, limited({ oomScoreAdj: 400n }));
      assert.equal(await sh(node, id, 'cat /proc/self/oom_score_adj'), '400', 'from its first instruction');
      // runc starts a command with the score that the container was made with; it is set right a moment later.
      const untilScored = (container: string, score: number): Promise<string> =>
        sh(node, container, `until [ "$(cat /proc/$$/oom_score_adj)" = ${score} ]; do sleep 0.01; done`);
      await update(id, { oomScoreAdj: 700n });
      assert.equal(await oomScore(id), '700');
      await untilScored(id, 700);
      await node.kill();
      await node.start();
      await untilScored(id, 700);
      const created = await node.cri.createContainer(pod, IMAGE, { command: IDLE });
      await update(created, { oomScoreAdj: 600n });
      await node.cri.rpc.startContainer({ containerId: created });
      assert.equal(await oomScore(created), '600');
      await untilScored(created, 600);
    });

    it('change before it starts', async () => {
      const id = await node.cri.createContainer(pod, IMAGE, {
        command: IDLE,
        ...limited({ memoryLimitInBytes: 64n * MiB }),
      });
      await update(id, { memoryLimitInBytes: 96n * MiB, cpuShares: 300n });
      assert.equal(memory(id), String(96n * MiB));
      await node.cri.rpc.startContainer({ containerId: id });
      assert.equal(memory(id), String(96n * MiB));
      if (!V2) assert.equal(shares(id), '300');
    });

    it('stay as they were, all of them, when one cannot be', async () => {
      const id = await idle(node, pod, limited({ cpuShares: 512n, memoryLimitInBytes: 256n * MiB }));
      // 100 MiB that cannot be given back: a tmpfs counts as the memory of who wrote it.
      await sh(node, id, 'busybox dd if=/dev/zero of=/dev/shm/ballast bs=1M count=60 2>/dev/null');
      const before = await reported(id);
      await refusal(update(id, { cpuShares: 999n, cpuQuota: 50_000n, memoryLimitInBytes: 20n * MiB }), /memory|busy/i);
      if (HAS_CPUSETS) await refusal(update(id, { cpuShares: 999n, cpusetCpus: '0-4000' }), '');
      assert.equal(memory(id), String(256n * MiB));
      if (!V2) assert.equal(shares(id), '512');
      assert.match(quota(id), V2 ? /^max / : /^-1 /);
      assert.deepEqual(await reported(id), before);
    });

    it('are refused when they make no sense', async () => {
      const id = await idle(node, pod);
      await refusal(
        update(id, { memoryLimitInBytes: 100n * MiB, memorySwapLimitInBytes: 50n * MiB }),
        'memory_swap_limit_in_bytes',
      );
      await refusal(update(id, { cpuQuota: 5n }), 'cpu_quota');
      await refusal(update(id, { cpuPeriod: 5n }), 'cpu_period');
      await refusal(update(id, { oomScoreAdj: 2000n }), 'oom_score_adj');
      await refusal(update(id, { cpusetCpus: 'all' }), 'cpuset_cpus');
      await refusal(update(id, { unified: { '../memory.max': '1' } }), 'unified');
      if (!V2) await refusal(update(id, { unified: { 'memory.high': '1' } }), 'cgroup v2');
      await refusal(idle(node, pod, limited({ memoryLimitInBytes: 1000n })), 'memory_limit_in_bytes');
      await node.cri.rpc.stopContainer({ containerId: id, timeout: 0n });
      await refusal(update(id, { cpuShares: 100n }), 'exited');
    });

    it('name page sizes, and those that the node has not are left out', async () => {
      const id = await idle(
        node,
        pod,
        limited({
          hugepageLimits: [
            { pageSize: '2MB', limit: 0n },
            { pageSize: '64KB', limit: 65_536n },
          ],
        }),
      );
      if (existsSync('/sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes')) {
        assert.equal(cgroup(pod, id, 'hugetlb', 'hugetlb.2MB.limit_in_bytes', 'hugetlb.2MB.max'), '0');
        await update(id, { hugepageLimits: [{ pageSize: '2MB', limit: 4n * MiB }] });
        assert.equal(cgroup(pod, id, 'hugetlb', 'hugetlb.2MB.limit_in_bytes', 'hugetlb.2MB.max'), String(4n * MiB));
      }
    });

    it('of a pod are remembered', async () => {
      const overhead = { cpuShares: 10n };
      const resources = { cpuShares: 2000n, memoryLimitInBytes: 512n * MiB };
      await node.cri.rpc.updatePodSandboxResources({ podSandboxId: pod.id, overhead, resources });
      await node.kill();
      await node.start();
      const { info } = await node.cri.rpc.podSandboxStatus({ podSandboxId: pod.id, verbose: true });
      const record = JSON.parse(info['info'] ?? '{}') as { readonly overhead: object; readonly resources: object };
      assert.deepInclude(record.resources, { cpuShares: 2000, memoryLimitInBytes: Number(512n * MiB) });
      assert.deepInclude(record.overhead, { cpuShares: 10 });
      const quotaOfPod = (): string =>
        V2 ? ofPod('cpu', 'cpu.max') : `${ofPod('cpu', 'cpu.cfs_quota_us')} ${ofPod('cpu', 'cpu.cfs_period_us')}`;
      assert.equal(ofPod('memory', V2 ? 'memory.max' : 'memory.limit_in_bytes'), String(512n * MiB));
      await node.cri.rpc.updatePodSandboxResources({ podSandboxId: pod.id, resources: { cpuQuota: 150_000n } });
      assert.equal(quotaOfPod(), '150000 100000', 'its cgroup is ours to limit');
      await node.cri.rpc.updatePodSandboxResources({ podSandboxId: pod.id, resources: { cpuQuota: -1n } });
      assert.equal(quotaOfPod(), V2 ? 'max 100000' : '-1 100000');
      await refusal(
        node.cri.rpc.updatePodSandboxResources({ podSandboxId: 'f'.repeat(64), resources }),
        'no pod sandbox',
      );
    });

    it('end in an OOM kill that is called so, while others of the pod go on', async () => {
      const neighbour = await idle(node, pod);
      const id = await node.cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', 'busybox dd if=/dev/zero of=/dev/null bs=100M'],
        ...limited({ memoryLimitInBytes: 16n * MiB }),
      });
      const end = await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
      assert.deepEqual([end.reason, end.exitCode], ['OOMKilled', 137]);
      assert.equal((await node.cri.container(neighbour)).state, 'CONTAINER_RUNNING');
    });

    it('have a least memory by handler (container_min_memory)', async () => {
      await reconfigure(node, `[crio.runtime.runtimes.${runtime}]\ncontainer_min_memory = "40MiB"\n`);
      await refusal(idle(node, pod, limited({ memoryLimitInBytes: 39n * MiB })), String(40n * MiB));
      await idle(node, pod, limited({ memoryLimitInBytes: 41n * MiB }));
    });

    it('lie below the cgroup that the kubelet names', async () => {
      const kubelet = cgroupOfKubelet(node.driver, `berth_e2e${process.pid}`);
      const { parent } = kubelet;
      const own = await node.cri.runPod({
        linux: {
          cgroupParent: parent,
          securityContext: { namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } },
        },
      });
      const id = await idle(node, own);
      // On v2 the container has a cgroup namespace, and sees itself at the top.
      if (V2) assert.isTrue(existsSync(`/sys/fs/cgroup${parent}/crio-${id}.scope`));
      else assert.include(await sh(node, id, 'cat /proc/self/cgroup'), `${parent}/crio-${id}.scope`);
      await node.cri.removePod(own.id);
      kubelet.remove();
      for (const bad of ['../../x', '/a/../b', node.driver === 'systemd' ? '/kubepods' : 'kubepods.slice'])
        await refusal(node.cri.runPod({ linux: { cgroupParent: bad } }), 'cgroup_parent');
    });
  });
}
