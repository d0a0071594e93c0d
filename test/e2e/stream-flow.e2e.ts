/**
 * Streams under load: clients that stop reading, that leave, that come by the thousand, and what the daemon keeps of
 * them.
 */
import { assert } from 'chai';
import { once } from 'node:events';
import { WebSocket } from 'ws';
import { criClient, type Pod, waitFor } from './cri-client.ts';
import { IMAGE, processes, TestNode } from './harness.ts';
import { heldBy, INSPECTABLE } from './held.ts';
import { COMBINATIONS, dial, overWebSocket, residentBytes, StreamGround } from './stream-ground.ts';

/** Sessions of each kind in the soak; SOAK=1000 is the promise, and takes a minute or two. */
const SOAK = Number(process.env['SOAK'] ?? 100);
/** Bytes of output in the test of back-pressure. */
const FLOOD = Number(process.env['FLOOD'] ?? 60_000_000);

/** What the daemon holds, once that is no more than it was. */
function asBefore(node: TestNode, before: Awaited<ReturnType<typeof heldBy>>): ReturnType<typeof heldBy> {
  return waitFor(
    () => heldBy(node),
    (now) => now.descriptors <= before.descriptors && now.processes <= before.processes,
    `as much as before: ${JSON.stringify(before)}`,
    { intervalMs: 200 },
  );
}

/** A command that says something and then waits for the end of its input. */
const ECHO = ['sh', '-c', 'echo x; cat >/dev/null'];

/** Execs that end in each of the ways there are: by their input, a client that leaves, a terminal, an error. */
function waysToEnd(ground: StreamGround): readonly (() => Promise<void>)[] {
  return [
    async () => {
      const { stream, client } = await dial(await ground.execUrl(ECHO, { stdin: true }), {
        stdin: true,
        stderr: true,
      });
      stream.stdin.end();
      await client.closed;
    },
    async () => {
      const { client } = await dial(await ground.execUrl(ECHO, { stdin: true }), {
        stdin: true,
        stderr: true,
      });
      client.close();
      await client.closed;
    },
    async () => {
      const { stream, client } = await dial(await ground.execUrl(ECHO, { stdin: true, tty: true }), {
        stdin: true,
        tty: true,
      });
      await stream.resize.write('{"Width":80,"Height":25}');
      await waitFor(
        () => stream.stdout.text,
        (text) => text.includes('x'),
        'the command',
      );
      await stream.stdin.write('\x04');
      await client.closed;
    },
    async () => {
      const { stream, client, status } = await dial(
        await ground.execUrl(['/no/such/program'], { stdin: true, tty: true }),
        { stdin: true, tty: true },
      );
      // It may be over.
      for (let i = 0; i < 20; i++) await stream.resize.write(`{"Width":${80 + i},"Height":25}`).catch(() => {});
      assert.strictEqual((await status).status, 'Failure');
      await client.closed;
    },
    async () =>
      assert.include(
        (
          await overWebSocket(await ground.execUrl(ECHO, { stdin: true }), 'v5.channel.k8s.io', [Buffer.of(255, 0)])
        ).join('|'),
        '|x\n|',
      ),
  ];
}

for (const [runtime, monitor] of COMBINATIONS) {
  describe(`flow of streams with ${runtime} and ${monitor === 'ours' ? 'our' : "Debian's"} conmon`, function () {
    this.timeout(120_000);
    let ground: StreamGround;
    let node: TestNode;
    let pod: Pod;
    before(async () => {
      ground = await StreamGround.boot(runtime, monitor);
      ({ node, pod } = ground);
    });
    after(() => node.close());

    /** A second of any clock, which is a thousand times what a daemon needs to read what it should not. */
    async function everyChance(): Promise<void> {
      const began = process.hrtime.bigint();
      await waitFor(
        () => process.hrtime.bigint() - began,
        (passed) => passed > 1_000_000_000n,
        'a second to pass',
      );
    }

    it(`does not grow when a client stops reading, and then delivers the rest of ${FLOOD / 1e6} MB`, async function () {
      this.timeout(600_000);
      const command = ['sh', '-c', `head -c ${FLOOD} /dev/zero`];
      const { client, stream, status } = await dial(await ground.execUrl(command), { stderr: true });
      let overWs = 0;
      const ws = new WebSocket((await ground.execUrl(command)).replace('http', 'ws'), 'v5.channel.k8s.io');
      ws.on('message', (message: Buffer) => {
        if (message[0] === 1) overWs += message.length - 1;
      });
      const closed = once(ws, 'close');
      await waitFor(
        () => Math.min(stream.stdout.bytes, overWs),
        (bytes) => bytes > FLOOD / 10,
        'output',
      );
      const before = residentBytes(node.pid);
      client.pause();
      ws.pause();
      await everyChance();
      assert.isBelow(residentBytes(node.pid) - before, 40_000_000);
      assert.isBelow(Math.max(stream.stdout.bytes, overWs), FLOOD);
      client.resume();
      ws.resume();
      assert.strictEqual((await status).status, 'Success');
      await closed;
      assert.deepEqual([stream.stdout.bytes, overWs], [FLOOD, FLOOD]);
      assert.isBelow(residentBytes(node.pid) - before, 40_000_000);
    });

    it('does not grow with what a client has sent', async () => {
      const half = 80_000_000;
      const { stream, status } = await dial(
        await ground.execUrl(
          ['sh', '-c', `head -c ${half} >/dev/null; echo half; head -c ${half} >/dev/null; echo all; read rest`],
          { stdin: true },
        ),
        { stdin: true, stderr: true },
      );
      const send = async (said: RegExp): Promise<number> => {
        for (let sent = 0; sent < half; sent += 1_000_000) await stream.stdin.write(Buffer.alloc(1_000_000, 'x'));
        await waitFor(
          () => stream.stdout.text,
          (text) => said.test(text),
          `the command to have read ${half} bytes`,
        );
        return residentBytes(node.pid);
      };
      const before = await send(/half/);
      assert.isBelow((await send(/all/)) - before, 40_000_000);
      stream.stdin.end();
      await status;
    });

    it('kills a command whose client stops reading and leaves', async () => {
      const { client, stream } = await dial(await ground.execUrl(['cat', '/dev/zero']), { stderr: true });
      await waitFor(
        () => stream.stdout.bytes,
        (bytes) => bytes > 1_000_000,
        'output',
      );
      client.pause();
      client.close();
      await waitFor(
        () => processes('cat /dev/zero'),
        (found) => found.length === 0,
        'the command to be killed',
      );
    });

    it('does not grow when an attached client stops reading', async () => {
      const loud = await node.cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', 'read go; head -c 50000000 /dev/zero'],
        stdin: true,
      });
      const { client, stream } = await dial(await ground.attachUrl(loud), { stdin: true, stderr: true });
      client.pause();
      const before = residentBytes(node.pid);
      await stream.stdin.write('go\n');
      // Our monitor gives such a client up; the distribution's waits for it.
      if (monitor === 'ours') await node.cri.waitForContainer(loud, 'CONTAINER_EXITED');
      else await everyChance();
      assert.isBelow(residentBytes(node.pid) - before, 40_000_000);
      client.close();
      assert.strictEqual((await node.cri.waitForContainer(loud, 'CONTAINER_EXITED')).exitCode, 0);
    });

    it(
      `CVE-2022-23471, CVE-2025-64329: leaves nothing behind after ${SOAK} execs and ${SOAK} ` + 'attaches',
      async function () {
        this.timeout(1_800_000);
        const cat = await node.cri.runContainer(pod, IMAGE, { command: ['cat'], stdin: true });
        const execs = waysToEnd(ground);
        const attach = async (i: number): Promise<void> => {
          const { stream, client } = await dial(await ground.attachUrl(cat), { stdin: true, stderr: true });
          await stream.stdin.write(`${i}\n`);
          await waitFor(
            () => stream.stdout.text,
            (text) => text.includes(`${i}\n`),
            'the echo',
          );
          client.close();
          await client.closed;
        };
        const round = async (count: number): Promise<void> => {
          for (let i = 0; i < count; i += 8)
            await Promise.all(
              Array.from({ length: Math.min(8, count - i) }, (_, j) =>
                Promise.all([execs[(i + j) % execs.length]?.(), attach(i + j)]),
              ),
            );
          await waitFor(
            () => processes(ECHO.join(' ')),
            (found) => found.length === 0,
            'the commands to end',
          );
          await waitFor(
            () => node.cri.rpc.operations(),
            ({ operations }) => operations.length === 1,
            'the sessions to end',
          );
        };
        // Some to begin with: code that is compiled and tables that grow once are no leak.
        await round(Math.min(SOAK, 100));
        const before = await heldBy(node);
        await round(SOAK);
        const after = await asBefore(node, before);
        if (process.env['SOAK'] !== undefined)
          console.log(`      ${SOAK} execs and attaches: ${JSON.stringify({ before, after })}`);
        assert.isBelow(after.bytes - before.bytes, 5_000_000);
      },
    );
  });
}

describe('a thousand commands at once in one container', function () {
  this.timeout(600_000);
  let node: TestNode;
  before(async () => {
    node = await TestNode.boot({ runtime: 'crun', env: INSPECTABLE });
  });
  after(() => node.close());

  it('all run, hold up no probe, cost little memory, and leave nothing (K16)', async () => {
    const pod = await node.cri.runPod();
    const busy = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '100000'] });
    const quiet = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '100000'] });
    let ended = 0;
    const outcome = async (run: Promise<string>): Promise<string> => run.catch(String).finally(() => ended++);
    const sync = async (i: number): Promise<string> => {
      const { exitCode, stdout } = await node.cri.exec(busy, ['sh', '-c', `echo ${i}; exit 3`], { timeoutSeconds: 60 });
      return `${exitCode} ${stdout === `${i}\n` ? 'complete' : stdout}`;
    };
    const streamed = async (i: number): Promise<string> => {
      const { url } = await node.cri.rpc.exec({
        containerId: busy,
        cmd: ['sh', '-c', `echo ${i}; exit 3`],
        stdout: true,
        stderr: true,
        stdin: false,
        tty: false,
      });
      const { stream, status } = await dial(url, { stderr: true });
      const whole = (await stream.stdout.all()) === `${i}\n`;
      return `${(await status).details?.causes[0]?.message} ${whole ? 'complete' : stream.stdout.text}`;
    };
    // Code that is compiled once is no leak.
    for (let i = 0; i < 20; i++) await Promise.all([sync(i), streamed(i)]);
    const before = await heldBy(node);
    const resident = residentBytes(node.pid);
    const flood = Promise.all(Array.from({ length: 1_000 }, (_, i) => outcome(i % 2 === 0 ? sync(i) : streamed(i))));
    // A kubelet has a connection of its own.
    const kubelet = criClient(node.socket);
    await waitFor(
      () => kubelet.rpc.operations(),
      ({ operations }) => operations.filter(({ stage }) => stage.startsWith('wait for a turn')).length > 300,
      'a line',
    );
    // In line like everybody in this container; the probe of the other one is not.
    const inLine = kubelet.exec(busy, ['true']);
    for (let i = 0; i < 3; i++)
      assert.strictEqual((await kubelet.exec(quiet, ['true'], { timeoutSeconds: 60 })).exitCode, 0);
    assert.isBelow(ended, 500, 'commands that the other container had to wait for');
    let peak = 0;
    await waitFor(
      () => {
        peak = Math.max(peak, residentBytes(node.pid) - resident);
        return ended;
      },
      (count) => count === 1_000,
      'all to end',
      { timeoutMs: 500_000, intervalMs: 50 },
    );
    assert.deepEqual([...new Set(await flood)], ['3 complete']);
    assert.strictEqual((await inLine).exitCode, 0);
    kubelet.close();
    assert.isBelow(peak, 150_000_000);
    const after = await asBefore(node, before);
    assert.isBelow(after.bytes - before.bytes, 5_000_000);
  });
});
