/**
 * Places where a test can make the daemon die, fail or wait, in the manner of FreeBSD's fail(9).
 *
 * Armed by the environment only: `BERTH_FAILPOINTS="cni.add.after=kill;pull.publish.before=error"`. Actions:
 * `kill` (SIGKILL to ourselves: a crash at this instruction), `error` (throws), `hang` (never returns),
 * optionally counted from the n-th hit: `name=kill@3`. Without the variable a call costs one comparison.
 */
import { RuntimeError } from './errors.ts';

interface Armed {
  readonly action: string;
  hitsLeft: number;
}

const armed: Map<string, Armed> | undefined = parse(process.env['BERTH_FAILPOINTS']);

/** Does nothing, unless the environment armed `name`. */
export async function failpoint(name: string): Promise<void> {
  if (armed === undefined) return;
  const point = armed.get(name);
  if (point === undefined || --point.hitsLeft > 0) return;
  if (point.action === 'kill') process.kill(process.pid, 'SIGKILL');
  if (point.action === 'error') throw new RuntimeError('Internal', `failpoint ${name}`);
  await new Promise<never>(() => {});
}

function parse(text: string | undefined): Map<string, Armed> | undefined {
  if (text === undefined || text === '') return undefined;
  const points = new Map<string, Armed>();
  for (const part of text.split(';')) {
    const match = /^([a-z][a-zA-Z0-9.-]*)=(kill|error|hang)(?:@([1-9][0-9]*))?$/.exec(part.trim());
    if (match === null)
      throw new RuntimeError(
        'InvalidArgument',
        `BERTH_FAILPOINTS: cannot read ${JSON.stringify(part)}; want name=kill|error|hang[@n]`,
      );
    points.set(match[1] ?? '', { action: match[2] ?? '', hitsLeft: Number(match[3] ?? '1') });
  }
  return points;
}
