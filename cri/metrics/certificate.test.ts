import { X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { assert } from 'chai';
import { selfSigned } from './certificate.ts';

const NOW = Date.UTC(2026, 10, 30, 12);

describe('cri/metrics/certificate', () => {
  it('is one that OpenSSL takes, signed by its own key, for the node and loopback, for a year', () => {
    const { cert, key } = selfSigned('node-1.example', NOW);
    createSecureContext({ cert, key });
    const read = new X509Certificate(cert);
    assert.isTrue(read.verify(read.publicKey));
    assert.isTrue(read.checkIssued(read));
    assert.equal(read.subject, 'CN=node-1.example');
    for (const host of ['node-1.example', 'localhost']) assert.equal(read.checkHost(host), host);
    for (const address of ['127.0.0.1', '::1']) assert.equal(read.checkIP(address), address);
    assert.equal(read.validFromDate.toISOString(), '2026-11-30T11:00:00.000Z');
    assert.equal(read.validToDate.toISOString(), '2027-11-30T12:00:00.000Z');
  });

  it('has another number and another key each time', () => {
    const [one, other] = [0, 1].map(() => new X509Certificate(selfSigned('n', NOW).cert));
    assert.notEqual(one?.serialNumber, other?.serialNumber);
    assert.notEqual(one?.fingerprint256, other?.fingerprint256);
  });

  it('is made of long names, too', () => {
    const host = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(63)}`;
    assert.equal(new X509Certificate(selfSigned(host, NOW).cert).checkHost(host), host);
  });
});
