/** /proc/<pid>/mountinfo as proc(5) describes it. PURE. */
import type { MountEntry } from '../ports/kernel.ts';

/** PURE. Lines that do not have mountinfo's shape are left out. */
export function parseMountinfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const entry = parseMountLine(line);
    if (entry !== undefined) entries.push(entry);
  }
  return entries;
}

/** One line of it; undefined for what has not its shape. */
export function parseMountLine(line: string): MountEntry | undefined {
  const fields = line.split(' ');
  const separator = fields.indexOf('-', 6);
  const [id, parent, device, root, mountPoint, options] = fields;
  const [fsType, source, superOptions] = fields.slice(separator + 1);
  const numbers = /^(\d+):(\d+)$/.exec(device ?? '');
  if (
    separator < 0 ||
    numbers === null ||
    root === undefined ||
    mountPoint === undefined ||
    options === undefined ||
    fsType === undefined ||
    source === undefined
  )
    return undefined;
  const tags = fields.slice(6, separator);
  const group = (tag: string): number | undefined => {
    const found = tags.find((each) => each.startsWith(`${tag}:`));
    return found === undefined ? undefined : Number(found.slice(tag.length + 1));
  };
  return {
    id: Number(id),
    parentId: Number(parent),
    major: Number(numbers[1]),
    minor: Number(numbers[2]),
    root: unescape(root),
    mountPoint: unescape(mountPoint),
    options: options.split(','),
    sharedWith: group('shared'),
    slaveOf: group('master'),
    unbindable: tags.includes('unbindable'),
    fsType: unescape(fsType),
    source: unescape(source),
    superOptions: (superOptions ?? '')
      .split(',')
      .filter((each) => each !== '')
      .map(unescape),
  };
}

/**
 * The kernel writes space, tab, newline, backslash and # as three octal digits; bytes above 127 are left as they are.
 */
function unescape(text: string): string {
  if (!text.includes('\\')) return text;
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** A path as mountinfo would have it. */
export function escape(path: string): string {
  return path.replace(/[ \t\n\\#]/g, (character) => `\\${character.charCodeAt(0).toString(8).padStart(3, '0')}`);
}

/** PURE. True if `path` is `tree` or below it. */
export function isAtOrBelow(path: string, tree: string): boolean {
  return path === tree || path.startsWith(tree.endsWith('/') ? tree : `${tree}/`);
}

/**
 * PURE. The mount that an absolute, link-free path is on: the longest mount point above it, the last mounted of equals.
 */
export function mountOf(entries: readonly MountEntry[], path: string): MountEntry | undefined {
  let best: MountEntry | undefined;
  for (const entry of entries) {
    if (
      isAtOrBelow(path, entry.mountPoint) &&
      (best === undefined || entry.mountPoint.length >= best.mountPoint.length)
    )
      best = entry;
  }
  return best;
}

/** PURE. What shared means for a container: `shared`, `slave`, or `private`. */
export function propagationOf(entry: MountEntry): 'private' | 'slave' | 'shared' {
  if (entry.sharedWith !== undefined) return 'shared';
  return entry.slaveOf !== undefined ? 'slave' : 'private';
}

/** PURE. Mount points at or below `path` in the order in which they must go. */
export function mountPointsIn(entries: readonly MountEntry[], path: string): string[] {
  return entries
    .filter((entry) => isAtOrBelow(entry.mountPoint, path))
    .map((entry) => entry.mountPoint)
    .sort((a, b) => b.length - a.length);
}
