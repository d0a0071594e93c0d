import { assert } from 'chai';
import { isCode } from '../base/errors.ts';
import type { ErrorCode } from '../base/errors.ts';
import { newSandboxId } from '../base/ids.ts';
import { parseNetworkConf } from './conf.ts';
import {
  addText,
  checkFree,
  loopbackTarget,
  mapperOf,
  nameOf,
  normalised,
  removeText,
  subnetsOf,
  tableText,
  udpFlows,
  unreachable,
} from './ports.ts';
import type { PodPorts } from './ports.ts';
import type { PortMapping } from '../ports/network.ts';

function mapping(hostPort: number, more: Partial<PortMapping> = {}): PortMapping {
  return { protocol: 'tcp', hostPort, containerPort: 80, hostIp: '', ...more };
}

function pod(
  mappings: readonly PortMapping[],
  addresses: readonly string[] = ['10.1.0.2/16'],
  name = 'ns/web',
): PodPorts {
  return { id: newSandboxId(), pod: name, mappings: normalised(mappings), addresses };
}

function refusal(work: () => unknown, code: ErrorCode): string {
  try {
    work();
  } catch (error) {
    assert.isTrue(isCode(error, code), String(error));
    return (error as Error).message;
  }
  return assert.fail('was not refused');
}

describe('who maps host ports', () => {
  const chain = (...capabilities: readonly object[]) =>
    parseNetworkConf(
      '/f',
      JSON.stringify({
        cniVersion: '1.0.0',
        name: 'n',
        plugins: capabilities.map((each, i) => ({ type: `p${i}`, capabilities: each })),
      }),
    );
  const cases: readonly (readonly [
    what: string,
    capabilities: readonly object[],
    mappings: readonly PortMapping[],
    mapper: string,
  ])[] = [
    ['nobody without any', [{}], [], 'nobody'],
    ['nobody without any, whatever the chain can', [{ portMappings: true }], [], 'nobody'],
    ['a plugin that can', [{}, { portMappings: true }], [mapping(80)], 'plugin'],
    ['Berth if none can', [{ bandwidth: true }, {}], [mapping(80)], 'berth'],
    ['Berth if a plugin says that it cannot', [{ portMappings: false }], [mapping(80)], 'berth'],
  ];
  for (const [what, capabilities, mappings, mapper] of cases) {
    it(`is ${what}`, () => {
      assert.equal(mapperOf(chain(...capabilities), mappings), mapper);
    });
  }
});

describe('host ports of one pod', () => {
  it('are there for each family, once, with addresses in one spelling', () => {
    const spelt = (...hostIps: readonly string[]): string[] =>
      normalised(hostIps.map((hostIp) => mapping(80, { hostIp }))).map(({ hostIp }) => hostIp);
    assert.deepEqual(spelt(''), ['0.0.0.0', '0:0:0:0:0:0:0:0']);
    assert.deepEqual(spelt('', '0.0.0.0', '::', '0::0'), ['0.0.0.0', '0:0:0:0:0:0:0:0']);
    assert.deepEqual(spelt('::1', '0:0:0:0:0:0:0:1'), ['0:0:0:0:0:0:0:1']);
    assert.deepEqual(spelt('2001:DB8::00a', '::ffff:10.0.0.1', '1:2:3:4:5:6:1.2.3.4', '1::'), [
      '2001:db8:0:0:0:0:0:a',
      '0:0:0:0:0:ffff:a00:1',
      '1:2:3:4:5:6:102:304',
      '1:0:0:0:0:0:0:0',
    ]);
  });

  it('do not lead to two places', () => {
    assert.match(
      refusal(() => normalised([mapping(80), mapping(80, { containerPort: 81 })]), 'InvalidArgument'),
      /^host port 80\/tcp is to lead to the container ports 80 and 81/,
    );
    assert.lengthOf(
      normalised([
        mapping(80, { hostIp: '10.0.0.1' }),
        mapping(80, { hostIp: '10.0.0.2', containerPort: 81 }),
        mapping(80, { protocol: 'udp', hostIp: '10.0.0.1', containerPort: 82 }),
      ]),
      3,
    );
  });

  for (const hostIp of ['fe80::1%eth0', '10.0.0.1 } ; flush ruleset', '1.2.3', 'localhost']) {
    it(`refuse ${JSON.stringify(hostIp)} as a host IP`, () => {
      assert.match(
        refusal(() => normalised([mapping(80, { hostIp })]), 'InvalidArgument'),
        /is no IP address/,
      );
    });
  }

  it('say which of them lead nowhere', () => {
    const both = [
      mapping(80),
      mapping(81, { hostIp: 'fd00::1' }),
      mapping(82, { hostIp: '10.0.0.1' }),
      mapping(83, { hostIp: '::' }),
    ];
    assert.deepEqual(unreachable(pod(both, ['10.1.0.2/16'])), [
      'host port 81/tcp on fd00:0:0:0:0:0:0:1',
      'host port 83/tcp',
    ]);
    assert.deepEqual(unreachable(pod(both, ['fd01::2/64'])), ['host port 82/tcp on 10.0.0.1']);
    assert.deepEqual(unreachable(pod(both, ['10.1.0.2/16', 'fd01::2/64'])), []);
  });

  const loopbacks: readonly (readonly [hostIp: string, addresses: readonly string[], target: string | undefined])[] = [
    ['', ['10.1.0.2/16'], '10.1.0.2'],
    ['0.0.0.0', ['fd01::2/64', '10.1.0.2/16'], '10.1.0.2'],
    ['127.0.0.1', ['10.1.0.2/16'], '10.1.0.2'],
    ['10.0.0.1', ['10.1.0.2/16'], undefined],
    ['::', ['10.1.0.2/16'], undefined],
    ['', ['fd01::2/64'], undefined],
  ];
  for (const [hostIp, addresses, target] of loopbacks) {
    it(
      `are ${target === undefined ? 'not ' : ''}to be had at 127.0.0.1 on ` +
        `${hostIp === '' ? 'all addresses' : hostIp} with ${addresses.join()}`,
      () => {
        assert.equal(loopbackTarget(pod([mapping(80, { hostIp })], addresses)), target);
      },
    );
  }

  it('have UDP flows to all or to one of the addresses of the node', () => {
    const mine = normalised([
      mapping(80),
      mapping(53, { protocol: 'udp' }),
      mapping(54, { protocol: 'udp', hostIp: '10.0.0.9' }),
    ]);
    assert.deepEqual(Array.from(udpFlows(mine, ['127.0.0.1', '192.168.0.1', 'fd00::1'])), [
      { address: '127.0.0.1', port: 53 },
      { address: '192.168.0.1', port: 53 },
      { address: 'fd00::1', port: 53 },
      { address: '10.0.0.9', port: 54 },
    ]);
  });
});

describe('host ports of two pods', () => {
  const cases: readonly (readonly [a: Partial<PortMapping>, b: Partial<PortMapping>, exclude: boolean])[] = [
    [{}, {}, true],
    [{}, { protocol: 'udp' }, false],
    [{}, { hostIp: '10.0.0.1' }, true],
    [{ hostIp: '10.0.0.1' }, {}, true],
    [{ hostIp: '10.0.0.1' }, { hostIp: '10.0.0.1' }, true],
    [{ hostIp: '10.0.0.1' }, { hostIp: '10.0.0.2' }, false],
    [{ hostIp: '0.0.0.0' }, { hostIp: '::' }, false],
    [{ hostIp: '0.0.0.0' }, { hostIp: 'fd00::1' }, false],
    [{ hostIp: '::' }, { hostIp: 'fd00::1' }, true],
    [{ hostIp: 'fd00::1' }, { hostIp: 'fd00:0::1' }, true],
    [{}, { hostPort: 81 }, false],
  ];
  for (const [a, b, exclude] of cases) {
    it(`${JSON.stringify(a)} and ${JSON.stringify(b)} ${exclude ? 'exclude each other' : 'go together'}`, () => {
      const theirs = pod([mapping(70), mapping(80, a)], [], 'ns/theirs');
      const mine = pod([mapping(80, b)]);
      if (!exclude) return checkFree(mine, [theirs]);
      assert.match(
        refusal(() => checkFree(mine, [pod([mapping(90)]), theirs]), 'ResourceExhausted'),
        new RegExp(`^host port 80/tcp.* is taken by pod ns/theirs \\(host port 80/tcp.*, sandbox ${theirs.id}\\)`),
      );
    });
  }

  it('are compared in time by how many they are, also when all are one port on many addresses', () => {
    const many = (net: number): PodPorts =>
      pod(
        Array.from({ length: 40_000 }, (_, index) =>
          mapping(80, { hostIp: `127.${net}.${index >> 8}.${index & 255}` }),
        ),
      );
    const [mine, theirs] = [many(1), many(2)];
    const began = performance.now();
    checkFree(mine, [theirs]);
    // One with each other it would take a minute.
    assert.isBelow(performance.now() - began, 5_000);
  });

  it('do not count for the pod itself', () => {
    const mine = pod([mapping(80)]);
    checkFree(mine, [mine]);
  });

  it('are named with their address only if it is one', () => {
    assert.deepEqual(normalised([mapping(80), mapping(81, { hostIp: '10.0.0.1', protocol: 'sctp' })]).map(nameOf), [
      'host port 80/tcp',
      'host port 80/tcp',
      'host port 81/sctp on 10.0.0.1',
    ]);
  });
});

describe('the table of host ports', () => {
  const dual = pod(
    [
      mapping(8080),
      mapping(53, { protocol: 'udp', hostIp: '127.0.0.1', containerPort: 5353 }),
      mapping(9, { protocol: 'sctp', hostIp: 'fd00::1' }),
    ],
    ['10.1.200.2/16', 'fd01:0:0:1::2/64', '10.1.200.3/16'],
  );

  it('gets a look-up for each port and family, and the pod once', () => {
    assert.deepEqual(addText(dual).trimEnd().split('\n'), [
      `create element inet berth_hostport any4 { tcp . 8080 comment "${dual.id}" : 10.1.200.2 . 80 }`,
      `create element inet berth_hostport at4 { 127.0.0.1 . udp . 53 comment "${dual.id}" : 10.1.200.2 . 5353 }`,
      `create element inet berth_hostport pods4 { 10.1.200.2 . 10.1.200.2 comment "${dual.id}" }`,
      `create element inet berth_hostport any6 { tcp . 8080 comment "${dual.id}" : fd01:0:0:1:0:0:0:2 . 80 }`,
      `create element inet berth_hostport at6 { fd00:0:0:0:0:0:0:1 . sctp . 9 comment "${dual.id}" ` +
        ': fd01:0:0:1:0:0:0:2 . 80 }',
      `create element inet berth_hostport pods6 { fd01:0:0:1:0:0:0:2 . fd01:0:0:1:0:0:0:2 comment "${dual.id}" }`,
    ]);
  });

  it('loses by key what it got', () => {
    const key = (line: string): string =>
      line
        .replace(/^(create|delete) element/, '')
        .replace(/ comment.*/, '')
        .replace(/ }$/, '');
    const [got, lost] = [addText(dual), removeText(dual)].map((text) => text.trimEnd().split('\n').map(key));
    assert.deepEqual(lost, got);
  });

  it('has nothing of a pod without addresses, or without one of the right family', () => {
    assert.equal(addText(pod([mapping(80)], [])), '');
    assert.equal(addText(pod([mapping(80, { hostIp: 'fd00::1' })])), '');
    assert.notInclude(tableText([pod([mapping(80)], [])]), 'element');
  });

  it('is replaced as a whole, by all pods and their subnets', () => {
    const text = tableText([
      dual,
      pod([mapping(81)], ['10.1.0.9/16']),
      pod([mapping(82)], ['10.2.0.5/32', 'fd02::5/128']),
      pod([mapping(83)], []),
    ]);
    assert.match(
      text,
      /^add table inet berth_hostport\ndelete table inet berth_hostport\ntable inet berth_hostport \{/,
    );
    assert.lengthOf(text.match(/^add element/gm) ?? [], 6 + 2 + 4);
    assert.deepEqual(text.match(/ip6? saddr [^@ ]+\/\d+/g), [
      'ip saddr 127.0.0.0/8',
      'ip saddr 10.1.0.0/16',
      'ip6 saddr fd01:0:0:1:0:0:0:0/64',
    ]);
  });

  it('knows subnets by their first address', () => {
    const subnets = (...addresses: readonly string[]): string[] => [...subnetsOf([pod([mapping(80)], addresses)])];
    assert.deepEqual(subnets('10.1.130.77/17', 'fd00:1:2:3ff::1/54'), ['10.1.128.0/17', 'fd00:1:2:0:0:0:0:0/54']);
    assert.deepEqual(subnets('10.1.2.3/32', 'fd00::1/128'), []);
    assert.deepEqual(subnets('10.1.2.3/0'), ['0.0.0.0/0']);
    assert.deepEqual(subnets('1::/112', '1.2.3.4/31'), ['1.2.3.4/31', '1:0:0:0:0:0:0:0/112']);
  });
});
