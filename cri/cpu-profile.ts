/** Profiles of the daemon's own processor time: what pprof is to CRI-O. */
import { RuntimeError } from '../pkg/base/errors.ts';
import { pause } from '../pkg/base/time.ts';

/**
 * How often the profiler looks, in microseconds: V8's own default is ten times as coarse as what a call of CRI takes.
 */
export const SAMPLE_US = 200;

/** The profiler is one for the process. */
let isTaken = false;

/**
 * What the event loop spends its time on for `ms`, as developer tools read it (`.cpuprofile`); less if `signal` fires
 * first. @throws FailedPrecondition while another one is being taken.
 */
export async function cpuProfile(ms: number, signal: AbortSignal): Promise<string> {
  if (isTaken) throw new RuntimeError('FailedPrecondition', 'a profile is being taken already; try again later');
  isTaken = true;
  try {
    // Most daemons never need it, and an import of one of Node's own is none of what the bundle can load later.
    const { Session } = process.getBuiltinModule('node:inspector/promises');
    const session = new Session();
    session.connect();
    try {
      await session.post('Profiler.enable');
      await session.post('Profiler.setSamplingInterval', { interval: SAMPLE_US });
      await session.post('Profiler.start');
      await pause(ms, signal);
      const { profile } = await session.post('Profiler.stop');
      return JSON.stringify(profile);
    } finally {
      session.disconnect();
    }
  } finally {
    isTaken = false;
  }
}
