import { assert } from 'chai';
import type { ContainerId } from '../base/ids.ts';
import { backgroundOp, silent } from '../base/op.ts';
import type { ServiceManager, UnitProperties } from '../ports/kernel.ts';
import type { OciRuntime } from '../ports/runtime.ts';
import { boot, FakeNode } from './fake.ts';
import { enterScope } from './monitor-scope.ts';

const ID = 'a'.repeat(64) as ContainerId;

describe("a monitor's scope", () => {
  const started: [string, readonly number[], UnitProperties][] = [];
  const manager: ServiceManager = {
    start: async (_op, ...scope) => void started.push(scope),
    stop: async () => {},
    setProperties: async () => {},
  };
  const enter = async (monitorCgroup: string, by: 'systemd' | 'nobody' = 'systemd'): Promise<void> => {
    const { runtime } = boot(new FakeNode({ ownRoots: [] }));
    const own = Object.create(runtime, { handler: { value: { ...runtime.handler, monitorCgroup } } }) as OciRuntime;
    await enterScope(
      backgroundOp(silent),
      by === 'systemd' ? manager : undefined,
      { id: ID, name: 'k8s_c_p', runtime: own },
      7,
    );
  };
  beforeEach(() => {
    started.length = 0;
  });

  it('is its own, in the slice that is configured, never in that of the pod', async () => {
    for (const [configured, slice] of [
      ['', 'system.slice'],
      ['pod', 'system.slice'],
      ['monitors.slice', 'monitors.slice'],
    ] as const) {
      await enter(configured);
      const [name, pids, properties] = started.pop() ?? [];
      assert.deepEqual([name, pids, properties?.['Slice']?.value], [`berth-conmon-${ID}.scope`, [7], slice]);
    }
  });

  it('does without a manager', async () => {
    await enter('', 'nobody');
    assert.deepEqual(started, []);
  });
});
