/**
 * Where paths lead in a root whose symlinks may lead nowhere yet: `/run -> /tmp/run` in an image without `/tmp/run` is
 * a fine place to mount at for runc, which makes what is missing, and an error for crun and mkdir(2). PURE.
 */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';

/** What is at a path of the root whose parents are no links. '' is the root itself. */
export type Look = (path: string) => 'absent' | 'there' | { readonly link: string };

/** A way through a root. */
export interface Way {
  /** Its end: absolute, without links, `.` and `..`; what is not there counts as a directory. */
  readonly path: string;
  /** The links on the way, in the order in which they were met. */
  readonly links: readonly Link[];
  /** Every place that it leads through, also those that `..` leaves again, and its end. */
  readonly places: readonly string[];
}

/** One of them. */
export interface Link {
  readonly at: string;
  readonly leadsTo: string;
  readonly dangles: boolean;
}

/**
 * The way of `path`, as the kernel would go it in a chroot: `..` of the root is the root. @throws FailedPrecondition
 * for a loop of links.
 */
export function wayOf(path: string, look: Look): Way {
  const links: (Link | undefined)[] = [];
  const places: string[] = [];
  const go = (from: string, parts: readonly string[]): string => {
    let here = from;
    for (const part of parts) {
      const next = part === '..' ? here.slice(0, Math.max(0, here.lastIndexOf('/'))) : `${here}/${part}`;
      const found = part === '..' ? 'there' : look(next);
      places.push(next);
      here = typeof found === 'string' ? next : follow(next, found.link, here);
    }
    return here;
  };
  const follow = (at: string, target: string, from: string): string => {
    if (links.length === limits.symlinkDepth)
      throw new RuntimeError(
        'FailedPrecondition',
        `${quote(path)} in the image leads through more than ${limits.symlinkDepth} symlinks, ${quote(at)} among ` +
          'them; do they lead in a circle?',
      );
    const index = links.push(undefined) - 1;
    const end = go(target.startsWith('/') ? '' : from, partsOf(target));
    links[index] = { at, leadsTo: end === '' ? '/' : end, dangles: look(end) === 'absent' };
    return end;
  };
  const end = go('', partsOf(path));
  return { path: end === '' ? '/' : end, links: links.filter((link) => link !== undefined), places };
}

/** True if a link on the way leads to something that is not there. */
export function dangles({ links }: Way): boolean {
  return links.some((link) => link.dangles);
}

function partsOf(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.');
}
