/** What the kubelet's cAdvisor asks for at CRI-O's socket, asked in its way, and what it then looks for on the node. */
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { connect, createServer } from 'node:net';
import { basename, join } from 'node:path';
import { assert } from 'chai';
import { type Pod, waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';
import { cgroupOfKubelet } from './node-cgroups.ts';

interface Answer {
  readonly status: number | undefined;
  readonly body: string;
}

/** As cAdvisor's client does: HTTP/1.1 on the socket, the host is called crio. */
function ask(socketPath: string, path: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path, headers: { host: 'crio' } }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      response.on('end', () => resolve({ status: response.statusCode, body }));
    });
    asked.on('error', reject).end();
  });
}

/** Names of cgroups below the pod's, in all hierarchies: what cAdvisor watches. */
function cgroupsBelow(parent: string): string[] {
  const tops = ['', ...readdirSync('/sys/fs/cgroup')].map((each) => join('/sys/fs/cgroup', each, parent));
  return [...new Set(tops.filter(existsSync).flatMap((top) => readdirSync(top).filter((each) => each.includes('-'))))];
}

describe('cAdvisor at the socket of CRI-O', function () {
  this.timeout(60_000);
  let node: TestNode;
  let crio: string;
  let kubelet: ReturnType<typeof cgroupOfKubelet>;
  const kubelets = (): Promise<Pod> =>
    node.cri.runPod({
      labels: { 'io.kubernetes.pod.name': 'web', 'io.kubernetes.pod.namespace': 'default' },
      linux: {
        cgroupParent: kubelet.parent,
        securityContext: { namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } },
      },
    });
  const asJson = async (path: string): Promise<Record<string, unknown>> => {
    const { status, body } = await ask(crio, path);
    assert.equal(status, 200, body);
    return JSON.parse(body) as Record<string, unknown>;
  };

  before(async () => {
    node = await TestNode.boot();
    kubelet = cgroupOfKubelet(node.driver, `berth_cadvisor${process.pid}`);
    crio = join(node.dir, 'crio/crio.sock');
    node.moreFlags = ['--crio-socket', crio];
    await node.restart();
  });
  after(async function () {
    await node.closeSuite(this.test?.parent);
    kubelet.remove();
    assert.isFalse(existsSync(crio), 'the socket is gone with the daemon');
  });

  it('finds the storage, the same at both sockets', async () => {
    const info = await asJson('/info');
    assert.include(info, {
      storage_driver: 'overlay',
      storage_root: join(node.dir, 'root'),
      cgroup_driver: node.driver,
    });
    assert.deepEqual(JSON.parse((await ask(node.socket, '/info')).body), info);
    const { status, body } = await ask(crio, '/config');
    assert.equal(status, 200);
    assert.include(body, `crio_socket = ${JSON.stringify(crio)}`);
    assert.equal((await ask(crio, '/nothing')).status, 404);
    assert.isObject(JSON.parse((await ask(crio, '/debug/heap')).body).snapshot);
  });

  it('knows containers and pods by their cgroups, and all that it wants to know of them', async () => {
    const pod = await kubelets();
    assert.deepEqual(cgroupsBelow(kubelet.parent), [`crio-${pod.id}.scope`]);
    assert.equal((await asJson(`/containers/${pod.id}`))['pid'], 0);
    const id = await node.cri.runContainer(pod, IMAGE, {
      labels: { 'io.kubernetes.container.name': 'app' },
      command: ['sh', '-c', 'head -c 300000 /dev/zero > /big; exec sleep 1000'],
    });
    const comm = async (): Promise<string> => {
      const { pid } = await asJson(`/containers/${id}`);
      return readFileSync(`/proc/${String(pid)}/comm`, 'utf8');
    };
    // By then it has written its file, too.
    await waitFor(comm, (name) => name === 'sleep\n', 'the process of the container to be what it will be');
    // As its factory does: a name that begins with crio and has an id.
    const ids = cgroupsBelow(kubelet.parent).flatMap((each) => /^crio.*([a-z0-9]{64})/.exec(each)?.[1] ?? []);
    assert.sameMembers(ids, [pod.id, id]);

    const container = await asJson(`/containers/${id}`);
    assert.deepEqual(container['labels'], { 'io.kubernetes.container.name': 'app' });
    // Its file system is measured where the root would be that CRI-O has.
    const diff = join(String(container['root']).replace(/\/merged$/, ''), 'diff');
    assert.include(readdirSync(diff), 'big');

    const sandbox = await asJson(`/containers/${pod.id}`);
    assert.include(sandbox['labels'], { 'io.kubernetes.container.name': 'POD', 'io.kubernetes.pod.name': 'web' });
    const devices = readFileSync(`/proc/${String(sandbox['pid'])}/net/dev`, 'utf8');
    assert.match(devices, /eth0:/);
    assert.deepEqual(readdirSync(join(String(sandbox['root']).replace(/\/merged$/, ''), 'diff')), []);
    assert.deepEqual(sandbox['ip_addresses'], [(await node.cri.pod(pod.id)).network?.ip]);

    await node.cri.removePod(pod.id);
    assert.deepEqual(cgroupsBelow(kubelet.parent), []);
    const { status, body } = await ask(crio, `/containers/${id}`);
    assert.deepEqual([status, body], [404, `can't find the container with id ${id}\n`]);
  });

  it('pauses a container by HTTP, stops it all the same, and answers as CRI-O does', async () => {
    const pod = await kubelets();
    const ticks = join(node.dir, 'ticks');
    await writeFile(ticks, '');
    const id = await node.cri.runContainer(pod, IMAGE, {
      command: ['sh', '-c', 'trap "exit 3" TERM; while :; do echo tick >> /ticks; sleep 0.02; done'],
      mounts: [{ hostPath: ticks, containerPath: '/ticks' }],
    });
    const ticked = (): number => statSync(ticks).size;
    const goesOn = (from: number): Promise<number> => waitFor(ticked, (now) => now > from, 'the container to go on');
    await goesOn(0);
    const conflict = (what: string): Answer => ({ status: 409, body: `container is not in ${what}\n` });
    assert.deepEqual(await ask(crio, `/unpause/${id}`), conflict('paused state, now is running'));
    assert.deepEqual(await ask(crio, `/pause/${id}`), { status: 200, body: '200 OK' });
    assert.deepEqual(await ask(crio, `/pause/${id}`), conflict('running or created state, now is paused'));
    assert.equal((await node.cri.container(id)).state, 'CONTAINER_RUNNING');
    const paused = ticked();
    await node.kill();
    await node.start();
    assert.equal(ticked(), paused);
    assert.deepEqual(await ask(crio, `/unpause/${id}`), { status: 200, body: '200 OK' });
    await goesOn(paused);
    assert.equal((await ask(crio, `/pause/${id}`)).status, 200);
    await node.cri.rpc.stopContainer({ containerId: id, timeout: 30n });
    const { exitCode, state } = await node.cri.container(id);
    assert.deepEqual([state, exitCode], ['CONTAINER_EXITED', 3]);
    assert.deepEqual(await ask(crio, `/pause/${id}`), conflict('running or created state, now is stopped'));
    for (const path of [`/pause/${pod.id}`, '/unpause/f00', `/pause/${'0'.repeat(64)}`])
      assert.include(await ask(crio, path), { status: 404 });

    const other = await node.cri.runContainer(pod, IMAGE, { metadata: { name: 'b' }, command: ['sleep', '1000'] });
    assert.equal((await ask(crio, `/pause/${other}`)).status, 200);
    await node.cri.removePod(pod.id);
  });

  it('shows the configuration that is in force, also after a reload', async () => {
    const file = join(node.dir, 'none/50-pinned.conf');
    await writeFile(file, '[crio.image]\npinned_images = ["shown/after-reload"]\n');
    assert.notInclude((await ask(crio, '/config')).body, 'shown/after-reload');
    process.kill(node.pid, 'SIGHUP');
    await waitFor(
      () => ask(crio, '/config'),
      ({ body }) => body.includes('pinned_images = ["shown/after-reload"]'),
      'the new value to be shown',
    );
    rmSync(file);
    process.kill(node.pid, 'SIGHUP');
    await waitFor(
      () => ask(crio, '/config'),
      ({ body }) => !body.includes('shown/after-reload'),
      'the old value to be shown again',
    );
  });

  it('asks the next daemon after a kill, whose socket replaces the stale one', async () => {
    const pod = await kubelets();
    await node.kill();
    assert.isTrue(existsSync(crio));
    await node.start();
    assert.equal((await asJson(`/containers/${pod.id}`))['sandbox'], pod.id);
    assert.include(node.log, 'serving at the socket of CRI-O too');
    await node.cri.removePod(pod.id);
    assert.deepEqual(cgroupsBelow(kubelet.parent), []);
  });

  it('does not keep the kubelet waiting: nonsense and silence on the socket, while calls go on', async () => {
    const silent = Array.from({ length: 300 }, () => connect(crio).on('error', () => {}));
    for (const text of ['\0\0\0', 'GET', 'PRI', `GET / HTTP/1.1\r\n${'a: b\r\n'.repeat(5_000)}`])
      connect(crio)
        .on('error', () => {})
        .end(text);
    for (let i = 0; i < 20; i++) {
      await node.cri.rpc.version({}, { deadlineMs: 5_000 });
      await asJson('/info');
    }
    for (const each of silent) each.destroy();
  });

  it('is left to whoever answers there; the daemon serves all the same', async () => {
    await node.stop();
    rmSync(crio, { force: true });
    const other = createServer((connection) => connection.on('error', () => {}).resume());
    await new Promise<void>((resolve) => other.listen(crio, resolve));
    try {
      await node.start();
      assert.match(node.log, /level=warn .*socket of CRI-O cannot be served/);
      await node.stop();
      assert.isTrue(existsSync(crio));
    } finally {
      await new Promise((resolve) => other.close(resolve));
    }
    await writeFile(crio, 'a file');
    await node.start();
    assert.match(node.log, /socket of CRI-O cannot be served.*is not a socket/);
    assert.equal(readFileSync(crio, 'utf8'), 'a file');
    await node.stop();
    assert.include(readdirSync(join(crio, '..')), basename(crio));
    rmSync(crio);
    await node.start();
  });
});
