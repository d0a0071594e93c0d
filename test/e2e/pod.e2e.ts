/** The whole life of a pod, with each runtime and each monitor. */
import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { connect as connectTcp } from 'node:net';
import { dirname } from 'node:path';
import { CriError, podConfig, waitFor } from './cri-client.ts';
import { hasNat, hasRuntime, IMAGE, logLines, type MonitorName, type RuntimeName, TestNode, whole } from './harness.ts';
import { refusal } from './inside.ts';

const COMBINATIONS: readonly (readonly [RuntimeName, MonitorName])[] = [
  ['runc', 'ours'],
  ['runc', 'debian'],
  ['crun', 'ours'],
  ['crun', 'debian'],
  ['runsc', 'ours'],
  ['runsc', 'debian'],
];

for (const [runtime, monitor] of COMBINATIONS) {
  describe(`the life of a pod with ${runtime} and ${monitor === 'ours' ? 'our' : "Debian's"} conmon`, function () {
    this.timeout(60_000);
    let node: TestNode;
    before(async function () {
      if (!hasRuntime(runtime)) this.skip();
      node = await TestNode.boot({ runtime, monitor });
    });
    after(async () => {
      if (hasRuntime(runtime)) await node.close();
    });

    it('runs from RunPodSandbox to RemovePodSandbox', async () => {
      const { cri } = node;
      const pod = await cri.runPod({ hostname: 'first', labels: { app: 'x' }, annotations: { note: 'päth=1;2' } });
      const sandbox = await cri.pod(pod.id);
      assert.strictEqual(sandbox.state, 'SANDBOX_READY');
      assert.match(sandbox.network?.ip ?? '', /^10\.2\d\d\./);
      assert.deepEqual({ ...sandbox.annotations }, { note: 'päth=1;2' });

      const script =
        'trap "exit 3" TERM; echo out; echo err >&2; printf partial; cat /etc/hostname; while :; do sleep 0.1; done';
      const id = await cri.createContainer(pod, IMAGE, { command: ['sh', '-c', script] });
      assert.strictEqual((await cri.container(id)).state, 'CONTAINER_CREATED');
      await cri.rpc.startContainer({ containerId: id });
      const running = await cri.container(id);
      assert.strictEqual(running.state, 'CONTAINER_RUNNING');
      assert.isTrue(running.startedAt >= running.createdAt);
      const wholeLines = async (): Promise<string[]> => whole(await logLines(running.logPath));
      const lines = await waitFor(wholeLines, (found) => found.length >= 3, 'three lines of log');
      assert.sameMembers(lines, ['stdout out', 'stderr err', 'stdout partialfirst']);
      assert.match(
        await readFile(running.logPath, 'utf8'),
        /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) std/m,
      );

      const exec = await cri.exec(id, ['sh', '-c', 'echo to-out; echo to-err >&2; exit 7']);
      assert.deepEqual(exec, { stdout: 'to-out\n', stderr: 'to-err\n', exitCode: 7 });

      await cri.rpc.stopContainer({ containerId: id, timeout: 30n });
      const stopped = await cri.container(id);
      assert.deepEqual([stopped.state, stopped.exitCode, stopped.reason], ['CONTAINER_EXITED', 3, 'Error']);
      assert.isTrue(stopped.finishedAt >= stopped.startedAt);
      await cri.rpc.removeContainer({ containerId: id });
      await cri.rpc.removeContainer({ containerId: id });
      await stat(running.logPath); // the kubelet owns the log
      await cri.rpc.stopPodSandbox({ podSandboxId: pod.id });
      assert.strictEqual((await cri.pod(pod.id)).state, 'SANDBOX_NOTREADY');
      await cri.rpc.removePodSandbox({ podSandboxId: pod.id });
      await cri.rpc.removePodSandbox({ podSandboxId: pod.id });
      assert.lengthOf((await cri.rpc.listPodSandbox()).items, 0);
    });

    it('kills what ignores its stop signal, after the grace period', async () => {
      const pod = await node.cri.runPod();
      const id = await node.cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', 'trap "" TERM; echo deaf; while :; do sleep 0.1; done'],
      });
      // From outside of gVisor nobody sees whether a program handles a signal yet; elsewhere Berth waits until this one
      // does.
      if (runtime === 'runsc') {
        const { logPath } = await node.cri.container(id);
        await waitFor(
          () => logLines(logPath),
          (lines) => lines.length > 0,
          'the program to say that it is deaf',
        );
      }
      await node.cri.rpc.stopContainer({ containerId: id, timeout: 1n });
      assert.strictEqual((await node.cri.container(id)).exitCode, 137);
      await node.cri.removePod(pod.id);
    });

    it('reports the code of containers that end at once', async () => {
      const pod = await node.cri.runPod();
      for (let code = 0; code < 12; code++) {
        const id = await node.cri.runContainer(pod, IMAGE, { command: ['sh', '-c', `exit ${code}`] });
        const status = await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
        assert.deepEqual([status.exitCode, status.reason], [code, code === 0 ? 'Completed' : 'Error']);
      }
      await node.cri.removePod(pod.id);
    });

    it('gives a terminal, and reopens a rotated log without losing a line', async () => {
      const pod = await node.cri.runPod();
      const id = await node.cri.runContainer(pod, IMAGE, {
        command: [
          'sh',
          '-c',
          'tty; [ -t 0 ] && [ -t 1 ] && echo terminal; i=0; while [ $i -lt 400 ]; do echo line $i; ' +
            'i=$((i+1)); sleep 0.005; done',
        ],
        tty: true,
      });
      const { logPath } = await node.cri.container(id);
      await waitFor(
        () => logLines(logPath),
        (lines) => lines.length > 20,
        'some lines',
      );
      const { rename } = await import('node:fs/promises');
      await rename(logPath, `${logPath}.1`);
      await node.cri.rpc.reopenContainerLog({ containerId: id });
      await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
      const text = whole([...(await logLines(`${logPath}.1`)), ...(await logLines(logPath))]).join('\n');
      const numbers = [...text.matchAll(/line (\d+)/g)].map((match) => Number(match[1]));
      assert.deepEqual(
        numbers,
        Array.from({ length: 400 }, (_, i) => i),
      );
      assert.match(text, /^stdout terminal/m);
      // gVisor shows a terminal of the host under a name of its own, which has no file.
      if (runtime !== 'runsc') assert.include(text, '/dev/pts/0');
      await node.cri.removePod(pod.id);
    });

    it('reopens a log in place of what is none, and says at once what stands in the way', async () => {
      const pod = await node.cri.runPod();
      const id = await node.cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', 'while sleep 0.05; do echo x; done'],
      });
      const { logPath } = await node.cri.container(id);
      const victim = `${logPath}.victim`;
      await writeFile(victim, '');
      const reopen = async (): Promise<unknown> =>
        await node.cri.rpc.reopenContainerLog({ containerId: id }, { deadlineMs: 5_000 });
      for (const inTheWay of [`mkfifo ${logPath}`, `ln -s ${victim} ${logPath}`, `ln -s nowhere ${logPath}`]) {
        execFileSync('sh', ['-c', `rm ${logPath}; ${inTheWay}`]);
        await reopen();
        await waitFor(
          () => logLines(logPath),
          (lines) => lines.length > 0,
          `lines in place of: ${inTheWay}`,
        );
      }
      assert.strictEqual(await readFile(victim, 'utf8'), '');
      for (const [inTheWay, away, said] of [
        [`mkdir ${logPath}`, `rmdir ${logPath}`, 'it is a directory; remove it'],
        [`mv ${dirname(logPath)} ${dirname(logPath)}.1`, `mv ${dirname(logPath)}.1 ${dirname(logPath)}`, 'make it'],
      ]) {
        execFileSync('sh', ['-c', `rm ${logPath}; ${inTheWay}`]);
        const error = await refusal(reopen(), said ?? '');
        assert.strictEqual(error.codeName, 'FailedPrecondition', error.message);
        execFileSync('sh', ['-c', away ?? '']);
        await reopen();
      }
      await node.cri.removePod(pod.id);
    });

    // With runsc each container has a kernel of its own: see runsc.e2e.ts.
    if (runtime !== 'runsc')
      it('shares a PID namespace, where pause is init and reaps', async () => {
        const pod = await node.cri.runPod({
          linux: { securityContext: { namespaceOptions: { network: 'POD', pid: 'POD', ipc: 'POD' } } },
        });
        const options = {
          linux: { securityContext: { namespaceOptions: { network: 'POD', pid: 'POD', ipc: 'POD' } as const } },
        };
        const one = await node.cri.runContainer(pod, IMAGE, { ...options, command: ['sleep', '1000'] });
        const two = await node.cri.runContainer(pod, IMAGE, { ...options, command: ['sleep', '2000'] });
        const { stdout } = await node.cri.exec(one, ['ps']);
        assert.match(stdout, /1 root .*\/pause/);
        assert.match(stdout, /sleep 2000/);
        await node.cri.rpc.stopContainer({ containerId: two, timeout: 0n });
        await node.cri.removePod(pod.id);
      });

    it('maps a host port to the container', async function () {
      if (!hasNat()) this.skip();
      const hostPort = 20_000 + (process.pid % 10_000);
      const pod = await node.cri.runPod({
        portMappings: [{ protocol: 'TCP', containerPort: 80, hostPort, hostIp: '' }],
      });
      await node.cri.runContainer(pod, IMAGE, { command: ['sh', '-c', 'while :; do echo hi | nc -l -p 80; done'] });
      const ip = (await node.cri.pod(pod.id)).network?.ip ?? '';
      const greet = (host: string, port: number): Promise<string> =>
        new Promise((resolve) => {
          let text = '';
          const socket = connectTcp(port, host);
          socket
            .on('data', (chunk) => (text += chunk.toString()))
            .on('error', () => resolve(''))
            .on('close', () => resolve(text));
        });
      assert.strictEqual(
        await waitFor(
          () => greet(ip, 80),
          (text) => text !== '',
          'the pod to answer',
        ),
        'hi\n',
      );
      assert.strictEqual(
        await waitFor(
          () => greet('127.0.0.1', hostPort),
          (text) => text !== '',
          'the host port to answer',
        ),
        'hi\n',
      );
      await node.cri.removePod(pod.id);
    });

    it('gives one id to twenty parallel identical RunPodSandbox calls', async () => {
      const config = podConfig();
      const replies = await Promise.all(Array.from({ length: 20 }, () => node.cri.rpc.runPodSandbox({ config })));
      assert.lengthOf(new Set(replies.map((reply) => reply.podSandboxId)), 1);
      await node.cri.removePod(replies[0]?.podSandboxId ?? '');
    });

    it('says what is wrong with a command that is not there, and keeps the container to say so', async () => {
      const pod = await node.cri.runPod();
      const error = await node.cri.runContainer(pod, IMAGE, { command: ['/no/such/program'] }).then(
        () => undefined,
        (cause: unknown) => cause,
      );
      assert.instanceOf(error, CriError);
      assert.include((error as CriError).message, '/no/such/program');
      await node.cri.removePod(pod.id);
    });
  });
}
