import { expect } from 'chai';
import { describeEmptiness } from '../../base/fake-emptiness.ts';
import { explain } from '../../base/errors.ts';
import { cancellable, failure, FakeNetwork, stalled, testOp } from '../fakes.ts';
import type { FakeAnswer } from '../fakes.ts';
import { Authorizer } from './authorizer.ts';
import type { Door } from './authorizer.ts';
import { anonymous } from './auth-file.ts';
import type { Credentials } from './auth-file.ts';
import { HttpClient } from './client.ts';
import { directRoute } from './http.ts';
import type { HttpResponse } from './http.ts';

const b64 = (text: string): string => Buffer.from(text).toString('base64');
const password = (username: string, secret: string): Credentials => ({ kind: 'password', username, password: secret });

describe('image/registry/authorizer', () => {
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
    tries: 3,
  });
  const pauses: number[] = [];
  const authorizerOver = (network: FakeNetwork, now?: () => number): Authorizer =>
    new Authorizer(
      new HttpClient({ transport: network, now, pause: async (ms) => void pauses.push(ms), bodyMs: 50, headersMs: 50 }),
    );
  beforeEach(() => (pauses.length = 0));
  async function* empty(): AsyncGenerator<Uint8Array> {}

  it('gets a token with the password, keeps it, and gets another when it is old', async () => {
    const network = new FakeNetwork();
    let now = 1_000_000;
    let count = 0;
    network.hosts.set('https://auth.example', () => ({
      body: JSON.stringify({ token: `t${++count}`, expires_in: 300 }),
    }));
    const authorizer = authorizerOver(network, () => now);
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

  it('reads the token answers of all servers', async () => {
    for (const body of [
      '{"token":"","access_token":"T"}',
      '{"token":null,"access_token":"T"}',
      '{"Token":"T","access_token":""}',
      '{"ACCESS_TOKEN":"T","expires_in":"3600"}',
      '{"token":"T","expires_in":null,"issued_at":""}',
    ]) {
      const network = new FakeNetwork();
      network.hosts.set('https://auth.example', () => ({ body }));
      const answer = await authorizerOver(network).answer(testOp(), door(anonymous), refusal(bearer), undefined);
      expect(answer, body).to.equal('Bearer T');
    }
  });

  it('asks once for many parallel requests', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://auth.example', () => ({ body: '{"access_token":"t"}' }));
    const authorizer = authorizerOver(network);
    const headers = await Promise.all(
      [1, 2, 3].map(() => authorizer.answer(testOp(), door(anonymous), refusal(bearer), undefined)),
    );
    expect(headers).to.deep.equal(['Bearer t', 'Bearer t', 'Bearer t']);
    expect(network.requests).to.have.length(1);
    expect(network.requests[0]?.headers).to.not.have.property('authorization');
  });

  it('gives up a token server that stops in the middle of its answer, after some tries', async () => {
    const network = new FakeNetwork();
    network.hosts.set('https://auth.example', () => ({ body: stalled(Buffer.from('{"token":')) }));
    const error = await failure(authorizerOver(network).answer(testOp(), door(anonymous), refusal(bearer), undefined));
    expect([error.code, error.reason, error.message]).to.deep.equal([
      'Unavailable',
      'RegistryUnavailable',
      'token server https://auth.example/token: the answer of auth.example did not arrive in 0.05 s; the server or ' +
        'the line to it is too slow: try again later',
    ]);
    expect(network.requests).to.have.length(3);
  });

  it('waits for a token server as it is told, and not for ever', async () => {
    const network = new FakeNetwork();
    const answers: FakeAnswer[] = [
      { status: 429, headers: { 'retry-after': '6' } },
      {
        status: 503,
        headers: { 'retry-after': 'Mon, 30 Nov 2026 12:00:09 GMT', date: 'Mon, 30 Nov 2026 12:00:00 GMT' },
      },
      { body: '{"token":"t"}' },
    ];
    network.hosts.set('https://auth.example', () => answers.shift());
    const answer = await authorizerOver(network).answer(testOp(), door(anonymous), refusal(bearer), undefined);
    expect([answer, pauses]).to.deep.equal(['Bearer t', [6000, 9000]]);
    network.hosts.set('https://auth.example', () => ({ status: 429, headers: { 'retry-after': '3600' } }));
    const error = await failure(authorizerOver(network).answer(testOp(), door(anonymous), refusal(bearer), undefined));
    expect(error.message).to.match(/auth\.example answers 429 and asks to wait 3600 s; try again later$/);
    expect(pauses).to.have.length(2);
  });

  it('lets a caller leave who waits for the token that another asks for', async () => {
    const network = new FakeNetwork();
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<{ readonly body: string }>();
    network.hosts.set('https://auth.example', () => {
      asked.resolve();
      return answer.promise;
    });
    const authorizer = authorizerOver(network);
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
    const authorizer = authorizerOver(network);
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
    const authorizer = authorizerOver(new FakeNetwork());
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
    const authorizer = authorizerOver(network);
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
    const authorizer = authorizerOver(network);
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

  it('says in a refusal which credentials could not be read', async () => {
    const nobody: Credentials = { kind: 'none', unread: ['/root/.docker/config.json is not valid JSON'] };
    const answer = authorizerOver(new FakeNetwork()).answer(testOp(), door(nobody), refusal('Basic'), undefined);
    expect((await failure(answer)).message).to.match(/no credentials were found .*\(\/root.* is not valid JSON\)$/);
  });

  const headersOf = async (document: object): Promise<unknown> => {
    const network = new FakeNetwork();
    network.hosts.set('https://auth.example', () => ({ body: JSON.stringify(document) }));
    let now = 0;
    const authorizer = authorizerOver(network, () => now);
    const header = await authorizer.answer(testOp(), door(anonymous), refusal(bearer), undefined);
    now = 60_000;
    return [header, authorizer.header(door(anonymous))];
  };
  const rest = { expires_in: 300, issued_at: '2026-01-01T00:00:00Z', refresh_token: 'r', scope: 's' };
  const restKeys = { expires_in: 'unset', issued_at: 'ignored', refresh_token: 'ignored', scope: 'ignored' } as const;
  describeEmptiness({
    name: 'token answers of both names',
    notation: 'json',
    samples: [{ token: 'a', access_token: 'b', ...rest }],
    read: headersOf,
    keys: { token: 'unset', access_token: 'ignored', ...restKeys },
  });
  describeEmptiness({
    name: 'token answers of OAuth2',
    notation: 'json',
    samples: [{ access_token: 'b', ...rest }],
    read: headersOf,
    keys: { access_token: 'needed', ...restKeys },
  });
});
