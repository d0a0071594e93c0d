/** Pods in user namespaces of their own (KEP-127), seen from inside and from the node. */
import { assert } from 'chai';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Input, NamespaceOption } from '../../pkg/cri-api/types.ts';
import type { Pod } from './cri-client.ts';
import { TestNode } from './harness.ts';
import { busybox, dir, file } from './images.ts';
import { addImage, fails, host, idle, reconfigure, refusal, sh } from './inside.ts';
import { podCgroup } from './node-cgroups.ts';

const SUBORDINATE = ['/etc/subuid', '/etc/subgid'];

describe('user namespaces (KEP-127)', function () {
  this.timeout(60_000);
  const MAP = { hostId: 300_000, containerId: 0, length: 65_536 };
  const userns = (
    options: Partial<NamespaceOption> = {},
  ): {
    readonly network: 'POD';
    readonly pid: 'CONTAINER';
    readonly ipc: 'POD';
    readonly usernsOptions: { readonly mode: 'POD'; readonly uids: [typeof MAP]; readonly gids: [typeof MAP] };
  } => ({
    network: 'POD',
    pid: 'CONTAINER',
    ipc: 'POD',
    usernsOptions: { mode: 'POD', uids: [MAP], gids: [MAP] },
    ...(options as object),
  });
  const podOf = (
    options: Partial<NamespaceOption> = {},
  ): { readonly linux: { readonly securityContext: { readonly namespaceOptions: Input<NamespaceOption> } } } => ({
    linux: { securityContext: { namespaceOptions: userns(options) } },
  });

  describe('with crun, which has idmapped mounts', () => {
    let node: TestNode;
    before(async () => {
      node = await TestNode.boot({ runtime: 'crun' });
    });
    after(() => node.close());

    it('are advertised', async () => {
      const { runtimeHandlers } = await node.cri.rpc.status({});
      const byName = new Map(runtimeHandlers.map((each) => [each.name, each.features?.userNamespaces]));
      assert.deepEqual([byName.get(''), byName.get('crun'), byName.get('runc')], [true, true, false]);
    });

    it('make root of the container nobody on the node, with files that are its own', async () => {
      const image = await addImage(node, 'owned', {
        layers: [
          {
            files: [
              ...(await busybox()),
              dir('own', { uid: 0, gid: 0 }),
              file('own/file', 'x', { uid: 1000, gid: 1000, mode: 0o600 }),
            ],
            compression: 'none',
          },
        ],
        config: { Cmd: ['sleep', '1000'] },
      });
      const pod = await node.cri.runPod({ ...podOf(), hostname: 'inner' });
      const id = await idle(node, pod, { imageName: image, ...podOf(), workingDir: '/work' });
      assert.equal(
        await sh(
          node,
          id,
          'cat /proc/self/uid_map | tr -s " "; id -u; stat -c %u:%g / /own /own/file /work ' +
            '/etc/resolv.conf /etc/hosts /dev/shm',
        ),
        '0 300000 65536\n0\n0:0\n0:0\n1000:1000\n0:0\n0:0\n0:0\n0:0',
      );
      assert.equal(
        await sh(
          node,
          id,
          'echo more >> /own/new; stat -c %u /own/new; hostname; cat /etc/hostname; ip addr show lo | ' +
            'grep -c 127.0.0.1',
        ),
        '0\ninner\ninner\n1',
      );
      const pid = await hostPid(node, id);
      assert.match(await readFile(`/proc/${pid}/status`, 'utf8'), /^Uid:\t300000\t/m);
      assert.equal(
        host('readlink', `/proc/${pid}/ns/user`),
        host('stat', '-Lc', 'user:[%i]', join(node.dir, 'run/ns', pod.id, 'user')),
      );
      assert.isTrue(await fails(node, id, 'echo 1 > /proc/sys/kernel/hostname_of_nothing'));
      assert.equal(await sh(node, id, 'echo 5000 > /dev/shm/x; cat /dev/shm/x; ls /sys/class/net'), '5000\neth0\nlo');
      const two = await idle(node, pod, podOf());
      assert.equal(
        await sh(node, two, 'readlink /proc/self/ns/user'),
        await sh(node, id, 'readlink /proc/self/ns/user'),
      );
      await node.kill();
      await node.start();
      assert.equal(await sh(node, id, 'id -u'), '0');
      await idle(node, pod, podOf());
      await node.cri.removePod(pod.id);
    });

    it('get their ids by CRI-O’s annotation, where it is allowed', async () => {
      const refused = node.cri.runPod({ annotations: { 'userns-mode.crio.io': 'auto' } });
      await refusal(refused, 'allowed_annotations');
      const ids = join(node.dir, 'subordinate');
      await writeFile(ids, 'containers:700000:131072\n');
      // In the mount namespace of the tests.
      for (const file of SUBORDINATE) host('mount', '--bind', ids, file);
      try {
        await reconfigure(node, '[crio.runtime.runtimes.crun]\nallowed_annotations = ["userns-mode.crio.io"]\n');
        const pod = (annotation: string, mode: string): Promise<Pod> =>
          node.cri.runPod({ annotations: { [annotation]: mode } });
        const auto = await pod('userns-mode.crio.io', 'auto');
        const id = await idle(node, auto);
        assert.equal(await sh(node, id, 'tr -s " " < /proc/self/uid_map; id -u'), '0 700000 65536\n0');
        assert.match(await readFile(`/proc/${await hostPid(node, id)}/status`, 'utf8'), /^Uid:\t700000\t/m);
        const other = await pod('io.kubernetes.cri-o.userns-mode', 'auto:size=1000');
        assert.equal(await sh(node, await idle(node, other), 'tr -s " " < /proc/self/gid_map'), '0 765536 1000');
        await refusal(pod('userns-mode.crio.io', 'auto:keep-id=true;map-to-root=true'), 'exclude each other');
        await refusal(pod('userns-mode.crio.io', 'auto'), '/etc/subuid');
        await node.cri.removePod(auto.id);
        const keeps = await node.cri.runPod({
          annotations: { 'userns-mode.crio.io': 'auto:size=2000;keep-id=true' },
          linux: {
            securityContext: {
              runAsUser: { value: 1234n },
              runAsGroup: { value: 1234n },
              namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' },
            },
          },
        });
        const kept = await idle(node, keeps, { linux: { securityContext: { runAsUser: { value: 1234n } } } });
        assert.equal(
          await sh(node, kept, 'tr -s " " < /proc/self/uid_map | sed "s/^ //"; id -u'),
          '0 700000 1234\n1235 701234 765\n1234 1234 1\n1234',
        );
        assert.match(await readFile(`/proc/${await hostPid(node, kept)}/status`, 'utf8'), /^Uid:\t1234\t/m);
        await node.cri.removePod(other.id);
        await node.cri.removePod(keeps.id);
      } finally {
        for (const file of SUBORDINATE) host('umount', file);
      }
    });

    it('show volumes with the ids that they have on the node', async () => {
      const source = join(node.dir, 'volume');
      await mkdir(source);
      await writeFile(join(source, 'mine'), 'x', { mode: 0o600 });
      const data = await addImage(node, 'data-userns', {
        layers: [
          { files: [dir('d', { uid: 5, gid: 6 }), file('d/f', 'data', { uid: 5, gid: 6 })], compression: 'none' },
        ],
      });
      const pod = await node.cri.runPod(podOf());
      const id = await idle(node, pod, {
        ...podOf(),
        mounts: [
          { containerPath: '/v', hostPath: source, uidMappings: [MAP], gidMappings: [MAP] },
          { containerPath: '/i', readonly: true, image: { image: data }, uidMappings: [MAP], gidMappings: [MAP] },
        ],
      });
      assert.equal(
        await sh(node, id, 'stat -c %u /v/mine; cat /v/mine; echo new > /v/new; stat -c %u:%g /i/d/f; cat /i/d/f'),
        '0\nx5:6\ndata',
      );
      assert.equal(host('stat', '-c', '%u', join(source, 'new')).trim(), '0', 'not the mapped id');
      await node.cri.removePod(pod.id);
    });

    it('CVE-2025-47291: serve a pod with a shared PID namespace, and its limits hold', async () => {
      const pod = await node.cri.runPod(podOf({ pid: 'POD' }));
      const id = await idle(node, pod, {
        linux: { ...podOf({ pid: 'POD' }).linux, resources: { memoryLimitInBytes: 64n << 20n } },
      });
      assert.match(await sh(node, id, 'ps'), /1 root .*\/pause/);
      const cgroup = await readFile(`/proc/${await hostPid(node, id)}/cgroup`, 'utf8');
      assert.include(cgroup, `${podCgroup(node.driver, pod.id)}/`);
      assert.equal(
        await sh(
          node,
          id,
          'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true',
        ),
        String(64 << 20),
      );
      await node.cri.removePod(pod.id);
    });

    it('can go with the network of the node, where that is advertised', async () => {
      const { features } = await node.cri.rpc.status({});
      const attempt = async (): Promise<string> => {
        const pod = await node.cri.runPod(podOf({ network: 'NODE' }));
        const id = await idle(node, pod, podOf({ network: 'NODE' }));
        const seen = await sh(
          node,
          id,
          'readlink /proc/self/ns/net; echo $(cat /proc/self/uid_map); ls /sys/class/net | grep -c lo',
        );
        await node.cri.removePod(pod.id);
        return seen;
      };
      if (features?.userNamespacesHostNetwork === true)
        assert.equal(await attempt(), `${host('readlink', '/proc/self/ns/net').trim()}\n0 300000 65536\n1`);
      else await refusal(attempt(), 'network of the node');
    });

    it('refuse ids that are not mapped and maps that make no sense', async () => {
      const pod = await node.cri.runPod(podOf());
      await refusal(
        idle(node, pod, {
          linux: { securityContext: { ...podOf().linux.securityContext, runAsUser: { value: 70_000n } } },
        }),
        'not mapped',
      );
      const bad = (uids: object[], gids: object[], mode = 'POD'): Promise<unknown> =>
        node.cri.runPod({
          linux: {
            securityContext: {
              namespaceOptions: {
                network: 'POD',
                pid: 'CONTAINER',
                ipc: 'POD',
                usernsOptions: { mode: mode as 'POD', uids: uids as [typeof MAP], gids: gids as [typeof MAP] },
              },
            },
          },
        });
      await refusal(bad([], []), 'exactly one');
      await refusal(bad([MAP, MAP], [MAP]), 'exactly one');
      await refusal(bad([{ ...MAP, containerId: 1 }], [MAP]), 'container id 0');
      await refusal(bad([MAP], [MAP], 'CONTAINER'), 'userns_options.mode');
      await node.cri.removePod(pod.id);
    });
  });

  it('are refused by a runtime without idmapped mounts, before anything of the pod exists', async () => {
    const node = await TestNode.boot({ runtime: 'runc' });
    await refusal(node.cri.runPod(podOf()), /runc 1\.1.*idmapped mounts/);
    assert.deepEqual((await node.cri.rpc.listPodSandbox()).items, []);
    await node.close();
  });
});

/** The first process of a container, as the node numbers it. */
async function hostPid(node: TestNode, id: string): Promise<number> {
  const { info } = await node.cri.rpc.containerStatus({ containerId: id, verbose: true });
  return (JSON.parse(info['info'] ?? '{}') as { readonly pid: number }).pid;
}
