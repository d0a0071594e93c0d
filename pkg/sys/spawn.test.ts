import { assert } from 'chai';
import { BoundedBytes } from './capture.ts';
import { environmentOf, exitCodeOf, findExecutable, inheritedEnv } from './spawn.ts';

const kept = (max: number, keep: 'head' | 'tail', parts: readonly string[]): [string, boolean] => {
  const bytes = new BoundedBytes(max, keep);
  for (const part of parts) bytes.push(Buffer.from(part));
  const cut = bytes.cut();
  return [bytes.bytes().toString(), cut];
};

describe('BoundedBytes', () => {
  it('keeps the head or the tail, however the bytes come', () => {
    assert.deepEqual(kept(4, 'head', ['ab', 'cd', 'ef']), ['abcd', true]);
    assert.deepEqual(kept(4, 'tail', ['ab', 'cd', 'ef']), ['cdef', true]);
    assert.deepEqual(kept(4, 'head', ['abcdefgh']), ['abcd', true]);
    assert.deepEqual(kept(4, 'tail', ['abcdefgh']), ['efgh', true]);
    assert.deepEqual(kept(4, 'head', ['ab', 'cd']), ['abcd', false]);
    assert.deepEqual(kept(4, 'tail', ['ab', 'cd']), ['abcd', false]);
    assert.deepEqual(kept(4, 'tail', Array.from('0123456789')), ['6789', true]);
  });

  it('counts a stream of which nothing is kept as cut', () => {
    assert.deepEqual(
      [kept(0, 'head', ['x']), kept(0, 'tail', ['x']), kept(0, 'head', [])],
      [
        ['', true],
        ['', true],
        ['', false],
      ],
    );
  });
});

describe('spawn words', () => {
  it('reports endings as a shell does', () => {
    assert.deepEqual([exitCodeOf({ kind: 'exited', code: 3 }), exitCodeOf({ kind: 'signalled', signal: 9 })], [3, 137]);
  });

  it('keeps what is meant for this daemon from its children', () => {
    const kept = environmentOf({
      NOTIFY_SOCKET: '/x',
      LISTEN_FDS: '1',
      NODE_OPTIONS: '--x',
      WATCHDOG_USEC: '1',
      npm_config_x: '1',
      KEPT: 'x',
      ABSENT: undefined,
    });
    assert.deepEqual([...kept], [['KEPT', 'x']]);
  });

  it('adds to what children inherit, and wins', () => {
    const env = inheritedEnv({ PATH: '/new', CNI_COMMAND: 'ADD' });
    assert.deepEqual(env.filter((each) => /^(PATH|CNI_COMMAND)=/.test(each)).sort(), ['CNI_COMMAND=ADD', 'PATH=/new']);
    const [, home] = /^HOME=(.*)$/m.exec(env.join('\n')) ?? [];
    assert.equal(home, process.env['HOME']);
  });

  it('looks only in absolute directories', () => {
    assert.equal(findExecutable('sh', 'bin:.:/no/such:/bin'), '/bin/sh');
    assert.isUndefined(findExecutable('sh', '.:bin'));
    assert.isUndefined(findExecutable('no-such-program', '/bin'));
  });
});
