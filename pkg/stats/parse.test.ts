import { assert } from 'chai';
import { parseNetDev, softFileLimit } from './parse.ts';
import type { InterfaceCounters } from './reading.ts';

describe('parseNetDev', () => {
  /** Others stand before and after it. */
  const interfaces = (text: string): InterfaceCounters[] =>
    parseNetDev({ text: `before\n${text}eth9: 1 2 3 4 5 6 7 8 9 10 11 12\n`, from: 7, to: 7 + text.length });
  const head =
    'Inter-|   Receive                                                |  Transmit\n face |bytes  ' +
    '  packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls ' +
    'carrier compressed\n';

  it('reads interfaces without the loopback, also where a counter touches the name', () => {
    const text =
      `${head}    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0:18446744073709551615 34 5 6 0 0 0 0 ` +
      `1336017 9701 7 8 0 0 0 0\nnet1:1: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n`;
    assert.deepEqual(interfaces(text), [
      {
        name: 'eth0',
        rxBytes: 18_446_744_073_709_551_615n,
        rxPackets: 34n,
        rxErrors: 5n,
        rxDropped: 6n,
        txBytes: 1_336_017n,
        txPackets: 9_701n,
        txErrors: 7n,
        txDropped: 8n,
      },
      {
        name: 'net1:1',
        rxBytes: 1n,
        rxPackets: 2n,
        rxErrors: 3n,
        rxDropped: 4n,
        txBytes: 5n,
        txPackets: 6n,
        txErrors: 7n,
        txDropped: 8n,
      },
    ]);
  });

  it('passes over what is no interface', () => {
    for (const text of ['', head, `${head}garbage\n`, `${head}eth0: 1 2 3\n`, `${head}eth0: a b c d e f g h i j k l\n`])
      assert.deepEqual(interfaces(text), []);
  });
});

describe('softFileLimit', () => {
  it('reads the soft limit', () => {
    const limits = (soft: string): string =>
      `Limit                     Soft Limit           Hard Limit           Units     \nMax ` +
      `processes             1                    2                    processes \nMax open files  ` +
      `          ${soft}                 524288               files     \n`;
    assert.equal(softFileLimit(limits('1024')), 1024n);
    assert.equal(softFileLimit(limits('unlimited')), -1n);
    assert.isUndefined(softFileLimit(''));
  });
});
