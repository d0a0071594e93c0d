import { assert } from 'chai';
import { globSync, readFileSync } from 'node:fs';

const ROOT = new URL('../../', import.meta.url).pathname;
const textOf = (pattern: string): [file: string, text: string][] =>
  globSync(pattern, { cwd: ROOT }).map((file) => [file, readFileSync(`${ROOT}${file}`, 'utf8')]);

describe('failpoints', () => {
  const points = new Map<string, string>();
  for (const [file, text] of [...textOf('pkg/**/*.ts'), ...textOf('cri/**/*.ts')])
    if (!file.endsWith('.test.ts'))
      for (const [, name = ''] of text.matchAll(/\bfailpoint\('([^']+)'\)/g)) points.set(name, file);

  it('are each armed by a test that names them: what no crash has tried is no crash-only code', () => {
    assert.isAbove(points.size, 20);
    const tests = [...textOf('test/e2e/*.ts'), ...textOf('pkg/**/*.test.ts'), ...textOf('cri/**/*.test.ts')]
      .map(([, text]) => text)
      .join('\n');
    const untried = [...points].filter(
      ([name]) => !new RegExp(`['"\`]${name.replaceAll('.', '\\.')}['"\`=]`).test(tests),
    );
    assert.deepEqual(untried, []);
  });
});
