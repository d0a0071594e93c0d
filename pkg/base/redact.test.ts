import { assert } from 'chai';
import { isSecretName, redact } from './redact.ts';

describe('redact', () => {
  const cases: readonly (readonly [given: string, wanted: string])[] = [
    ['GET https://user:hunter2@registry.example/v2/', 'GET https://[redacted]@registry.example/v2/'],
    ['GET https://user:p@ss@registry.example/v2/', 'GET https://[redacted]@registry.example/v2/'],
    ['via http://proxy/https://u:p@reg.example/x@1', 'via http://proxy/https://[redacted]@reg.example/x@1'],
    ['"https://t0ken@reg.example"', '"https://[redacted]@reg.example"'],
    ['https://reg.example/v2/x@sha256:ab', 'https://reg.example/v2/x@sha256:ab'],
    ['GET https://reg.example/v2/blob?sig=abc&x=y failed', 'GET https://reg.example/v2/blob?[redacted] failed'],
    ['is it https://reg.example/v2/?', 'is it https://reg.example/v2/?'],
    ['Authorization: Bearer eyJhbGciOi.abc', 'Authorization: Bearer [redacted]'],
    ['header "Basic dXNlcjpwYXNz"', 'header "Basic [redacted]"'],
    ['{"password":"hunter2","x":1}', '{"password":"[redacted]","x":1}'],
    ['{"password":"two words, and a \\" in it","x":1}', '{"password":"[redacted]","x":1}'],
    ['{\\"identityToken\\": \\"abc def\\",\\"x\\":1}', '{\\"identityToken\\": \\"[redacted]\\",\\"x\\":1}'],
    ["secret='it is'; rest", "secret='[redacted]'; rest"],
    ['{"password":"cut off', '{"password":"[redacted]'],
    ['{"password":"","x":1}', '{"password":"","x":1}'],
    ['MYSQL_ROOT_PASSWORD=hunter2 rest', 'MYSQL_ROOT_PASSWORD=[redacted] rest'],
    ['AWS_SECRET_ACCESS_KEY=abc/def+g rest', 'AWS_SECRET_ACCESS_KEY=[redacted] rest'],
    [`${'x'.repeat(60)}_token=abc`, `${'x'.repeat(60)}_token=[redacted]`],
    ['api_key: abc', 'api_key: [redacted]'],
    ['identitytoken: abc', 'identitytoken: [redacted]'],
    ['pull docker.io/library/busybox:latest', 'pull docker.io/library/busybox:latest'],
    ['unix:///run/berth/berth.sock', 'unix:///run/berth/berth.sock'],
    ['the token server is away', 'the token server is away'],
  ];
  for (const [given, wanted] of cases) it(given, () => assert.strictEqual(redact(given), wanted));

  it('knows the fields that are never shown', () => {
    for (const name of ['password', 'registryToken', 'env', 'annotations', 'auth', 'X-Authorization'])
      assert.isTrue(isSecretName(name), name);
    for (const name of ['image', 'author', 'environment']) assert.isFalse(isSecretName(name), name);
  });

  // A second of processor time is fifty times what it takes; backtracking would take minutes.
  for (const piece of [
    'a://',
    'a://a',
    'a+b.c://',
    'a://?',
    'a://b@',
    'http://x@',
    'a-',
    'password',
    'password ',
    'token=',
    'token="',
    'token=\\"',
    'token    ',
    '-token-',
    'secret-secret_',
    'bearer ',
    'bearer a',
    'x"\'',
  ])
    it(`reads text of ${JSON.stringify(piece)} once`, () => {
      const text = `token ${piece.repeat(1_000_000 / piece.length)}`;
      const began = process.cpuUsage();
      redact(text);
      assert.isBelow(process.cpuUsage(began).user, 1_000_000, 'microseconds');
    });
});
