import { assert } from 'chai';
import { readFileSync } from 'node:fs';
import { testsBelow, unproven } from './crio/proofs.ts';
import { CRIO_MD, crioSections, documentOf, ROOT } from './crio.ts';

describe('docs/CRIO.md', () => {
  const sections = crioSections();

  it('says what the sources say (node scripts/crio.ts writes it)', () => {
    assert.equal(readFileSync(CRIO_MD, 'utf8'), documentOf(sections));
  });

  it('names a test on a daemon in each row that has an effect (scripts/crio/tests.ts, notes.ts)', () => {
    assert.deepEqual(unproven(sections, testsBelow(ROOT)), []);
  });

  it('has a row for all that CRI-O has, with an effect or what to do instead', () => {
    const rows = sections.flatMap(({ rows: each }) => each);
    assert.isAbove(rows.length, 350);
    for (const { name, what } of rows) assert.match(what, /\.$/, name);
  });

  it('names what lacks a test, and bars in no cell', () => {
    const row = { name: 'a', standing: 'effect', what: 'Does a | b.', tests: [] } as const;
    const rows = [
      row,
      { ...row, standing: 'none' },
      { ...row, name: 'b', tests: ['gone'] },
      { ...row, name: 'c', tests: ['of one room'] },
      { ...row, name: 'd', tests: ['of one room'], ground: 'no kernel with FIPS' },
      { ...row, name: 'e', tests: ['of all', 'of one room'] },
      { ...row, name: 'f', tests: ['of all'], ground: 'no kernel with FIPS' },
    ] as const;
    const own = [{ title: 'T', about: '', rows }];
    assert.include(documentOf(own), '| `a` | Does a \\| b. | none yet |\n| `a` | Does a \\| b. | – |\n');
    const found = unproven(own, { whole: "it('shows of all', …", unit: "it('shows of one room', …" });
    assert.deepEqual(
      found.map((line) => line.replace(/^T (.): (.{7}).*$/, '$1 $2')),
      ['a no test', 'b there i', 'b a unit ', 'c a unit ', 'f a groun'],
    );
  });
});
