/** The OCI runtimes of the node, asked what they can do, and the choice of the default one. */
import { join } from 'node:path';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { ensureDir } from '../../pkg/base/files.ts';
import type { Logger, Op } from '../../pkg/base/op.ts';
import type { Config, HandlerConfig } from '../../pkg/config/index.ts';
import type { HandlerSettings } from '../../pkg/pod/index.ts';
import type { OciRuntime, RuntimeFeatures } from '../../pkg/ports/runtime.ts';
import { OciCli } from '../../pkg/runtime/index.ts';
import { handlerSettings, type Telling } from '../settings.ts';

/** A runtime and what it answered when it was asked. */
export interface KnownRuntime {
  readonly runtime: OciRuntime;
  readonly features: RuntimeFeatures;
}

/** By the name of the handler, in order; '' is the default. */
export type Runtimes = ReadonlyMap<string, KnownRuntime>;

/**
 * Every usable handler; '' is the default: the configured one, else crun where it works on this node, else runc.
 * `binDir` is where our own monitor is. @throws FailedPrecondition if there is none.
 */
export async function findRuntimes(op: Op, config: Config, binDir: string): Promise<Runtimes> {
  const found = new Map<string, KnownRuntime>();
  await Promise.all(
    [...config.runtimes.values()].map(async (handler) => {
      const runtime = makeRuntime(config, handler, binDir);
      await ensureDir(runtime.handler.root);
      found.set(handler.name, { runtime, features: await runtime.features(op) });
    }),
  );
  const name = chooseDefault(config.runtime.defaultRuntime, found);
  const chosen = name === undefined ? undefined : found.get(name);
  if (chosen === undefined)
    throw new RuntimeError(
      'FailedPrecondition',
      'no OCI runtime found; install crun or runc, or name one with --runtimes name:path',
    );
  sayWhatIsWrong(op.log, config, name, found);
  return new Map([['', chosen], ...[...found].sort(([a], [b]) => (a < b ? -1 : 1))]);
}

/** The handlers that have a name of their own: all but ''. */
export function namedRuntimes(runtimes: Runtimes): readonly (readonly [name: string, known: KnownRuntime])[] {
  return [...runtimes].filter(([name]) => name !== '');
}

/** The runtime for new pods of a handler; '' is the default. @throws InvalidArgument, FailedPrecondition */
export function runtimeOf(runtimes: Runtimes, handler: string): OciRuntime {
  const found = runtimes.get(handler);
  if (found === undefined)
    throw new RuntimeError(
      'InvalidArgument',
      `no runtime handler is called ${JSON.stringify(handler)}; there are: ` +
        namedRuntimes(runtimes)
          .map(([name]) => name)
          .join(', '),
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
      namedRuntimes(runtimes).map(
        async ([name, { features }]) =>
          [name, await handlerSettings(name, config.runtimes.get(name), features, telling)] as const,
      ),
    ),
  );
  const chosen = own.get(runtimes.get('')?.runtime.handler.name ?? '');
  return chosen === undefined ? own : new Map([['', chosen], ...own]);
}

function makeRuntime(config: Config, handler: HandlerConfig, binDir: string): OciCli {
  const { runtime, storage } = config;
  return new OciCli({
    name: handler.name,
    path: handler.runtimePath,
    root: handler.runtimeRoot || join(storage.runroot, 'runtimes', handler.name),
    monitorPath: handler.monitorPath || runtime.conmon || join(binDir, 'conmon'),
    monitorEnv: handler.monitorEnv.length > 0 ? handler.monitorEnv : runtime.conmonEnv,
    monitorCgroup: handler.monitorCgroup || runtime.conmonCgroup,
    cgroupManager: runtime.cgroupManager,
    runtimeArgs: handler.runtimeArgs,
    createTimeoutMs: handler.createTimeoutMs,
    noPivot: runtime.noPivot,
    noSyncLog: handler.noSyncLog,
    logSizeMaxBytes: runtime.logSizeMaxBytes,
    journal: runtime.logToJournald ? 'copy' : 'none',
  });
}

function chooseDefault(wanted: string, found: ReadonlyMap<string, KnownRuntime>): string | undefined {
  const preferred = wanted === '' ? ['crun', 'runc', ...found.keys()] : [wanted];
  return (
    preferred.find((each) => found.has(each) && found.get(each)?.features.broken === undefined) ??
    preferred.find((each) => found.has(each))
  );
}

function sayWhatIsWrong(
  log: Logger,
  config: Config,
  chosen: string | undefined,
  found: ReadonlyMap<string, KnownRuntime>,
): void {
  for (const [each, { features }] of found) {
    if (features.broken !== undefined)
      log.warn('a runtime does not work on this node', { runtime: each, cause: features.broken });
    // Those that are merely installed show in `berth check`.
    else if (features.vulnerable !== undefined && (each === chosen || config.runtimes.get(each)?.configured === true))
      log.warn('a runtime is known to be vulnerable', { runtime: each, cause: features.vulnerable });
  }
}
