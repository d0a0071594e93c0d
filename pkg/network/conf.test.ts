import { assert } from 'chai';
import { isCode } from '../base/errors.ts';
import type { ErrorCode } from '../base/errors.ts';
import { newSandboxId } from '../base/ids.ts';
import { defaultConflist, familyOf, freeSubnet } from './addresses.ts';
import { capabilityArgs, parseNetworkConf, pluginInput, podArgs } from './conf.ts';
import { withoutRulesOf } from './nat-rules.ts';
import { parseResult, pluginComplaint, podNetworkOf, resultAs } from './results.ts';
import type { PodNetworkRequest } from '../ports/network.ts';

const NOBODY: PodNetworkRequest = {
  id: newSandboxId(),
  name: 'web',
  namespace: 'default',
  uid: 'u-1',
  netns: '/run/ns/net',
  pinned: Promise.resolve(),
  portMappings: [],
  annotations: {},
  cgroupPath: '',
  dns: { servers: [], searches: [], options: [] },
};

function refusal(work: () => unknown, code: ErrorCode): string {
  try {
    work();
  } catch (error) {
    assert.isTrue(isCode(error, code), String(error));
    return (error as Error).message;
  }
  return assert.fail('was not refused');
}

function conflist(more: object = {}, ...plugins: readonly object[]): string {
  return JSON.stringify({
    cniVersion: '1.0.0',
    name: 'net',
    plugins: plugins.length > 0 ? plugins : [{ type: 'bridge' }],
    ...more,
  });
}

describe('cni configuration', () => {
  it('reads a conflist, and a conf as a list of one', () => {
    const list = parseNetworkConf(
      '/a.conflist',
      conflist(
        { disableCheck: true },
        { type: 'bridge' },
        { type: 'portmap', capabilities: { portMappings: true, snat: false } },
      ),
    );
    assert.deepEqual([list.name, list.cniVersion, list.disableCheck, list.disableGc], ['net', '1.0.0', true, false]);
    assert.deepEqual(
      list.plugins.map(({ type, capabilities }) => [type, ...capabilities]),
      [['bridge'], ['portmap', 'portMappings']],
    );
    const single = parseNetworkConf('/a.conf', '{"cniVersion":"0.3.1","name":"one","type":"macvlan","master":"eth1"}');
    assert.deepEqual(
      [single.name, single.cniVersion, single.plugins.length, single.plugins[0]?.raw['master']],
      ['one', '0.3.1', 1, 'eth1'],
    );
  });

  const versions: readonly (readonly [fields: object, version: string])[] = [
    [{ cniVersion: '1.0.0', cniVersions: ['0.4.0', '1.1.0', '9.0.0'] }, '1.1.0'],
    [{ cniVersion: '9.0.0', cniVersions: ['0.4.0'] }, '0.4.0'],
    [{ cniVersion: undefined }, '0.1.0'],
  ];
  for (const [fields, version] of versions) {
    it(`chooses ${version} from ${JSON.stringify(fields)}`, () => {
      assert.equal(parseNetworkConf('/f', conflist(fields)).cniVersion, version);
    });
  }

  const broken: readonly (readonly [text: string, message: RegExp])[] = [
    ['{', /\/f is not valid JSON/],
    ['[]', /\/f wants a JSON object/],
    ['null', /wants a JSON object/],
    [conflist({ name: '../x' }), /wants a "name" of letters.*"\.\.\/x"/],
    [conflist({ name: 7 }), /wants a "name"/],
    [conflist({ plugins: [] }), /has no plugins/],
    [conflist({ plugins: 'x' }), /has no plugins/],
    [conflist({}, { type: '../../bin/sh' }), /wants a plugin "type" that is a file name/],
    [conflist({}, {}), /wants a plugin "type"/],
    [conflist({ cniVersion: '2.0.0' }), /has "cniVersion" "2\.0\.0"; Berth speaks 0\.1\.0 to 1\.1\.0/],
    [conflist({}, ...Array.from({ length: 33 }, () => ({ type: 'x' }))), /more than 32 plugins/],
  ];
  for (const [text, message] of broken) {
    it(`refuses ${text.slice(0, 60)}`, () => {
      assert.match(
        refusal(() => parseNetworkConf('/f', text), 'InvalidArgument'),
        message,
      );
    });
  }
});

describe('cni input', () => {
  const pod: PodNetworkRequest = {
    ...NOBODY,
    portMappings: [
      { protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '' },
      { protocol: 'udp', containerPort: 53, hostPort: 53, hostIp: '127.0.0.1' },
    ],
    annotations: { 'kubernetes.io/ingress-bandwidth': '10M', 'kubernetes.io/egress-bandwidth': '1.5Gi', other: 'x' },
    cgroupPath: '/kubepods/pod1',
    dns: { servers: ['10.0.0.10'], searches: ['svc'], options: [] },
    mac: '02:00:00:00:00:01',
    aliases: ['web'],
  };

  it('gives each plugin the capabilities that it declares, and no others', () => {
    const all = [
      'portMappings',
      'bandwidth',
      'dns',
      'io.kubernetes.cri.pod-annotations',
      'cgroupPath',
      'ipRanges',
      'mac',
      'aliases',
      'unheard-of',
    ];
    const network = parseNetworkConf(
      '/f',
      conflist(
        {},
        { type: 'a', x: 1, capabilities: Object.fromEntries(all.map((each) => [each, true])) },
        { type: 'b', capabilities: { mac: true, dns: false } },
        { type: 'c' },
      ),
    );
    const [a, b, c] = network.plugins.map(
      (plugin) =>
        JSON.parse(
          pluginInput(network, plugin, { capabilityArgs: capabilityArgs(pod, ['10.1.0.0/24', 'fd01::/64']) }),
        ) as Record<string, unknown>,
    );
    assert.deepEqual(a?.['runtimeConfig'], {
      portMappings: [
        { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
        { hostPort: 53, containerPort: 53, protocol: 'udp', hostIP: '127.0.0.1' },
      ],
      bandwidth: {
        ingressRate: 10_000_000,
        ingressBurst: 2_147_483_647,
        egressRate: 1_610_612_736,
        egressBurst: 2_147_483_647,
      },
      dns: { servers: ['10.0.0.10'], searches: ['svc'], options: [] },
      'io.kubernetes.cri.pod-annotations': pod.annotations,
      cgroupPath: '/kubepods/pod1',
      ipRanges: [[{ subnet: '10.1.0.0/24' }], [{ subnet: 'fd01::/64' }]],
      mac: '02:00:00:00:00:01',
      aliases: { net: ['web'] },
    });
    assert.deepEqual([a?.['x'], a?.['name'], a?.['cniVersion']], [1, 'net', '1.0.0']);
    assert.deepEqual(b?.['runtimeConfig'], { mac: '02:00:00:00:00:01' });
    assert.notProperty(c, 'runtimeConfig');
    assert.deepEqual(Object.keys(capabilityArgs(NOBODY, [])), []);
  });

  for (const text of ['10', '2P', '-1M', '1e6', 'lots', '', '10M\n; rm', '1'.repeat(400)]) {
    it(`refuses ${JSON.stringify(text.slice(0, 12))} as a bandwidth`, () => {
      assert.match(
        refusal(
          () => capabilityArgs({ ...NOBODY, annotations: { 'kubernetes.io/egress-bandwidth': text } }, []),
          'InvalidArgument',
        ),
        /kubernetes\.io\/egress-bandwidth wants bits per second/,
      );
    });
  }

  it('names the pod in CNI_ARGS, and lets no name add an entry', () => {
    assert.equal(
      podArgs({ ...NOBODY }),
      'IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;' +
        `K8S_POD_INFRA_CONTAINER_ID=${NOBODY.id};K8S_POD_UID=u-1`,
    );
    for (const evil of ['a;K8S_POD_UID=0', 'a=b', 'a\nb', 'a\0b']) {
      for (const field of ['name', 'namespace', 'uid'])
        assert.match(
          refusal(() => podArgs({ ...NOBODY, [field]: evil }), 'InvalidArgument'),
          /must not contain/,
        );
    }
  });

  it('keeps keys that objects have anyway as data', () => {
    const network = parseNetworkConf(
      '/f',
      '{"cniVersion":"1.0.0","name":"n","plugins":[' +
        '{"type":"a","__proto__":{"x":1},"capabilities":{"__proto__":true,"constructor":true}}]}',
    );
    const [plugin] = network.plugins;
    assert.isDefined(plugin);
    if (plugin !== undefined)
      assert.equal(
        pluginInput(network, plugin, { capabilityArgs: capabilityArgs(pod, ['10.1.0.0/24', 'fd01::/64']) }),
        '{"type":"a","__proto__":{"x":1},"capabilities":{"__proto__":true,"constructor":true},' +
          '"name":"n","cniVersion":"1.0.0"}',
      );
  });
});

describe('cni results', () => {
  const modern = {
    cniVersion: '1.0.0',
    interfaces: [
      { name: 'br', mac: 'm' },
      { name: 'veth', mac: 'm' },
      { name: 'eth0', sandbox: '/ns' },
    ],
    ips: [
      { address: '10.1.0.2/16', gateway: '10.1.0.1', interface: 2 },
      { address: 'fd01::2/64', interface: 2 },
    ],
    routes: [{ dst: '0.0.0.0/0' }],
    dns: { nameservers: ['1.1.1.1'] },
  };
  const two = {
    cniVersion: '0.2.0',
    ip4: { ip: '10.1.0.2/16', gateway: '10.1.0.1', routes: [{ dst: '0.0.0.0/0' }] },
    ip6: { ip: 'fd01::2/64' },
    dns: {},
  };
  const parse = (value: object, version = '1.0.0') => parseResult(JSON.stringify(value), version);

  it('finds the addresses of the pod in every version', () => {
    const middle = {
      ...modern,
      cniVersion: '0.4.0',
      ips: modern.ips.map((each, index) => ({ ...each, version: index === 0 ? '4' : '6' })),
    };
    for (const value of [modern, middle, two, { ...two, cniVersion: '0.1.0' }])
      assert.deepEqual(podNetworkOf(parse(value)), { ips: ['10.1.0.2', 'fd01::2'], interfaceName: 'eth0' });
    assert.deepEqual(podNetworkOf(parse({ ...modern, cniVersion: undefined }, '1.1.0')).ips, ['10.1.0.2', 'fd01::2']);
    assert.deepEqual(podNetworkOf(parse({ ...two, cniVersion: undefined }, '0.2.0')).ips, ['10.1.0.2', 'fd01::2']);
  });

  it('leaves out addresses of interfaces on the node', () => {
    assert.deepEqual(
      podNetworkOf(
        parse({
          ...modern,
          ips: [{ address: '10.1.0.1/16', interface: 0 }, { address: '10.1.0.9/16' }, ...modern.ips],
        }),
      ).ips,
      ['10.1.0.9', '10.1.0.2', 'fd01::2'],
    );
  });

  it('hands a result to the next plugin as it came, if it has the right shape', () => {
    assert.deepEqual(resultAs(parse({ ...modern, vendor: { x: 1 } }), '1.1.0'), {
      ...modern,
      vendor: { x: 1 },
      cniVersion: '1.1.0',
    });
  });

  it('converts between the three shapes', () => {
    const older = resultAs(parse(modern), '0.4.0');
    assert.deepEqual(older['ips'], [
      { version: '4', address: '10.1.0.2/16', gateway: '10.1.0.1', interface: 2 },
      { version: '6', address: 'fd01::2/64', interface: 2 },
    ]);
    assert.deepEqual(
      [older['cniVersion'], older['interfaces'], older['dns']],
      ['0.4.0', modern.interfaces, modern.dns],
    );
    assert.deepEqual(resultAs(parse(two), '1.0.0'), {
      cniVersion: '1.0.0',
      routes: [{ dst: '0.0.0.0/0' }],
      ips: [{ address: '10.1.0.2/16', gateway: '10.1.0.1' }, { address: 'fd01::2/64' }],
      dns: {},
    });
    assert.deepEqual(resultAs(parse(modern), '0.2.0'), {
      cniVersion: '0.2.0',
      ip4: { ip: '10.1.0.2/16', gateway: '10.1.0.1' },
      ip6: { ip: 'fd01::2/64' },
      dns: modern.dns,
    });
    assert.deepEqual(parse(older).ips, parse(modern).ips);
  });

  const wrong: readonly (readonly [text: string, message: RegExp])[] = [
    ['', /exited 0 without printing a result/],
    ['  \n', /without printing a result/],
    ['hello', /printed something that is not JSON: "hello"/],
    ['[1]', /printed JSON that is no result/],
    ['null', /printed JSON that is no result/],
    [JSON.stringify({ ips: [{ address: '10.0.0.1' }] }), /returned "10\.0\.0\.1" where an address with a prefix/],
    [JSON.stringify({ ips: [{ address: '10.0.0.1; rm -rf/8' }] }), /where an address/],
    [JSON.stringify({ ips: [null] }), /where an address/],
    [
      JSON.stringify({ ips: Array.from({ length: 100_000 }, () => ({ address: '10.0.0.1/8' })) }),
      /returned 100000 addresses; a pod has at most 64/,
    ],
  ];
  for (const [text, message] of wrong) {
    it(`refuses ${JSON.stringify(text.slice(0, 40))}`, () => {
      const said = refusal(() => parseResult(text, '1.0.0'), 'Internal');
      assert.match(said, message);
      assert.isBelow(said.length, 400);
    });
  }

  it('refuses a pod without an address', () => {
    assert.match(
      refusal(() => podNetworkOf(parse({ ...modern, ips: [] })), 'Internal'),
      /returned no IP address/,
    );
    assert.match(
      refusal(() => podNetworkOf(parse({ ...modern, ips: [{ address: '10.1.0.1/16', interface: 0 }] })), 'Internal'),
      /returned no IP address/,
    );
  });

  it('says what a failing plugin said', () => {
    assert.deepEqual(pluginComplaint(1, '{"code":11,"msg":"busy","details":"later"}', 'noise'), {
      code: 11,
      text: 'busy; later (CNI error 11)',
    });
    assert.deepEqual(pluginComplaint(2, 'garbage', 'panic:\n\u001b[31mred'), {
      code: undefined,
      text: 'exit code 2: panic: [31mred',
    });
    assert.deepEqual(pluginComplaint(2, 'only\tthis', ''), { code: undefined, text: 'exit code 2: only this' });
    assert.deepEqual(pluginComplaint(137, '', ''), { code: undefined, text: 'exit code 137, and it said nothing' });
    assert.isBelow(pluginComplaint(1, '', 'x'.repeat(1e6)).text.length, 1100);
  });
});

describe('packet-filter rules that plugins leave', () => {
  const id = 'd7d189df5c08715045e66a3bfafb0d3c21c90a3b45778aeccb77b096c7292a5e';
  const comment = (whose: string): string => `-m comment --comment "name: \\"berth\\" id: \\"${whose}\\""`;
  const saved = [
    '*nat',
    ':PREROUTING ACCEPT [0:0]',
    ':CNI-1c098a65e7b0d0d112e3f819 - [0:0]',
    ':CNI-HOSTPORT-DNAT - [0:0]',
    `-A POSTROUTING -s 10.206.0.2/32 ${comment(id)} -j CNI-1c098a65e7b0d0d112e3f819`,
    `-A POSTROUTING -s 10.206.0.3/32 ${comment('f'.repeat(64))} -j CNI-2c098a65e7b0d0d112e3f819`,
    `-A CNI-1c098a65e7b0d0d112e3f819 -d 10.206.0.0/16 ${comment(id)} -j ACCEPT`,
    `-A CNI-1c098a65e7b0d0d112e3f819 ! -d 224.0.0.0/4 ${comment(id)} -j MASQUERADE`,
    `-A CNI-HOSTPORT-DNAT -p tcp ${comment(id)} -j CNI-DN-1c098a65e7b0d0d112e3f`,
    'COMMIT',
    '',
  ].join('\n');

  it('go by the id of the pod, with the chains of their own, and no others', () => {
    assert.deepEqual(withoutRulesOf({ id, network: 'net' }, saved).split('\n'), [
      '*nat',
      `-D POSTROUTING -s 10.206.0.2/32 ${comment(id)} -j CNI-1c098a65e7b0d0d112e3f819`,
      `-D CNI-HOSTPORT-DNAT -p tcp ${comment(id)} -j CNI-DN-1c098a65e7b0d0d112e3f`,
      '-F CNI-1c098a65e7b0d0d112e3f819',
      '-X CNI-1c098a65e7b0d0d112e3f819',
      'COMMIT',
      '',
    ]);
    assert.equal(withoutRulesOf({ id: '0'.repeat(64), network: 'net' }, saved), '');
  });

  it('go with the chain that the bridge plugin has named and put no rule in yet', () => {
    const named = 'CNI-1c098a65e7b0d0d112e3f819';
    const table = ['*nat', `:${named} - [0:0]`, ':CNI-0123456789abcdef01234567 - [0:0]', 'COMMIT', ''].join('\n');
    assert.deepEqual(withoutRulesOf({ id, network: 'berth' }, table).split('\n'), [
      '*nat',
      `-F ${named}`,
      `-X ${named}`,
      'COMMIT',
      '',
    ]);
  });
});

describe('addresses and subnets', () => {
  const families: readonly (readonly [text: string, family: 4 | 6 | undefined])[] = [
    ['10.0.0.1', 4],
    ['255.255.255.255', 4],
    ['256.0.0.1', undefined],
    ['10.0.0', undefined],
    ['::', 6],
    ['::1', 6],
    ['fd00::1:2', 6],
    ['1:2:3:4:5:6:7:8', 6],
    ['1:2:3:4:5:6:7', undefined],
    ['1:2:3:4:5:6:7:8:9', undefined],
    ['1::2::3', undefined],
    [':::', undefined],
    ['::ffff:10.0.0.1', 6],
    ['g::1', undefined],
    ['', undefined],
    ['12345::', undefined],
    ['fe80::1%eth0', undefined],
  ];
  for (const [text, family] of families) {
    it(`${text === '' ? 'nothing' : text} is ${family ?? 'no address'}`, () => {
      assert.equal(familyOf(text), family);
    });
  }

  it('takes a subnet that nobody on the node uses', () => {
    const first = freeSubnet([]);
    assert.equal(freeSubnet(['0.0.0.0/0', '::/0', 'fe80::1/64', '10.88.0.1/16', '127.0.0.1/8']), first);
    const second = freeSubnet(['10.89.200.1/24']);
    assert.notEqual(second, first);
    assert.notInclude([first, second], freeSubnet(['10.0.0.0/8']));
  });

  it('writes a conflist that it reads', () => {
    const network = parseNetworkConf('/f', defaultConflist({ dataDir: '/d', subnets: ['10.1.0.0/16', 'fd01::/64'] }));
    assert.deepEqual(
      network.plugins.map(({ type }) => type),
      ['bridge', 'portmap'],
    );
    assert.isTrue(network.plugins[1]?.capabilities.has('portMappings'));
    assert.deepEqual(network.plugins[0]?.raw['ipam'], {
      type: 'host-local',
      dataDir: '/d',
      ranges: [[{ subnet: '10.1.0.0/16' }], [{ subnet: 'fd01::/64' }]],
      routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
    });
  });
});

describe('a conflist of a program in Go', () => {
  it('has version 0.1.0 where "cniVersion" is "", null or absent', () => {
    for (const version of ['"cniVersion": "",', '"cniVersion": null,', '']) {
      const conf = parseNetworkConf('f', `{${version} "name": "n", "plugins": [{"type": "ptp"}]}`);
      assert.equal(conf.cniVersion, '0.1.0');
    }
  });
  it('is called as its file where "name" is "", null or absent, as with CRI-O', () => {
    for (const name of ['"name": "",', '"name": null,', ''])
      for (const rest of ['"plugins": [{"type": "ptp"}]', '"type": "ptp"']) {
        const conf = parseNetworkConf('/etc/cni/net.d/10-a.conf', `{${name} ${rest}}`);
        assert.deepEqual([conf.name, conf.raw['name']], ['10-a.conf', '10-a.conf']);
      }
  });
  it('is a conf of one plugin where "plugins" is null or ""', () => {
    for (const plugins of ['null', '""'])
      assert.deepEqual(
        parseNetworkConf('f', `{"name": "n", "type": "ptp", "plugins": ${plugins}}`).plugins.map(({ type }) => type),
        ['ptp'],
      );
  });
});
