/**
 * What a container, a client or somebody with a file in the right place could do to the monitor, one by one. Ours only:
 * upstream has other answers. `npm run mutate` takes each of these protections away and looks whether a test notices.
 */
import { assert } from 'chai';
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Case, parseLog, subjects, tool, until } from './harness.ts';

const only = process.env['CONMON_SUBJECT'];

for (const subject of subjects.filter(({ name }) => name === 'ours' && (only === undefined || only === name)))
  describe(`protections of conmon (${subject.name})`, function () {
    this.timeout(60_000);

    function check(title: string, body: (c: Case) => Promise<void>): void {
      it(title, async () => {
        const c = new Case(subject);
        try {
          await body(c);
        } finally {
          assert.deepEqual(await c.close(), [], 'left behind');
        }
      });
    }

    check('the log is no FIFO, also not one that somebody reads', async (c) => {
      const fifo = c.path('fifo');
      await c.help('mkfifo', [fifo]).ended;
      const reader = c.help('sh', ['-c', 'exec 3<>"$1"; echo open; exec sleep 1000', '-', fifo]);
      await until('the FIFO has a reader', () => reader.output.length > 0);
      const run = c.start({ program: 'echo x', logs: [`k8s-file:${fifo}`] });
      assert.equal(await run.started, 1);
      const { pid, message } = await run.report();
      assert.equal(pid, -1);
      assert.include(String(message), fifo);
    });

    check('a log that was open to others is so no more', async (c) => {
      writeFileSync(c.log, '');
      chmodSync(c.log, 0o666);
      c.start({ program: 'echo x' });
      await c.exit();
      assert.equal(statSync(c.log).mode & 0o777, 0o640);
      assert.deepEqual(
        parseLog(readFileSync(c.log, 'latin1')).map(({ text }) => text),
        ['x'],
      );
    });

    check('the attach socket is for root only', async (c) => {
      await c.start({ program: `while [ ! -e ${c.path('go')} ]; do sleep 0.02; done` }).created();
      assert.equal(statSync(join(c.bundle, 'attach')).mode & 0o777, 0o700);
      writeFileSync(c.path('go'), '');
      await c.exit();
    });

    check('the console socket is for root only', async (c) => {
      const trace = c.path('trace');
      const run = c.start({
        program: 'exit 0',
        args: ['-t'],
        env: {
          RUNTIME_TRACE: trace,
          RUNTIME_PRELUDE:
            `socket=$(grep -A1 -x -e --console-socket ${trace} | tail -n 1); ` +
            `stat -c %a "$socket" >${c.path('mode')}; exit 1`,
        },
      });
      await run.report();
      await c.gone();
      assert.equal(readFileSync(c.path('mode'), 'utf8'), '700\n');
    });

    check('the drain ends, however long somebody else goes on writing', async (c) => {
      await c.start({ program: 'exec sleep 1000', args: ['--log-size-max', '1000000'] }).created();
      const container = await c.pidIn('pidfile');
      c.help(tool, ['fill', `/proc/${container}/fd/1`]);
      // A client that is waited for after some reads, so that the pipe, which holds more, is full again by the next.
      const client = c.help(tool, ['slow', join(c.bundle, 'attach'), '10']);
      await until('it has taken a packet', () => client.messages.length > 1);
      process.kill(container, 'SIGKILL');
      // The megabyte that is there takes a second; what comes after it would last until the client is given up.
      assert.equal(await c.exit(5_000), '137');
      await c.gone();
    });

    check('a slow client holds up the exit no longer than it may', async (c) => {
      const program = 'yes out & yes err >&2 & exec sleep 1000';
      await c.start({ program }).created();
      const container = await c.pidIn('pidfile');
      // Less than what gets a client cut; sixteen packets wait in the two pipes: without a bound it takes half a
      // minute.
      const client = c.help(tool, ['slow', join(c.bundle, 'attach'), '1800']);
      await until('it has taken a packet', () => client.messages.length > 1);
      process.kill(container, 'SIGKILL');
      assert.equal(await c.exit(15_000), '137');
      await c.gone();
    });
  });
