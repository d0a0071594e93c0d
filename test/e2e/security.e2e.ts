/**
 * Bad inputs that belong to pods and containers: sysctls, commands, what they see of the node, and odd configs, each
 * named by the incident that it comes from: rejected, or harmless. What belongs to images, registries, streams and
 * archives is tested where that is.
 */
import { assert } from 'chai';
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { ContainerConfig, Input, PodSandboxConfig } from '../../pkg/cri-api/types.ts';
import { type CriError, type Pod } from './cri-client.ts';
import { descriptorsOf, IMAGE, TestNode } from './harness.ts';
import { dir } from './images.ts';
import { addImage, host, idle, IDLE, refusal, sh } from './inside.ts';
import { RUNTIMES, secured } from './container-ground.ts';

const MiB = 1 << 20;
const POD_OPTIONS = { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } as const;

/** gRPC's numbers of what a refusal of a request may be. */
const INVALID_ARGUMENT = 3;
const NOT_FOUND = 5;
const RESOURCE_EXHAUSTED = 8;

function rssKb(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

for (const runtime of RUNTIMES) {
  describe(`hostile pods and containers with ${runtime}`, function () {
    this.timeout(120_000);
    let node: TestNode;
    before(async () => {
      node = await TestNode.boot({ runtime });
    });
    after(() => node.close());
    afterEach(() => node.clear());

    const nothingIsLeft = async (): Promise<void> => {
      assert.deepEqual((await node.cri.rpc.listPodSandbox()).items, []);
      assert.deepEqual(readdirSync(join(node.dir, 'run/sandboxes')), []);
    };

    describe('sysctls', () => {
      it('CVE-2022-0811: a value cannot smuggle in another setting', async () => {
        const pattern = readFileSync('/proc/sys/kernel/core_pattern', 'utf8');
        for (const value of [
          '1+kernel.core_pattern=|/tmp/x #',
          '1\nkernel.core_pattern=x',
          '1 kernel.core_pattern = |x',
          '1;reboot',
        ]) {
          await refusal(
            node.cri.runPod({ linux: { sysctls: { 'kernel.shm_rmid_forced': value } } }),
            'kernel.shm_rmid_forced',
          );
        }
        for (const name of [
          'kernel.core_pattern',
          'kernel.shm_rmid_forced+kernel.core_pattern',
          'net/../kernel/core_pattern',
          'net..ipv4',
          '',
        ]) {
          await refusal(node.cri.runPod({ linux: { sysctls: { [name]: '1' } } }), 'sysctl');
        }
        assert.equal(readFileSync('/proc/sys/kernel/core_pattern', 'utf8'), pattern);
        await nothingIsLeft();
      });

      it('CVE-2022-0532: the settings of the node are not those of a pod that shares its namespaces', async () => {
        const files = ['/proc/sys/net/ipv4/ip_forward', '/proc/sys/kernel/shmmax'];
        // The first pod on a bridge makes its plugin switch forwarding on.
        await node.cri.removePod((await node.cri.runPod()).id);
        const before = files.map((path) => readFileSync(path, 'utf8'));
        const pod = (kind: 'network' | 'ipc', sysctl: string): Promise<Pod> =>
          node.cri.runPod({
            linux: {
              sysctls: { [sysctl]: '7' },
              securityContext: { namespaceOptions: { ...POD_OPTIONS, [kind]: 'NODE' } },
            },
          });
        // They are left out, as CRI-O does, which says so in its log.
        await node.cri.removePod((await pod('network', 'net.ipv4.ip_forward')).id);
        await node.cri.removePod((await pod('ipc', 'kernel.shmmax')).id);
        assert.include(node.log, 'the pod shares the network namespace of the node');
        assert.include(node.log, 'the pod shares the IPC namespace of the node');
        assert.deepEqual(
          files.map((path) => readFileSync(path, 'utf8')),
          before,
        );
        const own = await node.cri.runPod({
          linux: {
            sysctls: { 'net.ipv4.ip_forward': '1', 'kernel.shmmax': '12345' },
            securityContext: { namespaceOptions: POD_OPTIONS },
          },
        });
        assert.equal(
          await sh(node, await idle(node, own), 'cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax'),
          '1\n12345',
        );
        assert.deepEqual(
          files.map((path) => readFileSync(path, 'utf8')),
          before,
        );
        await node.cri.removePod(own.id);
      });
    });

    describe('commands', () => {
      it('CVE-2022-1708: output without end is cut at 16 MiB and does not stay in memory', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod);
        const flood = async (): Promise<void> => {
          const { stdout, exitCode } = await node.cri.rpc.execSync({
            containerId: id,
            cmd: ['sh', '-c', 'busybox dd if=/dev/zero bs=1M count=100 2>/dev/null; exit 4'],
            timeout: 0n,
          });
          assert.deepEqual([stdout.length, exitCode], [16 * MiB, 4], 'the command went on to its end');
        };
        // The heap finds its size in the first rounds.
        for (let round = 0; round < 3; round++) await flood();
        const before = rssKb(node.pid, 'VmRSS');
        const grown: number[] = [];
        for (let round = 0; round < 8; round++) {
          await flood();
          grown.push(rssKb(node.pid, 'VmRSS') - before);
        }
        // What the last reply left may wait for the collector; what stays shows in every round.
        assert.isBelow(Math.min(...grown.slice(4)), 40 * 1024, `grown by ${grown.join(', ')} kB`);
        await node.cri.removePod(pod.id);
      });

      // The daemon's own doing, whatever the runtime: once is enough for 1.6 GiB.
      if (runtime === 'crun')
        it('CVE-2022-31030: nor does it a hundredfold', async () => {
          const pod = await node.cri.runPod();
          const ids = await Promise.all([idle(node, pod), idle(node, pod)]);
          await node.cri.exec(ids[0] ?? '', ['true']);
          const before = rssKb(node.pid, 'VmRSS');
          await Promise.all(
            Array.from({ length: 100 }, async (_, i) => {
              const { stdout } = await node.cri.rpc.execSync({
                containerId: ids[i % 2] ?? '',
                cmd: ['sh', '-c', 'busybox dd if=/dev/zero bs=1M count=17 2>/dev/null'],
                timeout: 0n,
              });
              assert.equal(stdout.length, 16 * MiB);
            }),
          );
          // 1 600 MiB went by; two at a time are kept, each in its copies on the way to the client.
          assert.isBelow(rssKb(node.pid, 'VmHWM') - before, 300 * 1024);
          await node.cri.removePod(pod.id);
        });

      it('GHSA-7jxh-36q5-gcqv: a grandchild that holds the pipe holds nobody', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod);
        await node.cri.exec(id, ['true']);
        const before = await descriptorsOf(node.pid);
        for (let batch = 0; batch < 10; batch++) {
          await Promise.all(
            Array.from({ length: 5 }, async () =>
              assert.equal(
                (await node.cri.exec(id, ['sh', '-c', 'sleep 31536000 & exit 0'], { timeoutSeconds: 20 })).exitCode,
                0,
              ),
            ),
          );
        }
        const started = performance.now();
        await node.cri.exec(id, ['sh', '-c', 'sleep 31536000 & exit 0']);
        assert.isBelow(performance.now() - started, 5_000);
        assert.isAtMost((await descriptorsOf(node.pid)) - before, 2);
        await node.cri.removePod(pod.id);
      });

      it('CVE-2019-5736: the runtime cannot be overwritten from inside', async () => {
        const binary = join('/usr', runtime === 'runc' ? 'sbin/runc' : 'bin/crun');
        const path = existsSync(binary) ? binary : host('which', runtime).trim();
        const before = host('sha256sum', path);
        const pod = await node.cri.runPod();
        const id = await node.cri.runContainer(pod, IMAGE, { command: ['/proc/self/exe', 'x'] }).catch(() => undefined);
        if (id !== undefined) await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
        const victim = await idle(node, pod, {
          command: [
            'sh',
            '-c',
            'while :; do for p in /proc/[0-9]*; do (echo pwned > $p/exe) 2>/dev/null; done; sleep 0.05; done',
          ],
        });
        for (let round = 0; round < 5; round++)
          await node.cri.rpc.execSync({ containerId: victim, cmd: ['/proc/self/exe'], timeout: 5n }).catch(() => {});
        assert.equal(host('sha256sum', path), before);
        await node.cri.removePod(pod.id);
      });
    });

    describe('the node', () => {
      it('CVE-2020-15257: no socket of ours can be reached from a pod on the host network', async () => {
        const pod = await node.cri.runPod({
          linux: { securityContext: { namespaceOptions: { ...POD_OPTIONS, network: 'NODE' } } },
        });
        const id = await idle(node, pod, {
          linux: { securityContext: { namespaceOptions: { ...POD_OPTIONS, network: 'NODE' } } },
        });
        const ours = [node.pid, ...monitors(node)]
          .flatMap((pid) => readdirSync(`/proc/${pid}/fd`).map((fd) => linkOr(`/proc/${pid}/fd/${fd}`)))
          .flatMap((each) => /^socket:\[(\d+)\]$/.exec(each)?.[1] ?? []);
        assert.isNotEmpty(ours);
        const abstract = readFileSync('/proc/net/unix', 'utf8')
          .split('\n')
          .filter((line) => / @/.test(line))
          .map((line) => line.trim().split(/\s+/)[6] ?? '');
        assert.deepEqual(
          abstract.filter((inode) => ours.includes(inode)),
          [],
        );
        assert.equal(statSync(join(node.dir, 'run/containers', id)).mode & 0o077, 0);
        assert.equal(statSync(node.socket).mode & 0o777, 0o660);
        await node.cri.removePod(pod.id);
      });

      it('CVE-2021-41103, CVE-2024-25621: other users of the node see nothing of ours', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod);
        const mode = (path: string): number => statSync(join(node.dir, path)).mode & 0o777;
        for (const path of ['root', 'run', 'run/sandboxes', 'run/containers', 'run/ns', 'root/rootfs'])
          assert.include([0o700, 0o711], mode(path), path);
        for (const path of [
          'run/exits',
          'root/layers',
          `run/sandboxes/${pod.id}`,
          `run/containers/${id}`,
          `root/rootfs/${id}`,
          `run/ns/${pod.id}`,
        ])
          assert.include([0o700, 0o711], mode(path), path);
        for (const path of [`run/sandboxes/${pod.id}`, `run/containers/${id}`, `root/rootfs/${id}`])
          assert.equal(mode(path), 0o700, path);
        for (const name of readdirSync(join(node.dir, 'run/containers', id)))
          if (/\.json$|^record/.test(name)) assert.equal(mode(`run/containers/${id}/${name}`) & 0o077, 0, name);
        await node.cri.removePod(pod.id);
      });

      if (runtime === 'runc')
        it(
          'CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: an old runc is named once in the log, and ' + 'by the check',
          async () => {
            const warnings = node.log.split('\n').filter((line) => line.includes('known to be vulnerable'));
            const starts = node.log.split('\n').filter((line) => line.includes('msg=serving'));
            const { facts } = await node.cri.rpc.check({ repair: false });
            const row = facts.find(({ name }) => name === 'runtime runc');
            if (/version 1\.1\.|version 1\.0\./.test(host('runc', '--version'))) {
              assert.lengthOf(warnings, starts.length);
              assert.match(
                warnings[0] ?? '',
                /level=warn .*runtime=runc.*CVE-2025-31133, CVE-2025-52565, CVE-2025-52881/,
              );
              assert.include(row?.advice, 'CVE-2025-31133');
            } else assert.equal(row?.advice, '');
          },
        );

      it('CVE-2019-14891: a pod that eats its memory does not take its monitor along', async () => {
        const pod = await node.cri.runPod();
        const limit = { linux: { resources: { memoryLimitInBytes: BigInt(24 * MiB) } } };
        const id = await node.cri.runContainer(pod, IMAGE, {
          command: ['sh', '-c', 'while :; do busybox dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; done'],
          ...limit,
        });
        const [monitor] = monitors(node);
        assert.isDefined(monitor);
        assert.notInclude(readFileSync(`/proc/${monitor}/cgroup`, 'utf8'), pod.id);
        await node.cri.rpc.stopContainer({ containerId: id, timeout: 0n });
        assert.equal((await node.cri.container(id)).exitCode, 137, 'its monitor wrote down how it ended');
        await node.cri.removePod(pod.id);
      });

      it('pelagos#347: an empty or odd id removes nothing', async () => {
        const pod = await node.cri.runPod();
        const id = await idle(node, pod);
        for (const odd of ['', '.', '..', '/', '../..', 'a/b', '-x', '\n', `${id}/..`]) {
          for (const call of [
            node.cri.rpc.removeContainer({ containerId: odd }),
            node.cri.rpc.stopContainer({ containerId: odd }),
            node.cri.rpc.removePodSandbox({ podSandboxId: odd }),
            node.cri.rpc.stopPodSandbox({ podSandboxId: odd }),
            node.cri.rpc.containerStatus({ containerId: odd }),
            node.cri.rpc.execSync({ containerId: odd, cmd: ['true'] }),
          ])
            assert.equal((await refusal(call, '')).code, INVALID_ARGUMENT, JSON.stringify(odd));
        }
        assert.equal((await node.cri.container(id)).state, 'CONTAINER_RUNNING');
        await node.cri.removePod(pod.id);
      });
    });

    describe('odd configs are refused and leave nothing', () => {
      const pods: readonly (readonly [what: string, config: Input<PodSandboxConfig>])[] = [
        ['a name of 10 MB', { metadata: { name: 'x'.repeat(10_000_000) } }],
        [
          '100 000 annotations',
          {
            annotations: Object.fromEntries(
              Array.from({ length: 100_000 }, (_, i) => [`annotation-${i}`, 'x'.repeat(30)]),
            ),
          },
        ],
        [
          '100 000 ports',
          {
            portMappings: Array.from({ length: 100_000 }, (_, i) => ({
              protocol: 'TCP' as const,
              containerPort: i % 65_536,
              hostPort: 0,
              hostIp: '',
            })),
          },
        ],
        ['a hostname with a slash', { hostname: 'a/b' }],
        ['a hostname of 300 characters', { hostname: 'h'.repeat(300) }],
        [
          'a search domain with a line end',
          { dnsConfig: { servers: [], searches: ['a\nnameserver 6.6.6.6'], options: [] } },
        ],
        [
          'a DNS option with a line end',
          { dnsConfig: { servers: [], searches: [], options: ['ndots:5\nnameserver 6.6.6.6'] } },
        ],
        ['a name server that is no address', { dnsConfig: { servers: ['evil.example'], searches: [], options: [] } }],
        ['a port of -1', { portMappings: [{ protocol: 'TCP', containerPort: -1, hostPort: 80, hostIp: '' }] }],
        ['a port of 65536', { portMappings: [{ protocol: 'TCP', containerPort: 80, hostPort: 65_536, hostIp: '' }] }],
        [
          'a host address that is none',
          { portMappings: [{ protocol: 'TCP', containerPort: 80, hostPort: 80, hostIp: '1.2.3.4; iptables -F' }] },
        ],
        ['a cgroup parent that leads up', { linux: { cgroupParent: '../../x' } }],
      ];
      for (const [what, config] of pods) {
        it(`a pod with ${what}`, async () => {
          const error: CriError = await refusal(node.cri.runPod(config), '');
          assert.include([INVALID_ARGUMENT, RESOURCE_EXHAUSTED], error.code, error.message);
          assert.isBelow(error.message.length, 2_000);
          await nothingIsLeft();
        });
      }

      it('a pod with a runtime handler that is a path', async () => {
        for (const handler of ['../../bin/sh', '/bin/sh', 'no-such', 'runc;x'])
          await refusal(node.cri.runPod({}, { handler }), /handler/);
        await nothingIsLeft();
      });

      const containers: readonly (readonly [what: string, config: Input<ContainerConfig>])[] = [
        ['an environment value with NUL', { envs: [{ key: 'A', value: Buffer.from('a\0b') }] }],
        ['an environment value of 200 KB', { envs: [{ key: 'A', value: Buffer.alloc(200_000, 'a') }] }],
        ['an environment name with =', { envs: [{ key: 'A=B', value: Buffer.from('x') }] }],
        [
          '5 000 mounts',
          { mounts: Array.from({ length: 5_000 }, (_, i) => ({ containerPath: `/m${i}`, hostPath: '/usr/lib/cni' })) },
        ],
        ['a mount over /', { mounts: [{ containerPath: '/', hostPath: '/usr/lib/cni' }] }],
        ['a mount over .', { mounts: [{ containerPath: '.', hostPath: '/usr/lib/cni' }] }],
        ['a mount without a place', { mounts: [{ containerPath: '', hostPath: '/usr/lib/cni' }] }],
        ['a source that leads up', { mounts: [{ containerPath: '/m', hostPath: '/usr/lib/cni/..' }] }],
        ['a source that is relative', { mounts: [{ containerPath: '/m', hostPath: 'etc' }] }],
        [
          'a device that is a file',
          { devices: [{ hostPath: '/proc/kcore', containerPath: '/dev/kcore', permissions: 'r' }] },
        ],
        ['a device over /', { devices: [{ hostPath: '/dev/zero', containerPath: '/', permissions: 'r' }] }],
        [
          'a device with odd permissions',
          { devices: [{ hostPath: '/dev/zero', containerPath: '/dev/z', permissions: 'rwmx' }] },
        ],
        ['an argument of 200 KB', { command: ['echo', 'a'.repeat(200_000)] }],
        ['an argument with NUL', { command: ['echo', 'a\0b'] }],
        ['nothing to run', { command: [], args: [], image: { image: 'localhost/test/nothing:1' } }],
        ['an image name of 1 MB', { image: { image: 'a'.repeat(1_000_000) } }],
        ['an image name with odd characters', { image: { image: 'bücher:1\n' } }],
        ['a masked path that is relative', secured({ maskedPaths: ['etc'] })],
        ['a negative memory limit', { linux: { resources: { memoryLimitInBytes: -2n } } }],
        ['an OOM score of 1001', { linux: { resources: { oomScoreAdj: 1001n } } }],
      ];
      it('containers', async () => {
        await addImage(node, 'nothing', { layers: [{ files: [dir('bin')], compression: 'none' }] });
        const pod = await node.cri.runPod();
        for (const [what, config] of containers) {
          const error = await node.cri
            .createContainer(pod, IMAGE, {
              ...(config.image === undefined && config.command === undefined ? { command: IDLE } : {}),
              ...config,
            })
            .then(
              () => undefined,
              (cause: unknown) => cause as CriError,
            );
          assert.include(
            [INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED],
            error?.code ?? -1,
            `${what}: ${error?.message}`,
          );
          assert.isBelow(error?.message.length ?? 0, 2_000, what);
        }
        assert.deepEqual((await node.cri.rpc.listContainers()).containers, []);
        assert.deepEqual(readdirSync(join(node.dir, 'run/containers')), []);
        assert.deepEqual(
          readdirSync(join(node.dir, 'root/rootfs')).filter((name) => !name.startsWith('.')),
          [],
        );
        await node.cri.removePod(pod.id);
      });

      it('mounts over /proc, /dev and /sys stay in the container', async () => {
        const pod = await node.cri.runPod();
        for (const containerPath of ['/proc', '/sys', '/dev', '/proc/sys', '/sys/fs/cgroup']) {
          await node.cri
            .runContainer(pod, IMAGE, {
              command: ['true'],
              mounts: [{ containerPath, hostPath: '/usr/lib/cni', readonly: true }],
            })
            .catch(() => undefined);
        }
        assert.isTrue(existsSync('/proc/self/status'));
        await node.cri.removePod(pod.id);
      });
    });
  });
}

/** Monitors of the node's containers. */
function monitors(node: TestNode): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return (
          readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'conmon' &&
          readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(node.dir)
        );
      } catch {
        return false;
      }
    });
}

function linkOr(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
