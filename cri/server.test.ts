import { statSync } from 'node:fs';
import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import type { ContainerEventResponse, Rpcs } from '../pkg/cri-api/types.ts';
import { codecs, concatenate, methods } from './codec.ts';
import { failure, ground } from './fake-server.ts';

describe('cri/server', () => {
  const at = ground();

  it('serves on a socket that only root and its group may use', async () => {
    await at.start({});
    const { mode } = statSync(at.socket);
    assert.equal(mode & 0o777, 0o660);
  });

  it('answers a unary call with every value as it was', async () => {
    const seen: unknown[] = [];
    await at.start({
      containerStatus: (_op, request) => {
        seen.push(request);
        return {
          status: {
            id: request.containerId,
            createdAt: 2n ** 63n - 1n,
            finishedAt: -(2n ** 63n),
            labels: JSON.parse('{"__proto__":"x"}') as Record<string, string>,
          },
        };
      },
    });
    const { status } = await at.client().containerStatus({ containerId: 'abc', verbose: true });
    assert.deepEqual(seen, [{ containerId: 'abc', verbose: true }]);
    assert.equal(status?.createdAt, 2n ** 63n - 1n);
    assert.equal(status?.finishedAt, -(2n ** 63n));
    assert.deepEqual(Object.entries(status?.labels ?? {}), [['__proto__', 'x']]);
  });

  it('logs requests without their secrets where debug lines are written, and nowhere else', async () => {
    const requests = (): unknown[] =>
      at.log.lines
        .filter(({ message, level }) => message === 'request' && level === 'debug')
        .map((line) => line['request']);
    await at.start({ pullImage: () => ({ imageRef: 'x' }) });
    const ask = (): Promise<unknown> =>
      at.client().pullImage({ image: { image: 'reg.example/a' }, auth: { password: 'hunter2' } });
    await ask();
    assert.deepEqual(requests(), []);
    at.log.debugging = true;
    await ask();
    assert.deepEqual(requests(), ['{"image":{"image":"reg.example/a"},"auth":["password"]}']);
  });

  it('begins the calls of one read a few in each turn of the event loop, and all of them in their order', async () => {
    let turn = 0;
    const count = (): void => {
      turn++;
      again = setImmediate(count);
    };
    let again = setImmediate(count);
    at.open.push({ close: () => clearImmediate(again) });
    const begun: number[] = [];
    const perTurn = new Map<number, number>();
    await at.start({
      execSync: (_op, { timeout }) => {
        begun.push(Number(timeout));
        perTurn.set(turn, (perTurn.get(turn) ?? 0) + 1);
        return { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0), exitCode: 0 };
      },
    });
    const client = at.client();
    await client.operations();
    const all = Array.from({ length: 300 }, (_, i) => i);
    await Promise.all(all.map((i) => client.execSync({ containerId: 'x', cmd: ['true'], timeout: BigInt(i) })));
    assert.deepEqual(begun, all);
    assert.isAtMost(Math.max(...perTurn.values()), 2 * limits.callsPerTurnCount);
  });

  it('passes an encoded reply through', async () => {
    const items = ['a', 'b'].map((id) => codecs.PodSandbox.item({ id }));
    await at.start({ listPodSandbox: () => concatenate(items) });
    assert.deepEqual(
      (await at.client().listPodSandbox()).items.map((item) => item.id),
      ['a', 'b'],
    );
  });

  it('answers UNIMPLEMENTED, naming the RPC, for each that has no handler', async () => {
    await at.start({});
    const cri = at.client();
    for (const [key, method] of Object.entries(methods)) {
      if (key === 'operations') continue;
      const call = cri[key as keyof Rpcs]({} as never);
      const error = await failure(
        Symbol.asyncIterator in call
          ? (call as AsyncIterable<unknown>)[Symbol.asyncIterator]().next()
          : (call as Promise<unknown>),
      );
      assert.equal(error.codeName, 'Unimplemented');
      assert.include(error.message, method.path.slice(1).replace('/', '.'));
    }
  });

  describe('errors', () => {
    it('carries code and text to the client', async () => {
      await at.start({
        podSandboxStatus: () => {
          throw new RuntimeError('NotFound', 'no pod sandbox “x” – ü\n100%');
        },
      });
      const error = await failure(at.client().podSandboxStatus({ podSandboxId: 'x' }));
      assert.deepEqual(
        [error.code, error.codeName, error.rpc, error.message],
        [5, 'NotFound', 'PodSandboxStatus', 'no pod sandbox “x” – ü\n100%'],
      );
    });

    it('survives the longest and strangest text', async () => {
      await at.start({
        podSandboxStatus: () => {
          throw new RuntimeError('Internal', `a\ud800${'🙂'.repeat(100_000)}z`);
        },
      });
      const error = await failure(at.client().podSandboxStatus());
      assert.match(error.message, /^a\ufffd🙂/u);
      assert.match(error.message, /🙂z$/u);
    });

    it('takes a stray error for a bug: Internal, and the stack in the log', async () => {
      await at.start({
        version: () => {
          throw new TypeError('x is undefined');
        },
      });
      assert.equal((await failure(at.client().version())).codeName, 'Internal');
      const line = at.log.lines.find((each) => each.message === 'failed');
      assert.equal(line?.level, 'error');
      assert.include(String(line?.['stack']), 'server.test.ts');
    });

    it('refuses malformed bytes with INVALID_ARGUMENT', async () => {
      await at.start({ version: () => ({}) });
      const grpc = new (await import('@grpc/grpc-js')).Client(
        `unix:${at.socket}`,
        (await import('@grpc/grpc-js')).credentials.createInsecure(),
      );
      at.open.push(grpc);
      const error = await new Promise<{ code?: number; details?: string } | null>((resolve) =>
        grpc.makeUnaryRequest(
          methods.version.path,
          (bytes: Buffer) => bytes,
          (bytes: Buffer) => bytes,
          Buffer.from([0x0a, 9]),
          resolve,
        ),
      );
      assert.equal(error?.code, 3);
      assert.include(error?.details, 'not a valid protobuf message');
    });

    it('says so when a reply does not fit its fields', async () => {
      await at.start({ containerStatus: () => ({ status: { exitCode: 1.5 } }) });
      assert.equal((await failure(at.client().containerStatus())).codeName, 'Internal');
    });

    it('refuses a request above the limit, and takes one below', async () => {
      await at.start({ execSync: (_op, request) => ({ exitCode: request.cmd[0]?.length ?? 0 }) });
      const cri = at.client();
      const near = limits.grpcMessageBytes - 1000;
      assert.equal((await cri.execSync({ cmd: ['x'.repeat(near)] })).exitCode, near);
      assert.equal(
        (await failure(cri.execSync({ cmd: ['x'.repeat(limits.grpcMessageBytes)] }))).codeName,
        'ResourceExhausted',
      );
    });

    it('refuses a large request of an RPC that only names things', async () => {
      await at.start({ containerStatus: () => ({}), listContainers: () => ({}) });
      const cri = at.client();
      const error = await failure(cri.containerStatus({ containerId: 'x'.repeat(limits.smallRequestBytes) }));
      assert.equal(error.codeName, 'ResourceExhausted');
      assert.match(error.message, /^the request of ContainerStatus is 10485\d\d bytes long, more than the 1048576/);
      await cri.listContainers({ filter: { id: 'x'.repeat(limits.smallRequestBytes - 100) } });
    });

    it('sends the largest ExecSync reply', async () => {
      const stdout = new Uint8Array(limits.execOutputBytes).fill(65);
      await at.start({ execSync: () => ({ stdout, stderr: stdout }) });
      const reply = await at.client().execSync();
      assert.isTrue(Buffer.from(stdout.buffer).equals(reply.stdout) && reply.stderr.length === stdout.length);
    });

    it('refuses to send a reply beyond its own limit, and says what to do', async () => {
      const { Encoded } = await import('./codec.ts');
      await at.start({ listContainers: () => new Encoded(Buffer.alloc(limits.grpcReplyBytes + 1)) });
      const error = await failure(at.client().listContainers());
      assert.equal(error.codeName, 'ResourceExhausted');
      assert.include(error.message, 'use the streaming RPC');
    });
  });

  describe('streams', () => {
    const events = async function* (count: number): AsyncGenerator<{ containerId: string }> {
      for (let i = 0; i < count; i++) yield { containerId: `c${i}` };
    };

    it('sends every item in order, then ends', async () => {
      await at.start({ getContainerEvents: () => events(2_000) });
      const seen: ContainerEventResponse[] = [];
      for await (const event of at.client().getContainerEvents()) seen.push(event);
      assert.deepEqual(
        seen.map((event) => event.containerId),
        Array.from({ length: 2_000 }, (_, i) => `c${i}`),
      );
    });

    it('ends an empty stream without an item', async () => {
      await at.start({ streamContainers: () => events(0) as never });
      for await (const _ of at.client().streamContainers()) assert.fail('an item');
    });

    it('carries an error after some items', async () => {
      await at.start({
        async *getContainerEvents() {
          yield { containerId: 'first' };
          throw new RuntimeError('Unavailable', 'events are off');
        },
      });
      const seen: string[] = [];
      const error = await failure(
        (async () => {
          for await (const event of at.client().getContainerEvents()) seen.push(event.containerId);
        })(),
      );
      assert.deepEqual([seen, error.codeName, error.message], [['first'], 'Unavailable', 'events are off']);
    });

    it('does not run ahead of a client that reads slowly', async () => {
      let made = 0;
      await at.start({
        async *getContainerEvents() {
          for (; made < 10_000; made++) yield { containerId: 'x'.repeat(10_000) };
        },
      });
      let read = 0;
      for await (const _ of at.client().getContainerEvents()) if (++read === 3) break;
      assert.isBelow(made, 5_000);
    });

    it('stops the handler when the client leaves, even one that waits for ever', async () => {
      const { promise: over, resolve: end } = Promise.withResolvers<void>();
      const server = await at.start({
        async *getContainerEvents(op) {
          yield { containerId: 'c' };
          op.signal.addEventListener('abort', () => end());
          await new Promise(() => {});
        },
      });
      for await (const _ of at.client().getContainerEvents()) break;
      await over;
      while (server.operations().length > 0) await new Promise(setImmediate);
    });
  });
});
