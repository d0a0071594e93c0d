/**
 * Host ports that no plugin of the chain maps: Berth's own table, with packets that take every way there is to a port
 * of the node.
 *
 * The node is a daemon in the tests' own network namespace, with a bridge without portmap, IPv4 and IPv6. Outside is a
 * network namespace of its own behind a veth; pods' servers and clients are processes of ours in the pods' namespaces.
 */
import { assert } from 'chai';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { Input, PortMapping } from '../../pkg/cri-api/types.ts';
import { type Pod, waitFor } from './cri-client.ts';
import { TestNode } from './harness.ts';
import { host, reconfigure, refusal } from './inside.ts';

const OUTSIDE = `bhp${process.pid % 100_000}`;
const VETH = `${OUTSIDE}v`;
/** The node towards outside, and a client there. */
const NODE4 = '192.168.213.1';
const CLIENT4 = '192.168.213.2';
const NODE6 = 'fd00:b1:e3::1';
const CLIENT6 = 'fd00:b1:e3::2';
const SUBNET6 = 'fd00:b1:e4::/64';

const TCP = 18_080;
const UDP = 18_053;

/** A process of ours in a network namespace ('' is the node's) that obeys lines and answers with lines. */
class Peer {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;

  constructor(netns: string, source: string) {
    const command = [...(netns === '' ? [] : ['nsenter', `--net=${netns}`]), process.execPath, '-e', source];
    this.#child = spawn(command[0] ?? '', command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] });
    if (this.#child.stdout === null) throw new Error('no stdout');
    this.#reader = createInterface({ input: this.#child.stdout });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  async line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error('the process in the other namespace ended');
    return value;
  }

  async ask(line: string): Promise<string> {
    this.#child.stdin?.write(`${line}\n`);
    return await this.line();
  }

  async close(): Promise<void> {
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await gone;
    this.#reader.close();
  }
}

/** TCP and UDP on all addresses of a namespace; tells who asks its own name and who they are. */
function serverSource(name: string, port: number): string {
  return `
    const from = (address) => '${name} ' + address.replace('::ffff:', '');
    const server = require('net').createServer((socket) => {
      socket.on('error', () => {});
      socket.end(from(socket.remoteAddress));
    });
    server.listen(${port}, '::', () => {
      const udp = require('dgram').createSocket('udp6');
      udp.on('message', (_, { address, port }) => udp.send(from(address), port, address));
      udp.bind(${port}, '::', () => console.log('up'));
    });`;
}

/**
 * Obeys "tcp HOST PORT" and "udp HOST PORT FROM" (FROM = source port, 0 for any); answers with what was heard, an
 * error's code or "silence".
 */
const CLIENT = `
  const { createInterface } = require('readline');
  const tell = (text) => console.log(text);
  createInterface({ input: process.stdin }).on('line', (line) => {
    const [kind, host, port, from] = line.split(' ');
    if (kind === 'tcp') {
      let heard = '';
      const socket = require('net').connect({ host, port: Number(port), timeout: 5000 });
      socket.on('data', (data) => (heard += data)).on('end', () => tell(heard));
      socket.on('error', (error) => tell(error.code));
      socket.on('timeout', () => { tell('silence'); socket.destroy(); });
    } else {
      const socket = require('dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4');
      const done = (text) => { clearTimeout(timer); socket.close(); tell(text); };
      const timer = setTimeout(() => done('silence'), 5000);
      socket.on('message', (text) => done(String(text))).on('error', (error) => done(error.code));
      socket.bind(Number(from), () => socket.connect(Number(port), host, (error) => { if (!error) socket.send('?'); }));
    }
  });`;

function ip(...args: readonly string[]): void {
  host('ip', ...args);
}

function ruleset(): string {
  return host('nft', 'list', 'ruleset');
}

/** The node's own addresses and the host's view of a pod's. */
function setOutside(): void {
  ip('netns', 'add', OUTSIDE);
  ip('link', 'add', VETH, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', OUTSIDE);
  for (const address of [`${NODE4}/24`, `${NODE6}/64`])
    ip('addr', 'add', address, 'dev', VETH, ...(address.includes(':') ? ['nodad'] : []));
  ip('link', 'set', VETH, 'up');
  for (const address of [`${CLIENT4}/24`, `${CLIENT6}/64`])
    ip('-n', OUTSIDE, 'addr', 'add', address, 'dev', 'eth0', ...(address.includes(':') ? ['nodad'] : []));
  for (const device of ['lo', 'eth0']) ip('-n', OUTSIDE, 'link', 'set', device, 'up');
  for (const gateway of [NODE4, NODE6]) ip('-n', OUTSIDE, 'route', 'add', 'default', 'via', gateway);
}

describe('host ports that Berth maps', function () {
  this.timeout(120_000);
  let node: TestNode;
  let bridge = '';
  const peers: Peer[] = [];
  const clients = new Map<string, Peer>();
  let count = 0;

  const netnsOf = (pod: Pod): string => join(node.dir, 'run/ns', pod.id, 'net');
  const run = async (...portMappings: readonly Input<PortMapping>[]): Promise<Pod> =>
    await node.cri.runPod({ portMappings: portMappings.map((each) => ({ protocol: 'TCP', hostIp: '', ...each })) });
  /** A server in the pod; its name. */
  const serve = async (pod: Pod, port = 8080): Promise<string> => {
    const name = `server${++count}`;
    const peer = new Peer(netnsOf(pod), serverSource(name, port));
    peers.push(peer);
    assert.equal(await peer.line(), 'up');
    return name;
  };
  /** What a client hears; one client process for each namespace. */
  const hear = async (netns: string, request: string): Promise<string> => {
    const client = clients.get(netns) ?? new Peer(netns, CLIENT);
    clients.set(netns, client);
    return await client.ask(request);
  };
  const outside = (request: string): Promise<string> => hear(`/run/netns/${OUTSIDE}`, request);
  const onNode = (request: string): Promise<string> => hear('', request);
  const localnet = (): string => readFileSync(`/proc/sys/net/ipv4/conf/${bridge}/route_localnet`, 'utf8').trim();

  before(async () => {
    setOutside();
    node = await TestNode.boot({
      conflist: (own) => {
        bridge = own.bridge;
        const subnets = [...own.subnets, SUBNET6];
        const ipam = {
          type: 'host-local',
          dataDir: own.dataDir,
          ranges: subnets.map((subnet) => [{ subnet }]),
          routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
        };
        return JSON.stringify({
          cniVersion: '1.0.0',
          name: 'berth',
          plugins: [{ type: 'bridge', bridge, isGateway: true, hairpinMode: true, ipam }],
        });
      },
    });
  });

  afterEach(async () => {
    for (const each of [...peers.splice(0), ...clients.values()]) await each.close();
    clients.clear();
    await node.clear();
    assert.notInclude(ruleset(), 'berth', 'rules left');
    if (existsSync(`/proc/sys/net/ipv4/conf/${bridge}`)) assert.equal(localnet(), '0');
    assert.isFalse(existsSync(join(node.dir, 'root/cni/hostports.json')));
  });

  after(async () => {
    await node.close();
    ip('link', 'del', VETH);
    ip('netns', 'del', OUTSIDE);
  });

  it(
    'are reached from outside, from the node, from the pod itself and from its neighbours, by ' +
      'TCP and UDP, IPv4 and IPv6',
    async () => {
      const pod = await run(
        { containerPort: 8080, hostPort: TCP },
        { protocol: 'UDP', containerPort: 8080, hostPort: UDP },
        { protocol: 'SCTP', containerPort: 9, hostPort: TCP },
      );
      const neighbour = await run();
      const name = await serve(pod);
      const status = (await node.cri.pod(pod.id)).network;
      const [pod4 = '', pod6 = ''] = [status?.ip, ...(status?.additionalIps ?? []).map((each) => each.ip)];
      assert.match(`${pod4} ${pod6}`, /^10\.2.* fd00:b1:e4::/);
      // The node's addresses on the bridge: what masqueraded packets come from. The IPv6 one is tentative for a second
      // (duplicate address detection).
      const near4 = pod4.replace(/\d+\.\d+$/, '0.1');
      const near6 = 'fd00:b1:e4::1';
      await waitFor(
        () => onNode(`tcp ${pod6} 8080`),
        (heard) => heard.startsWith(name),
        'IPv6 on the bridge',
      );
      const cases: readonly (readonly [where: string, netns: string, address: string, seenAs: string])[] = [
        ['from outside', `/run/netns/${OUTSIDE}`, NODE4, CLIENT4],
        ['from outside', `/run/netns/${OUTSIDE}`, NODE6, CLIENT6],
        ['from outside to the bridge', `/run/netns/${OUTSIDE}`, near4, CLIENT4],
        ['from the node', '', NODE4, NODE4],
        ['from the node', '', NODE6, NODE6],
        ['from the node', '', '127.0.0.1', near4],
        ['from the node', '', '127.8.8.8', near4],
        ['from itself', netnsOf(pod), NODE4, near4],
        ['from itself', netnsOf(pod), NODE6, near6],
        ['from a neighbour', netnsOf(neighbour), NODE4, near4],
        ['from a neighbour', netnsOf(neighbour), NODE6, near6],
      ];
      for (const [where, netns, address, seenAs] of cases) {
        for (const request of [`tcp ${address} ${TCP}`, `udp ${address} ${UDP} 0`])
          assert.equal(await hear(netns, request), `${name} ${seenAs}`, `${where}: ${request}`);
      }
      assert.equal(await onNode(`tcp ::1 ${TCP}`), 'ECONNREFUSED', 'IPv6 has no way from ::1 to anywhere');
      assert.equal(await outside(`tcp ${NODE4} ${UDP}`), 'ECONNREFUSED', 'a UDP port is no TCP port');
      // This kernel has no SCTP to send.
      assert.include(
        host('nft', 'list', 'map', 'inet', 'berth_hostport', 'any4'),
        `sctp . ${TCP} comment "${pod.id}" : ${pod4} . 9`,
      );
      await node.cri.removePod(pod.id);
      for (const request of [`tcp ${NODE4} ${TCP}`, `tcp ${NODE6} ${TCP}`])
        assert.equal(await outside(request), 'ECONNREFUSED', request);
      assert.equal(await onNode(`tcp 127.0.0.1 ${TCP}`), 'ECONNREFUSED');
    },
  );

  it('are on one address if one is asked for', async () => {
    const pod = await run(
      { containerPort: 8080, hostPort: TCP, hostIp: NODE4 },
      { containerPort: 8080, hostPort: TCP + 1, hostIp: '127.0.0.1' },
      { containerPort: 8080, hostPort: TCP + 2, hostIp: NODE6 },
    );
    const name = await serve(pod);
    assert.equal(await outside(`tcp ${NODE4} ${TCP}`), `${name} ${CLIENT4}`);
    assert.equal(await outside(`tcp ${NODE6} ${TCP}`), 'ECONNREFUSED');
    assert.equal(await onNode(`tcp 127.0.0.1 ${TCP}`), 'ECONNREFUSED');
    assert.match(await onNode(`tcp 127.0.0.1 ${TCP + 1}`), new RegExp(`^${name} `));
    assert.equal(await outside(`tcp ${NODE4} ${TCP + 1}`), 'ECONNREFUSED');
    assert.equal(
      await waitFor(
        () => outside(`tcp ${NODE6} ${TCP + 2}`),
        (heard) => heard !== 'silence',
        'IPv6 on the bridge',
      ),
      `${name} ${CLIENT6}`,
    );
    assert.equal(await outside(`tcp ${NODE4} ${TCP + 2}`), 'ECONNREFUSED');
  });

  it('belong to one pod at a time', async () => {
    const first = await run({ containerPort: 8080, hostPort: TCP });
    const again = { containerPort: 80, hostPort: TCP, hostIp: NODE4 };
    const error = await refusal(
      run(again),
      `host port ${TCP}/tcp on ${NODE4} is taken by pod default/${first.config.metadata?.name} ` +
        `(host port ${TCP}/tcp, sandbox ${first.id})`,
    );
    assert.equal(error.codeName, 'ResourceExhausted');
    assert.lengthOf((await node.cri.rpc.listPodSandbox()).items, 1);
    await run({ protocol: 'UDP', containerPort: 80, hostPort: TCP });
    await node.cri.removePod(first.id);
    await run(again);
  });

  it('take UDP flows along that began before they came, and let go of those when they leave', async () => {
    // The kernel remembers flows only while somebody translates addresses.
    await run({ containerPort: 8080, hostPort: TCP });
    const onTheNode = new Peer('', serverSource('node', UDP));
    peers.push(onTheNode);
    assert.equal(await onTheNode.line(), 'up');
    // One flow for the kernel, from the same port each time.
    const flow = `udp ${NODE4} ${UDP} 40123`;
    assert.equal(await outside(flow), `node ${CLIENT4}`);
    const first = await run({ protocol: 'UDP', containerPort: 8080, hostPort: UDP });
    const one = await serve(first);
    assert.equal(await outside(flow), `${one} ${CLIENT4}`);
    await node.cri.removePod(first.id);
    const second = await run({ protocol: 'UDP', containerPort: 8080, hostPort: UDP });
    const two = await serve(second);
    assert.equal(await outside(flow), `${two} ${CLIENT4}`);
    await node.cri.removePod(second.id);
    assert.equal(await outside(flow), `node ${CLIENT4}`);
  });

  it('live through kill -9 of the daemon, and are given back by the next one', async () => {
    const [pod, other] = [
      await run({ containerPort: 8080, hostPort: TCP }),
      await run({ containerPort: 8080, hostPort: TCP + 1 }),
    ];
    const name = await serve(pod);
    await node.kill();
    assert.equal(await outside(`tcp ${NODE4} ${TCP}`), `${name} ${CLIENT4}`);
    await node.start();
    assert.equal(await outside(`tcp ${NODE4} ${TCP}`), `${name} ${CLIENT4}`);
    assert.match(await onNode(`tcp 127.0.0.1 ${TCP}`), new RegExp(`^${name} `));
    await refusal(run({ containerPort: 80, hostPort: TCP }), 'is taken by pod');
    await node.cri.removePod(other.id);
    assert.notInclude(ruleset(), other.id);
    assert.include(ruleset(), pod.id);
  });

  it('come back with the next pod after somebody flushed all rules', async () => {
    const pod = await run({ containerPort: 8080, hostPort: TCP });
    const name = await serve(pod);
    host('nft', 'flush', 'ruleset');
    assert.equal(await outside(`tcp ${NODE4} ${TCP}`), 'ECONNREFUSED');
    await run({ containerPort: 8080, hostPort: TCP + 1 });
    assert.equal(await outside(`tcp ${NODE4} ${TCP}`), `${name} ${CLIENT4}`);
    host('nft', 'flush', 'ruleset');
  });

  for (const point of ['cni.intent.after', 'cni.ports.after', 'cni.result.after']) {
    it(`are given back by a daemon after one that was killed at ${point}`, async () => {
      const survivor = await run({ containerPort: 8080, hostPort: TCP });
      const name = await serve(survivor);
      await node.restart({ BERTH_FAILPOINTS: `${point}=kill` });
      await run({ containerPort: 8080, hostPort: TCP + 1 }).then(
        () => assert.fail('the daemon lives'),
        () => {},
      );
      await node.died();
      await node.start();
      assert.lengthOf(/any4 \{[^}]*\{([^}]*)\}/s.exec(ruleset())?.[1]?.match(/comment/g) ?? [], 1, ruleset());
      assert.equal(await outside(`tcp ${NODE4} ${TCP}`), `${name} ${CLIENT4}`);
      await run({ containerPort: 8080, hostPort: TCP + 1 });
    });
  }

  it('of pods that nobody knows any more are swept at the start', async () => {
    const pod = await run({ containerPort: 8080, hostPort: TCP });
    await node.kill();
    await rm(join(node.dir, 'root/cni', `${pod.id}.jsonl`));
    await rm(join(node.dir, 'run/sandboxes', pod.id, 'record.json'));
    assert.include(ruleset(), pod.id);
    await node.start();
    assert.notInclude(ruleset(), 'berth');
    // Without its file nobody can give its address back.
    await rm(join(node.dir, 'ipam/berth'), { recursive: true });
    ip('link', 'del', bridge);
  });

  it('want nft, and say so; other pods do not mind', async () => {
    const path = join(node.dir, 'path');
    await mkdir(path);
    for (const tool of ['runc', 'iptables-save', 'ip6tables-save'])
      await symlink(host('which', tool).trim(), join(path, tool));
    await node.restart({ PATH: `${path}:/usr/bin:/bin` });
    const error = await refusal(run({ containerPort: 8080, hostPort: TCP }), /install the package nftables/);
    assert.equal(error.codeName, 'FailedPrecondition');
    assert.lengthOf((await node.cri.rpc.listPodSandbox()).items, 0);
    await run();
    await node.restart();
  });

  it('are left to others if the configuration says so', async () => {
    await reconfigure(node, '[crio.runtime]\ndisable_hostport_mapping = true\n');
    await run({ containerPort: 8080, hostPort: TCP });
    assert.notInclude(ruleset(), 'berth');
    await reconfigure(node, '');
  });

  it('CVE-2019-9946: take nothing from a service that has the port already', async () => {
    const [pod, backend] = [await run({ containerPort: 8080, hostPort: TCP }), await run()];
    const [mine, theirs] = [await serve(pod), await serve(backend)];
    const address = (await node.cri.pod(backend.id)).network?.ip ?? '';
    host('nft', 'add table ip services; add chain ip services nodeports { type nat hook prerouting priority dstnat; }');
    host('nft', `add rule ip services nodeports ip daddr ${NODE4} tcp dport ${TCP} dnat to ${address}:8080`);
    assert.equal(await outside(`tcp ${NODE4} ${TCP}`), `${theirs} ${CLIENT4}`);
    host('nft', 'delete table ip services');
    assert.equal(await outside(`tcp ${NODE4} ${TCP}`), `${mine} ${CLIENT4}`);
  });

  it('CVE-2020-8558: open nothing that listens on 127.0.0.1 to the pods', async () => {
    const pod = await run({ containerPort: 8080, hostPort: TCP, hostIp: '127.0.0.1' });
    const attacker = await run();
    await serve(pod);
    const secret = new Peer(
      '',
      `require('net').createServer((socket) => socket.end('secret')).listen(${TCP + 1}, ` +
        `'127.0.0.1', () => console.log('up'))`,
    );
    peers.push(secret);
    assert.equal(await secret.line(), 'up');
    assert.equal(localnet(), '1');
    // As root in its network namespace, a pod may send what it likes to the node's bridge.
    const inside = (...command: readonly string[]): string => host('nsenter', `--net=${netnsOf(attacker)}`, ...command);
    inside('ip', 'addr', 'flush', 'dev', 'lo');
    inside('sh', '-c', 'echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet');
    const gateway = (await node.cri.pod(attacker.id)).network?.ip.replace(/\d+\.\d+$/, '0.1') ?? '';
    inside('ip', 'route', 'add', '127.0.0.1', 'via', gateway, 'dev', 'eth0');
    const attack = (port: number): Promise<string> => hear(netnsOf(attacker), `tcp 127.0.0.1 ${port}`);
    assert.deepEqual([await attack(TCP + 1), await attack(TCP)], ['silence', 'silence']);
    host('nft', 'flush chain inet berth_hostport input');
    assert.equal(await attack(TCP + 1), 'secret', 'without the guard it would');
  });
});
