import { expect } from 'chai';
import { mkdir, mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { explain } from '../../base/errors.ts';
import { formatReference, parseName, parseReference, withDefaultTag } from '../../oci/reference.ts';
import { failure, RecordingLog, testOp } from '../fakes.ts';
import { proxyFor } from './proxy.ts';
import { parseRegistries } from './registries-conf.ts';
import { RegistryPolicy } from './policy.ts';
import type { PolicyOptions } from './policy.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;

describe('image/policy', () => {
  let directory: string;
  beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'policy-'))));
  afterEach(() => rm(directory, { recursive: true }));

  const put = async (name: string, text: string): Promise<string> => {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), text);
    return join(directory, name);
  };
  const make = (options: Partial<PolicyOptions> = {}): RegistryPolicy =>
    new RegistryPolicy({
      registriesConf: join(directory, 'registries.conf'),
      registriesConfDir: join(directory, 'registries.conf.d'),
      certsDirs: [join(directory, 'certs.d')],
      hostsDirs: [join(directory, 'hosts')],
      ...options,
    });
  const loaded = async (text: string, options: Partial<PolicyOptions> = {}): Promise<RegistryPolicy> => {
    await put('registries.conf', text);
    const policy = make(options);
    await policy.refresh(testOp());
    return policy;
  };
  /** `root repository kind` of each endpoint. */
  const where = async (policy: RegistryPolicy, text: string): Promise<string[]> =>
    (await policy.endpoints(withDefaultTag(parseReference(text)))).map(
      ({ root, repository, kind, security }) =>
        `${root} ${repository} ${kind}${security === 'insecure' ? ' insecure' : ''}`,
    );

  it('without any file: docker.io for short names, https everywhere', async () => {
    const policy = make();
    await policy.refresh(testOp());
    expect(policy.resolve('busybox').map(formatReference)).to.deep.equal(['docker.io/library/busybox:latest']);
    expect(await where(policy, 'busybox')).to.deep.equal(['https://registry-1.docker.io/v2 library/busybox registry']);
    expect(await where(policy, 'localhost:5000/a/b:1')).to.deep.equal(['https://localhost:5000/v2 a/b registry']);
  });

  it('reads the file that CONTAINERS_REGISTRIES_CONF names instead', async () => {
    const named = await put('other.conf', '[[registry]]\nlocation = "reg.example"\ninsecure = true\n');
    const policy = await loaded('[[registry]]\nlocation = "reg.example"\nblocked = true\n', {
      environment: { CONTAINERS_REGISTRIES_CONF: named },
    });
    expect(await where(policy, 'reg.example/x:1')).to.deep.equal(['https://reg.example/v2 x registry insecure']);
  });

  it('picks the longest prefix, rewrites by location, marks insecure', async () => {
    const policy = await loaded(`
      [[registry]]
      prefix = "reg.example"
      location = "outer.example"
      [[registry]]
      prefix = "reg.example/team"
      location = "inner.example:5000/copy"
      insecure = true
      [[registry]]
      location = "bare.example"
      insecure = true
    `);
    expect(await where(policy, 'reg.example/x/y:1')).to.deep.equal(['https://outer.example/v2 x/y registry']);
    expect(await where(policy, 'reg.example/team/y:1')).to.deep.equal([
      'https://inner.example:5000/v2 copy/y registry insecure',
    ]);
    expect(await where(policy, 'reg.example/teammates:1')).to.deep.equal([
      'https://outer.example/v2 teammates registry',
    ]);
    expect(await where(policy, 'bare.example/z')).to.deep.equal(['https://bare.example/v2 z registry insecure']);
    expect(await where(policy, 'reg.example.evil/x')).to.deep.equal(['https://reg.example.evil/v2 x registry']);
  });

  it('matches subdomains by wildcard', async () => {
    const policy = await loaded(
      '[[registry]]\nprefix = "*.example"\nblocked = true\n[[registry]]\nprefix = "good.example"\n',
    );
    expect((await failure(policy.endpoints(parseReference('a.b.example/x')))).message).to.match(
      /"\*\.example" is blocked/,
    );
    expect((await failure(policy.endpoints(parseReference('bad.example/x')))).code).to.equal('PermissionDenied');
    expect(await where(policy, 'good.example/x')).to.have.length(1);
    expect(await where(policy, 'example.com/x')).to.have.length(1);
  });

  it('asks mirrors first, by what they are for', async () => {
    const policy = await loaded(`
      [[registry]]
      prefix = "docker.io"
      [[registry.mirror]]
      location = "all.example/hub"
      insecure = true
      [[registry.mirror]]
      location = "digests.example"
      pull-from-mirror = "digest-only"
      [[registry.mirror]]
      location = "tags.example"
      pull-from-mirror = "tag-only"
      [[registry]]
      prefix = "old.example"
      mirror-by-digest-only = true
      [[registry.mirror]]
      location = "m.example"
    `);
    const own = 'https://registry-1.docker.io/v2 library/busybox registry';
    expect(await where(policy, 'busybox:1')).to.deep.equal([
      'https://all.example/v2 hub/library/busybox mirror insecure',
      'https://tags.example/v2 library/busybox mirror',
      own,
    ]);
    expect(await where(policy, `busybox@${DIGEST}`)).to.deep.equal([
      'https://all.example/v2 hub/library/busybox mirror insecure',
      'https://digests.example/v2 library/busybox mirror',
      own,
    ]);
    expect(await where(policy, 'old.example/x:1')).to.deep.equal(['https://old.example/v2 x registry']);
    expect(await where(policy, `old.example/x@${DIGEST}`)).to.deep.equal([
      'https://m.example/v2 x mirror',
      'https://old.example/v2 x registry',
    ]);
  });

  it('resolves short names by alias, then by search, and refuses what is ambiguous', async () => {
    await put(
      'registries.conf.d/01.conf',
      '[aliases]\nfoo = "quay.io/team/foo"\n"team/bar" = "ghcr.io/x/bar"\ngone = "a.example/gone"\n',
    );
    await put(
      'registries.conf.d/02.conf',
      'unqualified-search-registries = ["one.example", "docker.io"]\n[aliases]\ngone = ""\n',
    );
    await put('registries.conf.d/ignored.txt', 'not toml {{');
    const policy = await loaded('unqualified-search-registries = ["never.example"]\nshort-name-mode = "permissive"\n');
    const names = (text: string): string[] => policy.resolve(text).map(formatReference);
    expect(names('foo:2')).to.deep.equal(['quay.io/team/foo:2']);
    expect(names(`team/bar@${DIGEST}`)).to.deep.equal([`ghcr.io/x/bar@${DIGEST}`]);
    expect(names('gone')).to.deep.equal(['one.example/gone:latest', 'docker.io/library/gone:latest']);
    expect(names('full.example/x')).to.deep.equal(['full.example/x:latest']);

    const strict = await loaded('unqualified-search-registries = ["one.example", "docker.io"]\n');
    expect(() => strict.resolve('busybox')).to.throw(/any of "one\.example, docker\.io"/);
    const empty = await loaded('unqualified-search-registries = []\n');
    await rm(join(directory, 'registries.conf.d'), { recursive: true });
    await empty.refresh(testOp());
    expect(() => empty.resolve('busybox')).to.throw(/names no registry/);
    expect(empty.candidates(parseName('busybox'))).to.deep.equal([]);
  });

  it('reads the old version 1 file', async () => {
    const policy = await loaded(
      '[registries.search]\nregistries = ["s.example"]\n[registries.insecure]\nregistries = ' +
        '["i.example"]\n[registries.block]\nregistries = ["b.example"]\n',
    );
    expect(policy.resolve('x').map(formatReference)).to.deep.equal(['s.example/x:latest']);
    expect(await where(policy, 'i.example/x')).to.deep.equal(['https://i.example/v2 x registry insecure']);
    expect((await failure(policy.endpoints(parseReference('b.example/x')))).code).to.equal('PermissionDenied');
  });

  it('is read again when it changes, and survives a bad change', async () => {
    const log = new RecordingLog();
    const policy = await loaded('[[registry]]\nlocation = "a.example"\nblocked = true\n');
    await failure(policy.endpoints(parseReference('a.example/x')));
    await put('registries.conf', '[[registry]]\nlocation = "a.example"\nblocked = "maybe"\n');
    await policy.refresh(testOp(log));
    expect(log.lines).to.deep.equal([
      'error registries configuration cannot be read, the last good one stays in force',
    ]);
    await failure(policy.endpoints(parseReference('a.example/x')));
    const file = await put('registries.conf', '[[registry]]\nlocation = "a.example"\n# good again\n');
    await utimes(file, 1, 1);
    await policy.refresh(testOp(log));
    expect(await where(policy, 'a.example/x')).to.have.length(1);
    expect(log.lines).to.have.length(1);
  });

  it('names file and place of a mistake', async () => {
    const rows: readonly (readonly [string, RegExp])[] = [
      ['[[registry]\n', /c\.conf is not valid TOML/],
      ['registry = 1', /\[\[registry\]\]/],
      ['[[registry]]\nblocked = true', /neither prefix nor location/],
      ['[[registry]]\nlocation = "https://x"', /must not have a scheme/],
      ['[[registry]]\nlocation = "a b"', /does not start with a registry host/],
      ['[[registry]]\nlocation = "x.example"\n[[registry]]\nprefix = "x.example"', /given twice/],
      ['[[registry]]\nlocation = "x"\n[[registry.mirror]]\ninsecure = true', /has no location/],
      [
        '[[registry]]\nlocation = "x"\n[[registry.mirror]]\nlocation = "y"\npull-from-mirror = "x"',
        /must be all, digest-only or tag-only/,
      ],
      ['short-name-mode = "x"', /short-name-mode/],
      ['unqualified-search-registries = "docker.io"', /must be a list/],
      ['[aliases]\nx = 1', /alias/],
    ];
    for (const [text, why] of rows)
      expect(() => parseRegistries(text, '/c.conf'), text)
        .to.throw(why)
        .with.property('code', 'FailedPrecondition');
    await put('registries.conf', '[[registry]\n');
    expect(explain(await failure(make().refresh(testOp())))).to.match(
      /registries\.conf is not valid TOML, line 1, column \d+: .*expected/,
    );
  });

  it('reads containerd’s hosts.toml where registries.conf says nothing', async () => {
    await put('ca.pem', 'CA');
    await put(
      'hosts/docker.io/hosts.toml',
      `
      server = "https://docker.io"
      [host."https://mirror.example/hub"]
      capabilities = ["pull", "resolve"]
      ca = "${directory}/ca.pem"
      dial_timeout = "3s"
      [host."https://mirror.example/hub".header]
      X-Key = ["a", "b"]
      [host."http://plain.example:5000/v2"]
      skip_verify = true
      [host."https://push.example"]
      capabilities = ["push"]
      [host."https://odd.example/api"]
      override_path = true
    `,
    );
    await put('hosts/_default/hosts.toml', '[host."https://any.example"]\n');
    const policy = make();
    expect(await where(policy, 'busybox:1')).to.deep.equal([
      'https://mirror.example/hub/v2 library/busybox mirror',
      'http://plain.example:5000/v2 library/busybox mirror',
      'https://odd.example/api library/busybox mirror',
      'https://registry-1.docker.io/v2 library/busybox registry',
    ]);
    const [first] = await policy.endpoints(parseReference('busybox:1'));
    expect(first?.headers).to.deep.equal({ 'x-key': 'a, b' });
    expect(first?.namespace).to.equal('docker.io');
    expect(first?.routeOf(new URL('https://mirror.example/'))).to.deep.include({ ca: ['CA'], dialTimeoutMs: 3000 });
    expect(await where(policy, 'other.example:444/x')).to.deep.equal([
      'https://any.example/v2 x mirror',
      'https://other.example:444/v2 x registry',
    ]);
    await put('hosts/bad.example/hosts.toml', '[host."ftp://x"]\n');
    expect((await failure(policy.endpoints(parseReference('bad.example/x')))).message).to.match(
      /hosts\.toml: host "ftp:\/\/x"/,
    );
  });

  it('reads certificates from certs.d', async () => {
    await put('certs.d/reg.example:5000/ca.crt', 'CA');
    await put('certs.d/reg.example:5000/client.cert', 'CERT');
    await put('certs.d/reg.example:5000/client.key', 'KEY');
    await put('certs.d/lonely.example/client.cert', 'CERT');
    const policy = make({ environment: { HTTPS_PROXY: 'http://p:1' } });
    const [endpoint] = await policy.endpoints(parseReference('reg.example:5000/x'));
    expect(endpoint?.routeOf(new URL('https://reg.example:5000/'))).to.deep.include({
      ca: ['CA'],
      clientCertificates: [{ cert: 'CERT', key: 'KEY' }],
      verification: 'verify',
    });
    expect((await failure(policy.endpoints(parseReference('lonely.example/x')))).message).to.contain('client.key');
    const url = new URL('https://reg.example:5000/lookaside/x');
    expect((await policy.routesTo(url))(url)).to.deep.include({
      ca: ['CA'],
      verification: 'verify',
      proxy: 'http://p:1',
    });
  });

  it('chooses proxies as Go does', () => {
    const environment = {
      HTTPS_PROXY: 'http://p:1',
      http_proxy: 'http://q:2',
      NO_PROXY: 'internal.example, .corp, 10.0.0.0/8,exact.example:8443, *.star.example,fd00::/8',
    };
    const proxy = (url: string, env: Record<string, string> = environment): string | undefined =>
      proxyFor(new URL(url), env);
    expect(proxy('https://reg.example/')).to.equal('http://p:1');
    expect(proxy('http://reg.example/')).to.equal('http://q:2');
    for (const direct of [
      'https://internal.example/',
      'https://a.internal.example/',
      'https://x.corp/',
      'https://10.1.2.3/',
      'https://exact.example:8443/',
      'https://a.star.example/',
      'https://localhost:5000/',
      'http://127.0.0.1:5000/',
      'https://[::1]/',
      'https://[fd00::1]/',
    ])
      expect(proxy(direct), direct).to.equal(undefined);
    for (const through of [
      'https://notinternal.example/',
      'https://corp/',
      'https://11.1.2.3/',
      'https://exact.example/',
    ])
      expect(proxy(through), through).to.equal('http://p:1');
    expect(proxy('https://reg.example/', { HTTPS_PROXY: 'http://p:1', NO_PROXY: '*' })).to.equal(undefined);
    expect(proxy('https://reg.example/', {})).to.equal(undefined);
  });
});
