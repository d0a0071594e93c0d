/**
 * Bad input and a bad world: each gets a code and a message that names the cause and the remedy, and leaves nothing
 * behind.
 */
import { assert } from 'chai';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type CriClient, CriError, containerConfig, type Pod, podConfig, waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';

async function refused(work: Promise<unknown>): Promise<CriError> {
  const outcome = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  assert.instanceOf(outcome, CriError, 'the call succeeded');
  return outcome as CriError;
}

/** Asserts code and words of the message. */
async function refusal(work: Promise<unknown>, code: string, ...words: readonly RegExp[]): Promise<void> {
  const error = await refused(work);
  assert.strictEqual(error.codeName, code, error.message);
  for (const word of words) assert.match(error.message, word);
}

describe('bad requests', function () {
  this.timeout(60_000);
  let node: TestNode;
  let cri: CriClient;
  let pod: Pod;
  before(async () => {
    node = await TestNode.boot();
    cri = node.cri;
    pod = await cri.runPod();
  });
  after(() => node.close());

  const create = (overrides: Parameters<typeof containerConfig>[1], image = IMAGE) =>
    cri.createContainer(pod, image, overrides);

  it('without metadata, image or command', async () => {
    await refusal(cri.rpc.runPodSandbox({ config: {} }), 'InvalidArgument', /metadata/);
    await refusal(cri.rpc.runPodSandbox({}), 'InvalidArgument', /config/);
    await refusal(
      cri.rpc.createContainer({ podSandboxId: pod.id, sandboxConfig: pod.config, config: { metadata: { name: 'x' } } }),
      'InvalidArgument',
      /image/,
    );
    await refusal(
      cri.rpc.createContainer({
        podSandboxId: pod.id,
        sandboxConfig: pod.config,
        config: containerConfig(IMAGE, { image: { image: IMAGE }, metadata: { name: '' } }),
      }),
      'InvalidArgument',
      /name/,
    );
  });

  it('for what is not there', async () => {
    await refusal(
      cri.rpc.runPodSandbox({ config: podConfig(), runtimeHandler: 'nope' }),
      'InvalidArgument',
      /nope/,
      /runc/,
    );
    await refusal(create({}, 'localhost/none:1'), 'NotFound', /localhost\/none:1/, /pull it first/);
    await refusal(
      cri.rpc.createContainer({
        podSandboxId: 'f'.repeat(64),
        sandboxConfig: pod.config,
        config: containerConfig(IMAGE),
      }),
      'NotFound',
      /pod sandbox/,
    );
    for (const call of [
      cri.rpc.podSandboxStatus({ podSandboxId: 'f'.repeat(64) }),
      cri.rpc.containerStatus({ containerId: 'f'.repeat(64) }),
      cri.rpc.startContainer({ containerId: 'f'.repeat(64) }),
      cri.rpc.execSync({ containerId: 'f'.repeat(64), cmd: ['true'] }),
      cri.rpc.reopenContainerLog({ containerId: 'f'.repeat(64) }),
    ])
      await refusal(call, 'NotFound');
    await cri.rpc.stopContainer({ containerId: 'f'.repeat(64) });
    await cri.rpc.removeContainer({ containerId: 'f'.repeat(64) });
    await cri.rpc.stopPodSandbox({ podSandboxId: 'f'.repeat(64) });
    await cri.rpc.removePodSandbox({ podSandboxId: 'f'.repeat(64) });
    assert.isUndefined((await cri.rpc.imageStatus({ image: { image: 'localhost/none:1' } })).image);
  });

  it('with ids and references that could be paths (pelagos#347)', async () => {
    for (const id of ['', '.', '..', '/', '../x']) {
      await refusal(cri.rpc.removeContainer({ containerId: id }), 'InvalidArgument');
      await refusal(cri.rpc.removePodSandbox({ podSandboxId: id }), 'InvalidArgument');
    }
    for (const image of ['localhost/UPPER', 'a b', 'x@sha256:', 'x@sha256:../../etc', `${'a'.repeat(5000)}`])
      await refusal(cri.rpc.pullImage({ image: { image } }), 'InvalidArgument');
  });

  it('for a state that does not allow it', async () => {
    const id = await cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    await refusal(cri.rpc.startContainer({ containerId: id }), 'FailedPrecondition', /running/);
    await refusal(cri.rpc.removeImage({ image: { image: IMAGE } }), 'FailedPrecondition', /use/);
    await cri.rpc.stopContainer({ containerId: id, timeout: 0n });
    await refusal(cri.rpc.startContainer({ containerId: id }), 'FailedPrecondition', /exited/);
    await refusal(cri.rpc.execSync({ containerId: id, cmd: ['true'] }), 'NotFound', /exited/);
    await cri.rpc.removeContainer({ containerId: id });
  });

  it('for what Berth does not do, by name', async () => {
    await refusal(
      cri.rpc.checkpointContainer({ containerId: 'x', location: '/x' }),
      'Unimplemented',
      /CheckpointContainer/,
    );
  });

  it('with settings that a pod must not have', async () => {
    const sysctl = (sysctls: Record<string, string>) =>
      cri.rpc.runPodSandbox({ config: podConfig({ linux: { sysctls } }) });
    await refusal(
      sysctl({ 'kernel.shm_rmid_forced': '1+kernel.core_pattern=|/tmp/x #' }),
      'InvalidArgument',
      /shm_rmid_forced/,
    );
    await refusal(sysctl({ 'kernel.core_pattern': 'x' }), 'InvalidArgument', /core_pattern/);
    await refusal(
      cri.rpc.runPodSandbox({ config: podConfig({ linux: { cgroupParent: '/a/../../b' } }) }),
      'InvalidArgument',
      /cgroup_parent/,
    );
    await refusal(
      cri.rpc.runPodSandbox({ config: podConfig({ dnsConfig: { searches: ['x\nnameserver 6.6.6.6'] } }) }),
      'InvalidArgument',
    );
    await refusal(
      cri.rpc.runPodSandbox({ config: podConfig({ logDirectory: 'relative' }) }),
      'InvalidArgument',
      /log_directory/,
    );
    await refusal(create({ logPath: '../../etc/cron.d/x' }), 'InvalidArgument', /log_path/);
    await refusal(
      create({ linux: { securityContext: { runAsGroup: { value: 5n } } } }),
      'InvalidArgument',
      /run_as_group/,
    );
    await refusal(create({ linux: { securityContext: { privileged: true } } }), 'InvalidArgument', /privileged/);
  });

  it('leave nothing behind', async () => {
    assert.lengthOf((await cri.rpc.listContainers()).containers, 0);
    assert.lengthOf((await cri.rpc.listPodSandbox()).items, 1);
    assert.deepEqual(await readdir(join(node.dir, 'run/containers')), []);
    // Big trees are deleted after the reply.
    await waitFor(
      () => readdir(join(node.dir, 'root/rootfs')),
      (names) => names.length === 0,
      'the root filesystems to be gone',
    );
  });
});

describe('a bad world', function () {
  this.timeout(60_000);
  let node: TestNode;
  beforeEach(async () => {
    node = await TestNode.boot();
  });
  afterEach(() => node.close());

  /** Replaces the CNI configuration by a chain of this one script. */
  async function plugin(script: string): Promise<void> {
    const bin = join(node.dir, 'plugins');
    await mkdir(bin, { recursive: true });
    await writeFile(join(bin, 'bad'), `#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\n${script}\n`);
    await chmod(join(bin, 'bad'), 0o755);
    await rm(join(node.dir, 'net.d/10-test.conflist'));
    await writeFile(
      join(node.dir, 'net.d/20-bad.conflist'),
      JSON.stringify({ cniVersion: '1.0.0', name: 'bad', plugins: [{ type: 'bad' }] }),
    );
  }

  async function rebootWithPlugin(script: string): Promise<TestNode> {
    await plugin(script);
    await node.stop();
    node.moreFlags = ['--cni-plugin-dir', `${join(node.dir, 'plugins')},/usr/lib/cni`];
    await node.start();
    return node;
  }

  it('has a CNI plugin that fails, says garbage, or is missing', async () => {
    await rebootWithPlugin(
      `echo '{"cniVersion":"1.0.0","code":100,"msg":"no more addresses","details":"the range is full"}'; exit 1`,
    );
    await refusal(node.cri.rpc.runPodSandbox({ config: podConfig() }), 'Internal', /bad/, /no more addresses/);
    await plugin('head -c 2000000 /dev/zero | tr "\\0" x').catch(() => {});
    await refused(node.cri.rpc.runPodSandbox({ config: podConfig() }));
    await rm(join(node.dir, 'plugins/bad'));
    await refusal(node.cri.rpc.runPodSandbox({ config: podConfig() }), 'FailedPrecondition', /bad/, /install it/);
    assert.lengthOf((await node.cri.rpc.listPodSandbox()).items, 0);
  });

  it('has a CNI plugin that hangs: the deadline names the stage, and the node goes on (K12)', async () => {
    await rebootWithPlugin('sleep 1000');
    await refusal(node.cri.rpc.runPodSandbox({ config: podConfig() }, { deadlineMs: 1_500 }), 'DeadlineExceeded');
    const { operations } = await node.cri.rpc.operations();
    assert.isAbove(operations.length, 0);
    assert.strictEqual((await node.cri.rpc.version()).runtimeName, 'berth');
    await node.restart();
    assert.lengthOf((await node.cri.rpc.listPodSandbox()).items, 0);
  });

  it('has no network configuration: Status says so, and host-network pods run', async () => {
    await rm(join(node.dir, 'net.d/10-test.conflist'));
    await node.restart();
    const { status } = await node.cri.rpc.status();
    const network = status?.conditions.find((each) => each.type === 'NetworkReady');
    assert.isFalse(network?.status);
    assert.match(network?.message ?? '', /cni config uninitialized/);
    const pod = await node.cri.runPod({
      linux: { securityContext: { namespaceOptions: { network: 'NODE', pid: 'CONTAINER', ipc: 'POD' } } },
    });
    assert.strictEqual((await node.cri.pod(pod.id)).network?.ip, '');
  });

  it('has a runtime that fails: its words are in the message', async () => {
    const runtime = join(node.dir, 'badrt');
    await writeFile(
      runtime,
      '#!/bin/sh\ncase "$*" in *create*) echo "the flux capacitor is empty" >&2; exit 1;; ' +
        '*delete*) exit 0;; *) exec /usr/sbin/runc "$@";; esac\n',
    );
    await chmod(runtime, 0o755);
    await node.stop();
    node.moreFlags = ['--runtimes', `bad:${runtime}`];
    await node.start();
    const pod = await node.cri.runPod({}, { handler: 'bad' });
    await refusal(node.cri.createContainer(pod, IMAGE, { command: ['true'] }), 'Internal', /flux capacitor is empty/);
    assert.lengthOf((await node.cri.rpc.listContainers()).containers, 0);
  });

  it('has lost its default runtime: what runs goes on, other handlers work, and Status says what to do', async () => {
    const runtime = join(node.dir, 'lost');
    await writeFile(runtime, '#!/bin/sh\nexec /usr/sbin/runc "$@"\n');
    await chmod(runtime, 0o755);
    await node.stop();
    node.moreFlags = ['--runtimes', `lost:${runtime}`, '--default-runtime', 'lost'];
    await node.start();
    const pod = await node.cri.runPod();
    const id = await node.cri.runContainer(pod, IMAGE, {
      command: ['sh', '-c', 'trap "exit 7" TERM; sleep 1000 & wait'],
    });
    await rm(runtime);
    await node.restart();
    const { status, runtimeHandlers } = await node.cri.rpc.status();
    const ready = status?.conditions.find((each) => each.type === 'RuntimeReady');
    assert.deepEqual([ready?.status, ready?.reason], [false, 'RuntimeMissing']);
    assert.match(ready?.message ?? '', /"lost" is not there; install its program/);
    assert.notInclude(
      runtimeHandlers.map(({ name }) => name),
      '',
    );
    await refusal(node.cri.rpc.runPodSandbox({ config: podConfig() }), 'FailedPrecondition', /"lost" is not there/);
    const other = await node.cri.runPod({}, { handler: 'runc' });
    assert.strictEqual(
      (await node.cri.exec(await node.cri.runContainer(other, IMAGE, { command: ['sleep', '1000'] }), ['true']))
        .exitCode,
      0,
    );
    assert.strictEqual((await node.cri.container(id)).state, 'CONTAINER_RUNNING');
    await node.cri.rpc.stopContainer({ containerId: id, timeout: 10n });
    assert.strictEqual((await node.cri.container(id)).exitCode, 7);
    await node.cri.rpc.removePodSandbox({ podSandboxId: pod.id });
  });

  it('has a root that cannot be written: the daemon says which and how to choose another', async () => {
    const dir = await mkdtemp('/tmp/berth-bad-');
    await writeFile(join(dir, 'file'), '');
    const flags = [
      '--root',
      join(dir, 'file/root'),
      '--runroot',
      join(dir, 'run'),
      '--listen',
      join(dir, 'run/x.sock'),
    ];
    const daemon = spawn(new URL('../../build/bin/berth', import.meta.url).pathname, flags, {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    daemon.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    const [code] = (await once(daemon, 'exit')) as [number];
    assert.strictEqual(code, 1);
    assert.match(said, /file\/root.*--root/);
    await rm(dir, { recursive: true });
  });
});
