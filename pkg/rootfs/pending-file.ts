/**
 * What a layer still wants from the layers below it, on disk: `d <path>\0` for a directory that no entry described,
 * `h <path>\0<target>\0` for a hard link; byte strings. Read and written piece by piece, since a layer decides how much
 * that is.
 */
import { closeSync } from 'node:fs';
import { RuntimeError } from '../base/errors.ts';
import type { Pending } from './node.ts';
import { createTexts, textsOf, TextWriter, writeAll } from './texts.ts';

/** Its name, beside `fs/`. */
export const PENDING = 'pending';
const WHAT = 'the list of what the layer wants from those below';

/** Writes it; says whether there is anything. Without anything there is no file. */
export function writePending(path: string, { implicit, links }: Pending): 'nothing' | 'something' {
  const records = (function* (): Generator<string> {
    for (const each of implicit()) yield `d ${each}\0`;
    for (const [each, target] of links()) yield `h ${each}\0${target}\0`;
  })();
  const first = records.next();
  if (first.done === true) return 'nothing';
  const fd = createTexts(path);
  try {
    const texts = new TextWriter((bytes) => writeAll(fd, bytes));
    texts.add(first.value);
    for (const record of records) texts.add(record);
    texts.flush();
  } finally {
    closeSync(fd);
  }
  return 'something';
}

/** What writePending wrote. @throws DataLoss while it is gone through, if the file is damaged. */
export function readPending(path: string): Pending {
  return {
    *implicit() {
      for (const [kind, each] of recordsOf(path)) if (kind === 'd') yield each;
    },
    *links() {
      for (const [kind, each, target] of recordsOf(path)) if (kind === 'h') yield [each, target];
    },
  };
}

function* recordsOf(path: string): Generator<readonly [kind: 'd' | 'h', path: string, target: string]> {
  const texts = textsOf(path, WHAT);
  for (let text = texts.next(); text.done !== true; text = texts.next()) {
    const [kind, each] = [text.value.slice(0, 2), text.value.slice(2)];
    const target = kind === 'h ' ? texts.next() : undefined;
    if (kind === 'd ') yield ['d', each, ''];
    else if (target !== undefined && target.done !== true) yield ['h', each, target.value];
    else throw new RuntimeError('DataLoss', `${WHAT} is damaged`);
  }
}
