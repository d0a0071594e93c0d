/** What people do at a terminal, through crictl itself: exec, attach and port-forward over both transports; logs. */
import { assert } from 'chai';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor } from '../e2e/cri-client.ts';
import { processes } from '../e2e/harness.ts';
import { CrictlNode, get, TRANSPORTS } from './crictl.ts';

describe('crictl at a terminal', function () {
  this.timeout(120_000);
  let node: CrictlNode;
  before(async () => (node = await CrictlNode.boot()));
  after(() => node.close());

  /** Waits in the shell for a size of its terminal, then says `word`. The line itself does not hold it. */
  const whenSized = (rows: number, columns: number, word: string): string =>
    `until [ "$(stty size)" = "${rows} ${columns}" ]; do sleep 0.05; done; echo ${word[0]}""${word.slice(1)}\r`;

  for (const transport of TRANSPORTS) {
    describe(`over ${transport}`, () => {
      it('exec -it: types, resizes, interrupts, and tells the exit code', async () => {
        const { id } = await node.started(`exec-${transport}`, ['sleep', '1000']);
        const shell = node.type('exec', '-it', '--transport', transport, id, 'sh');
        await shell.says(/# /);
        shell.write(whenSized(40, 132, 'sized'));
        await shell.says(/sized/);
        shell.resize(31, 97);
        shell.write(whenSized(31, 97, 'resized'));
        await shell.says(/resized/);
        shell.write('sleep 31415\r');
        await waitFor(
          () => processes('sleep 31415'),
          (found) => found.length === 1,
          'the command to run',
        );
        shell.write('\x03');
        await waitFor(
          () => processes('sleep 31415'),
          (found) => found.length === 0,
          'the command to be interrupted',
        );
        shell.write('echo "it ended with $?"\r');
        await shell.says(/it ended with 130/);
        shell.write('exit 7\r');
        assert.notStrictEqual(await shell.end(), 0);
        assert.match(shell.out, /exit code 7/);
      });

      it('attach -it: finds the same shell again after detaching, and ends with it', async () => {
        const { id } = await node.started(`attach-${transport}`, ['sh'], { stdin: true, tty: true });
        const first = node.type('attach', '-it', '--transport', transport, id);
        first.write('here=me\r');
        await first.says(/# /);
        first.write('\x10\x11');
        assert.strictEqual(await first.end(), 0, first.out);
        assert.strictEqual(get(await node.json('inspect', id), 'status', 'state'), 'CONTAINER_RUNNING');
        const second = node.type('attach', '-it', '--transport', transport, id);
        second.write('echo "still $here"\r');
        await second.says(/still me/);
        second.resize(29, 91);
        second.write(whenSized(29, 91, 'resized'));
        await second.says(/resized/);
        second.write('exit 3\r');
        assert.strictEqual(await second.end(), 0, second.out);
        await waitFor(
          () => node.json('inspect', id),
          (found) => get(found, 'status', 'exitCode') === 3,
          'the container to end',
        );
      });

      it('attach -i: hands lines over, and the end of input where the container waits for it', async () => {
        const { id } = await node.started(`lines-${transport}`, ['sh', '-c', 'cat; echo the end'], {
          stdin: true,
          stdin_once: true,
        });
        const lines = node.type('attach', '-i', '--transport', transport, id);
        lines.write('hello\r');
        await lines.says(/hello\r\nhello/);
        lines.write('\x04');
        assert.strictEqual(await lines.end(), 0, lines.out);
        assert.include(lines.out, 'the end');
      });

      it(
        'port-forward: reaches 127.0.0.1 and [::1] of the pod, ends by Ctrl-C, and names a port ' +
          'where nobody listens',
        async () => {
          const { pod, id } = await node.started(`forward-${transport}`, [
            'sh',
            '-c',
            'echo yes > /index.html; httpd -p 127.0.0.1:5001; httpd -f -p [::1]:5002',
          ]);
          await waitFor(
            () => node.crictl('exec', '--sync', id, 'netstat', '-ltn'),
            (text) => text.includes(':5001') && text.includes(':5002'),
            'the servers',
          );
          const forward = node.type('port-forward', '--transport', transport, pod, ':5001', ':5002', ':5999');
          const local = async (port: number): Promise<string> =>
            `http://127.0.0.1:${(await forward.says(new RegExp(`127\\.0\\.0\\.1:(\\d+) -> ${port}`)))[1]}/`;
          for (const port of [5001, 5002]) {
            const address = await local(port);
            const answers = await Promise.all(Array.from({ length: 20 }, async () => (await fetch(address)).text()));
            assert.deepEqual(new Set(answers), new Set(['yes\n']));
          }
          await fetch(await local(5999)).then(
            () => assert.fail('nobody listens there'),
            () => {},
          );
          await forward.says(/error forwarding port 5999: .*nothing answers/);
          await forward.end();
          const other = node.type('port-forward', '--transport', transport, pod, ':5001');
          await other.says(/-> 5001/);
          other.write('\x03');
          assert.strictEqual(await other.end(), 0, other.out);
        },
      );
    });
  }

  it('logs -f: follows through a rotation to the end of the container', async () => {
    const { id } = await node.started('logs', [
      'sh',
      '-c',
      'i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; echo over >&2; exit 4',
    ]);
    const following = node.type('logs', '-f', id);
    await following.says(/line 5\r\n/);
    const path = join(node.dir, 'podlogs/logs/logs.log');
    await rename(path, `${path}.1`);
    await node.crictl('logs', '--reopen', '--tail', '0', id);
    assert.strictEqual(await following.end(), 0, following.out);
    assert.deepEqual(following.out.trimEnd().split('\r\n'), [
      ...Array.from({ length: 40 }, (_, i) => `line ${i}`),
      'over',
    ]);
  });
});
