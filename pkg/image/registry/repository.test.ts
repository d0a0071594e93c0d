import { expect } from 'chai';
import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { explain } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { digestOf } from '../../oci/digest.ts';
import { mediaTypes } from '../../oci/media-types.ts';
import { broken, drain, failure, FakeRegistry, testOp } from '../fakes.ts';
import type { FakeAnswer } from '../fakes.ts';
import { anonymous } from './auth-file.ts';
import { image, ORIGIN, path, setUp } from './fakes.ts';

describe('image/registry/repository: manifests', () => {
  it('gets them by tag and by digest', async () => {
    const { network, repository } = setUp();
    const byTag = await repository.manifest(testOp(), 'v1');
    expect(byTag).to.deep.equal({
      bytes: image.manifest.bytes,
      contentType: mediaTypes.ociManifest,
      digest: image.manifest.digest,
      describe: 'manifest "v1" of reg.example/team/app',
    });
    expect((await repository.manifest(testOp(), image.manifest.digest)).digest).to.equal(image.manifest.digest);
    expect(network.requests[0]?.headers['accept']).to.contain(mediaTypes.dockerList);
  });

  it('refuses content with another digest', async () => {
    const { registry, repository } = setUp();
    const wanted = digestOf('something else');
    registry.put(path('manifests', wanted), image.manifest.bytes, mediaTypes.ociManifest);
    expect((await failure(repository.manifest(testOp(), wanted))).code).to.equal('DataLoss');
  });

  it('says what statuses mean', async () => {
    const rows: readonly (readonly [number, string])[] = [
      [401, 'Unauthenticated -'],
      [403, 'PermissionDenied -'],
      [404, 'NotFound -'],
      [400, 'FailedPrecondition -'],
      [429, 'Unavailable RegistryUnavailable'],
      [500, 'Unavailable RegistryUnavailable'],
      [503, 'Unavailable RegistryUnavailable'],
    ];
    for (const [status, want] of rows) {
      const { registry, repository } = setUp();
      registry.special.set(path('manifests', 'v1'), () => ({
        status,
        body: '{"errors":[{"code":"DENIED","message":"said the registry"}]}',
      }));
      const error = await failure(repository.manifest(testOp(), 'v1'));
      expect(`${error.code} ${error.reason ?? '-'}`, String(status)).to.equal(want);
      if (status !== 401) expect(error.message).to.contain('said the registry');
    }
  });

  it('tries again what may pass, waits as told, and not for ever', async () => {
    const { registry, repository, pauses, network } = setUp();
    const answers: FakeAnswer[] = [
      { status: 503, headers: { 'retry-after': '7' } },
      { error: new Error('reset') },
      { status: 500 },
    ];
    registry.special.set(path('manifests', 'v1'), () => answers.shift());
    expect((await repository.manifest(testOp(), 'v1')).digest).to.equal(image.manifest.digest);
    expect(pauses[0]).to.equal(7000);
    expect(network.requests).to.have.length(4);

    const later = setUp();
    later.registry.special.set(path('manifests', 'v1'), () => ({ status: 429, headers: { 'retry-after': '3600' } }));
    expect((await failure(later.repository.manifest(testOp(), 'v1'))).reason).to.equal('RegistryUnavailable');
    expect(later.network.requests).to.have.length(1);
    expect(
      (await failure(setUp({ endpoint: { root: 'https://gone.example/v2' } }).repository.manifest(testOp(), 'none')))
        .code,
    ).to.equal('NotFound');
  });

  it('a registry that is down is RegistryUnavailable, with its name', async () => {
    const { network, repository } = setUp();
    network.hosts.clear();
    const error = await failure(repository.manifest(testOp(), 'v1'));
    expect(error.reason).to.equal('RegistryUnavailable');
    expect(explain(error)).to.match(/cannot talk to https:\/\/reg\.example: connect ECONNREFUSED/);
  });

  it('reads no more than a manifest may have', async () => {
    const { registry, repository } = setUp();
    let sent = 0;
    registry.special.set(path('manifests', 'v1'), () => ({
      body: (async function* () {
        for (;;) {
          sent += 65_536;
          yield Buffer.alloc(65_536, 0x20);
        }
      })(),
    }));
    expect((await failure(repository.manifest(testOp(), 'v1'))).code).to.equal('ResourceExhausted');
    expect(sent).to.be.below(limits.manifestBytes + 200_000);
    registry.special.set(path('manifests', 'v1'), () => ({
      headers: { 'content-length': '1000000000' },
      body: image.manifest.bytes,
    }));
    expect((await failure(repository.manifest(testOp(), 'v1'))).message).to.contain('1000000000 bytes');
  });

  it('answers a 401 once, keeps the token for the blobs, and takes a fresh one when it is revoked', async () => {
    const { network, registry, repository } = setUp({
      credentials: { kind: 'password', username: 'u', password: 'p' },
    });
    let token = 0;
    network.hosts.set('https://auth.example', () => ({ body: `{"token":"t${++token}"}` }));
    let valid = 'Bearer t1';
    network.hosts.set(ORIGIN, (request, route) =>
      request.headers['authorization'] === valid
        ? registry.host(request, route)
        : { status: 401, headers: { 'www-authenticate': 'Bearer realm="https://auth.example/t"' } },
    );
    await repository.manifest(testOp(), 'v1');
    await drain(repository.blob(testOp(), image.id, BigInt(image.config.length), 0n));
    expect(token).to.equal(1);
    valid = 'Bearer t2';
    await repository.manifest(testOp(), 'v1');
    expect(token).to.equal(2);
    valid = 'never';
    expect((await failure(repository.manifest(testOp(), 'v1'))).message).to.contain('is not accepted');
    expect(token).to.be.below(6);
  });

  it('tells no token server that another host names (CVE-2020-15157), whoever is led there', async () => {
    for (const credentials of [
      { kind: 'password', username: 'u', password: 'p' },
      { kind: 'identity', token: 'refresh' },
      { kind: 'bearer', token: 'mine' },
      anonymous,
    ] as const) {
      const { network, registry, repository } = setUp({ credentials });
      registry.special.set(path('blobs', image.id), () => ({
        status: 307,
        headers: { location: 'https://cdn.example/blob' },
      }));
      network.hosts.set('https://cdn.example', () => ({
        status: 401,
        headers: { 'www-authenticate': 'Bearer realm="https://evil.example/token", Basic realm="x"' },
      }));
      network.hosts.set('https://evil.example', () => ({ body: '{"token":"t"}' }));
      const error = await failure(drain(repository.blob(testOp(), image.id, BigInt(image.config.length), 0n)));
      expect([error.code, error.message], credentials.kind).to.deep.equal([
        'Unauthenticated',
        `blob ${image.id} of reg.example/team/app: registry reg.example sends us to https://cdn.example/blob, which ` +
          'wants credentials of its own (401); none were sent there, the registry has to give an address that can ' +
          'be read without',
      ]);
      expect(network.lines, credentials.kind).to.deep.equal([
        `GET ${ORIGIN}${path('blobs', image.id)}`,
        'GET https://cdn.example/blob',
      ]);
    }
  });

  it('goes to another registry to which its own sends it as nobody in particular (containerd#5503)', async () => {
    for (const credentials of [{ kind: 'password', username: 'u', password: 'secret' }, anonymous] as const) {
      const { network, registry, repository } = setUp({ credentials });
      const there = 'https://hub.example/v2/mirrored/app';
      for (const [kind, name] of [
        ['manifests', 'v1'],
        ['blobs', image.id],
      ] as const)
        registry.special.set(path(kind, name), () => ({
          status: 307,
          headers: { location: `${there}/${kind}/${name}` },
        }));
      const other = new FakeRegistry().add('mirrored/app', 'v1', image);
      network.hosts.set('https://hub.example', (request, route) =>
        request.headers['authorization'] === 'Bearer t'
          ? other.host(request, route)
          : { status: 401, headers: { 'www-authenticate': 'Bearer realm="https://auth.example/t",service="hub"' } },
      );
      network.hosts.set('https://auth.example', () => ({ body: '{"token":"t"}' }));
      expect((await repository.manifest(testOp(), 'v1')).digest).to.equal(image.manifest.digest);
      await drain(repository.blob(testOp(), image.id, BigInt(image.config.length), 0n));
      expect(network.lines.filter((line) => line.includes('auth.example'))).to.deep.equal([
        'GET https://auth.example/t?service=hub&scope=repository%3Amirrored%2Fapp%3Apull',
      ]);
      const told = network.requests.filter(({ url }) => url.hostname !== 'reg.example');
      expect(JSON.stringify(told)).to.not.match(/Basic|secret/);
      network.hosts.set('https://auth.example', () => ({ status: 403 }));
      network.hosts.set('https://hub.example', () => ({ status: 401, headers: { 'www-authenticate': 'Basic' } }));
      expect((await failure(repository.manifest(testOp(), 'v1'))).message).to.match(
        /sends us to https:\/\/hub\.example\/v2\/mirrored\/app\/manifests\/v1, which wants credentials of its own/,
      );
    }
  });

  it('says who it is to its own host, where plain http leads to TLS', async () => {
    const { network, registry, repository } = setUp({
      endpoint: { root: 'http://reg.example/v2' },
      credentials: { kind: 'password', username: 'u', password: 'p' },
    });
    network.hosts.set('http://reg.example', ({ url }) => ({
      status: 301,
      headers: { location: url.href.replace('http:', 'https:') },
    }));
    network.hosts.set('https://reg.example', (request, route) =>
      request.headers['authorization'] === `Basic ${Buffer.from('u:p').toString('base64')}`
        ? registry.host(request, route)
        : { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } },
    );
    expect((await repository.manifest(testOp(), 'v1')).digest).to.equal(image.manifest.digest);
    expect(network.requests.filter(({ url }) => url.protocol === 'http:').map(({ headers }) => headers)).to.satisfy(
      (all: readonly Record<string, string>[]) => all.every((headers) => !('authorization' in headers)),
    );
  });

  it('sends hosts.toml headers and the namespace of a mirror', async () => {
    const { network, repository } = setUp({ endpoint: { headers: { 'x-key': 'k' }, namespace: 'docker.io' } });
    await repository.manifest(testOp(), 'v1');
    expect(network.lines).to.deep.equal([`GET ${ORIGIN}/v2/team/app/manifests/v1?ns=docker.io`]);
    expect(network.requests[0]?.headers['x-key']).to.equal('k');
  });

  it('an insecure registry may speak plain http, which is remembered; others may not', async () => {
    const insecure = setUp({ endpoint: { security: 'insecure' } });
    insecure.network.hosts.clear();
    insecure.network.hosts.set('https://reg.example', () => ({
      error: Object.assign(new Error('wrong version number'), { code: 'EPROTO' }),
    }));
    insecure.network.hosts.set('http://reg.example', insecure.registry.host);
    await insecure.repository.manifest(testOp(), 'v1');
    await insecure.repository.manifest(testOp(), 'v1');
    expect(insecure.network.lines.map((line) => line.split('/')[0])).to.deep.equal([
      'GET https:',
      'GET http:',
      'GET http:',
    ]);

    // By any answer: the next try begins there.
    const credentials = { kind: 'password', username: 'u', password: 'p' } as const;
    const asking = setUp({ endpoint: { security: 'insecure' }, credentials });
    asking.network.hosts.set('https://reg.example', insecure.network.hosts.get('https://reg.example') ?? (() => ({})));
    const answers: FakeAnswer[] = [
      { status: 401, headers: { 'www-authenticate': 'Basic' } },
      { error: new Error('connect ECONNRESET 10.0.0.1:80') },
    ];
    asking.network.hosts.set('http://reg.example', (...asked) => answers.shift() ?? asking.registry.host(...asked));
    await asking.repository.manifest(testOp(), 'v1');
    expect(asking.network.lines.map((line) => line.split('/')[0])).to.deep.equal([
      'GET https:',
      'GET http:',
      'GET http:',
      'GET http:',
    ]);

    const secure = setUp();
    secure.network.hosts.clear();
    secure.network.hosts.set('http://reg.example', secure.registry.host);
    expect((await failure(secure.repository.manifest(testOp(), 'v1'))).reason).to.equal('RegistryUnavailable');
    expect(secure.network.lines.every((line) => line.startsWith('GET https:'))).to.equal(true);
  });

  it('asks for no coding, and undoes what comes all the same', async () => {
    const { network, registry, repository } = setUp();
    await repository.manifest(testOp(), 'v1');
    expect(network.requests[0]?.headers).to.include({ 'accept-encoding': 'identity', 'user-agent': 'berth' });
    for (const [coding, body] of CODED) {
      registry.special.set(path('manifests', 'v1'), () => ({ headers: { 'content-encoding': coding }, body }));
      expect((await repository.manifest(testOp(), 'v1')).digest, coding).to.equal(image.manifest.digest);
    }
  });

  it('decodes no more than a manifest may have', async () => {
    const { registry, repository } = setUp();
    const bomb = gzipSync(Buffer.alloc(64 << 20));
    registry.special.set(path('manifests', 'v1'), () => ({ headers: { 'content-encoding': 'gzip' }, body: bomb }));
    expect((await failure(repository.manifest(testOp(), 'v1'))).code).to.equal('ResourceExhausted');
  });

  it('takes what nobody knows for no coding, as Go does: the digest tells', async () => {
    const { registry, repository } = setUp();
    for (const coding of ['UTF-8', 'aws-chunked', 'none', 'binary', 'identity, identity']) {
      registry.special.set(path('manifests', 'v1'), () => ({
        headers: { 'content-encoding': coding },
        body: image.manifest.bytes,
      }));
      expect((await repository.manifest(testOp(), 'v1')).digest, coding).to.equal(image.manifest.digest);
    }
    const { digest } = image.manifest;
    registry.special.set(path('manifests', digest), () => ({ headers: { 'content-encoding': 'exi' }, body: 'x' }));
    expect((await failure(repository.manifest(testOp(), digest))).code).to.equal('DataLoss');
  });

  it('tries again when the end of a coded answer is missing', async () => {
    const { registry, repository, network } = setUp();
    const whole = gzipSync(image.manifest.bytes);
    const cut = [whole.subarray(0, 50), whole.subarray(0, -9), broken(whole.subarray(0, 50))];
    registry.special.set(path('manifests', 'v1'), () => {
      const body = cut.shift();
      return body === undefined ? undefined : { headers: { 'content-encoding': 'gzip' }, body };
    });
    await repository.manifest(testOp(), 'v1');
    expect(network.requests).to.have.length(4);
  });

  it('gives up a registry that says nothing at all, with what was asked of whom', async () => {
    const { network, repository } = setUp({ client: { headersMs: 20 } });
    network.hosts.set(ORIGIN, () => new Promise<never>(() => {}));
    const error = await failure(repository.manifest(testOp(), 'v1'));
    expect([error.reason, error.message]).to.deep.equal([
      'RegistryUnavailable',
      'manifest "v1" of reg.example/team/app: https://reg.example did not answer in 0.02 s; it, or a proxy before ' +
        'it, is stuck: try again later',
    ]);
    expect(network.requests).to.have.length(limits.registryTriesCount);
  });

  it('does not ask again where the certificate is wrong', async () => {
    const { network, repository } = setUp();
    network.hosts.set(ORIGIN, () => ({
      error: Object.assign(new Error('self-signed certificate'), { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' }),
    }));
    expect((await failure(repository.manifest(testOp(), 'v1'))).message).to.match(/CA to certs\.d/);
    expect(network.requests).to.have.length(1);
  });

  it('says who it is where a registry hides from strangers what it has', async () => {
    for (const status of [403, 404]) {
      const { network, registry, repository } = setUp({
        credentials: { kind: 'password', username: 'u', password: 'p' },
      });
      network.hosts.set(ORIGIN, (request, route) => {
        if (request.headers['authorization'] !== undefined) return registry.host(request, route);
        const isRoot = request.url.pathname === '/v2/';
        return isRoot ? { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } } : { status };
      });
      await repository.manifest(testOp(), 'v1');
      await drain(repository.blob(testOp(), image.id, BigInt(image.config.length), 0n));
      expect(network.lines.map((line) => line.replace(`${ORIGIN}/v2/`, ''))).to.deep.equal([
        'GET team/app/manifests/v1',
        'GET ',
        'GET team/app/manifests/v1',
        `GET team/app/blobs/${image.id}`,
      ]);
    }
    const nobody = setUp();
    expect((await failure(nobody.repository.manifest(testOp(), 'none'))).code).to.equal('NotFound');
    expect(nobody.network.requests).to.have.length(1);
  });
});

const CODED: readonly (readonly [coding: string, body: Buffer])[] = [
  ['gzip', gzipSync(image.manifest.bytes)],
  ['x-gzip', gzipSync(image.manifest.bytes)],
  ['GZIP', gzipSync(image.manifest.bytes)],
  ['deflate', deflateSync(image.manifest.bytes)],
  ['zstd', zstdCompressSync(image.manifest.bytes)],
  ['br', brotliCompressSync(image.manifest.bytes)],
  ['identity', image.manifest.bytes],
  // Said, but not done: a proxy has undone it.
  ['gzip', image.manifest.bytes],
  ['zstd', image.manifest.bytes],
];
