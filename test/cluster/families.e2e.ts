/** Pods with an address of each family, who reach each other by either: on one node, and across two. */
import type { V1Pod } from '@kubernetes/client-node';
import { assert } from 'chai';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { waitFor } from '../e2e/cri-client.ts';
import type { ClusterNode } from './node.ts';
import { ground } from './shared.ts';
import { Tenant } from './tenant.ts';

/** Where nodes have their addresses of IPv6, and pods theirs: a network for each node. */
const NODES = 'fd60::';
const podsOf = (number: number): string => `fd61:0:0:${number}::/64`;
const WAIT = { timeoutMs: 60_000, intervalMs: 200 };

interface Conflist {
  readonly plugins: [{ ipam: { ranges: unknown[]; routes: unknown[] } }];
}

describe('pods of both families', function () {
  this.timeout(180_000);
  let tenant: Tenant;
  let nodes: readonly ClusterNode[];
  const former = new Map<string, string>();

  before(async () => {
    const { cluster, images } = ground();
    ({ nodes } = cluster);
    for (const [at, node] of nodes.entries()) await speakBoth(node, at + 1);
    tenant = await Tenant.of(cluster, 'families', images.box);
    const cgi = 'mkdir -p /www/cgi-bin; printf "#!/bin/sh\\necho; echo \\$REMOTE_ADDR\\n" >/www/cgi-bin/who';
    const run = `${cgi}; chmod +x /www/cgi-bin/who; exec httpd -f -p 8080 -h /www`;
    const on = (number: number) => ({ nodeSelector: { 'kubernetes.io/hostname': `node-${number}` } });
    await tenant.ready({ name: 'one', run, spec: on(1) });
    await tenant.ready({ name: 'two', run, spec: on(nodes.length) });
  });
  after(async () => {
    await tenant.leave();
    for (const [file, text] of former) writeFileSync(file, text);
    for (const [at, node] of nodes.entries()) {
      await node.inside(['ip', '-6', 'address', 'del', `${NODES}${at + 1}/64`, 'dev', 'eth0']);
      for (const other of nodes.keys())
        if (other !== at) await node.inside(['ip', '-6', 'route', 'del', podsOf(other + 1)]);
    }
  });

  /** Gives a node an address of IPv6 and ways to the pods of the others, and its pods a second address. */
  async function speakBoth(node: ClusterNode, number: number): Promise<void> {
    await node.inside(['sysctl', '-q', '-w', 'net.ipv6.conf.all.forwarding=1']);
    await node.inside(['ip', '-6', 'address', 'add', `${NODES}${number}/64`, 'dev', 'eth0', 'nodad']);
    for (const other of nodes.keys())
      if (other + 1 !== number)
        await node.inside(['ip', '-6', 'route', 'add', podsOf(other + 1), 'via', `${NODES}${other + 1}`]);
    const file = join(node.directory, 'net.d/10-cluster.conflist');
    former.set(file, readFileSync(file, 'utf8'));
    const conflist = JSON.parse(former.get(file) ?? '') as Conflist;
    const { ipam } = conflist.plugins[0];
    ipam.ranges.push([{ subnet: podsOf(number) }]);
    ipam.routes.push({ dst: '::/0' });
    writeFileSync(file, JSON.stringify(conflist));
  }

  const addresses = (pod: V1Pod): string[] => (pod.status?.podIPs ?? []).map(({ ip }) => ip);

  async function pair(): Promise<[V1Pod, V1Pod]> {
    return [await tenant.pod('one'), await tenant.pod('two')];
  }

  it('are told of both, that of the family of the node first', async () => {
    for (const pod of await pair()) {
      const [four = '', six = '', ...more] = addresses(pod);
      assert.deepEqual(more, []);
      assert.match(four, /^10\.61\./);
      assert.match(six, /^fd61:/);
      const { out } = await tenant.exec(pod.metadata?.name ?? '', 'cat /etc/hosts; ip -o address show eth0');
      for (const address of [four, six]) assert.include(out, address);
    }
  });

  it('reach each other by both, and are seen by their own addresses', async () => {
    const [one, two] = await pair();
    for (const [from, to] of [
      [one, two],
      [two, one],
    ] as const) {
      const [[, sixOf], [four, six]] = [addresses(from), addresses(to)];
      for (const [host, wanted] of [
        [four, addresses(from)[0]],
        [`[${six}]`, sixOf],
      ] as const) {
        const answer = await waitFor(
          () => tenant.exec(from.metadata?.name ?? '', `wget -q -O- http://${host}:8080/cgi-bin/who`),
          ({ code }) => code === 0,
          `${from.metadata?.name} to reach ${host}`,
          WAIT,
        );
        assert.equal(answer.out.trim().replace(/^\[(::ffff:)?([^\]]+)\]$/, '$2'), wanted);
      }
    }
  });

  it('give both addresses back', async () => {
    const [one] = await pair();
    const wanted = addresses(one);
    const leased = async (): Promise<string[]> => {
      const [node] = nodes;
      const names = (await node?.inside(['ls', join(node.directory, 'ipam/berth')]))?.split('\n') ?? [];
      return names.filter((name) => wanted.includes(name));
    };
    assert.sameMembers(await leased(), wanted);
    await tenant.remove('one');
    await waitFor(leased, ({ length }) => length === 0, 'the addresses to be free', WAIT);
  });
});
