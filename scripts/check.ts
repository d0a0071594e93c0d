/** `npm run check`: types, lint, layers and cycles, generated files. Prints what is wrong and what to do instead. */
import { spawnSync } from 'node:child_process';
import { checkLayers } from './layers.ts';

const root = new URL('..', import.meta.url).pathname;
const steps: readonly (readonly [what: string, command: readonly string[]])[] = [
  ['types', ['tsc', '-p', '.']],
  ['lint', ['oxlint', '--type-aware', '--quiet']],
  ['generated files', ['node', 'scripts/gen-api.mjs', '--check']],
];

let failed = 0;
for (const [what, [command = '', ...args]] of steps) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: root, encoding: 'utf8' });
  report(what, status === 0 ? [] : [`${stdout}${stderr}`.trim()]);
}
report('layers and cycles', await checkLayers(root));
process.exitCode = failed === 0 ? 0 : 1;

function report(what: string, complaints: readonly string[]): void {
  if (complaints.length === 0) {
    console.log(`ok      ${what}`);
    return;
  }
  failed++;
  console.log(`FAILED  ${what}`);
  for (const complaint of complaints) console.log(complaint);
}
