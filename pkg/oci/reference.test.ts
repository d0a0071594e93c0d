import { expect } from 'chai';
import {
  complete,
  formatReference,
  isDomain,
  parseName,
  parseReference,
  repositoryName,
  withDefaultTag,
} from './reference.ts';

const HEX = 'a'.repeat(64);
const DIGEST = `sha256:${HEX}`;

describe('oci/reference', () => {
  it('completes names as docker does', () => {
    const rows: readonly (readonly [string, string])[] = [
      ['busybox', 'docker.io/library/busybox:latest'],
      ['busybox:1.36', 'docker.io/library/busybox:1.36'],
      ['docker.io/busybox', 'docker.io/library/busybox:latest'],
      ['index.docker.io/busybox', 'docker.io/library/busybox:latest'],
      ['team/app', 'docker.io/team/app:latest'],
      ['localhost/app', 'localhost/app:latest'],
      ['localhost:5000/app:v1', 'localhost:5000/app:v1'],
      ['127.0.0.1:5000/a/b/c:v1', '127.0.0.1:5000/a/b/c:v1'],
      ['[::1]:5000/app', '[::1]:5000/app:latest'],
      ['Host/app', 'Host/app:latest'],
      ['registry.k8s.io/pause:3.10.1', 'registry.k8s.io/pause:3.10.1'],
      [`quay.io/a/b@${DIGEST}`, `quay.io/a/b@${DIGEST}`],
      [`quay.io/a/b:v1@${DIGEST}`, `quay.io/a/b:v1@${DIGEST}`],
      ['a__b/c-d--e/f.g_h', 'docker.io/a__b/c-d--e/f.g_h:latest'],
    ];
    for (const [text, want] of rows) expect(formatReference(withDefaultTag(parseReference(text))), text).to.equal(want);
  });

  it('refuses what is not a reference, and says which part', () => {
    const rows: readonly (readonly [string, RegExp])[] = [
      ['', /empty/],
      ['UPPER', /component/],
      ['a//b', /empty component/],
      ['a/', /empty component/],
      ['/a', /not a registry host|component/],
      ['a:', /not a tag/],
      ['a:.b', /not a tag/],
      [`a:${'t'.repeat(129)}`, /not a tag/],
      ['a@', /not a digest/],
      ['a@sha256:', /not a digest/],
      [`a@sha256:${'A'.repeat(64)}`, /not a digest/],
      [`a@sha256:${'a'.repeat(63)}`, /not a digest/],
      ['a@sha256:../../../../etc/x', /not a digest/],
      ['a__-b', /component/],
      ['a___b', /component/],
      ['a..b', /component/],
      ['.a', /component/],
      ['a-', /component/],
      ['a b', /component/],
      ['bücher', /component/],
      ['host:x/app', /port/],
      ['host:0/app', /port/],
      ['host:65536/app', /port/],
      ['-host.example/app', /label/],
      ['host..example/app', /label/],
      ['host.example/', /missing/],
      ['a\u0000b', /component/],
      ['../../etc/passwd', /component|registry host/],
      [HEX, /image id/],
      [`x/${'a'.repeat(254)}`, /255/],
    ];
    for (const [text, why] of rows) expect(() => parseReference(text), text).to.throw(why);
  });

  it('refuses a megabyte at once and quotes little of it', () => {
    for (const text of ['a'.repeat(1 << 20), 'é/'.repeat(1 << 19), `${'a-'.repeat(1 << 19)}!`]) {
      const before = process.hrtime.bigint();
      expect(() => parseReference(text))
        .to.throw(/characters/)
        .with.property('message')
        .with.length.below(400);
      expect(Number(process.hrtime.bigint() - before) / 1e6).to.be.below(1000);
    }
  });

  it('leaves short names to policy', () => {
    const name = parseName('busybox:1');
    expect(name).to.deep.equal({ domain: undefined, path: 'busybox', tag: '1', digest: undefined });
    expect(repositoryName(complete(name, 'quay.io'))).to.equal('quay.io/busybox');
    expect(repositoryName(complete(name, 'docker.io'))).to.equal('docker.io/library/busybox');
    expect(repositoryName(complete(parseName('ghcr.io/x'), 'docker.io'))).to.equal('ghcr.io/x');
  });

  it('knows registry hosts', () => {
    for (const good of ['docker.io', 'localhost', 'a:5000', '[::1]', '[fe80::1]:80', '10.0.0.1:5000'])
      expect(isDomain(good), good).to.equal(true);
    for (const wrong of ['', 'a b', 'a:', 'a:b', '[::1', '[x]:1', 'a/b', 'a..b'])
      expect(isDomain(wrong), wrong).to.equal(false);
  });

  it('formatting and parsing again changes nothing (random walk over the grammar)', () => {
    const alphabet = ['a', '0', '-', '_', '.', '/', ':', '@', 'A', DIGEST, 'latest', 'docker.io', '['];
    let state = 7;
    const random = (n: number): number => (state = (state * 1103515245 + 12345) & 0x7fffffff) % n;
    let accepted = 0;
    for (let i = 0; i < 20_000; i++) {
      let text = '';
      for (let n = random(7) + 1; n > 0; n--) text += alphabet[random(alphabet.length)];
      let once: string;
      try {
        once = formatReference(parseReference(text));
      } catch (error) {
        expect(error).to.have.property('code', 'InvalidArgument');
        continue;
      }
      accepted++;
      expect(formatReference(parseReference(once))).to.equal(once);
    }
    expect(accepted).to.be.above(100);
  });
});
