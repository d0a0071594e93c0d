/** What a container's config asks for, seen from inside the container, with runc and crun. */
import { assert } from 'chai';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Input, LinuxContainerSecurityContext, NamespaceOption } from '../../pkg/cri-api/types.ts';
import { waitFor } from './cri-client.ts';
import { IMAGE, type RuntimeName, TestNode } from './harness.ts';
import { busybox, dir, file, symlink as link } from './images.ts';
import { addImage, fails, host, idle, IDLE, mountAt, procStatus, reconfigure, refusal, sh } from './inside.ts';

const RUNTIMES: readonly RuntimeName[] = ['runc', 'crun'];

/** A container config with this security context. */
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

const bit = (mask: string, number: number): boolean => ((BigInt(`0x${mask}`) >> BigInt(number)) & 1n) === 1n;
const CAP = { CHOWN: 0, NET_BIND_SERVICE: 10, NET_ADMIN: 12, NET_RAW: 13, SYS_ADMIN: 21 } as const;

for (const runtime of RUNTIMES) {
  describe(`a container with ${runtime}`, function () {
    this.timeout(60_000);
    let node: TestNode;
    let image: string;
    before(async () => {
      node = await TestNode.boot({ runtime });
      const people = 'root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\n';
      image = await addImage(node, 'people', {
        layers: [
          {
            files: [
              ...(await busybox()).filter(({ path }) => path !== 'etc/passwd' && path !== 'etc/group'),
              file('etc/passwd', people),
              file('etc/group', 'root:x:0:\nann:x:1000:\nwheel:x:10:ann\naudio:x:50000:ann\n'),
              dir('home'),
              dir('home/ann', { uid: 1000, gid: 1000 }),
            ],
            compression: 'none',
          },
        ],
        config: { Cmd: ['sleep', '1000'], Env: ['PATH=/bin', 'FROM_IMAGE=1', 'BOTH=image'], StopSignal: 'SIGUSR2' },
      });
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
        assert.notEqual(await sh(node, bare, 'ls /sys/firmware'), '');
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
          await sh(node, id, 'od -An -tx1 -v /proc/1/environ | tr -d " \\n"'),
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
          await sh(node, await node.cri.runContainer(pod, image, config), 'cat /proc/1/cmdline | tr "\\0" " "');
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
        assert.equal(
          await sh(node, id, 'tr "\\0" "\\n" < /proc/1/environ | grep TERM; readlink /proc/1/fd/0'),
          'TERM=xterm\n/dev/pts/0',
        );
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
        assert.match(await mountAt(node, id, '/all'), /ro,nosuid,nodev,noexec/);
        const status = await node.cri.container(id);
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

for (const runtime of RUNTIMES) {
  describe(`a container with ${runtime} and a configuration`, function () {
    this.timeout(60_000);
    let node: TestNode;
    before(async () => {
      node = await TestNode.boot({ runtime });
    });
    after(() => node.close());

    it(
      'has defaults of the administrator: mounts, time zone, environment, limits, devices, ' + 'sysctls, capabilities',
      async () => {
        await mkdir(join(node.dir, 'secrets'));
        await writeFile(join(node.dir, 'secrets/key'), 'K');
        await writeFile(
          join(node.dir, 'mounts.conf'),
          `# what the distribution says\n${join(node.dir, 'secrets')}:/run/secrets\n/no/such/thing:/absent\n`,
        );
        await writeFile(join(node.dir, 'zone'), await readFile('/usr/share/zoneinfo/Pacific/Kiritimati'));
        await reconfigure(
          node,
          `[crio.runtime]
default_mounts_file = "${join(node.dir, 'mounts.conf')}"
timezone = "Pacific/Kiritimati"
default_env = ["FROM_NODE=1", "PATH=/bin"]
default_ulimits = ["nofile=1024:2048"]
additional_devices = ["/dev/zero:/dev/more:r"]
default_sysctls = ["net.ipv4.ping_group_range=0 123"]
default_capabilities = ["CHOWN"]
`,
        );
        const pod = await node.cri.runPod();
        const id = await idle(node, pod);
        // Of the first process: in an exec, the Go of runc 1.1 may have raised the soft limit of files by the time that
        // it is set.
        assert.equal(
          await sh(
            node,
            id,
            'cat /run/secrets/key; ls -d /absent 2>/dev/null; echo $FROM_NODE; grep "open files" ' +
              '/proc/1/limits | tr -s " " | cut -d" " -f4,5; stat -c %t:%T /dev/more; date +%z',
          ),
          'K1\n1024 2048\n1:5\n+1400',
        );
        assert.isTrue(await fails(node, id, 'touch /run/secrets/x'));
        assert.equal(await procStatus(node, id, 'CapBnd'), '0000000000000001');
        assert.equal(await sh(node, id, 'cat /proc/sys/net/ipv4/ping_group_range'), '0\t123');
        await node.cri.removePod(pod.id);
      },
    );

    it(
      'gets volumes of its own for the VOLUMEs of its image, with what the image has there ' + '(image_volumes = bind)',
      async () => {
        await reconfigure(node, '[crio.image]\nimage_volumes = "bind"\n');
        const image = await addImage(node, 'volumes', {
          layers: [
            {
              files: [
                ...(await busybox()),
                dir('data', { uid: 1000, gid: 1000, mode: 0o700 }),
                file('data/seed', 'seed', { uid: 1000, gid: 1000, mode: 0o640 }),
                link('data/link', 'seed'),
              ],
              compression: 'none',
            },
          ],
          config: {
            Cmd: ['sleep', '1000'],
            Volumes: { '/data': {}, '/../../../../var/deep': {}, '/mine': {}, '/': {} },
          },
        });
        const pod = await node.cri.runPod();
        const config = { imageName: image, mounts: [{ containerPath: '/mine', hostPath: node.dir }] };
        const [one, two] = [await idle(node, pod, config), await idle(node, pod, config)];
        assert.equal(
          await sh(
            node,
            one,
            'stat -c "%u:%g %a" /data /data/seed; readlink /data/link; cat /data/seed; echo 1 >> ' +
              '/data/seed; touch /var/deep/x',
          ),
          '1000:1000 700\n1000:1000 640\nseed\nseed',
        );
        assert.notEqual(await mountAt(node, one, '/data'), '');
        assert.notEqual(await mountAt(node, one, '/var/deep'), '');
        assert.equal(await sh(node, two, 'cat /data/seed; ls /var/deep'), 'seed');
        assert.isFalse(existsSync('/var/deep'));
        await node.cri.removePod(pod.id);
        await reconfigure(node, '[crio.image]\nimage_volumes = "ignore"\n');
        const other = await node.cri.runPod();
        assert.isTrue(await fails(node, await idle(node, other, { imageName: image }), 'test -e /var/deep'));
        await reconfigure(node, '');
        assert.equal(
          await sh(node, await idle(node, other, { imageName: image }), 'stat -c %a /var/deep /mine'),
          '755\n755',
          'mkdir',
        );
        await node.cri.removePod(other.id);
      },
    );

    it('has a read-only root with places for scratch (read_only)', async () => {
      await reconfigure(node, '[crio.runtime]\nread_only = true\n');
      const pod = await node.cri.runPod();
      const id = await idle(node, pod);
      assert.isTrue(await fails(node, id, 'touch /root/x'));
      await sh(node, id, 'touch /tmp/x /run/x /var/tmp/x');
      await node.cri.removePod(pod.id);
    });

    it('follows only the annotations that its handler allows', async () => {
      const annotations = {
        'umask.crio.io': '0077',
        'devices.crio.io': '/dev/null:/dev/annotated:r',
        'shm-size.crio.io': '32Mi',
      };
      const look = async (id: string): Promise<string> =>
        sh(
          node,
          id,
          'grep Umask /proc/1/status | cut -f2; ls /dev/annotated 2>/dev/null || echo none; busybox df ' +
            '-k /dev/shm | tail -1 | tr -s " " | cut -d" " -f2',
        );
      await reconfigure(node, '');
      const plain = await node.cri.runPod({ annotations });
      assert.equal(await look(await idle(node, plain, { annotations })), '0022\nnone\n65536');
      await reconfigure(
        node,
        `[crio.runtime]\nallowed_devices = ` +
          `["/dev/null"]\n[crio.runtime.runtimes.${runtime}]\nallowed_annotations = ["umask.crio.io", ` +
          `"devices.crio.io", "shm-size.crio.io"]\n`,
      );
      const pod = await node.cri.runPod({ annotations });
      assert.equal(await look(await idle(node, pod, { annotations })), '0077\n/dev/annotated\n32768');
      await refusal(idle(node, pod, { annotations: { 'devices.crio.io': '/dev/kmsg' } }), 'allowed_devices');
      await refusal(node.cri.runPod({ annotations: { 'shm-size.crio.io': 'much' } }), 'shm-size');
      await node.cri.removePod(plain.id);
      await node.cri.removePod(pod.id);
    });

    it('has what its workload and its handler add: CPUs, annotations, a seccomp profile', async () => {
      const profile = join(node.dir, 'handler.json');
      await writeFile(
        profile,
        JSON.stringify({
          defaultAction: 'SCMP_ACT_ALLOW',
          syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO' }],
        }),
      );
      await reconfigure(
        node,
        `[crio.runtime]
seccomp_profile = "/no/such/seccomp.json"
allowed_devices = ["/dev/null"]
[crio.runtime.runtimes.${runtime}]
seccomp_profile = "${profile}"
default_annotations = { "umask.crio.io" = "0027", "example.com/handler" = "yes" }
[crio.runtime.workloads.management]
activation_annotation = "target.example/management"
annotation_prefix = "resources.example"
allowed_annotations = ["devices.crio.io"]
[crio.runtime.workloads.management.resources]
cpushares = 300
cpuset = "0"
`,
      );
      assert.include(node.log, 'seccomp_profile is not there');
      const annotations = {
        'target.example/management': '',
        'devices.crio.io': '/dev/null:/dev/annotated:r',
        'umask.crio.io': '0000',
        'resources.example/app': '{"cpushares": 400}',
      };
      const pod = await node.cri.runPod({ annotations });
      const [any, app] = [
        await idle(node, pod, { linux: { resources: { cpuShares: 5n, memoryLimitInBytes: 64n << 20n } } }),
        await idle(node, pod, { metadata: { name: 'app' } }),
      ];
      assert.deepInclude((await node.cri.container(any)).resources?.linux, {
        cpuShares: 300n,
        cpusetCpus: '0',
        memoryLimitInBytes: 64n << 20n,
      });
      assert.deepInclude((await node.cri.container(app)).resources?.linux, { cpuShares: 400n, cpusetCpus: '0' });
      assert.equal(
        await sh(
          node,
          app,
          'grep Cpus_allowed_list /proc/1/status | cut -f2; ls /dev/annotated; grep Umask /proc/1/status | cut -f2',
        ),
        '0\n/dev/annotated\n0027',
      );
      const spec = JSON.parse(await readFile(join(node.dir, 'run/containers', app, 'config.json'), 'utf8')) as {
        readonly annotations: object;
      };
      assert.deepEqual(spec.annotations, {
        'umask.crio.io': '0027',
        'example.com/handler': 'yes',
        'devices.crio.io': '/dev/null:/dev/annotated:r',
      });
      const confined = await idle(node, pod, secured({ seccomp: { profileType: 'RuntimeDefault', localhostRef: '' } }));
      assert.isTrue(await fails(node, confined, 'mkdir /x'));
      const plain = await node.cri.runPod({ annotations: { 'devices.crio.io': '/dev/null:/dev/annotated:r' } });
      const other = await idle(node, plain);
      assert.isUndefined((await node.cri.container(other)).resources);
      assert.isTrue(
        await fails(node, other, 'test -e /dev/annotated'),
        'the workload allows it, and this pod is not of it',
      );
      await node.cri.removePod(pod.id);
      await node.cri.removePod(plain.id);
    });

    it('has a log that is cut, an infra container on CPUs of its own, and mounts from where the host is', async () => {
      await mkdir(join(node.dir, 'host/data'), { recursive: true });
      await writeFile(join(node.dir, 'host/data/file'), 'of the host');
      await reconfigure(
        node,
        `[crio.runtime]\nlog_size_max = 8192\ninfra_ctr_cpuset = "0"\nbind_mount_prefix = ` +
          `"${join(node.dir, 'host')}"\n`,
      );
      const shared = namespaces({ pid: 'POD' });
      const pod = await node.cri.runPod(shared);
      const id = await idle(node, pod, { ...shared, mounts: [{ containerPath: '/data', hostPath: '/data' }] });
      assert.equal(
        await sh(node, id, 'cat /data/file; grep Cpus_allowed_list /proc/1/status | cut -f2'),
        'of the host0',
      );
      const talker = await node.cri.runContainer(pod, IMAGE, {
        ...shared,
        command: [
          'sh',
          '-c',
          'i=0; while [ $i -lt 500 ]; do echo "line $i of many that do not fit into it"; i=$((i+1)); done',
        ],
      });
      const { logPath } = await node.cri.waitForContainer(talker, 'CONTAINER_EXITED');
      const text = await readFile(logPath, 'utf8');
      assert.isAtMost(Buffer.byteLength(text), 8192);
      assert.include(text, 'line 499 of many');
      await node.cri.removePod(pod.id);
    });

    it('is privileged without the devices of the node, and with a profile, where the handler says so', async () => {
      const profile = join(node.dir, 'privileged.json');
      await writeFile(
        profile,
        JSON.stringify({
          defaultAction: 'SCMP_ACT_ALLOW',
          syscalls: [{ names: ['chmod', 'fchmodat', 'fchmodat2'], action: 'SCMP_ACT_ERRNO' }],
        }),
      );
      await reconfigure(
        node,
        `[crio.runtime]\nprivileged_seccomp_profile = ` +
          `"${profile}"\n[crio.runtime.runtimes.${runtime}]\nprivileged_without_host_devices = true\n`,
      );
      const pod = await node.cri.runPod({
        linux: { securityContext: { privileged: true, namespaceOptions: { pid: 'CONTAINER' } } },
      });
      const id = await idle(node, pod, secured({ privileged: true }));
      assert.isTrue(bit(await procStatus(node, id, 'CapEff'), CAP.SYS_ADMIN));
      assert.isTrue(await fails(node, id, 'test -e /dev/kmsg'));
      assert.equal(await procStatus(node, id, 'Seccomp'), '2');
      assert.isTrue(await fails(node, id, 'busybox chmod 700 /tmp'));
      await node.cri.removePod(pod.id);
    });

    it('owns its devices where the configuration says so', async () => {
      await reconfigure(node, '[crio.runtime]\ndevice_ownership_from_security_context = true\n');
      const pod = await node.cri.runPod();
      const id = await idle(node, pod, {
        ...secured({ runAsUser: { value: 1234n }, runAsGroup: { value: 5678n } }),
        devices: [{ hostPath: '/dev/zero', containerPath: '/dev/mine', permissions: 'rw' }],
      });
      assert.equal(await sh(node, id, 'stat -c %u:%g /dev/mine'), '1234:5678');
      await node.cri.removePod(pod.id);
    });

    it('gets CDI devices, by field and annotation, from specs as they are now', async () => {
      const dirs = [join(node.dir, 'cdi-a'), join(node.dir, 'cdi-b')];
      await mkdir(dirs[0] ?? '');
      await reconfigure(node, `[crio.runtime]\ncdi_spec_dirs = ${JSON.stringify(dirs)}\n`);
      const pod = await node.cri.runPod();
      await refusal(idle(node, pod, { cdiDevices: [{ name: 'acme.example/gpu=log' }] }), 'acme.example/gpu=log');
      await writeFile(join(dirs[0] ?? '', 'broken.json'), '{');
      await writeFile(join(node.dir, 'lib'), 'library');
      await writeFile(
        join(dirs[0] ?? '', 'acme.yaml'),
        `cdiVersion: "0.6.0"
kind: acme.example/gpu
containerEdits:
  env: [ACME=all]
  hooks: []
devices:
  - name: log
    containerEdits:
      deviceNodes: [{path: /dev/gpu0, hostPath: /dev/kmsg, permissions: r}]
      mounts: [{hostPath: ${join(node.dir, 'lib')}, containerPath: /usr/lib/acme, options: [ro, bind]}]
  - name: one
    containerEdits:
      env: [ONE=1]
      additionalGids: [4242]
`,
      );
      const id = await idle(node, pod, {
        cdiDevices: [{ name: 'acme.example/gpu=log' }],
        annotations: { 'cdi.k8s.io/plugin': 'acme.example/gpu=one,acme.example/gpu=log' },
      });
      assert.equal(
        await sh(node, id, 'echo $ACME $ONE; stat -c %t:%T /dev/gpu0; cat /usr/lib/acme; id -G'),
        'all 1\n1:b\nlibrary0 4242',
      );
      assert.isTrue(await fails(node, id, 'echo x > /dev/gpu0'));
      assert.include([...((await node.cri.container(id)).user?.linux?.supplementalGroups ?? [])], 4242n);
      // A directory that comes later wins, and is seen without a restart.
      await mkdir(dirs[1] ?? '');
      await writeFile(
        join(dirs[1] ?? '', 'newer.json'),
        JSON.stringify({
          cdiVersion: '0.6.0',
          kind: 'acme.example/gpu',
          devices: [{ name: 'one', containerEdits: { env: ['ONE=2'] } }],
        }),
      );
      assert.equal(
        await sh(node, await idle(node, pod, { cdiDevices: [{ name: 'acme.example/gpu=one' }] }), 'echo $ACME$ONE'),
        '2',
      );
      await refusal(
        idle(node, pod, { cdiDevices: [{ name: 'acme.example/gpu=none' }] }),
        /acme\.example\/gpu=none.*broken\.json/,
      );
      await refusal(idle(node, pod, { cdiDevices: [{ name: 'no-name' }] }), 'no-name');
      await node.cri.removePod(pod.id);
    });

    it('runs the OCI hooks that match it', async () => {
      const dir = join(node.dir, 'hooks.d');
      await mkdir(dir);
      await reconfigure(node, `[crio.runtime]\nhooks_dir = ["${dir}"]\n`);
      const script = join(node.dir, 'hook.sh');
      await writeFile(script, `#!/bin/sh\ncat > ${node.dir}/hook-said\n`, { mode: 0o755 });
      await writeFile(
        join(dir, '10-test.json'),
        JSON.stringify({
          version: '1.0.0',
          hook: { path: script },
          when: { annotations: { '^com\\.example\\.hook$': 'yes' } },
          stages: ['createRuntime'],
        }),
      );
      await writeFile(join(dir, '20-broken.json'), JSON.stringify({ version: '2.0.0' }));
      const pod = await node.cri.runPod();
      await idle(node, pod);
      assert.isFalse(existsSync(join(node.dir, 'hook-said')));
      const id = await idle(node, pod, { annotations: { 'com.example.hook': 'yes' } });
      assert.equal((JSON.parse(await readFile(join(node.dir, 'hook-said'), 'utf8')) as { readonly id: string }).id, id);
      await writeFile(
        join(dir, '10-test.json'),
        JSON.stringify({
          version: '1.0.0',
          hook: { path: '/bin/false' },
          when: { always: true },
          stages: ['createRuntime'],
        }),
      );
      await refusal(idle(node, pod), /hook/i);
      await node.cri.removePod(pod.id);
    });
  });
}

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
      assert.include(await sh(node, id, 'cat /proc/self/cgroup'), `/berth/${pod.id}/`);
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
