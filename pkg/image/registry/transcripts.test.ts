/**
 * What real registries say, as far as it matters for a pull: challenges, tokens, where blobs are, and what is missing.
 * Hosts are made up where they are a customer's own; the shapes are those of the services, out of their documentation
 * and of public reports.
 */
import { expect } from 'chai';
import { drain, explainFailure, FakeNetwork, FakeRegistry, testOp } from '../fakes.ts';
import type { FakeAnswer } from '../fakes.ts';
import type { Credentials } from './auth-file.ts';
import { fakeEndpoint, image } from './fakes.ts';
import { RegistryClient } from './repository.ts';
import type { Repository } from './repository.ts';

const SIGNATURE = 'X-Amz-Signature=5EC2E7';

interface Transcript {
  readonly name: string;
  readonly host: string;
  readonly repository: string;
  readonly credentials?: Credentials;
  /** `WWW-Authenticate` of the 401, a line each; none = everybody may read. */
  readonly challenge?: string;
  /** What the token server answers. */
  readonly token?: object;
  /** What is asked of the token server: address without query, and the query. */
  readonly asks?: readonly [address: string, query: Readonly<Record<string, string | readonly string[]>>];
  /** The Authorization that opens the door. */
  readonly opens?: string;
  /** Of the manifest's answer. */
  readonly headers?: Readonly<Record<string, string>>;
  /** What HEAD is answered; as GET unless given. */
  readonly head?: FakeAnswer;
  /** Where blobs are: the status of the redirect and its location, `{digest}` in it. */
  readonly blobs?: readonly [status: number, location: string];
}

const login: Credentials = { kind: 'password', username: 'user', password: 'pass' };
const BASIC = `Basic ${Buffer.from('user:pass').toString('base64')}`;
const scopeOf = (repository: string): string => `repository:${repository}:pull`;

/** A challenge for a token; what is not given is not in it. */
function bearer(realm: string, service?: string, scope?: string): string {
  const parts = [`realm="${realm}"`, service && `service="${service}"`, scope !== undefined && `scope="${scope}"`];
  return `Bearer ${parts.filter(Boolean).join(',')}`;
}

const TRANSCRIPTS: readonly Transcript[] = [
  {
    name: 'Docker Hub',
    host: 'registry-1.docker.io',
    repository: 'library/busybox',
    challenge: bearer('https://auth.docker.io/token', 'registry.docker.io', 'repository:library/busybox:pull'),
    token: { token: 'T', access_token: 'T', expires_in: 300, issued_at: '2026-11-30T12:00:00Z' },
    asks: ['https://auth.docker.io/token', { service: 'registry.docker.io', scope: scopeOf('library/busybox') }],
    opens: 'Bearer T',
    headers: { 'ratelimit-limit': '100;w=21600', 'ratelimit-remaining': '99;w=21600' },
    blobs: [307, `https://production.cloudfront.docker.com/registry-v2/docker/registry/v2/blobs/{digest}?${SIGNATURE}`],
  },
  {
    name: 'GHCR',
    host: 'ghcr.io',
    repository: 'user/image',
    challenge: bearer('https://ghcr.io/token', 'ghcr.io', 'repository:user/image:pull'),
    token: { token: 'T' },
    asks: ['https://ghcr.io/token', { service: 'ghcr.io', scope: scopeOf('user/image') }],
    opens: 'Bearer T',
    blobs: [307, `https://pkg-containers.githubusercontent.com/ghcr1/blobs/{digest}?se=2026&${SIGNATURE}`],
  },
  {
    name: 'ECR, private',
    host: '123456789012.dkr.ecr.eu-central-1.amazonaws.com',
    repository: 'team/app',
    credentials: login,
    challenge: 'Basic realm="https://123456789012.dkr.ecr.eu-central-1.amazonaws.com/",service="ecr.amazonaws.com"',
    opens: BASIC,
    blobs: [
      307,
      `https://prod-eu-central-1-starport-layer-bucket.s3.eu-central-1.amazonaws.com/x/{digest}?${SIGNATURE}`,
    ],
  },
  {
    name: 'ECR, public',
    host: 'public.ecr.aws',
    repository: 'docker/library/busybox',
    challenge: bearer('https://public.ecr.aws/token/', 'public.ecr.aws', 'aws'),
    token: { token: 'T' },
    asks: [
      'https://public.ecr.aws/token/',
      { service: 'public.ecr.aws', scope: [scopeOf('docker/library/busybox'), 'aws'] },
    ],
    opens: 'Bearer T',
    blobs: [307, `https://d5l0dvt14r5h8.cloudfront.net/{digest}?${SIGNATURE}`],
  },
  {
    name: 'GCR',
    host: 'gcr.io',
    repository: 'project/image',
    challenge: bearer('https://gcr.io/v2/token', 'gcr.io', 'repository:project/image:pull'),
    token: { expires_in: 43_200, issued_at: '2026-11-30T12:00:00Z', token: 'T' },
    asks: ['https://gcr.io/v2/token', { service: 'gcr.io', scope: scopeOf('project/image') }],
    opens: 'Bearer T',
    blobs: [
      302,
      `https://storage.googleapis.com/artifacts.project.appspot.com/containers/images/{digest}?${SIGNATURE}`,
    ],
  },
  {
    name: 'Artifact Registry, which names no service',
    host: 'europe-docker.pkg.dev',
    repository: 'project/repo/image',
    challenge: bearer('https://europe-docker.pkg.dev/v2/token'),
    token: { token: 'T', expires_in: 3600 },
    asks: ['https://europe-docker.pkg.dev/v2/token', { scope: scopeOf('project/repo/image') }],
    opens: 'Bearer T',
    // On the same host: the token goes along.
    blobs: [302, `/artifacts-downloads/namespaces/project/repositories/repo/downloads/{digest}?${SIGNATURE}`],
  },
  {
    name: 'ACR, with access_token alone',
    host: 'company.azurecr.io',
    repository: 'app',
    credentials: login,
    challenge: bearer('https://company.azurecr.io/oauth2/token', 'company.azurecr.io', 'repository:app:pull'),
    token: { access_token: 'T' },
    asks: [
      'https://company.azurecr.io/oauth2/token',
      { service: 'company.azurecr.io', scope: scopeOf('app'), account: 'user' },
    ],
    opens: 'Bearer T',
    blobs: [307, `https://weumanaged1.blob.core.windows.net/0123/docker/registry/v2/blobs/{digest}/data?${SIGNATURE}`],
  },
  {
    name: 'Quay, which compresses manifests',
    host: 'quay.io',
    repository: 'org/app',
    challenge: bearer('https://quay.io/v2/auth', 'quay.io', 'repository:org/app:pull'),
    token: { token: 'T' },
    asks: ['https://quay.io/v2/auth', { service: 'quay.io', scope: scopeOf('org/app') }],
    opens: 'Bearer T',
    headers: { 'content-encoding': 'gzip' },
    blobs: [302, `https://cdn01.quay.io/quayio-production-s3/sha256/{digest}?${SIGNATURE}`],
  },
  {
    name: 'Harbor',
    host: 'harbor.example',
    repository: 'library/app',
    credentials: login,
    challenge: bearer('https://harbor.example/service/token', 'harbor-registry', 'repository:library/app:pull'),
    token: { token: 'T', access_token: '', expires_in: 1800, issued_at: '2026-11-30T12:00:00Z' },
    asks: [
      'https://harbor.example/service/token',
      { service: 'harbor-registry', scope: scopeOf('library/app'), account: 'user' },
    ],
    opens: 'Bearer T',
  },
  {
    name: 'Artifactory, which refuses HEAD and names no digest',
    host: 'company.jfrog.io',
    repository: 'docker-local/app',
    credentials: login,
    challenge: 'Basic realm="Artifactory Realm"',
    opens: BASIC,
    headers: { 'docker-content-digest': '', 'content-type': 'application/json' },
    head: { status: 405 },
  },
  {
    name: 'GitLab, whose token server is another host',
    host: 'registry.gitlab.example',
    repository: 'group/project/app',
    credentials: login,
    challenge:
      bearer('https://gitlab.example/jwt/auth', 'container_registry', 'repository:group/project/app:pull') +
      ',error="invalid_token"',
    token: { token: 'T' },
    asks: [
      'https://gitlab.example/jwt/auth',
      { service: 'container_registry', scope: scopeOf('group/project/app'), account: 'user' },
    ],
    opens: 'Bearer T',
    blobs: [307, `https://storage.googleapis.com/gitlab-registry/docker/registry/v2/blobs/{digest}?${SIGNATURE}`],
  },
  {
    name: 'Gitea and Forgejo, with a scope of their own',
    host: 'gitea.example',
    repository: 'org/app',
    challenge: bearer('https://gitea.example/v2/token', 'container_registry', '*'),
    token: { token: 'T' },
    asks: ['https://gitea.example/v2/token', { service: 'container_registry', scope: [scopeOf('org/app'), '*'] }],
    opens: 'Bearer T',
  },
  {
    name: 'OCIR, with an empty scope',
    host: 'fra.ocir.example',
    repository: 'tenancy/app',
    challenge: bearer('https://fra.ocir.example/12345/docker/token', 'fra.ocir.example', ''),
    token: { token: 'T' },
    asks: [
      'https://fra.ocir.example/12345/docker/token',
      { service: 'fra.ocir.example', scope: scopeOf('tenancy/app') },
    ],
    opens: 'Bearer T',
  },
  {
    name: 'Nexus, in capitals',
    host: 'nexus.example:5000',
    repository: 'app',
    credentials: login,
    challenge: 'BASIC realm="Sonatype Nexus Repository Manager"',
    opens: BASIC,
  },
  {
    name: 'distribution 2 with a password file',
    host: 'registry.example:5000',
    repository: 'app',
    credentials: login,
    challenge: 'Basic realm="basic-realm"',
    opens: BASIC,
    headers: { 'docker-distribution-api-version': 'registry/2.0', etag: '"sha256:x"' },
  },
  {
    name: 'distribution 3 over a bucket',
    host: 'registry.example',
    repository: 'app',
    blobs: [307, `https://bucket.s3.example/docker/registry/v2/blobs/{digest}/data?${SIGNATURE}`],
  },
  {
    name: 'zot',
    host: 'zot.example',
    repository: 'app',
    credentials: login,
    challenge: 'Basic realm="Authorization Required"',
    opens: BASIC,
    headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
  },
];

/** A network in which one registry speaks as in the transcript. */
class Stage {
  readonly network = new FakeNetwork();
  readonly repository: Repository;
  readonly #transcript: Transcript;
  readonly #contents: FakeRegistry;

  constructor(transcript: Transcript) {
    this.#transcript = transcript;
    const { host, repository, credentials = { kind: 'none' }, asks } = transcript;
    this.#contents = new FakeRegistry().add(repository, 'v1', image);
    this.network.hosts.set(`https://${host}`, (request) => this.#answer(request));
    for (const address of [asks?.[0], this.#location('x')].filter((each) => each !== undefined)) {
      const { origin } = new URL(address);
      if (origin !== `https://${host}`) this.network.hosts.set(origin, (request) => this.#answer(request));
    }
    const client = new RegistryClient({ transport: this.network, pause: async () => {}, progressTimeoutMs: 0 });
    this.repository = client.repository(
      fakeEndpoint({ root: `https://${host}/v2`, repository, credentialName: `${host}/${repository}` }),
      credentials,
    );
  }

  #location(digest: string): string | undefined {
    const { blobs, host } = this.#transcript;
    const [, location] = blobs ?? [];
    return location === undefined ? undefined : new URL(location.replace('{digest}', digest), `https://${host}`).href;
  }

  async #answer(request: Parameters<FakeRegistry['normal']>[0]): Promise<FakeAnswer | undefined> {
    const { challenge, token, asks, opens, blobs, host, headers, head } = this.#transcript;
    const { url, method } = request;
    const address = `${url.origin}${url.pathname}`;
    if (address === asks?.[0]) return { body: JSON.stringify(token) };
    const digest = /sha256:[0-9a-f]{64}/.exec(url.pathname)?.[0] ?? '';
    const isStore = blobs !== undefined && url.search.includes(SIGNATURE);
    if (isStore) {
      const known = [{ digest: image.id, bytes: image.config }, ...image.layers].find((each) => each.digest === digest);
      return known === undefined ? undefined : { body: known.bytes };
    }
    if (challenge !== undefined && request.headers['authorization'] !== opens)
      return { status: 401, headers: { 'www-authenticate': challenge } };
    const isBlob = url.pathname.includes('/blobs/');
    const location = isBlob ? this.#location(digest) : undefined;
    if (location !== undefined) return { status: blobs?.[0] ?? 307, headers: { location } };
    if (method === 'HEAD' && head !== undefined) return head;
    const normal = this.#contents.normal(request);
    if (isBlob || normal === undefined || url.host !== host) return normal;
    const { gzipSync } = await import('node:zlib');
    const isCoded = headers?.['content-encoding'] === 'gzip' && normal.body instanceof Uint8Array;
    const body = isCoded ? gzipSync(normal.body as Uint8Array) : normal.body;
    return { ...normal, headers: { ...normal.headers, ...headers }, ...(body === undefined ? {} : { body }) };
  }
}

describe('image/registry: transcripts', () => {
  for (const transcript of TRANSCRIPTS)
    it(`${transcript.name}: a pull`, async () => {
      const { network, repository } = new Stage(transcript);
      const { digest, bytes } = await repository.manifest(testOp(), 'v1');
      expect([digest, bytes]).to.deep.equal([image.manifest.digest, image.manifest.bytes]);
      for (const each of [{ digest: image.id, bytes: image.config }, ...image.layers])
        expect(await drain(repository.blob(testOp(), each.digest, BigInt(each.bytes.length), 0n))).to.deep.equal(
          each.bytes,
        );
      const { asks, host, opens, head } = transcript;
      const tokens = network.requests.filter(({ url }) => `${url.origin}${url.pathname}` === asks?.[0]);
      expect(tokens).to.have.length(asks === undefined ? 0 : 1);
      for (const { url } of tokens)
        expect(
          Object.fromEntries([...new Set(url.searchParams.keys())].map((key) => [key, one(url, key)])),
        ).to.deep.equal(asks?.[1]);
      // What opens the door stays at the door.
      for (const { url, headers } of network.requests)
        if (url.host !== host && !tokens.some((each) => each.url === url))
          expect(headers['authorization'], url.host).to.equal(undefined);
      if (opens !== undefined) expect(network.requests.at(-2)?.headers).to.include.keys('accept-encoding');
      const promised = await repository.promisedDigest(testOp(), 'v1');
      expect(promised).to.equal(head === undefined ? image.manifest.digest : undefined);
    });

  for (const transcript of TRANSCRIPTS.filter(({ blobs }) => blobs !== undefined))
    it(`${transcript.name}: a signed address that has expired`, async () => {
      const { network, repository } = new Stage(transcript);
      await repository.manifest(testOp(), 'v1');
      for (const [origin, answer] of network.hosts)
        network.hosts.set(origin, (request, route) =>
          request.url.search.includes(SIGNATURE)
            ? { status: 403, body: `<Error><Code>AccessDenied</Code><Signature>${SIGNATURE}</Signature></Error>` }
            : answer(request, route),
        );
      const blob = drain(repository.blob(testOp(), image.id, BigInt(image.config.length), 0n));
      expect(await explainFailure(blob))
        .to.match(/^blob sha256:\w+ of \S+: .* answers 403; the address may have expired: try again later$/)
        .and.not.contain(SIGNATURE);
    });
});

function one(url: URL, key: string): string | readonly string[] {
  const [first = '', ...more] = url.searchParams.getAll(key);
  return more.length === 0 ? first : [first, ...more];
}
