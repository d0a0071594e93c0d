/** What pkg/pod needs from outside, with the real parts in it. */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { RuntimeError } from '../../pkg/base/errors.ts';
import type { Logger } from '../../pkg/base/op.ts';
import type { Freeing } from '../../pkg/base/reserve.ts';
import type { Config } from '../../pkg/config/index.ts';
import { DirectoryExtensions, type World } from '../../pkg/pod/index.ts';
import { ConmonMonitor, LinuxHost, LinuxProcesses, PinnedNamespaces } from '../../pkg/runtime/index.ts';
import { FileStateStore, Workspace } from '../../pkg/state/index.ts';
import { podSettings } from '../settings.ts';
import { namedRuntimes, runtimeOf, type Runtimes, settingsOfHandlers } from './runtimes.ts';

/** What was opened before. */
export interface WorldParts extends Pick<World, 'facts' | 'rootfs' | 'network' | 'images' | 'whyNoUserNamespaces'> {
  readonly runtimes: Runtimes;
  /** Of the run root. */
  readonly reserve: Freeing;
}

/**
 * The world of the mind. `binDir` is where our own programs are. @throws FailedPrecondition if one of those is missing;
 * as podSettings.
 */
export async function makeWorld(config: Config, log: Logger, binDir: string, parts: WorldParts): Promise<World> {
  const { runtimes, reserve, ...rest } = parts;
  const { runroot, root } = config.storage;
  const { pinnsPath, pausePath } = await ownPrograms(config, binDir);
  const workspace = new Workspace(runroot);
  return {
    ...rest,
    workspace,
    monitor: new ConmonMonitor({ exitsDir: join(runroot, 'exits') }),
    runtimeFor: (handler) => runtimeOf(runtimes, handler),
    runtimes: namedRuntimes(runtimes).map(([, { runtime }]) => runtime),
    namespaces: new PinnedNamespaces({ dir: join(runroot, 'ns'), pinnsPath }),
    state: new FileStateStore(runroot, reserve),
    host: new LinuxHost({ ownRoots: [runroot, root] }),
    processes: new LinuxProcesses(),
    clock: wallClock,
    monotonicMs: () => Number(process.hrtime.bigint() / 1_000n) / 1_000,
    settings: await podSettings(
      config,
      await settingsOfHandlers(config, runtimes, log),
      {
        pauseRoot: await workspace.ensurePauseRoot(pausePath),
        envExec: join(binDir, 'env-exec'),
        selinux: parts.facts.selinux,
      },
      log,
    ),
    extensions: new DirectoryExtensions({ cdiSpecs: config.runtime.cdiSpecDirs, hooks: config.runtime.hooksDir }, log),
    log,
  };
}

async function ownPrograms(
  config: Config,
  binDir: string,
): Promise<{ readonly pinnsPath: string; readonly pausePath: string }> {
  const pinnsPath = config.runtime.pinnsPath || join(binDir, 'pinns');
  const pausePath = join(binDir, 'pause');
  for (const program of [pinnsPath, pausePath]) {
    await access(program).catch(() => {
      throw new RuntimeError(
        'FailedPrecondition',
        `${program} is missing; run npm run build, or name it with --pinns-path`,
      );
    });
  }
  return { pinnsPath, pausePath };
}

/** Nanoseconds since the epoch; two calls in one millisecond still differ. */
function wallClock(): bigint {
  return BigInt(Date.now()) * 1_000_000n + (process.hrtime.bigint() % 1_000_000n);
}
