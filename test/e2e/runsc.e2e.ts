/**
 * gVisor (Debian's runsc) as a handler: what is different because each container has a kernel of its own, and what it
 * cannot do, each with the answer that asking for it gets. What it does like runc and crun is in pod.e2e.ts,
 * stream.e2e.ts and runtime.e2e.ts. The list for operators: docs/RUNTIMES.md.
 */
import { assert } from 'chai';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Input, LinuxContainerSecurityContext, NamespaceOption } from '../../pkg/cri-api/types.ts';
import { type Pod, waitFor } from './cri-client.ts';
import { IMAGE, logLines, TestNode } from './harness.ts';
import { host, idle, procStatus, refusal, sh } from './inside.ts';

const MiB = 1024n * 1024n;
const secured = (
  security: Input<LinuxContainerSecurityContext>,
): { readonly linux: { readonly securityContext: Input<LinuxContainerSecurityContext> } } => ({
  linux: { securityContext: security },
});
const namespaces = (
  options: Partial<NamespaceOption>,
): { readonly linux: { readonly securityContext: { readonly namespaceOptions: Input<NamespaceOption> } } } => ({
  linux: { securityContext: { namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD', ...options } } },
});

describe('gVisor (runsc)', function () {
  this.timeout(120_000);
  let node: TestNode;
  let pod: Pod;
  before(async () => {
    node = await TestNode.boot({ runtime: 'runsc' });
  });
  after(() => node.close());
  beforeEach(async () => {
    pod = await node.cri.runPod({ hostname: 'sandboxed' });
  });
  afterEach(() => node.clear());

  it('has a kernel of its own, which knows the name of the pod', async () => {
    const id = await idle(node, pod);
    assert.include(await sh(node, id, 'dmesg'), 'gVisor');
    assert.equal(await sh(node, id, 'hostname; cat /etc/hostname'), 'sandboxed\nsandboxed');
    const { runtimeHandlers } = await node.cri.rpc.status({ verbose: false });
    assert.deepEqual(runtimeHandlers.find(({ name }) => name === 'runsc')?.features, {
      recursiveReadOnlyMounts: false,
      userNamespaces: false,
    });
  });

  it('shares loopback, addresses, /dev/shm and volumes with the containers of its pod', async () => {
    const volume = join(node.dir, 'volume');
    await mkdir(volume, { recursive: true });
    const mounts = [{ containerPath: '/v', hostPath: volume }];
    await node.cri.runContainer(pod, IMAGE, {
      command: [
        'sh',
        '-c',
        'echo note > /dev/shm/note; echo file > /v/file; while :; do echo over-loopback | nc -l -p 8080; done',
      ],
      mounts,
    });
    const id = await idle(node, pod, { mounts });
    assert.equal(await sh(node, id, 'until nc 127.0.0.1 8080; do sleep 0.05; done'), 'over-loopback');
    assert.equal(await sh(node, id, 'cat /dev/shm/note /v/file'), 'note\nfile');
    assert.include(await sh(node, id, 'ip -4 addr show eth0'), (await node.cri.pod(pod.id)).network?.ip ?? '');
  });

  it('is given the capabilities that it knows, for ALL and for privileged', async () => {
    const all = await procStatus(
      node,
      await idle(node, pod, secured({ capabilities: { addCapabilities: ['ALL'] } })),
      'CapEff',
    );
    assert.notEqual(BigInt(`0x${all}`) & (1n << 21n), 0n, 'CAP_SYS_ADMIN');
    const open = await node.cri.runPod({
      linux: {
        securityContext: { privileged: true, namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } },
      },
    });
    assert.equal(await procStatus(node, await idle(node, open, secured({ privileged: true })), 'CapEff'), all);
  });

  it('has no process left of a command whose time is up', async () => {
    const id = await idle(node, pod);
    const error = await refusal(
      node.cri.rpc.execSync({ containerId: id, cmd: ['sh', '-c', 'sleep 31416 & sleep 27183; true'], timeout: 1n }),
      '',
    );
    assert.equal(error.code, 4, error.message);
    assert.notMatch(await sh(node, id, 'ps -o stat,args'), /^[^Z]+sleep (31416|27183)/m);
  });

  it('is counted and limited by its cgroup', async () => {
    const id = await idle(node, pod, {
      command: ['sh', '-c', 'while :; do :; done'],
      linux: { resources: { memoryLimitInBytes: 256n * MiB } },
    });
    const stats = await waitFor(
      async () => (await node.cri.rpc.containerStats({ containerId: id })).stats,
      (found) => (found?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 300_000_000n,
      'processor time',
    );
    assert.isTrue((stats?.memory?.workingSetBytes?.value ?? 0n) > MiB);
    assert.isTrue((stats?.memory?.availableBytes?.value ?? 0n) < 256n * MiB);
    const greedy = await node.cri.runContainer(pod, IMAGE, {
      command: ['sh', '-c', 'busybox dd if=/dev/zero of=/dev/null bs=200M'],
      linux: { resources: { memoryLimitInBytes: 64n * MiB } },
    });
    const end = await node.cri.waitForContainer(greedy, 'CONTAINER_EXITED');
    assert.deepEqual([end.reason, end.exitCode], ['OOMKilled', 137]);
  });

  it('goes on when the daemon is killed, and ends with its own code', async () => {
    const volume = join(node.dir, 'signals');
    await mkdir(volume, { recursive: true });
    const mounts = [{ containerPath: '/v', hostPath: volume }];
    const lasting = await node.cri.runContainer(pod, IMAGE, {
      command: ['sh', '-c', 'trap "exit 6" TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done'],
    });
    const ending = await node.cri.runContainer(pod, IMAGE, {
      command: ['sh', '-c', 'until [ -e /v/go ]; do sleep 0.05; done; exit 41'],
      mounts,
    });
    await node.kill();
    await writeFile(join(volume, 'go'), '');
    await node.start();
    assert.equal((await node.cri.waitForContainer(ending, 'CONTAINER_EXITED')).exitCode, 41);
    const { state, logPath } = await node.cri.container(lasting);
    assert.equal(state, 'CONTAINER_RUNNING');
    assert.equal((await node.cri.exec(lasting, ['echo', 'alive'])).stdout, 'alive\n');
    await node.cri.rpc.stopContainer({ containerId: lasting, timeout: 30n });
    assert.equal((await node.cri.container(lasting)).exitCode, 6);
    const lines = await logLines(logPath);
    assert.deepEqual(
      lines,
      lines.map((_, i) => `stdout F line ${i}`),
    );
  });

  describe('cannot, and says so:', () => {
    it('show processes of others (shareProcessNamespace, hostPID, targets of debug containers)', async () => {
      for (const pid of ['POD', 'NODE'] as const)
        await refusal(node.cri.runPod(namespaces({ pid })), `namespace_options.pid is ${pid}`);
      const target = await idle(node, pod);
      const error = await refusal(
        node.cri.createContainer(pod, IMAGE, namespaces({ pid: 'TARGET', targetId: target })),
        'kernel of its own',
      );
      assert.include(error.message, 'runsc');
    });

    it('change limits of a container: it has no update', async () => {
      const id = await idle(node, pod, { linux: { resources: { cpuShares: 512n } } });
      const error = await refusal(
        node.cri.rpc.updateContainerResources({ containerId: id, linux: { cpuShares: 256n } }),
        'runsc has no such command',
      );
      assert.equal(error.code, 12);
      assert.equal((await node.cri.container(id)).resources?.linux?.cpuShares, 512n);
    });

    it('have a user namespace, or mount read-only all the way down', async () => {
      const map = [{ hostId: 100_000, containerId: 0, length: 65_536 }];
      await refusal(
        node.cri.runPod(namespaces({ usernsOptions: { mode: 'POD', uids: map, gids: map } as never })),
        'user namespace',
      );
      const error = await refusal(
        idle(node, pod, {
          mounts: [{ containerPath: '/m', hostPath: '/usr/lib/cni', readonly: true, recursiveReadOnly: true }],
        }),
        'recursive read-only',
      );
      assert.include(error.message, 'RROUnsupported');
    });

    it('pass mounts on to the node (Bidirectional)', async () => {
      const shared = join(node.dir, 'shared');
      await mkdir(shared);
      host('mount', '-t', 'tmpfs', 'tmpfs', shared);
      try {
        host('mount', '--make-shared', shared);
        await refusal(
          idle(node, pod, {
            mounts: [{ containerPath: '/m', hostPath: shared, propagation: 'PROPAGATION_BIDIRECTIONAL' }],
          }),
          'runsc could not create',
        );
      } finally {
        host('umount', shared);
      }
    });
  });
});
