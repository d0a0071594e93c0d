/**
 * What the documents say of the tree: every link leads to a file (and a heading) that is there, every path that is
 * named exists, and every test that a document names is in the file that it names.
 */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

/** Folders of the project; a path in backticks that begins with one of them must be there. */
const OURS = /^(pkg|cri|conmon|native|contrib|scripts|test|bench|docs|\.ci)\/[\w@./-]*$/;
/** What the build, the tests or a download make. */
const MADE = /^(bench\/results|conmon\/build|native\/build)/;

/** Every complaint about the documents below `root`, a line each. */
export function checkDocs(root: string): string[] {
  const files = globSync(['*.md', '{docs,bench,conmon,test,contrib}/**/*.md'], { cwd: root }).sort();
  return files.flatMap((file) => {
    const text = readFileSync(join(root, file), 'utf8');
    return text.split('\n').flatMap((line, index) => {
      const place = `${file}:${index + 1}: `;
      return [...brokenLinks(root, file, line), ...lostPaths(root, line), ...lostTests(root, line)].map(
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

/** A test is named as `file`: "title", where the title may be the beginning of one, or a `describe` around it. */
function lostTests(root: string, line: string): string[] {
  const found: string[] = [];
  for (const [, file = '', titles = ''] of line.matchAll(/`([^`\s]+\.(?:test|e2e)\.ts)`:((?:,? "[^"]+")+)/g)) {
    const path = join(root, file);
    const source = existsSync(path) ? readFileSync(path, 'utf8').replaceAll("\\'", "'") : '';
    for (const [, title = ''] of titles.matchAll(/"([^"]+)"/g))
      if (!source.includes(title)) found.push(`no test of ${file} is called "${title}"`);
  }
  return found;
}

if (import.meta.main) for (const each of checkDocs(join(import.meta.dirname, '..'))) console.log(each);
