import { assert } from 'chai';
import type { Capability, Signal } from '../cri-api/types.ts';
import { outcome } from './golden/refused.ts';
import { defaultsOf, factsOf, inputOf } from './golden/request.ts';
import { buildContainerSpec } from './index.ts';
import { CAPABILITIES, capabilitySets, checkWorkingDir, effectiveStopSignal, execProcess, homeOf } from './process.ts';

describe('command, environment and working directory', () => {
  const refused: readonly (readonly [id: string, golden: Parameters<typeof inputOf>[0], message: RegExp])[] = [
    ['nothing to run', { image: { cmd: [], entrypoint: [] } }, /no command specified/],
    ['NUL in an argument', { container: { command: ['a\0b'] } }, /argument holds a NUL byte/],
    ['200 KB argument', { container: { args: ['x'.repeat(200_000)] } }, /argument is longer than 131071 bytes/],
    ['env value with NUL', { container: { envs: [{ key: 'A', hex: '610062' }] } }, /"A": holds a NUL byte/],
    [
      'env bytes with NUL',
      { container: { envs: [{ key: 'A', hex: 'ff0062' }] }, found: { envExec: '/x' } },
      /"A": a NUL byte/,
    ],
    [
      'env value of 200 KB',
      { container: { envs: [{ key: 'A', value: 'x'.repeat(200_000) }] } },
      /longer than 131071 bytes/,
    ],
    [
      'env value of 80 000 characters, 160 KB',
      { container: { envs: [{ key: 'A', value: 'ü'.repeat(80_000) }] } },
      /longer than 131071 bytes/,
    ],
    ['env without a name', { container: { envs: [{ key: '', value: 'x' }] } }, /name "" is empty/],
    ['env with = in its name', { container: { envs: [{ key: 'A=B', value: 'x' }] } }, /name "A=B"/],
    ['env bytes without a helper', { container: { envs: [{ key: 'A', hex: 'ff' }] } }, /"A" is not UTF-8/],
    [
      'env bytes with a mount over /dev',
      {
        container: { envs: [{ key: 'A', hex: 'ff' }], mounts: [{ containerPath: '/dev', hostPath: '/dev' }] },
        found: { envExec: '/x' },
      },
      /own \/dev/,
    ],
    [
      'CVE-2022-4318',
      { container: { envs: [{ key: 'HOME', value: '/root\nroot2:x:0:0::/:/bin/sh' }] } },
      /HOME .* control character/,
    ],
    ['CVE-2022-4318 by image', { image: { env: ['HOME=/root\nroot2:x:0:0::/:/bin/sh'] } }, /HOME .* control character/],
    ['working directory with NUL', { container: { workingDir: '/a\0b' } }, /working directory holds a NUL/],
  ];
  for (const [id, golden, message] of refused) {
    it(`refuses ${id}`, () => {
      const said = outcome(() => buildContainerSpec(inputOf(golden)));
      assert.match(said, /^InvalidArgument: /);
      assert.match(said, message);
    });
  }

  it('refuses working directories that lead out of the container (CVE-2024-21626)', () => {
    const bad = Array.from({ length: 62 }, (_, at) => `/proc/self/fd/${at + 3}`).concat(
      '/proc/self/cwd',
      '/proc/self',
      '/proc/1/root',
      '/proc/thread-self/fd/9',
      '/proc/self/../self/fd/3',
      '/dev/fd/7',
      '/x/../proc/self/fd/8',
    );
    for (const workingDir of bad)
      assert.match(
        outcome(() => buildContainerSpec(inputOf({ container: { workingDir } }))),
        /^InvalidArgument: .*CVE-2024-21626/,
        workingDir,
      );
    for (const good of ['/proc', '/proc/sys', '/procession/self', '/dev', '/dev/fdx', '/selfie']) checkWorkingDir(good);
  });

  it('takes a value of exactly the most that Linux executes', () => {
    const value = 'x'.repeat(131_071 - 'A='.length);
    assert.include(
      buildContainerSpec(inputOf({ container: { envs: [{ key: 'A', value }] } })).process.env,
      `A=${value}`,
    );
  });

  it('knows the home that the process will see', () => {
    assert.equal(homeOf(inputOf()), '/root');
    assert.equal(homeOf(inputOf({ image: { env: ['HOME=/image'] } })), '/image');
    assert.equal(
      homeOf(inputOf({ image: { env: ['HOME=/image'] }, container: { envs: [{ key: 'HOME', value: '/cri' }] } })),
      '/cri',
    );
    assert.equal(homeOf(inputOf({ container: { envs: [{ key: 'RAW', hex: 'ff' }] } })), '/root');
  });
});

describe('capabilities', () => {
  const facts = factsOf();
  const defaults = defaultsOf({ capabilities: ['KILL', 'CHOWN'] });
  const asked = (add: string, drop = '', ambient = ''): Capability => {
    const words = (text: string): string[] => text.split(' ').filter((word) => word !== '');
    return { addCapabilities: words(add), dropCapabilities: words(drop), addAmbientCapabilities: words(ambient) };
  };
  const short = (names: readonly string[] | undefined): string =>
    names?.length === CAPABILITIES.length
      ? 'everything'
      : (names ?? []).map((name) => name.replace('CAP_', '')).join(' ');

  const cases: readonly (readonly [add: string, drop: string, ambient: string, bounding: string, raised: string])[] = [
    ['', '', '', 'CHOWN KILL', ''],
    ['net_admin CAP_SYS_TIME', '', '', 'CHOWN KILL NET_ADMIN SYS_TIME', ''],
    ['', 'ALL', '', '', ''],
    ['ALL', '', '', 'everything', ''],
    ['cap_all', '', '', 'everything', ''],
    ['NET_RAW', 'ALL', '', 'NET_RAW', ''],
    ['ALL', 'ALL', '', '', ''],
    ['ALL NET_RAW', 'ALL', '', 'NET_RAW', ''],
    ['NET_RAW', 'NET_RAW', '', 'CHOWN KILL', ''],
    ['', 'NO_SUCH', '', 'CHOWN KILL', ''],
    ['', 'ALL', 'NET_BIND_SERVICE', 'NET_BIND_SERVICE', 'NET_BIND_SERVICE'],
    ['', 'ALL KILL', 'KILL', '', ''],
  ];
  for (const [add, drop, ambient, bounding, raised] of cases) {
    it(`add [${add}] drop [${drop}] ambient [${ambient}] → ${bounding}`, () => {
      const sets = capabilitySets(asked(add, drop, ambient), 'confined', facts, defaults);
      assert.deepEqual([sets.bounding, sets.effective, sets.permitted].map(short), [bounding, bounding, bounding]);
      assert.deepEqual([sets.inheritable, sets.ambient].map(short), [raised, raised]);
    });
  }

  it('are never inheritable or ambient by default (CVE-2022-24769, CVE-2022-27652, CVE-2018-1000400)', () => {
    for (const privilege of ['confined', 'privileged'] as const) {
      const sets = capabilitySets(asked('ALL'), privilege, facts, defaults);
      assert.deepEqual([sets.inheritable, sets.ambient], [[], []]);
    }
  });
  it('of a privileged container are all that the daemon has, less what is dropped', () => {
    const sets = capabilitySets(
      asked('', 'SYS_BOOT'),
      'privileged',
      factsOf({ withoutCapabilities: ['CAP_SYS_RESOURCE'] }),
      defaults,
    );
    assert.deepEqual(
      CAPABILITIES.filter((name) => !sets.bounding?.includes(name)),
      ['CAP_SYS_BOOT', 'CAP_SYS_RESOURCE'],
    );
  });
  it('that do not exist cannot be added', () => {
    assert.match(
      outcome(() => capabilitySets(asked('FLY'), 'confined', facts, defaults)),
      /^InvalidArgument: add_capabilities: unknown capability "FLY"/,
    );
    assert.match(
      outcome(() => capabilitySets(asked('', '', 'FLY'), 'confined', facts, defaults)),
      /^InvalidArgument: add_ambient_capabilities: unknown capability "FLY"/,
    );
    assert.match(
      outcome(() => capabilitySets(asked('CAP_'), 'confined', facts, defaults)),
      /^InvalidArgument/,
    );
  });
});

describe('ulimits', () => {
  it('of unknown names are refused', () => {
    assert.match(
      outcome(() => buildContainerSpec(inputOf({ defaults: { ulimits: [{ name: 'nofiles', soft: 1, hard: 1 }] } }))),
      /^InvalidArgument: unknown ulimit "nofiles"/,
    );
  });
});

describe('execProcess', () => {
  const container = buildContainerSpec(inputOf({ container: { tty: true } })).process;
  it("is the container's process with other arguments", () => {
    const exec = execProcess(container, { argv: ['ps', '-ef'], tty: false });
    const { terminal: _, ...rest } = container;
    assert.deepEqual(exec, { ...rest, args: ['ps', '-ef'] });
  });
  it('has TERM with a terminal', () => {
    const plain = buildContainerSpec(inputOf()).process;
    assert.notInclude(plain.env, 'TERM=xterm');
    const exec = execProcess(plain, { argv: ['sh'], tty: true });
    assert.isTrue(exec.terminal);
    assert.include(exec.env, 'TERM=xterm');
    assert.equal(
      execProcess(container, { argv: ['sh'], tty: true }).env.filter((entry) => entry.startsWith('TERM=')).length,
      1,
    );
  });
  it('keeps the environment helper of its container', () => {
    const withHelper = buildContainerSpec(
      inputOf({
        container: { command: ['sleep', '--', '9'], envs: [{ key: 'R', hex: 'ff' }] },
        found: { envExec: '/x' },
      }),
    ).process;
    assert.deepEqual(execProcess(withHelper, { argv: ['ls'], tty: false }).args, [
      '/dev/.berth-env',
      'R=%ff',
      '--',
      'ls',
    ]);
  });
  it('needs a command that can be executed', () => {
    assert.match(
      outcome(() => execProcess(container, { argv: [], tty: false })),
      /^InvalidArgument: exec: no command/,
    );
    assert.match(
      outcome(() => execProcess(container, { argv: ['a\0'], tty: false })),
      /^InvalidArgument: exec: argument holds a NUL/,
    );
  });
});

describe('effectiveStopSignal', () => {
  const cases: readonly (readonly [config: Signal, image: string, number: number, name: Signal])[] = [
    ['SIGNAL_RUNTIME_DEFAULT', '', 15, 'SIGNAL_SIGTERM'],
    ['SIGNAL_RUNTIME_DEFAULT', 'SIGQUIT', 3, 'SIGNAL_SIGQUIT'],
    ['SIGNAL_RUNTIME_DEFAULT', 'quit', 3, 'SIGNAL_SIGQUIT'],
    ['SIGNAL_RUNTIME_DEFAULT', '9', 9, 'SIGNAL_SIGKILL'],
    ['SIGNAL_RUNTIME_DEFAULT', 'SIGRTMIN+3', 37, 'SIGNAL_SIGRTMINPLUS3'],
    ['SIGNAL_RUNTIME_DEFAULT', 'RTMAX-1', 63, 'SIGNAL_SIGRTMAXMINUS1'],
    ['SIGNAL_RUNTIME_DEFAULT', 'SIGRTMIN', 34, 'SIGNAL_SIGRTMIN'],
    ['SIGNAL_RUNTIME_DEFAULT', '64', 64, 'SIGNAL_SIGRTMAX'],
    ['SIGNAL_RUNTIME_DEFAULT', '50', 50, 'SIGNAL_SIGRTMAXMINUS14'],
    ['SIGNAL_RUNTIME_DEFAULT', 'SIGRTMIN+31', 15, 'SIGNAL_SIGTERM'],
    ['SIGNAL_RUNTIME_DEFAULT', 'constructor', 15, 'SIGNAL_SIGTERM'],
    ['SIGNAL_RUNTIME_DEFAULT', '99', 15, 'SIGNAL_SIGTERM'],
    ['SIGNAL_SIGKILL', 'SIGQUIT', 9, 'SIGNAL_SIGKILL'],
    ['SIGNAL_SIGTERM', 'SIGQUIT', 15, 'SIGNAL_SIGTERM'],
    ['SIGNAL_SIGCLD', '', 17, 'SIGNAL_SIGCLD'],
    ['SIGNAL_SIGIOT', '', 6, 'SIGNAL_SIGIOT'],
    ['SIGNAL_SIGPOLL', '', 29, 'SIGNAL_SIGPOLL'],
    ['SIGNAL_SIGRTMINPLUS15', '', 49, 'SIGNAL_SIGRTMINPLUS15'],
    ['SIGNAL_SIGRTMAXMINUS14', '', 50, 'SIGNAL_SIGRTMAXMINUS14'],
    ['SIGNAL_SIGRTMAX', '', 64, 'SIGNAL_SIGRTMAX'],
  ];
  for (const [config, image, number, name] of cases) {
    it(`${config} with image ${JSON.stringify(image)} is ${number}`, () =>
      assert.deepEqual(effectiveStopSignal(config, image), { number, name }));
  }
});
