/** Doubles for the tests of this directory: one registry in a network of its own, and a client of it. */
import { fakeImage, FakeNetwork, FakeRegistry } from '../fakes.ts';
import { anonymous } from './auth-file.ts';
import type { Credentials } from './auth-file.ts';
import { directRoute } from './http.ts';
import { RegistryClient } from './repository.ts';
import type { Endpoint, RegistryOptions, Repository } from './repository.ts';

/** Where the registry is. */
export const ORIGIN = 'https://reg.example';

/** What it has as `team/app:v1`. */
export const image = fakeImage(['one', 'two']);

/** Blobs come in ranges above this, small enough for a test. */
export const RANGES = { fromBytes: 200_000, eachBytes: 16_384 };

/** `team/app` on reg.example, with changes. */
export function fakeEndpoint(changes: Partial<Endpoint> = {}): Endpoint {
  return {
    root: `${ORIGIN}/v2`,
    repository: 'team/app',
    credentialName: 'reg.example/team/app',
    kind: 'registry',
    serves: 'all',
    security: 'verify',
    routeOf: () => directRoute,
    headers: {},
    namespace: '',
    ...changes,
  };
}

/** The path of a manifest or a blob there. */
export function path(kind: 'manifests' | 'blobs', name: string): string {
  return `/v2/team/app/${kind}/${name}`;
}

/** A registry and a client that waits for nothing. */
export interface Setup {
  readonly network: FakeNetwork;
  readonly registry: FakeRegistry;
  readonly repository: Repository;
  /** What would have been waited for, in milliseconds. */
  readonly pauses: number[];
}

/** Another repository for each test. */
export function setUp(
  options: {
    readonly endpoint?: Partial<Endpoint>;
    readonly credentials?: Credentials;
    readonly client?: Partial<RegistryOptions>;
  } = {},
): Setup {
  const network = new FakeNetwork();
  const registry = new FakeRegistry().add('team/app', 'v1', image);
  const endpoint = fakeEndpoint(options.endpoint);
  network.hosts.set(new URL(endpoint.root).origin, registry.host);
  const pauses: number[] = [];
  const client = new RegistryClient({
    transport: network,
    pause: async (ms) => void pauses.push(ms),
    progressTimeoutMs: 0,
    ranges: RANGES,
    ...options.client,
  });
  return { network, registry, repository: client.repository(endpoint, options.credentials ?? anonymous), pauses };
}
