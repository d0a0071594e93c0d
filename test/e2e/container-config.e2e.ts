/** What the configuration of the node adds to containers, with runc and crun. */
import { assert } from 'chai';
import { existsSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { IMAGE, type RuntimeName, TestNode } from './harness.ts';
import { busybox, dir, file, symlink as link } from './images.ts';
import { addImage, fails, idle, mountAt, procStatus, reconfigure, refusal, sh } from './inside.ts';
import { bit, CAP, namespaces, RUNTIMES, secured } from './container-ground.ts';

/** A workload and a handler that each add something, and a profile for all that is not there. */
const workloadsOf = (runtime: RuntimeName, profile: string): string => `[crio.runtime]
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
`;

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
        await mkdir(join(node.dir, 'entitlement'));
        await writeFile(join(node.dir, 'entitlement/pem'), 'P');
        await symlink('../entitlement', join(node.dir, 'secrets/etc-pki'));
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
default_sysctls = ["net.ipv4.ping_group_range=0 123", "vm.swappiness=1"]
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
            'cd /run/secrets; cat key etc-pki/pem; ls -d /absent 2>/dev/null; echo $FROM_NODE; grep "open files" ' +
              '/proc/1/limits | tr -s " " | cut -d" " -f4,5; stat -c %t:%T /dev/more; date +%z',
          ),
          'KP1\n1024 2048\n1:5\n+1400',
        );
        assert.isTrue(await fails(node, id, 'touch /run/secrets/x'));
        assert.equal(await procStatus(node, id, 'CapBnd'), '0000000000000001');
        assert.equal(await sh(node, id, 'cat /proc/sys/net/ipv4/ping_group_range'), '0\t123');
        assert.match(node.log, /default_sysctls: .*vm\.swappiness.*: not namespaced/);
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
          await sh(
            node,
            await idle(node, other, { imageName: image, ...secured({ runAsUser: { value: 1000n } }) }),
            'stat -c "%a %u" /var /var/deep /mine',
          ),
          '755 0\n755 1000\n755 1000',
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
      await reconfigure(node, workloadsOf(runtime, profile));
      assert.include(node.log, 'a seccomp profile is not there');
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
