/**
 * mocha's spec reporter, and a file with what came of each test for scripts/test.ts. A try that failed is told of, with
 * its error, also where the next one passed: it is the one that knows why.
 */
const { writeFileSync } = require('node:fs');
const { reporters, Runner } = require('mocha');

module.exports = class extends reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    const outcome = { passed: 0, failed: [], skipped: [], retried: [] };
    /** What each test's earlier tries ended with. */
    const earlier = new Map();
    const { EVENT_RUN_END, EVENT_TEST_FAIL, EVENT_TEST_PASS, EVENT_TEST_PENDING, EVENT_TEST_RETRY } = Runner.constants;
    runner.on(EVENT_TEST_PASS, (test) => {
      outcome.passed++;
      const errors = earlier.get(test.fullTitle());
      if (errors !== undefined) outcome.retried.push(`${test.fullTitle()}: ${errors.map(brief).join('; ')}`);
    });
    runner.on(EVENT_TEST_FAIL, (test, error) => {
      const before = (earlier.get(test.fullTitle()) ?? []).map((each) => ` (the try before: ${brief(each)})`);
      outcome.failed.push(`${test.fullTitle()}: ${brief(error)}${before.join('')}`);
    });
    runner.on(EVENT_TEST_PENDING, (test) => outcome.skipped.push(test.fullTitle()));
    runner.on(EVENT_TEST_RETRY, (test, error) => {
      earlier.set(test.fullTitle(), [...(earlier.get(test.fullTitle()) ?? []), error]);
      console.log(`    tried again: ${test.fullTitle()}\n      ${whole(error).replaceAll('\n', '\n      ')}`);
    });
    runner.once(EVENT_RUN_END, () => writeFileSync(options.reporterOptions.file, JSON.stringify(outcome)));
  }
};

/** One line: the message, and the first line of a test, or else of anything of ours, that it comes from. */
function brief(error) {
  const places = whole(error).match(/(?:test|conmon|pkg|cri|scripts)\/[\w./-]+\.ts:\d+/g) ?? [];
  const place = places.find((each) => /\.(e2e|test)\.ts:/.test(each)) ?? places[0];
  const message = String(error?.message ?? error).replaceAll(/\s*\n\s*/g, ' ');
  return message.slice(0, 300) + (place === undefined ? '' : ` [${place}]`);
}

function whole(error) {
  return String(error?.stack ?? error);
}
