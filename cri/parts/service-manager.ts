/**
 * What the service manager hears of the daemon (sd_notify(3)): what it is doing, that a start which takes long goes on,
 * and that it is in health, which means that it answers a call to itself.
 */
import { explain } from '../../pkg/base/errors.ts';
import { limits } from '../../pkg/base/limits.ts';
import type { Logger, Op } from '../../pkg/base/op.ts';

/** Tells the service manager; false if there is none. */
export type Notify = (state: string) => boolean;

const MICROSECONDS = 1_000;

/** A start of which the service manager hears. */
export interface ToldStart {
  /** Its stages are the status. */
  readonly op: Op;
  /** Ends the telling; whatever comes next is for others to say. */
  done(): void;
}

/**
 * Tells the stages of a start, a few a second at the most, and asks for more time as long as there are new ones: what
 * hangs is not given any.
 */
export function tellStart(op: Op, notify: Notify, everyMs: number = limits.startTellMs): ToldStart {
  let current = 'starting';
  let told = '';
  const tell = (more: string): void => {
    if (current === told) return;
    told = current;
    notify(`STATUS=starting: ${current}${more}`);
  };
  const extend = setInterval(
    () => tell(`\nEXTEND_TIMEOUT_USEC=${limits.startExtensionMs * MICROSECONDS}`),
    everyMs,
  ).unref();
  return {
    op: {
      ...op,
      stage(what) {
        current = what;
        op.stage(what);
      },
    },
    done: () => clearInterval(extend),
  };
}

/** What the watchdog wants to know. */
export interface Health {
  /** Rejects, or takes longer than the signal allows, if the daemon does not answer. */
  readonly probe: (signal: AbortSignal) => Promise<unknown>;
  /** A line for people. */
  readonly status: () => string;
}

/**
 * Tells the status at once, and then that the daemon is in health, too, as often as the service manager wants to hear
 * it (`WATCHDOG_USEC` for `WATCHDOG_PID`, else as often as the status is worth). A daemon that does not answer itself
 * says nothing, and is killed and started again: what runs in containers goes on. The first such call comes when a sign
 * is due, not amid those of clients that have waited for the start.
 */
export function keepWatch(
  env: Readonly<Record<string, string | undefined>>,
  health: Health,
  notify: Notify,
  log: Logger,
): Disposable {
  const dog = watchdogMs(env);
  const everyMs = dog === undefined ? limits.statusTellMs : Math.floor(dog / 3);
  let probing = false;
  const look = async (): Promise<void> => {
    if (probing) return;
    probing = true;
    try {
      await health.probe(AbortSignal.timeout(everyMs));
      notify(`${dog === undefined ? '' : 'WATCHDOG=1\n'}STATUS=${health.status()}`);
    } catch (cause) {
      log.error('the daemon does not answer itself; if this lasts, the service manager starts it anew', {
        cause: explain(cause),
      });
    } finally {
      probing = false;
    }
  };
  notify(`STATUS=${health.status()}`);
  const timer = setInterval(() => void look(), everyMs).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** PURE. For how long the service manager waits for a sign; undefined if it does not, or not for us. */
export function watchdogMs(env: Readonly<Record<string, string | undefined>>, pid = process.pid): number | undefined {
  const usec = Number(env['WATCHDOG_USEC'] ?? '0');
  const forUs = (env['WATCHDOG_PID'] ?? String(pid)) === String(pid);
  return forUs && Number.isFinite(usec) && usec > 0 ? usec / MICROSECONDS : undefined;
}
