import { assert } from 'chai';
import type { SandboxId } from '../base/ids.ts';
import type { SandboxConfig } from '../ports/requests.ts';
import { boom, fails, ground, op, until } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';

describe('what cAdvisor sees of a pod', () => {
  const at = ground();
  const kubelets = (name = 'web'): SandboxConfig => {
    const config = fakePod(name);
    return { ...config, linux: { ...config.linux, cgroupParent: '/kubepods/pod1' } } as SandboxConfig;
  };
  const shown = (): string[] => [...at.node.node.cgroups].filter((each) => each.startsWith('/kubepods/'));
  const nameOf = (id: string): string => `/kubepods/pod1/crio-${id}.scope`;

  it('is a cgroup with its id from the moment it runs until it is stopped', async () => {
    const pod = await at.mind.pods.run(op(), kubelets(), '');
    assert.deepEqual(shown(), [nameOf(pod)]);
    await at.mind.pods.stop(op(), pod);
    assert.deepEqual(shown(), []);
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('is nothing of a pod that cannot be made, nor of one that no kubelet owns', async () => {
    at.node.node.failNext('add', boom());
    await fails(at.mind.pods.run(op(), kubelets(), ''));
    assert.deepEqual(shown(), []);
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    assert.deepEqual(
      [...at.node.node.cgroups].filter((each) => each.includes('crio')),
      [],
    );
    await at.mind.pods.remove(op(), pod);
  });

  it('goes with the next daemon, where this one has died', async () => {
    const pod = await at.mind.pods.run(op(), kubelets(), '');
    at.node.node.crashNext('del');
    void at.mind.pods.stop(op(), pod).catch(() => {});
    await until(() => (at.node.node.calls.get('del') ?? 0) > 0);
    await at.restart();
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(shown(), []);
  });

  it('can be asked for while it is being made, with what is in it', async () => {
    const release = at.node.node.hangNext('add');
    const running = at.mind.pods.run(op(), kubelets(), '');
    await until(() => shown().length === 1);
    const id = /crio-([0-9a-f]{64})/.exec(shown()[0] ?? '')?.[1] as SandboxId;
    assert.isUndefined(at.mind.pods.find(id));
    assert.equal(at.mind.inspect(id)?.pod.state.phase, 'creating');
    release();
    const pod = await running;
    const held = at.node.node.hangNext('create');
    const created = at.mind.containers.create(op(), pod, fakeContainer());
    await until(() => (at.mind.inspect(pod)?.containers.length ?? 0) === 1);
    const container = at.mind.inspect(pod)?.containers[0];
    assert.equal(at.mind.inspect(container?.id ?? '')?.asked, container);
    assert.equal(at.mind.inspect(container?.id.slice(0, 12) ?? '')?.pod.id, pod);
    held();
    await created;
    assert.isUndefined(at.mind.inspect('f'.repeat(64)));
  });
});
