import { rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { assert } from 'chai';
import type { Op } from '../pkg/base/op.ts';
import { Calls } from './calls.ts';
import { answersWith, failure, ground, noPages, refusal } from './fake-server.ts';
import { serve } from './server.ts';

describe('cri/socket', () => {
  const at = ground();

  describe('the socket', () => {
    it('is not taken from a daemon that answers', async () => {
      await at.start({ version: () => ({ runtimeName: 'first' }) });
      const error = await refusal(
        serve({ socket: at.socket, log: at.log, answers: answersWith({}), calls: new Calls(), pages: noPages }),
      );
      assert.equal(error.code, 'FailedPrecondition');
      assert.include(error.message, `socket ${at.socket} is in use`);
      assert.equal((await at.client().version()).runtimeName, 'first');
    });

    it('is taken over when its owner died', async () => {
      const left = createServer();
      await new Promise<void>((resolve) => left.listen(join(at.home, 'dead.sock'), resolve));
      const { linkSync } = await import('node:fs');
      linkSync(join(at.home, 'dead.sock'), at.socket);
      await new Promise((resolve) => left.close(resolve));
      await at.start({ version: () => ({ runtimeName: 'second' }) });
      assert.equal((await at.client().version()).runtimeName, 'second');
    });

    const bad: readonly (readonly [what: string, prepare: () => string, message: string])[] = [
      [
        'a file',
        () => {
          writeFileSync(at.socket, 'precious');
          return at.socket;
        },
        'is not a socket',
      ],
      [
        'a link',
        () => {
          symlinkSync('/nowhere', at.socket);
          return at.socket;
        },
        'is not a socket',
      ],
      ['a relative path', () => 'berth.sock', 'must be absolute'],
      ['a path that no socket can have', () => join(at.home, 'x'.repeat(120)), 'at most 107 bytes'],
      ['a directory that does not exist', () => join(at.home, 'no', 'berth.sock'), 'cannot listen on'],
    ];
    for (const [what, prepare, message] of bad) {
      it(`is refused: ${what}`, async () => {
        assert.include(
          (
            await refusal(
              serve({ socket: prepare(), log: at.log, answers: answersWith({}), calls: new Calls(), pages: noPages }),
            )
          ).message,
          message,
        );
      });
    }
  });

  describe('close', () => {
    it('lets calls finish, ends streams, refuses new calls, removes the socket', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<void>();
      const { promise: finish, resolve: letFinish } = Promise.withResolvers<void>();
      const { promise: streaming, resolve: first } = Promise.withResolvers<void>();
      const server = await at.start({
        runPodSandbox: async () => {
          enter();
          await finish;
          return { podSandboxId: 'p1' };
        },
        async *getContainerEvents() {
          first();
          yield await new Promise<never>(() => {});
        },
      });
      const cri = at.client();
      const running = cri.runPodSandbox();
      const stream = failure(cri.getContainerEvents()[Symbol.asyncIterator]().next());
      await Promise.all([entered, streaming]);
      const closed = server.close(10_000);
      assert.equal((await stream).codeName, 'Cancelled');
      assert.throws(() => statSync(at.socket), /ENOENT/);
      letFinish();
      assert.equal((await running).podSandboxId, 'p1');
      await closed;
      assert.equal((await failure(cri.version({}, { deadlineMs: 2_000 }))).codeName, 'Unavailable');
    });

    it('does not wait for a handler that hangs, and says at which stage it was', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<Op>();
      const server = await at.start({
        createContainer: async (op) => {
          op.stage('runc create');
          enter(op);
          return new Promise<never>(() => {});
        },
      });
      const call = failure(at.client().createContainer({ podSandboxId: 'p1' }));
      const op = await entered;
      await server.close(10);
      assert.isTrue(op.signal.aborted);
      assert.include(['Unavailable', 'Cancelled'], (await call).codeName);
      assert.include(
        at.log.lines.find((line) => line.message === 'did not end before the daemon did'),
        { stage: 'runc create', sandbox: 'p1' },
      );
    });

    it('leaves a socket alone that another daemon has put in its place', async () => {
      const server = await at.start({});
      rmSync(at.socket);
      await at.start({ version: () => ({ runtimeName: 'next' }) });
      await server.close(0);
      assert.equal((await at.client().version()).runtimeName, 'next');
    });
  });
});
