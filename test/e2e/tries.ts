/**
 * A test that is tried again (mocha's `--retries`) begins as the first try did: what that one left on the nodes of its
 * suite is taken away in between, or the second could only fail, of the first one's remains.
 */

/** Brings something back to how it was. */
export type Back = () => Promise<void>;

/** What outlives a try, and can be brought back to how it was. */
export interface Triable {
  /** Looks at how it is; the function that it returns brings it back to that. */
  mark(): Back | Promise<Back>;
  /** Away with it: a try that made it, and failed, has no more use for it. */
  abandon(): Promise<void>;
}

const living = new Set<Triable>();
let marks = new Map<Triable, Back>();

/** Brings `each` back between tries from now on, until it is forgotten. */
export function remember(each: Triable): void {
  living.add(each);
}

export function forget(each: Triable): void {
  living.delete(each);
}

/** Whether the test did all that it wanted, in its afterEach; one that will be tried again has no state by then. */
export function isThrough(test: Mocha.Test | undefined): boolean {
  return test?.state === 'passed' || test?.state === 'pending';
}

/** Whether a test of the suite has failed for good. (Its own list of tests does not know how second tries ended.) */
export function hasFailed(suite: Mocha.Suite | undefined): boolean {
  return suite !== undefined && failed.has(suite);
}

const failed = new Set<Mocha.Suite>();

/** Before a try, and before all hooks of its suites: notes how everything is. */
export async function beginTry(): Promise<void> {
  const noted = [...living].map(async (each) => [each, await markOf(each)] as const);
  marks = new Map(await Promise.all(noted));
}

/** What cannot be looked at stays as the try leaves it. */
async function markOf(each: Triable): Promise<Back> {
  try {
    return await each.mark();
  } catch (error) {
    return () => Promise.reject(new Error(`how it was is not known: ${String(error)}`, { cause: error }));
  }
}

/** After a try, and after all hooks of its suites: brings everything back if there will be another. */
export async function endTry(this: Mocha.Context): Promise<void> {
  const test = this.currentTest;
  if (test?.state === 'failed')
    for (let suite = test.parent; suite !== undefined; suite = suite.parent) failed.add(suite);
  if (test?.state !== undefined) return;
  for (const each of living) {
    const back = marks.get(each) ?? (() => each.abandon());
    // What cannot be brought back is told; the next try says whether it matters.
    await back().catch((error: unknown) => console.log(`between two tries: ${String(error)}`));
  }
}

// Where mocha only requires this, before there are tests, whoever has it required names the hooks. Tools that are no
// tests know none.
if (typeof beforeEach === 'function') {
  beforeEach(beginTry);
  afterEach(endTry);
}
