/**
 * Bad inputs about who a container's process is and what it may do, each named by the incident that it comes from:
 * rejected, or harmless.
 */
import { assert } from 'chai';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { TestNode } from './harness.ts';
import { busybox, device, dir, fifo, file, symlink as link } from './images.ts';
import { addImage, fails, host, idle, procStatus, refusal, sh } from './inside.ts';
import { RUNTIMES, secured } from './container-ground.ts';
import { withFiles } from './security-ground.ts';

const MiB = 1 << 20;

for (const runtime of RUNTIMES) {
  describe(`hostile identities and capabilities with ${runtime}`, function () {
    this.timeout(120_000);
    let node: TestNode;
    before(async () => {
      node = await TestNode.boot({ runtime });
    });
    after(() => node.close());
    afterEach(() => node.clear());

    describe('identity', () => {
      it('CVE-2022-4318: HOME cannot forge a line of /etc/passwd', async () => {
        const pod = await node.cri.runPod();
        for (const home of ['/root\nroot2:x:0:0::/:/bin/sh', '/x:0:0', '/a\r\nb:x:0:0::/:/bin/sh']) {
          await refusal(
            idle(node, pod, {
              envs: [{ key: 'HOME', value: Buffer.from(home) }],
              ...secured({ runAsUser: { value: 4321n } }),
            }),
            'HOME',
          );
        }
        await node.cri.removePod(pod.id);
      });

      it('CVE-2025-4437: /etc/passwd of 10 GiB is not read', async () => {
        const image = await addImage(
          node,
          'huge',
          await withFiles(file('etc/passwd', 'root:x:0:0::/:/bin/sh\n'), file('huge-marker', runtime)),
        );
        for (const layer of readdirSync(join(node.dir, 'root/layers'))) {
          const path = join(node.dir, 'root/layers', layer, 'fs/etc/passwd');
          if (existsSync(join(node.dir, 'root/layers', layer, 'fs/huge-marker'))) await truncate(path, 10 * 1024 * MiB);
        }
        const pod = await node.cri.runPod();
        const started = performance.now();
        await refusal(idle(node, pod, { imageName: image }), /etc\/passwd.*larger than/);
        assert.isBelow(performance.now() - started, 5_000);
        await node.cri.removePod(pod.id);
      });

      it('CVE-2026-47262: a group file that is no file blocks nothing', async () => {
        const pod = await node.cri.runPod();
        for (const [name, entry] of [
          ['fifo', fifo('etc/group')],
          ['zero', device('etc/group', 'char', 1, 5)],
          ['directory', dir('etc/group')],
        ] as const) {
          const image = await addImage(node, `group-${name}`, await withFiles(entry));
          const started = performance.now();
          await refusal(
            idle(node, pod, { imageName: image, ...secured({ runAsUser: { value: 1000n } }) }),
            'etc/group',
          );
          assert.isBelow(performance.now() - started, 5_000, name);
        }
        // runc reads these files itself, in the running container: what leads nowhere in the image may lead to
        // something without end there.
        const etc = (await busybox()).filter(({ path }) => !path.startsWith('etc'));
        for (const [index, layer] of [
          (await withFiles(link('etc/group', '/dev/zero'))).layers[0].files,
          (await withFiles(link('etc/passwd', '/proc/self/root/dev/zero'))).layers[0].files,
          (
            await withFiles(
              link('etc/group', '/dev/zero'),
              file('dev/zero', 'a file in the image, a device in the container'),
            )
          ).layers[0].files,
          [...etc, link('etc', '/proc/self/root/evil'), dir('evil'), fifo('evil/group'), fifo('evil/passwd')],
        ].entries()) {
          const image = await addImage(node, `group-link-${index}`, {
            layers: [{ files: layer, compression: 'none' }],
            config: { Cmd: ['sleep', '1000'] },
          });
          const started = performance.now();
          await refusal(
            idle(node, pod, { imageName: image, ...secured({ runAsUser: { value: 1000n } }) }),
            /etc.*symlink/,
          );
          assert.isBelow(performance.now() - started, 5_000);
        }
        await node.cri.removePod(pod.id);
      });

      it('CVE-2026-47262, GHSA-jpcc-p29g-p8mq: nor does one that is mounted over it', async () => {
        const volume = join(node.dir, 'identity');
        await mkdir(volume);
        host('mkfifo', join(volume, 'group'));
        const pod = await node.cri.runPod();
        for (const containerPath of ['/etc/passwd', '/etc/group', '/etc/../etc//group']) {
          for (const hostPath of [join(volume, 'group'), '/dev/zero']) {
            const started = performance.now();
            await refusal(
              idle(node, pod, { mounts: [{ containerPath, hostPath }], ...secured({ runAsUser: { value: 1000n } }) }),
              'where runtimes read users and groups',
            );
            assert.isBelow(performance.now() - started, 5_000);
          }
        }
        const started = performance.now();
        await refusal(
          idle(node, pod, { mounts: [{ containerPath: '/etc/', hostPath: volume }] }),
          join(volume, 'group'),
        );
        assert.isBelow(performance.now() - started, 5_000);
        await node.cri.removePod(pod.id);
      });

      it('CVE-2024-9676: users are looked up in the root, never through it', async () => {
        const pod = await node.cri.runPod();
        const name =
          readFileSync('/etc/passwd', 'utf8')
            .split('\n')
            .map((line) => line.split(':')[0] ?? '')
            .find((each) => each !== 'root' && each !== 'nobody' && each !== 'www-data') ?? 'daemon';
        for (const target of [
          '/proc/1/root/etc/passwd',
          '../../../../../../../../etc/passwd-of-host',
          `/${'../'.repeat(10)}proc/self/root/etc/passwd`,
        ]) {
          const image = await addImage(node, `lookup-${target.length}`, await withFiles(link('etc/passwd', target)));
          await refusal(
            idle(node, pod, { imageName: image, ...secured({ runAsUsername: name }) }),
            new RegExp(`symlink|${name}`),
          );
        }
        await node.cri.removePod(pod.id);
      });

      it('CVE-2024-40635: no id above 2^31-1 becomes root', async () => {
        const pod = await node.cri.runPod();
        for (const [index, user] of [
          '4294967296',
          '2147483648:2147483648',
          '-1',
          '0:4294967296',
          '99999999999999999999',
          '1000:-5',
        ].entries()) {
          const image = await addImage(node, `user-${index}`, {
            ...(await withFiles()),
            config: { Cmd: ['sleep', '1000'], User: user },
          });
          await refusal(idle(node, pod, { imageName: image }), 'out of range');
        }
        await refusal(idle(node, pod, secured({ runAsUser: { value: 4_294_967_296n } })), 'run_as_user');
        await refusal(idle(node, pod, secured({ runAsUser: { value: -1n } })), 'run_as_user');
        await refusal(idle(node, pod, secured({ supplementalGroups: [2_147_483_648n] })), 'supplemental_groups');
        await node.cri.removePod(pod.id);
      });

      it('CVE-2022-2995, CVE-2023-25173: the primary group is among the supplementary ones', async () => {
        const image = await addImage(node, 'negative-group', {
          ...(await withFiles(file('secret', 'for others, not for group 1000\n', { gid: 1000, mode: 0o604 }))),
          config: { Cmd: ['sleep', '1000'], User: '33:1000' },
        });
        const pod = await node.cri.runPod();
        for (const config of [
          {},
          secured({ runAsUser: { value: 33n }, runAsGroup: { value: 1000n } }),
          secured({
            runAsUser: { value: 33n },
            runAsGroup: { value: 1000n },
            supplementalGroups: [5n],
            supplementalGroupsPolicy: 'Strict',
          }),
        ]) {
          const id = await idle(node, pod, { imageName: image, ...config });
          assert.include((await sh(node, id, 'id -G')).split(' '), '1000');
          assert.include((await procStatus(node, id, 'Groups')).split(/\s+/), '1000');
          assert.isTrue(await fails(node, id, 'cat /secret'), 'also when the process drops its primary group');
        }
        await node.cri.removePod(pod.id);
      });
    });

    describe('capabilities', () => {
      it('CVE-2022-24769, CVE-2022-27652: none is inheritable', async () => {
        const pod = await node.cri.runPod();
        for (const config of [
          {},
          secured({ capabilities: { addCapabilities: ['ALL'] } }),
          secured({ runAsUser: { value: 1000n } }),
        ]) {
          const id = await idle(node, pod, config);
          assert.equal(
            await sh(node, id, 'grep CapInh /proc/1/status /proc/self/status | grep -vc 0000000000000000; true'),
            '0',
          );
        }
        await node.cri.removePod(pod.id);
      });

      it('CVE-2018-1000400: none is ambient, and a user without root has none in effect', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(
          node,
          pod,
          secured({ runAsUser: { value: 1000n }, capabilities: { addCapabilities: ['NET_ADMIN'] } }),
        );
        for (const pid of ['1', 'self'])
          assert.deepEqual(
            [await procStatus(node, id, 'CapAmb', pid), await procStatus(node, id, 'CapEff', pid)],
            ['0000000000000000', '0000000000000000'],
          );
        await node.cri.removePod(pod.id);
      });
    });
  });
}
