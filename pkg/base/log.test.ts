import { PassThrough, Writable } from 'node:stream';
import { assert } from 'chai';
import { isCode } from './errors.ts';
import { limits } from './limits.ts';
import {
  journaldReads,
  type Log,
  type LogEntry,
  type LogLook,
  type LogOptions,
  openLog,
  parseLogLevel,
  renderEntry,
} from './log.ts';

const logfmt: LogLook = { format: 'logfmt', prefix: 'none' };
const json: LogLook = { format: 'json', prefix: 'none' };
const options: LogOptions = { ...logfmt, level: 'info', filter: '' };
const entry = (message: string, fields: LogEntry['fields'] = {}): LogEntry => ({
  level: 'info',
  time: 0,
  message,
  fields,
});

function collect(given: Partial<LogOptions> = {}): { log: Log; lines: string[] } {
  const lines: string[] = [];
  return { log: openLog({ ...options, ...given }, (line) => lines.push(line.trimEnd())), lines };
}

/** A stream of which the test says how many bytes wait. */
function slow(): PassThrough & { behind: number } {
  const stream = Object.assign(new PassThrough(), { behind: 0 });
  Object.defineProperty(stream, 'writableLength', { get: () => stream.behind });
  return stream;
}

describe('renderEntry', () => {
  it('writes logfmt and JSON', () => {
    const given = entry('pod up', { sandbox: 'ab12', ms: 182, ok: true, why: 'two words', none: undefined });
    assert.strictEqual(
      renderEntry(given, logfmt),
      'time=1970-01-01T00:00:00.000Z level=info msg="pod up" sandbox=ab12 ms=182 ok=true why="two words"',
    );
    assert.deepEqual(JSON.parse(renderEntry(given, json)), {
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
    assert.match(renderEntry({ ...entry('x'), level: 'error' }, { ...logfmt, prefix: 'priority' }), /^<3>time=/);
    assert.match(renderEntry({ ...entry('x'), level: 'debug' }, { ...json, prefix: 'priority' }), /^<7>\{"time"/);
    assert.isTrue(journaldReads({ JOURNAL_STREAM: '8:1234' }));
    assert.isFalse(journaldReads({}));
  });

  it('keeps 64-bit values exact', () => {
    const line = renderEntry(entry('x', { bytes: 9_223_372_036_854_775_807n }), json);
    assert.include(line, '"bytes":9223372036854775807');
    assert.include(
      renderEntry(entry('x', { bytes: -9_223_372_036_854_775_808n }), logfmt),
      'bytes=-9223372036854775808',
    );
    assert.include(renderEntry(entry('x', { ratio: Number.NaN }), json), '"ratio":"NaN"');
  });

  it('lets no value end its line, steer a terminal or pass for another field', () => {
    const evil = 'a\nlevel=error msg="forged"\r\u001b[2J\u009b\u2028b';
    for (const look of [logfmt, json]) {
      const line = renderEntry(entry(evil, { 'k\ney=x': evil, level: 'error', msg: evil }), look);
      assert.match(line, /^[\x20-\x7e]*$/);
      if (look === json)
        assert.deepInclude(JSON.parse(line), { level: 'info', msg: evil, k_ey_x: evil, _level: 'error', _msg: evil });
    }
    assert.include(renderEntry(entry('x', { why: 'a=b' }), logfmt), 'why="a=b"');
    assert.include(renderEntry(entry('x', { why: '' }), logfmt), 'why=""');
  });

  it('cuts what is too long', () => {
    const line = renderEntry(entry('x', { text: 'y'.repeat(1_000_000) }), logfmt);
    assert.isBelow(line.length, limits.logValueChars + 200);
    assert.include(line, `(${1_000_000 - limits.logValueChars} more)`);
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

  it('filters messages, also when the filter changes and in children', () => {
    const { log, lines } = collect({ filter: '^pod (up|down)' });
    const child = log.child({ sandbox: 's' });
    child.info('pod up');
    child.info('image pulled');
    assert.throws(() => log.setFilter('('), /log_filter/);
    child.info('image pulled');
    log.setFilter('');
    child.info('all');
    assert.deepEqual(
      lines.map((line) => /msg=("[^"]*"|\S+)/.exec(line)?.[1]),
      ['"pod up"', 'all'],
    );
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

  it('goes on when stderr is gone', async () => {
    const log = openLog(options, () => {
      throw new Error('EPIPE');
    });
    log.info('x');
    const gone = new Writable({ write: (_chunk, _encoding, done) => done(new Error('EPIPE')) });
    await log.openSink(gone);
    log.info('y');
    await new Promise((resolve) => setImmediate(resolve));
    assert.isTrue(gone.destroyed);
    log.info('z');
  });

  it('writes through winston after openSink, with the level, the filter and the fields that it has', async () => {
    const stream = new PassThrough();
    const { log, lines } = collect();
    const child = log.child({ n: 1n });
    child.info('direct');
    await log.openSink(stream);
    child.debug('not yet');
    child.warn('through winston');
    log.setLevel('debug');
    child.debug('now');
    log.setFilter('^other');
    child.error('not this');
    const text = (chunk: unknown): string => String(chunk).replaceAll(/^time=\S+ /gm, '');
    assert.strictEqual(text(stream.read()), 'level=warn msg="through winston" n=1\nlevel=debug msg=now n=1\n');
    assert.lengthOf(lines, 1);
  });

  it('drops lines while the reader is too far behind, and says how many', async () => {
    const { log } = collect();
    const stream = slow();
    await log.openSink(stream);
    stream.behind = limits.logBacklogBytes + 1;
    log.info('a');
    log.info('b');
    stream.behind = 0;
    log.info('c');
    log.info('d');
    const written = String(stream.read()).replaceAll(/^time=\S+ /gm, '');
    assert.deepEqual(written.split('\n'), [
      'level=warn msg="log lines dropped, the reader of stderr is too slow" lines=2',
      'level=info msg=c',
      'level=info msg=d',
      '',
    ]);
  });
});
