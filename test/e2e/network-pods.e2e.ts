/**
 * The network as pods and their operators see it: what plugins are told about a pod of CRI, and what the daemon tells
 * about networks.
 */
import { assert } from 'chai';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { PodSandbox } from '../../pkg/cri-api/types.ts';
import { podConfig, type Pod, waitFor } from './cri-client.ts';
import { processes, processesOf, TestNode } from './harness.ts';
import { host } from './inside.ts';

/** What one call of the plugin was told. */
interface Told {
  readonly env: Readonly<Record<string, string>>;
  readonly config: Readonly<Record<string, unknown>>;
}

/** What the plugin leaves its family with when it hangs: no environment, no session, no group of it. */
const CHILD = `sleep 1000.${process.pid}`;

const CAPABILITIES = [
  'portMappings',
  'bandwidth',
  'dns',
  'io.kubernetes.cri.pod-annotations',
  'cgroupPath',
  'ipRanges',
];

describe('networks of pods', function () {
  this.timeout(120_000);
  let node: TestNode;
  const at = (...names: readonly string[]): string => join(node.dir, ...names);

  /**
   * After the bridge a plugin that writes down what it is told, in files named VERB.ID; it hangs in ADD while there is
   * a file `hang`, and fails while there is a file `broken`.
   */
  const withRecorder = async (): Promise<void> => {
    await mkdir(at('plugins'));
    await mkdir(at('told'));
    await writeFile(
      at('plugins/recorder'),
      `#!/bin/sh
input=$(cat)
{ env | grep ^CNI_; echo; echo "$input"; } > ${at('told')}/.new.$$ &&
  mv ${at('told')}/.new.$$ ${at('told')}/$CNI_COMMAND.$CNI_CONTAINERID
[ ! -e ${at('broken')} ] || { echo '{"code":999,"msg":"out of order"}'; exit 1; }
[ $CNI_COMMAND != ADD ] || [ ! -e ${at('hang')} ] || { setsid env -i ${CHILD} & wait; }
[ $CNI_COMMAND != ADD ] || echo "$input" | sed 's/.*"prevResult":\\(.*\\)}$/\\1/'
`,
    );
    await chmod(at('plugins/recorder'), 0o755);
    const { plugins, ...rest } = JSON.parse(await readFile(at('net.d/10-test.conflist'), 'utf8')) as {
      readonly plugins: readonly object[];
    };
    const recorder = { type: 'recorder', capabilities: Object.fromEntries(CAPABILITIES.map((each) => [each, true])) };
    await writeFile(at('net.d/10-test.conflist'), JSON.stringify({ ...rest, plugins: [plugins[0], recorder] }));
    await node.stop();
    node.moreFlags = ['--cni-plugin-dir', at('plugins')];
    await node.start();
  };
  const told = async (verb: string, pod: Pod): Promise<Told> => {
    const [variables = '', config = ''] = (await readFile(at('told', `${verb}.${pod.id}`), 'utf8')).split('\n\n');
    return {
      env: Object.fromEntries(
        variables.split('\n').map((line) => [line.split('=')[0] ?? '', line.slice(line.indexOf('=') + 1)]),
      ),
      config: JSON.parse(config) as Told['config'],
    };
  };

  beforeEach(async () => {
    node = await TestNode.boot();
  });
  afterEach(async function () {
    await node.closeAfter(this.currentTest);
  });

  it('are made by plugins that know the pod, its ports, bandwidth, resolvers, annotations and cgroup', async () => {
    await withRecorder();
    await node.cri.rpc.updateRuntimeConfig({
      runtimeConfig: { networkConfig: { podCidr: '10.77.0.0/24,fd00:77::/64' } },
    });
    const annotations = { 'kubernetes.io/ingress-bandwidth': '1M', 'example.org/note': 'ünï; a=b' };
    const pod = await node.cri.runPod({
      metadata: { name: 'web-0', namespace: 'shop', uid: 'u-1' },
      annotations,
      dnsConfig: { servers: ['192.0.2.53'], searches: ['a.example'], options: ['ndots:5'] },
      portMappings: [
        { protocol: 'TCP', containerPort: 80, hostPort: 0, hostIp: '' },
        { protocol: 'UDP', containerPort: 53, hostPort: 18_053, hostIp: '127.0.0.1' },
      ],
    });
    const add = await told('ADD', pod);
    const args =
      'IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;' +
      `K8S_POD_INFRA_CONTAINER_ID=${pod.id};K8S_POD_UID=u-1`;
    assert.deepEqual(add.env, {
      CNI_COMMAND: 'ADD',
      CNI_CONTAINERID: pod.id,
      CNI_NETNS: at('run/ns', pod.id, 'net'),
      CNI_IFNAME: 'eth0',
      CNI_ARGS: args,
      CNI_PATH: `/usr/lib/cni:${at('plugins')}`,
    });
    assert.deepEqual(add.config['runtimeConfig'], {
      portMappings: [{ hostPort: 18_053, containerPort: 53, protocol: 'udp', hostIP: '127.0.0.1' }],
      bandwidth: { ingressRate: 1_000_000, ingressBurst: 2_147_483_647 },
      dns: { servers: ['192.0.2.53'], searches: ['a.example'], options: ['ndots:5'] },
      'io.kubernetes.cri.pod-annotations': annotations,
      cgroupPath: `/berth/${pod.id}`,
      ipRanges: [[{ subnet: '10.77.0.0/24' }], [{ subnet: 'fd00:77::/64' }]],
    });
    assert.deepNestedInclude(add.config, { name: 'berth', 'prevResult.cniVersion': '1.0.0' });
    // DEL is told the same, also by a daemon that was not there, and after other ranges came.
    await node.cri.rpc.updateRuntimeConfig({ runtimeConfig: { networkConfig: { podCidr: '10.78.0.0/24' } } });
    await node.kill();
    await node.start();
    await node.cri.removePod(pod.id);
    const del = await told('DEL', pod);
    assert.deepEqual([del.env, del.config['runtimeConfig']], [
      { ...add.env, CNI_COMMAND: 'DEL' },
      add.config['runtimeConfig'],
    ] as never);
    assert.deepNestedInclude(del.config, { 'prevResult.cniVersion': '1.0.0' });
    const next = await node.cri.runPod();
    assert.deepEqual((await told('ADD', next)).config['runtimeConfig'], {
      cgroupPath: `/berth/${next.id}`,
      ipRanges: [[{ subnet: '10.78.0.0/24' }]],
    });
  });

  it('are none for a pod on the network of the node', async () => {
    await withRecorder();
    const pod = await node.cri.runPod({
      linux: { securityContext: { namespaceOptions: { network: 'NODE', pid: 'CONTAINER', ipc: 'POD' } } },
      portMappings: [{ protocol: 'TCP', containerPort: 80, hostPort: 80, hostIp: '' }],
    });
    await node.cri.removePod(pod.id);
    assert.deepEqual(await readdir(at('told')), []);
  });

  it('refuse a bandwidth and ranges that are none, before any plugin runs', async () => {
    await withRecorder();
    const bad = await node.cri.runPod({ annotations: { 'kubernetes.io/egress-bandwidth': 'much' } }).then(
      () => undefined,
      (error: unknown) => String(error),
    );
    assert.match(bad ?? '', /kubernetes\.io\/egress-bandwidth wants bits per second/);
    const odd = await node.cri.rpc
      .updateRuntimeConfig({ runtimeConfig: { networkConfig: { podCidr: '10.0.0.0/24,10.1.0.0/24' } } })
      .then(
        () => undefined,
        (error: unknown) => String(error),
      );
    assert.match(odd ?? '', /pod_cidr/);
    assert.deepEqual([await readdir(at('told')), (await node.cri.rpc.listPodSandbox()).items], [[], []]);
  });

  it('of a daemon that died while a plugin hung are given back by the next, and the plugin ends with it', async () => {
    await withRecorder();
    await writeFile(at('hang'), '');
    const config = podConfig();
    const running = node.cri.rpc.runPodSandbox({ config }).then(
      () => undefined,
      (error: unknown) => String(error),
    );
    const [name = ''] = await waitFor(
      () => readdir(at('told')),
      (names) => names.some((each) => each.startsWith('ADD.')),
      'the plugin to hang',
    );
    const plugins = (): string[] => [...processesOf(at('plugins')), ...processes(CHILD)];
    await waitFor(plugins, (found) => found.length > 1, 'the plugin and its child');
    await node.kill();
    assert.isDefined(await running);
    await waitFor(
      plugins,
      (left) => left.length === 0,
      'the plugin to be gone with its child, before there is a daemon',
    );
    await rm(at('hang'));
    await node.start();
    assert.isTrue(existsSync(at('told', name.replace('ADD', 'DEL'))));
    assert.lengthOf((await node.cri.rpc.listPodSandbox()).items, 0);
    await node.cri.rpc.runPodSandbox({ config });
  });

  it('that cannot be given back leave their pod in sight, and go by themselves once the plugin is back', async () => {
    await withRecorder();
    await writeFile(at('broken'), '');
    const refused = await node.cri.runPod({ metadata: { name: 'web' } }).then(
      () => undefined,
      (error: unknown) => String(error),
    );
    assert.match(refused ?? '', /run pod sandbox web_.*out of order/);
    const listed = async (): Promise<readonly PodSandbox[]> => (await node.cri.rpc.listPodSandbox()).items;
    const [pod] = await listed();
    assert.deepInclude(pod, { state: 'SANDBOX_NOTREADY' });
    const id = pod?.id ?? '';
    const { info } = await node.cri.rpc.podSandboxStatus({ podSandboxId: id, verbose: true });
    assert.match(info['info'] ?? '', /could not be made: .*its clean-up failed and is tried again: .*out of order/);
    // As the kubelet's garbage collection: it stops, then removes.
    assert.match(
      await node.cri.rpc.stopPodSandbox({ podSandboxId: id }).then(String, (error: unknown) => String(error)),
      /destroy network .*out of order/,
    );
    const other = await node.cri.runPod({ metadata: { name: 'web', attempt: 1 } }).catch((error: unknown) => error);
    assert.match(String(other), /out of order/, 'another attempt may try, and is kept as well');
    await node.kill();
    await node.start();
    assert.lengthOf(await listed(), 2, 'the next daemon shows them, too');
    assert.isNotEmpty(await readdir(at('root/cni')));
    await rm(at('broken'));
    await waitFor(listed, (items) => items.length === 0, 'the pods to go');
    assert.deepEqual(await readdir(at('root/cni')), []);
  });

  it('are looked at by berth check', async () => {
    const [whole, broken] = [
      await node.cri.runPod({ metadata: { name: 'whole', uid: 'a' } }),
      await node.cri.runPod({ metadata: { name: 'broken', uid: 'b' } }),
    ];
    const faults = async (): Promise<readonly (readonly [string, string])[]> =>
      (await node.cri.rpc.check({ repair: false })).facts
        .filter(({ name }) => /network|host ports/.test(name))
        .map(({ name, detail }) => [name, detail] as const);
    const network = [
      'network',
      `ready: berth (bridge, portmap; CNI 1.0.0) of ${at('net.d/10-test.conflist')}`,
    ] as const;
    assert.deepEqual(await faults(), [
      network,
      ['host ports', 'by a CNI plugin'],
      ['pod networks', '2 of 2 as their plugins made them'],
    ]);
    host('nsenter', `--net=${at('run/ns', broken.id, 'net')}`, 'ip', 'addr', 'flush', 'dev', 'eth0');
    assert.deepEqual(await faults(), [
      network,
      ['host ports', 'by a CNI plugin'],
      ['pod networks', '1 of 2 as their plugins made them'],
      ['network of pod default/broken', broken.id],
    ]);
    assert.notEqual(whole.id, broken.id);
  });

  it('change with the configuration while the daemon runs, and Status says which is in use', async () => {
    const inUse = async (): Promise<unknown> =>
      JSON.parse((await node.cri.rpc.status({ verbose: true })).info['network'] ?? '');
    const first = {
      name: 'berth',
      file: at('net.d/10-test.conflist'),
      cniVersion: '1.0.0',
      plugins: ['bridge', 'portmap'],
      hostPorts: 'plugin',
    };
    assert.deepEqual(await inUse(), first);
    const old = await node.cri.runPod();
    const conflist = JSON.parse(await readFile(first.file, 'utf8')) as { readonly plugins: readonly object[] };
    await writeFile(at('net.d/.new'), JSON.stringify({ ...conflist, name: 'other', plugins: [conflist.plugins[0]] }));
    host('mv', at('net.d/.new'), at('net.d/05-other.conflist'));
    await waitFor(
      inUse,
      (found) => (found as { readonly name?: string } | null)?.name === 'other',
      'the other network',
    );
    assert.deepEqual(await inUse(), {
      name: 'other',
      file: at('net.d/05-other.conflist'),
      cniVersion: '1.0.0',
      plugins: ['bridge'],
      hostPorts: 'berth',
    });
    await node.cri.removePod(old.id);
    await rm(at('net.d/05-other.conflist'));
    await rm(first.file);
    await waitFor(inUse, (found) => found === null, 'no network');
  });
});
