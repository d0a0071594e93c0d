/** Where the tests are that the rows of docs/CRIO.md name, and what each row lacks. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Section } from './rows.ts';

/** Why a unit test is all that shows a row: what neither this ground nor the virtual machine has. */
export const GROUNDS = {
  'no kernel with FIPS': 'no kernel of the grounds tells of FIPS 140',
} as const;

/** One of them. */
export type Ground = keyof typeof GROUNDS;

/** The text of all tests of a kind, with literals that are one title in one piece. */
export interface Tests {
  /** On a daemon: test/e2e, test/vm, test/cluster. */
  readonly whole: string;
  /** Beside the sources. */
  readonly unit: string;
}

/** Reads them. */
export function testsBelow(root: string): Tests {
  const read = (pattern: string): string =>
    globSync(pattern, { cwd: root })
      .map((file) => readFileSync(join(root, file), 'utf8'))
      .join('\n')
      .replace(/'\s*\+\s*'/g, '');
  return {
    whole: read('test/{e2e,cluster}/*.e2e.ts') + read('test/vm/guest/*.sh'),
    unit: read('{pkg,cri,scripts,conmon/test}/**/*.test.ts'),
  };
}

/** A line for each row that has an effect and is not shown by a test on a daemon, or names a test that is not there. */
export function unproven(sections: readonly Section[], { whole, unit }: Tests): readonly string[] {
  return sections.flatMap(({ title, rows }) =>
    rows
      .filter(({ standing }) => standing === 'effect')
      .flatMap(({ name, tests, ground }) => {
        const missing = tests.filter((each) => !whole.includes(each) && !unit.includes(each));
        const isShown = tests.some((each) => whole.includes(each));
        return [
          ...missing.map((each) => `${title} ${name}: there is no test "${each}"`),
          ...(tests.length === 0 ? [`${title} ${name}: no test`] : []),
          ...(tests.length > 0 && !isShown && ground === undefined
            ? [`${title} ${name}: a unit test only, and no ground (scripts/crio/proofs.ts) that says why`]
            : []),
          ...(isShown && ground !== undefined ? [`${title} ${name}: a ground that is not needed any more`] : []),
        ];
      }),
  );
}
