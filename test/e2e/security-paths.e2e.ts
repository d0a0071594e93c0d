/**
 * Bad inputs whose paths, annotations or labels want to lead out of a container, each named by the incident that it
 * comes from: rejected, or harmless.
 */
import { assert } from 'chai';
import { chmodSync, chownSync, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor } from './cri-client.ts';
import { IMAGE, logLines, TestNode } from './harness.ts';
import { busybox, dir, file, symlink as link } from './images.ts';
import { addImage, fails, idle, IDLE, procStatus, reconfigure, refusal, sh } from './inside.ts';
import { RUNTIMES, secured } from './container-ground.ts';
import { specOf, withFiles } from './security-ground.ts';

for (const runtime of RUNTIMES) {
  describe(`hostile paths and annotations with ${runtime}`, function () {
    this.timeout(120_000);
    let node: TestNode;
    before(async () => {
      node = await TestNode.boot({ runtime });
    });
    after(() => node.close());
    afterEach(() => node.clear());

    describe('paths', () => {
      it('CVE-2024-21626: no descriptor leads out, whatever the working directory', async () => {
        const pod = await node.cri.runPod();
        for (let fd = 3; fd <= 64; fd++)
          await refusal(
            node.cri.createContainer(pod, IMAGE, { command: IDLE, workingDir: `/proc/self/fd/${fd}` }),
            'CVE-2024-21626',
          );
        for (const cwd of ['/proc/1/root', '/proc/thread-self/cwd', '//proc//self//fd/8/..', '/dev/fd/9']) {
          await refusal(node.cri.createContainer(pod, IMAGE, { command: IDLE, workingDir: cwd }), 'working directory');
        }
        for (const [name, entries] of [
          ['into-fd', [link('work', '/proc/self/fd/7')]],
          ['through', [dir('proc/self'), dir('proc/self/fd'), dir('proc/self/fd/7'), link('work', '/proc/self/fd/7')]],
        ] as const) {
          const image = await addImage(node, `cwd-${name}`, await withFiles(...entries));
          await refusal(node.cri.createContainer(pod, image, { workingDir: '/work' }), /work/);
        }
        const inherited = await idle(node, pod);
        assert.equal(
          await sh(node, inherited, 'for fd in /proc/1/fd/*; do echo ${fd##*/} $(readlink $fd | cut -c1-5); done'),
          '0 /dev/\n1 pipe:\n2 pipe:',
        );
        assert.notMatch(
          await sh(node, inherited, 'ls -l /proc/self/fd'),
          /-> \/(?!proc\/|dev\/)/,
          'an exec has no file of the node open',
        );
        await node.cri.removePod(pod.id);
      });

      it('CVE-2024-5154: /etc/mtab makes nothing on the node', async () => {
        const goal = join(node.dir, 'mtab-goal');
        const pod = await node.cri.runPod();
        for (const [index, entries] of [
          [link('etc/mtab', `/../../../..${goal}`)],
          [link('etc', `${'../'.repeat(12)}${node.dir.slice(1)}`)],
          [dir('etc'), link('etc/mtab', goal)],
        ].entries()) {
          const files =
            index === 1
              ? {
                  layers: [
                    {
                      files: [...(await busybox()).filter(({ path }) => !path.startsWith('etc')), ...entries],
                      compression: 'none' as const,
                    },
                  ],
                  config: { Cmd: ['sleep', '1000'] },
                }
              : await withFiles(...entries);
          const image = await addImage(node, `mtab-${index}`, files);
          await idle(node, pod, { imageName: image }).catch(() => undefined);
          assert.isFalse(existsSync(goal));
          assert.isFalse(existsSync(join(node.dir, 'mtab')));
        }
        await node.cri.removePod(pod.id);
      });

      it('CVE-2025-0750: names of pods do not become paths', async () => {
        for (const metadata of [
          { uid: '../../../../etc' },
          { name: '../../x' },
          { namespace: 'a/b' },
          { uid: 'x\ny' },
          { name: 'x'.repeat(10_000) },
        ])
          await refusal(node.cri.runPod({ metadata }), 'metadata');
        const pod = await node.cri.runPod({
          annotations: { 'io.kubernetes.cri-o.LinkLogs': '../../../../etc', 'link-logs.crio.io': '../../../../etc' },
        });
        for (const logPath of ['../../../../etc/cron.d/x', '/etc/cron.d/x', 'a/../../b', 'x\ny'])
          await refusal(node.cri.createContainer(pod, IMAGE, { command: IDLE, logPath }), 'log_path');
        for (const logDirectory of ['relative', '/a/../../etc', '/x\ny'])
          await refusal(node.cri.runPod({ logDirectory }), 'log_directory');
        await node.cri.removePod(pod.id);
      });

      it("CVE-2022-23648: a VOLUME is a place in the image, and its content is the image's", async () => {
        await reconfigure(node, '[crio.image]\nimage_volumes = "bind"\n');
        const image = await addImage(node, 'volume-escape', {
          ...(await withFiles()),
          config: {
            Cmd: ['sleep', '1000'],
            Volumes: { '/../../../../etc': {}, [`/../../../..${node.dir}/made`]: {}, 'relative/../../../x': {} },
          },
        });
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, { imageName: image });
        assert.equal(await sh(node, id, 'ls /etc | grep -c "shadow\\|ssh\\|apt"; true'), '0');
        assert.equal(await sh(node, id, 'cat /etc/passwd | head -1'), 'root:x:0:0:root:/root:/bin/sh');
        assert.isFalse(existsSync(join(node.dir, 'made')));
        await node.cri.removePod(pod.id);
        await reconfigure(node, '');
      });

      it('CVE-2021-43816: directories of the node are not relabelled', async () => {
        const pod = await node.cri.runPod();
        await symlink('/etc', join(node.dir, `link-to-etc`)).catch(() => {});
        for (const hostPath of [
          '/etc/hosts',
          '/etc',
          '/',
          '/usr',
          '/var',
          '/etc/',
          join(node.dir, 'link-to-etc'),
          '/usr/lib',
        ]) {
          await refusal(
            node.cri.createContainer(pod, IMAGE, {
              command: IDLE,
              mounts: [{ containerPath: '/x', hostPath, selinuxRelabel: true }],
            }),
            'relabelling',
          );
        }
        await idle(node, pod, {
          mounts: [{ containerPath: '/x', hostPath: node.dir, selinuxRelabel: true, readonly: true }],
        });
        await node.cri.removePod(pod.id);
      });

      it('KEP-4639: the sub path of an image volume stays in the image', async () => {
        const image = await addImage(node, 'sub-path', {
          layers: [
            {
              files: [
                dir('d'),
                link('d/out', '/../../../../../../etc'),
                link('d/up', '../../../..'),
                link('d/abs', '/etc'),
                dir('d/in'),
              ],
              compression: 'none',
            },
          ],
        });
        const pod = await node.cri.runPod();
        const attempt = (imageSubPath: string): Promise<string> =>
          node.cri.createContainer(pod, IMAGE, {
            command: IDLE,
            mounts: [{ containerPath: '/v', readonly: true, image: { image }, imageSubPath }],
          });
        for (const sub of ['../../etc', '/etc', 'd/../../etc', 'd/out', 'd/up', 'd/abs', 'd/none'])
          await refusal(attempt(sub), /sub.path/);
        await attempt('d/in');
        await node.cri.removePod(pod.id);
      });

      it('k8s#44043: a symlink at the log path is replaced, not followed, and one on the way refused', async () => {
        const goal = join(node.dir, 'cron');
        const logs = join(node.dir, 'pod-logs');
        await mkdir(logs);
        await symlink(goal, join(logs, 'out.log'));
        await writeFile(join(node.dir, 'existing'), 'before');
        await symlink(join(node.dir, 'existing'), join(logs, 'two.log'));
        const pod = await node.cri.runPod({ logDirectory: logs });
        for (const logPath of ['out.log', 'two.log']) {
          const id = await node.cri.runContainer(pod, IMAGE, { command: ['echo', 'line'], logPath });
          await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
          assert.deepEqual(await logLines(join(logs, logPath)), ['stdout F line']);
        }
        assert.isFalse(existsSync(goal));
        assert.equal(await readFile(join(node.dir, 'existing'), 'utf8'), 'before');
        const elsewhere = join(node.dir, 'log-goal');
        await mkdir(elsewhere);
        await symlink(elsewhere, join(logs, 'app'));
        for (const logPath of ['app/0.log', 'app/deeper/0.log'])
          await refusal(node.cri.createContainer(pod, IMAGE, { command: IDLE, logPath }), join(logs, 'app'));
        assert.deepEqual(readdirSync(elsewhere), []);
        await node.cri.removePod(pod.id);
      });

      it('CVE-2021-30465: a volume that is mounted through another stays in the root', async () => {
        const shared = join(node.dir, 'shared');
        const goal = join(node.dir, 'outside');
        await mkdir(shared);
        await mkdir(goal);
        await symlink(`${'../'.repeat(20)}${goal.slice(1)}`, join(shared, 'trap'));
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, {
          mounts: [
            { containerPath: '/v', hostPath: shared },
            { containerPath: '/v/trap', hostPath: '/usr/lib/cni', readonly: true },
          ],
        }).catch(() => undefined);
        assert.notInclude(readFileSync('/proc/self/mountinfo', 'utf8'), goal);
        assert.deepEqual(readdirSync(goal), []);
        if (id !== undefined) assert.isFalse(await fails(node, id, 'true'));
        await node.cri.removePod(pod.id);
      });

      it('CVE-2021-30465: nor does one whose links change while it is mounted', async () => {
        const shared = join(node.dir, 'swapped');
        const goal = join(node.dir, 'swap-goal');
        await mkdir(shared);
        await mkdir(goal);
        const pod = await node.cri.runPod();
        const out = `${'../'.repeat(24)}${goal.slice(1)}`;
        const swap = `cd /v; mkdir d; ln -s ${out} l; while :; do mv -T d x; mv -T x d; mv -T l x; mv -T x l; done`;
        await node.cri.runContainer(pod, IMAGE, {
          command: ['sh', '-c', swap],
          mounts: [{ containerPath: '/v', hostPath: shared }],
        });
        await waitFor(
          () => existsSync(join(shared, 'd')) || existsSync(join(shared, 'x')),
          (there) => there,
          'the swapping to begin',
        );
        let made = 0;
        for (let round = 0; round < 12; round++) {
          const id = await idle(node, pod, {
            mounts: [
              { containerPath: '/v', hostPath: shared },
              { containerPath: '/v/x/in', hostPath: '/usr/lib/cni', readonly: true },
            ],
          }).catch(() => undefined);
          assert.notInclude(readFileSync('/proc/self/mountinfo', 'utf8'), goal);
          assert.deepEqual(readdirSync(goal), []);
          if (id === undefined) continue;
          made++;
          await node.cri.rpc.removeContainer({ containerId: id });
        }
        assert.isAbove(made, 0, 'at times the directory is a directory');
        await node.cri.removePod(pod.id);
      });

      it(
        'CVE-2026-41579, CVE-2025-52881: an image with links for /dev, /proc and /sys makes nothing ' + 'on the node',
        async () => {
          const goal = join(node.dir, 'dev-goal');
          await mkdir(goal);
          await writeFile(join(goal, 'ptmx'), 'of the node');
          const pod = await node.cri.runPod();
          for (const place of ['dev', 'proc', 'sys']) {
            const links = [
              link(place, goal),
              link(place, `${'../'.repeat(24)}${goal.slice(1)}`),
              link(place, `/proc/self/root${goal}`),
              link(place, '/tmp'),
              file(place, 'no directory'),
            ];
            for (const [index, entry] of links.slice(0, place === 'dev' ? undefined : 2).entries()) {
              const files = [...(await busybox()).filter(({ path }) => path.replace(/\/$/, '') !== place), entry];
              const image = await addImage(node, `${place}-link-${index}`, {
                layers: [{ files, compression: 'none' }],
                config: { Cmd: ['sleep', '1000'] },
              });
              for (const tty of [false, true])
                await refusal(idle(node, pod, { imageName: image, tty }), `/${place} in the image is a`);
            }
          }
          assert.deepEqual(readdirSync(goal), ['ptmx']);
          assert.equal(await readFile(join(goal, 'ptmx'), 'utf8'), 'of the node');
          await node.cri.removePod(pod.id);
        },
      );

      it('CVE-2025-31133, CVE-2025-52565: device files of the image do not stand in for the masks', async () => {
        const image = await addImage(node, 'masks', {
          layers: [
            {
              files: [
                ...(await busybox()).filter(({ path }) => path !== 'dev/'),
                dir('dev'),
                link('dev/null', '/proc/sys/kernel/core_pattern'),
                link('dev/console', '/proc/sysrq-trigger'),
                link('dev/pts', '/proc'),
              ],
              compression: 'none',
            },
          ],
          config: { Cmd: ['sleep', '1000'] },
        });
        const pattern = readFileSync('/proc/sys/kernel/core_pattern', 'utf8');
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, {
          imageName: image,
          tty: true,
          ...secured({ maskedPaths: ['/proc/kcore', '/proc/keys'], readonlyPaths: ['/proc/sys'] }),
        });
        assert.equal(await sh(node, id, 'stat -c %t:%T /dev/null; cat /proc/keys'), '1:3');
        assert.isTrue(await fails(node, id, 'echo x > /proc/sys/kernel/core_pattern'));
        assert.equal(readFileSync('/proc/sys/kernel/core_pattern', 'utf8'), pattern);
        await node.cri.removePod(pod.id);
      });
    });

    describe('the /dev/null that processes get', () => {
      const own = (): string => {
        const { mode, uid, gid, rdev } = statSync('/dev/null');
        return `${(mode & 0o7777).toString(8)} ${uid}:${gid} ${rdev}`;
      };
      // What a container could do without: the node's must be as it was, whatever comes of the tests.
      afterEach(() => {
        chmodSync('/dev/null', 0o666);
        chownSync('/dev/null', 0, 0);
      });

      it('can be read and written by a command, and not changed', async () => {
        const [pod, before] = [await node.cri.runPod(), own()];
        for (const user of [0n, 1000n]) {
          const id = await idle(node, pod, secured({ runAsUser: { value: user } }));
          const inside = await sh(
            node,
            id,
            'stat -L -c %t:%T /proc/self/fd/0; cat; echo x >&0 && readlink /proc/self/fd/0',
          );
          assert.equal(inside, '1:3\n/dev/null', `user ${user}`);
          for (const change of ['chmod 600', 'chown 7', 'touch']) {
            const { stderr, exitCode } = await node.cri.exec(id, ['sh', '-c', `${change} /proc/self/fd/0`]);
            assert.notEqual(exitCode, 0, `${change} as ${user}`);
            assert.match(stderr, /Read-only file system/, `${change} as ${user}`);
          }
          assert.equal(own(), before, `user ${user}`);
        }
        await node.cri.removePod(pod.id);
      });
    });

    describe('annotations and labels', () => {
      it('CVE-2023-6476: only the exact key of an allowed annotation counts', async () => {
        await reconfigure(node, `[crio.runtime.runtimes.${runtime}]\nallowed_annotations = ["umask.crio.io"]\n`);
        const annotations = {
          'umask.crio.io/../x': '0077',
          'umask.crio.iox': '0077',
          'UMASK.crio.io': '0077',
          ' umask.crio.io': '0077',
          'umask.crio.io/other-container': '0077',
          'devices.crio.io': '/dev/kmsg',
        };
        const pod = await node.cri.runPod({ annotations });
        const id = await idle(node, pod, { annotations });
        assert.equal(await procStatus(node, id, 'Umask'), '0022');
        assert.isTrue(await fails(node, id, 'test -e /dev/kmsg'));
        assert.equal(specOf(node, id).annotations, undefined);
        await node.cri.removePod(pod.id);
        await reconfigure(node, '');
      });

      it('CVE-2024-3154: what runtimes act on does not reach them', async () => {
        const annotations: Record<string, string> = {
          'org.systemd.property.ExecStartPre': "'/bin/touch /tmp/x'",
          'run.oci.keep_original_groups': '1',
          'run.oci.hooks.stderr': '/etc/cron.d/x',
          'io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel': 'true',
        };
        const pod = await node.cri.runPod({ annotations });
        const id = await idle(node, pod, { annotations });
        assert.equal(specOf(node, id).annotations, undefined);
        assert.deepEqual({ ...(await node.cri.container(id)).annotations }, annotations);
        await node.cri.removePod(pod.id);
      });

      it('CVE-2026-53488: labels of images are text', async () => {
        const image = await addImage(node, 'labelled', {
          ...(await withFiles()),
          config: {
            Cmd: ['sleep', '1000'],
            Labels: {
              'containerd.io/restart.loguri': 'binary:///bin/touch?x',
              'io.kubernetes.cri-o.umask': '0000',
              'cdi.k8s.io/x': 'vendor/gpu=all',
            },
          },
        });
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, { imageName: image });
        assert.equal(specOf(node, id).annotations, undefined);
        assert.equal(await procStatus(node, id, 'Umask'), '0022');
        await node.cri.removePod(pod.id);
      });

      it('keeps keys that objects have anyway', async () => {
        const strange = JSON.parse('{"__proto__":"a","constructor":"b","toString":"c"}') as Record<string, string>;
        const pod = await node.cri.runPod({ labels: strange, annotations: strange });
        const status = await node.cri.pod(pod.id);
        assert.deepEqual(Object.entries(status.labels).sort(), Object.entries(strange).sort());
        assert.deepEqual(Object.entries(status.annotations).sort(), Object.entries(strange).sort());
        await node.cri.removePod(pod.id);
      });
    });
  });
}
