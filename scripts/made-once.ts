/** What takes long to make, and is kept from one run to the next. */
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';

/** How the names of things end that are not complete yet. */
export const DRAFT = '.new';

/**
 * `place`, made by `make` if it is not there, which `say` is told; `make` is given another name, which becomes `place`
 * at the end.
 */
export function madeOnce(place: string, say: (text: string) => void, make: (to: string) => void): string {
  if (existsSync(place)) return place;
  say(`making ${place} (once)`);
  mkdirSync(dirname(place), { recursive: true });
  const draft = `${place}.${process.pid}${DRAFT}`;
  try {
    make(draft);
    renameSync(draft, place);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  return place;
}
