/**
 * A test that is tried again (mocha's `--retries`) begins as the first try did: what that one left on the nodes of its
 * suite is taken away in between, or the second could only fail, of the first one's remains.
 */

/** What outlives a try, and can be brought back to how it was. */
export interface Triable {
  /** Looks at how it is; the function that it returns brings it back to that. */
  mark(): () => Promise<void>;
  /** Away with it: a try that made it, and failed, has no more use for it. */
  abandon(): Promise<void>;
}

const living = new Set<Triable>();
let marks = new Map<Triable, () => Promise<void>>();

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

// Around all hooks of suites: the first before a try, the last after it. Tools that are no tests know no hooks.
if (typeof beforeEach === 'function') {
  beforeEach(() => {
    marks = new Map([...living].map((each) => [each, each.mark()]));
  });
  afterEach(async function () {
    const test = this.currentTest;
    if (test?.state === 'failed')
      for (let suite = test.parent; suite !== undefined; suite = suite.parent) failed.add(suite);
    if (test?.state !== undefined) return;
    for (const each of living) {
      const back = marks.get(each) ?? (() => each.abandon());
      // What cannot be brought back is told; the next try says whether it matters.
      await back().catch((error: unknown) => console.log(`between two tries: ${String(error)}`));
    }
  });
}
