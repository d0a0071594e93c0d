/** What people and scripts that come from CRI-O count on: verbose statuses, commands in odd moments. */
import { existsSync } from 'node:fs';
import { assert } from 'chai';
import type { StringMap } from '../../pkg/cri-api/types.ts';
import { waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';
import { reconfigure } from './inside.ts';
import { cgroupFile, containerCgroup, podCgroup, V2 } from './node-cgroups.ts';

interface Info {
  readonly pid: number;
  readonly runtimeSpec: {
    readonly process: { readonly args: readonly string[]; readonly env: readonly string[] };
    readonly linux: { readonly namespaces: readonly { readonly type: string; readonly path: string }[] };
  };
}

const read = (info: StringMap, key = 'info'): Info => JSON.parse(info[key] ?? '') as Info;

describe('who comes from CRI-O', function () {
  this.timeout(60_000);
  let node: TestNode;

  before(async () => {
    node = await TestNode.boot();
  });
  after(async () => {
    await node.close();
  });

  it('finds the spec, the pod, the process and the privileges of a container', async () => {
    const pod = await node.cri.runPod();
    const id = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    const { info } = await node.cri.rpc.containerStatus({ containerId: id, verbose: true });
    const found = read(info);
    assert.deepInclude(found, { sandboxID: pod.id, privileged: false } as unknown as Partial<Info>);
    assert.deepEqual(found.runtimeSpec.process.args, ['sleep', '1000']);
    assert.isTrue(found.runtimeSpec.process.env.some((entry) => entry.startsWith('PATH=')));
    assert.isTrue(existsSync(`/proc/${found.pid}`));

    const sandbox = await node.cri.rpc.podSandboxStatus({ podSandboxId: pod.id, verbose: true });
    const network = read(sandbox.info).runtimeSpec.linux.namespaces.find(({ type }) => type === 'network');
    assert.isTrue(existsSync(network?.path ?? ''), 'how people find the network of a pod');
    await node.cri.removePod(pod.id);
  });

  it('finds the configuration of the node with the names of CRI-O', async () => {
    const { info } = await node.cri.rpc.status({ verbose: true });
    const { crio } = JSON.parse(info['config'] ?? '') as { readonly crio: Record<string, unknown> };
    assert.include(crio, { CgroupManagerName: 'cgroupfs', DropInfraCtr: true });
    assert.isObject(crio['Runtimes']);
  });

  it('runs commands before the start, and with a terminal where the container has one', async () => {
    const pod = await node.cri.runPod();
    const command = ['sleep', '1000'];
    const created = await node.cri.createContainer(pod, IMAGE, { command });
    assert.deepEqual(await node.cri.exec(created, ['cat', '/proc/1/comm']).then(({ exitCode }) => exitCode), 0);
    await node.cri.rpc.startContainer({ containerId: created });
    const isTerminal = ['sh', '-c', 'test -t 1 && echo terminal || echo none'];
    assert.strictEqual((await node.cri.exec(created, isTerminal)).stdout, 'none\n');
    const terminal = await node.cri.runContainer(pod, IMAGE, { command, tty: true });
    assert.strictEqual((await node.cri.exec(terminal, isTerminal)).stdout, 'terminal\r\n');
    assert.strictEqual((await node.cri.exec(terminal, ['sh', '-c', 'exit 7'])).exitCode, 7);
    await node.cri.removePod(pod.id);
  });

  it('has no CPU quota, nor load balanced on its CPUs, where annotations say so and may', async () => {
    // On v2 CPUs are set apart all the way down, which is other people's.
    const balance: Record<string, string> = V2 ? {} : { 'cpu-load-balancing.crio.io/app': 'disable' };
    const annotations = { 'cpu-quota.crio.io': 'disable', ...balance };
    const quota = (path: string): string =>
      (cgroupFile(path, 'cpu', 'cpu.cfs_quota_us', 'cpu.max').split(' ')[0] ?? '').replace('max', '-1');
    await reconfigure(
      node,
      '[crio.runtime.runtimes.runc]\nallowed_annotations = ["cpu-quota.crio.io", "cpu-load-balancing.crio.io"]\n' +
        'exec_cpu_affinity = "first"\n',
    );
    const resources = { cpuShares: 1024n, cpuQuota: 100_000n, cpuPeriod: 100_000n, cpusetCpus: '0' };
    const pod = await node.cri.runPod({
      annotations,
      linux: {
        resources: { cpuQuota: 100_000n, cpuPeriod: 100_000n },
        securityContext: { namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } },
      },
    });
    const own = podCgroup('cgroupfs', pod.id);
    assert.strictEqual(quota(own), '100000');
    const id = await node.cri.runContainer(pod, IMAGE, {
      metadata: { name: 'app' },
      command: ['sleep', '1000'],
      linux: { resources },
    });
    const container = containerCgroup('cgroupfs', pod.id, id);
    assert.deepEqual([quota(own), quota(container)], ['-1', '-1']);
    if (!V2) assert.strictEqual(cgroupFile(container, 'cpuset', 'cpuset.sched_load_balance'), '0');
    await node.kill();
    await node.start();
    await node.cri.removePod(pod.id);
    // A pod that may not use them has what it asks for, and its log says so.
    await reconfigure(node, '');
    const other = await node.cri.runPod({ annotations });
    assert.include(node.log, 'not in the allowed_annotations');
    await node.cri.removePod(other.id);
  });

  it('reads its own logs in a volume, where an annotation says so', async () => {
    await reconfigure(node, '[crio.runtime.runtimes.runc]\nallowed_annotations = ["link-logs.crio.io"]\n');
    const uid = `uid-${process.pid}`;
    const pod = await node.cri.runPod({ metadata: { uid }, annotations: { 'link-logs.crio.io': 'logs' } });
    const volume = `/var/lib/kubelet/pods/${uid}/volumes/kubernetes.io~empty-dir/logs`;
    const id = await node.cri.runContainer(pod, IMAGE, {
      command: ['sh', '-c', 'echo told; exec sleep 1000'],
      logPath: 'app/0.log',
      mounts: [{ containerPath: '/logs', hostPath: volume }],
    });
    await waitFor(
      () => node.cri.exec(id, ['cat', `/logs/${id}.log`]),
      ({ stdout }) => stdout.includes('told'),
      'the log to be seen',
    );
    assert.notStrictEqual((await node.cri.exec(id, ['sh', '-c', 'echo x > /logs/x'])).exitCode, 0);
    assert.isFalse(existsSync(volume));
    await node.cri.removePod(pod.id);
  });
});
