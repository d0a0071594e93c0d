import { assert } from 'chai';
import { codeOf, RuntimeError } from '../pkg/base/errors.ts';
import { backgroundOp, silent } from '../pkg/base/op.ts';
import type { AttachRequest, ExecRequest } from '../pkg/cri-api/types.ts';
import type { OpenPods } from '../pkg/pod/index.ts';
import { streamService } from './stream-service.ts';

const ID = 'a'.repeat(64);
const op = backgroundOp(silent);
const STREAMS = { stdin: false, stdout: true, stderr: true, tty: false };

/** One container and one pod in the given phases, and what was granted for them. */
function service(phases: { readonly container?: string; readonly pod?: string } = {}): {
  readonly handlers: Required<Pick<ReturnType<typeof streamService>, 'exec' | 'attach' | 'portForward'>>;
  readonly granted: unknown[];
} {
  const granted: unknown[] = [];
  const grant = (value: unknown): Promise<string> => Promise.resolve(`http://127.0.0.1/${granted.push(value)}`);
  const get = (id: string, record: object): never => {
    if (id === ID || id === 'aaaa') return record as never;
    throw new RuntimeError('NotFound', `there is no ${id}`);
  };
  const mind = {
    containers: {
      get: (id: string) => get(id, { id: ID, config: { tty: false }, state: { phase: phases.container ?? 'running' } }),
    },
    pods: { get: (id: string) => get(id, { id: ID, state: { phase: phases.pod ?? 'ready' } }) },
  } as unknown as OpenPods;
  return {
    handlers: streamService(mind, async () => ({
      urlForExec: grant,
      urlForAttach: grant,
      urlForPortForward: grant,
    })) as never,
    granted,
  };
}

async function codeFrom(work: () => unknown): Promise<string> {
  try {
    await work();
  } catch (error) {
    return codeOf(error);
  }
  return 'Ok';
}

describe('the stream service', () => {
  const exec = (changes: Partial<ExecRequest> = {}): ExecRequest => ({
    containerId: ID,
    cmd: ['true'],
    ...STREAMS,
    ...changes,
  });
  const attach = (changes: Partial<AttachRequest> = {}): AttachRequest => ({ containerId: ID, ...STREAMS, ...changes });

  it('grants a command in a container that waits for its start, and no terminal of it', async () => {
    const { handlers } = service({ container: 'created' });
    assert.strictEqual(await codeFrom(() => handlers.exec(op, exec())), 'Ok');
    assert.strictEqual(await codeFrom(() => handlers.attach(op, attach())), 'FailedPrecondition');
    assert.strictEqual(
      await codeFrom(() => service({ container: 'exited' }).handlers.exec(op, exec())),
      'FailedPrecondition',
    );
  });

  it('grants what was asked for, to the whole id, and answers with the URL', async () => {
    const { handlers, granted } = service();
    assert.deepEqual(await handlers.exec(op, exec({ containerId: 'aaaa', stdin: true })), {
      url: 'http://127.0.0.1/1',
    });
    await handlers.attach(op, attach());
    await handlers.portForward(op, { podSandboxId: ID, port: [80] });
    assert.deepEqual(granted, [
      { containerId: ID, cmd: ['true'], ...STREAMS, stdin: true },
      { containerId: ID, ...STREAMS },
      { podSandboxId: ID, port: [80] },
    ]);
  });

  it('refuses at the RPC what cannot work, and grants nothing', async () => {
    const { handlers, granted } = service();
    assert.strictEqual(await codeFrom(() => handlers.exec(op, exec({ containerId: 'b'.repeat(64) }))), 'NotFound');
    assert.strictEqual(await codeFrom(() => handlers.exec(op, exec({ tty: true }))), 'InvalidArgument');
    assert.strictEqual(
      await codeFrom(() => handlers.attach(op, attach({ tty: true, stderr: false }))),
      'InvalidArgument',
      'the container has no terminal',
    );
    assert.strictEqual(
      await codeFrom(() => handlers.portForward(op, { podSandboxId: ID, port: [0] })),
      'InvalidArgument',
    );
    const ended = service({ container: 'exited', pod: 'stopping' });
    assert.strictEqual(await codeFrom(() => ended.handlers.exec(op, exec())), 'FailedPrecondition');
    assert.strictEqual(await codeFrom(() => ended.handlers.attach(op, attach())), 'FailedPrecondition');
    assert.strictEqual(
      await codeFrom(() => ended.handlers.portForward(op, { podSandboxId: ID, port: [] })),
      'FailedPrecondition',
    );
    assert.deepEqual([...granted, ...ended.granted], []);
  });
});
