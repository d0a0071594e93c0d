/**
 * Where monitors live on a node that systemd manages: each in a scope of its own. What befalls the daemon's unit (a
 * kill of all of it, a limit, a restart that looks for left-overs) does not reach them.
 */
import { constants } from 'node:os';
import { monitorScope } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { ServiceManager, UnitProperties } from '../ports/kernel.ts';
import type { CreateRequest } from '../ports/runtime.ts';
import { UNLIMITED_PROPERTY } from './pod-limits.ts';

/** Of monitors for which nothing else is configured, as with CRI-O. */
const SLICE = 'system.slice';

/** Moves the monitor into its scope; resolves when it is there. Nothing where there is no systemd. @throws as start. */
export async function enterScope(
  op: Op,
  manager: ServiceManager | undefined,
  { id, name, runtime }: Pick<CreateRequest, 'id' | 'name' | 'runtime'>,
  pid: number,
): Promise<void> {
  await manager?.start(op, monitorScope(id), [pid], scopeProperties(runtime.handler.monitorCgroup, name));
}

/**
 * PURE. A monitor ends by itself when its container has, whose scope comes first in the shutdown of the machine. The
 * signal for monitors that are left then is one that they ignore: another would be passed on to the container.
 */
function scopeProperties(monitorCgroup: string, name: string): UnitProperties {
  return {
    Description: { type: 's', value: `Monitor of container ${name}` },
    Slice: { type: 's', value: monitorCgroup.endsWith('.slice') ? monitorCgroup : SLICE },
    DefaultDependencies: { type: 'b', value: true },
    After: { type: 'as', value: ['local-fs.target', 'remote-fs.target'] },
    KillSignal: { type: 'i', value: constants.signals.SIGPIPE },
    TasksMax: { type: 't', value: UNLIMITED_PROPERTY },
    CollectMode: { type: 's', value: 'inactive-or-failed' },
  };
}
