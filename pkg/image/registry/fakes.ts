/** Doubles for the tests of this directory. */
import { directRoute } from './http.ts';
import type { Endpoint } from './repository.ts';

/** `team/app` on reg.example, with changes. */
export function fakeEndpoint(changes: Partial<Endpoint> = {}): Endpoint {
  return {
    root: 'https://reg.example/v2',
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
