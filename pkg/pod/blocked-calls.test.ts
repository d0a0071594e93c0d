import { assert } from 'chai';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { LinuxSeccomp, RuntimeSpec } from '../oci/spec-types.ts';
import { op, until } from './fake-ground.ts';
import { FakeSurroundings, fakeContainer, fakePod } from './fake-world.ts';
import type { OpenPods } from './index.ts';
import { containerStatus } from './query.ts';
import type { HandlerSettings } from './world.ts';

const ACTION = 'io.kubernetes.cri-o.seccompNotifierAction';
const REST_MS = 5_000;

describe('system calls that a seccomp profile blocks', () => {
  let node: FakeSurroundings;
  let mind: OpenPods;
  let counted: string[];

  async function boot(allowedAnnotations: readonly string[]): Promise<void> {
    const handler: HandlerSettings = {
      privilegedWithoutHostDevices: false,
      minMemoryBytes: 0n,
      allowedAnnotations,
      defaultAnnotations: new Map(),
      execCpuAffinity: '',
      seccompProfile: undefined,
    };
    mind = await node.boot({ handlers: new Map(['', 'fake'].map((name) => [name, handler])) });
    counted = [];
    mind.followBlockedCalls((record, call) => counted.push(`${record.config.metadata.name} ${call}`));
  }
  beforeEach(async () => {
    node = await FakeSurroundings.make();
  });
  afterEach(async () => {
    mind.close();
    await node.dispose();
  });

  async function started(annotations: Record<string, string>): Promise<{ pod: SandboxId; id: ContainerId }> {
    const pod = await mind.pods.run(op(), fakePod('web', 0, { annotations }), '');
    const seccomp = { profileType: 'RuntimeDefault', localhostRef: '' };
    const linux = { securityContext: { seccomp, maskedPaths: [], readonlyPaths: [], supplementalGroups: [] } };
    const config = fakeContainer('app', 0, { linux } as unknown as Parameters<typeof fakeContainer>[2]);
    const id = await mind.containers.create(op(), pod, config);
    await mind.containers.start(op(), id);
    return { pod, id };
  }
  async function seccompOf(id: ContainerId): Promise<LinuxSeccomp | undefined> {
    const text = await readFile(join(node.directory, 'run/containers', id, 'config.json'), 'utf8');
    return (JSON.parse(text) as RuntimeSpec).linux.seccomp;
  }
  const lines = (): string[] => node.mentioned.filter((message) => message.startsWith('Seccomp blocked'));
  const restsFor = (ms: number): void => {
    node.node.clocks.passedMs += ms;
    node.node.pass(ms);
  };
  const ended = (id: ContainerId): boolean => containerStatus(mind.containers.get(id)).state === 'CONTAINER_EXITED';

  it('are told of in CRI-O’s words, and counted, where an annotation says so that is allowed', async () => {
    await boot(['seccomp-notifier-action.crio.io']);
    const { id } = await started({ [ACTION]: '' });
    const { listenerPath, syscalls = [], defaultAction } = (await seccompOf(id)) ?? assert.fail('no profile');
    assert.equal(listenerPath, join(node.directory, 'seccomp', id));
    assert.equal(defaultAction, 'SCMP_ACT_ERRNO');
    const actions = (name: string): string[] =>
      syscalls.filter(({ names }) => names.includes(name)).map(({ action, errnoRet }) => `${action} ${errnoRet}`);
    assert.deepEqual(actions('swapoff'), ['SCMP_ACT_NOTIFY undefined']);
    assert.deepEqual(actions('clone3'), ['SCMP_ACT_ERRNO 38'], 'every program with threads tries it');
    node.blockCall(id, 'swapoff');
    node.blockCall(id, 'swapoff');
    assert.deepEqual(lines(), Array(2).fill(`Seccomp blocked syscall 'swapoff' in container ${id} (default/web/app)`));
    assert.deepEqual(counted, ['app swapoff', 'app swapoff']);
    restsFor(10 * REST_MS);
    assert.isFalse(ended(id));
    await mind.containers.stop(op(), id, 0);
    await until(() => !node.listening.has(id));
  });

  it('end the container some seconds after the last one, where the annotation says stop', async () => {
    await boot(['seccomp-notifier-action.crio.io']);
    const { id } = await started({ [ACTION]: 'stop' });
    for (const call of ['swapoff', 'keyctl', 'swapoff']) node.blockCall(id, call);
    restsFor(REST_MS - 1_000);
    node.blockCall(id, 'swapoff');
    restsFor(2_000);
    await new Promise((resolve) => setImmediate(resolve));
    assert.isFalse(ended(id));
    await until(() => {
      restsFor(REST_MS);
      return ended(id);
    });
    const { reason, message, exitCode } = containerStatus(mind.containers.get(id));
    assert.deepEqual(
      { reason, message, exitCode },
      { reason: 'seccomp killed', message: 'Used forbidden syscalls: keyctl (1x), swapoff (3x)', exitCode: 137 },
    );
  });

  it('are as ever where the annotation is not allowed', async () => {
    await boot([]);
    const { id } = await started({ [ACTION]: 'stop' });
    assert.notProperty(await seccompOf(id), 'listenerPath');
    assert.include(JSON.stringify(await seccompOf(id)), 'swapoff');
    assert.notInclude(JSON.stringify(await seccompOf(id)), 'SCMP_ACT_NOTIFY');
  });

  it('are told of by the next daemon, too: commands in the container ask for somebody there', async () => {
    await boot(['seccomp-notifier-action.crio.io']);
    const { id } = await started({ [ACTION]: '' });
    mind.close();
    await boot([]);
    assert.isTrue(node.listening.has(id), 'whatever is allowed by now');
    node.blockCall(id, 'mount');
    assert.deepEqual(counted, ['app mount']);
  });

  it('have a line each at first, then one for every doubling, and names only up to a bound', async () => {
    await boot(['seccomp-notifier-action.crio.io']);
    const { id } = await started({ [ACTION]: '' });
    for (let count = 0; count < 1_000; count++) node.blockCall(id, 'swapoff');
    assert.lengthOf(lines(), 16 + 5);
    for (let number = 0; number < 1_000; number++) node.blockCall(id, `call ${number}`);
    assert.lengthOf([...new Set(counted)], 65);
    assert.include(counted, 'app other');
  });
});
