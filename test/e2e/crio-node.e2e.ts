/**
 * A node that was CRI-O's: Berth is started with no flag at all where CRI-O ran, and does what CRI-O's files say. What
 * they say that has a test elsewhere is not asked again (docs/CRIO.md names it).
 */
import { assert } from 'chai';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContainerConfig, Input } from '../../pkg/cri-api/types.ts';
import { crioFiles, ownEtc } from './crio-ground.ts';
import { type Pod, podConfig, waitFor } from './cri-client.ts';
import { BUILD, IMAGE, TestNode } from './harness.ts';
import { type BuiltImage, buildImage, busybox, file } from './images.ts';
import { idle, procStatus, refusal, sh } from './inside.ts';
import { onlyFor, type ScriptedRegistry, stallAfter, startScriptedRegistry } from './registry.ts';
import { Command } from './terminal.ts';

const BERTH = new URL('../../build/bin/berth', import.meta.url).pathname;

describe('a node that was CRI-O’s', function () {
  this.timeout(120_000);
  let node: TestNode;
  let registry: ScriptedRegistry;
  let restoreEtc = (): void => {};
  /** A pod with a container that idles. */
  let pod: Pod;
  let container: string;

  before(async () => {
    restoreEtc = ownEtc();
    registry = await startScriptedRegistry();
    node = await TestNode.boot({
      runtime: 'crun',
      // A snapshot of the heap is taken, which holds up everything.
      busyMaxMs: 5_000,
      files: (own) => crioFiles(own, { mirror: registry.host }),
      flags: ['--enable-criu-support=false', '--internal-wipe', '-log-level', 'debug'],
      env: { STREAM_IDLE_TIMEOUT: '3h', CONTAINER_VERSION_FILE_PERSIST: '/x', CONTAINER_LOG_LEVL: 'info' },
    });
    pod = await node.cri.runPod({ annotations: { 'hook-me': 'yes', 'io.openshift.builder': '' } });
    container = await idle(node, pod, { metadata: { name: 'main' } });
  });
  after(async () => {
    await node.close();
    await registry.stop();
    restoreEtc();
  });

  const at = (...names: readonly string[]): string => join(node.dir, ...names);
  /** The monitor of a container: its command line and environment, a word each. */
  async function monitorOf(id: string): Promise<{ pid: number; argv: readonly string[]; env: readonly string[] }> {
    const { info } = await node.cri.rpc.containerStatus({ containerId: id, verbose: true });
    const { monitor } = JSON.parse(info['info'] ?? '{}') as { readonly monitor: { readonly pid: number } };
    const words = async (name: string): Promise<string[]> =>
      (await readFile(`/proc/${monitor.pid}/${name}`, 'utf8')).split('\0');
    return { pid: monitor.pid, argv: await words('cmdline'), env: await words('environ') };
  }
  const noted = (): Promise<string> => readFile(at('ran'), 'utf8');
  async function specOf(id: string): Promise<{ readonly linux: { readonly resources: Record<string, unknown> } }> {
    return JSON.parse(await readFile(at('run/containers', id, 'config.json'), 'utf8')) as never;
  }
  /** A command of `berth` as somebody types it on the node. */
  async function berth(...args: readonly string[]): Promise<{ code: number | string; out: string; err: string }> {
    const command = Command.inPipe([BERTH, ...args]);
    command.process.stdin?.end();
    const code = await command.end();
    return { code, out: command.out, err: command.err };
  }

  it('is read where Berth has no configuration of its own, and that is said', async () => {
    assert.include(node.log, "/etc/berth sets nothing: reading CRI-O's /etc/crio/crio.conf and /etc/crio/crio.conf.d");
    const { out, err, code } = await berth('config');
    assert.strictEqual(code, 0, err);
    assert.include(out, `\nroot = "${at('root')}"\n`);
    assert.include(out, '\npids_limit = 2048\n', 'a later drop-in wins');
  });

  it('has its data at root, its records at runroot, and logs of nameless directories at log_dir', async () => {
    assert.isTrue(existsSync(at('root/layers')) && existsSync(at('run/containers', container, 'record.json')));
    const { logPath } = await node.cri.container(container);
    assert.isTrue(logPath.startsWith(at('logs')), logPath);
  });

  it('serves streams at stream_address and stream_port', async () => {
    const exec = { containerId: container, cmd: ['true'], stdout: true, stderr: true, stdin: false, tty: false };
    const { url } = await node.cri.rpc.exec(exec);
    assert.match(url, /^http:\/\/127\.0\.0\.2:18123\//);
  });

  it('has storage_option in its mounts, and one storage_driver', async () => {
    const mounts = await readFile('/proc/self/mountinfo', 'utf8');
    const own = mounts.split('\n').find((line) => line.includes(container) && line.includes(' overlay '));
    assert.match(own ?? '', /volatile/);
  });

  it('is watched by the conmon that is named, in its environment (conmon_env), outside the pod', async () => {
    const { pid, env } = await monitorOf(container);
    assert.equal(await readlink(`/proc/${pid}/exe`), '/usr/bin/conmon');
    assert.include(env, 'FROM_CRIO=1');
    assert.notInclude(await readFile(`/proc/${pid}/cgroup`, 'utf8'), pod.id, 'conmon_cgroup');
  });

  it('is told no_pivot, and a handler of its own no_sync_log', async () => {
    assert.include((await monitorOf(container)).argv, '--no-pivot');
    assert.notInclude((await monitorOf(container)).argv, '--no-sync-log');
    const other = await node.cri.runPod({}, { handler: 'high-performance' });
    const id = await idle(node, other);
    assert.include((await monitorOf(id)).argv, '--no-sync-log');
    await node.cri.removePod(other.id);
  });

  it('runs the runtime_path that is named, with its runtime_root, also where it is inherited', async () => {
    assert.include(await noted(), `${at('bin/crun')} --root=${at('crun')}`);
    assert.isTrue(existsSync(at('crun', container)));
    const other = await node.cri.runPod(
      { annotations: { 'io.kubernetes.cri-o.umask': '0077' } },
      { handler: 'high-performance' },
    );
    const id = await idle(node, other, { annotations: {} });
    assert.isTrue(existsSync(at('crun', id)), 'inherit_default_runtime');
    assert.equal(await procStatus(node, id, 'Umask'), '0077');
    await node.cri.removePod(other.id);
  });

  it('leaves out a handler whose runtime_type it has not, and says so', async () => {
    assert.match(node.log, /runtime handler kata is left out: runtime_type \\?"vm\\?" is not supported/);
    await refusal(node.cri.runPod({}, { handler: 'kata' }), 'kata');
  });

  it('has inheritable capabilities where add_inheritable_capabilities says so', async () => {
    assert.equal(await procStatus(node, container, 'CapInh'), await procStatus(node, container, 'CapBnd'));
    assert.notMatch(await procStatus(node, container, 'CapInh'), /^0+$/);
  });

  it('has the processes of pids_limit at most', async () => {
    assert.deepInclude((await specOf(container)).linux.resources, { pids: { limit: 2048 } });
  });

  it('keeps an infra container in every pod (drop_infra_ctr = false)', async () => {
    const { info } = await node.cri.rpc.podSandboxStatus({ podSandboxId: pod.id, verbose: true });
    const { pid } = JSON.parse(info['info'] ?? '{}') as { readonly pid: number };
    assert.include(await readFile(`/proc/${pid}/cmdline`, 'utf8'), 'pause');
  });

  it('pins user namespaces by the program of pinns_path', async () => {
    const ids = { hostId: 700_000, containerId: 0, length: 65_536 };
    const userns = { mode: 'POD', uids: [ids], gids: [ids] } as const;
    const options = { network: 'POD', pid: 'CONTAINER', ipc: 'POD', usernsOptions: userns } as const;
    const other = await node.cri.runPod({ linux: { securityContext: { namespaceOptions: options } } });
    assert.include(await noted(), at('bin/pinns'));
    await node.cri.removePod(other.id);
  });

  it('makes cgroups as cgroup_manager says, and tells the kubelet', async () => {
    const { linux } = await node.cri.rpc.runtimeConfig({});
    assert.equal(linux?.cgroupDriver, 'CGROUPFS');
  });

  it('tells no events of containers where enable_pod_events is off', async () => {
    const first = node.cri.rpc.getContainerEvents({})[Symbol.asyncIterator]().next();
    await refusal(first, 'enable_pod_events');
  });

  it('gives the metrics of included_pod_metrics', async () => {
    const { descriptors } = await node.cri.rpc.listMetricDescriptors({});
    assert.deepEqual(
      descriptors.map(({ name }) => name),
      ['container_last_seen', 'container_oom_events_total'],
    );
  });

  it('leaves host ports to others (disable_hostport_mapping)', async () => {
    const port = { protocol: 'TCP', containerPort: 80, hostPort: 18_080, hostIp: '' } as const;
    const other = await node.cri.runPod({ portMappings: [port] });
    const rules = Command.inPipe(['sh', '-c', 'nft list ruleset; iptables-save -t nat']);
    await rules.end();
    assert.notInclude(rules.out, '18080');
    await node.cri.removePod(other.id);
  });

  it('joins the cni_default_network of network_dir, by plugins of plugin_dirs and plugin_dir', async () => {
    assert.include(await noted(), at('cni/bridge'));
    assert.match((await node.cri.pod(pod.id)).network?.ip ?? '', /^10\.2\d\d\./);
  });

  it('runs hooks of hooks_dir, mounts /etc/containers/mounts.conf, and gives pods their workload', async () => {
    await waitFor(
      () => existsSync(at('hooked')),
      (is) => is,
      'the hook to have run',
    );
    assert.equal(await sh(node, container, 'cat /run/secrets/redhat.repo; echo $NSS_SDB_USE_CACHE'), 'subscribed\nno');
    assert.deepNestedInclude((await specOf(container)).linux.resources, { 'cpu.shares': 1024 });
  });

  it('shows hooks the trace-syscall of their container, where the handler allows it, and nowhere else', async () => {
    const annotations = { 'io.containers.trace-syscall/main': 'of:/tmp/traced.json' };
    for (const handler of ['high-performance', 'crun']) {
      const other = await node.cri.runPod({ annotations }, { handler });
      for (const name of ['main', 'beside']) await idle(node, other, { metadata: { name } });
      await node.cri.removePod(other.id);
      assert.equal(existsSync(at('traced')), handler === 'crun', handler);
    }
    const states = await readFile(at('traced'), 'utf8');
    assert.lengthOf(states.match(/"io\.containers\.trace-syscall": ?"of:\/tmp\/traced\.json"/g) ?? [], 1, states);
  });

  it('refuses what has less than container_min_memory, a fraction of MiB', async () => {
    const small: Input<ContainerConfig> = { linux: { resources: { memoryLimitInBytes: 7_864_319n } } };
    await refusal(node.cri.createContainer(pod, IMAGE, small), /7864320|7\.5/);
  });

  describe('and its images', () => {
    let image: BuiltImage;
    before(async () => {
      image = await buildImage({ directory: at('built'), name: 'v1', layers: [{ files: await busybox() }] });
      await registry.serve(image, 'openshift/app', 'v1');
    });

    it('come by the mirrors of registries.conf.d, with the credentials of global_auth_file', async () => {
      registry.on('/v2/openshift/app/manifests/v1', onlyFor('core:secret'));
      await node.cri.pull('quay.example/openshift/app:v1');
      assert.isNotEmpty(registry.requests);
      const { images } = await node.cri.rpc.listImages({});
      assert.include(
        images.flatMap(({ repoTags }) => repoTags),
        'quay.example/openshift/app:v1',
      );
    });

    it('are refused by the policy.json in /etc/containers, which is named', async () => {
      await refusal(node.cri.pull('other.example/app:v1'), /SignatureValidationFailed.*policy/s);
    });

    it('by a short name are ambiguous (short_name_mode), unless that is disabled', async () => {
      await refusal(node.cri.pull('openshift/app:v1'), /quay\.example.*other\.example/s);
      await writeFile('/etc/crio/crio.conf.d/50-short', '[crio.image]\nshort_name_mode = "disabled"\n');
      process.kill(node.pid, 'SIGHUP');
      await waitFor(
        () => node.log,
        (log) => log.includes('Set config short_name_mode to'),
        'the reload',
      );
      await node.cri.pull('openshift/app:v1');
      await rm('/etc/crio/crio.conf.d/50-short');
    });

    it('come with the credentials of their namespace in namespaced_auth_dir, which CRI-O makes, and once', async () => {
      await registry.serve(image, 'openshift/own', 'v1');
      registry.on('/v2/openshift/own/manifests/v1', onlyFor('shop:own'));
      const name = 'quay.example/openshift/own:v1';
      const auths = { [registry.host]: { auth: Buffer.from('shop:own').toString('base64') } };
      const own = `/etc/crio/auth/shop-${createHash('sha256').update(name).digest('hex')}.json`;
      await writeFile(own, JSON.stringify({ auths }));
      const pull = (namespace: string): Promise<unknown> =>
        node.cri.rpc.pullImage({ image: { image: name }, sandboxConfig: podConfig({ metadata: { namespace } }) });
      await refusal(pull('other'), 'RegistryUnavailable');
      await pull('shop');
      assert.isFalse(existsSync(own));
    });

    it('are given up where nothing moves for pull_progress_timeout', async () => {
      const files = [file('own', 'of no other image')];
      const stuck = await buildImage({ directory: at('stuck'), name: 'v1', layers: [{ files }] });
      await registry.serve(stuck, 'openshift/stuck', 'v1');
      registry.on(`/v2/openshift/stuck/blobs/${stuck.images[0]?.layers[0]}`, stallAfter(10));
      const began = performance.now();
      await refusal(node.cri.pull('quay.example/openshift/stuck:v1'), /stuck|RegistryUnavailable/);
      assert.isAtLeast(performance.now() - began, 4_000);
      assert.isBelow(performance.now() - began, 50_000, 'without it, it is a minute');
    });
  });

  it('is told once, with place and remedy, of each key, flag and variable without effect', () => {
    const warnings = node.log.split('\n').filter((line) => line.includes('level=warn'));
    for (const said of [
      '/etc/crio/crio.conf:8:1: crio.version_file has no effect',
      '/etc/crio/crio.conf:9:1: crio.clean_shutdown_file has no effect',
      '/etc/crio/crio.conf:15:1: crio.api.grpc_max_recv_msg_size has no effect',
      'crio.runtime.separate_pull_cgroup is not implemented',
      'crio.image.pause_command has no effect',
      'crio.image.pause_image_auth_file has no effect',
      'crio.stats.stats_collection_period has no effect: write collection_period',
      'crio.nri.enable_nri is not implemented',
      '--enable-criu-support: crio.runtime.enable_criu_support is not implemented',
      'CONTAINER_VERSION_FILE_PERSIST: crio.version_file_persist has no effect',
      'unknown variable CONTAINER_LOG_LEVL, ignoring (did you mean CONTAINER_LOG_LEVEL?)',
    ])
      assert.lengthOf(
        warnings.filter((line) => line.includes(said)),
        1,
        said,
      );
    assert.notInclude(warnings.join('\n'), 'internal_wipe', 'which is what CRI-O does anyway');
  });

  it('has the commands of CRI-O, which need no flag either', async () => {
    const info = await berth('status', '-s', node.socket, 'info');
    assert.match(info.out, /^cgroup driver: cgroupfs\nstorage driver: overlay\n/);
    const heap = await berth('status', '-s', node.socket, 'heap', '-f', at('heap'));
    assert.deepEqual([heap.code, heap.err], [0, `Wrote heap dump to: ${at('heap')}\n`]);
    assert.include(await readFile(at('heap'), 'utf8'), '"snapshot"');
    const wiped = await berth('wipe');
    assert.deepEqual([wiped.code, existsSync(at('run/containers', container))], [0, true]);
    assert.match((await berth('version')).out, /^Version: +\S/m);
    const { version } = JSON.parse((await berth('version', '-j')).out) as { readonly version: string };
    assert.isNotEmpty(version);
    assert.strictEqual((await berth('-c', '', '-d', '', 'config')).code, 0);
    const defaults = (await berth('config', '--default')).out;
    assert.match(defaults, /^log_level = "info"$/m, 'live values, which sed can edit');
    await mkdir(at('saved'));
    await writeFile(at('saved/crio.conf'), defaults.replace(/^log_level = .*$/m, 'log_level = "error"'));
    assert.include((await berth('-c', at('saved/crio.conf'), '-d', '', 'config')).out, '\nlog_level = "error"\n');
  });

  it('completes for bash, zsh and fish, and has help, whichever way it is asked for', async () => {
    const out = async (...args: readonly string[]): Promise<string> => (await berth(...args)).out;
    for (const shell of ['bash', 'zsh', 'fish']) assert.include(await out('complete', shell), 'berth', shell);
    assert.equal(await out('completion', 'bash'), await out('complete'));
    assert.match(await out('help'), /^Usage: berth /);
    assert.equal(await out('help', 'wipe'), await out('wipe', '--help'));
  });

  it('takes tables of handlers whole, and goes on without those that CRI-O drops, as it does', async () => {
    await writeFile(
      '/etc/crio/crio.conf.d/99-runtimes',
      `[crio.runtime.runtimes.high-performance]
inherit_default_runtime = true
[crio.runtime.runtimes.no-profile]
inherit_default_runtime = true
seccomp_profile = "/no/such.json"
[crio.runtime.runtimes.no-word]
inherit_default_runtime = true
exec_cpu_affinity = "second"
[crio.runtime.runtimes.conmon-rs]
runtime_path = "/usr/bin/crun"
runtime_type = "pod"
monitor_path = "/usr/libexec/crio/conmonrs"
`,
    );
    await node.restart();
    assert.match(node.log, /runtimes\.high-performance takes the place of .* no_sync_log, allowed_annotations/);
    const annotations = { 'io.kubernetes.cri-o.umask': '0077' };
    for (const handler of ['high-performance', 'conmon-rs']) {
      const other = await node.cri.runPod({ annotations }, { handler });
      assert.notEqual(await procStatus(node, await idle(node, other), 'Umask'), '0077', handler);
      await node.cri.removePod(other.id);
    }
    for (const handler of ['no-profile', 'no-word']) await refusal(node.cri.runPod({}, { handler }), handler);
    await rm('/etc/crio/crio.conf.d/99-runtimes');
    await node.restart();
  });

  describe('and says what it cannot take over without weakening isolation', () => {
    const refused: readonly (readonly [what: string, text: string, said: RegExp])[] = [
      [
        'a user namespace for every container',
        '[crio.runtime]\nuid_mappings = "0:100000:65536"\n',
        /50-test:2:1: crio\.runtime\.uid_mappings puts every container into a user namespace.*hostUsers: false/,
      ],
      [
        'a seccomp profile of a handler that is not there',
        '[crio.runtime.runtimes.crun]\nseccomp_profile = "/no/such.json"\n',
        /50-test:2:1: crio\.runtime\.runtimes\.crun\.seccomp_profile \/no\/such\.json cannot be used; mend the file/,
      ],
      [
        'a default runtime in a virtual machine',
        '[crio.runtime]\ndefault_runtime = "kata"\n',
        /the default runtime handler kata cannot be used: runtime_type "vm" is not supported/,
      ],
    ];
    for (const [what, text, said] of refused)
      it(`does not start: ${what}`, async () => {
        await node.kill();
        await writeFile('/etc/crio/crio.conf.d/50-test', text);
        const { code, err } = await berth();
        await rm('/etc/crio/crio.conf.d/50-test');
        await node.start();
        assert.strictEqual(code, 2, err);
        assert.match(err, said);
      });
  });

  describe('and at last', () => {
    it('shows only what log_filter lets through, from a reload on', async () => {
      await writeFile('/etc/crio/crio.conf.d/50-filter', '[crio.runtime]\nlog_filter = "^a line that is never"\n');
      process.kill(node.pid, 'SIGHUP');
      const said = async (): Promise<string> => {
        const length = node.log.length;
        await node.cri.rpc.version({});
        return node.log.slice(length);
      };
      // A message may be written once whose verdict takes too long on a busy machine.
      await waitFor(said, (log) => log === '', 'silence');
      assert.include(node.log, 'Set config log_filter to');
      await rm('/etc/crio/crio.conf.d/50-filter');
      process.kill(node.pid, 'SIGHUP');
      await waitFor(said, (log) => log.includes('rpc=Version'), 'a line');
    });

    it('wipes everything by force, with the daemon and without', async () => {
      const wiped = await berth('wipe', '-f');
      assert.strictEqual(wiped.code, 0, wiped.err);
      assert.match(wiped.out, /^removed pod default\/\S+\nremoved sha256:[0-9a-f]{64} /m);
      const { items } = await node.cri.rpc.listPodSandbox({});
      const { images } = await node.cri.rpc.listImages({});
      assert.deepEqual([items, images], [[], []]);
      await node.cri.rpc.import({ path: join(BUILD, 'embedded-image'), reference: '' });
      const other = await node.cri.runPod();
      await node.kill();
      const refused = await berth('wipe', '--force');
      assert.deepEqual([refused.code, refused.out], [1, '']);
      assert.match(refused.err, /there are (containers|sandboxes) in \S+: start the daemon and wipe then/);
      await node.start();
      await node.cri.removePod(other.id);
      await node.stop();
      assert.match((await berth('wipe', '--force')).out, /^removed sha256:[0-9a-f]{64} \S+\n$/);
      await node.start();
      assert.deepEqual((await node.cri.rpc.listImages({})).images, []);
    });
  });
});
