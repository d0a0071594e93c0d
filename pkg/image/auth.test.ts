import { expect } from 'chai';
import { mock } from 'node:test';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AuthConfig } from '../cri-api/types.ts';
import { explain } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import {
  anonymous,
  Authorizer,
  decodeAuth,
  defaultAuthFiles,
  NodeCredentials,
  parseAuthFile,
  parseChallenges,
  registryHost,
  requestCredentials,
} from './auth.ts';
import type { Credentials, Door } from './auth.ts';
import { cancellable, failure, FakeNetwork, soon, stalled, testOp } from './fakes.ts';
import { directRoute, headerOf, send } from './http.ts';
import type { HttpResponse } from './http.ts';

const none: AuthConfig = {
  username: '',
  password: '',
  auth: '',
  serverAddress: '',
  identityToken: '',
  registryToken: '',
};
const b64 = (text: string): string => Buffer.from(text).toString('base64');
const password = (username: string, secret: string): Credentials => ({ kind: 'password', username, password: secret });

describe('image/auth: requests', () => {
  it('takes credentials in the order of CRI', () => {
    const all: AuthConfig = {
      ...none,
      username: 'u',
      password: 'p',
      auth: b64('a:b'),
      identityToken: 'it',
      registryToken: 'rt',
    };
    expect(requestCredentials(all)).to.deep.equal(password('u', 'p'));
    expect(requestCredentials({ ...all, username: '', password: '' })).to.deep.equal(password('a', 'b'));
    expect(requestCredentials({ ...none, identityToken: 'it', registryToken: 'rt' })).to.deep.equal({
      kind: 'identity',
      token: 'it',
    });
    expect(requestCredentials({ ...none, registryToken: 'rt' })).to.deep.equal({ kind: 'bearer', token: 'rt' });
    expect(requestCredentials(none)).to.equal(undefined);
    expect(requestCredentials(undefined)).to.equal(undefined);
  });

  it('decodes auth of every age', () => {
    expect(decodeAuth(b64('user:pa:ss'), 'x')).to.deep.equal(password('user', 'pa:ss'));
    expect(decodeAuth(b64('user:pass').replace(/=+$/, ''), 'x')).to.deep.equal(password('user', 'pass'));
    expect(decodeAuth(`${b64('us:pa')}====\n`, 'x')).to.deep.equal(password('us', 'pa'));
    expect(decodeAuth(b64('user:pass\0\0\0'), 'x')).to.deep.equal(password('user', 'pass'));
    expect(decodeAuth(Buffer.from('u>?:p>?').toString('base64url'), 'x')).to.deep.equal(password('u>?', 'p>?'));
    expect(() => decodeAuth('!!!', 'the auth field')).to.throw('the auth field is not base64');
    expect(() => decodeAuth(b64('nocolon'), 'x'))
      .to.throw()
      .with.property('message')
      .that.does.not.contain('nocolon');
  });

  it('knows a registry by all its names', () => {
    for (const name of ['docker.io', 'https://index.docker.io/v1/', 'registry-1.docker.io', 'http://docker.io'])
      expect(registryHost(name), name).to.equal('docker.io');
    expect(registryHost('https://Reg.example:5000/v2/')).to.equal('reg.example:5000');
  });
});

describe('image/auth: challenges', () => {
  const read = (...lines: string[]): unknown =>
    parseChallenges(lines).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

  it('reads them in every spelling', () => {
    expect(read('Bearer realm="https://a/t",service="s, x",scope="repository:a:pull"')).to.deep.equal([
      ['bearer', { realm: 'https://a/t', service: 's, x', scope: 'repository:a:pull' }],
    ]);
    expect(read('BASIC Realm = "x"')).to.deep.equal([['basic', { realm: 'x' }]]);
    expect(read('Negotiate, Basic realm=plain, charset="UTF-8"', 'Bearer realm="y\\"z"')).to.deep.equal([
      ['negotiate', {}],
      ['basic', { realm: 'plain', charset: 'UTF-8' }],
      ['bearer', { realm: 'y"z' }],
    ]);
  });

  it('survives nonsense in linear time', () => {
    expect(read('')).to.deep.equal([]);
    expect(read('=')).to.deep.equal([]);
    expect(read('Bearer realm="open')).to.deep.equal([['bearer', {}]]);
    expect(read('Bearer realm=,')).to.deep.equal([['bearer', { realm: '' }]]);
    expect(parseChallenges([`Bearer ${'a="b",'.repeat(100_000)}`])[0]?.parameters.get('a')).to.equal('b');
    expect(read(',='.repeat(10_000))).to.deep.equal([]);
  });
});

describe('image/auth: Authorizer', () => {
  const bearer = 'Bearer realm="https://auth.example/token",service="reg.example"';
  const refusal = (challenge: string | undefined): HttpResponse => ({
    status: 401,
    headers: { 'www-authenticate': challenge },
    url: new URL('https://reg.example/v2/'),
    body: empty(),
    discard() {},
  });
  const door = (credentials: Credentials, scheme = 'https'): Door => ({
    url: new URL(`${scheme}://reg.example/v2/team/app/manifests/v1`),
    routeOf: () => directRoute,
    repository: 'team/app',
    credentials,
  });
  async function* empty(): AsyncGenerator<Uint8Array> {}

  it('gets a token with the password, keeps it, and gets another when it is old', async () => {
    const network = new FakeNetwork();
    let now = 1_000_000;
    let count = 0;
    network.hosts.set('https://auth.example', () => ({
      body: JSON.stringify({ token: `t${++count}`, expires_in: 300 }),
    }));
    const authorizer = new Authorizer(network, () => now);
    const my = door(password('u', 'p'));
    expect(authorizer.header(my)).to.equal(undefined);
    expect(await authorizer.answer(testOp(), my, refusal(bearer), undefined)).to.equal('Bearer t1');
    expect(network.lines).to.deep.equal([
      'GET https://auth.example/token?service=reg.example&scope=repository%3Ateam%2Fapp%3Apull&account=u',
    ]);
    expect(network.requests[0]?.headers['authorization']).to.equal(`Basic ${b64('u:p')}`);
    expect(authorizer.header(my)).to.equal('Bearer t1');
    expect(authorizer.header(door(password('u', 'other')))).to.equal(undefined);
    now += 299_000;
    expect(authorizer.header(my)).to.equal(undefined);
    expect(await authorizer.answer(testOp(), my, refusal(bearer), 'Bearer t1')).to.equal('Bearer t2');
  });

  it('asks once for many parallel requests', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://auth.example', () => ({ body: '{"access_token":"t"}' }));
    const authorizer = new Authorizer(network);
    const headers = await Promise.all(
      [1, 2, 3].map(() => authorizer.answer(testOp(), door(anonymous), refusal(bearer), undefined)),
    );
    expect(headers).to.deep.equal(['Bearer t', 'Bearer t', 'Bearer t']);
    expect(network.requests).to.have.length(1);
    expect(network.requests[0]?.headers).to.not.have.property('authorization');
  });

  it('gives up a token server that stops in the middle of its answer', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://auth.example', () => ({ body: stalled(Buffer.from('{"token":')) }));
    const timeout = mock.method(AbortSignal, 'timeout', soon);
    try {
      const error = await failure(
        new Authorizer(network).answer(testOp(), door(anonymous), refusal(bearer), undefined),
      );
      expect([error.code, error.reason, error.message]).to.deep.equal([
        'Unavailable',
        'RegistryUnavailable',
        'the answer of token server https://auth.example/token did not arrive in ' +
          `${limits.registryBodyMs / 1000} s; the server or the line to it is too slow`,
      ]);
    } finally {
      timeout.mock.restore();
    }
  });

  it('lets a caller leave who waits for the token that another asks for', async () => {
    const network = new FakeNetwork();
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<{ readonly body: string }>();
    network.hosts.set('https://auth.example', () => {
      asked.resolve();
      return answer.promise;
    });
    const authorizer = new Authorizer(network);
    const first = authorizer.answer(testOp(), door(anonymous), refusal(bearer), undefined);
    await asked.promise;
    const leaving = cancellable();
    const second = failure(authorizer.answer(leaving.op, door(anonymous), refusal(bearer), undefined));
    leaving.cancel();
    expect((await second).code).to.equal('Cancelled');
    answer.resolve({ body: '{"token":"t"}' });
    expect(await first).to.equal('Bearer t');
  });

  it('posts an identity token, and sends a registry token as it is', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://auth.example', () => ({ body: '{"access_token":"t"}' }));
    const authorizer = new Authorizer(network);
    await authorizer.answer(testOp(), door({ kind: 'identity', token: 'refresh&me' }), refusal(bearer), undefined);
    expect(network.requests[0]?.method).to.equal('POST');
    expect(new URLSearchParams(network.requests[0]?.body).get('refresh_token')).to.equal('refresh&me');
    expect(
      await authorizer.answer(testOp(), door({ kind: 'bearer', token: 'abc' }), refusal(bearer), undefined),
    ).to.equal('Bearer abc');
    expect(
      (
        await failure(
          authorizer.answer(testOp(), door({ kind: 'bearer', token: 'abc' }), refusal(bearer), 'Bearer abc'),
        )
      ).code,
    ).to.equal('Unauthenticated');
    expect(network.requests).to.have.length(1);
  });

  it('answers Basic, and says what is wrong when that is refused', async () => {
    const authorizer = new Authorizer(new FakeNetwork());
    const basic = refusal('Basic realm="x"');
    const header = await authorizer.answer(testOp(), door(password('u', 's3cret')), basic, undefined);
    expect(header).to.equal(`Basic ${b64('u:s3cret')}`);
    const wrong = await failure(authorizer.answer(testOp(), door(password('u', 's3cret')), basic, header));
    expect(wrong.code).to.equal('Unauthenticated');
    expect(explain(wrong)).to.contain('password are wrong').and.not.contain('s3cret').and.not.contain(b64('u:s3cret'));
    expect(explain(await failure(authorizer.answer(testOp(), door(anonymous), basic, undefined)))).to.contain(
      'no credentials were found',
    );
  });

  it('tells a token server without TLS nothing (CVE-2019-10214), nor one inside the node', async () => {
    const network = new FakeNetwork();
    for (const host of ['http://evil', 'https://169.254.169.254', 'https://127.0.0.1'])
      network.hosts.set(host, () => ({ body: '{"token":"t"}' }));
    const authorizer = new Authorizer(network);
    for (const realm of [
      'http://evil/',
      'https://169.254.169.254/latest',
      'https://127.0.0.1/',
      'file:///etc/shadow',
      'nonsense',
    ]) {
      const error = await failure(
        authorizer.answer(testOp(), door(password('u', 'p')), refusal(`Bearer realm="${realm}"`), undefined),
      );
      expect(['Unauthenticated', 'FailedPrecondition'], realm).to.include(error.code);
    }
    expect(network.requests).to.have.length(0);
    expect(
      await authorizer.answer(testOp(), door(anonymous, 'http'), refusal('Bearer realm="http://evil/"'), undefined),
    ).to.equal('Bearer t');
  });

  it('turns the token server’s failures into what the kubelet knows', async () => {
    const network = new FakeNetwork();
    const authorizer = new Authorizer(network);
    const outcome = async (status: number, body: string): Promise<string> => {
      network.hosts.set('https://auth.example', () => ({ status, body }));
      const { code, reason, message } = await failure(
        authorizer.answer(testOp(), door(password('u', 'p')), refusal(bearer), undefined),
      );
      expect(message).to.not.contain('LEAK');
      return `${code} ${reason ?? '-'}`;
    };
    expect(await outcome(401, 'LEAK')).to.equal('Unauthenticated -');
    expect(await outcome(503, 'LEAK')).to.equal('Unavailable RegistryUnavailable');
    expect(await outcome(200, 'LEAK')).to.equal('FailedPrecondition -');
    expect(await outcome(200, '{"LEAK":1}')).to.equal('Unauthenticated -');
    expect(await outcome(200, '{"token":"a\\r\\nX: LEAK"}')).to.equal('Unauthenticated -');
    expect(await outcome(200, `{"token":"${'x'.repeat(300_000)}"}`)).to.equal('ResourceExhausted -');
    network.hosts.delete('https://auth.example');
    expect((await failure(authorizer.answer(testOp(), door(anonymous), refusal(bearer), undefined))).reason).to.equal(
      'RegistryUnavailable',
    );
  });
});

describe('image/auth: files', () => {
  let directory: string;
  beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'auth-'))));
  afterEach(() => rm(directory, { recursive: true }));
  const write = async (name: string, value: unknown): Promise<string> => {
    await writeFile(join(directory, name), typeof value === 'string' ? value : JSON.stringify(value));
    return join(directory, name);
  };

  it('finds the most specific key, under every spelling of a host', async () => {
    const file = await write('auth.json', {
      auths: {
        'https://index.docker.io/v1/': { auth: b64('hub:1') },
        'reg.example:5000': { auth: b64('host:2') },
        'reg.example:5000/team': { auth: b64('team:3') },
        'reg.example:5000/team/app': { username: 'app', password: '4' },
        'token.example': { identitytoken: 'it', auth: b64('x:y') },
        empty: {},
      },
    });
    const node = new NodeCredentials({ authFiles: [join(directory, 'absent'), file] });
    const find = async (name: string): Promise<string> => {
      const found = await node.find(testOp(), name, undefined, []);
      return found.kind === 'password' ? `${found.username}:${found.password}` : found.kind;
    };
    expect(await find('docker.io/library/busybox')).to.equal('hub:1');
    expect(await find('reg.example:5000/other')).to.equal('host:2');
    expect(await find('reg.example:5000/team/x')).to.equal('team:3');
    expect(await find('reg.example:5000/team/app')).to.equal('app:4');
    expect(await find('reg.example:5000/teammates')).to.equal('host:2');
    expect(await find('token.example/x')).to.equal('identity');
    expect(await find('empty/x')).to.equal('none');
    expect(await find('reg.example/team')).to.equal('none');
  });

  it('takes the namespace’s file before the global one, and the global one instead of the others', async () => {
    const entry = (user: string): object => ({ auths: { 'a.example': { auth: b64(`${user}:x`) } } });
    const [own, shared, other] = [
      await write('1', entry('namespace')),
      await write('2', entry('global')),
      await write('3', entry('other')),
    ];
    const user = async (node: NodeCredentials, file?: string): Promise<unknown> => {
      const found = await node.find(testOp(), 'a.example/x', file, []);
      return found.kind === 'password' ? found.username : found.kind;
    };
    expect(await user(new NodeCredentials({ authFiles: [other], globalAuthFile: shared }), own)).to.equal('namespace');
    expect(await user(new NodeCredentials({ authFiles: [other], globalAuthFile: shared }))).to.equal('global');
    expect(await user(new NodeCredentials({ authFiles: [other], globalAuthFile: '' }))).to.equal('other');
  });

  it('reads the old .dockercfg, and refuses damage without quoting it', async () => {
    expect(
      parseAuthFile(Buffer.from(JSON.stringify({ 'https://old.example': { auth: b64('u:p') } })), 'x').entries.get(
        'old.example',
      ),
    ).to.deep.equal(password('u', 'p'));
    const file = await write('bad', '{"auths":{"a":{"auth":"SECRET"');
    const error = await failure(new NodeCredentials({ authFiles: [file] }).find(testOp(), 'a/b', undefined, []));
    expect(explain(error)).to.contain(file).and.not.contain('SECRET');
  });

  it('asks helpers: of the host, of the store, of registries.conf', async () => {
    const asked: string[] = [];
    const file = await write('auth.json', {
      credHelpers: { 'a.example': 'one' },
      credsStore: 'two',
      auths: { 'b.example': { auth: b64('file:x') } },
    });
    const node = new NodeCredentials({
      authFiles: [file],
      runHelper: async (_op, program, argument, input) => {
        asked.push(`${program} ${argument} ${input}`);
        if (input === 'nothing.example') return { exitCode: 1, stdout: 'credentials not found' };
        return {
          exitCode: 0,
          stdout: JSON.stringify({
            ServerURL: input,
            Username: program.endsWith('one') ? '<token>' : 'u',
            Secret: 's',
          }),
        };
      },
    });
    expect(await node.find(testOp(), 'a.example/x', undefined, [])).to.deep.equal({ kind: 'identity', token: 's' });
    expect(await node.find(testOp(), 'b.example/x', undefined, [])).to.deep.equal(password('file', 'x'));
    expect(await node.find(testOp(), 'docker.io/library/x', undefined, [])).to.deep.equal(password('u', 's'));
    expect(await node.find(testOp(), 'nothing.example/x', undefined, ['containers-auth.json', 'three'])).to.deep.equal(
      anonymous,
    );
    expect(asked).to.deep.equal([
      'docker-credential-one get a.example',
      'docker-credential-two get https://index.docker.io/v1/',
      'docker-credential-two get nothing.example',
      'docker-credential-three get nothing.example',
    ]);
    const evil = await write('evil', { credsStore: '../../bin/sh' });
    expect(
      (
        await failure(
          new NodeCredentials({ authFiles: [evil], runHelper: () => Promise.reject(new Error('ran')) }).find(
            testOp(),
            'a/b',
            undefined,
            [],
          ),
        )
      ).message,
    ).to.contain('not the name of a credential helper');
  });

  it('moves a namespace’s one-time file aside for the pull and deletes it afterwards', async () => {
    const name = `prod-${createHash('sha256').update('reg.example/app').digest('hex')}.json`;
    await write(name, { auths: { 'reg.example': { auth: b64('u:p') } } });
    const node = new NodeCredentials({ authFiles: [], namespacedAuthDir: directory });
    expect(await node.claim('other', ['reg.example/app'])).to.equal(undefined);
    expect(await node.claim('../prod', ['reg.example/app'])).to.equal(undefined);
    const ticket = await node.claim('prod', ['reg.example/app:v1', 'reg.example/app']);
    expect(await readdir(directory)).to.deep.equal(['in-use']);
    expect(await node.find(testOp(), 'reg.example/app', ticket?.path, [])).to.deep.equal(password('u', 'p'));
    await ticket?.release();
    expect(await readdir(join(directory, 'in-use'))).to.deep.equal([]);
  });

  it('knows where root’s files are', async () => {
    await mkdir(join(directory, 'x'));
    expect(defaultAuthFiles({ HOME: '/h' })).to.deep.equal([
      '/run/containers/0/auth.json',
      '/h/.config/containers/auth.json',
      '/h/.docker/config.json',
      '/h/.dockercfg',
    ]);
    expect(defaultAuthFiles({ REGISTRY_AUTH_FILE: '/f' })).to.deep.equal(['/f']);
  });
});

describe('image/http: redirects', () => {
  const get = (network: FakeNetwork, url: string, verification: 'verify' | 'skip' = 'verify'): Promise<HttpResponse> =>
    send(
      testOp(),
      network,
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

  it('lets an insecure registry go to http, and a local one stay local', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://127.0.0.1:5000', redirect('http://127.0.0.1:5001/x'));
    network.hosts.set('http://127.0.0.1:5001', () => ({ body: 'ok' }));
    expect((await get(network, 'https://127.0.0.1:5000/b', 'skip')).status).to.equal(200);
  });

  it('a location that is not there is an answer like any other', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://reg.example', () => ({ status: 302 }));
    const response = await get(network, 'https://reg.example/b');
    expect(response.status).to.equal(302);
    expect(headerOf(response, 'location')).to.equal(undefined);
  });
});
