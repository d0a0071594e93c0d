import { assert } from 'chai';
import { appendFile, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf } from '../../pkg/base/errors.ts';
import type { ContainerEventResponse, Pull } from '../../pkg/cri-api/types.ts';
import { codecs } from '../codec.ts';
import { collectLabel, wholeNumber } from './context.ts';
import { eventLine } from './events.ts';
import { exitCodeOf } from './exec.ts';
import { toJson } from '../json.ts';
import { layerLines, progressLines } from './images.ts';
import { pullsIn } from './node.ts';
import { unpacked } from './inspect.ts';
import { stateCell } from './lists.ts';
import { logFileLines, parseDuration, parseLogLine } from './logs.ts';
import { ago, bytes, duration, plain, type Screen, screenOf, shortId, table } from './output.ts';
import { millicores } from './stats.ts';

/** Shows where colour would be. */
const screen: Screen = { isTerminal: true, paint: (style, text) => `<${style}>${text}</>`, write: () => {} };
const dull: Screen = { ...screen, paint: (_style, text) => text };

describe('what commands print', () => {
  it('has columns as wide as their widest cell, without spaces at the ends', () => {
    assert.equal(
      table(
        dull,
        ['ID', 'NAME', 'X'],
        [
          ['1', 'a', ''],
          ['22222', { text: 'long name', style: 'green' }, 'y'],
        ],
      ),
      'ID     NAME       X\n1      a\n22222  long name  y\n',
    );
    assert.include(table(screen, ['A', 'B'], [[{ text: 'x', style: 'green' }, 'y']]), '<green>x</>  y\n');
  });

  it('shows control characters instead of sending them to the terminal', () => {
    assert.equal(plain('a\x1b[2Jb\nc\x9bd\x7fé'), 'a\\x1b[2Jb\\x0ac\\x9bd\\x7fé');
    assert.equal(table(dull, ['A'], [['\x1b]0;evil\x07']]), 'A\n\\x1b]0;evil\\x07\n');
  });

  it('has colour only on terminals that want it', () => {
    const painted = (isTTY: boolean, env: NodeJS.ProcessEnv): string =>
      screenOf({ isTTY } as NodeJS.WriteStream, env).paint('red', 'x');
    assert.equal(painted(true, {}), '\x1b[31mx\x1b[0m');
    for (const [isTTY, env] of [
      [false, {}],
      [true, { NO_COLOR: '1' }],
      [true, { TERM: 'dumb' }],
    ] as const)
      assert.equal(painted(isTTY, env), 'x');
  });

  it('says sizes, ages and uses as people do', () => {
    assert.deepEqual([0n, 999n, 1_000n, 99_940n, 99_960n, 999_400n, 999_600n, 5_000_000_000n, undefined].map(bytes), [
      '0B',
      '999B',
      '1.0kB',
      '99.9kB',
      '100kB',
      '999kB',
      '1.0MB',
      '5.0GB',
      '-',
    ]);
    const second = 1_000_000_000n;
    assert.deepEqual(
      [0n, 1n, 59n, 60n, 7_199n, 7_200n, 86_400n, 864_000n].map((each) => duration(each * second)),
      ['0 seconds', '1 second', '59 seconds', '1 minute', '1 hour', '2 hours', '1 day', '10 days'],
    );
    assert.deepEqual(
      [ago(0n, 5n), ago(2n * second, 5n * second), ago(9n, 5n)],
      ['-', '3 seconds ago', '0 seconds ago'],
    );
    assert.deepEqual([undefined, 0n, 499_999n, 500_000n, 1_500_000_000n].map(millicores), [
      '-',
      '0m',
      '0m',
      '1m',
      '1500m',
    ]);
    assert.equal(shortId(`sha256:${'0123456789abcdef'.repeat(4)}`), '0123456789abc');
  });

  it('names states', () => {
    assert.deepEqual(
      (['CONTAINER_RUNNING', 'CONTAINER_EXITED', 'SANDBOX_READY', 'SANDBOX_NOTREADY'] as const).map(stateCell),
      [
        { text: 'Running', style: 'green' },
        { text: 'Exited', style: 'dim' },
        { text: 'Ready', style: 'green' },
        { text: 'Not ready', style: 'dim' },
      ],
    );
  });

  it('unpacks the JSON in a verbose status, and keeps what is none', () => {
    assert.deepEqual({ ...unpacked({ info: '{"pid":7}', odd: 'text' }) }, { info: { pid: 7 }, odd: 'text' });
  });

  it('draws a bar for each layer, not wider than the terminal', () => {
    const pull: Pull = {
      reference: 'docker.io/library/app:1',
      stage: 'downloading',
      startedAt: 0n,
      layers: [
        { digest: 'sha256:aaaaaaaaaaaaaaaa', stage: 'done', bytesDone: 3n, bytesTotal: 3n },
        { digest: 'sha256:bbbbbbbbbbbbbbbb', stage: 'downloading', bytesDone: 500n, bytesTotal: 1_000n },
        { digest: 'sha256:cccccccccccccccc', stage: 'waiting', bytesDone: 0n, bytesTotal: 0n },
      ],
    };
    assert.deepEqual(progressLines(dull, pull, 80), [
      'docker.io/library/app:1: downloading, 1 of 3 layers',
      `  aaaaaaaaaaaaa [${'='.repeat(30)}] done        3B`,
      `  bbbbbbbbbbbbb [${'='.repeat(15)}${' '.repeat(15)}] downloading 500B / 1.0kB`,
      `  ccccccccccccc [${' '.repeat(30)}] waiting     0B / 0B`,
    ]);
    assert.isTrue(progressLines(dull, pull, 20).every((line) => line.length <= 20));
  });

  it('reads the pulls of a status back from JSON, and draws their bars, too', () => {
    const pull: Pull = {
      reference: 'app:1',
      stage: 'downloading',
      startedAt: 2n ** 60n,
      layers: [{ digest: 'sha256:bbbbbbbbbbbbbbbb', stage: 'downloading', bytesDone: 500n, bytesTotal: 2n ** 54n }],
    };
    const [read] = pullsIn(unpacked({ pulls: toJson([pull]) }));
    assert.deepEqual(read, pull);
    assert.deepEqual(pullsIn(unpacked({})), []);
    assert.match(layerLines(dull, pull, 80)[0] ?? '', /^ {2}b{13} \[ {30}\] downloading 500B \/ /);
  });

  it('tells an event in one line', () => {
    const event: ContainerEventResponse = codecs.ContainerEventResponse.decode(
      codecs.ContainerEventResponse.encode({
        containerId: 'c'.repeat(64),
        containerEventType: 'CONTAINER_STOPPED_EVENT',
        createdAt: 1_700_000_000_123_000_000n,
        podSandboxStatus: { id: 'p'.repeat(64), metadata: { namespace: 'default', name: 'web' } },
        containersStatuses: [{ id: 'c'.repeat(64), metadata: { name: 'app' }, reason: 'OOMKilled', exitCode: 137 }],
      }),
    );
    assert.equal(
      eventLine(dull, event),
      '2023-11-14T22:13:20.123Z stopped container ccccccccccccc app of default/web (OOMKilled 137)\n',
    );
    assert.equal(
      eventLine(dull, { ...event, containerId: 'p'.repeat(64) }),
      '2023-11-14T22:13:20.123Z stopped pod ppppppppppppp default/web\n',
    );
  });
});

describe('what commands are told', () => {
  it('parses labels, numbers and durations, and refuses the rest', () => {
    assert.deepEqual(collectLabel('a=b=c', { x: 'y' }), { x: 'y', a: 'b=c' });
    assert.equal(wholeNumber('12'), 12);
    assert.equal(parseDuration('90s'), 90_000_000_000n);
    assert.equal(parseDuration('2d'), 172_800_000_000_000n);
    for (const bad of [
      () => collectLabel('a'),
      () => collectLabel('=b'),
      () => wholeNumber('-1'),
      () => wholeNumber('x'),
      () => parseDuration('5'),
      () => parseDuration('5w'),
    ])
      assert.throws(bad, /want/);
  });

  it('finds the exit code in the end of a session', () => {
    assert.equal(exitCodeOf('{"metadata":{},"status":"Success"}'), 0);
    assert.equal(
      exitCodeOf(
        '{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}',
      ),
      42,
    );
    assert.throws(() => exitCodeOf('{"status":"Failure","message":"no such file: /nope"}'), '/nope');
    try {
      exitCodeOf('');
      assert.fail('a connection that broke is no success');
    } catch (error) {
      assert.equal(codeOf(error), 'Unavailable');
    }
  });
});

describe('logs', () => {
  let directory: string;
  let path: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'berth-logs-'));
    path = join(directory, '0.log');
  });
  afterEach(() => rm(directory, { recursive: true }));

  const { signal } = new AbortController();
  async function all(lines: AsyncIterable<Buffer>): Promise<string[]> {
    const found: string[] = [];
    for await (const line of lines) found.push(line.toString());
    return found;
  }

  it('are lines of CRI, whole or in pieces', () => {
    const parse = (text: string): [string, string] => {
      const { stream, content } = parseLogLine(Buffer.from(text));
      return [stream, content.toString()];
    };
    assert.deepEqual(parse('2026-11-22T07:15:00.1Z stdout F a line'), ['stdout', 'a line\n']);
    assert.deepEqual(parse('2026-11-22T07:15:00.1Z stderr P a piece'), ['stderr', 'a piece']);
    assert.deepEqual(parse('2026-11-22T07:15:00.1Z stdout F:x '), ['stdout', '\n']);
    assert.deepEqual(parse('something else'), ['stdout', 'something else\n']);
  });

  it('are read to their end, the last ones if only those are wanted', async () => {
    // More than two blocks of reading.
    const lines = Array.from({ length: 2_000 }, (_, index) => `line ${index} ${'x'.repeat(100)}`);
    await writeFile(path, `${lines.join('\n')}\n`);
    assert.deepEqual(await all(logFileLines(path, { tail: undefined, goesOn: undefined, signal })), lines);
    for (const tail of [1, 3, 1_500])
      assert.deepEqual(await all(logFileLines(path, { tail, goesOn: undefined, signal })), lines.slice(-tail));
    assert.deepEqual(await all(logFileLines(path, { tail: 0, goesOn: undefined, signal })), []);
    assert.lengthOf(await all(logFileLines(path, { tail: 3_000, goesOn: undefined, signal })), 2_000);
  });

  it('count a line in pieces as one', async () => {
    const entry = (tag: string, text: string): string => `2026-11-22T07:15:00.1Z stdout ${tag} ${text}\n`;
    const entries = [
      entry('F', 'one'),
      entry('P', 'tw'),
      entry('P', 'o'),
      entry('F', ''),
      entry('F', 'three'),
      entry('P', 'fo'),
      entry('F', 'ur'),
    ];
    await writeFile(path, entries.join(''));
    const last = async (tail: number): Promise<number> =>
      (await all(logFileLines(path, { tail, goesOn: undefined, signal }))).length;
    assert.deepEqual([await last(1), await last(2), await last(3), await last(4), await last(5)], [2, 3, 6, 7, 7]);
  });

  it('are followed through a rotation, losing nothing, until the container ends', async () => {
    await writeFile(path, 'one\n');
    let looks = 0;
    const goesOn = async (): Promise<boolean> => {
      looks++;
      if (looks === 1) {
        await appendFile(path, 'two\n');
        await rename(path, `${path}.old`);
        await writeFile(path, 'three\n');
        return true;
      }
      await appendFile(path, 'four\n');
      return false;
    };
    assert.deepEqual(await all(logFileLines(path, { tail: undefined, goesOn, signal })), [
      'one',
      'two',
      'three',
      'four',
    ]);
  });

  it('that are not there say where they are', async () => {
    const failure = await all(logFileLines(path, { tail: undefined, goesOn: undefined, signal })).catch(codeOf);
    assert.equal(failure, 'NotFound');
  });
});
