/** What pkg/pod needs from outside, with the real parts in it. */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { explain, RuntimeError } from '../../pkg/base/errors.ts';
import type { Op } from '../../pkg/base/op.ts';
import type { Freeing } from '../../pkg/base/reserve.ts';
import { monotonicMs, pause } from '../../pkg/base/time.ts';
import type { Config, LoadedConfig } from '../../pkg/config/index.ts';
import type { World } from '../../pkg/pod/index.ts';
import {
  ConmonMonitor,
  LinuxBlockedCalls,
  LinuxCpus,
  LinuxHost,
  LinuxProcesses,
  PinnedNamespaces,
} from '../../pkg/runtime/index.ts';
import { cgroups, systemd } from '../../pkg/sys/index.ts';
import { FileStateStore, Workspace } from '../../pkg/state/index.ts';
import { requireProfileHere } from './facts.ts';
import { extensionsBy, type Live, type LiveParts, settingsBy } from './live.ts';
import type { NodeRuntimes } from './node-runtimes.ts';

/** What was opened before. */
export interface WorldParts extends Pick<World, 'facts' | 'rootfs' | 'network' | 'images' | 'whyNoUserNamespaces'> {
  readonly runtimes: NodeRuntimes;
  /** Of the run root. */
  readonly reserve: Freeing;
}

/** A world, and what a reload replaces in it. */
export interface MadeWorld {
  readonly world: World;
  readonly live: Live;
  readonly liveParts: LiveParts;
}

/** With SELinux an infra container may execute what has a label of containers; without categories, that of any pod. */
async function labelPause(op: Op, host: LinuxHost, root: string, { selinux }: Live['settings']): Promise<void> {
  if (selinux === null) return;
  await host.relabel(op, [root], selinux.mountLabel).catch((cause: unknown) => {
    op.log.warn('infra containers may not start: their root has no label of SELinux', { cause: explain(cause) });
  });
}

/**
 * The world of the mind; what is live in it is looked up at each use. `binDir` is where our own programs are. @throws
 * FailedPrecondition if one of those is missing; as settingsBy.
 */
export async function makeWorld(
  op: Op,
  { config, places }: LoadedConfig,
  binDir: string,
  parts: WorldParts,
): Promise<MadeWorld> {
  const { runtimes, reserve, ...rest } = parts;
  const { log } = op;
  const { runroot, root } = config.storage;
  const { pinnsPath, pausePath } = await ownPrograms(config, binDir);
  const workspace = new Workspace(runroot);
  const own = {
    pauseRoot: await workspace.ensurePauseRoot(pausePath),
    envExec: join(binDir, 'env-exec'),
    selinux: parts.facts.selinux,
  };
  const liveParts = { op, own, log };
  const live: Live = {
    settings: await settingsBy(config, places, runtimes, liveParts),
    extensions: extensionsBy(config, log),
    runtimes,
  };
  const manager = systemd.isBooted() ? new systemd.Systemd() : undefined;
  const host = new LinuxHost({
    ownRoots: [runroot, root],
    manager: config.runtime.cgroupManager === 'systemd' ? manager : undefined,
  });
  await labelPause(op, host, own.pauseRoot, live.settings);
  const cpus = await cpusBy(op, config);
  const world: World = {
    ...rest,
    workspace,
    monitor: new ConmonMonitor({ exitsDir: join(runroot, 'exits'), manager }),
    namespaces: new PinnedNamespaces({ dir: join(runroot, 'ns'), pinnsPath }),
    state: new FileStateStore(runroot, reserve),
    host,
    cpus,
    blockedCalls: new LinuxBlockedCalls(join(runroot, 'seccomp'), log),
    processes: new LinuxProcesses(),
    profiles: { require: (each, name) => requireProfileHere(each, parts.facts, config, name) },
    clock: wallClock,
    pause,
    monotonicMs,
    runtimeFor: (handler) => runtimes.forNew(handler),
    runtimeOf: (made) => runtimes.thatMade(made),
    get runtimes() {
      return runtimes.all;
    },
    get settings() {
      return live.settings;
    },
    get extensions() {
      return live.extensions;
    },
    log,
  };
  return { world, live, liveParts };
}

/** The processors, and irqbalance as it was before this boot: not worth a daemon that does not start. */
async function cpusBy(op: Op, { runtime }: Config): Promise<LinuxCpus> {
  const { irqbalanceConfigFile, irqbalanceConfigRestoreFile } = runtime;
  const cpus = new LinuxCpus({
    root: '',
    irqbalance: irqbalanceConfigFile,
    irqbalanceOriginal: irqbalanceConfigRestoreFile === 'disable' ? '' : irqbalanceConfigRestoreFile,
    layout: cgroups.readLayoutSync,
  });
  await cpus.recover(op).catch((cause: unknown) => {
    op.log.warn('irqbalance cannot be given back its CPUs, ignoring', { cause: explain(cause) });
  });
  return cpus;
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
