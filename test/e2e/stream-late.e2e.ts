/** Output that comes after its command has ended, from what the command left behind in the background. */
import { assert } from 'chai';
import { waitFor } from './cri-client.ts';
import { IMAGE, type TestNode } from './harness.ts';
import { COMBINATIONS, dial, overWebSocket, type Session, StreamGround } from './stream-ground.ts';

/** Says something and ends as 7; what it leaves behind says more once there is a file. */
const leaving = (gate: string): string[] => [
  'sh',
  '-c',
  `(until [ -e ${gate} ]; do sleep 0.02; done; echo late; echo late >&2) & echo early; exit 7`,
];
/** The same with what no end of a terminal ends. */
const leavingTerminal = (gate: string): string[] => ['sh', '-c', `trap "" HUP; ${leaving(gate)[2]}`];

async function exitCodeOf({ status }: Session): Promise<string | undefined> {
  return (await status).details?.causes.map((each) => each.message).join();
}

for (const [runtime, monitor] of COMBINATIONS) {
  describe(`late output with ${runtime} and ${monitor === 'ours' ? 'our' : "Debian's"} conmon`, function () {
    this.timeout(120_000);
    let ground: StreamGround;
    let node: TestNode;
    before(async () => {
      ground = await StreamGround.boot(runtime, monitor);
      ({ node } = ground);
    });
    after(() => node.close());

    const followed = (count: number): Promise<unknown> =>
      waitFor(
        async () => (await node.cri.rpc.operations()).operations.filter(({ stage }) => /has ended/.test(stage)),
        (found) => found.length === count,
        `${count} sessions whose command has ended`,
      );
    const touch = (path: string): Promise<unknown> => node.cri.exec(ground.container, ['sh', '-c', `: > ${path}`]);

    it('is followed to its end, over SPDY and over WebSocket, and then the exit code is told', async () => {
      const session = await dial(await ground.execUrl(leaving('/tmp/go')), { stderr: true });
      const overWs = overWebSocket(await ground.execUrl(leaving('/tmp/go')), 'v5.channel.k8s.io', []);
      await followed(2);
      await touch('/tmp/go');
      const [out, err] = [await session.stream.stdout.all(), await session.stream.stderr.all()];
      assert.deepEqual([out, err, await exitCodeOf(session)], ['early\nlate\n', 'late\n', '7']);
      const [, wsOut, wsErr, wsEnd] = await overWs;
      assert.deepEqual([wsOut, wsErr], ['early\nlate\n', 'late\n']);
      assert.include(wsEnd, '"message":"7"');
    });

    it('keeps nobody waiting who has a terminal, or wants the exit code', async () => {
      const wanted = { stdin: true, tty: true };
      const session = await dial(await ground.execUrl(leavingTerminal('/tmp/never'), wanted), wanted);
      assert.strictEqual(await exitCodeOf(session), '7');
      assert.strictEqual(session.stream.stdout.text, 'early\r\n');
      const { exitCode, stdout } = await node.cri.exec(ground.container, leaving('/tmp/never'));
      assert.deepEqual([exitCode, stdout], [7, 'early\n']);
    });

    it('is nobody’s any more when the client leaves, and what wrote it lives on', async () => {
      const { client } = await dial(await ground.execUrl(leaving('/tmp/come')), { stderr: true });
      await followed(1);
      client.close();
      await followed(0);
      assert.include((await node.cri.exec(ground.container, ['ps', '-o', 'args'])).stdout, '/tmp/come');
    });

    it('ends with the container, and the exit code is the command’s own', async () => {
      const other = await node.cri.runContainer(ground.pod, IMAGE, { command: ['sleep', '100000'] });
      const session = await dial(await ground.execUrl(leaving('/tmp/go'), { containerId: other }), { stderr: true });
      await followed(1);
      await node.cri.rpc.stopContainer({ containerId: other, timeout: 0n });
      assert.strictEqual(await exitCodeOf(session), '7');
      assert.strictEqual(session.stream.stdout.text, 'early\n');
    });
  });
}

describe('late output that does not come', function () {
  this.timeout(120_000);
  it('ends the session after the idle time, with the exit code', async () => {
    const ground = await StreamGround.boot('runc', 'ours', ['--stream-idle-timeout=2s']);
    const session = await dial(await ground.execUrl(leaving('/tmp/never')), { stderr: true });
    assert.strictEqual(await exitCodeOf(session), '7');
    assert.match(ground.node.log, /exec ended.*exit=7/);
    await ground.node.close();
  });
});
