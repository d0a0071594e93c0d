import { assert } from 'chai';
import { dependencies, neededBy } from './package/libraries.ts';
import { manualPage, verbatim } from './package/roff.ts';

/** What readelf -dVW prints of a program, without what nobody reads. */
const READELF = `
 0x0000000000000001 (NEEDED)             Shared library: [libstdc++.so.6]
 0x0000000000000001 (NEEDED)             Shared library: [libm.so.6]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
Version needs section '.gnu.version_r' contains 2 entries:
  0x0010:   Name: GLIBCXX_3.4.21  Flags: none  Version: 10
  0x0020:   Name: GLIBCXX_3.4.9  Flags: none  Version: 9
  0x0030:   Name: GLIBC_2.9  Flags: none  Version: 8
  0x0040:   Name: GLIBC_2.34  Flags: none  Version: 7
`;

describe('what a package depends on', () => {
  it('is the libraries of its programs, in the highest version that one of them has symbols of', () => {
    const older = { libraries: ['libc.so.6', 'ld-linux-x86-64.so.2'], versions: ['GLIBC_2.33'] };
    assert.equal(dependencies([neededBy(READELF), older]), 'libc6 (>= 2.34), libstdc++6 (>= 5.2)');
  });

  it('is refused where nobody knows the package of a library, or the release that has a symbol', () => {
    assert.throws(() => dependencies([{ libraries: ['libodd.so.1'], versions: [] }]), /brings libodd\.so\.1/);
    const tomorrow = { libraries: ['libstdc++.so.6'], versions: ['GLIBCXX_3.9.1'] };
    assert.throws(() => dependencies([tomorrow]), /GLIBCXX_3\.9\.1/);
  });
});

describe('a manual page', () => {
  const title = { name: 'x', section: 8, date: '2026-11-30', source: 'berth 1' };
  const page = (markdown: string): string => manualPage(title, markdown).split('\n').slice(1).join('\n');

  it('has headings, paragraphs, terms and code', () => {
    assert.equal(
      page('## NAME\n\none\ntwo\n\n-q, --quiet *n*\n: **bold** words\n\n```\n.line  two\n```\n'),
      '.SH "NAME"\n.PP\none two\n.TP\n\\-q, \\-\\-quiet \\fIn\\fR\n\\fBbold\\fR words\n' +
        '.PP\n.RS 4\n.nf\n\\&.line  two\n.fi\n.RE\n',
    );
    assert.match(manualPage(title, ''), /^\.TH X 8 2026-11-30 "berth 1"\n/);
  });

  it('shows text as it is: no request, no face, no letter comes of what is in it', () => {
    assert.equal(page('.so /etc/passwd\n'), '.PP\n\\&.so /etc/passwd\n');
    assert.equal(page(verbatim('a * b * c\\n')), '.PP\na * b * c\\en\n');
    assert.equal(page("it's `x`…"), '.PP\nit\\(aqs \\(gax\\(ga\\[u2026]\n');
  });
});
