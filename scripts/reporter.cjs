/** mocha's spec reporter, and a file with what came of each test for scripts/test.ts. */
const { writeFileSync } = require('node:fs');
const { reporters, Runner } = require('mocha');

module.exports = class extends reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    const outcome = { passed: 0, failed: [], skipped: [], retried: [] };
    runner.on(Runner.constants.EVENT_TEST_PASS, () => outcome.passed++);
    runner.on(Runner.constants.EVENT_TEST_FAIL, (test) => outcome.failed.push(test.fullTitle()));
    runner.on(Runner.constants.EVENT_TEST_PENDING, (test) => outcome.skipped.push(test.fullTitle()));
    runner.on(Runner.constants.EVENT_TEST_RETRY, (test, error) => outcome.retried.push(`${test.fullTitle()}: ${String(error?.message ?? error).slice(0, 300)}`));
    runner.once(Runner.constants.EVENT_RUN_END, () => writeFileSync(options.reporterOptions.file, JSON.stringify(outcome)));
  }
};
