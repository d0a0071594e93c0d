import { assert } from 'chai';
import { classOf, parse, toSpec } from './block-io.ts';

const DISKS = new Map([
  [
    '/dev/sd*',
    [
      { major: 8, minor: 0 },
      { major: 8, minor: 16 },
    ],
  ],
  ['/dev/sdb', [{ major: 8, minor: 16 }]],
]);
const specOf = (entries: unknown): unknown => {
  const { classes, complaints } = parse({ Classes: { slow: entries } });
  assert.deepEqual(complaints, []);
  return toSpec(classes.get('slow') ?? [], (pattern) => DISKS.get(pattern) ?? []);
};

describe('classes of block I/O', () => {
  it('are weights and rates of devices; a later entry wins for its devices', () => {
    assert.deepEqual(
      specOf([
        { Weight: '80' },
        { Devices: ['/dev/sd*', '/dev/none'], ThrottleReadBps: '60M', ThrottleWriteIOPS: '5k', Weight: 50 },
        { Devices: ['/dev/sdb'], ThrottleReadBps: '1Gi' },
      ]),
      {
        weight: 80,
        weightDevice: [
          { major: 8, minor: 0, weight: 50 },
          { major: 8, minor: 16, weight: 50 },
        ],
        throttleReadBpsDevice: [
          { major: 8, minor: 0, rate: 60_000_000n },
          { major: 8, minor: 16, rate: 1_073_741_824n },
        ],
        throttleWriteIOPSDevice: [
          { major: 8, minor: 0, rate: 5_000n },
          { major: 8, minor: 16, rate: 5_000n },
        ],
      },
    );
  });

  it('have fields however their letters are written, and none that are ""', () => {
    assert.deepEqual(specOf([{ devices: ['/dev/sdb'], throttleWriteBPS: '0', weight: '' }]), {
      throttleWriteBpsDevice: [{ major: 8, minor: 16, rate: 0n }],
    });
  });

  it('are named with what is wrong in them, and the rest holds', () => {
    const { classes, complaints } = parse({
      classes: {
        odd: [{ Weight: '5' }, { ThrottleReadBps: '1M' }, { Devices: ['/dev/sdb'], ThrottleReadIOPS: 'fast' }],
        none: null,
      },
    });
    assert.deepEqual(complaints, [
      'class "odd": weight 5 is not between 10 and 1000',
      'class "odd": throttlereadbps without Devices has no effect',
      'class "odd": throttlereadiops "fast" is not a number such as 100, 10k or 40Mi',
    ]);
    assert.deepEqual(
      toSpec(classes.get('odd') ?? [], (pattern) => DISKS.get(pattern) ?? []),
      {},
    );
    assert.deepEqual(classes.get('none'), []);
    for (const document of [undefined, null, '', [], 7]) assert.equal(parse(document).classes.size, 0);
    assert.deepEqual(parse({ Class: {} }).complaints, ['there is no Classes in it']);
  });

  it('are a container’s by its own annotation, else by its pod’s for it, else by its pod’s', () => {
    const pod = {
      'blockio.resources.beta.kubernetes.io/pod': 'all',
      'blockio.resources.beta.kubernetes.io/container.app': 'named',
    };
    const own = { 'io.kubernetes.cri.blockio-class': 'own' };
    assert.equal(classOf('blockio', 'app', own, pod), 'own');
    assert.equal(classOf('blockio', 'app', {}, pod), 'named');
    assert.equal(classOf('blockio', 'other', {}, pod), 'all');
    assert.equal(classOf('rdt', 'app', own, pod), '');
  });
});
