/**
 * Keys of crio.conf whose effect shows only with other values than a node has: monitors by handler, workloads' quotas,
 * ids that may be mapped, idle streams, and a network that fails for a while.
 */
import { assert } from 'chai';
import { chmod, mkdir, mkdtemp, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LinuxContainerResources } from '../../pkg/cri-api/types.ts';
import { CRIO_CONF } from '../../scripts/crio/surface.ts';
import { waitFor } from './cri-client.ts';
import { ownEtc } from './crio-ground.ts';
import { TestNode } from './harness.ts';
import { idle, reconfigure, refusal, sh } from './inside.ts';
import { Command } from './terminal.ts';

const BERTH = new URL('../../build/bin/berth', import.meta.url).pathname;

describe('a crio.conf with values of its own', function () {
  this.timeout(120_000);
  let node: TestNode;

  before(async () => {
    // Which monitor, is for handlers to say.
    node = await TestNode.boot({ runtime: 'crun', flags: ['--conmon', ''] });
    await reconfigure(
      node,
      `[crio.api]
stream_idle_timeout = "1s"
[crio.runtime]
minimum_mappable_uid = 500000
minimum_mappable_gid = 600000
[crio.runtime.runtimes.crun]
monitor_path = "/usr/bin/conmon"
monitor_env = ["FROM_HANDLER=1"]
allowed_annotations = ["io.kubernetes.cri-o.userns-mode"]
[crio.runtime.workloads.quota]
activation_annotation = "quota.example"
annotation_prefix = "quota.example"
[crio.runtime.workloads.quota.resources]
cpuquota = 20000
cpuperiod = 50000
[crio.runtime.workloads.limit]
activation_annotation = "limit.example"
annotation_prefix = "limit.example"
[crio.runtime.workloads.limit.resources]
cpulimit = 500
`,
    );
  });
  afterEach(() => node.clear());
  after(() => node.close());

  it('watches containers of a handler with its monitor (monitor_path) and environment (monitor_env)', async () => {
    const id = await idle(node, await node.cri.runPod());
    const pid = (await readFile(join(node.dir, 'run/containers', id, 'conmon.pid'), 'utf8')).trim();
    assert.equal(await readlink(`/proc/${pid}/exe`), '/usr/bin/conmon');
    assert.include((await readFile(`/proc/${pid}/environ`, 'utf8')).split('\0'), 'FROM_HANDLER=1');
  });

  it('gives a workload its quota, period and limit of processors', async () => {
    const resourcesOf = async (mark: string): Promise<LinuxContainerResources | undefined> => {
      const pod = await node.cri.runPod({ annotations: { [mark]: '' } });
      return (await node.cri.container(await idle(node, pod))).resources?.linux;
    };
    assert.deepInclude(await resourcesOf('quota.example'), { cpuQuota: 20_000n, cpuPeriod: 50_000n });
    assert.deepInclude(await resourcesOf('limit.example'), { cpuQuota: 50_000n, cpuPeriod: 100_000n });
  });

  it('maps no ids below minimum_mappable_uid and minimum_mappable_gid', async () => {
    const runPod = (mode: string): ReturnType<typeof node.cri.runPod> =>
      node.cri.runPod({
        annotations: { 'io.kubernetes.cri-o.userns-mode': mode },
        linux: {
          securityContext: {
            runAsUser: { value: 500_000n },
            runAsGroup: { value: 600_000n },
            namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' },
          },
        },
      });
    const mappings = (uid: number, gid: number): string => `private:uidmapping=0:${uid}:1000;gidmapping=0:${gid}:1000`;
    await refusal(runPod(mappings(499_999, 600_000)), /uid range \(499999-500998\)/);
    await refusal(runPod(mappings(500_000, 599_999)), /gid range \(599999-600998\)/);
    const id = await idle(node, await runPod(mappings(500_000, 600_000)));
    assert.equal(
      await sh(node, id, 'tr -s " " < /proc/self/uid_map; tr -s " " < /proc/self/gid_map'),
      '0 500000 1000\n 0 600000 1000',
    );
  });

  it('ends a stream without data after stream_idle_timeout', async () => {
    const id = await idle(node, await node.cri.runPod());
    const argv = [BERTH, '-c', '/dev/null', '-d', '', '--listen', node.socket, 'exec', '-i', id, 'cat'] as const;
    const silent = Command.inPipe([...argv]);
    assert.notStrictEqual(await silent.end(), 0);
    assert.match(node.log, /msg="exec ended".*stream_idle_timeout/);
  });
});

describe('a crio.conf that was saved whole', function () {
  this.timeout(60_000);
  let node: TestNode;
  let restoreEtc = (): void => {};

  before(async () => {
    restoreEtc = ownEtc();
    node = await TestNode.boot({
      runtime: 'crun',
      async files({ dir, socket }) {
        const own: Readonly<Record<string, string>> = {
          root: `"${dir}/root"`,
          runroot: `"${dir}/run"`,
          log_dir: `"${dir}/logs"`,
          listen: `"${socket}"\ncrio_socket = "none"`,
          network_dir: `"${dir}/net.d"`,
          plugin_dirs: '["/usr/lib/cni"]',
          runtime_root: `"${dir}/crun"`,
          cgroup_manager: '"cgroupfs"',
        };
        const text = CRIO_CONF.replaceAll(/^([a-z_]+) = .*$/gm, (line, key: string) =>
          Object.hasOwn(own, key) ? `${key} = ${own[key]}` : line,
        );
        await rm('/etc/berth', { recursive: true, force: true });
        await mkdir('/etc/crio/crio.conf.d', { recursive: true });
        await writeFile('/etc/crio/crio.conf', text);
      },
    });
  });
  after(async () => {
    await node.close();
    restoreEtc();
  });

  it('starts the daemon with nothing to warn of in it, and runs pods', async () => {
    const warnings = node.log.split('\n').filter((line) => line.includes('level=warn'));
    assert.deepEqual(
      warnings.filter((line) => line.includes('crio.conf')),
      [],
    );
    const id = await idle(node, await node.cri.runPod());
    assert.equal(await sh(node, id, 'echo here'), 'here');
  });
});

describe('a network that fails for a while', function () {
  this.timeout(120_000);
  let node: TestNode;
  let base: string;

  before(async () => {
    base = await mkdtemp('/tmp/berth-status-');
    const plugin = join(base, 'moody');
    await writeFile(plugin, `#!/bin/sh\n[ $CNI_COMMAND != STATUS ] || [ ! -e ${base}/down ] || exit 1\n`);
    await chmod(plugin, 0o755);
    node = await TestNode.boot({
      flags: ['--cni-status-grace-period', '1h', '--cni-plugin-dir', base],
      conflist: () => '{"cniVersion":"1.1.0","name":"moody","plugins":[{"type":"moody"}]}',
    });
  });
  after(async () => {
    await node.close();
    await rm(base, { recursive: true });
  });

  const ready = async (): Promise<boolean | undefined> =>
    (await node.cri.rpc.status({})).status?.conditions.find(({ type }) => type === 'NetworkReady')?.status;

  it('is ready within cni_status_grace_period, and the log says when it fails and when it is well', async () => {
    assert.isTrue(await ready());
    await writeFile(join(base, 'down'), '');
    const until = (said: string): Promise<boolean> =>
      waitFor(
        async () => [await ready(), node.log.includes(said)] as const,
        ([is, isSaid]) => is !== true || isSaid,
        said,
        { timeoutMs: 60_000, intervalMs: 100 },
      ).then(([is]) => is === true);
    assert.isTrue(await until('CNI plugin status check failed'));
    await rm(join(base, 'down'));
    assert.isTrue(await until('CNI plugin is now healthy'));
  });

  it('is not ready where it never was', async () => {
    await writeFile(join(base, 'down'), '');
    await node.restart();
    await waitFor(ready, (is) => is === false, 'the network to be not ready');
    await rm(join(base, 'down'));
  });
});
