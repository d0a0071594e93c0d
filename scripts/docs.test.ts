import { assert } from 'chai';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkDocs } from './docs.ts';

describe('documents', () => {
  let root = '';
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'berth-docs-'));
    for (const each of ['docs', 'pkg/pod']) mkdirSync(join(root, each), { recursive: true });
    writeFileSync(join(root, 'pkg/pod/a.test.ts'), "it('does what ' +\n  'it says it\\'s for', () => {});\n");
  });
  afterEach(() => rmSync(root, { recursive: true }));

  function check(file: string, text: string): string[] {
    writeFileSync(join(root, file), text);
    return checkDocs(root);
  }

  it('have links that lead to files and headings', () => {
    assert.deepEqual(
      check('README.md', '# A heading, `with` marks\n[a](#a-heading-with-marks) [b](docs/) [c](https://x.example/)\n'),
      [],
    );
    assert.deepEqual(check('README.md', '[a](docs/NO.md)\n\n[b](#nowhere)\n'), [
      'README.md:1: the link to docs/NO.md leads nowhere',
      'README.md:3: README.md has no heading #nowhere',
    ]);
  });

  it('name paths that are there', () => {
    assert.deepEqual(
      check('README.md', '`pkg/pod/a.test.ts`, `pkg/pod`, `/run/berth`, `pkg/pod:` and `npm test`\n'),
      [],
    );
    assert.deepEqual(check('README.md', '`pkg/none/a.ts`\n'), ['README.md:1: there is no pkg/none/a.ts']);
  });

  it('name tests by titles that are there, in rows', () => {
    const row = (cell: string): string[] => check('docs/SECURITY.md', `| K1 | what | ${cell} |\n`);
    assert.deepEqual(row('tests: "does what it says it\'s for"'), []);
    assert.deepEqual(row('none yet; it is on the list'), []);
    assert.deepEqual(row('tests: "does what", "does nothing"'), [
      'docs/SECURITY.md:1: there is no test called "does nothing"',
    ]);
    assert.lengthOf(row('tests: soon'), 1);
  });
});
