import { PassThrough } from 'node:stream';
import { assert } from 'chai';
import { isCode } from './errors.ts';
import { limits } from './limits.ts';
import {
  directSink,
  journaldReads,
  Log,
  type LogEntry,
  type LogOptions,
  parseLogLevel,
  redact,
  renderEntry,
  winstonSink,
} from './log.ts';

const options: LogOptions = { level: 'info', format: 'logfmt', filter: '', journald: false };
const entry = (message: string, fields: LogEntry['fields'] = {}): LogEntry => ({
  level: 'info',
  time: 0,
  message,
  fields,
});

function collect(given: Partial<LogOptions> = {}): { log: Log; lines: string[] } {
  const lines: string[] = [];
  return { log: new Log({ ...options, ...given }, { write: (_entry, line) => lines.push(line) }), lines };
}

describe('renderEntry', () => {
  it('writes logfmt and JSON', () => {
    const given = entry('pod up', { sandbox: 'ab12', ms: 182, ok: true, why: 'two words', none: undefined });
    assert.strictEqual(
      renderEntry(given, 'logfmt', false),
      'time=1970-01-01T00:00:00.000Z level=info msg="pod up" sandbox=ab12 ms=182 ok=true why="two words"',
    );
    assert.deepEqual(JSON.parse(renderEntry(given, 'json', false)), {
      time: '1970-01-01T00:00:00.000Z',
      level: 'info',
      msg: 'pod up',
      sandbox: 'ab12',
      ms: 182,
      ok: true,
      why: 'two words',
    });
  });

  it('says the priority to journald', () => {
    assert.match(renderEntry({ ...entry('x'), level: 'error' }, 'logfmt', true), /^<3>time=/);
    assert.match(renderEntry({ ...entry('x'), level: 'debug' }, 'json', true), /^<7>\{"time"/);
    assert.isTrue(journaldReads({ JOURNAL_STREAM: '8:1234' }));
    assert.isFalse(journaldReads({}));
  });

  it('keeps 64-bit values exact', () => {
    const line = renderEntry(entry('x', { bytes: 9_223_372_036_854_775_807n }), 'json', false);
    assert.include(line, '"bytes":9223372036854775807');
    assert.include(
      renderEntry(entry('x', { bytes: -9_223_372_036_854_775_808n }), 'logfmt', false),
      'bytes=-9223372036854775808',
    );
    assert.include(renderEntry(entry('x', { ratio: Number.NaN }), 'json', false), '"ratio":"NaN"');
  });

  it('lets no value end its line, steer a terminal or pass for another field', () => {
    const evil = 'a\nlevel=error msg="forged"\r\u001b[2J\u009b\u2028b';
    for (const format of ['logfmt', 'json'] as const) {
      const line = renderEntry(entry(evil, { 'k\ney=x': evil, level: 'error', msg: evil }), format, false);
      assert.match(line, /^[\x20-\x7e]*$/);
      if (format === 'json')
        assert.deepInclude(JSON.parse(line), { level: 'info', msg: evil, k_ey_x: evil, _level: 'error', _msg: evil });
    }
    assert.include(renderEntry(entry('x', { why: 'a=b' }), 'logfmt', false), 'why="a=b"');
    assert.include(renderEntry(entry('x', { why: '' }), 'logfmt', false), 'why=""');
  });

  it('cuts what is too long', () => {
    const line = renderEntry(entry('x', { text: 'y'.repeat(1_000_000) }), 'logfmt', false);
    assert.isBelow(line.length, limits.logValueChars + 200);
    assert.include(line, `(${1_000_000 - limits.logValueChars} more)`);
  });
});

describe('redact', () => {
  const cases: readonly (readonly [string, string])[] = [
    ['GET https://user:hunter2@registry.example/v2/', 'GET https://[redacted]@registry.example/v2/'],
    [
      'GET https://registry.example/v2/blob?sig=abc&x=y failed',
      'GET https://registry.example/v2/blob?[redacted] failed',
    ],
    ['Authorization: Bearer eyJhbGciOi.abc', 'Authorization: Bearer [redacted]'],
    ['header "Basic dXNlcjpwYXNz"', 'header "Basic [redacted]"'],
    ['{"password":"hunter2","x":1}', '{"password":"[redacted]","x":1}'],
    ['MYSQL_ROOT_PASSWORD=hunter2 rest', 'MYSQL_ROOT_PASSWORD=[redacted] rest'],
    ['identitytoken: abc', 'identitytoken: [redacted]'],
    ['pull docker.io/library/busybox:latest', 'pull docker.io/library/busybox:latest'],
    ['unix:///run/berth/berth.sock', 'unix:///run/berth/berth.sock'],
  ];
  for (const [given, wanted] of cases) it(given, () => assert.strictEqual(redact(given), wanted));

  it('takes secrets out by the name of their field', () => {
    const line = renderEntry(
      entry('x', { password: 'p4ss', registryToken: 't0k', env: 'A=b', annotations: 'c' }),
      'logfmt',
      false,
    );
    for (const secret of ['p4ss', 't0k', 'A=b']) assert.notInclude(line, secret);
    assert.strictEqual(line.split('[redacted]').length - 1, 4);
  });

  it('is quick on text made to be slow', () => {
    const started = performance.now();
    for (const hard of [
      'password'.repeat(1200),
      'a://'.repeat(2500),
      `a://${'b'.repeat(9000)}`,
      'bearer '.repeat(1400),
      'a-'.repeat(5000) + 'token',
    ])
      redact(hard);
    // Backtracking would take years: any bound tells.
    assert.isBelow(performance.now() - started, 5_000);
  });
});

describe('Log', () => {
  it('honours the level, also when it changes and in children', () => {
    const { log, lines } = collect();
    const child = log.child({ sandbox: 's' });
    child.debug('one');
    log.setLevel('debug');
    child.debug('two', { ms: 1 });
    log.setLevel('error');
    child.warn('three');
    log.error('four');
    assert.deepEqual(
      lines.map((line) => line.replace(/^time=\S+ /, '')),
      ['level=debug msg=two sandbox=s ms=1', 'level=error msg=four'],
    );
  });

  it('binds fields over generations; the nearest wins', () => {
    const { log, lines } = collect();
    log.child({ rpc: 'Stop', id: 'a' }).child({ id: 'b' }).info('x', { ms: 2 });
    assert.include(lines[0], 'msg=x rpc=Stop id=b ms=2');
  });

  it('filters messages by an expression that cannot run away', () => {
    const { log, lines } = collect({ filter: '^pod (up|down)' });
    log.info('pod up');
    log.info('image pulled');
    log.setFilter('(a+)+$');
    const started = performance.now();
    log.info(`${'a'.repeat(5000)}b`);
    assert.isBelow(performance.now() - started, 5_000);
    log.setFilter('');
    log.info('all');
    assert.deepEqual(
      lines.map((line) => /msg=("[^"]*"|\S+)/.exec(line)?.[1]),
      ['"pod up"', 'all'],
    );
    for (const bad of ['(', '(a)\\1', '(?=a)']) assert.throws(() => log.setFilter(bad), /log_filter/);
  });

  it('reads the names of levels that crio.conf uses', () => {
    assert.deepEqual(['fatal', 'panic', 'error', 'warn', 'warning', 'info', 'debug', 'trace'].map(parseLogLevel), [
      'error',
      'error',
      'error',
      'warn',
      'warn',
      'info',
      'debug',
      'debug',
    ]);
    try {
      parseLogLevel('loud');
      assert.fail('took a word that is no level');
    } catch (error) {
      assert.isTrue(isCode(error, 'InvalidArgument'));
    }
  });

  it('goes on when stderr is gone', () => {
    const log = new Log(
      options,
      directSink(() => {
        throw new Error('EPIPE');
      }),
    );
    log.info('x');
  });

  it('writes through winston after openSink', async () => {
    const stream = new PassThrough();
    const { log, lines } = collect();
    log.info('direct');
    await log.openSink(stream);
    log.child({ n: 1n }).warn('through winston');
    assert.match(String(stream.read()), /^time=\S+ level=warn msg="through winston" n=1\n$/);
    assert.lengthOf(lines, 1);
  });

  it('drops lines while the reader is too far behind, and says how many', async () => {
    const written: string[] = [];
    const stream = Object.assign(new PassThrough(), { behind: 0 });
    Object.defineProperty(stream, 'writableLength', { get: () => stream.behind });
    stream.on('data', (chunk) => written.push(String(chunk)));
    const sink = await winstonSink(stream);
    stream.behind = limits.logBacklogBytes + 1;
    sink.write(entry('a'), 'line a');
    sink.write(entry('b'), 'line b');
    stream.behind = 0;
    sink.write(entry('c'), 'line c');
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(written.join('').split('\n'), [
      'level=warn msg="log lines dropped, the reader of stderr is too slow" lines=2',
      'line c',
      '',
    ]);
  });
});
