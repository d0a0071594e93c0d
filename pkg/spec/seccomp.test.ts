import { assert } from 'chai';
import { outcome } from './golden/refused.ts';
import { CAPABILITIES } from './process.ts';
import { DEFAULT_PROFILE, resolveSeccomp } from './seccomp.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';

const facts = { machine: 'x86_64', kernel: '6.18.0', capabilities: new Set(['CAP_CHOWN']) };
const allowed = (capabilities: readonly string[] = []): ReadonlySet<string> => {
  const rules = resolveSeccomp(DEFAULT_PROFILE, { ...facts, capabilities: new Set(capabilities) }).syscalls ?? [];
  return new Set(
    rules.filter((rule) => rule.action === 'SCMP_ACT_ALLOW' && rule.args === undefined).flatMap((rule) => rule.names),
  );
};

describe('the default seccomp profile', () => {
  it('never allows what reaches past namespaces and filters', () => {
    const everything = allowed(CAPABILITIES);
    for (const name of [
      'io_uring_setup',
      'io_uring_enter',
      'keyctl',
      'add_key',
      'request_key',
      'kexec_load',
      'userfaultfd',
      'swapon',
      'socket',
      'uselib',
    ])
      assert.isFalse(everything.has(name), name);
  });
  it('ties dangerous calls to their capability', () => {
    const cases = [
      ['CAP_SYS_ADMIN', 'mount'],
      ['CAP_SYS_ADMIN', 'unshare'],
      ['CAP_SYS_ADMIN', 'setns'],
      ['CAP_SYS_ADMIN', 'clone3'],
      ['CAP_BPF', 'bpf'],
      ['CAP_SYS_MODULE', 'init_module'],
      ['CAP_SYS_TIME', 'clock_settime'],
      ['CAP_SYS_BOOT', 'reboot'],
      ['CAP_SYSLOG', 'syslog'],
      ['CAP_PERFMON', 'perf_event_open'],
    ] as const;
    for (const [capability, name] of cases) {
      assert.isFalse(allowed().has(name), name);
      assert.isTrue(allowed([capability]).has(name), `${name} with ${capability}`);
    }
  });
  it('refuses a known call by EPERM and an unknown one by ENOSYS', () => {
    const profile = resolveSeccomp(DEFAULT_PROFILE, facts);
    assert.deepInclude(profile, {
      defaultAction: 'SCMP_ACT_ERRNO',
      defaultErrnoRet: 38,
      architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
    });
    const errno = new Map(
      (profile.syscalls ?? [])
        .filter((rule) => rule.action === 'SCMP_ACT_ERRNO' && rule.args === undefined)
        .flatMap((rule) => rule.names.map((name) => [name, rule.errnoRet])),
    );
    assert.deepEqual(
      ['mount', 'unshare', 'bpf', 'keyctl', 'clone3'].map((name) => errno.get(name)),
      [1, 1, 1, 1, 38],
    );
  });
  it('never gives one call two verdicts without a condition', () => {
    for (const capabilities of [[], ['CAP_SYS_ADMIN'], ['CAP_BPF'], CAPABILITIES]) {
      for (const machine of ['x86_64', 'aarch64', 's390x', 'ppc64le', 'riscv64']) {
        const verdicts = new Map<string, string>();
        for (const rule of resolveSeccomp(DEFAULT_PROFILE, { ...facts, machine, capabilities: new Set(capabilities) })
          .syscalls ?? []) {
          for (const name of rule.names) {
            const verdict = JSON.stringify([rule.action, rule.errnoRet, rule.args]);
            const other = verdicts.get(name);
            assert.isFalse(
              other !== undefined &&
                (rule.args === undefined || other.includes('[]') || !other.includes('index')) &&
                other !== verdict,
              `${name} on ${machine}: ${other} and ${verdict}`,
            );
            verdicts.set(name, verdict);
          }
        }
      }
    }
  });

  /** What the kernel would decide for a call by the rules with conditions on arguments. */
  function decide(name: string, args: readonly bigint[], capabilities: readonly string[] = []): string {
    const profile = resolveSeccomp(DEFAULT_PROFILE, { ...facts, capabilities: new Set(capabilities) });
    const holds = (arg: { index: number; value: number | bigint; valueTwo?: number | bigint; op: string }): boolean => {
      const actual = args[arg.index] ?? 0n;
      if (arg.op === 'SCMP_CMP_MASKED_EQ') return (actual & BigInt(arg.value)) === BigInt(arg.valueTwo ?? 0);
      return arg.op === 'SCMP_CMP_EQ' ? actual === BigInt(arg.value) : actual !== BigInt(arg.value);
    };
    const rules = (profile.syscalls ?? []).filter(
      (rule) => rule.names.includes(name) && (rule.args ?? []).every(holds),
    );
    return (
      [...new Set(rules.map((rule) => (rule.action === 'SCMP_ACT_ALLOW' ? 'allow' : String(rule.errnoRet))))].join(
        '+',
      ) || 'default'
    );
  }
  it('lets sockets of ordinary families through, never AF_ALG and AF_VSOCK', () => {
    const families = Array.from(
      { length: 70 },
      (_, family) => [family, decide('socket', [BigInt(family), 0n, 0n])] as const,
    );
    assert.deepEqual(
      families.filter(([, verdict]) => verdict !== 'allow'),
      [[38, '1'], [40, '1'], ...[64, 65, 66, 67, 68, 69].map((family) => [family, 'default'] as const)],
    );
    // The kernel reads the low 32 bits only.
    for (const high of [1n << 32n, 0xffffffffn << 32n])
      for (const family of [38n, 40n]) assert.equal(decide('socket', [high | family]), 'default');
  });
  it('says EINVAL for audit sockets without CAP_AUDIT_WRITE', () => {
    assert.equal(decide('socket', [16n, 3n, 9n]), '22');
    assert.equal(decide('socket', [16n, 3n, 0n]), 'allow');
    assert.equal(decide('socket', [16n, 3n, 9n], ['CAP_AUDIT_WRITE']), 'allow');
  });
  it('lets clone make threads and children, not namespaces', () => {
    assert.equal(decide('clone', [0x3d0f00n]), 'allow');
    for (const flag of [0x20000n, 0x2000000n, 0x4000000n, 0x8000000n, 0x10000000n, 0x20000000n, 0x40000000n]) {
      assert.equal(decide('clone', [17n | flag]), '1');
      assert.equal(decide('clone', [17n | flag], ['CAP_SYS_ADMIN']), 'allow');
    }
  });
});

describe('resolveSeccomp', () => {
  const rule = (condition: object): object => ({ names: ['x'], action: 'SCMP_ACT_ALLOW', ...condition });
  const survives = (condition: object): boolean =>
    (
      resolveSeccomp(parseSeccompProfile({ defaultAction: 'SCMP_ACT_ERRNO', syscalls: [rule(condition)] }), facts)
        .syscalls ?? []
    ).length === 1;
  const cases: readonly (readonly [condition: object, survives: boolean])[] = [
    [{}, true],
    [{ includes: {} }, true],
    [{ includes: { caps: ['CAP_CHOWN'] } }, true],
    [{ includes: { caps: ['CAP_CHOWN', 'CAP_BPF'] } }, false],
    [{ includes: { arches: ['amd64', 'arm64'] } }, true],
    [{ includes: { arches: ['arm64'] } }, false],
    [{ includes: { minKernel: '6.18' } }, true],
    [{ includes: { minKernel: '6.19' } }, false],
    [{ includes: { minKernel: '5.30' } }, true],
    [{ excludes: { caps: ['CAP_BPF'] } }, true],
    [{ excludes: { caps: ['CAP_BPF', 'CAP_CHOWN'] } }, false],
    [{ excludes: { arches: ['amd64'] } }, false],
    [{ excludes: { minKernel: '4.8' } }, false],
    [{ includes: null, excludes: null, args: null, comment: 'free text' }, true],
  ];
  for (const [condition, expected] of cases)
    it(`${JSON.stringify(condition)} ${expected ? 'holds' : 'does not hold'}`, () =>
      assert.equal(survives(condition), expected));
});

describe('parseSeccompProfile', () => {
  const ok = { defaultAction: 'SCMP_ACT_ERRNO', syscalls: [] };
  const refused: readonly (readonly [value: unknown, message: RegExp])[] = [
    [null, /profile: want an object/],
    [[], /profile: want an object/],
    ['SCMP_ACT_ALLOW', /profile: want an object/],
    [{ syscalls: [] }, /defaultAction/],
    [{ ...ok, defaultAction: 'ALLOW' }, /defaultAction/],
    [{ ...ok, syscalls: {} }, /syscalls: want a list/],
    [{ ...ok, syscalls: [1] }, /syscalls\[0\]: want an object/],
    [{ ...ok, syscalls: [{ names: ['x'] }] }, /syscalls\[0\].action/],
    [{ ...ok, syscalls: [{ names: 'x', action: 'SCMP_ACT_ALLOW' }] }, /names: want a list/],
    [{ ...ok, syscalls: [{ names: [1], action: 'SCMP_ACT_ALLOW' }] }, /names: want a list of strings/],
    [{ ...ok, syscalls: [{ name: 'x', names: ['y'], action: 'SCMP_ACT_ALLOW' }] }, /both name and names/],
    [
      {
        ...ok,
        syscalls: [{ names: ['x'], action: 'SCMP_ACT_ALLOW', args: [{ index: 6, value: 0, op: 'SCMP_CMP_EQ' }] }],
      },
      /index: 6 is above 5/,
    ],
    [
      {
        ...ok,
        syscalls: [{ names: ['x'], action: 'SCMP_ACT_ALLOW', args: [{ index: 0, value: -1, op: 'SCMP_CMP_EQ' }] }],
      },
      /unsigned 64-bit/,
    ],
    [
      { ...ok, syscalls: [{ names: ['x'], action: 'SCMP_ACT_ALLOW', args: [{ index: 0, value: 1, op: 'EQ' }] }] },
      /args\[0\].op/,
    ],
    [{ ...ok, syscalls: [{ names: ['x'], action: 'SCMP_ACT_ALLOW', includes: { minKernel: 'new' } }] }, /minKernel/],
    [{ ...ok, syscalls: [{ names: ['x'], action: 'SCMP_ACT_ALLOW', includes: [] }] }, /includes: want an object/],
    [{ ...ok, flags: ['SECCOMP_FILTER_FLAG_NEW'] }, /flags: want SECCOMP/],
    [{ ...ok, defaultErrnoRet: 5000 }, /5000 is above 4095/],
    [{ ...ok, defaultErrno: '5000' }, /defaultErrno: want the name of an errno, or its number/],
    [
      { ...ok, syscalls: [{ names: ['x'], action: 'SCMP_ACT_ERRNO', errno: 'EWHAT' }] },
      /syscalls\[0\]\.errno: want the name/,
    ],
    [
      { ...ok, syscalls: [{ names: ['x'], action: 'SCMP_ACT_ERRNO', errno: 1 }] },
      /syscalls\[0\]\.errno: want a string/,
    ],
    [
      { ...ok, syscalls: Array.from({ length: 10_001 }, () => ({ names: ['x'], action: 'SCMP_ACT_ALLOW' })) },
      /more than 10000 entries/,
    ],
  ];
  it('reads errors by name, which win over numbers, as in the profile of containers/common', () => {
    const { defaultErrnoRet, syscalls } = resolveSeccomp(
      parseSeccompProfile({
        defaultAction: 'SCMP_ACT_ERRNO',
        defaultErrno: 'ENOSYS',
        syscalls: [
          { names: ['a'], action: 'SCMP_ACT_ERRNO', errno: 'EACCES' },
          { names: ['b'], action: 'SCMP_ACT_ERRNO', errno: 'EINVAL', errnoRet: 1 },
          { names: ['c'], action: 'SCMP_ACT_ERRNO', errno: '38' },
          { names: ['d'], action: 'SCMP_ACT_ERRNO', errno: '', errnoRet: 2 },
          { names: ['e'], action: 'SCMP_ACT_ERRNO' },
        ],
      }),
      facts,
    );
    assert.equal(defaultErrnoRet, 38);
    assert.deepEqual(
      syscalls?.map(({ errnoRet }) => errnoRet),
      [13, 22, 38, 2, undefined],
    );
  });
  it('says nothing of what is in a file that may be no profile at all', () => {
    for (const value of [
      { defaultAction: 'hunter2' },
      { ...ok, flags: ['hunter2'] },
      { ...ok, defaultErrno: 'hunter2' },
      { ...ok, syscalls: [{ names: ['x'], action: 'hunter2' }] },
      { ...ok, syscalls: [{ names: ['x'], action: 'SCMP_ACT_ALLOW', includes: { minKernel: 'hunter2' } }] },
    ]) {
      const said = outcome(() => parseSeccompProfile(value));
      assert.match(said, /^InvalidArgument: seccomp profile: /);
      assert.notInclude(said, 'hunter2');
    }
  });
  for (const [value, message] of refused) {
    it(`refuses ${message.source}`, () => {
      const said = outcome(() => parseSeccompProfile(value));
      assert.match(said, /^InvalidArgument: seccomp profile: /);
      assert.match(said, message);
    });
  }
});
