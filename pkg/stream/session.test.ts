import { assert } from 'chai';
import { mock } from 'node:test';
import { Inbox } from './inbox.ts';
import { Meter, TerminalSizes } from './session.ts';

const bytes = (count: number): Uint8Array => new Uint8Array(count);
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('the idle time of a session', () => {
  let now: number;
  let idle: number;
  beforeEach(() => {
    [now, idle] = [0, 0];
    mock.timers.enable({ apis: ['setTimeout'] });
  });
  afterEach(() => mock.timers.reset());

  const meter = (ms: number): Meter =>
    new Meter(
      ms,
      () => idle++,
      () => now,
    );
  const pass = (ms: number): void => {
    now += ms;
    mock.timers.tick(ms);
  };

  it('counts from the last data in either direction', async () => {
    const own = meter(1_000);
    const inbox = new Inbox();
    const input = own.in(inbox);
    const output = own.out(() => Promise.resolve());
    pass(900);
    await inbox.push(bytes(3));
    await input.next();
    pass(900);
    await output(bytes(5));
    pass(900);
    assert.strictEqual(idle, 0);
    pass(100);
    assert.strictEqual(idle, 1);
    pass(10_000);
    assert.strictEqual(idle, 1, 'it is said once');
    assert.deepEqual([own.inBytes, own.outBytes], [3, 5]);
  });

  it('goes on while a client takes nothing: what waits is no data', async () => {
    const own = meter(1_000);
    const taken = Promise.withResolvers<void>();
    const written = own.out(() => taken.promise)(bytes(5));
    pass(1_000);
    assert.deepEqual([idle, own.outBytes], [1, 0]);
    taken.resolve();
    await written;
  });

  it('may be longer than a timer can be, or none', () => {
    meter(30 * 24 * 3_600_000);
    meter(0);
    pass(29 * 24 * 3_600_000);
    assert.strictEqual(idle, 0);
    pass(25 * 24 * 3_600_000);
    assert.strictEqual(idle, 1);
  });

  it('ends with the session', () => {
    meter(1_000).stop();
    pass(5_000);
    assert.strictEqual(idle, 0);
  });
});

describe('sizes of a terminal', () => {
  it('are read however they are cut; what is none is passed over', async () => {
    const [sizes, inbox, applied] = [new TerminalSizes(), new Inbox(), [] as string[]];
    const reading = sizes.read(inbox);
    sizes.connect(({ width, height }) => void applied.push(`${width}x${height}`));
    for (const text of [
      '{"Width":80,"He',
      'ight":25}',
      '{"Width":0,"Height":25}{"Width":"90","Height":1}{"Width":70000,"Height":1}',
      '{"Width":1.5,"Height":2}nonsense}[]}{}',
      '{"Width":81,"Height":26}',
    ]) {
      await inbox.push(Buffer.from(text));
      await turn();
      await turn();
    }
    inbox.end();
    await reading;
    await turn();
    assert.deepEqual(applied, ['80x25', '81x26']);
  });

  it('wait for the terminal, and of a flood only the newest counts', async () => {
    const [sizes, inbox, applied] = [new TerminalSizes(), new Inbox(), [] as string[]];
    const reading = sizes.read(inbox);
    for (let width = 1; width <= 1_000; width++) await inbox.push(Buffer.from(`{"Width":${width},"Height":9}`));
    inbox.end();
    await reading;
    sizes.connect(({ width, height }) => void applied.push(`${width}x${height}`));
    await turn();
    await turn();
    assert.deepEqual(applied, ['1000x9']);
  });

  it('cost next to nothing where a client sends rubbish in their place, and the newest among it counts', async () => {
    const parse = mock.method(JSON, 'parse');
    try {
      for (const rubbish of ['}', '{}', '{]}', '{"Width":0,"Height":0}']) {
        const [sizes, inbox, applied] = [new TerminalSizes(), new Inbox(), [] as string[]];
        sizes.connect(({ width, height }) => void applied.push(`${width}x${height}`));
        const before = parse.mock.callCount();
        for (const text of ['{"Width":7,"Height":9}', rubbish.repeat(10_000), '{"Width":8,"Height":9}}{}{"Wid'])
          void inbox.push(Buffer.from(text));
        inbox.end();
        await sizes.read(inbox);
        await turn();
        await turn();
        assert.isBelow(parse.mock.callCount() - before, 100, rubbish);
        assert.strictEqual(applied.at(-1), '8x9', rubbish);
      }
    } finally {
      parse.mock.restore();
    }
  });
});
