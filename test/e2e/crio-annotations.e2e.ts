/** What CRI-O's annotations and the keys that belong to them do to containers, on a daemon of its own. */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { text as textOf } from 'node:stream/consumers';
import { assert } from 'chai';
import type { RuntimeSpec } from '../../pkg/oci/spec-types.ts';
import type { Pod } from './cri-client.ts';
import { waitFor } from './cri-client.ts';
import { IMAGE, type RuntimeName, TestNode } from './harness.ts';
import { fails, host, idle, mountAt, reconfigure, refusal, sh } from './inside.ts';
import { cgroupFile, cgroupOfKubelet, containerCgroup, V2 } from './node-cgroups.ts';

/** Whole processors, as the kubelet gives them to a guaranteed pod. */
const WHOLE = { resources: { cpuShares: 1024n, cpusetCpus: '0' } } as const;
const RUNTIMES: readonly RuntimeName[] = ['runc', 'crun'];

for (const runtime of RUNTIMES) {
  describe(`a container of ${runtime} that CRI-O’s annotations change`, function () {
    this.timeout(60_000);
    let node: TestNode;
    before(async () => {
      node = await TestNode.boot({ runtime });
      node.moreFlags = ['--enable-metrics', '--metrics-port', '0', '--metrics-socket', join(node.dir, 'metrics.sock')];
    });
    after(() => node.close());

    /** Allows annotations, and says more of the runtime's table, or of others. */
    const allow = (names: readonly string[], more = ''): Promise<void> =>
      reconfigure(node, `[crio.runtime.runtimes.${runtime}]\nallowed_annotations = ${JSON.stringify(names)}\n${more}`);
    const specOf = (id: string): RuntimeSpec =>
      JSON.parse(readFileSync(join(node.dir, 'run/containers', id, 'config.json'), 'utf8')) as RuntimeSpec;
    const scrape = (): Promise<string> =>
      new Promise((resolve, reject) => {
        const socketPath = join(node.dir, 'metrics.sock');
        const asked = request({ socketPath, path: '/metrics', agent: false }, (response) => {
          textOf(response).then(resolve, reject);
        });
        asked.on('error', reject).end();
      });

    it('has GOMAXPROCS of min_injected_gomaxprocs where its pod has no limit, unless that skips it', async () => {
      await reconfigure(node, '[crio.runtime]\nmin_injected_gomaxprocs = 3\n');
      const kubelet = cgroupOfKubelet(node.driver, `berthburstable${process.pid}`);
      const linux = { cgroupParent: kubelet.parent };
      const pod = await node.cri.runPod({ linux });
      const resources = { cpuShares: 2048n };
      assert.equal(await sh(node, await idle(node, pod), 'echo $GOMAXPROCS'), '3');
      const larger = await idle(node, pod, { linux: { resources } });
      assert.equal(await sh(node, larger, 'echo $GOMAXPROCS'), '4', 'twice what it asks for');
      const other = await node.cri.runPod({ linux, annotations: { 'skip-gomaxprocs.crio.io': 'true' } });
      assert.equal(await sh(node, await idle(node, other), 'echo $GOMAXPROCS'), '');
      for (const { id } of [pod, other]) await node.cri.removePod(id);
      kubelet.remove();
    });

    it('may write below /sys/fs/cgroup where cgroup2-mount-hierarchy-rw says so', async () => {
      const annotations = { 'io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw': 'true' };
      await allow(['cgroup2-mount-hierarchy-rw.crio.io']);
      const pod = await node.cri.runPod({ annotations });
      const place = V2 ? '/sys/fs/cgroup' : '/sys/fs/cgroup/pids';
      assert.match(await mountAt(node, await idle(node, pod), place), / rw\b/);
      const other = await node.cri.runPod();
      assert.match(await mountAt(node, await idle(node, other), place), / ro\b/);
      for (const { id } of [pod, other]) await node.cri.removePod(id);
    });

    it('hands annotations on to its runtime where a name or a beginning allows them, and no others', async () => {
      const handed = {
        'io.containers.trace-syscall': 'of:/tmp/x.json',
        'org.systemd.property.CollectMode': "'inactive-or-failed'",
        'org.criu.config': '/etc/criu/none.conf',
        'module.wasm.image/variant': 'none',
        'io.kubernetes.cri.container-type': 'container',
        'run.oci.hooks.stdout': '/dev/null',
        bundle: 'none',
      };
      const kept = { 'run.ocinot': '1', 'example.com/mine': '1' };
      const pod = await node.cri.runPod({ annotations: { ...handed, ...kept } });
      const plain = await idle(node, pod);
      assert.deepEqual(specOf(plain).annotations ?? {}, {}, 'nothing is allowed by itself');
      await node.cri.removePod(pod.id);
      await allow(Object.keys(handed).map((name) => name.replace(/(?<=^(org\.systemd\.property|run\.oci)\.).*/, '')));
      const other = await node.cri.runPod({ annotations: { ...handed, ...kept } });
      const id = await node.cri.createContainer(other, IMAGE, { command: ['sleep', '1000'] });
      assert.deepEqual(specOf(id).annotations, handed);
      await node.cri.removePod(other.id);
    });

    it('has the rates of its class of block I/O (blockio_config_file)', async () => {
      const classes = join(node.dir, 'blockio.yaml');
      const slow = (rate: string): string =>
        `Classes:\n  slow:\n  - Devices: [/dev/loop0, /dev/nothing*]\n    ThrottleReadBps: ${rate}\n`;
      await writeFile(classes, slow('1M'));
      await reconfigure(node, `[crio.runtime]\nblockio_config_file = "${classes}"\n`);
      const annotations = {
        'blockio.resources.beta.kubernetes.io/pod': 'fast',
        'blockio.resources.beta.kubernetes.io/container.app': 'slow',
      };
      const pod = await node.cri.runPod({ annotations });
      const rate = async (name: string): Promise<string> => {
        const id = await idle(node, pod, { metadata: { name } });
        const { driver } = node;
        return cgroupFile(containerCgroup(driver, pod.id, id), 'blkio', 'blkio.throttle.read_bps_device', 'io.max');
      };
      assert.match(await rate('app'), /^7:0 (rbps=)?1000000\b/);
      assert.equal(await rate('other'), '', 'a class that is not there is a warning');
      assert.include(node.log, 'is not in blockio_config_file');
      await node.cri.removePod(pod.id);
      await writeFile(classes, slow('2M'));
      const next = await node.cri.runPod({ annotations });
      const id = await node.cri.createContainer(next, IMAGE, { metadata: { name: 'app' }, command: ['true'] });
      assert.equal(Number(specOf(id).linux.resources?.blockIO?.throttleReadBpsDevice?.[0]?.rate), 2_000_000);
      await node.cri.removePod(next.id);
      // One of cache and memory bandwidth cannot be had.
      const rdt = await node.cri.runPod({ annotations: { 'rdt.resources.beta.kubernetes.io/pod': 'gold' } });
      await refusal(idle(node, rdt), 'refusing to set RDT class');
      await node.cri.removePod(rdt.id);
    });

    describe('with whole processors', () => {
      /** Running in a pod with these annotations. */
      async function whole(annotations: Record<string, string>): Promise<{ readonly pod: Pod; readonly id: string }> {
        const pod = await node.cri.runPod({ annotations });
        return { pod, id: await idle(node, pod, { metadata: { name: 'app' }, linux: WHOLE }) };
      }
      it('shares those of shared_cpuset where cpu-shared says so, and begins commands there', async () => {
        const annotations = { 'cpu-shared.crio.io/app': 'enable' };
        await allow(['cpu-shared.crio.io']);
        const none = await node.cri.runPod({ annotations });
        await refusal(idle(node, none, { metadata: { name: 'app' }, linux: WHOLE }), 'shared CPUs were requested');
        await allow(['cpu-shared.crio.io'], 'exec_cpu_affinity = "first"\n[crio.runtime]\nshared_cpuset = "1"\n');
        const { pod, id } = await whole(annotations);
        const cpuset = cgroupFile(containerCgroup(node.driver, pod.id, id), 'cpuset', 'cpuset.cpus');
        assert.equal(cpuset, '0-1');
        assert.equal(await sh(node, id, 'echo $OPENSHIFT_ISOLATED_CPUS $OPENSHIFT_SHARED_CPUS'), '0 1');
        assert.deepInclude(specOf(id).process, { execCPUAffinity: { initial: '1' } });
        for (const each of [pod, none]) await node.cri.removePod(each.id);
      });

      it('changes their idle states, governor and interrupts from its start to its end, and irqbalance', async () => {
        const irqbalance = join(node.dir, 'irqbalance');
        const original = join(node.dir, 'irqbalance.original');
        const cpu = await fakeCpu(node.dir);
        try {
          const keys = `irqbalance_config_file = "${irqbalance}"\nirqbalance_config_restore_file = "${original}"\n`;
          await writeFile(irqbalance, 'IRQBALANCE_ONESHOT=no\nIRQBALANCE_BANNED_CPUS="2"\n');
          await writeFile(original, '0');
          const names = ['cpu-c-states.crio.io', 'cpu-freq-governor.crio.io', 'irq-load-balancing.crio.io'];
          await allow(names, `[crio.runtime]\n${keys}`);
          const banned = (): string | undefined =>
            /BANNED_CPUS="?([^"\n]*)/.exec(readFileSync(irqbalance, 'utf8'))?.[1]?.replace(/^0+(?=.)/, '');
          assert.equal(banned(), '0', 'what it was before the boot');
          const [states, governor, interrupts] = names as [string, string, string];
          const { pod, id } = await whole({
            [states]: 'max_latency:10',
            [governor]: 'performance',
            [interrupts]: 'disable',
          });
          assert.deepEqual(cpu.now(), { latency: '10', governor: 'performance', mask: 'fffffffe' });
          assert.equal(banned(), '1');
          await node.kill();
          await node.start();
          await node.cri.rpc.stopContainer({ containerId: id, timeout: 0n });
          await waitFor(
            () => JSON.stringify([cpu.now(), banned()]),
            (now) => now === JSON.stringify([{ latency: '0', governor: 'powersave', mask: 'ffffffff' }, '0']),
            'the processor to be as it was',
          );
          await node.cri.removePod(pod.id);
        } finally {
          cpu.remove();
        }
      });
    });

    describe('and its seccomp profile tells of what it blocks', () => {
      const NAME = 'seccomp-notifier-action.crio.io';
      const seccomp = { profileType: 'RuntimeDefault', localhostRef: '' } as const;
      const secured = { linux: { securityContext: { seccomp } } };
      const blocked = (id: string): readonly string[] =>
        node.log.split('\n').filter((line) => line.includes(`Seccomp blocked syscall 'swapoff' in container ${id}`));
      const swapoff = (id: string): Promise<boolean> => fails(node, id, 'swapoff /dev/null 2>/dev/null');

      it('in the log and in the metrics, also of commands, and over a restart, where it may', async () => {
        await allow([NAME]);
        const pod = await node.cri.runPod({ annotations: { [NAME]: '' } });
        const command = ['sh', '-c', 'swapoff /dev/null; exec sleep 1000'];
        const id = await node.cri.runContainer(pod, IMAGE, { metadata: { name: 'app' }, command, ...secured });
        const series = /containers_seccomp_notifier_count_total\{name="k8s_app_[^"]+",syscall="swapoff"\} (\d+)/;
        const counted = async (): Promise<number> => Number(series.exec(await scrape())?.[1] ?? 0);
        await waitFor(counted, (count) => count === 1, 'its own call to be counted');
        assert.isTrue(await swapoff(id));
        await waitFor(counted, (count) => count === 2, 'that of a command to be counted');
        assert.lengthOf(blocked(id), 2);
        await node.kill();
        await node.start();
        assert.isTrue(await swapoff(id));
        await waitFor(counted, (count) => count === 1, 'a call after the restart to be counted');
        assert.equal((await node.cri.container(id)).state, 'CONTAINER_RUNNING');
        await node.cri.removePod(pod.id);
        const other = await node.cri.runPod();
        const untold = await idle(node, other, secured);
        assert.isTrue(await swapoff(untold));
        assert.isEmpty(blocked(untold));
        await node.cri.removePod(other.id);
      });

      it('and ends it for that where the action is stop, with CRI-O’s reason', async () => {
        await allow([NAME]);
        const pod = await node.cri.runPod({ annotations: { 'io.kubernetes.cri-o.seccompNotifierAction': 'stop' } });
        const id = await idle(node, pod, secured);
        for (let count = 0; count < 3; count++) assert.isTrue(await swapoff(id));
        const { reason, message, exitCode } = await waitFor(
          () => node.cri.container(id),
          ({ state }) => state === 'CONTAINER_EXITED',
          'the container to be ended',
          { timeoutMs: 30_000 },
        );
        assert.deepEqual(
          { reason, message, exitCode },
          { reason: 'seccomp killed', message: 'Used forbidden syscalls: swapoff (3x)', exitCode: 137 },
        );
        await node.cri.removePod(pod.id);
      });

      it('and lets other programs go on: threads, and a profile of its own', async () => {
        await allow([NAME]);
        const pod = await node.cri.runPod({ annotations: { [NAME]: 'stop' } });
        const profile = join(node.dir, 'profile.json');
        const rules = [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO', errnoRet: 13 }];
        await writeFile(profile, JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: rules }));
        const own = { profileType: 'Localhost', localhostRef: profile } as const;
        const id = await idle(node, pod, { linux: { securityContext: { seccomp: own } } });
        assert.isTrue(await fails(node, id, 'mkdir /tmp/x 2>/dev/null'));
        await waitFor(
          () => node.log,
          (log) => /Seccomp blocked syscall 'mkdir(at)?'/.test(log),
          'the call to be told of',
        );
        await node.cri.removePod(pod.id);
      });
    });

    it('counts that it ran out of memory, in the metrics, by its name', async () => {
      await reconfigure(node, '');
      const pod = await node.cri.runPod();
      const script = 'x=a; while :; do x=$x$x; done';
      const resources = { memoryLimitInBytes: 32n << 20n };
      const id = await node.cri.runContainer(pod, IMAGE, {
        metadata: { name: 'hungry' },
        command: ['sh', '-c', script],
        linux: { resources },
      });
      await waitFor(
        () => node.cri.container(id),
        ({ reason }) => reason === 'OOMKilled',
        'the container to run out of memory',
      );
      assert.match(await scrape(), /containers_oom_count_total\{name="k8s_hungry_[^"]+"\} 1/);
      await node.cri.removePod(pod.id);
    });
  });
}

/** A processor 0 with idle states and governors, and interrupts, over those of the machine: only we see it. */
async function fakeCpu(dir: string): Promise<{
  readonly now: () => { readonly latency: string; readonly governor: string; readonly mask: string };
  readonly remove: () => void;
}> {
  const own = join(dir, 'cpu0');
  const files = {
    'power/pm_qos_resume_latency_us': '0',
    'cpufreq/scaling_governor': 'powersave',
    'cpufreq/scaling_available_governors': 'performance powersave',
    'topology/thread_siblings_list': '0',
    // As wide as the kernel prints it each time; a file keeps what is written.
    mask: 'ffffffff\n',
  };
  for (const [name, text] of Object.entries(files)) {
    await mkdir(join(own, name, '..'), { recursive: true });
    await writeFile(join(own, name), text);
  }
  const places = [
    [own, '/sys/devices/system/cpu/cpu0'],
    [join(own, 'mask'), '/proc/irq/default_smp_affinity'],
  ] as const;
  for (const [source, target] of places) if (existsSync(target)) host('mount', '--bind', source, target);
  const read = (name: string): string =>
    readFileSync(join(own, name), 'utf8')
      .trim()
      .replace(/^0+(?=.)/, '');
  return {
    now: () => ({
      latency: read('power/pm_qos_resume_latency_us'),
      governor: read('cpufreq/scaling_governor'),
      mask: read('mask'),
    }),
    remove: () => {
      for (const [, target] of places) host('umount', target);
    },
  };
}
