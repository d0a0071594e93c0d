import { assert } from 'chai';
import { recordedTree, type RecordedTree } from './fake-kernel.ts';
import { fileSet, FilesRead } from './files.ts';
import type { Detail, Reading } from './reading.ts';

async function read(
  tree: RecordedTree,
  detail: Detail,
  cgroups: readonly string[] = [tree.cgroup],
): Promise<(Reading | undefined)[]> {
  const set = fileSet(tree.layout, detail, ['2MB']);
  const next = new FilesRead(await tree.read(cgroups.flatMap((cgroup) => set.files({ cgroup }))));
  return cgroups.map((cgroup) => set.parse(next, { cgroup }, 1n));
}

const CPU_PRESSURE = {
  some: { totalNanos: 2_923_566_000n, avg10: 16.3, avg60: 3.15, avg300: 0.66 },
  full: { totalNanos: 2_910_874_000n, avg10: 16.16, avg60: 3.12, avg300: 0.66 },
};
const NO_PRESSURE = {
  some: { totalNanos: 0n, avg10: 0, avg60: 0, avg300: 0 },
  full: { totalNanos: 0n, avg10: 0, avg60: 0, avg300: 0 },
};
const IO_PRESSURE = {
  some: { totalNanos: 2_789_000n, avg10: 0, avg60: 0, avg300: 0 },
  full: { totalNanos: 2_631_000n, avg10: 0, avg60: 0, avg300: 0 },
};

describe('what a cgroup says', () => {
  it('on a node with v1 controllers and pressure in the v2 hierarchy', async () => {
    assert.deepEqual(await read(recordedTree('hybrid'), 'metrics'), [
      {
        at: 1n,
        cpuNanos: 1_042_577_045n,
        userNanos: 1_137_610_957n,
        systemNanos: 77_699_104n,
        periods: 52n,
        throttledPeriods: 43n,
        throttledNanos: 1_844_152_576n,
        memoryBytes: 8_994_816n,
        memoryLimit: 67_108_864n,
        memoryPeak: 10_354_688n,
        inactiveFile: 8_388_608n,
        rss: 110_592n,
        cache: 8_400_896n,
        mappedFile: 0n,
        kernelMemory: 483_328n,
        pageFaults: 1_256n,
        majorPageFaults: 1n,
        limitHits: 0n,
        oomKills: 0n,
        swapBytes: 0n,
        swapLimit: 67_108_864n,
        tasks: 2n,
        tasksMax: undefined,
        pids: [10_490, 10_541],
        devices: [],
        hugepages: [{ size: '2MB', bytes: 0n, maxBytes: 0n }],
        cpuPressure: CPU_PRESSURE,
        memoryPressure: NO_PRESSURE,
        ioPressure: IO_PRESSURE,
      },
    ]);
  });

  it('on a v2 node', async () => {
    assert.deepEqual(await read(recordedTree('v2'), 'metrics'), [
      {
        at: 1n,
        cpuNanos: 1_042_577_000n,
        userNanos: 900_000_000n,
        systemNanos: 142_577_000n,
        periods: 52n,
        throttledPeriods: 43n,
        throttledNanos: 1_844_152_000n,
        memoryBytes: 9_478_144n,
        memoryLimit: 67_108_864n,
        memoryPeak: 10_354_688n,
        inactiveFile: 8_388_608n,
        rss: 110_592n,
        cache: 8_400_896n,
        mappedFile: 4_096n,
        kernelMemory: 483_328n,
        pageFaults: 1_256n,
        majorPageFaults: 1n,
        limitHits: 7n,
        oomKills: 1n,
        swapBytes: 4_096n,
        swapLimit: 67_108_864n,
        tasks: 2n,
        tasksMax: undefined,
        pids: [10_490, 10_541],
        devices: [
          { device: '8:16', readBytes: 1_024n, writeBytes: 8_388_608n, reads: 2n, writes: 9n },
          { device: '8:0', readBytes: 4_096n, writeBytes: 0n, reads: 1n, writes: 0n },
        ],
        hugepages: [{ size: '2MB', bytes: 4_194_304n, maxBytes: undefined }],
        cpuPressure: CPU_PRESSURE,
        memoryPressure: NO_PRESSURE,
        ioPressure: IO_PRESSURE,
      },
    ]);
  });

  for (const name of ['hybrid', 'v2'] as const) {
    it(`is asked for no more than is needed (${name})`, async () => {
      const tree = recordedTree(name);
      const count = (detail: Detail): number => fileSet(tree.layout, detail, ['2MB']).count({ cgroup: '/x' });
      assert.isBelow(count('container'), count('pod'));
      assert.isBelow(count('pod'), count('metrics'));
      const [container] = await read(tree, 'container');
      assert.isUndefined(container?.tasks);
      assert.equal((await read(tree, 'pod'))[0]?.tasks, 2n);
      assert.isUndefined(container?.pids);
    });

    it(`is nothing once it is gone, and others keep their own (${name})`, async () => {
      const tree = recordedTree(name, ['/pod/d']);
      const [gone, c, never, d] = await read(tree, 'container', ['/gone', '/pod/c', '/never', '/pod/d']);
      assert.deepEqual([gone, never], [undefined, undefined]);
      assert.equal(c?.memoryLimit, 67_108_864n);
      assert.deepEqual(d, c);
    });

    it(`may lack any file (${name})`, async () => {
      const whole = (await read(recordedTree(name), 'metrics'))[0];
      for (const path of recordedTree(name).files.keys()) {
        const tree = recordedTree(name);
        tree.files.delete(path);
        const rest = (await read(tree, 'metrics'))[0] as unknown as Record<string, unknown>;
        const different = Object.entries(whole ?? {}).filter(
          ([key, value]) => JSON.stringify([rest[key]], big) !== JSON.stringify([value], big),
        );
        for (const [key] of different)
          assert.isTrue(rest[key] === undefined || key === 'devices' || key === 'hugepages', `${path}: ${key}`);
      }
    });
  }

  it('has no limit where v1 writes its largest number and v2 a word', async () => {
    const v1 = recordedTree('hybrid');
    v1.files.set('/sys/fs/cgroup/memory/pod/c/memory.limit_in_bytes', '9223372036854771712\n');
    v1.files.set(
      '/sys/fs/cgroup/memory/pod/c/memory.stat',
      'total_swap 5\nhierarchical_memory_limit 9223372036854771712\nhierarchical_memsw_limit 9223372036854771712\n',
    );
    const v2 = recordedTree('v2');
    v2.files.set('/sys/fs/cgroup/pod/c/memory.max', 'max\n');
    v2.files.set('/sys/fs/cgroup/pod/c/memory.swap.max', 'max\n');
    for (const tree of [v1, v2]) {
      const [reading] = await read(tree, 'container');
      assert.deepEqual([reading?.memoryLimit, reading?.swapLimit], [undefined, undefined]);
    }
  });

  it('has the limits and processes of a cgroup that the runtime made below the scope, too', async () => {
    const tree = recordedTree('v2');
    const set = fileSet(tree.layout, 'metrics', []);
    const readingOf = async (inner?: string): Promise<Reading | undefined> => {
      const place = { cgroup: '/pod/c', inner };
      return set.parse(new FilesRead(await tree.read(set.files(place))), place, 1n);
    };
    for (const [file, text] of [
      ['memory.swap.max', 'max\n'],
      ['container/memory.swap.max', '0\n'],
      ['container/memory.max', 'max\n'],
      ['container/pids.max', '7\n'],
      ['cgroup.procs', ''],
      ['container/cgroup.procs', '12\n13\n'],
    ] as const)
      tree.files.set(`/sys/fs/cgroup/pod/c/${file}`, text);
    const limits = (reading: Reading | undefined): unknown[] => [
      reading?.memoryLimit,
      reading?.swapLimit,
      reading?.tasksMax,
      reading?.pids,
    ];
    assert.deepEqual(limits(await readingOf()), [67_108_864n, undefined, undefined, []]);
    assert.deepEqual(limits(await readingOf('container')), [67_108_864n, 0n, 7n, [12, 13]]);
    assert.equal(set.count({ cgroup: '/x', inner: 'container' }), set.count({ cgroup: '/x' }) + 4);
  });

  it('keeps every digit of large counters', async () => {
    const tree = recordedTree('hybrid');
    tree.files.set('/sys/fs/cgroup/cpuacct/pod/c/cpuacct.usage', '18446744073709551615\n');
    assert.equal((await read(tree, 'container'))[0]?.cpuNanos, 18_446_744_073_709_551_615n);
  });

  it('is undefined where a file holds something else', async () => {
    for (const text of ['', '\n', '-1\n', '12x\n', '1 2\n', '123456789012345678901\n']) {
      const tree = recordedTree('hybrid');
      tree.files.set('/sys/fs/cgroup/cpuacct/pod/c/cpuacct.usage', text);
      tree.files.set('/sys/fs/cgroup/unified/pod/c/cpu.pressure', text);
      const [reading] = await read(tree, 'container');
      assert.deepEqual([reading?.cpuNanos, reading?.cpuPressure], [undefined, undefined], JSON.stringify(text));
      assert.equal(reading?.memoryBytes, 8_994_816n);
    }
  });

  it('takes nothing from the next file where a field is missing, and nothing from nowhere', async () => {
    const tree = recordedTree('hybrid');
    tree.files.set('/sys/fs/cgroup/cpu/pod/c/cpu.stat', 'xxxxxxxxxxxxxxxxxx12\n');
    tree.files.set('/sys/fs/cgroup/memory/pod/c/memory.oom_control', 'under_oom 0\n');
    tree.files.set('/sys/fs/cgroup/unified/pod/c/cpu.pressure', 'full avg10=');
    const [reading] = await read(tree, 'metrics');
    assert.deepEqual(
      [reading?.periods, reading?.throttledPeriods, reading?.oomKills, reading?.cpuPressure],
      [undefined, undefined, undefined, undefined],
    );
  });

  it('does not take a field for another that ends or begins like it', async () => {
    const tree = recordedTree('v2');
    tree.files.set('/sys/fs/cgroup/pod/c/memory.stat', 'inactive_anon 1\nfile_mapped 2\nactive_file 3\nfile 4\nanon 5');
    const [reading] = await read(tree, 'container');
    assert.deepEqual(
      [reading?.rss, reading?.cache, reading?.mappedFile, reading?.inactiveFile],
      [5n, 4n, 2n, undefined],
    );
  });

  it('adds up kernel memory where old kernels name only its parts', async () => {
    const tree = recordedTree('v2');
    tree.files.set(
      '/sys/fs/cgroup/pod/c/memory.stat',
      'anon 1\nkernel_stack 10\npagetables 200\nsock 3000\nslab 40000\n',
    );
    assert.equal((await read(tree, 'container'))[0]?.kernelMemory, 43_210n);
  });

  it('reads the devices of v1 from two files', async () => {
    const tree = recordedTree('hybrid');
    const blkio = '/sys/fs/cgroup/blkio/pod/c/blkio.throttle';
    tree.files.set(
      `${blkio}.io_service_bytes_recursive`,
      '8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Async 2\n8:0 Discard 3\n8:0 Total ' +
        '12288\n8:16 Read 1\nTotal 12289\n',
    );
    tree.files.set(`${blkio}.io_serviced_recursive`, '8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n');
    assert.deepEqual((await read(tree, 'metrics'))[0]?.devices, [
      { device: '8:0', readBytes: 4_096n, writeBytes: 8_192n, reads: 1n, writes: 2n },
      { device: '8:16', readBytes: 1n, writeBytes: 0n, reads: 0n, writes: 0n },
    ]);
  });
});

function big(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}n` : value;
}

describe('what is read together', () => {
  const tree = recordedTree('v2', ['/pod/d']);
  const set = fileSet(tree.layout, 'pod', []);
  tree.files.set('/ns/1/proc/thread-self/net/dev', 'a\nb\neth0: 1 2 3 4 5 6 7 8 9 10 11 12\n');

  it('is a cgroup with a network namespace, or either alone, or one of which nothing is left', async () => {
    const places = [
      { cgroup: '/pod/d', netns: '/ns/1' },
      { cgroup: undefined, netns: '/ns/1' },
      { cgroup: '/gone', netns: '/ns/gone' },
      { cgroup: undefined },
      { cgroup: '/pod/d' },
    ];
    const next = new FilesRead(await tree.read(places.flatMap((place) => set.files(place))));
    const readings = places.map((place) => set.parse(next, place, 1n));
    assert.deepEqual(
      readings.map((each) => each && [each.tasks, each.interfaces?.map(({ name, txBytes }) => [name, txBytes])]),
      [[2n, [['eth0', 9n]]], [undefined, [['eth0', 9n]]], undefined, undefined, [2n, undefined]],
    );
    assert.deepEqual(
      places.map((place) => set.count(place)),
      places.map((place) => set.files(place).flatMap(({ names }) => names.split('\n')).length),
    );
  });
});
