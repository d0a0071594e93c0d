/** What a directory tree holds, as lines that can be compared. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';

/**
 * Everything that can be said about every node of a tree, a line each. Sizes and link counts of directories depend on
 * the file system.
 */
export function snapshot(root: string): string[] {
  const xattrs = new Map<string, string[]>();
  let path = '';
  for (const line of execFileSync('getfattr', ['-dhR', '-m', '-', '-e', 'hex', '.'], {
    cwd: root,
    encoding: 'latin1',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'ignore'],
  }).split('\n')) {
    // getfattr escapes bytes beyond ASCII in names.
    if (line.startsWith('# file: '))
      path = line
        .slice(8)
        .replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
    else if (line !== '' && !line.startsWith('trusted.overlay.')) xattrs.set(path, [...(xattrs.get(path) ?? []), line]);
  }
  const lines: string[] = [];
  // On the spot: a large tree would take a million turns of the loop.
  const walk = (at: Buffer, name: string): void => {
    const st = lstatSync(at, { bigint: true });
    const what = st.isFile()
      ? `f ${st.size} ${st.nlink} ${createHash('sha256').update(readFileSync(at)).digest('hex').slice(0, 13)}`
      : st.isSymbolicLink()
        ? `l ${st.nlink} ${readlinkSync(at, 'buffer').toString('latin1')}`
        : st.isDirectory()
          ? 'd'
          : `${st.isFIFO() ? 'p' : st.isBlockDevice() ? 'b' : 'c'} ${st.nlink} ${st.rdev}`;
    lines.push(
      `${name} ${(st.mode & 0o7777n).toString(8)} ${st.uid}:${st.gid} ${st.mtimeNs} ${what} ` +
        `${(xattrs.get(name) ?? []).sort().join(' ')}`,
    );
    if (!st.isDirectory()) return;
    for (const child of readdirSync(at, { encoding: 'buffer' })) {
      const childName = child.toString('latin1');
      walk(Buffer.concat([at, Buffer.from('/'), child]), name === '.' ? childName : `${name}/${childName}`);
    }
  };
  walk(Buffer.from(root), '.');
  return lines.sort();
}

/** As snapshot, without the root itself, which extractors do not touch. */
export const contents = (root: string): string[] => snapshot(root).filter((line) => !line.startsWith('. '));
