import { assert } from 'chai';
import { defaultsOf, factsOf } from './golden/request.ts';
import { cgroupsPathFor } from './resources.ts';
import { type ScopeInput, withScopeProperties } from './scope.ts';

const input = (changes: Partial<ScopeInput> = {}): ScopeInput => ({
  id: 'c0ffee',
  facts: factsOf({ cgroupManager: 'systemd', ownService: 'berth.service' }),
  defaults: defaultsOf(),
  annotations: {},
  stopSignal: 3,
  infra: '',
  allowed: new Map(),
  ...changes,
});
const property = (changes: Partial<ScopeInput>, name: string): string | undefined =>
  withScopeProperties(input(changes)).get(`org.systemd.property.${name}`);

describe('the scope of a container', () => {
  it('ends before its monitor, the daemon, its network and its file systems, by its own signal', () => {
    assert.deepEqual(Object.fromEntries(withScopeProperties(input())), {
      'org.systemd.property.DefaultDependencies': 'true',
      'org.systemd.property.After':
        "['berth-conmon-c0ffee.scope', 'berth.service', 'network.target', 'remote-fs.target', 'local-fs.target']",
      'org.systemd.property.KillSignal': 'int32 3',
      'org.systemd.property.CollectMode': "'inactive-or-failed'",
      'org.systemd.property.TasksMax': 'uint64 18446744073709551615',
    });
  });

  it("ends before the pod's infra container, with which the PID namespace of all ends", () => {
    // By the name that its cgroup has.
    const [, prefix, id] = cgroupsPathFor({ manager: 'systemd', parent: 'a.slice', id: 'abba' }).split(':');
    assert.include(property({ infra: 'abba' }, 'After'), `'${prefix}-${id}.scope'`);
    assert.notMatch(property({}, 'After') ?? '', /-[0-9a-f]+\.scope', '(?!berth)/);
  });

  it('has the grace period of its pod, where the kubelet tells it', () => {
    const grace = (seconds: string): string | undefined =>
      property({ annotations: { 'io.kubernetes.pod.terminationGracePeriod': seconds } }, 'TimeoutStopUSec');
    assert.equal(grace('30'), 'uint64 30000000');
    for (const bad of ['', '-1', '1e9', '9'.repeat(20)]) assert.isUndefined(grace(bad), bad);
  });

  it('has as many tasks as somebody asked for', () => {
    assert.isUndefined(property({ defaults: { ...defaultsOf(), pidsLimit: 100n } }, 'TasksMax'));
  });

  it('is what its pod says where that is allowed', () => {
    const allowed = new Map([['org.systemd.property.KillSignal', 'int32 2']]);
    assert.equal(property({ allowed }, 'KillSignal'), 'int32 2');
  });

  it('is nothing without systemd, and names no daemon that is no service', () => {
    assert.equal(withScopeProperties(input({ facts: factsOf() })).size, 0);
    assert.notInclude(property({ facts: factsOf({ cgroupManager: 'systemd' }) }, 'After'), '.service');
  });
});
