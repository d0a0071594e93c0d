/**
 * Podman from the distribution with our monitor: what a user of podman would notice, since podman
 * is the strictest caller of conmon there is beside us. Needs root, podman, a runtime, busybox.
 *
 * Podman gets a storage, a state directory and a configuration of its own, and no network.
 */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { assert } from 'chai';
import { until } from '../../conmon/test/harness.ts';

const conmon = resolve(process.env['CONMON'] ?? join(import.meta.dirname, '../../build/bin/conmon'));
const deadlineMs = 60_000;

interface Output {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

/** One podman installation in one directory. */
class Podman {
  readonly dir = mkdtempSync(join(tmpdir(), 'conmon-podman-'));
  readonly #runtime: string;

  constructor(runtime: string) {
    this.#runtime = runtime;
    // Podman's default limits are above what a confined root may set.
    writeFileSync(
      join(this.dir, 'containers.conf'),
      '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n',
    );
  }

  #argv(args: readonly string[]): string[] {
    const own = (name: string): string => join(this.dir, name);
    return [
      '--root',
      own('root'),
      '--runroot',
      own('run'),
      '--tmpdir',
      own('tmp'),
      '--cgroup-manager',
      'cgroupfs',
      '--events-backend',
      'file',
      '--storage-driver',
      'vfs',
      '--runtime',
      this.#runtime,
      '--conmon',
      conmon,
      ...args,
    ];
  }

  /** Runs podman to its end with this on stdin. */
  async run(args: readonly string[], stdin = ''): Promise<Output> {
    return this.exec('podman', this.#argv(args), stdin);
  }

  /** The same on a terminal, which util-linux' script makes. */
  async runOnTerminal(args: readonly string[], stdin = ''): Promise<Output> {
    const quoted = ['podman', ...this.#argv(args)].map((a) => `'${a.replaceAll("'", `'\\''`)}'`).join(' ');
    return this.exec('script', ['-qec', `stty rows 33 cols 99; exec ${quoted}`, '/dev/null'], stdin);
  }

  exec(command: string, args: readonly string[], stdin: string): Promise<Output> {
    const child = spawn(command, args, {
      stdio: 'pipe',
      timeout: deadlineMs,
      killSignal: 'SIGKILL',
      env: { ...process.env, CONTAINERS_CONF: join(this.dir, 'containers.conf') },
    });
    let out = '';
    let err = '';
    child.stdout.on('data', (d: Buffer) => (out += d.toString('utf8')));
    child.stderr.on('data', (d: Buffer) => (err += d.toString('utf8')));
    child.stdin.on('error', () => undefined);
    child.stdin.end(stdin);
    return new Promise((done) => child.once('close', (status) => done({ status, out, err })));
  }

  async import(): Promise<void> {
    const bin = join(this.dir, 'image/bin');
    mkdirSync(bin, { recursive: true });
    writeFileSync(join(bin, 'busybox'), readFileSync('/bin/busybox'));
    chmodSync(join(bin, 'busybox'), 0o755);
    for (const name of ['sh', 'cat', 'echo', 'sleep', 'seq', 'stty', 'true', 'false', 'test', 'wc'])
      symlinkSync('busybox', join(bin, name));
    const tar = join(this.dir, 'image.tar');
    await this.exec('tar', ['-C', join(this.dir, 'image'), '-cf', tar, '.'], '');
    const { status, err } = await this.run(['import', tar, 'bb']);
    assert.equal(status, 0, err);
  }

  async destroy(): Promise<void> {
    await this.run(['rm', '-af', '-t', '0']);
    // A monitor runs podman once more when its container has ended, and nobody waits for that.
    await until('every monitor has ended', () => monitors(this.dir).length === 0);
    await this.run(['rmi', '-af']);
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((l) => l.split(' ')[4] ?? '')
      .filter((m) => m.startsWith(this.dir));
    for (const mount of mounts.reverse()) await this.exec('umount', ['-l', mount], '');
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Those of one container, or of all. */
function monitors(dir: string, container?: string): string[] {
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return (
          argv[0] === conmon &&
          argv.some((a) => a.startsWith(dir)) &&
          (container === undefined || argv[argv.indexOf('-n') + 1] === container)
        );
      } catch {
        return false; // It has just gone.
      }
    });
}

/** Sockets that the monitor of a container has open: one more per attached client. */
function socketCount(dir: string, container: string): number {
  const isSocket = (path: string): boolean => {
    try {
      return readlinkSync(path).startsWith('socket:');
    } catch {
      return false; // Closed meanwhile.
    }
  };
  return monitors(dir, container).reduce(
    (sum, pid) => sum + readdirSync(`/proc/${pid}/fd`).filter((fd) => isSocket(`/proc/${pid}/fd/${fd}`)).length,
    0,
  );
}

for (const runtime of ['/usr/bin/runc', '/usr/bin/crun'].filter((p) => existsSync(p))) {
  describe(`podman with our conmon (${runtime.split('/').at(-1)})`, function () {
    this.timeout(deadlineMs * 2);
    const podman = new Podman(runtime);
    const start = async (name: string, ...command: string[]): Promise<void> => {
      const { status, err } = await podman.run(['run', '-d', '--name', name, '--network', 'none', 'bb', ...command]);
      assert.equal(status, 0, err);
    };

    before(() => podman.import());
    after(() => podman.destroy());

    it('run: passes on output, both streams, and the status', async () => {
      const { status, out, err } = await podman.run([
        'run',
        '--rm',
        '--network',
        'none',
        'bb',
        'sh',
        '-c',
        'echo out; echo err >&2; exit 5',
      ]);
      assert.deepEqual({ status, out, err }, { status: 5, out: 'out\n', err: 'err\n' });
    });

    it('run: loses nothing of a lot of output', async () => {
      const { out } = await podman.run(['run', '--rm', '--network', 'none', 'bb', 'seq', '1', '500000']);
      assert.isTrue(out === Array.from({ length: 500_000 }, (_, i) => `${i + 1}\n`).join(''));
    });

    it('run -i: passes on input and its end', async () => {
      const { out } = await podman.run(
        ['run', '--rm', '-i', '--network', 'none', 'bb', 'wc', '-c'],
        'x'.repeat(300_000),
      );
      assert.equal(out.trim(), '300000');
    });

    it('run -t: gives a terminal of the right size', async () => {
      const { out } = await podman.runOnTerminal([
        'run',
        '--rm',
        '-t',
        '--network',
        'none',
        'bb',
        'sh',
        '-c',
        'test -t 1 && echo terminal; until stty size | cat | while read l; do test "$l" = "33 99" && ' +
          'echo right; done; do :; done; stty size',
      ]);
      assert.include(out, 'terminal\r\n');
      assert.include(out, '33 99');
    });

    it('run: says why a command cannot be run', async () => {
      const { status, err } = await podman.run(['run', '--rm', '--network', 'none', 'bb', '/no/such']);
      assert.equal(status, 127, err);
      assert.match(err, /no such file|not found/i);
    });

    it('run --timeout: kills what takes too long', async () => {
      const { status } = await podman.run([
        'run',
        '--rm',
        '--timeout',
        '1',
        '--network',
        'none',
        'bb',
        'sleep',
        '1000',
      ]);
      assert.equal(status, 255);
    });

    it('run --log-driver none and passthrough', async () => {
      for (const driver of ['none', 'passthrough']) {
        const { status, out, err } = await podman.run([
          'run',
          '--name',
          `log-${driver}`,
          '--log-driver',
          driver,
          '--network',
          'none',
          'bb',
          'echo',
          'x',
        ]);
        assert.deepEqual({ status, out }, { status: 0, out: 'x\n' }, err);
      }
    });

    it('logs: has what was said, with times podman can read', async () => {
      await podman.run([
        'run',
        '--name',
        'said',
        '--network',
        'none',
        'bb',
        'sh',
        '-c',
        'echo one; echo two; printf three',
      ]);
      // Our monitor ends the last line of a stream (F), and podman ends with a newline what is ended.
      assert.equal((await podman.run(['logs', 'said'])).out, 'one\ntwo\nthree\n');
      const { out } = await podman.run(['logs', '-t', '--since', '1h', 'said']);
      assert.match(out, /^\d{4}-\d\d-\d\dT\S+ one\n/);
    });

    it('exec: output, input, status, errors, terminal', async () => {
      await start('target', 'sleep', '1000');
      assert.equal((await podman.run(['exec', 'target', 'echo', 'in'])).out, 'in\n');
      assert.equal((await podman.run(['exec', '-i', 'target', 'cat'], 'echoed')).out, 'echoed');
      assert.equal((await podman.run(['exec', 'target', 'sh', '-c', 'exit 9'])).status, 9);
      assert.equal((await podman.run(['exec', 'target', '/no/such'])).status, 127);
      assert.include(
        (await podman.runOnTerminal(['exec', '-t', 'target', 'sh', '-c', 'test -t 1 && echo terminal'])).out,
        'terminal',
      );
      assert.equal((await podman.run(['exec', '-d', 'target', 'sleep', '1'])).status, 0);
    });

    it('healthcheck: runs and reports', async () => {
      const common = ['run', '-d', '--network', 'none', '--health-interval', 'disable'];
      for (const [name, command, status] of [
        ['well', '/bin/true', 0],
        ['ill', '/bin/false', 1],
      ] as const) {
        assert.equal(
          (await podman.run([...common, '--name', name, '--health-cmd', command, 'bb', 'sleep', '1000'])).status,
          0,
        );
        assert.equal((await podman.run(['healthcheck', 'run', name])).status, status);
      }
    });

    it('attach: hears the container to its end and has its status', async () => {
      await start('talker', 'sh', '-c', 'until test -e /go; do sleep 0.1; done; echo said; exit 4');
      const before = socketCount(podman.dir, 'talker');
      const attached = podman.run(['attach', '--no-stdin', 'talker']);
      await until('the client is attached', () => socketCount(podman.dir, 'talker') > before);
      await podman.run(['exec', 'talker', 'sh', '-c', ': > /go']);
      // Podman 4.3 adds a newline and ends with 0, whichever the monitor.
      assert.equal((await attached).out.trim(), 'said');
      assert.equal((await podman.run(['wait', 'talker'])).out.trim(), '4');
    });

    it('stop: ends a container, and wait has its status', async () => {
      await start('stopped', 'sh', '-c', 'trap "exit 3" TERM; while :; do sleep 0.1; done');
      const begun = Date.now();
      assert.equal((await podman.run(['stop', 'stopped'])).status, 0);
      assert.isBelow(Date.now() - begun, 8000);
      assert.equal((await podman.run(['wait', 'stopped'])).out.trim(), '3');
    });

    it('restart and rm -f', async () => {
      await start('again', 'sleep', '1000');
      assert.equal((await podman.run(['restart', '-t', '0', 'again'])).status, 0);
      assert.equal((await podman.run(['inspect', '-f', '{{.State.Running}}', 'again'])).out.trim(), 'true');
      assert.equal((await podman.run(['rm', '-f', '-t', '0', 'again'])).status, 0);
    });
  });
}
