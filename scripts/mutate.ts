/**
 * `npm run mutate [-- words]`: takes protections away, one at a time, in a copy of the tree, and runs the tests that
 * ought to notice. One that nobody notices is a test to be written; the exit code says whether there is any. With words
 * only the mutants are tried whose names hold all of them. For the night: it takes some minutes.
 */
import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { FAULT_MUTANTS } from '../test/mutants-faults.ts';
import { ANNOTATION_MUTANTS } from '../test/mutants-annotations.ts';
import { NODE_MUTANTS } from '../test/mutants-node.ts';
import { READING_MUTANTS } from '../test/mutants-reading.ts';
import { IMAGE_MUTANTS, type Mutant } from '../test/mutants.ts';

const MUTANTS: readonly Mutant[] = [
  ...IMAGE_MUTANTS,
  ...NODE_MUTANTS,
  ...READING_MUTANTS,
  ...FAULT_MUTANTS,
  ...ANNOTATION_MUTANTS,
];
const root = join(import.meta.dirname, '..');
/** A protection whose loss makes tests hang has been noticed, too. */
const HANGS_MS = 120_000;

type Verdict = 'noticed' | 'NOT NOTICED' | 'red without it';

/** What is wrong with the list itself: a line that is not there any more, or more than once. */
export function staleMutants(): string[] {
  return MUTANTS.flatMap(({ what, file, from }) => {
    const path = join(root, file);
    const count = existsSync(path) ? readFileSync(path, 'utf8').split(from).length - 1 : 0;
    if (count === 1) return [];
    return [
      `test/mutants*.ts: "${what}": its line is ${count === 0 ? 'not' : `${count} times`} in ${file}; ` +
        'if the protection has moved, so must the mutant',
    ];
  });
}

/** A copy of the tree that a mutant may change. */
class Copy {
  readonly dir = mkdtempSync(join(tmpdir(), 'berth-mutant-'));

  constructor() {
    const listed = spawnSync('git', ['ls-files', '-co', '--exclude-standard', '-z'], { cwd: root, encoding: 'utf8' });
    for (const file of listed.stdout.split('\0')) {
      if (file === '' || !existsSync(join(root, file))) continue;
      mkdirSync(dirname(join(this.dir, file)), { recursive: true });
      cpSync(join(root, file), join(this.dir, file));
    }
    symlinkSync(join(root, 'node_modules'), join(this.dir, 'node_modules'));
    cpSync(join(root, 'build'), join(this.dir, 'build'), { recursive: true });
  }

  /** Builds what the mutant, or its tests, have in C, as it is now. */
  async build({ file, tests }: Mutant): Promise<void> {
    const isMade =
      (!tests.some((each) => each.startsWith('conmon/')) ||
        (await this.#run('make', ['-s', '-C', 'conmon', 'static', 'tool']))) &&
      (!file.startsWith('native/') || (await this.#run('make', ['-s', '-C', 'native'])));
    if (!isMade) throw new Error(`what is made of ${file} cannot be built`);
  }

  /** True if all tests pass. */
  async passes(mutant: Mutant): Promise<boolean> {
    const { tests, grep } = mutant;
    await this.build(mutant);
    const mocha = ['node_modules/mocha/bin/mocha.js', '--bail', '--reporter', 'dot', ...tests];
    return this.#run(process.execPath, grep === undefined ? mocha : [...mocha, '--grep', grep]);
  }

  /** Writes a file with one line changed; the way back. */
  change({ file, from, to }: Mutant): () => void {
    const path = join(this.dir, file);
    const before = readFileSync(path, 'utf8');
    writeFileSync(
      path,
      before.replace(from, () => to),
    );
    return () => writeFileSync(path, before);
  }

  close(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }

  async #run(command: string, args: readonly string[]): Promise<boolean> {
    const child = spawn(command, args, {
      cwd: this.dir,
      env: { ...process.env, CONMON_SUBJECT: 'ours' },
      stdio: 'ignore',
      detached: true,
    });
    const timer = setTimeout(() => child.pid !== undefined && process.kill(-child.pid, 'SIGKILL'), HANGS_MS);
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', resolve);
    });
    clearTimeout(timer);
    return code === 0;
  }
}

async function judge(copy: Copy, mutant: Mutant, sound: Map<string, Promise<boolean>>): Promise<Verdict> {
  const key = JSON.stringify([mutant.tests, mutant.grep]);
  const whole = sound.get(key) ?? copy.passes(mutant);
  sound.set(key, whole);
  if (!(await whole)) return 'red without it';
  const restore = copy.change(mutant);
  try {
    return (await copy.passes(mutant)) ? 'NOT NOTICED' : 'noticed';
  } finally {
    restore();
    await copy.build(mutant);
  }
}

if (import.meta.main) {
  const words = process.argv.slice(2);
  const wanted = MUTANTS.filter(({ what }) => words.every((word) => what.includes(word)));
  const stale = staleMutants();
  for (const each of stale) console.log(each);
  const queue = wanted.filter(({ what }) => !stale.some((each) => each.includes(`"${what}"`)));
  const sound = new Map<string, Promise<boolean>>();
  let bad = stale.length;
  const lane = async (): Promise<void> => {
    const copy = new Copy();
    try {
      for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
        const verdict = await judge(copy, mutant, sound);
        if (verdict !== 'noticed') bad++;
        console.log(`${verdict.padEnd(14)}  ${mutant.file}: ${mutant.what}`);
      }
    } finally {
      copy.close();
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, lane));
  console.log(`${wanted.length - bad} of ${wanted.length} protections are missed when they are gone`);
  process.exitCode = bad === 0 && wanted.length > 0 ? 0 : 1;
}
