import { assert } from 'chai';
import { existsSync } from 'node:fs';
import { type FileHandle, mkdir, mkdtemp, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { explain, RuntimeError } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { backgroundOp, type Logger, silent } from '../base/op.ts';
import type { RuntimeProcess } from '../oci/spec-types.ts';
import type { DirectoryEvent } from '../ports/kernel.ts';
import { processes, type watchDirectory } from '../sys/index.ts';
import { ConmonMonitor } from './conmon.ts';
import { reopened } from './conmon-log.ts';
import { monitorArgv } from './conmon-start.ts';
import { exitFileId, parseExitCode, watchExits } from './exits.ts';
import { boot, FakeNode, fakeHandler } from './fake.ts';
import { ExecScratch } from './scratch.ts';
import { brokenOn, OciCli, parseState, startsContainer, stateIds } from './oci-cli.ts';
import type { CreateRequest, OciRuntime, RuntimeHandler } from '../ports/runtime.ts';

const ID = 'ab'.repeat(32) as ContainerId;

function request(handler: Partial<RuntimeHandler>, more: Partial<CreateRequest> = {}): CreateRequest {
  const runtime: OciRuntime = Object.assign(Object.create(boot(new FakeNode()).runtime) as OciRuntime, {
    handler: {
      ...fakeHandler('crun'),
      path: '/usr/bin/crun',
      root: '/run/rt',
      monitorPath: '/usr/bin/conmon',
      ...handler,
    },
  });
  return {
    id: ID,
    runtime,
    name: 'k8s_ctr',
    bundle: '/run/b',
    logPath: '/var/log/pods/x/0.log',
    tty: false,
    stdin: false,
    stdinOnce: false,
    ready: Promise.resolve(),
    ...more,
  };
}

describe('monitorArgv', () => {
  it('is the whole command line of a plain container', () => {
    assert.deepEqual(monitorArgv(request({}), '/run/exits'), [
      '/usr/bin/conmon',
      '--sync',
      '--syslog',
      '-b',
      '/run/b',
      '-c',
      ID,
      '-u',
      ID,
      '-n',
      'k8s_ctr',
      '-r',
      '/usr/bin/crun',
      '--runtime-arg',
      '--root=/run/rt',
      '--runtime-arg',
      '--log=/run/b/runtime.log',
      '--runtime-arg',
      '--log-format=json',
      '-p',
      '/run/b/pidfile',
      '-P',
      '/run/b/conmon.pid',
      '--exit-dir',
      '/run/exits',
      '--full-attach',
      '-l',
      'k8s-file:/var/log/pods/x/0.log',
    ]);
  });

  const flags = (argv: readonly string[]): string[] => argv.slice(argv.indexOf('-l') + 2);

  it('says how stdio is wired', () => {
    assert.deepEqual(flags(monitorArgv(request({}, { stdin: true }), '/e')), ['-i', '--leave-stdin-open']);
    assert.deepEqual(flags(monitorArgv(request({}, { stdin: true, stdinOnce: true }), '/e')), ['-i']);
    assert.deepEqual(flags(monitorArgv(request({}, { tty: true, stdin: true }), '/e')), ['-t', '--leave-stdin-open']);
    assert.deepEqual(flags(monitorArgv(request({}, { tty: true }), '/e')), ['-t', '--leave-stdin-open']);
  });

  it('passes on what the handler says', () => {
    const argv = monitorArgv(
      request(
        { cgroupManager: 'systemd', noSyncLog: true, noPivot: true, runtimeArgs: ['--platform=ptrace'] },
        { logPath: '' },
      ),
      '/e',
    );
    assert.deepEqual(flags(argv), ['-s', '--no-sync-log', '--no-pivot']);
    assert.strictEqual(argv[argv.indexOf('-l') + 1], 'none');
    assert.strictEqual(argv[argv.indexOf('--platform=ptrace') - 1], '--runtime-arg');
    assert.deepEqual(flags(monitorArgv(request({ journal: 'copy', logSizeMaxBytes: 9000 }), '/e')), [
      '-l',
      'journald',
      '--log-size-max',
      '9000',
    ]);
    assert.notInclude(
      monitorArgv(request({ journal: 'copy' }, { logPath: '' }), '/e'),
      'journald',
      'an infra container says nothing',
    );
  });
});

describe('exit files', () => {
  it('never makes success of what is not known', () => {
    assert.deepEqual(
      ['0', '137', '255\n', '', '-1', '256', '1 2', '0x0', 'zero', '00000'].map(parseExitCode),
      [0, 137, 255, 255, 255, 255, 255, 255, 255, 255],
    );
  });

  it('ignores the names that writers rename from', () => {
    assert.strictEqual(exitFileId(ID), ID);
    for (const name of [`${ID}.X1Y2Z3`, ID.slice(1), `${ID}0`, ID.toUpperCase(), '.'])
      assert.isUndefined(exitFileId(name));
  });
});

describe('patience with monitors', () => {
  it('is longer than the time that ours may take to drain to slow clients', async () => {
    const header = await readFile(new URL('../../conmon/conmon.h', import.meta.url), 'utf8');
    const finishMs = Number(/FINISH_MS = (\d+)/.exec(header)?.[1]);
    assert.isAtLeast(limits.exitFileMs, 2 * finishMs);
  });
});

describe('a node out of inotify instances', () => {
  let directory: string;
  beforeEach(async () => void (directory = await mkdtemp(join(tmpdir(), 'berth-exits-'))));
  afterEach(async () => await rm(directory, { recursive: true, force: true }));
  const refuse = (): never => {
    throw new RuntimeError('ResourceExhausted', 'inotify: EMFILE');
  };
  /** As the monitor does: by rename, so that nobody reads half of it. */
  const leave = async (id: string, text: string): Promise<void> => {
    await writeFile(join(directory, `.${id}`), text);
    await rename(join(directory, `.${id}`), join(directory, id));
  };

  it('has its exits followed by reading, said once, until they can be watched', async () => {
    const stop = new AbortController();
    const said: string[] = [];
    const log: Logger = { ...silent, error: (text) => void said.push(text), info: (text) => void said.push(text) };
    let looks = 0;
    let onEvent: ((event: DirectoryEvent) => void) | undefined;
    const watchNow: typeof watchDirectory = (_path, listener) => {
      if (++looks < 4) refuse();
      onEvent = listener;
      return { close: () => void (onEvent = undefined) };
    };
    const exits = watchExits(directory, stop.signal, log, { watchDirectory: watchNow, unwatchedMs: 1 });
    const first = exits.next();
    await leave(ID, '7');
    assert.strictEqual((await first).value?.exitCode, 7);
    const OTHER = 'cd'.repeat(32) as ContainerId;
    const second = (async () => {
      for await (const exit of exits) if (exit.id === OTHER) return exit;
      return undefined;
    })();
    while (onEvent === undefined) await new Promise((resolve) => setImmediate(resolve));
    await leave(OTHER, '8');
    onEvent({ kind: 'changed', name: OTHER });
    assert.strictEqual((await second)?.exitCode, 8);
    stop.abort();
    assert.deepEqual(
      said.map((text) => text.replace(/,.*/, '')),
      ['exit directory cannot be watched', 'exit directory is watched again'],
    );
    assert.isUndefined(onEvent, 'the watch is closed');
  });

  it('has its logs reopened', async () => {
    const logPath = join(directory, '0.log');
    const self = processes.refOf(process.pid);
    assert.isDefined(self);
    let file: FileHandle | undefined;
    await reopened(backgroundOp(silent), self, logPath, async () => void (file = await open(logPath, 'w')), refuse);
    await file?.close();
  });
});

describe('destroying a monitor', () => {
  it('removes what its writer of the exit file left, and nothing of those of others', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'berth-exits-'));
    const others = [`.conmon-7-${'cd'.repeat(32)}.tmp`, `${'cd'.repeat(32)}.X1Y2Z3`];
    try {
      for (const name of [ID, `${ID}.X1Y2Z3`, `.conmon-7-${ID}.tmp`, ...others])
        await writeFile(join(directory, name), '0');
      await new ConmonMonitor({ exitsDir: directory }).destroy(backgroundOp(silent), ID, join(directory, 'no-bundle'));
      assert.sameMembers(await readdir(directory), others);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
});

describe('a runtime whose program is not on the node any more', () => {
  it('keeps no container from being removed, and leaves nothing of it', async () => {
    const root = await mkdtemp(join(tmpdir(), 'berth-gone-'));
    try {
      await mkdir(join(root, ID));
      const scratch = new ExecScratch(join(root, 'scratch'));
      const runtime = new OciCli({ ...fakeHandler('crun'), path: join(root, 'absent'), root }, scratch);
      await runtime.delete(backgroundOp(silent), ID);
      assert.isFalse(existsSync(join(root, ID)));
    } finally {
      await rm(root, { recursive: true, force: true });
    }
  });
});

describe('exec', () => {
  it('makes its directory the next time when it could not be made', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'berth-exec-'));
    const inTheWay = join(directory, 'rt');
    const scratchDir = join(inTheWay, 'exec');
    const runtime = new OciCli(
      { ...fakeHandler('crun'), path: join(directory, 'absent'), root: directory },
      new ExecScratch(scratchDir),
    );
    const exec = (): Promise<string> =>
      runtime
        .exec(backgroundOp(silent), ID, { args: ['true'] } as unknown as RuntimeProcess, {
          tty: false,
          stdin: null,
          stdout: null,
          stderr: null,
          lateOutput: 'cut',
        })
        .then(() => '', explain);
    try {
      await writeFile(inTheWay, '');
      assert.match(await exec(), /ENOTDIR|EEXIST|not a directory/);
      await rm(inTheWay);
      assert.notMatch(await exec(), /ENOTDIR|EEXIST|not a directory/);
      assert.isTrue(existsSync(scratchDir));
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
});

describe('brokenOn', () => {
  const v1 = { version: 1, mountPoint: '/sys/fs/cgroup/memory', controllers: ['memory'] } as const;
  const v2 = (...controllers: string[]): { version: 2; mountPoint: string; controllers: string[] } => ({
    version: 2,
    mountPoint: '/sys/fs/cgroup/unified',
    controllers,
  });

  it('names the controllers that keep crun from working', () => {
    assert.match(
      brokenOn('crun', { mode: 'hybrid', hierarchies: [v1, v2('hugetlb')] }) ?? '',
      /unified \(hugetlb\); mount them as v1/,
    );
    assert.isUndefined(brokenOn('crun', { mode: 'hybrid', hierarchies: [v1, v2()] }));
    assert.isUndefined(brokenOn('crun', { mode: 'v2', hierarchies: [v2('memory', 'hugetlb')] }));
    assert.isUndefined(brokenOn('runc', { mode: 'hybrid', hierarchies: [v1, v2('hugetlb')] }));
  });
});

describe('runtime state', () => {
  it('knows the start of a container in the process table from what else names it', () => {
    const words = (line: string): string[] => `${line} `.split(' ');
    const starts = (line: string): boolean => startsContainer(words(line), ID);
    assert.isTrue(starts(`/usr/bin/crun --root /r start ${ID}`));
    assert.isFalse(
      starts(`/usr/bin/crun --root /r create --bundle /b ${ID}`),
      "crun's init, which waits to be started",
    );
    assert.isFalse(starts(`/usr/bin/crun --root /r start ${ID}0`));
    assert.isTrue(starts(`/bin/sh /opt/my-runtime --root /r start ${ID}`), 'a script that hands on to another');
    assert.isFalse(starts('start'));
  });

  it('finds the ids that runc, crun and runsc keep', () => {
    assert.deepEqual(
      stateIds([
        ID,
        `${'cd'.repeat(32)}_sandbox:${'cd'.repeat(32)}.state`,
        `${'cd'.repeat(32)}_sandbox:${'cd'.repeat(32)}.lock`,
        'x',
        `${ID}0`,
      ]),
      [ID, 'cd'.repeat(32)],
    );
  });

  it('calls stopped what has no living process', () => {
    const answer = (status: string): string => JSON.stringify({ status, pid: 7 });
    assert.deepEqual(
      parseState(answer('running'), 'crun', (pid) => pid === 7),
      { state: 'running', pid: 7 },
    );
    assert.deepEqual(
      parseState(answer('running'), 'crun', () => false),
      { state: 'stopped', pid: 0 },
    );
    assert.deepEqual(
      parseState(answer('stopped'), 'crun', () => true),
      { state: 'stopped', pid: 0 },
    );
    for (const wrong of ['', '{}', '{"status":"odd"}', '[]'])
      assert.throws(() => parseState(wrong, '/usr/bin/crun', () => true), /crun state answered/);
  });
});
