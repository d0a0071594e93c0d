import { expect } from 'chai';
import { mock } from 'node:test';
import { limits } from '../../base/limits.ts';
import { explain } from '../../base/errors.ts';
import { digestOf } from '../../oci/digest.ts';
import { mediaTypes } from '../../oci/media-types.ts';
import {
  broken,
  cancellable,
  drain,
  failure,
  fakeImage,
  FakeNetwork,
  FakeRegistry,
  soon,
  stalled,
  testOp,
} from '../fakes.ts';
import type { FakeAnswer } from '../fakes.ts';
import { anonymous } from './auth-file.ts';
import type { Credentials } from './auth-file.ts';
import { fakeEndpoint } from './fakes.ts';
import { RateWatch } from './rate-watch.ts';
import { RegistryClient } from './repository.ts';
import type { Endpoint, Repository } from './repository.ts';

const image = fakeImage(['one', 'two']);
/** Blobs come in ranges above this, small enough for a test. */
const [FROM, EACH] = [200_000, 16_384];
const ORIGIN = 'https://reg.example';
interface Setup {
  readonly network: FakeNetwork;
  readonly registry: FakeRegistry;
  readonly repository: Repository;
  readonly pauses: number[];
}
function setUp(options: { readonly endpoint?: Partial<Endpoint>; readonly credentials?: Credentials } = {}): Setup {
  const network = new FakeNetwork();
  const registry = new FakeRegistry().add('team/app', 'v1', image);
  const own = fakeEndpoint(options.endpoint);
  network.hosts.set(new URL(own.root).origin, registry.host);
  const pauses: number[] = [];
  const client = new RegistryClient({
    transport: network,
    pause: async (ms) => void pauses.push(ms),
    progressTimeoutMs: 0,
    ranges: { fromBytes: FROM, eachBytes: EACH },
  });
  return { network, registry, repository: client.repository(own, options.credentials ?? anonymous), pauses };
}
const path = (kind: string, name: string): string => `/v2/team/app/${kind}/${name}`;

describe('image/registry: manifests', () => {
  it('gets them by tag and by digest', async () => {
    const { network, repository } = setUp();
    const byTag = await repository.manifest(testOp(), 'v1');
    expect(byTag).to.deep.equal({
      bytes: image.manifest.bytes,
      contentType: mediaTypes.ociManifest,
      digest: image.manifest.digest,
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
        'registry reg.example sends us to https://cdn.example/blob, which wants credentials of its ' +
          'own (401); none were sent there, the registry has to give an address that can be read ' +
          'without',
      ]);
      expect(network.lines, credentials.kind).to.deep.equal([
        `GET ${ORIGIN}${path('blobs', image.id)}`,
        'GET https://cdn.example/blob',
      ]);
    }
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

    const secure = setUp();
    secure.network.hosts.clear();
    secure.network.hosts.set('http://reg.example', secure.registry.host);
    expect((await failure(secure.repository.manifest(testOp(), 'v1'))).reason).to.equal('RegistryUnavailable');
    expect(secure.network.lines.every((line) => line.startsWith('GET https:'))).to.equal(true);
  });
});

describe('image/registry: blobs', () => {
  const content = Buffer.alloc(100_000, 'abcdefghij');
  const digest = digestOf(content);
  const size = BigInt(content.length);
  const withBlob = (...parameters: Parameters<typeof setUp>): Setup => {
    const made = setUp(...parameters);
    made.registry.put(path('blobs', digest), content);
    return made;
  };
  const ranges = ({ network }: Setup): (string | undefined)[] =>
    network.requests.map(({ headers }) => headers['range']);

  it('comes whole, or from an offset', async () => {
    const made = withBlob();
    expect(await drain(made.repository.blob(testOp(), digest, size, 0n))).to.deep.equal(content);
    expect(await drain(made.repository.blob(testOp(), digest, size, 99_990n))).to.deep.equal(content.subarray(99_990));
    expect(await drain(made.repository.blob(testOp(), digest, size, size))).to.have.length(0);
    expect(ranges(made)).to.deep.equal([undefined, 'bytes=99990-']);
  });

  it('goes on where a connection broke', async () => {
    const made = withBlob();
    let times = 0;
    made.registry.special.set(path('blobs', digest), (request) => {
      const normal = made.registry.normal(request);
      return ++times > 2 || !(normal?.body instanceof Uint8Array)
        ? undefined
        : { ...normal, body: broken(normal.body.subarray(0, 30_000)) };
    });
    expect(await drain(made.repository.blob(testOp(), digest, size, 0n))).to.deep.equal(content);
    expect(ranges(made)).to.deep.equal([undefined, 'bytes=30000-', 'bytes=60000-']);
    expect(made.pauses).to.have.length(2);
  });

  it('goes on although the server ends early without an error', async () => {
    const made = withBlob();
    made.registry.special.set(path('blobs', digest), (request) =>
      request.headers['range'] === undefined ? { body: content.subarray(0, 10) } : undefined,
    );
    expect(await drain(made.repository.blob(testOp(), digest, size, 0n))).to.deep.equal(content);
  });

  it('copes with a server that ignores ranges', async () => {
    const made = withBlob();
    made.registry.special.set(path('blobs', digest), () => ({ body: content }));
    expect(await drain(made.repository.blob(testOp(), digest, size, 70_001n))).to.deep.equal(content.subarray(70_001));
  });

  it('gives up after some tries without progress', async () => {
    const made = withBlob();
    made.registry.special.set(path('blobs', digest), () => ({ body: broken(Buffer.alloc(0)) }));
    const error = await failure(drain(made.repository.blob(testOp(), digest, size, 0n)));
    expect(error.reason).to.equal('RegistryUnavailable');
    expect(made.network.requests).to.have.length(limits.registryTriesCount);
  });

  it('waits for no error document longer than for anything else', async () => {
    const made = withBlob();
    made.registry.special.set(path('blobs', digest), () => ({ status: 500, body: stalled(Buffer.from('{"errors":')) }));
    const timeout = mock.method(AbortSignal, 'timeout', soon);
    try {
      const error = await failure(drain(made.repository.blob(testOp(), digest, size, 0n)));
      expect([error.reason, error.message]).to.deep.equal([
        'RegistryUnavailable',
        `blob ${digest} of reg.example/team/app: reg.example answers 500`,
      ]);
      expect(timeout.mock.calls[0]?.arguments).to.deep.equal([limits.registryBodyMs]);
    } finally {
      timeout.mock.restore();
    }
  });

  it('refuses wrong ranges and too many bytes', async () => {
    const wrong = withBlob();
    wrong.registry.special.set(path('blobs', digest), () => ({
      status: 206,
      headers: { 'content-range': 'bytes 5-9/10' },
      body: content,
    }));
    expect((await failure(drain(wrong.repository.blob(testOp(), digest, size, 7n)))).message).to.match(
      /answers bytes from "5" when asked from 7/,
    );
    const long = withBlob();
    long.registry.special.set(path('blobs', digest), () => ({ body: Buffer.concat([content, Buffer.from('x')]) }));
    expect((await failure(drain(long.repository.blob(testOp(), digest, size, 0n)))).code).to.equal('DataLoss');
  });

  it('ends at once when the caller leaves', async () => {
    const made = withBlob();
    const caller = cancellable();
    made.registry.special.set(path('blobs', digest), () => ({
      body: (async function* () {
        yield content.subarray(0, 10);
        caller.cancel();
        await new Promise<never>(() => {});
      })(),
    }));
    expect((await failure(drain(made.repository.blob(caller.op, digest, size, 0n)))).code).to.equal('Cancelled');
  });

  it('fetches large ones in ranges, several at once, and gives them in order', async () => {
    const large = Buffer.alloc(FROM + 12_345);
    for (let at = 0; at < large.length; at += 4096) large.writeUInt32BE(at, Math.min(at, large.length - 4));
    const name = digestOf('large');
    for (const failing of [undefined, 3 * EACH]) {
      const made = setUp();
      made.registry.put(path('blobs', name), large);
      let [open, most] = [0, 0];
      made.registry.special.set(path('blobs', name), async (request) => {
        most = Math.max(most, ++open);
        const normal = made.registry.normal(request);
        const first = Number(/^bytes=(\d+)/.exec(request.headers['range'] ?? '')?.[1]);
        await new Promise((resolve) => setImmediate(resolve));
        open--;
        if (
          first === failing &&
          made.network.requests.filter(({ headers }) => headers['range'] === request.headers['range']).length === 1
        )
          return { error: new Error('reset') };
        return normal;
      });
      const received = await drain(made.repository.blob(testOp(), name, BigInt(large.length), 0n));
      expect(received.equals(large)).to.equal(true);
      expect(most).to.be.within(2, 1 + limits.pullRangesAheadCount);
      expect(made.network.requests.length).to.equal(Math.ceil(large.length / EACH) + (failing === undefined ? 0 : 1));
    }
  });

  it('asks again for the rest of a range that ended early', async () => {
    const large = Buffer.alloc(FROM + 12_345);
    for (let at = 0; at < large.length; at += 4096) large.writeUInt32BE(at, Math.min(at, large.length - 4));
    const name = digestOf('large');
    const made = setUp();
    made.registry.put(path('blobs', name), large);
    made.registry.special.set(path('blobs', name), (request) => {
      const normal = made.registry.normal(request);
      return request.headers['range'] === `bytes=0-${EACH - 1}` && normal?.body instanceof Uint8Array
        ? { ...normal, body: normal.body.subarray(0, 1000) }
        : normal;
    });
    const received = await drain(made.repository.blob(testOp(), name, BigInt(large.length), 0n));
    expect([received.length, received.equals(large)]).to.deep.equal([large.length, true]);
    expect(ranges(made)).to.include(`bytes=1000-${1000 + EACH - 1}`);
  });

  it('takes a large one whole from a server without ranges', async () => {
    const large = Buffer.alloc(FROM, 7);
    const name = digestOf('large');
    const made = setUp();
    made.registry.special.set(path('blobs', name), () => ({ body: large }));
    expect((await drain(made.repository.blob(testOp(), name, BigInt(large.length), 0n))).equals(large)).to.equal(true);
    expect(made.network.requests).to.have.length(1);
  });
});

describe('image/registry: RateWatch', () => {
  it('wants enough bytes in every window', () => {
    const watch = new RateWatch(60_000, 1000, 0);
    expect(watch.stalled(59_999)).to.equal(false);
    expect(watch.stalled(60_000)).to.equal(true);
    watch.add(999, 50_000);
    expect(watch.stalled(60_000)).to.equal(true);
    watch.add(1, 59_000);
    expect(watch.stalled(118_000)).to.equal(false);
    expect(watch.stalled(119_000)).to.equal(true);
  });

  it('a trickle of a byte per second is not progress', () => {
    const watch = new RateWatch(60_000, 1000, 0);
    let stalledAt = 0;
    for (let now = 0; now <= 120_000 && stalledAt === 0; now += 1000) {
      watch.add(1, now);
      if (watch.stalled(now)) stalledAt = now;
    }
    expect(stalledAt).to.equal(60_000);
  });

  it('does not count the time in which a request waits for its answer', async () => {
    const watch = new RateWatch(60_000, 1000, 0);
    let now = 10_000;
    const { promise, resolve } = Promise.withResolvers<void>();
    const waiting = watch.waiting(
      () => now,
      () => promise,
    );
    expect(watch.stalled(400_000)).to.equal(false);
    now = 510_000;
    resolve();
    await waiting;
    expect(watch.stalled(559_999)).to.equal(false);
    expect(watch.stalled(560_000)).to.equal(true);
  });

  it('counts the time between, so that a few bytes from each of many connections are no progress', async () => {
    const watch = new RateWatch(60_000, 1000, 0);
    let now = 0;
    let connections = 0;
    for (; connections < 1000 && !watch.stalled(now); connections++) {
      await watch.waiting(
        () => now,
        async () => void (now += 5_000),
      );
      now += 600;
      watch.add(5, now);
    }
    expect(connections).to.equal(100);
  });

  it('stands still as long as any of several requests waits', async () => {
    const watch = new RateWatch(60_000, 1000, 0);
    let now = 20_000;
    const [one, two] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const waiting = [one, two].map(({ promise }) =>
      watch.waiting(
        () => now,
        () => promise,
      ),
    );
    now = 100_000;
    one.resolve();
    await waiting[0];
    watch.add(1000, 110_000);
    now = 200_000;
    two.resolve();
    await waiting[1];
    expect([watch.stalled(259_999), watch.stalled(260_000)]).to.deep.equal([false, true]);
  });

  it('zero turns it off', () => {
    expect(new RateWatch(0, 1000, 0).stalled(1e12)).to.equal(false);
  });
});
