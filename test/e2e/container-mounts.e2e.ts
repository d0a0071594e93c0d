/** What is mounted into a container and which devices it has, with runc and crun. */
import { assert } from 'chai';
import { existsSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';
import { busybox, dir, file, symlink as link } from './images.ts';
import { addImage, fails, host, idle, IDLE, mountAt, refusal, sh } from './inside.ts';
import { RUNTIMES, secured } from './container-ground.ts';

for (const runtime of RUNTIMES) {
  describe(`mounts and devices with ${runtime}`, function () {
    this.timeout(60_000);
    let node: TestNode;
    before(async () => {
      node = await TestNode.boot({ runtime });
    });
    after(() => node.close());

    it("of a container on the node's network let it write nothing of the node's, as /etc/hosts", async () => {
      const hosts = join(node.dir, 'hosts');
      await writeFile(hosts, '192.0.2.7 node-of-test\n');
      // In our own mount namespace: the machine's is not ours to lose.
      host('mount', '--bind', hosts, '/etc/hosts');
      try {
        const pod = await node.cri.runPod({
          linux: { securityContext: { namespaceOptions: { network: 'NODE', pid: 'CONTAINER', ipc: 'POD' } } },
        });
        const id = await idle(node, pod, secured({ namespaceOptions: { network: 'NODE', pid: 'CONTAINER' } }));
        assert.equal(await sh(node, id, 'cat /etc/hosts'), '192.0.2.7 node-of-test');
        for (const name of ['hosts', 'resolv.conf', 'hostname']) await sh(node, id, `echo evil >> /etc/${name}`);
        assert.equal(await readFile(hosts, 'utf8'), '192.0.2.7 node-of-test\n');
        const { mounts } = JSON.parse(await readFile(join(node.dir, 'run/containers', id, 'config.json'), 'utf8')) as {
          readonly mounts: readonly { readonly type: string; readonly source: string; readonly options: string[] }[];
        };
        const foreign = mounts
          .filter(({ type, source }) => type === 'bind' && !source.startsWith(`${node.dir}/`))
          .filter(({ options }) => !options.includes('ro') && !options.includes('rro'));
        assert.deepEqual(foreign, [], "nothing of the node's can be written");
        await node.cri.removePod(pod.id);
      } finally {
        host('umount', '/etc/hosts');
      }
    });

    describe('mounts', () => {
      let source: string;
      before(async () => {
        source = join(node.dir, 'volume');
        await mkdir(join(source, 'below'), { recursive: true });
        await writeFile(join(source, 'file'), 'content\n');
        host('mount', '--bind', source, source);
        host('mount', '--make-shared', source);
        host('mount', '-t', 'tmpfs', 'tmpfs', join(source, 'below'));
      });
      after(() => {
        host('umount', '-R', source);
      });

      it('are read-write or read-only as asked, with the options asked for', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, {
          mounts: [
            { containerPath: '/rw', hostPath: source },
            { containerPath: '/ro', hostPath: source, readonly: true },
            { containerPath: '/rw/nested', hostPath: source, mountOptions: ['noexec', 'nodev', 'nosuid'] },
            { containerPath: '/one', hostPath: join(source, 'file') },
          ],
        });
        assert.equal(await sh(node, id, 'echo x > /rw/by-container; cat /ro/by-container /one'), 'x\ncontent');
        assert.isTrue(await fails(node, id, 'touch /ro/x'));
        assert.isFalse(await fails(node, id, 'touch /ro/below/x'), 'readonly is not recursive (CRI)');
        assert.match(await mountAt(node, id, '/rw/nested'), /rw,.*nosuid,nodev,noexec/);
        const { mounts } = await node.cri.container(id);
        assert.deepEqual(
          mounts.map((mount) => mount.containerPath),
          ['/rw', '/ro', '/rw/nested', '/one'],
        );
        await refusal(
          idle(node, pod, { mounts: [{ containerPath: '/rw', hostPath: source, mountOptions: ['suid'] }] }),
          'suid',
        );
        await node.cri.removePod(pod.id);
      });

      it('follow the node and are seen by it as their propagation says', async () => {
        const pod = await node.cri.runPod({
          linux: { securityContext: { privileged: true, namespaceOptions: { pid: 'CONTAINER' } } },
        });
        const id = await idle(node, pod, {
          ...secured({ privileged: true }),
          mounts: [
            { containerPath: '/private', hostPath: source, propagation: 'PROPAGATION_PRIVATE' },
            { containerPath: '/slave', hostPath: source, propagation: 'PROPAGATION_HOST_TO_CONTAINER' },
            { containerPath: '/shared', hostPath: source, propagation: 'PROPAGATION_BIDIRECTIONAL' },
          ],
        });
        await mkdir(join(source, 'late'), { recursive: true });
        await mkdir(join(source, 'back'), { recursive: true });
        host('mount', '-t', 'tmpfs', 'tmpfs', join(source, 'late'));
        assert.deepEqual(
          [
            await mountAt(node, id, '/private/late'),
            (await mountAt(node, id, '/slave/late')) !== '',
            (await mountAt(node, id, '/shared/late')) !== '',
          ],
          ['', true, true],
        );
        await sh(node, id, 'busybox mount -t tmpfs tmpfs /slave/back');
        assert.notInclude(await readFile('/proc/self/mounts', 'utf8'), join(source, 'back'));
        await sh(node, id, 'busybox mount -t tmpfs tmpfs /shared/back');
        assert.include(await readFile('/proc/self/mounts', 'utf8'), join(source, 'back'));
        host('umount', join(source, 'back'));
        host('umount', join(source, 'late'));
        await refusal(
          idle(node, pod, {
            mounts: [{ containerPath: '/x', hostPath: node.dir, propagation: 'PROPAGATION_BIDIRECTIONAL' }],
          }),
          'make-rshared',
        );
        await node.cri.removePod(pod.id);
      });

      it('are read-only all the way down with recursive_read_only, where the runtime can', async () => {
        const pod = await node.cri.runPod();
        const mounts = [{ containerPath: '/rro', hostPath: source, readonly: true, recursiveReadOnly: true }];
        const { runtimeHandlers } = await node.cri.rpc.status({});
        if (runtimeHandlers.find((each) => each.name === runtime)?.features?.recursiveReadOnlyMounts === true) {
          const id = await idle(node, pod, { mounts });
          assert.isTrue(await fails(node, id, 'touch /rro/x'));
          assert.isTrue(await fails(node, id, 'touch /rro/below/x'));
          assert.isTrue((await node.cri.container(id)).mounts[0]?.recursiveReadOnly);
        } else await refusal(idle(node, pod, { mounts }), /^RROUnsupported/);
        await refusal(idle(node, pod, { mounts: [{ ...mounts[0], readonly: false }] }), 'recursive_read_only');
        await node.cri.removePod(pod.id);
      });

      it('land inside the root, whatever symlinks the image has', async () => {
        const trap = await addImage(node, 'links', {
          layers: [
            {
              files: [...(await busybox()), link('escape', '/../../../../..'), link('here', '/real'), dir('real')],
              compression: 'none',
            },
          ],
          config: { Cmd: ['sleep', '1000'] },
        });
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, {
          imageName: trap,
          mounts: [
            { containerPath: '/here', hostPath: source },
            { containerPath: `/escape${node.dir}/made`, hostPath: source },
          ],
        });
        assert.equal(await sh(node, id, 'cat /real/file'), 'content');
        assert.isFalse(existsSync(join(node.dir, 'made')));
        await node.cri.removePod(pod.id);
      });

      it('make a missing source, or refuse it where the configuration says so', async () => {
        const pod = await node.cri.runPod();
        const missing = join(node.dir, 'made/for/you');
        const id = await idle(node, pod, { mounts: [{ containerPath: '/m', hostPath: missing }] });
        assert.isTrue(existsSync(missing));
        await sh(node, id, 'ls /m');
        await refusal(idle(node, pod, { mounts: [{ containerPath: '/', hostPath: source }] }), 'root itself');
        await node.cri.removePod(pod.id);
      });
    });

    describe('image volumes', () => {
      let data: string;
      before(async () => {
        data = await addImage(node, 'data', {
          layers: [
            {
              files: [
                dir('models', { mode: 0o750 }),
                file('models/weights', 'W'),
                file('models/run', '#!/bin/sh\necho ran\n', { mode: 0o755 }),
                dir('models/small'),
                file('models/small/w', 'w'),
                link('models/out', '/../../../../etc'),
              ],
              compression: 'none',
            },
          ],
        });
      });

      it('are mounted read-only, whole or a part of them, and hold their image', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, {
          mounts: [
            { containerPath: '/all', readonly: true, image: { image: data } },
            { containerPath: '/part', readonly: true, image: { image: data }, imageSubPath: 'models/small' },
          ],
        });
        assert.equal(await sh(node, id, 'cat /all/models/weights /part/w; stat -c %a /all/models'), 'Ww750');
        assert.isTrue(await fails(node, id, 'touch /all/x'));
        assert.match(await mountAt(node, id, '/all'), /ro,nosuid,nodev,relatime/);
        assert.equal(await sh(node, id, '/all/models/run'), 'ran');
        const status = await node.cri.container(id);
        const { image: volumeImage } = await node.cri.rpc.imageStatus({ image: { image: data } });
        assert.equal(status.mounts[0]?.image?.image, volumeImage?.id, 'which the kubelet keeps from its collector');
        assert.match(status.mounts[0]?.image?.imageRef ?? '', /sha256:[0-9a-f]{64}$/);
        await refusal(node.cri.rpc.removeImage({ image: { image: data } }), 'used');
        await node.kill();
        await node.start();
        assert.equal(await sh(node, id, 'cat /part/w'), 'w');
        await refusal(node.cri.rpc.removeImage({ image: { image: data } }), 'used');
        await node.cri.removePod(pod.id);
      });

      it('refuse what cannot be, with the reason that the kubelet looks for', async () => {
        const pod = await node.cri.runPod();
        const attempt = (mount: object): Promise<string> =>
          node.cri.createContainer(pod, IMAGE, {
            mounts: [{ containerPath: '/v', readonly: true, image: { image: data }, ...mount }],
          });
        await refusal(attempt({ image: { image: 'localhost/no/such:1' } }), /^ImageVolumeMountFailed/);
        await refusal(attempt({ imageSubPath: 'models/none' }), /^ImageVolumeMountFailed.*does not exist/);
        await refusal(attempt({ readonly: false }), 'read-only');
        await refusal(attempt({ hostPath: '/tmp' }), 'host_path');
        await node.cri.removePod(pod.id);
      });
    });

    describe('devices', () => {
      it('are there with their rules: one, a link, a directory', async () => {
        await mkdir(join(node.dir, 'devices'), { recursive: true });
        await symlink('/dev/zero', join(node.dir, 'link'));
        host('mknod', '-m', '0640', join(node.dir, 'devices/a'), 'c', '1', '5');
        host('mknod', join(node.dir, 'devices/b'), 'c', '1', '3');
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, {
          devices: [
            { hostPath: '/dev/kmsg', containerPath: '/dev/log-of-node', permissions: 'r' },
            { hostPath: join(node.dir, 'link'), containerPath: '/dev/nothing', permissions: 'rwm' },
            { hostPath: join(node.dir, 'devices'), containerPath: '/dev/many', permissions: '' },
          ],
        });
        assert.equal(
          await sh(
            node,
            id,
            'stat -c "%t:%T" /dev/log-of-node /dev/nothing /dev/many/a /dev/many/b; stat -c %a /dev/many/a',
          ),
          '1:b\n1:5\n1:5\n1:3\n640',
        );
        assert.equal(await sh(node, id, 'dd if=/dev/many/a bs=1 count=1 2>/dev/null | od -An -tx1'), '00');
        assert.isTrue(await fails(node, id, 'echo x > /dev/log-of-node'), 'only to be read');
        assert.isTrue(await fails(node, await idle(node, pod), 'test -e /dev/kmsg'));
        await refusal(
          idle(node, pod, { devices: [{ hostPath: '/etc/passwd', containerPath: '/dev/x', permissions: 'r' }] }),
          '/etc/passwd',
        );
        await refusal(
          idle(node, pod, { devices: [{ hostPath: '/dev/zero', containerPath: '/dev/x', permissions: 'rx' }] }),
          'permissions',
        );
        await node.cri.removePod(pod.id);
      });
    });

    it('reports what it was asked for, unchanged', async () => {
      const pod = await node.cri.runPod();
      const labels: Record<string, string> = { a: '1', 'io.kubernetes.container.name': 'c' };
      const annotations: Record<string, string> = { constructor: 'x', 'ä/ö': '=\n,' };
      const id = await node.cri.createContainer(pod, IMAGE, { command: IDLE, labels, annotations });
      const status = await node.cri.container(id);
      assert.deepEqual({ ...status.labels }, labels);
      assert.deepEqual({ ...status.annotations }, annotations);
      await waitFor(
        () => node.cri.container(id),
        (each) => each.state === 'CONTAINER_CREATED',
        'it to stay created',
      );
      await node.cri.removePod(pod.id);
    });
  });
}
