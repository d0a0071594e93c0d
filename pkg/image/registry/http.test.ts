import { expect } from 'chai';
import { explain } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { cancellable, failure, FakeNetwork, testOp } from '../fakes.ts';
import { HttpClient } from './client.ts';
import { directRoute, headerOf } from './http.ts';
import type { HttpResponse } from './http.ts';

describe('image/registry/http: redirects', () => {
  const get = (network: FakeNetwork, url: string, verification: 'verify' | 'skip' = 'verify'): Promise<HttpResponse> =>
    new HttpClient({ transport: network }).send(
      testOp(),
      { method: 'GET', url: new URL(url), headers: { authorization: 'Bearer secret', accept: 'x' } },
      () => ({ ...directRoute, verification }),
    );
  const redirect =
    (location: string): (() => { status: number; headers: Record<string, string> }) =>
    () => ({ status: 307, headers: { location } });

  it('follows them, and leaves credentials at home', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://reg.example', redirect('https://cdn.example/x?sig=1'));
    network.hosts.set('https://cdn.example', (request) =>
      request.url.pathname === '/x' ? { status: 302, headers: { location: '/y' } } : { body: 'ok' },
    );
    const response = await get(network, 'https://reg.example/b');
    expect(response.url.href).to.equal('https://cdn.example/y');
    expect(network.requests.map(({ headers }) => headers['authorization'])).to.deep.equal([
      'Bearer secret',
      undefined,
      undefined,
    ]);
    expect(network.requests.map(({ headers }) => headers['accept'])).to.deep.equal(['x', 'x', 'x']);
  });

  it('keeps credentials on the same origin only: another port is another origin', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://reg.example', (request) =>
      request.url.pathname === '/b'
        ? { status: 301, headers: { location: '/c' } }
        : { status: 308, headers: { location: 'https://reg.example:8443/d' } },
    );
    network.hosts.set('https://reg.example:8443', () => ({ body: 'ok' }));
    await get(network, 'https://reg.example/b');
    expect(network.requests.map(({ headers }) => headers['authorization'])).to.deep.equal([
      'Bearer secret',
      'Bearer secret',
      undefined,
    ]);
  });

  it('refuses loops, other schemes, http after https, and ways into the node', async () => {
    for (const location of [
      'https://reg.example/b',
      'file:///etc/shadow',
      'ftp://x/',
      'http://cdn.example/x',
      'http://169.254.169.254/latest',
      'https://169.254.169.254/',
      'https://127.0.0.1:6443/',
      'https://localhost/',
      'https://[::1]/',
      'https://[::ffff:127.0.0.1]/',
      'https://[fe80::1]/',
      'https://2852039166/',
      'https://0.0.0.0/',
    ]) {
      const network = new FakeNetwork();
      network.hosts.set('https://reg.example', redirect(location));
      const error = await failure(get(network, 'https://reg.example/b'));
      expect(error.code, location).to.equal('FailedPrecondition');
      expect(
        network.requests.every(({ url }) => url.host === 'reg.example'),
        location,
      ).to.equal(true);
    }
  });

  it('follows a registry on a link-local address that sends us on to itself', async () => {
    for (const [origin, location] of [
      ['http://169.254.20.10:5000', '/v2/a'],
      ['http://169.254.20.10:5000', 'http://169.254.20.10:5001/v2/a'],
      ['http://[fe80::1]:5000', './a'],
    ] as const) {
      const network = new FakeNetwork();
      network.hosts.set(origin, redirect(location));
      const target = new URL(location, `${origin}/b`);
      const here = network.hosts.get(target.origin);
      network.hosts.set(target.origin, (request, route) =>
        request.url.pathname === target.pathname ? { body: 'ok' } : here?.(request, route),
      );
      await get(network, `${origin}/b`);
      expect(network.requests.at(-1)?.url.href).to.equal(target.href);
    }
    const away = new FakeNetwork();
    away.hosts.set('http://169.254.20.10', redirect('http://169.254.169.254/latest'));
    expect((await failure(get(away, 'http://169.254.20.10/b'))).code).to.equal('FailedPrecondition');
  });

  it('follows so many and no more', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://reg.example', redirect('https://reg.example/b'));
    await failure(get(network, 'https://reg.example/b'));
    expect(network.requests).to.have.length(limits.redirectsCount + 1);
  });

  it('never tells the query of an address, which may be a signature', async () => {
    const signed = '?X-Amz-Signature=51gn3d';
    const errors: Error[] = [];
    for (const [from, location] of [
      [`https://reg.example/b${signed}`, `http://cdn.example/x${signed}`],
      [`https://reg.example/b${signed}`, `https://reg.example/b${signed}`],
      [`https://reg.example/b${signed}`, `https://127.0.0.1/x${signed}`],
      [`https://reg.example/b${signed}`, `https://away.example/x${signed}`],
    ] as const) {
      const network = new FakeNetwork();
      network.hosts.set('https://reg.example', redirect(location));
      errors.push(await failure(get(network, from)));
    }
    const { op, cancel } = cancellable();
    cancel();
    const request = { method: 'GET' as const, url: new URL(`https://reg.example/b${signed}`), headers: {} };
    errors.push(await failure(new HttpClient({ transport: new FakeNetwork() }).send(op, request, () => directRoute)));
    for (const each of errors) expect(explain(each)).to.include('.example').and.not.include('51gn3d');
  });

  it('lets an insecure registry go to http, and a local one stay local', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://127.0.0.1:5000', redirect('http://127.0.0.1:5001/x'));
    network.hosts.set('http://127.0.0.1:5001', () => ({ body: 'ok' }));
    expect((await get(network, 'https://127.0.0.1:5000/b', 'skip')).status).to.equal(200);
  });

  it('names no query of an address that it does not follow', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://reg.example', redirect('ftp://cdn.example/x?X-Amz-Signature=SECRET#SECRET'));
    const { message } = await failure(get(network, 'https://reg.example/b?sig=SECRET'));
    expect(message).to.contain('ftp://cdn.example/x').and.not.contain('SECRET');
  });

  it('a location that is not there is an answer like any other', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://reg.example', () => ({ status: 302 }));
    const response = await get(network, 'https://reg.example/b');
    expect(response.status).to.equal(302);
    expect(headerOf(response, 'location')).to.equal(undefined);
  });
});
