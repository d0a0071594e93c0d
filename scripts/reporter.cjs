/** mocha's spec reporter, and a file with what came of each test for scripts/test.ts. */
const { writeFileSync } = require('node:fs');
const { reporters, Runner } = require('mocha');

module.exports = class extends reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    const outcome = { passed: 0, failed: [], skipped: [], retried: [] };
    const retried = new Map();
    runner.on(Runner.constants.EVENT_TEST_PASS, (test) => {
      outcome.passed++;
      if (retried.has(test.fullTitle())) outcome.retried.push(`${test.fullTitle()}: ${retried.get(test.fullTitle())}`);
    });
    runner.on(Runner.constants.EVENT_TEST_FAIL, (test, error) =>
      outcome.failed.push(`${test.fullTitle()}: ${brief(error)}`),
    );
    runner.on(Runner.constants.EVENT_TEST_PENDING, (test) => outcome.skipped.push(test.fullTitle()));
    runner.on(Runner.constants.EVENT_TEST_RETRY, (test, error) => retried.set(test.fullTitle(), brief(error)));
    runner.once(Runner.constants.EVENT_RUN_END, () =>
      writeFileSync(options.reporterOptions.file, JSON.stringify(outcome)),
    );
  }
};

function brief(error) {
  return String(error?.message ?? error).slice(0, 300);
}
