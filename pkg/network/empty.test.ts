/** `""`, null and absence in what CNI reads and answers: conflists, single confs, results of both shapes, errors. */
import { describeEmptiness, type Rule } from '../base/fake-emptiness.ts';
import type { PlainObject } from '../base/go.ts';
import { parseNetworkConf, pluginInput } from './conf.ts';
import { parseResult, pluginComplaint, podNetworkOf, resultAs } from './results.ts';

/** A network as pods and plugins meet it. */
function network(document: PlainObject): unknown {
  const conf = parseNetworkConf('f', JSON.stringify(document));
  const { name, cniVersion, disableCheck, disableGc, plugins } = conf;
  const capabilityArgs = { portMappings: [{ hostPort: 1 }], mac: 'aa' };
  return {
    ...{ name, cniVersion, disableCheck, disableGc },
    plugins: plugins.map((plugin) => [
      plugin.type,
      Object.keys(
        (JSON.parse(pluginInput(conf, plugin, { capabilityArgs })) as { runtimeConfig?: object }).runtimeConfig ?? {},
      ),
    ]),
  };
}

/** A result as pods and the next plugin meet it. */
function result(document: PlainObject): unknown {
  const parsed = parseResult(JSON.stringify(document), '1.0.0');
  return { network: podNetworkOf(parsed), next: resultAs(parsed, '1.0.0') };
}

const rules = (kinds: Partial<Record<'unset' | 'needed' | 'ignored', string>>): Record<string, Rule> =>
  Object.fromEntries(
    Object.entries(kinds).flatMap(([rule, paths]) => paths.split(' ').map((path) => [path, rule as Rule])),
  );

describeEmptiness({
  name: 'a CNI conflist',
  notation: 'json',
  samples: [
    {
      cniVersion: '1.0.0',
      cniVersions: ['1.1.0'],
      name: 'n',
      disableCheck: true,
      disableGC: true,
      plugins: [{ type: 'bridge', cniVersion: '0.4.0', name: 'x', capabilities: { portMappings: true, mac: true } }],
    },
  ],
  read: network,
  names: ['plugins[].capabilities'],
  keys: rules({
    unset: 'name cniVersions disableCheck disableGC plugins[].capabilities plugins[].capabilities.*',
    needed: 'plugins plugins[].type',
    ignored: 'cniVersion plugins[].cniVersion plugins[].name',
  }),
});

describeEmptiness({
  name: 'the version of a CNI conflist',
  notation: 'json',
  samples: [{ cniVersion: '1.0.0', name: 'n', plugins: [{ type: 'bridge' }] }],
  read: network,
  keys: rules({ unset: 'cniVersion name', needed: 'plugins plugins[].type' }),
});

describeEmptiness({
  name: 'a CNI conf of one plugin',
  notation: 'json',
  samples: [{ cniVersion: '0.4.0', name: 'n', type: 'bridge', capabilities: { mac: true } }],
  read: network,
  names: ['capabilities'],
  keys: rules({ unset: 'cniVersion name capabilities capabilities.*', needed: 'type' }),
});

describeEmptiness({
  name: 'a CNI result',
  notation: 'json',
  samples: [
    {
      cniVersion: '0.4.0',
      interfaces: [{ name: 'eth0', mac: 'aa', mtu: 1500, sandbox: '/n', socketPath: '/s', pciID: 'p' }],
      ips: [
        { version: '4', address: '10.0.0.2/8', gateway: '10.0.0.1', interface: 0 },
        { address: 'fd00::2/64', gateway: 'fd00::1' },
      ],
      routes: [{ dst: '0.0.0.0/0', gw: '10.0.0.1', mtu: 1, advmss: 2, priority: 3, table: 4, scope: 5 }],
      dns: { nameservers: ['10.0.0.3'], domain: 'd', search: ['s'], options: ['o'] },
    },
  ],
  read: result,
  keys: rules({
    unset:
      'cniVersion interfaces interfaces[].name interfaces[].mac interfaces[].mtu interfaces[].sandbox ' +
      'interfaces[].socketPath interfaces[].pciID ips[].interface ips[].gateway routes ' +
      'routes[].dst routes[].gw routes[].mtu routes[].advmss routes[].priority routes[].table routes[].scope ' +
      'dns dns.nameservers dns.domain dns.search dns.options',
    needed: 'ips ips[].address',
    ignored: 'ips[].version',
  }),
});

describeEmptiness({
  name: 'a CNI result of before 0.3',
  notation: 'json',
  samples: [
    {
      cniVersion: '0.2.0',
      ip4: { ip: '10.0.0.2/8', gateway: '10.0.0.1', routes: [{ dst: '0.0.0.0/0', gw: '10.0.0.1' }] },
      ip6: { ip: 'fd00::2/64', gateway: 'fd00::1', routes: [{ dst: '::/0', gw: 'fd00::1' }] },
      dns: { nameservers: ['10.0.0.3'] },
    },
  ],
  read: result,
  keys: rules({
    unset:
      'ip4 ip4.gateway ip4.routes ip4.routes[].dst ip4.routes[].gw ip6 ip6.gateway ip6.routes ip6.routes[].dst ' +
      'ip6.routes[].gw dns dns.nameservers',
    needed: 'cniVersion ip4.ip ip6.ip',
  }),
});

describeEmptiness({
  name: 'the complaint of a CNI plugin',
  notation: 'json',
  samples: [{ cniVersion: '1.0.0', code: 11, msg: 'busy', details: 'later' }],
  read: (document) => {
    const { code, text } = pluginComplaint(1, JSON.stringify(document), '');
    return { code, text: text.startsWith('exit code') ? 'as it came' : text };
  },
  keys: rules({ unset: 'code msg details', ignored: 'cniVersion' }),
});
