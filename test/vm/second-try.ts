/** What of a suite that failed is judged by, once it has been run again. PURE. */
import type { Result } from './suites.ts';

/** Of a suite as a whole: it broke off, or its machine did. */
export const ITSELF = 'the suite itself';

/**
 * What came of a suite that was run twice, the second time perhaps in part, by titles. The second time decides; what
 * passes then tells how it failed first, and what fails has both reasons. A failure that the second time does not tell
 * of has passed if nothing failed then, since some checks say only what is wrong.
 */
export function merged(first: readonly Result[], second: readonly Result[]): readonly Result[] {
  const before = keyed(first);
  const after = keyed(second);
  const clean = second.length > 0 && second.every(({ state }) => state !== 'failed');
  const untold = [...before]
    .filter(([key]) => !after.has(key))
    .map(([, result]): Result => (result.state === 'failed' && clean ? { ...result, state: 'passed' } : result));
  return [...untold, ...[...after].map(([key, result]) => decided(before.get(key), result))];
}

function decided(first: Result | undefined, second: Result): Result {
  if (first?.state !== 'failed' || second.state === 'skipped') return second;
  if (second.state === 'passed') return { ...second, why: first.why };
  return { ...second, why: `${second.why}\n(the try before: ${first.why})` };
}

/** By title, and where several have the same one, by their order. */
function keyed(results: readonly Result[]): ReadonlyMap<string, Result> {
  const seen = new Map<string, number>();
  return new Map(
    results.map((result) => {
      const number = (seen.get(result.title) ?? 0) + 1;
      seen.set(result.title, number);
      return [`${number} ${result.title}`, result];
    }),
  );
}
