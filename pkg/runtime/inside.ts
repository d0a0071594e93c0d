/**
 * Processes that only the runtime can see: runsc's live in a kernel of its own, and the host shows a sandbox in their
 * place. A signal to the host's process that stands for an exec ends the waiting, not the work, so what an exec started
 * is killed by the runtime.
 */
import type { ContainerId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';

/** One line of `ps`. */
interface InsideProcess {
  readonly pid: number;
  readonly parentPid: number;
}

const SIGKILL = 9;
const SIGSTOP = 19;

/**
 * Kills the process and all that descends from it; content if it has ended. They are stopped before they are killed, so
 * that none can fork away meanwhile. A child whose parent ended before the first look is not found: nothing says whose
 * it was. `run` executes a subcommand of the runtime and gives what it prints.
 */
export async function killInside(
  run: (args: readonly string[]) => Promise<string>,
  id: ContainerId,
  pid: number,
): Promise<void> {
  const signal = (to: number, number: number): Promise<unknown> =>
    run(['kill', '--pid', String(to), id, String(number)]).catch(() => {}); // It may have ended meanwhile.
  const tree = new Set<number>();
  for (let round = 0; round < limits.killRoundsCount; round++) {
    const fresh = descendants(parsePs(await run(['ps', id])), pid).filter((each) => !tree.has(each));
    if (fresh.length === 0) break;
    for (const each of fresh) {
      tree.add(each);
      await signal(each, SIGSTOP);
    }
  }
  for (const each of tree) await signal(each, SIGKILL);
}

/** PURE. Process and parent of each line of `runsc ps`: a table with a header, columns UID PID PPID …. */
export function parsePs(text: string): InsideProcess[] {
  const [header = '', ...lines] = text.split('\n');
  const columns = header.trim().split(/\s+/);
  const [pidAt, parentAt] = [columns.indexOf('PID'), columns.indexOf('PPID')];
  if (pidAt < 0 || parentAt < 0) return [];
  return lines.flatMap((line) => {
    const fields = line.trim().split(/\s+/);
    const [pid, parentPid] = [Number(fields[pidAt]), Number(fields[parentAt])];
    return Number.isInteger(pid) && Number.isInteger(parentPid) && pid > 0 ? [{ pid, parentPid }] : [];
  });
}

/**
 * PURE. `root` and all that descends from it, parents first; nothing if it is not there, or is 1, the container itself.
 */
export function descendants(processes: readonly InsideProcess[], root: number): number[] {
  if (root === 1 || !processes.some((each) => each.pid === root)) return [];
  const children = Map.groupBy(processes, (each) => each.parentPid);
  const found = new Set([root]);
  for (const pid of found) for (const child of children.get(pid) ?? []) found.add(child.pid);
  return [...found];
}
