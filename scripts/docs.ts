/**
 * What the documents say of the tree: every link leads to a file (and a heading) that is there, every path that is
 * named exists, and every test that a row of a document names is there.
 */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

/** Folders of the project; a path in backticks that begins with one of them must be there. */
const OURS = /^(pkg|cri|conmon|native|contrib|scripts|test|bench|docs|\.ci)\/[\w@./-]*$/;
/** What the build, the tests or a download make. */
const MADE = /^(bench\/results|conmon\/build|native\/build)/;

/** Every complaint about the documents below `root`, a line each. */
export function checkDocs(root: string): string[] {
  let sources: string | undefined;
  const tests = (): string => (sources ??= testSources(root));
  const files = globSync(['*.md', '{docs,bench,conmon,test,contrib}/**/*.md'], { cwd: root }).sort();
  return files.flatMap((file) => {
    const text = readFileSync(join(root, file), 'utf8');
    return text.split('\n').flatMap((line, index) => {
      const place = `${file}:${index + 1}: `;
      return [...brokenLinks(root, file, line), ...lostPaths(root, line), ...lostTests(file, line, tests)].map(
        (complaint) => place + complaint,
      );
    });
  });
}

function brokenLinks(root: string, file: string, line: string): string[] {
  const found: string[] = [];
  for (const [, target = ''] of line.matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^[a-z]+:/.test(target)) continue;
    const [path = '', heading] = target.split('#');
    const to = path === '' ? file : normalize(join(dirname(file), path));
    if (!existsSync(join(root, to))) found.push(`the link to ${target} leads nowhere`);
    else if (heading !== undefined && !headings(root, to).has(heading)) found.push(`${to} has no heading #${heading}`);
  }
  return found;
}

/** As GitHub names them. */
function headings(root: string, file: string): Set<string> {
  const lines = readFileSync(join(root, file), 'utf8').split('\n');
  return new Set(
    lines
      .filter((line) => /^#+ /.test(line))
      .map((line) =>
        line
          .replace(/^#+ /, '')
          .toLowerCase()
          .replace(/[^\p{L}\p{N}_ -]/gu, '')
          .replaceAll(' ', '-'),
      ),
  );
}

function lostPaths(root: string, line: string): string[] {
  const named = [...line.matchAll(/`([^`\s]+)`/g)].map(([, name = '']) => name.replace(/[:,;].*$/, ''));
  return named
    .filter((name) => OURS.test(name) && !MADE.test(name) && !existsSync(join(root, name)))
    .map((name) => `there is no ${name}`);
}

/**
 * Documents of rows, whose last cell names the tests of the row by their titles in quotes, or parts of them; or says
 * that there is "none yet" and why.
 */
const ROWS = /^docs\/(CRIO|RELIABILITY|SECURITY|SEMANTICS)\.md$/;

function lostTests(file: string, line: string, tests: () => string): string[] {
  if (!ROWS.test(file) || !line.startsWith('| ') || !/\| (tests?:|none yet)/.test(line)) return [];
  const last = line.split(' | ').at(-1) ?? '';
  const titles = [...last.matchAll(/"([^"]+)"/g)].map(([, title = '']) => title);
  if (titles.length === 0 && !last.startsWith('none yet'))
    return ['this row names no test; say "none yet" if there is none'];
  return titles.filter((title) => !tests().includes(title)).map((title) => `there is no test called "${title}"`);
}

/** All test sources, with the titles in one piece. */
function testSources(root: string): string {
  const code = '{pkg,cri,conmon/test,test,scripts}/**/*.{test,e2e}.ts';
  const files = globSync([code, 'pkg/*/conformance.ts', 'test/vm/guest/*.sh'], { cwd: root });
  return files
    .map((file) => readFileSync(join(root, file), 'utf8'))
    .join('\n')
    .replace(/['"`]\s*\+\s*['"`]/g, '')
    .replaceAll("\\'", "'");
}

if (import.meta.main) for (const each of checkDocs(join(import.meta.dirname, '..'))) console.log(each);
