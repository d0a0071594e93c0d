/**
 * The short form of `npm run fuzz -- crash`: a hundred kills under mixed load, half of them with each runtime.
 * BERTH_KILLS and SEED for more, or for the same choices again.
 */
import { assert } from 'chai';
import { crashRun } from './crash.ts';

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const KILLS = Number(process.env['BERTH_KILLS'] ?? 50);

for (const runtime of ['runc', 'crun'] as const) {
  it(`a daemon killed ${KILLS} times under load costs nothing (${runtime}, SEED=${SEED})`, async function () {
    this.timeout(120_000 + KILLS * 20_000);
    const lines: string[] = [];
    const journal = await crashRun({ seed: SEED, kills: KILLS, runtime, say: (line) => lines.push(line) });
    console.log(`      ${lines.at(-1)}`);
    assert.isTrue(journal.clean, lines.join('\n'));
  });
}
