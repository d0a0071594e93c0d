import { assert } from 'chai';
import { decode, encode, type Message } from './dbus-wire.ts';

const CALL: Message = {
  kind: 'call',
  serial: 7,
  path: '/org/freedesktop/systemd1',
  interface: 'org.freedesktop.systemd1.Manager',
  member: 'StartTransientUnit',
  signature: 'ssa(sv)a(sa(sv))',
  body: [
    'x.scope',
    'fail',
    [
      ['PIDs', { type: 'au', value: [4242] }],
      ['Slice', { type: 's', value: 'system.slice' }],
      ['TasksMax', { type: 't', value: 0xffff_ffff_ffff_ffffn }],
      ['After', { type: 'as', value: ['a.service', 'b.target'] }],
      ['DefaultDependencies', { type: 'b', value: true }],
      ['KillSignal', { type: 'i', value: 13 }],
    ],
    [],
  ],
};

describe('a message of D-Bus', () => {
  it('is what the specification says, byte by byte', () => {
    const bytes = encode({ kind: 'call', serial: 1, path: '/a', member: 'Do', signature: 'su', body: ['hi', 5] });
    assert.equal(
      bytes.toString('hex'),
      [
        // little-endian, call; 12 bytes of body, serial, 40 of fields
        '6c010001' + '0c000000' + '01000000' + '28000000',
        '01016f00' + '020000002f6100' + '0000000000', // path
        '03017300' + '02000000446f00' + '0000000000', // member
        '08016700' + '02737500', // signature
        '02000000686900' + '00' + '05000000', // "hi", 5
      ].join(''),
    );
  });

  it('comes back as it went', () => {
    const bytes = encode(CALL);
    const found = decode(bytes);
    assert.deepEqual(found?.message.body, CALL.body);
    assert.equal(found?.message.member, CALL.member);
    assert.equal(found?.length, bytes.length);
  });

  it('may be of any length', () => {
    for (let length = 0; length < 600; length += 7) {
      const value = ['x'.repeat(length), length, [BigInt(length), true]];
      const message = { ...CALL, signature: 'su(tb)', body: value };
      assert.deepEqual(decode(encode(message))?.message.body, value);
    }
  });

  it('is taken when it is whole, and no earlier', () => {
    const bytes = encode(CALL);
    for (const length of [0, 15, 16, 100, bytes.length - 1]) assert.isUndefined(decode(bytes.subarray(0, length)));
    const two = decode(Buffer.concat([bytes, encode({ ...CALL, serial: 8 })]));
    assert.equal(decode(Buffer.concat([bytes, bytes]).subarray(two?.length))?.message.serial, 7);
  });

  it('of which nothing can be made is refused, not misread', () => {
    const bytes = encode(CALL);
    const big = Buffer.from(bytes);
    big[0] = 'B'.charCodeAt(0);
    assert.throws(() => decode(big), TypeError);
    const huge = Buffer.from(bytes);
    huge.writeUInt32LE(0xffff_ffff, 4);
    assert.throws(() => decode(huge), TypeError);
    assert.throws(() => encode({ ...CALL, signature: 's', body: [] }), TypeError);
    assert.throws(() => encode({ ...CALL, signature: 'a', body: [[]] }), TypeError);
    assert.throws(() => encode({ ...CALL, signature: 'h', body: [0] }), TypeError);
    const cut = Buffer.from(encode({ kind: 'reply', serial: 1, replyTo: 1, signature: 's', body: ['abc'] }));
    cut.writeUInt32LE(200, cut.length - 8);
    assert.throws(() => decode(cut), TypeError);
  });
});
