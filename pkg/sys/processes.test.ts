import { assert } from 'chai';
import { closeSync, fstatSync, readdirSync, statSync } from 'node:fs';
import { RuntimeError } from '../base/errors.ts';
import { hugepageSizes, maskedPaths, parseCapabilities, parseLimits } from './node.ts';
import { filesOf, isMadeBy, openPidNamespace, parseExecuted, parseHeeds, parseProcStat, refOf } from './processes.ts';

const TAIL = '1 2 3 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654321 100 1 18446744073709551615';

describe('parseProcStat', () => {
  it('finds its way around any process name', () => {
    for (const name of ['sh', 'a b', ') S 1 2 3', '((', 'x) Z 9 (y']) {
      assert.deepEqual(parseProcStat(`42 (${name}) S ${TAIL}\n`), {
        pid: 42,
        state: 'S',
        parentPid: 1,
        session: 3,
        startTicks: 987654321n,
      });
    }
  });

  it('refuses what is cut or no stat', () => {
    for (const text of ['', '42', '42 (sh) S 1 2', 'x (sh) S']) assert.isUndefined(parseProcStat(text));
  });
});

describe('isMadeBy', () => {
  const monitor = { pid: 100, startTicks: 5_000n };
  const found = (pid: number, parentPid: number, startTicks: bigint): boolean =>
    isMadeBy(monitor, { pid, parentPid, startTicks, session: 1, state: 'S' });

  it('takes the child of a monitor, and what is no older than it where a runtime hands it on', () => {
    assert.isTrue(found(101, 100, 5_000n));
    assert.isTrue(found(101, 1, 5_001n));
  });

  it('takes no process of the node that was there before, though it has the number', () => {
    assert.isFalse(found(101, 1, 4_999n));
    assert.isFalse(found(1, 0, 0n));
    assert.isFalse(found(100, 1, 5_000n), 'the monitor itself');
  });
});

describe('openPidNamespace', () => {
  it('opens that of exactly this process, and of nobody who has its number by now', () => {
    const self = refOf(process.pid);
    assert.isDefined(self);
    const descriptor = openPidNamespace(self);
    assert.strictEqual(fstatSync(descriptor).ino, statSync('/proc/self/ns/pid').ino);
    closeSync(descriptor);
    const before = readdirSync('/proc/self/fd').length;
    const another = { pid: process.pid, startTicks: self.startTicks - 1n };
    assert.throws(() => openPidNamespace(another), RuntimeError, /is gone, and its PID namespace/);
    assert.lengthOf(readdirSync('/proc/self/fd'), before);
  });
});

describe('parseHeeds', () => {
  const stat = (flags: number, startCode: number): string =>
    `4711 (a) b) S 1 2 3 0 -1 ${flags} 1 0 0 0 0 0 0 0 20 0 1 0 987654321 100 1 ` +
    `18446744073709551615 ${startCode} 5785993`;
  const [forked, executing, executed] = [stat(0x400140, 4214784), stat(0x400100, 0), stat(0x400100, 4198400)];
  const status = (pids: string, blocked: string, caught: string): string =>
    `Name:\tx\nNSpid:\t${pids}\nSigBlk:\t${blocked}\nSigIgn:\t0000000000000000\nSigCgt:\t${caught}\n`;
  const [none, term] = ['0000000000000000', '0000000000004000'];

  it('knows that the init of a PID namespace is deaf to what it does not handle', () => {
    assert.isFalse(parseHeeds(executed, status('4711\t1', none, none), 15));
    assert.isFalse(parseHeeds(executed, status('4711\t1', none, term), 2));
    assert.isTrue(parseHeeds(executed, status('4711\t1', none, term), 15));
    assert.isTrue(parseHeeds(executed, status('4711\t1', term, none), 15));
    assert.isTrue(parseHeeds(executed, status('4711\t1', none, none), 9));
    assert.isTrue(parseHeeds(executed, status('4711\t1', none, '4000000000000000'), 63));
  });

  it(
    'does not take the handlers of the runtime, which has not executed the program yet, for ' + 'those of the program',
    () => {
      const everything = 'fffffffe7fffffff';
      assert.isFalse(parseHeeds(forked, status('4711\t1', none, everything), 15));
      assert.isFalse(parseHeeds(executing, status('4711\t1', none, everything), 15));
      assert.isTrue(parseHeeds(executed, status('4711\t1', none, everything), 15));
      assert.isTrue(parseHeeds(forked, status('4711\t1', none, everything), 9));
    },
  );

  it('and that a process has executed a program only when that has been loaded', () => {
    assert.deepEqual([forked, executing, executed].map(parseExecuted), [false, false, true]);
  });

  it('and that nobody else is', () => {
    assert.isTrue(parseHeeds(executed, status('4711\t11', none, none), 15));
    assert.isTrue(parseHeeds(forked, status('4711', none, none), 15));
    assert.isTrue(parseHeeds('', '', 15));
  });
});

describe('parseCapabilities', () => {
  it('names the bits up to the last the kernel has', () => {
    assert.deepEqual([...parseCapabilities('0000000000000005', 40)], ['CAP_CHOWN', 'CAP_DAC_READ_SEARCH']);
    assert.equal(parseCapabilities('1ffffffffff', 40).size, 41);
    assert.isFalse(parseCapabilities('1ffffffffff', 39).has('CAP_CHECKPOINT_RESTORE'));
    assert.isFalse(parseCapabilities('1fffeffffff', 40).has('CAP_SYS_RESOURCE'));
    assert.equal(parseCapabilities('0', 40).size, 0);
  });
});

describe('parseLimits', () => {
  it('keeps hard limits, and leaves out what is unlimited', () => {
    const limits = parseLimits(
      [
        'Limit                     Soft Limit           Hard Limit           Units     ',
        'Max cpu time              unlimited            unlimited            seconds   ',
        'Max open files            1024                 524288               files     ',
        'Max nice priority         0                    0                    ',
        'Max core file size        0                    unlimited            bytes     ',
        'Max stack size            unlimited            18446744073709551614 bytes     ',
      ].join('\n'),
    );
    assert.deepEqual(
      [...limits],
      [
        ['RLIMIT_NOFILE', 524288n],
        ['RLIMIT_NICE', 0n],
        ['RLIMIT_STACK', 18446744073709551614n],
      ],
    );
  });
});

describe('hugepageSizes', () => {
  it('names sizes as cgroups do, smallest first', () => {
    assert.deepEqual(hugepageSizes(['hugepages-1048576kB', 'hugepages-2048kB', 'hugepages-64kB', 'other']), [
      '64KB',
      '2MB',
      '1GB',
    ]);
  });
});

describe('maskedPaths', () => {
  it('names the throttling counters of each CPU that has them', () => {
    const there = new Set(
      ['cpu0', 'cpu12', 'cpufreq'].map((name) => `/sys/devices/system/cpu/${name}/thermal_throttle`),
    );
    assert.deepEqual(
      maskedPaths(['cpu0', 'cpu1', 'cpu12', 'cpufreq', 'online'], (path) => there.has(path)),
      ['/sys/devices/system/cpu/cpu0/thermal_throttle', '/sys/devices/system/cpu/cpu12/thermal_throttle'],
    );
  });
});

describe('filesOf', () => {
  it('lets the event loop turn between some and the next: how many there are is for containers to say', async () => {
    let turns = 0;
    let isOver = false;
    const turn = (): void => {
      turns++;
      if (!isOver) setImmediate(turn);
    };
    setImmediate(turn);
    let files = 0;
    for await (const [{ pid }] of filesOf(
      Array.from({ length: 100 }, () => String(process.pid)),
      'comm',
      64,
    )) {
      assert.equal(pid, process.pid);
      files++;
    }
    isOver = true;
    assert.equal(files, 100);
    assert.isAtLeast(turns, 3);
  });
});
