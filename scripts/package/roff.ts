/**
 * PURE. Manual pages from the little of Markdown that they need: headings, paragraphs, `term` and `: what it is` below
 * it, fenced blocks, `**bold**`, `*italic*` and `\*`. man(7) says what the requests mean.
 */

/** What stands in the header and footer of a page. */
export interface PageTitle {
  readonly name: string;
  readonly section: number;
  /** `2026-11-30` */
  readonly date: string;
  readonly source: string;
}

/** The page as man(1) reads it. */
export function manualPage({ name, section, date, source }: PageTitle, markdown: string): string {
  const lines = [`.TH ${name.toUpperCase()} ${section} ${date} "${source}"`];
  for (const block of blocksOf(markdown)) lines.push(...rendered(block));
  return `${lines.join('\n')}\n`;
}

/** Blocks are apart by empty lines, but for those in a fence. */
function blocksOf(markdown: string): readonly string[] {
  return Array.from(markdown.matchAll(/^```\n[^]*?^```$|^(?!```)(?:.+\n?)+/gm), ([block]) => block.trimEnd());
}

function rendered(block: string): readonly string[] {
  if (block.startsWith('```')) {
    const code = block.split('\n').slice(1, -1);
    return ['.PP', '.RS 4', '.nf', ...code.map((line) => safe(escaped(line))), '.fi', '.RE'];
  }
  const [, level, title = ''] = /^(##+) (.*)$/.exec(block) ?? [];
  if (level !== undefined) return [`.${level === '##' ? 'SH' : 'SS'} "${escaped(title).replaceAll('"', '\\(dq')}"`];
  const at = block.indexOf('\n: ');
  if (at < 0) return ['.PP', inline(block)];
  return ['.TP', inline(block.slice(0, at)), inline(block.slice(at + '\n: '.length))];
}

/** One paragraph on one line: what breaks it is for the reader's terminal to say. */
function inline(text: string): string {
  const faces = escaped(text.replaceAll('\n', ' '))
    .replaceAll('\\e*', '\0')
    .replaceAll(/\*\*(.+?)\*\*/g, '\\fB$1\\fR')
    .replaceAll(/\*(.+?)\*/g, '\\fI$1\\fR')
    .replaceAll('\0', '*');
  return safe(faces);
}

/** A request would be a line that begins with a dot or an apostrophe. */
function safe(line: string): string {
  return /^[.']/.test(line) ? `\\&${line}` : line;
}

function escaped(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll("'", '\\(aq')
    .replaceAll('^', '\\(ha')
    .replaceAll('~', '\\(ti')
    .replaceAll('`', '\\(ga')
    .replaceAll(
      /[^\n -~]/gu,
      (char) => `\\[u${(char.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}]`,
    );
}

/** Text that is to stand as it is: nothing in it is a mark. */
export function verbatim(text: string): string {
  return text.replaceAll('*', '\\*');
}
