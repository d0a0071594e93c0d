/**
 * `npm run e2e [-- name…]`: the end-to-end tests, as root, on private ground (see ground.ts). Without names all of
 * test/e2e runs.
 */
import { spawnSync } from 'node:child_process';
import { globSync } from 'node:fs';
import { onPrivateGround } from './ground.ts';

const names = process.argv.slice(2).filter((each) => !each.startsWith('-'));
const options = process.argv.slice(2).filter((each) => each.startsWith('-'));
const all = globSync('test/e2e/*.e2e.ts').sort();
const files = names.length === 0 ? all : all.filter((file) => names.some((name) => file.includes(name)));
if (files.length === 0) {
  console.error(`no test in test/e2e is called ${names.join(', ')}; there are ${all.join(', ')}`);
  process.exit(2);
}
const [command = '', ...args] = onPrivateGround(['mocha', '--timeout', '60000', ...options, ...files]);
const { status } = spawnSync(command, args, { stdio: 'inherit' });
process.exit(status ?? 1);
