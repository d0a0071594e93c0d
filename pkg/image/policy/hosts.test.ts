import { expect } from 'chai';
import { stringify } from 'smol-toml';
import { describeEmptiness } from '../../base/fake-emptiness.ts';
import { failure, testOp } from '../fakes.ts';
import { PolicyGround, TEST_CERTIFICATE, TEST_KEY } from './fakes.ts';
import { readHostsToml } from './hosts.ts';

describe('image/policy/hosts', () => {
  let ground: PolicyGround;
  beforeEach(async () => (ground = await PolicyGround.make()));
  afterEach(() => ground.remove());
  const where = (name: string): Promise<string[]> => ground.where(ground.policy(), name);

  it('reads containerd’s hosts.toml where registries.conf says nothing', async () => {
    await ground.put('ca.pem', TEST_CERTIFICATE);
    await ground.put(
      'hosts/docker.io/hosts.toml',
      `
      server = "https://docker.io"
      [host."https://mirror.example/hub"]
      capabilities = ["pull", "Resolve"]
      ca = "${ground.directory}/ca.pem"
      dial_timeout = "1m3s"
      [host."https://mirror.example/hub".header]
      X-Key = ["a", "b"]
      [host."http://plain.example:5000/v2"]
      skip_verify = true
      [host."https://push.example"]
      capabilities = ["push"]
      [host."https://odd.example/api"]
      override_path = true
      capabilities = []
    `,
    );
    await ground.put('hosts/_default/hosts.toml', '[host."https://any.example"]\n');
    expect(await where('busybox:1')).to.deep.equal([
      'https://mirror.example/hub/v2 library/busybox mirror',
      'http://plain.example:5000/v2 library/busybox mirror',
      'https://odd.example/api library/busybox mirror',
      'https://registry-1.docker.io/v2 library/busybox registry',
    ]);
    const [first] = await ground.endpoints(ground.policy(), 'busybox:1');
    expect(first?.headers).to.deep.equal({ 'x-key': 'a, b' });
    expect(first?.namespace).to.equal('docker.io');
    expect(first?.routeOf(new URL('https://mirror.example/'))).to.deep.include({
      ca: [TEST_CERTIFICATE],
      dialTimeoutMs: 63_000,
    });
    expect(await where('other.example:444/x')).to.deep.equal([
      'https://any.example/v2 x mirror',
      'https://other.example:444/v2 x registry',
    ]);
  });

  it('tells what a mirror is good for', async () => {
    await ground.put(
      'hosts/q.example/hosts.toml',
      '[host."http://127.0.0.1:5001"]\ncapabilities = ["pull"]\n' +
        '[host."http://127.0.0.1:5002"]\ncapabilities = ["resolve"]\n' +
        // containerd 2.2 names what its other clients may ask for, by default, too.
        '[host."http://127.0.0.1:5003"]\ncapabilities = ["pull", "resolve", "push", "referrers"]\n' +
        '[host."http://127.0.0.1:5004"]\ncapabilities = ["referrers"]\n',
    );
    expect(await where('q.example/x:1')).to.deep.equal([
      'http://127.0.0.1:5001/v2 x mirror content',
      'http://127.0.0.1:5002/v2 x mirror tags',
      'http://127.0.0.1:5003/v2 x mirror',
      'https://q.example/v2 x registry',
    ]);
  });

  it('without a server means the registry itself, by what the file says of it', async () => {
    await ground.put('hosts/reg.example/hosts.toml', 'server = ""\nca = "own.pem"\nskip_verify = true\n');
    await ground.put('hosts/reg.example/own.pem', TEST_CERTIFICATE);
    const [only, ...more] = await ground.endpoints(ground.policy(), 'reg.example/x');
    expect([only?.root, only?.kind, more.length]).to.deep.equal(['https://reg.example/v2', 'registry', 0]);
    const route = only?.routeOf(new URL('https://reg.example/'));
    expect(route).to.deep.include({ ca: [TEST_CERTIFICATE], verification: 'skip' });
  });

  it('leaves a mirror with a mistake out, and warns', async () => {
    await ground.put(
      'hosts/reg.example/hosts.toml',
      '[host."ftp://x"]\n[host."https://m1.example"]\nca = "absent.pem"\n[host."https://m2.example"]\n' +
        'capabilities = ["fly"]\n[host."https://m3.example"]\ndial_timeout = "soon"\n[host."https://good.example"]\n',
    );
    expect(await where('reg.example/x')).to.deep.equal([
      'https://good.example/v2 x mirror',
      'https://reg.example/v2 x registry',
    ]);
    const why = [
      /ftp:\/\/x.* is not an http/,
      /absent\.pem cannot be read/,
      /fly.* is none of/,
      /dial_timeout must be/,
    ];
    for (const [index, each] of why.entries())
      expect(ground.log.full[index])
        .to.match(/^warn .*reg\.example\/hosts\.toml/)
        .and.match(each);
    expect(ground.log.full).to.have.length(why.length);
  });

  it('that cannot be read at all costs the file, but never leads to another server than it may name', async () => {
    const bad = '[host."https://m.example"\n';
    for (const server of ['', 'server = "https://reg.example"\n', 'server = "https://reg.example/"\n']) {
      await ground.put('hosts/reg.example/hosts.toml', `${server}${bad}`);
      expect(await where('reg.example/x')).to.deep.equal(['https://reg.example/v2 x registry']);
    }
    expect(ground.log.full[0]).to.match(/^warn hosts\.toml cannot be read, it is left out .*reg\.example\/hosts\.toml/);
    for (const server of ['server = "https://inner.example"\n', "Server = 'http://reg.example'\n", 'server = [\n']) {
      await ground.put('hosts/reg.example/hosts.toml', `${server}${bad}`);
      expect((await failure(ground.endpoints(ground.policy(), 'reg.example/x'))).message).to.match(/hosts\.toml/);
    }
    expect(await where('other.example/x')).to.have.length(1);
  });
});

describe('image/policy/hosts: every key', () => {
  let ground: PolicyGround;
  before(async () => {
    ground = await PolicyGround.make();
    await ground.put('hosts/reg.example/cert.pem', TEST_CERTIFICATE);
    await ground.put('hosts/reg.example/key.pem', TEST_KEY);
  });
  after(() => ground.remove());

  const host = {
    capabilities: ['pull'],
    ca: ['cert.pem'],
    client: [['cert.pem', 'key.pem']],
    skip_verify: true,
    override_path: true,
    dial_timeout: '7s',
    header: { 'x-key': 'a' },
  };
  const rules = (at: string): Record<string, 'unset'> =>
    Object.fromEntries(
      ['capabilities', 'ca', 'client', 'skip_verify', 'override_path', 'dial_timeout', 'header', 'header.*'].map(
        (key) => [`${at}${key}`, 'unset'],
      ),
    );
  describeEmptiness({
    name: 'hosts.toml',
    notation: 'toml',
    samples: [{ server: 'https://server.example/below', ...host, host: { 'https://m.example/below': host } }],
    names: ['host', 'header', 'host.*.header'],
    read: async (document) => {
      await ground.put('hosts/reg.example/hosts.toml', stringify(document));
      return await readHostsToml(testOp(), [`${ground.directory}/hosts`], 'reg.example');
    },
    keys: {
      server: 'unset',
      ...rules(''),
      'header.*': { absent: 'unset', empty: 'own', why: 'a header with nothing in it' },
      host: 'unset',
      'host.*': 'unset',
      ...rules('host.*.'),
      'host.*.header.*': { absent: 'unset', empty: 'own', why: 'a header with nothing in it' },
    },
  });
});
