import { expect } from 'chai';
import { proxyFor } from './proxy.ts';

describe('image/policy/proxy', () => {
  it('chooses proxies as Go does', () => {
    const environment = {
      HTTPS_PROXY: 'http://p:1',
      http_proxy: 'http://q:2',
      NO_PROXY: 'internal.example, .corp, 10.0.0.0/8,exact.example:8443, *.star.example,fd00::/8',
    };
    const proxy = (url: string, env: Record<string, string> = environment): string | undefined =>
      proxyFor(new URL(url), env);
    expect(proxy('https://reg.example/')).to.equal('http://p:1');
    expect(proxy('http://reg.example/')).to.equal('http://q:2');
    for (const direct of [
      'https://internal.example/',
      'https://a.internal.example/',
      'https://x.corp/',
      'https://10.1.2.3/',
      'https://exact.example:8443/',
      'https://a.star.example/',
      'https://localhost:5000/',
      'http://127.0.0.1:5000/',
      'https://[::1]/',
      'https://[fd00::1]/',
    ])
      expect(proxy(direct), direct).to.equal(undefined);
    for (const through of [
      'https://notinternal.example/',
      'https://corp/',
      'https://11.1.2.3/',
      'https://exact.example/',
    ])
      expect(proxy(through), through).to.equal('http://p:1');
    expect(proxy('https://reg.example/', { HTTPS_PROXY: 'http://p:1', NO_PROXY: '*' })).to.equal(undefined);
    expect(proxy('https://reg.example/', {})).to.equal(undefined);
  });

  it('takes the first variable that is not empty', () => {
    const url = new URL('http://reg.example/');
    expect(proxyFor(url, { HTTP_PROXY: '', http_proxy: 'http://p:1' })).to.equal('http://p:1');
    expect(proxyFor(url, { HTTP_PROXY: 'http://q:2', http_proxy: 'http://p:1' })).to.equal('http://q:2');
    expect(proxyFor(url, { HTTP_PROXY: '', http_proxy: '' })).to.equal(undefined);
    const exempt = { HTTP_PROXY: 'http://p:1', NO_PROXY: '', no_proxy: 'reg.example' };
    expect(proxyFor(url, exempt)).to.equal(undefined);
  });
});
