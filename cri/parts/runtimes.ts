/** What is known of the OCI runtimes of a configuration, and the choice of the default one. */
import { join } from 'node:path';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { quote } from '../../pkg/base/ids.ts';
import type { Logger } from '../../pkg/base/op.ts';
import type { Config, HandlerConfig } from '../../pkg/config/index.ts';
import type { HandlerSettings } from '../../pkg/pod/index.ts';
import type { OciRuntime, RuntimeFeatures, RuntimeHandler } from '../../pkg/ports/runtime.ts';
import { handlerSettings, type Telling } from '../settings.ts';

/** A runtime and what it answered when it was asked. */
export interface KnownRuntime {
  readonly runtime: OciRuntime;
  readonly features: RuntimeFeatures;
}

/** The runtimes of the node. */
export interface Runtimes {
  /** By the name of the handler, in order. */
  readonly named: ReadonlyMap<string, KnownRuntime>;
  /** What pods get that name none; undefined if that is not there. */
  readonly standard: KnownRuntime | undefined;
  /** Why those pods cannot run, and what to do; undefined if they can. */
  readonly trouble: string | undefined;
}

/**
 * PURE. `wanted` is the name of the default handler; '' leaves the choice: crun where it works on this node, else runc,
 * else any.
 */
export function choose(wanted: string, found: ReadonlyMap<string, KnownRuntime>): Runtimes {
  const named = new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
  const preferred = wanted === '' ? ['crun', 'runc', ...named.keys()] : [wanted];
  const there = preferred.map((name) => named.get(name)).filter((each) => each !== undefined);
  const standard = there.find(({ features }) => features.broken === undefined) ?? there[0];
  if (standard !== undefined) return { named, standard, trouble: standard.features.broken };
  const trouble =
    wanted === ''
      ? 'no OCI runtime is installed; install crun or runc, or name one with --runtimes name:path, and restart berth'
      : `the default runtime handler ${quote(wanted)} is not there; install its program, or choose another with ` +
        'default_runtime in [crio.runtime], and restart berth';
  return { named, standard, trouble };
}

/** The runtime for new pods of a handler; '' is the default. @throws InvalidArgument, FailedPrecondition */
export function runtimeOf({ named, standard, trouble }: Runtimes, handler: string): OciRuntime {
  if (handler === '' && standard === undefined)
    throw new RuntimeError('FailedPrecondition', trouble ?? 'there is no default runtime handler');
  const found = handler === '' ? standard : named.get(handler);
  if (found === undefined)
    throw new RuntimeError(
      'InvalidArgument',
      `no runtime handler is called ${quote(handler)}; there are: ${[...named.keys()].join(', ')}`,
    );
  if (found.features.broken !== undefined)
    throw new RuntimeError(
      'FailedPrecondition',
      `runtime handler ${found.runtime.handler.name} does not work on this node: ${found.features.broken}`,
    );
  return found.runtime;
}

/** What the configuration says about the containers of each handler. @throws as handlerSettings. */
export async function settingsOfHandlers(
  config: Config,
  runtimes: Runtimes,
  telling: Telling,
): Promise<ReadonlyMap<string, HandlerSettings>> {
  const own = new Map(
    await Promise.all(
      [...runtimes.named].map(
        async ([name, { features }]) =>
          [name, await handlerSettings(name, config.runtimes.get(name), features, telling)] as const,
      ),
    ),
  );
  const chosen = own.get(runtimes.standard?.runtime.handler.name ?? '');
  return chosen === undefined ? own : new Map([['', chosen], ...own]);
}

/** A handler as a configuration means it. `binDir` is where our own monitor is. */
export function handlerBy(config: Config, handler: HandlerConfig, binDir: string): RuntimeHandler {
  const { runtime, storage } = config;
  return {
    name: handler.name,
    path: handler.runtimePath,
    root: handler.runtimeRoot || join(storage.runroot, 'runtimes', handler.name),
    // What is said for all wins, as with CRI-O: a crio.conf that was saved whole has defaults in its handlers.
    monitorPath: runtime.conmon || handler.monitorPath || join(binDir, 'conmon'),
    monitorEnv: runtime.conmonEnv.length > 0 ? runtime.conmonEnv : handler.monitorEnv,
    monitorCgroup: monitorCgroupOf(runtime.conmonCgroup || handler.monitorCgroup, runtime.cgroupManager),
    cgroupManager: runtime.cgroupManager,
    runtimeArgs: handler.runtimeArgs,
    createTimeoutMs: handler.createTimeoutMs,
    noPivot: runtime.noPivot,
    noSyncLog: handler.noSyncLog,
    logSizeMaxBytes: runtime.logSizeMaxBytes,
    journal: runtime.logToJournald ? 'copy' : 'none',
  };
}

/** Says what an operator should know of what was found. */
export function sayWhatIsWrong(log: Logger, config: Config, { named, standard, trouble }: Runtimes): void {
  if (standard === undefined)
    log.error('pods that name no runtime handler cannot run; others can, and what runs goes on', { cause: trouble });
  const chosen = standard?.runtime.handler.name;
  for (const [each, { features }] of named) {
    if (features.broken !== undefined)
      log.warn('a runtime does not work on this node', { runtime: each, cause: features.broken });
    // Those that are merely installed show in `berth check`.
    else if (features.vulnerable !== undefined && (each === chosen || config.runtimes.get(each)?.configured === true))
      log.warn('a runtime is known to be vulnerable', { runtime: each, cause: features.vulnerable });
  }
}

/** Without systemd its slice means nothing, and every crio.conf that was saved whole names it, as with CRI-O. */
function monitorCgroupOf(named: string, manager: Config['runtime']['cgroupManager']): string {
  return named === 'system.slice' && manager === 'cgroupfs' ? '' : named;
}
