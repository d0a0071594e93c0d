import { expect } from 'chai';
import { rm, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { formatReference, parseName } from '../../oci/reference.ts';
import { failure, testOp } from '../fakes.ts';
import { PolicyGround } from './fakes.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;

describe('image/policy', () => {
  let ground: PolicyGround;
  beforeEach(async () => (ground = await PolicyGround.make()));
  afterEach(() => ground.remove());

  it('without any file: docker.io for short names, https everywhere', async () => {
    const policy = ground.policy();
    await policy.refresh(testOp());
    expect(policy.resolve('busybox').map(formatReference)).to.deep.equal(['docker.io/library/busybox:latest']);
    expect(await ground.where(policy, 'busybox')).to.deep.equal([
      'https://registry-1.docker.io/v2 library/busybox registry',
    ]);
    expect(await ground.where(policy, 'localhost:5000/a/b:1')).to.deep.equal([
      'https://localhost:5000/v2 a/b registry',
    ]);
  });

  it('reads the file that CONTAINERS_REGISTRIES_CONF names instead', async () => {
    const named = await ground.put('other.conf', '[[registry]]\nlocation = "reg.example"\ninsecure = true\n');
    const policy = await ground.loaded('[[registry]]\nlocation = "reg.example"\nblocked = true\n', {
      environment: { CONTAINERS_REGISTRIES_CONF: named },
    });
    expect(await ground.where(policy, 'reg.example/x:1')).to.deep.equal(['https://reg.example/v2 x registry insecure']);
  });

  it('picks the longest prefix, rewrites by location, marks insecure', async () => {
    const policy = await ground.loaded(`
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
    expect(await ground.where(policy, 'reg.example/x/y:1')).to.deep.equal(['https://outer.example/v2 x/y registry']);
    expect(await ground.where(policy, 'reg.example/team/y:1')).to.deep.equal([
      'https://inner.example:5000/v2 copy/y registry insecure',
    ]);
    expect(await ground.where(policy, 'reg.example/teammates:1')).to.deep.equal([
      'https://outer.example/v2 teammates registry',
    ]);
    expect(await ground.where(policy, 'bare.example/z')).to.deep.equal(['https://bare.example/v2 z registry insecure']);
    expect(await ground.where(policy, 'reg.example.evil/x')).to.deep.equal(['https://reg.example.evil/v2 x registry']);
  });

  it('loses of what leads to no host that place, and nothing else', async () => {
    const policy = await ground.loaded(`
      [[registry]]
      location = "docker.io"
      [[registry.mirror]]
      location = "my_mirror:5000"
      [[registry.mirror]]
      location = "mirror/hub"
      [[registry.mirror]]
      location = "good.example/hub"
      [[registry]]
      location = "*.example.org"
      [[registry]]
      prefix = "moved.example"
      location = "elsewhere"
    `);
    expect(await ground.where(policy, 'busybox')).to.deep.equal([
      'https://good.example/v2 hub/library/busybox mirror',
      'https://registry-1.docker.io/v2 library/busybox registry',
    ]);
    expect(ground.log.full.filter((line) => line.startsWith('warn'))).to.have.length(2);
    for (const [index, place] of ['my_mirror:5000/library/busybox', 'mirror/hub/library/busybox'].entries())
      expect(ground.log.full[index])
        .to.match(/^warn a mirror in registries\.conf cannot be used/)
        .and.contain(place);
    expect(await ground.where(policy, 'other.example/x')).to.have.length(1);
    // Docker Hub's "elsewhere/x" is not what is wanted.
    const error = await failure(ground.endpoints(policy, 'moved.example/x'));
    expect([error.code, error.message]).to.deep.equal([
      'FailedPrecondition',
      'registries.conf leads to "elsewhere/x", which does not begin with a registry host; a name without a dot needs ' +
        'a port',
    ]);
  });

  it('matches subdomains by wildcard', async () => {
    const policy = await ground.loaded(
      '[[registry]]\nprefix = "*.example"\nblocked = true\n[[registry]]\nprefix = "good.example"\n',
    );
    expect((await failure(ground.endpoints(policy, 'a.b.example/x'))).message).to.match(/"\*\.example" is blocked/);
    expect((await failure(ground.endpoints(policy, 'bad.example/x'))).code).to.equal('PermissionDenied');
    expect(await ground.where(policy, 'good.example/x')).to.have.length(1);
    expect(await ground.where(policy, 'example.com/x')).to.have.length(1);
  });

  it('asks mirrors first, by what they are for', async () => {
    const policy = await ground.loaded(`
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
    expect(await ground.where(policy, 'busybox:1')).to.deep.equal([
      'https://all.example/v2 hub/library/busybox mirror insecure',
      'https://tags.example/v2 library/busybox mirror',
      own,
    ]);
    expect(await ground.where(policy, `busybox@${DIGEST}`)).to.deep.equal([
      'https://all.example/v2 hub/library/busybox mirror insecure',
      'https://digests.example/v2 library/busybox mirror',
      own,
    ]);
    expect(await ground.where(policy, 'old.example/x:1')).to.deep.equal(['https://old.example/v2 x registry']);
    expect(await ground.where(policy, `old.example/x@${DIGEST}`)).to.deep.equal([
      'https://m.example/v2 x mirror',
      'https://old.example/v2 x registry',
    ]);
  });

  it('resolves short names by alias, then by search, and refuses what is ambiguous', async () => {
    await ground.put(
      'registries.conf.d/01.conf',
      '[aliases]\nfoo = "quay.io/team/foo"\n"team/bar" = "ghcr.io/x/bar"\ngone = "a.example/gone"\n',
    );
    await ground.put(
      'registries.conf.d/02.conf',
      'unqualified-search-registries = ["one.example", "docker.io"]\n[aliases]\ngone = ""\n',
    );
    await ground.put('registries.conf.d/ignored.txt', 'not toml {{');
    const policy = await ground.loaded(
      'unqualified-search-registries = ["never.example"]\nshort-name-mode = "permissive"\n',
    );
    const names = (text: string): string[] => policy.resolve(text).map(formatReference);
    expect(names('foo:2')).to.deep.equal(['quay.io/team/foo:2']);
    expect(names(`team/bar@${DIGEST}`)).to.deep.equal([`ghcr.io/x/bar@${DIGEST}`]);
    expect(names('gone')).to.deep.equal(['one.example/gone:latest', 'docker.io/library/gone:latest']);
    expect(names('full.example/x')).to.deep.equal(['full.example/x:latest']);

    const strict = await ground.loaded('unqualified-search-registries = ["one.example", "docker.io"]\n');
    expect(() => strict.resolve('busybox')).to.throw(/any of "one\.example, docker\.io"/);
    const empty = await ground.loaded('unqualified-search-registries = []\n');
    await rm(join(ground.directory, 'registries.conf.d'), { recursive: true });
    await empty.refresh(testOp());
    expect(() => empty.resolve('busybox')).to.throw(/names no registry/);
    expect(empty.candidates(parseName('busybox'))).to.deep.equal([]);
  });

  it('reads the old version 1 file', async () => {
    const policy = await ground.loaded(
      '[registries.search]\nregistries = ["s.example"]\n[registries.insecure]\nregistries = ' +
        '["i.example"]\n[registries.block]\nregistries = ["b.example"]\n',
    );
    expect(policy.resolve('x').map(formatReference)).to.deep.equal(['s.example/x:latest']);
    expect(await ground.where(policy, 'i.example/x')).to.deep.equal(['https://i.example/v2 x registry insecure']);
    expect((await failure(ground.endpoints(policy, 'b.example/x'))).code).to.equal('PermissionDenied');
  });

  it('is read again when it changes, and survives a bad change', async () => {
    const policy = await ground.loaded('[[registry]]\nlocation = "a.example"\nblocked = true\n');
    await failure(ground.endpoints(policy, 'a.example/x'));
    await ground.put('registries.conf', '[[registry]]\nlocation = "a.example"\nblocked = "maybe"\n');
    await policy.refresh(testOp(ground.log));
    expect(ground.log.lines).to.deep.equal([
      'error registries configuration cannot be read, the last good one stays in force',
    ]);
    await failure(ground.endpoints(policy, 'a.example/x'));
    const file = await ground.put('registries.conf', '[[registry]]\nlocation = "a.example"\n# good again\n');
    await utimes(file, 1, 1);
    await policy.refresh(testOp(ground.log));
    expect(await ground.where(policy, 'a.example/x')).to.have.length(1);
    expect(ground.log.lines).to.have.length(1);
  });

  it('reads the file of an OpenShift node: empty text is not set', async () => {
    const policy = await ground.loaded(`
      unqualified-search-registries = ["registry.access.example", "docker.io", ""]
      short-name-mode = ""
      [[registry]]
        prefix = ""
        location = "127.0.0.1:5000"
        insecure = true
      [[registry]]
        prefix = ""
        location = "registry.access.example/ubi9/ubi"
        [[registry.mirror]]
          location = "127.0.0.1:5000/mirror/ubi"
          insecure = true
          pull-from-mirror = "digest-only"
      [[registry]]
        location = "q.example"
        mirror-by-digest-only = true
        [[registry.mirror]]
          location = "127.0.0.1:5000/plain"
          insecure = true
          pull-from-mirror = ""
      [[registry]]
        location = "r.example"
        [[registry.mirror]]
          location = "127.0.0.1:5000/plain"
          insecure = true
          pull-from-mirror = ""
    `);
    const own = 'https://registry.access.example/v2 ubi9/ubi registry';
    expect(await ground.where(policy, 'registry.access.example/ubi9/ubi:1')).to.deep.equal([own]);
    expect(await ground.where(policy, `registry.access.example/ubi9/ubi@${DIGEST}`)).to.deep.equal([
      'https://127.0.0.1:5000/v2 mirror/ubi mirror insecure',
      own,
    ]);
    const plain = 'https://127.0.0.1:5000/v2 plain/x mirror insecure';
    expect(await ground.where(policy, 'q.example/x:1')).to.deep.equal(['https://q.example/v2 x registry']);
    expect((await ground.where(policy, `q.example/x@${DIGEST}`))[0]).to.equal(plain);
    expect((await ground.where(policy, 'r.example/x:1'))[0]).to.equal(plain);
    expect(() => policy.resolve('busybox')).to.throw(/could mean/);
  });

  it('searches below a path, too', async () => {
    const policy = await ground.loaded('unqualified-search-registries = ["reg.example:5000/team/"]\n');
    expect(policy.resolve('x/y:1').map(formatReference)).to.deep.equal(['reg.example:5000/team/x/y:1']);
  });

  describe('a drop-in that was never right', () => {
    const good = '[[registry]]\nlocation = "good.example"\ninsecure = true\n';

    it('costs itself, with a warning that names it, once', async () => {
      await ground.put('registries.conf.d/10.conf', '[aliases]\nx = "one.example/x"\n');
      await ground.put('registries.conf.d/20.conf', '[[registry]]\nlocation = "bad.example"\ninsecure = "maybe"\n');
      await ground.put('registries.conf.d/30.conf', '[aliases]\ny = "two.example/y"\n');
      const policy = await ground.loaded(good);
      await policy.refresh(testOp(ground.log));
      expect(ground.log.full).to.deep.equal([
        'warn a file of the registries configuration cannot be read, it is left out ' +
          `{"error":"${ground.directory}/registries.conf.d/20.conf: insecure must be true or false"}`,
      ]);
      expect(policy.resolve('x').map(formatReference)).to.deep.equal(['one.example/x:latest']);
      expect(policy.resolve('y').map(formatReference)).to.deep.equal(['two.example/y:latest']);
      expect(await ground.where(policy, 'good.example/x')).to.deep.equal([
        'https://good.example/v2 x registry insecure',
      ]);
      expect(await ground.where(policy, 'bad.example/x')).to.deep.equal(['https://bad.example/v2 x registry']);
    });

    it('keeps what it may block or redirect from being pulled, and nothing else', async () => {
      await ground.put(
        'registries.conf.d/1.conf',
        '[[registry]]\nprefix = "*.Wild.example"\nblocked = tru\n[[registry]]\nlocation = "bad.example/team"\n',
      );
      await ground.put('registries.conf.d/2.conf', '[[registry]\nprefix = "docker.io"\nlocation = "inner.example"\n');
      const policy = await ground.loaded(good);
      for (const name of ['a.b.wild.example:5000/x', 'bad.example/other', 'busybox']) {
        const error = await failure(ground.endpoints(policy, name));
        expect([error.code, error.message], name).to.satisfy(
          ([code, message]: [string, string]) =>
            code === 'FailedPrecondition' && /registries\.conf\.d\/[12]\.conf.* until the file is mended/.test(message),
        );
      }
      for (const name of ['good.example/x', 'wild.example.org/x', 'notbad.org/x'])
        expect(await ground.where(policy, name), name).to.have.length(1);
      await ground.put('registries.conf.d/1.conf', '');
      await ground.put('registries.conf.d/2.conf', '# nothing');
      await policy.refresh(testOp());
      expect(await ground.where(policy, 'busybox')).to.have.length(1);
    });

    it('stays in force as it was, if it was right before', async () => {
      const file = await ground.put(
        'registries.conf.d/1.conf',
        '[[registry]]\nlocation = "b.example"\nblocked = true\n',
      );
      const policy = await ground.loaded(good);
      await ground.put('registries.conf.d/1.conf', 'not toml {{');
      await utimes(file, 1, 1);
      await policy.refresh(testOp(ground.log));
      expect(ground.log.full.map((line) => line.split(' {')[0])).to.deep.equal([
        'error registries configuration cannot be read, the last good one stays in force',
      ]);
      expect((await failure(ground.endpoints(policy, 'b.example/x'))).code).to.equal('PermissionDenied');
      await rm(file);
      await policy.refresh(testOp(ground.log));
      expect(await ground.where(policy, 'b.example/x')).to.have.length(1);
    });
  });
});
