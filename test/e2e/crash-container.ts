/**
 * The containers of a run of kills (crash.ts): a shell that writes numbered lines to both streams and ends in one of
 * several ways with a code of its own, and what is true of its log and its status then.
 */
import { readFile } from 'node:fs/promises';
import { Finding } from './crash-journal.ts';
import { whole } from './harness.ts';

export type Ending =
  /** It ends by itself, at once. */
  | 'short'
  /** It ends when it is told to through a pipe, past the daemon. */
  | 'told'
  /** Its process is killed, past the daemon. */
  | 'killed'
  /** StopContainer: it hears SIGTERM. */
  | 'stopped'
  /** StopContainer: it does not. */
  | 'stubborn'
  /** Its monitor is killed, then its process. */
  | 'unwatched'
  /** It runs until its pod is stopped. */
  | 'left';

const ENDINGS: readonly Ending[] = [
  'short',
  'short',
  'told',
  'told',
  'told',
  'killed',
  'stopped',
  'stopped',
  'stubborn',
  'unwatched',
  'left',
];

export const endingOf = (random: () => number): Ending => ENDINGS[Math.floor(random() * ENDINGS.length)] ?? 'told';

/**
 * `$0` is the mark, then exit code, lines to begin with, how it ends. How many lines it has written for sure is in
 * /progress at any time. One in fifty lines is longer than a piece of a log.
 */
const SCRIPT = `
code=$1 first=$2 ending=$3 n=0 pad=$(printf '%9000sz' '')
say() {
  long=; [ $((n % 50)) != 7 ] || long=$pad
  echo "o $n$long"; echo "e $n$long" >&2
  n=$((n+1)); echo $n >> /progress
}
finish() { echo "end $n"; exit $code; }
case $ending in stubborn) trap '' TERM;; *) trap finish TERM;; esac
mkfifo /go; exec 3<>/go
while [ $n -lt $first ]; do say; done
[ $ending != short ] || finish
while ! read -t 0.05 line <&3; do say; done
finish`;

/** The command of a container. Codes are 1 to 100, and never 137 or 255, which stand for ends of other kinds. */
export function commandOf(mark: string, code: number, firstCount: number, ending: Ending): string[] {
  return ['sh', '-c', SCRIPT, mark, `${code}`, `${firstCount}`, ending];
}

/** Exit code and reason that a status must have in the end. */
export function endOf(ending: Ending, code: number): readonly [exitCode: number, reason: string] {
  if (ending === 'killed' || ending === 'stubborn' || ending === 'left') return [137, 'Error'];
  return ending === 'unwatched' ? [255, 'ContainerStatusUnknown'] : [code, 'Error'];
}

/**
 * Every line that was written is there once and in order. `files` are the log's, the oldest first; `progress` is its
 * own count. @returns how many lines there are. @throws Finding
 */
export async function checkLines(files: readonly string[], ending: Ending, progress: string): Promise<number> {
  let text = '';
  for (const path of files) text += await readFile(path, 'utf8');
  if (text !== '' && !text.endsWith('\n')) throw new Finding('line', `${files.at(-1)} ends within a line`);
  const lines = whole(
    text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => line.slice(line.indexOf(' ') + 1)),
  ).filter((line) => !line.startsWith('stderr berth: '));
  const last = lines.findLast((line) => line.startsWith('stdout end '));
  const hasEnd = ending === 'short' || ending === 'told' || ending === 'stopped';
  if (hasEnd && last === undefined) throw new Finding('line', `${files.at(-1)} lacks the last line`);
  if (lines.filter((line) => line.startsWith('stdout end ')).length > 1)
    throw new Finding('line', `${files.at(-1)} ends twice`);
  const written = Number(hasEnd ? last?.slice('stdout end '.length) : (/(\d+)\n$/.exec(progress)?.[1] ?? 0));
  const counts = [countOf(lines, 'stdout o ', files), countOf(lines, 'stderr e ', files)];
  // SIGTERM and SIGKILL may come between a line and its count. What a dead monitor did not read is nobody's.
  for (const count of counts)
    if (ending !== 'unwatched' && count !== written && count !== written + 1)
      throw new Finding('line', `${files.at(-1)}: ${counts.join(' and ')} lines, ${written} were written`);
  return lines.length;
}

/** Lines of one kind. @throws Finding where they are not 0, 1, 2, … */
function countOf(lines: readonly string[], prefix: string, files: readonly string[]): number {
  const own = lines.filter((line) => line.startsWith(prefix));
  for (const [at, line] of own.entries()) {
    const expected = `${prefix}${at}${at % 50 === 7 ? `${' '.repeat(9000)}z` : ''}`;
    // A monitor that was killed may have left a part of a line.
    if (line !== expected)
      throw new Finding('line', `${files.at(-1)}: ${JSON.stringify(line.slice(0, 40))} instead of line ${at}`);
  }
  return own.length;
}
