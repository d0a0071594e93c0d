/** Which word somebody meant. PURE. */
import { handlerTable, ignoredTables, tables } from './schema.ts';
import type { Table } from './option.ts';

/**
 * `key` as it is spelled among `known`: CRI-O's decoder takes keys in any case. The key itself if it is none of them,
 * or if `present` has the right spelling, too.
 */
export function canonical(key: string, known: Iterable<string>, present: Readonly<Record<string, unknown>>): string {
  const lower = key.toLowerCase();
  if (lower === key || Object.hasOwn(present, lower)) return key;
  return [...known].includes(lower) ? lower : key;
}

/** Every key and table that may stand in the table called `name`, whether it has an effect or not. */
export function keysOf(name: string): string[] {
  const table = name === handlerTable.name ? handlerTable : Object.values<Table>(tables).find((t) => t.name === name);
  const names = [...Object.values<Table>(tables).map((each) => each.name), ...ignoredTables.keys(), handlerTable.name];
  return [
    ...Object.values(table?.options ?? {}).map((each) => each.key),
    ...(table?.ignored.keys() ?? []),
    ...(ignoredTables.get(name)?.keys() ?? []),
    ...names
      .filter((each) => each.startsWith(`${name}.`) && !each.slice(name.length + 1).includes('.'))
      .map((each) => each.slice(name.length + 1)),
  ];
}

/** The known word with the fewest edits, if few enough to be a slip. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.min(3, Math.floor(word.length / 3)) + 1;
  for (const each of known) {
    const distance = edits(word.slice(0, 64), each);
    if (distance < bestDistance) [best, bestDistance] = [each, distance];
  }
  return best;
}

function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(
        Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)),
      );
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
