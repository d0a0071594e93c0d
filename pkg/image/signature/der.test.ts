import { expect } from 'chai';
import { childrenOf, contentOf, oidOf, onlyElement, tags, timeOf, wholeBits } from './der.ts';
import { readCertificate, readCertificates } from './certificate.ts';
import { authorityExtension, der, makeCertificate, oid, pemOf } from './fake-authority.ts';

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');
const time = (tag: number, text: string): number => timeOf(onlyElement(der(tag, Buffer.from(text))));

describe('image/signature/der', () => {
  it('reads elements, and what is in them', () => {
    const long = Buffer.alloc(300, 7);
    const list = onlyElement(der(0x30, der(0x04, long), der(0x01, hex('ff'))));
    expect(childrenOf(list).map(({ tag, content }) => [tag, content.length])).to.deep.equal([
      [0x04, 300],
      [0x01, 1],
    ]);
    expect(contentOf(childrenOf(list)[0], tags.octets)).to.deep.equal(long);
    for (const text of ['2.5.29.17', '1.3.6.1.4.1.57264.1.8', '0.9.2342', '2.999.1'])
      expect(oidOf(onlyElement(oid(text))), text).to.equal(text);
    expect(wholeBits(onlyElement(hex('03 03 00 01 02')))).to.deep.equal(hex('01 02'));
  });

  it('takes one way of writing a thing, and ends with its bytes', () => {
    const rows: readonly (readonly [string, RegExp])[] = [
      ['', /ends too early/],
      ['30', /ends too early/],
      ['30 01', /ends too early/],
      ['30 00 00', /something follows it/],
      ['30 80 00 00', /a length is none/],
      ['30 85 00 00 00 00 00', /a length is none/],
      ['30 81 01 00', /not written in the shortest way/],
      ['30 82 00 81', /not written in the shortest way/],
      ['30 84 ff ff ff ff', /ends too early/],
      ['1f 81 00', /long form/],
    ];
    for (const [bytes, why] of rows) expect(() => onlyElement(hex(bytes)), bytes).to.throw(why);
    for (const bytes of ['06 00', '06 02 2a 80', '06 02 80 01', '06 06 2a ff ff ff ff 7f'])
      expect(() => oidOf(onlyElement(hex(bytes))), bytes).to.throw(/an object identifier/);
    expect(() => wholeBits(onlyElement(hex('03 02 01 02')))).to.throw(/whole bytes/);
    expect(() => childrenOf(undefined)).to.throw(/missing/);
    expect(() => childrenOf(onlyElement(hex('04 00')))).to.throw(/tag 4 where 48/);
  });

  it('reads times to the second, and no others', () => {
    expect(time(0x17, '490101000000Z')).to.equal(Date.UTC(2049, 0, 1));
    expect(time(0x17, '500101000000Z')).to.equal(Date.UTC(1950, 0, 1));
    expect(time(0x18, '20500228235959Z')).to.equal(Date.UTC(2050, 1, 28, 23, 59, 59));
    for (const bad of ['490101000000', '4901010000Z', '490101000000+0100', '490230000000Z', '491301000000Z', ''])
      expect(() => time(0x17, bad), bad).to.throw(/a time is/);
    expect(() => time(0x18, '20500101000000.5Z')).to.throw(/a time is/);
    expect(() => time(0x04, '490101000000Z')).to.throw(/tag 4/);
  });

  it('never reads a certificate that was cut or changed as another one', () => {
    const { pem } = makeCertificate({ extensions: [authorityExtension(1)] });
    const bytes = Buffer.from(pem.replace(/-----.*-----|\n/g, ''), 'base64');
    const whole = readCertificate(bytes);
    expect([whole.isAuthority, whole.maxBetween, whole.isSignedBy(whole)]).to.deep.equal([true, 1, true]);
    for (let length = 0; length < bytes.length; length++)
      expect(() => readCertificate(bytes.subarray(0, length)), String(length)).to.throw();
    for (let at = 0; at < bytes.length; at++) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 0x41;
      let isGood = false;
      try {
        isGood = readCertificate(changed).isSignedBy(whole);
      } catch {
        // Most changes leave no certificate at all.
      }
      expect(isGood, String(at)).to.equal(false);
    }
  });

  it('finds certificates among other blocks, up to a bound', () => {
    const one = makeCertificate().pem;
    const text = `comment\n${pemOf(Buffer.from('x'), 'PUBLIC KEY')}${one}\r\n${one.replaceAll('\n', '\r\n')}`;
    expect(readCertificates(Buffer.from(text), 'refuse')).to.have.length(2);
    expect(() => readCertificates(Buffer.from(one + pemOf(Buffer.from('x'))), 'refuse')).to.throw(/certificate 2 is/);
    expect(readCertificates(Buffer.from(one + pemOf(Buffer.from('x'))), 'skip')).to.have.length(1);
    expect(() => readCertificates(Buffer.from(one.repeat(600)), 'skip')).to.throw(/more than 512 certificates/);
  });
});
