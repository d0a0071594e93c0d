import { assert } from 'chai';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { explain } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import type { NamespaceOption } from '../cri-api/types.ts';
import type { SandboxConfig } from '../ports/requests.ts';
import type { FakeProcess } from '../runtime/fake-process.ts';
import { boom, fails, ground, op, until } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';
import { podSandboxStatus } from './query.ts';

describe('a pod that shares its PID namespace', () => {
  const at = ground();

  function sharing(pid: NamespaceOption['pid'] | undefined, name = 'web'): SandboxConfig {
    const config = fakePod(name);
    const security = config.linux?.securityContext;
    assert.isDefined(security?.namespaceOptions);
    const namespaceOptions = pid === undefined ? undefined : { ...security.namespaceOptions, pid };
    const linux = {
      ...config.linux,
      cgroupParent: '',
      sysctls: {},
      securityContext: { ...security, namespaceOptions },
    };
    return { ...config, linux } as SandboxConfig;
  }

  function infraOf(pod: SandboxId): FakeProcess {
    const infra = at.node.node.containers.get(pod as unknown as ContainerId);
    assert.isDefined(infra);
    return infra.process;
  }

  async function pidNamespaceOf(id: ContainerId): Promise<RuntimeSpec['linux']['namespaces'][number] | undefined> {
    const text = await readFile(join(at.node.directory, 'run/containers', id, 'config.json'), 'utf8');
    return (JSON.parse(text) as RuntimeSpec).linux.namespaces.find(({ type }) => type === 'pid');
  }

  it('is not ready when its infra process has died, with an event, a reason and a line in the log', async () => {
    const pod = await at.mind.pods.run(op(), sharing('POD'), '');
    const seen: string[] = [];
    at.mind.subscribe((event) => seen.push(`${event.type} ${event.record.kind}`));
    infraOf(pod).exit(137);
    await until(() => podSandboxStatus(at.mind.pods.get(pod)).state === 'SANDBOX_NOTREADY');
    assert.deepEqual(seen, ['stopped sandbox']);
    assert.include(at.mind.pods.get(pod).lost, 'its infra process has ended');
    assert.isTrue(at.node.logged.some(({ level, message }) => level === 'error' && /infra process/.test(message)));
    assert.strictEqual((await fails(at.mind.containers.create(op(), pod, fakeContainer()))).code, 'FailedPrecondition');
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('is watched by the next daemon, too, and by one that could not put it on record at once', async () => {
    const pod = await at.mind.pods.run(op(), sharing('POD'), '');
    await at.restart();
    at.node.node.failNext('save', boom());
    infraOf(pod).exit(137);
    await until(() => podSandboxStatus(at.mind.pods.get(pod)).state === 'SANDBOX_NOTREADY');
  });

  it('says nothing when it is stopped by its client', async () => {
    const pod = await at.mind.pods.run(op(), sharing('POD'), '');
    await at.mind.pods.stop(op(), pod);
    assert.strictEqual(at.mind.pods.get(pod).lost, '');
    assert.deepEqual(at.node.logged, []);
  });

  it('is joined by a descriptor that nobody else can have, held until the container has been made', async () => {
    const pod = await at.mind.pods.run(op(), sharing('POD'), '');
    const release = at.node.node.hangNext('create');
    const created = at.mind.containers.create(op(), pod, fakeContainer('app', 0, sameOptions('POD')));
    await until(() => at.node.node.calls.get('create') === 2);
    const { pid, startTicks } = infraOf(pod).ref;
    assert.deepEqual([...at.node.node.heldNamespaces], [`/fake/held/${pid}.${startTicks}`]);
    release();
    assert.strictEqual((await pidNamespaceOf(await created))?.path, `/fake/held/${pid}.${startTicks}`);
    assert.deepEqual([...at.node.node.heldNamespaces], []);
  });

  it('is not joined by the number of a process that is somebody else by now', async () => {
    const pod = await at.mind.pods.run(op(), sharing('POD'), '');
    // The end is not on record yet, and the pid is another process's.
    const saved = at.node.node.hangNext('save');
    const saves = at.node.node.calls.get('save') ?? 0;
    const { pid } = infraOf(pod).ref;
    infraOf(pod).exit(137);
    await until(() => (at.node.node.calls.get('save') ?? 0) > saves);
    at.node.node.nextPid = pid;
    at.node.node.spawn('/of/somebody/else');
    const error = await fails(at.mind.containers.create(op(), pod, fakeContainer('app', 0, sameOptions('POD'))));
    assert.strictEqual(error.code, 'FailedPrecondition');
    assert.match(explain(error), /infra process of pod sandbox .* is gone/);
    saved();
  });

  it('is the default: what asks for no namespaces has those of its pod, the zero value of CRI', async () => {
    const pod = await at.mind.pods.run(op(), sharing(undefined), '');
    const options = podSandboxStatus(at.mind.pods.get(pod)).linux?.namespaces?.options;
    assert.deepEqual([options?.pid, options?.network, options?.ipc], ['POD', 'POD', 'POD']);
    const { pid, startTicks } = infraOf(pod).ref;
    const id = await at.mind.containers.create(op(), pod, fakeContainer());
    assert.strictEqual((await pidNamespaceOf(id))?.path, `/fake/held/${pid}.${startTicks}`);
    const alone = await at.mind.containers.create(op(), pod, fakeContainer('alone', 0, sameOptions('CONTAINER')));
    assert.isUndefined((await pidNamespaceOf(alone))?.path);
  });

  it('lends that of one container to another, by a descriptor as well', async () => {
    const { pod, id } = await at.running();
    const target = at.node.node.containers.get(id)?.process.ref;
    const debug = await at.mind.containers.create(op(), pod, fakeContainer('debug', 0, sameOptions('TARGET', id)));
    assert.strictEqual((await pidNamespaceOf(debug))?.path, `/fake/held/${target?.pid}.${target?.startTicks}`);
    assert.deepEqual([...at.node.node.heldNamespaces], []);
  });

  function sameOptions(pid: NamespaceOption['pid'], targetId = ''): Partial<ReturnType<typeof fakeContainer>> {
    const securityContext = {
      namespaceOptions: { network: 'POD', pid, ipc: 'POD', targetId },
      privileged: false,
      readonlyRootfs: false,
      runAsUsername: '',
      apparmorProfile: '',
      noNewPrivs: false,
      maskedPaths: [],
      readonlyPaths: [],
      seccompProfilePath: '',
      supplementalGroups: [],
      supplementalGroupsPolicy: 'Merge',
    };
    return { linux: { securityContext } } as unknown as Partial<ReturnType<typeof fakeContainer>>;
  }
});
