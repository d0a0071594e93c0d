import { expect } from 'chai';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { explain } from '../base/errors.ts';
import { NodeCredentials } from './registry/credentials.ts';
import { broken, failure, FakeRegistry, RecordingLog, testOp } from './fakes.ts';
import type { FakeNetwork } from './fakes.ts';
import { id, image, noAuth, ORIGIN, sibling, StoreGround } from './fake-store.ts';
import type { FileImageStore } from './store.ts';
import type { Image } from '../ports/image.ts';

describe('image/pull', () => {
  let ground: StoreGround;
  let root: string;
  let network: FakeNetwork;
  let registry: FakeRegistry;
  let store: FileImageStore;
  beforeEach(async () => {
    ground = await StoreGround.make();
    ({ root, network, registry, store } = ground);
  });
  afterEach(() => ground.remove());
  const pull = (reference: string, using = ground.store): Promise<Image> => ground.pull(reference, using);
  const open: StoreGround['open'] = (...args) => ground.open(...args);

  const configure = (text: string): Promise<void> => writeFile(join(root, 'registries.conf'), text);
  const mirrors = (...hosts: string[]): Promise<void> => {
    const each = hosts.map((host) => `[[registry.mirror]]\nlocation = "${host}"\n`);
    return configure(`[[registry]]\nprefix = "reg.example"\n${each.join('')}`);
  };

  it('goes through mirrors to the registry itself, and keeps the name', async () => {
    await mirrors('m1.example', 'm2.example');
    network.hosts.set('https://m2.example', new FakeRegistry().add('x', 'latest', image).host);
    const pulled = await pull('reg.example/x');
    expect(pulled.repoTags).to.deep.equal(['reg.example/x:latest']);
    expect(network.lines.some((line) => line.includes('reg.example'))).to.equal(false);
    network.hosts.delete('https://m2.example');
    registry.add('y', 'latest', sibling);
    expect((await pull('reg.example/y')).id).to.equal(id(sibling));
  });

  it('asks the next one for a blob that a mirror has wrong or stops sending, from where it stopped', async () => {
    await mirrors('m1.example');
    const mirror = new FakeRegistry().add('x', 'latest', image);
    network.hosts.set('https://m1.example', mirror.host);
    registry.add('x', 'latest', image);
    const [base, middle] = image.layers;
    mirror.special.set(`/v2/x/blobs/${base?.digest}`, () => ({ body: Buffer.alloc(base?.bytes.length ?? 0) }));
    mirror.special.set(`/v2/x/blobs/${middle?.digest}`, (request) =>
      request.headers['range'] === undefined
        ? { body: broken(middle?.bytes.subarray(0, 10) ?? Buffer.alloc(0)) }
        : { status: 403 },
    );
    await pull('reg.example/x');
    const own = network.requests
      .filter(({ url }) => url.origin === ORIGIN)
      .map(({ url, headers }) => `${url.pathname} ${headers['range'] ?? 'whole'}`);
    expect(own.sort()).to.deep.equal(
      [`/v2/x/blobs/${base?.digest} whole`, `/v2/x/blobs/${middle?.digest} bytes=10-`].sort(),
    );
  });

  it('blames the mirror that began a wrong blob, not the registry that ended it', async () => {
    await mirrors('m1.example');
    const mirror = new FakeRegistry().add('x', 'latest', image);
    network.hosts.set('https://m1.example', mirror.host);
    registry.add('x', 'latest', image);
    const path = `/v2/x/blobs/${image.layers[0]?.digest}`;
    mirror.special.set(path, (request) =>
      request.headers['range'] === undefined ? { body: Buffer.alloc(10) } : { status: 403 },
    );
    expect((await pull('reg.example/x')).id).to.equal(image.id);
    const asked = network.requests
      .filter(({ url }) => url.pathname === path)
      .map(({ url, headers }) => `${url.host} ${headers['range'] ?? 'whole'}`);
    expect(asked).to.deep.equal([
      'm1.example whole',
      'm1.example bytes=10-',
      'm1.example whole',
      'reg.example bytes=10-',
      'reg.example whole',
    ]);
  });

  it('tells how the mirrors failed when all did', async () => {
    await mirrors('m1.example');
    network.hosts.set('https://m1.example', () => ({ status: 403 }));
    const error = await failure(pull('reg.example/none'));
    expect(error.code).to.equal('NotFound');
    expect(error.message).to.match(/manifests?.*reg\.example.*404.*mirrors before it: .*m1\.example answers 403/);
  });

  it('sends the request’s credentials to the registry that they are for, and to no mirror', async () => {
    await mirrors('m1.example');
    const seen: string[] = [];
    const guarded =
      (registryHere: FakeRegistry) =>
      (
        request: Parameters<FakeRegistry['host']>[0],
        route: Parameters<FakeRegistry['host']>[1],
      ): ReturnType<FakeRegistry['host']> => {
        const authorization = request.headers['authorization'];
        if (authorization === undefined) return { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } };
        seen.push(`${request.url.host} ${Buffer.from(authorization.slice(6), 'base64').toString()}`);
        return registryHere.host(request, route);
      };
    network.hosts.set('https://m1.example', guarded(new FakeRegistry()));
    network.hosts.set(ORIGIN, guarded(registry.add('x', 'latest', image)));
    const auth = { ...noAuth, username: 'u', password: 'p' };
    await store.pull(testOp(), 'reg.example/x', { auth });
    expect(new Set(seen)).to.deep.equal(new Set(['reg.example u:p']));
    expect(
      (
        await failure(
          store.pull(testOp(), 'reg.example/x', { auth: { ...auth, serverAddress: 'https://other.example/v1/' } }),
        )
      ).code,
    ).to.equal('Unauthenticated');
    seen.length = 0;
    await store.pull(testOp(), 'reg.example/x', { auth: { ...auth, serverAddress: 'm1.example' } }).catch(() => {});
    expect(new Set(seen)).to.deep.equal(new Set(['m1.example u:p']));
  });

  it('takes the namespace’s own credentials from its one-time file', async () => {
    await mkdir(join(root, 'auth'));
    const { createHash } = await import('node:crypto');
    const file = join(root, 'auth', `prod-${createHash('sha256').update('reg.example/x').digest('hex')}.json`);
    await writeFile(
      file,
      JSON.stringify({ auths: { 'reg.example': { auth: Buffer.from('ns:pw').toString('base64') } } }),
    );
    registry.add('x', 'latest', image);
    network.hosts.set(ORIGIN, (request, route) =>
      request.headers['authorization'] === `Basic ${Buffer.from('ns:pw').toString('base64')}`
        ? registry.host(request, route)
        : { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } },
    );
    const own = await open({
      credentials: new NodeCredentials({ authFiles: [], namespacedAuthDir: join(root, 'auth') }),
    });
    expect((await failure(own.pull(testOp(), 'reg.example/x', { namespace: 'dev' }))).code).to.equal('Unauthenticated');
    await own.pull(testOp(), 'reg.example/x', { namespace: 'prod' });
    expect(await readdir(join(root, 'auth/in-use'))).to.deep.equal([]);
    await writeFile(join(root, 'auth/in-use/dev-x.json'), 'of a daemon that died');
    await open({ credentials: new NodeCredentials({ authFiles: [], namespacedAuthDir: join(root, 'auth') }) });
    expect(await readdir(join(root, 'auth/in-use'))).to.deep.equal([]);
  });

  it('refuses blocked registries and rejected images before it asks anybody', async () => {
    await configure('[[registry]]\nlocation = "reg.example"\nblocked = true\n');
    expect((await failure(pull('reg.example/x'))).code).to.equal('PermissionDenied');
    await configure('');
    await writeFile(
      join(root, 'policy.json'),
      JSON.stringify({
        default: [{ type: 'insecureAcceptAnything' }],
        transports: { docker: { 'reg.example/bad': [{ type: 'reject' }] } },
      }),
    );
    expect((await failure(pull('reg.example/bad/x'))).reason).to.equal('SignatureValidationFailed');
    expect(network.requests).to.have.length(0);
  });

  it('tries what a short name may mean', async () => {
    await configure(
      'unqualified-search-registries = ["nowhere.example", "reg.example"]\nshort-name-mode = "permissive"\n',
    );
    network.hosts.set('https://nowhere.example', () => ({ status: 404 }));
    registry.add('app', 'latest', image);
    expect((await pull('app')).repoTags).to.deep.equal(['reg.example/app:latest']);
    expect(store.find('app')?.id).to.equal(id(image));
    expect((await failure(pull('none'))).code).to.equal('NotFound');
    expect((await failure(pull('BAD NAME'))).code).to.equal('InvalidArgument');
  });

  it('never says a secret', async () => {
    const log = new RecordingLog();
    network.hosts.set(ORIGIN, () => ({ status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } }));
    const error = await failure(
      store.pull(testOp(log), 'reg.example/x', { auth: { ...noAuth, username: 'u', password: 's3cret' } }),
    );
    expect(`${explain(error)} ${log.lines.join()}`).to.not.match(/s3cret|czNjcmV0/);
  });
});
