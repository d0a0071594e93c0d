import { expect } from 'chai';
import { describeEmptiness } from '../../base/fake-emptiness.ts';
import { decodeAuth, parseAuthFile, registryHost } from './auth-file.ts';
import type { Credentials } from './auth-file.ts';

const b64 = (text: string): string => Buffer.from(text).toString('base64');
const password = (username: string, secret: string): Credentials => ({ kind: 'password', username, password: secret });
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

describe('image/registry/auth-file', () => {
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

  it('takes time by the length of what it reads', () => {
    const many = (sign: string): string => sign.repeat(200_000);
    const began = performance.now();
    expect(() => decodeAuth(`${many('=')}!`, 'x')).to.throw('is not base64');
    expect(decodeAuth(b64(`u:${many('\0')}p`), 'x')).to.deep.equal(password('u', `${many('\0')}p`));
    expect([
      ...parseAuthFile(json({ auths: { [`h${many('/')}x`]: { auth: b64('u:p') } } }), 'f').entries,
    ]).to.have.length(1);
    // Each of them took 20 s.
    expect(performance.now() - began).to.be.below(5_000);
  });

  it('knows a registry by all its names', () => {
    for (const name of ['docker.io', 'https://index.docker.io/v1/', 'registry-1.docker.io', 'http://docker.io'])
      expect(registryHost(name), name).to.equal('docker.io');
    expect(registryHost('https://Reg.example:5000/v2/')).to.equal('reg.example:5000');
  });

  it('reads the old .dockercfg', () => {
    const file = parseAuthFile(json({ 'https://old.example': { auth: b64('u:p') }, x: '', y: null }), 'x');
    expect([...file.entries]).to.deep.equal([['old.example', password('u', 'p')]]);
  });

  it('keeps an entry that makes no sense from nobody but its host', () => {
    const { entries } = parseAuthFile(
      json({ auths: { a: { auth: '!' }, b: { auth: b64('u:p') }, c: { auth: '' } } }),
      'f',
    );
    expect(entries.get('a')).to.have.property('message', 'f: the entry for "a" is not base64 of user:password');
    expect([entries.get('b'), entries.get('c')]).to.deep.equal([password('u', 'p'), undefined]);
  });
});

const CONFIG_KEYS = {
  auths: 'unset',
  'auths.*': 'unset',
  credsStore: 'unset',
  credHelpers: 'unset',
  'credHelpers.*': { absent: 'unset', empty: 'own', why: 'a host without a helper, whatever credsStore says' },
  HttpHeaders: 'ignored',
  'HttpHeaders.User-Agent': 'ignored',
  detachKeys: 'ignored',
} as const;
for (const [key, entry] of [
  ['auth', { auth: b64('u:p') }],
  ['identitytoken', { identitytoken: 't' }],
  ['registrytoken', { registrytoken: 't' }],
  ['username', { username: 'u' }],
  ['password', { password: 'p' }],
] as const)
  describeEmptiness({
    name: `auth files with ${key}`,
    notation: 'json',
    samples: [
      {
        auths: { 'a.example': { ...entry, email: 'x@example' } },
        credsStore: 'store',
        credHelpers: { 'b.example': 'helper' },
        HttpHeaders: { 'User-Agent': 'x' },
        detachKeys: 'ctrl-q',
      },
    ],
    names: ['auths', 'credHelpers'],
    read: (document) => parseAuthFile(json(document), 'test'),
    keys: { ...CONFIG_KEYS, [`auths.*.${key}`]: 'unset', 'auths.*.email': 'ignored' },
  });
