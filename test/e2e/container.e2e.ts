/** Who a container's process is, what confines it and what it sees, with runc and crun. */
import { assert } from 'chai';
import { existsSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { IMAGE, type TestNode } from './harness.ts';
import { fails, host, idle, mountAt, procStatus, refusal, sh, shOnceBegun } from './inside.ts';
import { bit, bootWithPeople, CAP, namespaces, RUNTIMES, secured } from './container-ground.ts';

for (const runtime of RUNTIMES) {
  describe(`a container with ${runtime}`, function () {
    this.timeout(60_000);
    let node: TestNode;
    let image: string;
    before(async () => {
      ({ node, image } = await bootWithPeople(runtime));
    });
    after(() => node.close());

    describe('identity', () => {
      it('is the user asked for, with the groups that the image gives them (Merge)', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, {
          imageName: image,
          ...secured({ runAsUser: { value: 1000n }, supplementalGroups: [777n] }),
        });
        assert.equal(
          await sh(node, id, 'id -u; id -g; id -G | tr " " "\\n" | sort -n | tr "\\n" " "'),
          '1000\n1000\n10 777 1000 50000',
        );
        assert.equal(await sh(node, id, 'echo $HOME'), '/home/ann');
        const { user } = await node.cri.container(id);
        assert.equal(user?.linux?.uid, 1000n);
        assert.sameMembers([...(user?.linux?.supplementalGroups ?? [])], [10n, 777n, 1000n, 50_000n]);
        await node.cri.removePod(pod.id);
      });

      it('has only the groups asked for with Strict', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, {
          imageName: image,
          ...secured({
            runAsUser: { value: 1000n },
            runAsGroup: { value: 7n },
            supplementalGroups: [777n],
            supplementalGroupsPolicy: 'Strict',
          }),
        });
        assert.equal(await sh(node, id, 'id -g; id -G'), '7\n7 777');
        await node.cri.removePod(pod.id);
      });

      it('finds run_as_username in the image, and refuses one that is not there', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, { imageName: image, ...secured({ runAsUsername: 'ann' }) });
        assert.equal(await sh(node, id, 'id -un'), 'ann');
        await refusal(idle(node, pod, { imageName: image, ...secured({ runAsUsername: 'bob' }) }), 'bob');
        await refusal(idle(node, pod, { imageName: image, ...secured({ runAsGroup: { value: 7n } }) }), 'run_as_group');
        await node.cri.removePod(pod.id);
      });

      it('gives an unknown uid a line in /etc/passwd', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, {
          imageName: image,
          workingDir: '/work',
          ...secured({ runAsUser: { value: 4321n } }),
        });
        assert.equal(
          await sh(node, id, 'id -un; pwd; touch /work/mine && stat -c %u /work /work/mine'),
          '4321\n/work\n4321\n4321',
        );
        await node.cri.removePod(pod.id);
      });
    });

    describe('confinement', () => {
      it('has the default capabilities, none of them inheritable or ambient', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod);
        const [bounding, effective] = [await procStatus(node, id, 'CapBnd'), await procStatus(node, id, 'CapEff')];
        assert.equal(bounding, effective);
        assert.isTrue(bit(bounding, CAP.CHOWN));
        assert.isFalse(bit(bounding, CAP.NET_RAW));
        assert.deepEqual(
          [await procStatus(node, id, 'CapInh'), await procStatus(node, id, 'CapAmb')],
          ['0000000000000000', '0000000000000000'],
        );
        assert.equal(await procStatus(node, id, 'CapEff', 'self'), effective, 'an exec has the same');
        await node.cri.removePod(pod.id);
      });

      it('adds and drops capabilities; drop wins', async () => {
        const pod = await node.cri.runPod();
        const added = await idle(
          node,
          pod,
          secured({
            capabilities: { addCapabilities: ['net_admin', 'CAP_SYS_ADMIN'], dropCapabilities: ['SYS_ADMIN'] },
          }),
        );
        const mask = await procStatus(node, added, 'CapBnd');
        assert.deepEqual(
          [bit(mask, CAP.NET_ADMIN), bit(mask, CAP.SYS_ADMIN), bit(mask, CAP.CHOWN)],
          [true, false, true],
        );
        const none = await idle(node, pod, secured({ capabilities: { dropCapabilities: ['ALL'] } }));
        assert.equal(await procStatus(node, none, 'CapBnd'), '0000000000000000');
        const all = await idle(
          node,
          pod,
          secured({ capabilities: { addCapabilities: ['ALL'], dropCapabilities: ['CHOWN'] } }),
        );
        const wide = await procStatus(node, all, 'CapEff');
        assert.deepEqual([bit(wide, CAP.SYS_ADMIN), bit(wide, CAP.CHOWN)], [true, false]);
        await refusal(
          idle(node, pod, secured({ capabilities: { addCapabilities: ['NO_SUCH_THING'] } })),
          'NO_SUCH_THING',
        );
        await node.cri.removePod(pod.id);
      });

      it('gives ambient capabilities to a user without root (KEP-2763)', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(
          node,
          pod,
          secured({ runAsUser: { value: 1000n }, capabilities: { addAmbientCapabilities: ['NET_BIND_SERVICE'] } }),
        );
        assert.isTrue(bit(await procStatus(node, id, 'CapAmb'), CAP.NET_BIND_SERVICE));
        assert.isTrue(bit(await procStatus(node, id, 'CapEff'), CAP.NET_BIND_SERVICE));
        const without = await idle(
          node,
          pod,
          secured({ runAsUser: { value: 1000n }, capabilities: { addCapabilities: ['NET_BIND_SERVICE'] } }),
        );
        assert.equal(await procStatus(node, without, 'CapEff'), '0000000000000000');
        await node.cri.removePod(pod.id);
      });

      it('sets no_new_privs when asked', async () => {
        const pod = await node.cri.runPod();
        assert.equal(await procStatus(node, await idle(node, pod, secured({ noNewPrivs: true })), 'NoNewPrivs'), '1');
        assert.equal(await procStatus(node, await idle(node, pod), 'NoNewPrivs'), '0');
        await node.cri.removePod(pod.id);
      });

      it('masks paths and makes others read-only, unless the lists are empty', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(
          node,
          pod,
          secured({ maskedPaths: ['/proc/keys', '/sys/firmware', '/etc'], readonlyPaths: ['/proc/sys', '/tmp'] }),
        );
        assert.equal(await sh(node, id, 'cat /proc/keys; ls /sys/firmware; ls /etc'), '');
        assert.isTrue(await fails(node, id, 'touch /tmp/x'));
        assert.match(await mountAt(node, id, '/proc/sys'), /^proc ro/);
        const bare = await idle(node, pod, secured({ maskedPaths: [], readonlyPaths: [] }));
        // What is there is the kernel's business; user-mode-linux has nothing.
        assert.equal(await sh(node, bare, 'ls /sys/firmware'), host('ls', '/sys/firmware').trim());
        assert.equal(await mountAt(node, bare, '/proc/sys'), '');
        await node.cri.removePod(pod.id);
      });

      it('has a read-only root when asked, with read-only files of the pod', async () => {
        const pod = await node.cri.runPod({ hostname: 'frozen' });
        const id = await idle(node, pod, secured({ readonlyRootfs: true }));
        assert.isTrue(await fails(node, id, 'touch /x'));
        assert.isTrue(await fails(node, id, 'echo x >> /etc/resolv.conf'));
        assert.isFalse(await fails(node, id, 'touch /dev/shm/x'));
        await node.cri.removePod(pod.id);
      });

      it('runs under the seccomp profile that it names', async () => {
        const pod = await node.cri.runPod();
        const profile = join(node.dir, 'no-mkdir.json');
        await writeFile(
          profile,
          JSON.stringify({
            defaultAction: 'SCMP_ACT_ALLOW',
            syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO' }],
          }),
        );
        const local = await idle(node, pod, secured({ seccomp: { profileType: 'Localhost', localhostRef: profile } }));
        assert.equal(await procStatus(node, local, 'Seccomp'), '2');
        assert.isTrue(await fails(node, local, 'mkdir /x'));
        const standard = await idle(
          node,
          pod,
          secured({ seccomp: { profileType: 'RuntimeDefault', localhostRef: '' } }),
        );
        assert.equal(await procStatus(node, standard, 'Seccomp'), '2');
        assert.isFalse(await fails(node, standard, 'mkdir /x'));
        for (const free of [secured({}), secured({ seccomp: { profileType: 'Unconfined', localhostRef: '' } })])
          assert.equal(await procStatus(node, await idle(node, pod, free), 'Seccomp'), '0');
        await refusal(
          idle(node, pod, secured({ seccomp: { profileType: 'Localhost', localhostRef: '/no/such.json' } })),
          '/no/such.json',
        );
        await refusal(
          idle(node, pod, secured({ seccomp: { profileType: 'Localhost', localhostRef: 'profile.json' } })),
          'absolute',
        );
        await node.cri.removePod(pod.id);
      });

      it('is privileged only in a privileged pod, and then sees the devices and the kernel of the node', async () => {
        const plain = await node.cri.runPod();
        await refusal(idle(node, plain, secured({ privileged: true })), 'privileged');
        const pod = await node.cri.runPod({
          linux: { securityContext: { privileged: true, namespaceOptions: { pid: 'CONTAINER' } } },
        });
        const id = await idle(node, pod, secured({ privileged: true }));
        assert.isTrue(bit(await procStatus(node, id, 'CapEff'), CAP.SYS_ADMIN));
        assert.match(await mountAt(node, id, '/sys'), /^sysfs rw/);
        assert.equal(await mountAt(node, id, '/proc/sys'), '');
        assert.isAbove(
          Number(await sh(node, id, 'ls /dev | grep -vE "^(pts|shm|mqueue|fd|std.*|core|console)$" | wc -l')),
          (await readdir('/dev')).length / 2,
        );
        await node.cri.removePod(pod.id);
      });
    });

    describe('its namespaces', () => {
      it('are those of the node where it asks for them', async () => {
        const options = namespaces({ network: 'NODE', pid: 'NODE', ipc: 'NODE' });
        const pod = await node.cri.runPod(options);
        const id = await idle(node, pod, options);
        for (const kind of ['net', 'ipc', 'uts', 'pid'])
          assert.equal(
            await sh(node, id, `readlink /proc/self/ns/${kind}`),
            host('readlink', `/proc/self/ns/${kind}`).trim(),
            kind,
          );
        assert.notEqual(await sh(node, id, 'readlink /proc/self/ns/mnt'), host('readlink', '/proc/self/ns/mnt').trim());
        assert.equal(await sh(node, id, 'cat /etc/hosts'), (await readFile('/etc/hosts', 'utf8')).trim());
        await node.cri.removePod(pod.id);
      });

      it("are its pod's, but for a PID namespace of its own", async () => {
        const pod = await node.cri.runPod();
        const [one, two] = [await idle(node, pod), await idle(node, pod)];
        const inodes = async (id: string): Promise<string[]> =>
          (await sh(node, id, 'for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done')).split('\n');
        const [a, b] = [await inodes(one), await inodes(two)];
        assert.deepEqual(
          a.map((each, i) => each === b[i]),
          [true, true, true, false, false],
        );
        await sh(node, one, 'echo shared > /dev/shm/x');
        assert.equal(await sh(node, two, 'cat /dev/shm/x'), 'shared');
        await node.cri.removePod(pod.id);
      });

      it('join the PID namespace of a target container (ephemeral containers)', async () => {
        const pod = await node.cri.runPod();
        const target = await idle(node, pod);
        const debug = await idle(node, pod, namespaces({ pid: 'TARGET', targetId: target }));
        assert.equal(
          await sh(node, debug, 'readlink /proc/self/ns/pid'),
          await sh(node, target, 'readlink /proc/self/ns/pid'),
        );
        const other = await node.cri.runPod();
        await refusal(idle(node, other, namespaces({ pid: 'TARGET', targetId: target })), 'no container of this pod');
        await node.cri.rpc.stopContainer({ containerId: target, timeout: 0n });
        await refusal(idle(node, pod, namespaces({ pid: 'TARGET', targetId: target })), 'while it runs');
        await node.cri.removePod(pod.id);
        await node.cri.removePod(other.id);
      });

      it('have the files that name the pod, its addresses and its resolvers', async () => {
        const pod = await node.cri.runPod({
          hostname: 'web-0',
          dnsConfig: { servers: ['192.0.2.53'], searches: ['a.example', 'b.example'], options: ['ndots:5'] },
        });
        const id = await idle(node, pod);
        const ip = (await node.cri.pod(pod.id)).network?.ip ?? '';
        assert.equal(
          await sh(node, id, 'cat /etc/hostname; hostname; cat /etc/resolv.conf'),
          'web-0\nweb-0\nsearch a.example b.example\nnameserver 192.0.2.53\noptions ndots:5',
        );
        assert.match(
          await sh(node, id, 'cat /etc/hosts'),
          new RegExp(`^127\\.0\\.0\\.1\\tlocalhost\\n[^]*^${ip.replaceAll('.', '\\.')}\\tweb-0$`, 'm'),
        );
        assert.equal(
          await sh(node, id, 'readlink /etc/mtab; ls /run/.containerenv'),
          '/proc/mounts\n/run/.containerenv',
        );
        const own = join(node.dir, 'hosts');
        await writeFile(own, 'brought by the kubelet\n');
        const managed = await idle(node, pod, { mounts: [{ containerPath: '/etc/hosts', hostPath: own }] });
        assert.equal(await sh(node, managed, 'cat /etc/hosts'), 'brought by the kubelet');
        await node.cri.removePod(pod.id);
      });
    });

    describe('its process', () => {
      it('has the environment of image and config, values as bytes', async () => {
        const pod = await node.cri.runPod({ hostname: 'pod-1' });
        const raw = Buffer.from([0xff, 0xfe, 0x25, 0x0a, 0x3d]);
        const id = await idle(node, pod, {
          imageName: image,
          envs: [
            { key: 'BOTH', value: Buffer.from('config') },
            { key: 'EQ', value: Buffer.from('a=b=c') },
            { key: 'RAW', value: raw },
            { key: 'UNI', value: Buffer.from('päth') },
          ],
        });
        assert.equal(
          await sh(node, id, 'echo $FROM_IMAGE $BOTH $EQ $HOSTNAME $HOME $UNI'),
          '1 config a=b=c pod-1 /root päth',
        );
        const hex = 'printf %s "$RAW" | od -An -tx1 | tr -d " \\n"';
        assert.equal(await sh(node, id, hex), raw.toString('hex'), 'in an exec');
        assert.include(
          await shOnceBegun(node, id, 'od -An -tx1 -v /proc/1/environ | tr -d " \\n"'),
          Buffer.concat([Buffer.from('RAW='), raw, Buffer.from([0])]).toString('hex'),
          'in the first process',
        );
        const absent = await node.cri.runContainer(pod, image, {
          command: ['/no/such'],
          envs: [{ key: 'RAW', value: raw }],
        });
        assert.equal((await node.cri.waitForContainer(absent, 'CONTAINER_EXITED')).exitCode, 127);
        await node.cri.removePod(pod.id);
      });

      it('takes command and args as Kubernetes means them', async () => {
        const pod = await node.cri.runPod();
        const first = async (config: object): Promise<string> =>
          await shOnceBegun(
            node,
            await node.cri.runContainer(pod, image, config),
            'cat /proc/1/cmdline | tr "\\0" " "',
          );
        assert.equal(await first({}), 'sleep 1000');
        assert.equal(await first({ args: ['sleep', '2000'] }), 'sleep 2000');
        assert.equal(await first({ command: ['sleep'], args: ['3000'] }), 'sleep 3000');
        await node.cri.removePod(pod.id);
      });

      it('ends by its stop signal: of the config, else of the image', async () => {
        const pod = await node.cri.runPod();
        const trap = [
          'sh',
          '-c',
          'trap "exit 1" TERM; trap "exit 2" USR1; trap "exit 3" USR2; trap "exit 4" RTMIN; while :; ' +
            'do sleep 0.05; done',
        ];
        const end = async (config: object): Promise<readonly [number, string]> => {
          const id = await node.cri.runContainer(pod, image, { command: trap, ...config });
          await node.cri.exec(id, ['true']);
          await node.cri.rpc.stopContainer({ containerId: id, timeout: 20n });
          const { exitCode, stopSignal } = await node.cri.container(id);
          return [exitCode, stopSignal];
        };
        assert.deepEqual(await end({}), [3, 'SIGNAL_SIGUSR2']);
        assert.deepEqual(await end({ stopSignal: 'SIGNAL_SIGUSR1' }), [2, 'SIGNAL_SIGUSR1']);
        assert.deepEqual(await end({ image: { image: IMAGE, userSpecifiedImage: IMAGE } }), [1, 'SIGNAL_SIGTERM']);
        await node.cri.removePod(pod.id);
      });

      it('has a terminal when asked, with TERM', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, { tty: true });
        // A command in it has a terminal, too, which ends lines as terminals do.
        const said = await shOnceBegun(node, id, 'tr "\\0" "\\n" < /proc/1/environ | grep TERM; readlink /proc/1/fd/0');
        assert.equal(said, 'TERM=xterm\r\n/dev/pts/0');
        assert.match(await mountAt(node, id, '/dev/console'), /devpts/);
        await node.cri.removePod(pod.id);
      });

      it('starts in a working directory that is made for it, inside the root', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod, { workingDir: '/a/b/c' });
        assert.equal(await sh(node, id, 'readlink /proc/1/cwd; stat -c %a /a/b'), '/a/b/c\n755');
        assert.isFalse(existsSync('/a/b/c'));
        await node.cri.removePod(pod.id);
      });
    });
  });
}
