import { assert } from 'chai';
import { createSecureContext, getCiphers } from 'node:tls';
import { opensslName, tlsOptions } from './tls.ts';

describe('what is demanded of TLS', () => {
  it('names suites as OpenSSL does', () => {
    const names = [
      'TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256',
      'TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA',
      'TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256',
      'TLS_AES_256_GCM_SHA384',
    ].map(opensslName);
    assert.deepEqual(names, [
      'ECDHE-RSA-AES128-GCM-SHA256',
      'ECDHE-ECDSA-AES256-SHA',
      'ECDHE-RSA-CHACHA20-POLY1305',
      'TLS_AES_256_GCM_SHA384',
    ]);
    for (const name of names) assert.include(getCiphers(), name.toLowerCase());
  });

  it("is Node's choice where nothing is said", () =>
    assert.deepEqual(tlsOptions({ minVersion: 'VersionTLS12', cipherSuites: [] }), { minVersion: 'TLSv1.2' }));

  it('leaves TLS 1.3 its suites where only older ones are named', () => {
    const { ciphers } = tlsOptions({
      minVersion: 'VersionTLS12',
      cipherSuites: ['TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256'],
    });
    assert.equal(
      ciphers,
      'ECDHE-RSA-AES128-GCM-SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256',
    );
    assert.equal(
      tlsOptions({ minVersion: 'VersionTLS13', cipherSuites: ['TLS_AES_128_GCM_SHA256'] }).ciphers,
      'TLS_AES_128_GCM_SHA256',
    );
  });

  it('is taken by OpenSSL', () => {
    for (const minVersion of ['VersionTLS12', 'VersionTLS13'] as const)
      createSecureContext(
        tlsOptions({ minVersion, cipherSuites: ['TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA', 'TLS_AES_128_GCM_SHA256'] }),
      );
    assert.throws(() =>
      createSecureContext(tlsOptions({ minVersion: 'VersionTLS12', cipherSuites: ['TLS_NO_WITH_SUCH'] })),
    );
  });
});
