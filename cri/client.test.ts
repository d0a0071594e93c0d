import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import { silent } from '../pkg/base/op.ts';
import type { ContainerState } from '../pkg/cri-api/types.ts';
import { containerConfig, type CriClient, criClient, podConfig, waitFor } from '../test/e2e/cri-client.ts';
import { type Client, connect, CriError } from './client.ts';
import { Calls } from './calls.ts';
import { answersWith, noPages } from './fake-server.ts';
import type { Handlers } from './handler.ts';
import { type RunningServer, serve } from './server.ts';

const failure = async (work: Promise<unknown>): Promise<Error> => {
  try {
    await work;
  } catch (error) {
    return error as Error;
  }
  return assert.fail('nothing was thrown');
};

/** A server with one container that runs to its end; notes what is made and removed. */
function oneContainer(seen: string[]): Handlers {
  let state: ContainerState = 'CONTAINER_CREATED';
  return {
    runPodSandbox: (_op, request) => {
      seen.push(`run ${request.config?.metadata?.name} ${request.runtimeHandler}`);
      return { podSandboxId: 'p1' };
    },
    createContainer: (_op, request) => {
      seen.push(
        `create ${request.podSandboxId} ${request.sandboxConfig?.metadata?.name} ` +
          `${request.config?.image?.image} ${request.config?.logPath}`,
      );
      return { containerId: 'c1' };
    },
    startContainer: () => {
      state = 'CONTAINER_RUNNING';
      return {};
    },
    containerStatus: () => {
      const now = state;
      if (now === 'CONTAINER_RUNNING') state = 'CONTAINER_EXITED';
      return { status: { id: 'c1', state: now, exitCode: 3 } };
    },
    podSandboxStatus: (_op, request) => {
      if (request.podSandboxId === 'p1') return { status: { id: 'p1', state: 'SANDBOX_READY' } };
      throw new RuntimeError('NotFound', 'no such pod');
    },
    execSync: (_op, request) => ({
      stdout: Buffer.from(request.cmd.join(' ')),
      stderr: Buffer.from(String(request.timeout)),
      exitCode: 7,
    }),
    listPodSandbox: () => ({ items: [{ id: 'p1' }, { id: 'p2' }] }),
    stopPodSandbox: (_op, request) => {
      seen.push(`stop ${request.podSandboxId}`);
      return {};
    },
    removePodSandbox: (_op, request) => {
      seen.push(`remove ${request.podSandboxId}`);
      return {};
    },
  };
}

describe('cri/client', () => {
  let home: string;
  let socket: string;
  let server: RunningServer | undefined;
  const open: { close(): void }[] = [];

  beforeEach(() => {
    home = mkdtempSync(join(tmpdir(), 'berth-client-'));
    socket = join(home, 's');
  });

  afterEach(async () => {
    for (const each of open.splice(0)) each.close();
    await server?.close(0);
    server = undefined;
    rmSync(home, { recursive: true, force: true });
  });

  const plain = (): Client => {
    const it = connect(socket);
    open.push(it);
    return it;
  };

  const verbs = (): CriClient => {
    const it = criClient(socket);
    open.push(it);
    return it;
  };

  async function start(handlers: Handlers): Promise<void> {
    const calls = new Calls();
    const own = { operations: () => ({ operations: calls.operations() }), ...handlers };
    server = await serve({ socket, log: silent, answers: answersWith(own), calls, pages: noPages });
  }

  it('waits for a server that is yet to start', async () => {
    const cri = plain();
    const ready = cri.waitForReady(10_000);
    await start({ version: () => ({ runtimeName: 'late' }) });
    await ready;
    assert.equal((await cri.version()).runtimeName, 'late');
  });

  it('says so when nobody answers', async () => {
    const error = await failure(plain().waitForReady(20));
    assert.instanceOf(error, CriError);
    assert.include(error.message, `nobody answers on ${socket}`);
    assert.equal(((await failure(plain().version())) as CriError).codeName, 'Unavailable');
  });

  it('waits no longer once it is closed', async () => {
    const cri = plain();
    const ready = failure(cri.waitForReady(60_000));
    cri.close();
    assert.include((await ready).message, 'was closed');
  });

  it('connects again after the server was started anew', async () => {
    await start({ version: () => ({ runtimeName: 'one' }) });
    const cri = plain();
    assert.equal((await cri.version()).runtimeName, 'one');
    await server?.close(0);
    await start({ version: () => ({ runtimeName: 'two' }) });
    await cri.waitForReady(10_000);
    assert.equal((await cri.version()).runtimeName, 'two');
  });

  it('does not send a call that is cancelled already', async () => {
    let calls = 0;
    await start({
      pullImage: () => {
        calls++;
        return {};
      },
    });
    const cri = plain();
    assert.equal(
      ((await failure(cri.pullImage({}, { signal: AbortSignal.abort() }))) as CriError).codeName,
      'Cancelled',
    );
    await cri.operations();
    assert.equal(calls, 0);
  });

  it('waits as long as the kubelet does, unless told otherwise', async () => {
    const waits: Record<string, number> = {};
    const note =
      (name: string) =>
      (op: { deadline: number }): Record<string, never> => {
        waits[name] = Math.round((op.deadline - performance.now()) / 60_000);
        return {};
      };
    await start({
      version: note('version'),
      runPodSandbox: note('run'),
      pullImage: note('pull'),
      execSync: note('exec'),
    });
    const cri = plain();
    await Promise.all([cri.version(), cri.runPodSandbox(), cri.pullImage(), cri.execSync()]);
    assert.deepEqual(waits, { version: 2, run: 4, pull: Number.POSITIVE_INFINITY, exec: Number.POSITIVE_INFINITY });
    const patient = connect(socket, 60_000);
    open.push(patient);
    await Promise.all([patient.version(), patient.pullImage()]);
    assert.deepEqual([waits['version'], waits['pull']], [1, 1]);
  });

  it('has crictl’s verbs for tests', async () => {
    const seen: string[] = [];
    await start(oneContainer(seen));
    const cri = verbs();
    const pod = await cri.runPod({ metadata: { name: 'web' } }, { handler: 'crun' });
    assert.equal(await cri.runContainer(pod, 'busybox', { metadata: { name: 'app', attempt: 2 } }), 'c1');
    assert.equal((await cri.waitForContainer('c1', 'CONTAINER_EXITED')).exitCode, 3);
    assert.deepEqual(await cri.exec('c1', ['echo', 'x'], { timeoutSeconds: 5 }), {
      stdout: 'echo x',
      stderr: '5',
      exitCode: 7,
    });
    assert.equal((await cri.waitForPod('p1', 'SANDBOX_READY')).id, 'p1');
    assert.equal(((await failure(cri.pod('p9'))) as CriError).codeName, 'NotFound');
    assert.match(
      (await failure(cri.waitForContainer('c1', 'CONTAINER_CREATED', { timeoutMs: 0 }))).message,
      /container c1 to be CONTAINER_CREATED; last: .*CONTAINER_EXITED/,
    );
    await cri.removeAllPods();
    assert.sameMembers(seen, [
      'run web crun',
      'create p1 web busybox app.2.log',
      'stop p1',
      'remove p1',
      'stop p2',
      'remove p2',
    ]);
  });

  it('builds configs that differ, and lets given fields win', async () => {
    assert.notEqual(podConfig().metadata?.uid, podConfig().metadata?.uid);
    const config = podConfig({ hostname: 'h', metadata: { namespace: 'kube' } });
    assert.deepInclude(config, { hostname: 'h' });
    assert.equal(config.metadata?.namespace, 'kube');
    assert.isNotEmpty(config.metadata?.uid);
    assert.equal(containerConfig('b', { logPath: 'x' }).logPath, 'x');
    assert.equal(
      await waitFor(
        () => 5,
        (value) => value === 5,
        'five',
      ),
      5,
    );
  });
});
