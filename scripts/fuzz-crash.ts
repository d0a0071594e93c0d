/**
 * The crash part of `npm run fuzz`, on private ground: `node scripts/fuzz-crash.ts SEED KILLS RUNTIME`. Fails when
 * something was found.
 */
import { crashRun } from '../test/e2e/crash.ts';

const [seed = '', kills = '', runtime = ''] = process.argv.slice(2);
const journal = await crashRun({
  seed: Number(seed),
  kills: Number(kills),
  runtime: runtime === 'crun' ? 'crun' : 'runc',
  say: (line) => console.log(line),
});
process.exit(journal.clean ? 0 : 1);
