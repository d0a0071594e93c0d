import { expect } from 'chai';
import { drain, failure, fakeImage, FakeNetwork, FakeRegistry, testOp } from '../fakes.ts';
import { anonymous } from './auth-file.ts';
import { fakeEndpoint } from './fakes.ts';
import { MirroredSource } from './mirrors.ts';
import { RegistryClient } from './repository.ts';
import type { Endpoint } from './repository.ts';

const image = fakeImage(['one', 'two']);
const { digest } = image.manifest;
const config = { digest: image.id, size: BigInt(image.config.length) };
const MANIFEST = (name: string): string => `manifests/${name}`;

/** Hosts `m` (a mirror) and `reg` in a network, and what was asked of which. */
function setUp(serves: Endpoint['serves'], server: Endpoint['serves'] = 'all') {
  const network = new FakeNetwork();
  const [mirror, registry] = [new FakeRegistry(), new FakeRegistry()];
  for (const each of [mirror, registry]) each.add('team/app', 'v1', image);
  network.hosts.set('https://m.example', mirror.host);
  network.hosts.set('https://reg.example', registry.host);
  const client = new RegistryClient({ transport: network, pause: async () => {} });
  const endpoints = [
    fakeEndpoint({ root: 'https://m.example/v2', kind: 'mirror', serves, namespace: 'reg.example' }),
    fakeEndpoint({ serves: server }),
  ];
  const source = new MirroredSource('reg.example/team/app:v1', endpoints, async (each) =>
    client.repository(each, anonymous),
  );
  /** `host what` of everything that was asked, blobs and manifests. */
  const asked = (): string[] =>
    network.requests.map(({ method, url }) =>
      [method === 'GET' ? '' : method, url.host.split('.')[0], url.pathname.replace('/v2/team/app/', '')]
        .filter((each) => each !== '')
        .join(' '),
    );
  return { network, mirror, registry, source, asked };
}

describe('image/registry/mirrors', () => {
  it('asks a mirror that only serves content for what has a digest, and nobody else for that', async () => {
    const { source, asked, network } = setUp('content');
    await source.manifest(testOp(), 'v1');
    await source.manifest(testOp(), digest);
    expect(await drain(source.blob(testOp(), config, 0n))).to.deep.equal(image.config);
    expect(asked()).to.deep.equal([`reg ${MANIFEST('v1')}`, `m ${MANIFEST(digest)}`, `m blobs/${image.id}`]);
    expect(network.lines[1]).to.match(/\?ns=reg\.example$/);
    expect(await source.promisedDigest(testOp(), 'v1')).to.equal(digest);
    expect(asked().at(-1)).to.equal(`HEAD reg ${MANIFEST('v1')}`);
    expect((await source.current()).endpoint.root).to.equal('https://reg.example/v2');
  });

  it('goes on at the server where such a mirror does not have it', async () => {
    const { source, asked, mirror } = setUp('content');
    mirror.special.set(`/v2/team/app/manifests/${digest}`, () => ({ status: 404 }));
    await source.manifest(testOp(), 'v1');
    await source.manifest(testOp(), digest);
    await drain(source.blob(testOp(), config, 0n));
    expect(asked()).to.deep.equal([
      `reg ${MANIFEST('v1')}`,
      `m ${MANIFEST(digest)}`,
      `reg ${MANIFEST(digest)}`,
      `reg blobs/${image.id}`,
    ]);
  });

  it('asks a host that only resolves for the digest of a tag, and others for the content', async () => {
    const { source, asked } = setUp('tags');
    expect((await source.manifest(testOp(), 'v1')).digest).to.equal(digest);
    await drain(source.blob(testOp(), config, 0n));
    expect(asked()).to.deep.equal([`HEAD m ${MANIFEST('v1')}`, `reg ${MANIFEST(digest)}`, `reg blobs/${image.id}`]);
    const silent = setUp('tags');
    silent.mirror.special.set('/v2/team/app/manifests/v1', () => ({ status: 405 }));
    await silent.source.manifest(testOp(), 'v1');
    expect(silent.asked()).to.deep.equal([`HEAD m ${MANIFEST('v1')}`, `reg ${MANIFEST('v1')}`]);
  });

  it('says so when nobody may resolve tags', async () => {
    const error = await failure(setUp('content', 'content').source.manifest(testOp(), 'v1'));
    expect([error.code, error.message]).to.deep.equal([
      'FailedPrecondition',
      'reg.example/team/app:v1: hosts.toml gives no host the capability to "resolve"; give it to the server at least',
    ]);
  });

  it('keeps to the one that has the image', async () => {
    const { source, asked, mirror } = setUp('all');
    mirror.special.set('/v2/team/app/manifests/v1', () => ({ status: 404 }));
    await source.manifest(testOp(), 'v1');
    await drain(source.blob(testOp(), config, 0n));
    expect(asked()).to.deep.equal([`m ${MANIFEST('v1')}`, `reg ${MANIFEST('v1')}`, `reg blobs/${image.id}`]);
    expect((await source.current()).endpoint.kind).to.equal('registry');
  });
});
