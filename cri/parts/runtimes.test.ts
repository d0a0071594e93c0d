import { assert } from 'chai';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { loadConfig } from '../../pkg/config/index.ts';
import { choose, handlerBy, type KnownRuntime, runtimeOf, type Runtimes } from './runtimes.ts';

function known(name: string, broken?: string): readonly [string, KnownRuntime] {
  return [name, { runtime: { handler: { name } }, features: { broken } } as unknown as KnownRuntime];
}

const chosen = ({ standard }: Runtimes): string | undefined => standard?.runtime.handler.name;

function refusal(work: () => unknown): RuntimeError {
  try {
    work();
  } catch (error) {
    if (error instanceof RuntimeError) return error;
  }
  return assert.fail('nothing was thrown');
}

describe('the default runtime', () => {
  it('is crun, else runc, else any, whichever works', () => {
    const [crun, runc, kata] = [known('crun'), known('runc'), known('kata')];
    assert.equal(chosen(choose('', new Map([runc, kata, crun]))), 'crun');
    assert.equal(chosen(choose('', new Map([kata, runc, known('crun', 'controllers')]))), 'runc');
    assert.equal(chosen(choose('', new Map([kata]))), 'kata');
    const broken = choose('', new Map([known('crun', 'controllers')]));
    assert.deepEqual([chosen(broken), broken.trouble], ['crun', 'controllers']);
  });

  it('is the configured one, working or not', () => {
    assert.equal(chosen(choose('kata', new Map([known('crun'), known('kata', 'no KVM')]))), 'kata');
  });

  it('may be missing: what is there works, and pods that name none hear what to do', () => {
    const runtimes = choose('kata', new Map([known('runc'), known('crun')]));
    assert.isUndefined(runtimes.standard);
    assert.deepEqual([...runtimes.named.keys()], ['crun', 'runc']);
    assert.equal(runtimeOf(runtimes, 'runc').handler.name, 'runc');
    const error = refusal(() => runtimeOf(runtimes, ''));
    assert.equal(error.code, 'FailedPrecondition');
    assert.match(error.message, /default runtime handler "kata" is not there; install its program/);
  });

  it('may be missing with all others: the daemon still starts, for what runs', () => {
    const runtimes = choose('', new Map());
    assert.match(runtimes.trouble ?? '', /no OCI runtime is installed; install crun or runc/);
    assert.match(refusal(() => runtimeOf(runtimes, '')).message, /no OCI runtime is installed/);
  });

  it('is not a name that anybody has: others are told', () => {
    const runtimes = choose('', new Map([known('runc'), known('crun')]));
    assert.match(refusal(() => runtimeOf(runtimes, 'nope')).message, /no runtime handler is called "nope".*crun, runc/);
    const broken = choose('', new Map([known('runc', 'no libc')]));
    assert.match(refusal(() => runtimeOf(broken, 'runc')).message, /runc does not work on this node: no libc/);
  });
});

describe('the monitor of a handler', () => {
  async function monitors(text: string): Promise<readonly unknown[]> {
    const handler =
      '[crio.runtime.runtimes.crun]\nmonitor_path = "/own"\nmonitor_cgroup = "own.slice"\nmonitor_env = ["A=own"]';
    const { config } = await loadConfig({
      node: { systemdCgroups: false },
      files: {
        read: async (path) => (path.endsWith('.conf') ? `${text}\n${handler}` : undefined),
        list: async () => [],
      },
    });
    return ['crun', 'runc'].map((name) => {
      const { monitorPath, monitorCgroup, monitorEnv } = handlerBy(config, config.runtimes.get(name)!, '/bin');
      return [monitorPath, monitorCgroup, ...monitorEnv];
    });
  }

  it('is its own, unless one is named for all, as with CRI-O', async () => {
    assert.deepEqual(await monitors(''), [
      ['/own', 'own.slice', 'A=own'],
      ['/bin/conmon', ''],
    ]);
    assert.deepEqual(await monitors('[crio.runtime]\nconmon_cgroup = "system.slice"'), [
      ['/own', '', 'A=own'],
      ['/bin/conmon', ''],
    ]);
    const all = '[crio.runtime]\nconmon = "/all"\nconmon_cgroup = "pod"\nconmon_env = ["A=all"]';
    assert.deepEqual(await monitors(all), [
      ['/all', 'pod', 'A=all'],
      ['/all', 'pod', 'A=all'],
    ]);
  });
});
