/**
 * docs/CRIO.md: every key, flag, variable, command, HTTP path, annotation and metric of CRI-O with what Berth does.
 * `node scripts/crio.ts` writes it, and fails if a row has an effect that no test shows on a daemon.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { programOf } from '../cri/command-line.ts';
import { GROUNDS, testsBelow, unproven } from './crio/proofs.ts';
import { type Row, type Section, sectionsOf } from './crio/rows.ts';

/** The repository. */
export const ROOT = join(import.meta.dirname, '..');
/** The document. */
export const CRIO_MD = join(ROOT, 'docs/CRIO.md');

const HEAD = `# Where CRI-O was

What CRI-O 1.36 has, row by row, with what Berth does: made of the sources by \`node scripts/crio.ts\`, so do not edit
it here. A row that has an effect names the tests that show it, at least one of them on a daemon (test/e2e, test/vm),
unless it says why that cannot be had. What has none is a warning at the start, or at the first
use, with what to do instead. Nothing that CRI-O starts with keeps Berth from starting, but for what would weaken the
isolation of containers if it were ignored: that is refused, with file, line, key and remedy.

Berth reads \`/etc/crio/crio.conf\` and \`/etc/crio/crio.conf.d\` where \`/etc/berth\` sets nothing, and says so in its
log. \`""\` is "not set", everywhere.
`;

/** The text of the document. */
export function documentOf(sections: readonly Section[]): string {
  const parts = sections.map(({ title, about, rows }) =>
    [`## ${title}`, about, ['| what | here | tests |', '| --- | --- | --- |', ...rows.map(lineOf)].join('\n')]
      .filter((part) => part !== '')
      .join('\n\n'),
  );
  return `${[HEAD.trimEnd(), ...parts].join('\n\n')}\n`;
}

/** Everything that CRI-O has. */
export function crioSections(): readonly Section[] {
  const program = programOf({
    version: '',
    serve: () => Promise.reject(new Error('only asked for its commands')),
    configuration: () => Promise.reject(new Error('only asked for its commands')),
  });
  return sectionsOf(ROOT, program);
}

function lineOf(row: Row): string {
  const { name, what } = row;
  const words = name.split(' ').map((word) => (/^[-\w./{}]+,?$/.test(word) ? `\`${word.replace(/,$/, '')}\`` : word));
  return `| ${words.join(' ')} | ${escaped(what)} | ${shownBy(row)} |`;
}

function shownBy({ standing, tests, ground }: Row): string {
  if (standing !== 'effect') return '–';
  if (tests.length === 0) return 'none yet';
  const titles = tests.map((title) => `"${title}"`).join(', ');
  return ground === undefined ? `tests: ${titles}` : `unit tests: ${titles}; ${GROUNDS[ground]}`;
}

function escaped(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;');
}

if (import.meta.main) {
  const sections = crioSections();
  writeFileSync(CRIO_MD, documentOf(sections));
  const missing = unproven(sections, testsBelow(ROOT));
  for (const each of missing) console.error(each);
  process.exitCode = missing.length === 0 ? 0 : 1;
}
