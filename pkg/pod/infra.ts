/**
 * Infra processes are watched like any other: with the first process of a PID namespace everything in it ends, so a pod
 * whose infra process has died is not ready, and the kubelet makes it anew.
 */
import { explain } from '../base/errors.ts';
import type { ProcessRef, SandboxId } from '../base/ids.ts';
import { pause } from '../base/time.ts';
import { nextSandbox } from '../state/index.ts';
import type { SandboxRecord } from '../ports/state.ts';
import type { Surroundings } from './life-core.ts';

/** A record that could not be saved may be saved a moment later. */
const FIRST_PAUSE_MS = 100;
/** A disk stays full for long, and an operator who has made room should not wait much longer. */
const LONGEST_PAUSE_MS = 60_000;

/** What is said of a pod without its infra process. */
export const INFRA_LOST = 'its infra process has ended, and the PID namespace of the pod with it';

/** Puts it on record when the infra process of a sandbox that is ready ends, at the latest when that can be saved. */
export function watchInfra(around: Surroundings, { id, infra }: SandboxRecord): void {
  if (infra?.process) void awaitEnd(around, id, infra.process);
}

async function awaitEnd({ world, books, closing }: Surroundings, id: SandboxId, process: ProcessRef): Promise<void> {
  const fields = { sandbox: id, pid: process.pid };
  for (let pauseMs = FIRST_PAUSE_MS; !closing.aborted; pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2)) {
    try {
      await world.processes.gone(process, closing);
      const record = books.sandbox(id);
      // Whoever stops the pod ends the process.
      if (closing.aborted || record?.state.phase !== 'ready') return;
      await books.save({ ...record, state: nextSandbox(record.state, 'stop'), lost: INFRA_LOST });
      world.log.error('a pod sandbox has lost its infra process; it is not ready any more', fields);
      return;
    } catch (cause) {
      world.log.error('the end of an infra process could not be recorded, will retry', {
        ...fields,
        cause: explain(cause),
      });
    }
    await pause(pauseMs, closing);
  }
}
