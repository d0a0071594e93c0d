import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import { checkAlive, type Op, withLog, withTimeout } from '../pkg/base/op.ts';
import type { Client } from './client.ts';
import { aborted, failure, ground } from './fake-server.ts';
import type { Handlers } from './handler.ts';

describe('cri/calls', () => {
  const at = ground();

  describe('the operation', () => {
    it('has the deadline of the call', async () => {
      const deadlines: number[] = [];
      await at.start({
        stopContainer: (op) => {
          deadlines.push(op.deadline);
          return {};
        },
      });
      const before = performance.now();
      await at.client().stopContainer({}, { deadlineMs: 60_000 });
      await at.client().stopContainer({}, { deadlineMs: 0 });
      assert.closeTo((deadlines[0] ?? 0) - before, 60_000, 5_000);
      assert.equal(deadlines[1], Number.POSITIVE_INFINITY);
    });

    it('ends by a deadline of its own where its client has none, and stays in the table until it is done', async () => {
      const { promise: work, resolve: finish } = Promise.withResolvers<void>();
      const server = await at.start(
        {
          async imageFsInfo(op) {
            op.stage('counting blobs');
            await work;
            return {};
          },
        },
        { treatment: { deadlineMs: 20 } },
      );
      const error = await failure(at.client().imageFsInfo({}, { deadlineMs: 0 }));
      assert.deepEqual([error.codeName, error.message], ['DeadlineExceeded', 'deadline passed while: counting blobs']);
      assert.deepEqual(
        server.operations().map(({ rpc, stage, clientGone }) => ({ rpc, stage, clientGone })),
        [{ rpc: 'ImageFsInfo', stage: 'counting blobs', clientGone: true }],
      );
      finish();
      while (server.operations().length > 0) await new Promise(setImmediate);
    });

    it('is told when the client cancels, and may finish its work all the same', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<void>();
      const { promise: finish, resolve: letFinish } = Promise.withResolvers<void>();
      const server = await at.start({
        runPodSandbox: async (op) => {
          op.stage('cni add: bridge');
          enter();
          await aborted(op);
          await finish;
          return { podSandboxId: 'made' };
        },
      });
      const cancel = new AbortController();
      const call = failure(at.client().runPodSandbox({}, { signal: cancel.signal }));
      await entered;
      cancel.abort();
      assert.equal((await call).codeName, 'Cancelled');
      assert.deepEqual(
        server.operations().map((each) => [each.rpc, each.stage]),
        [['RunPodSandbox', 'cni add: bridge']],
      );
      letFinish();
      while (server.operations().length > 0) await new Promise(setImmediate);
      const line = at.log.lines.find((each) => each.message === 'ok, but the client was gone');
      assert.equal(line?.['sandbox'], 'made');
    });

    it('is told when the deadline passes; what the handler throws then is explained', async () => {
      const server = await at.start({
        createContainer: async (op) => {
          op.stage('unpacking layer 3');
          await aborted(op);
          throw new Error('some library gave up');
        },
      });
      // Long enough to reach the handler on a busy machine.
      assert.equal((await failure(at.client().createContainer({}, { deadlineMs: 250 }))).codeName, 'DeadlineExceeded');
      while (server.operations().length > 0) await new Promise(setImmediate);
      const line = at.log.lines.find((each) => each.message === 'failed');
      assert.match(String(line?.['cause']), /while: unpacking layer 3$/);
      assert.equal(line?.['stage'], 'unpacking layer 3');
    });

    it('goes on when the deadline passes, and shows that its client has left', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<void>();
      const { promise: work, resolve: finish } = Promise.withResolvers<void>();
      const server = await at.start({
        async runPodSandbox() {
          enter();
          await work;
          return { podSandboxId: 'made' };
        },
      });
      const client = at.client();
      await client.operations();
      const call = failure(client.runPodSandbox({}, { deadlineMs: 500 }));
      await entered;
      assert.equal((await call).codeName, 'DeadlineExceeded');
      while (server.operations()[0]?.clientGone === false) await new Promise(setImmediate);
      assert.deepEqual(
        server.operations().map(({ rpc, clientGone }) => [rpc, clientGone]),
        [['RunPodSandbox', true]],
      );
      finish();
      while (server.operations().length > 0) await new Promise(setImmediate);
    });

    it('stays in the table while work goes on without it, and is told apart there', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<Op>();
      const { promise: work, resolve: finish } = Promise.withResolvers<void>();
      const server = await at.start({
        stopPodSandbox: async (op) => {
          withLog(op, {}).goesOn?.(work);
          enter(op);
          await aborted(op);
          throw new RuntimeError('Cancelled', 'it goes on');
        },
      });
      const cancel = new AbortController();
      const call = failure(at.client().stopPodSandbox({ podSandboxId: 'p1' }, { signal: cancel.signal }));
      const op = await entered;
      assert.deepEqual(
        server.operations().map((each) => each.clientGone),
        [false],
      );
      cancel.abort();
      await call;
      while (!at.log.lines.some((each) => each.message === 'failed')) await new Promise(setImmediate);
      op.stage('cni del');
      assert.deepEqual(
        server.operations().map(({ rpc, ids, stage, clientGone }) => ({ rpc, ids: { ...ids }, stage, clientGone })),
        [{ rpc: 'StopPodSandbox', ids: { sandbox: 'p1' }, stage: 'cni del', clientGone: true }],
      );
      finish();
      while (server.operations().length > 0) await new Promise(setImmediate);
    });

    it('is named with its stage by whatever ends it too early', async () => {
      await at.start({
        startContainer: (op) => {
          op.stage('runtime start');
          throw new RuntimeError('DeadlineExceeded', 'it is still being started', { cause: new Error('slow disk') });
        },
      });
      assert.equal(
        (await failure(at.client().startContainer({}))).message,
        'at stage "runtime start": it is still being started: slow disk',
      );
    });

    it('is listed beside what is no call, the oldest first', async () => {
      const other = {
        rpc: 'exec session',
        requestId: '',
        ids: {},
        stage: 'attached',
        ageNanos: 10n ** 12n,
        stageAgeNanos: 0n,
        clientGone: false,
      };
      await at.start({}, { otherOperations: () => [other, { ...other, ageNanos: 0n, stage: 'new' }] });
      assert.deepEqual(
        (await at.client().operations()).operations.map((each) => [each.rpc, each.stage]),
        [
          ['exec session', 'attached'],
          ['Operations', ''],
          ['exec session', 'new'],
        ],
      );
    });

    it('keeps working when helpers copy it', async () => {
      const server = await at.start({
        version: async (op) => {
          const copy = withLog(withTimeout(op, 1_000), { extra: 1 });
          copy.stage('copied');
          copy.log.info('from inside');
          assert.equal(server.operations()[0]?.stage, 'copied');
          checkAlive(copy, 'x');
          return {};
        },
      });
      await at.client().version();
      assert.include(
        at.log.lines.find((each) => each.message === 'from inside'),
        { rpc: 'Version', extra: 1 },
      );
    });

    it('is listed with ids, stage and ages, over the wire too', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<void>();
      const { promise: finish, resolve: letFinish } = Promise.withResolvers<void>();
      await at.start({
        stopContainer: async (op) => {
          op.stage('waiting for exit');
          enter();
          await finish;
          return {};
        },
      });
      const cri = at.client();
      const stopping = cri.stopContainer({ containerId: 'c1' });
      await entered;
      const { operations } = await cri.operations();
      letFinish();
      await stopping;
      assert.deepEqual(
        operations.map((each) => [each.rpc, each.stage, { ...each.ids }]),
        [
          ['StopContainer', 'waiting for exit', { container: 'c1' }],
          ['Operations', '', {}],
        ],
      );
      const [stop] = operations;
      assert.isTrue(stop !== undefined && stop.ageNanos >= stop.stageAgeNanos && stop.stageAgeNanos > 0n);
      assert.match(stop?.requestId ?? '', /^[0-9a-f]{4,}$/);
      assert.isEmpty((await cri.operations()).operations.filter((each) => each.rpc !== 'Operations'));
    });
  });

  describe('the log line', () => {
    const cases: readonly (readonly [
      what: string,
      handlers: Handlers,
      call: (cri: Client) => Promise<unknown>,
      expected: Record<string, unknown>,
    ])[] = [
      [
        'a change',
        { runPodSandbox: () => ({ podSandboxId: 'p1' }) },
        (cri) => cri.runPodSandbox({ config: { metadata: { name: 'web', namespace: 'shop' } } }),
        { level: 'info', message: 'ok', rpc: 'RunPodSandbox', pod: 'web', ns: 'shop', sandbox: 'p1' },
      ],
      [
        'a container',
        { createContainer: () => ({ containerId: 'c1' }) },
        (cri) =>
          cri.createContainer({
            podSandboxId: 'p1',
            config: { metadata: { name: 'app' }, image: { image: 'busybox' } },
          }),
        { level: 'info', message: 'ok', sandbox: 'p1', name: 'app', image: 'busybox', container: 'c1' },
      ],
      [
        'a pull',
        { pullImage: () => ({ imageRef: 'sha256:1' }) },
        (cri) => cri.pullImage({ image: { image: 'busybox:1' }, auth: { password: 'secret' } }),
        { level: 'info', message: 'ok', image: 'busybox:1' },
      ],
      [
        'a read',
        { listContainers: () => ({}) },
        (cri) => cri.listContainers(),
        { level: 'debug', message: 'ok', rpc: 'ListContainers' },
      ],
      [
        'a failure',
        {
          startContainer: () => {
            throw new RuntimeError('FailedPrecondition', 'is exited');
          },
        },
        (cri) => failure(cri.startContainer({ containerId: 'c1' })),
        { level: 'warn', message: 'failed', code: 'FailedPrecondition', cause: 'is exited', container: 'c1' },
      ],
      [
        'a bug',
        {
          startContainer: () => {
            throw new RuntimeError('Internal', 'broken');
          },
        },
        (cri) => failure(cri.startContainer({ containerId: 'c1' })),
        { level: 'error', message: 'failed', code: 'Internal' },
      ],
      [
        'a read of what is gone',
        {
          containerStatus: () => {
            throw new RuntimeError('NotFound', 'no such');
          },
        },
        (cri) => failure(cri.containerStatus({ containerId: 'c1' })),
        { level: 'debug', message: 'failed', code: 'NotFound' },
      ],
    ];
    for (const [what, handlers, call, expected] of cases) {
      it(`of ${what}`, async () => {
        await at.start(handlers);
        await call(at.client());
        assert.lengthOf(at.log.lines, 1);
        assert.include(at.log.lines[0], expected);
        assert.isNumber(at.log.lines[0]?.['ms']);
        assert.notInclude(JSON.stringify(at.log.lines), 'secret');
      });
    }

    it('has a request id of its own', async () => {
      await at.start({
        version: () => ({}),
        startContainer: () => {
          throw new RuntimeError('Unavailable', 'x', { reason: 'RegistryUnavailable' });
        },
      });
      const cri = at.client();
      await cri.version();
      await failure(cri.startContainer());
      assert.lengthOf(new Set(at.log.lines.map((line) => line['req'])), 2);
    });
  });
});
