import { assert } from 'chai';
import type { ImageSpec, LinuxContainerSecurityContext } from '../cri-api/types.ts';
import { codeOf, explain, RuntimeError } from '../base/errors.ts';
import { boom, fails, ground, op, sameResources, until } from './fake-ground.ts';
import { fakeArtifact, fakeContainer, fakeImage, fakePod } from './fake-world.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import { containerStatus } from './query.ts';

const PLAIN: LinuxContainerSecurityContext = {
  privileged: false,
  runAsUsername: '',
  readonlyRootfs: false,
  supplementalGroups: [],
  apparmorProfile: '',
  seccompProfilePath: '',
  noNewPrivs: false,
  maskedPaths: [],
  readonlyPaths: [],
  supplementalGroupsPolicy: 'Merge',
};

const image = (userSpecifiedImage: string): ImageSpec => ({
  image: fakeImage.id,
  annotations: {},
  userSpecifiedImage,
  runtimeHandler: '',
  imageRef: '',
});
const volume = {
  containerPath: '/data',
  hostPath: '',
  readonly: true,
  selinuxRelabel: false,
  propagation: 'PROPAGATION_PRIVATE',
  uidMappings: [],
  gidMappings: [],
  recursiveReadOnly: false,
  image: image('reg/data:2'),
  imageSubPath: '',
  mountOptions: [],
} as const;

describe("the mind's containers", () => {
  const at = ground();

  it('creates, starts and reports the exit code', async () => {
    const { id } = await at.running();
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).state, 'CONTAINER_RUNNING');
    await at.node.node.exit(id, 7);
    await until(() => at.mind.containers.get(id).state.phase === 'exited');
    const status = containerStatus(at.mind.containers.get(id));
    assert.deepEqual([status.exitCode, status.reason], [7, 'Error']);
    assert.isTrue(status.finishedAt >= status.startedAt && status.startedAt > 0n);
  });

  it('gives one id to identical creates', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    const ids = await Promise.all(
      Array.from({ length: 5 }, () => at.mind.containers.create(op(), pod, fakeContainer())),
    );
    assert.lengthOf(new Set(ids), 1);
  });

  it('leaves nothing behind when any step of a create fails', async () => {
    for (const step of ['create', 'mountSource'] as const) {
      const pod = await at.mind.pods.run(op(), fakePod(step), '');
      const before = at.node.leaks();
      at.node.node.failNext(step, boom());
      const mount = {
        containerPath: '/data',
        hostPath: '/srv',
        readonly: false,
        selinuxRelabel: false,
        propagation: 'PROPAGATION_PRIVATE',
        uidMappings: [],
        gidMappings: [],
        recursiveReadOnly: false,
        imageSubPath: '',
        mountOptions: [],
      } as const;
      await fails(at.mind.containers.create(op(), pod, fakeContainer('c', 0, { mounts: [mount] })));
      assert.deepEqual(at.node.leaks(), before, step);
      assert.lengthOf(at.mind.containers.list(), 0);
    }
  });

  it('asks for the AppArmor profile of a container before its runtime does', async () => {
    at.node.facts = { ...at.node.facts, apparmor: true };
    await at.restart();
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    const confined = (localhostRef: string): NamedContainerConfig =>
      fakeContainer(localhostRef, 0, {
        linux: { securityContext: { ...PLAIN, apparmor: { profileType: 'Localhost', localhostRef } } },
      });
    at.node.profiles.add('loaded');
    const error = await fails(at.mind.containers.create(op(), pod, confined('absent')));
    assert.match(`${error.code}: ${explain(error)}`, /^FailedPrecondition: .*profile absent is not loaded/);
    await at.mind.containers.create(op(), pod, confined('loaded'));
  });

  it(
    'asks whether the namespace may use its images, by the names that the pod gives them, and ' + 'heeds the answer',
    async () => {
      const pod = await at.mind.pods.run(
        op(),
        fakePod('web', 0, { metadata: { name: 'web', uid: 'u', namespace: 'prod', attempt: 0 } }),
        '',
      );
      await at.mind.containers.create(
        op(),
        pod,
        fakeContainer('a', 0, { image: image('reg/app:1'), mounts: [volume] }),
      );
      assert.deepEqual(at.node.imageUses, [`${fakeImage.id} reg/app:1 prod`, `${fakeImage.id} reg/data:2 prod`]);
      const before = at.node.leaks();
      at.node.node.failNext(
        'checkUse',
        new RuntimeError('FailedPrecondition', 'not signed', { reason: 'SignatureValidationFailed' }),
      );
      assert.strictEqual(
        (await fails(at.mind.containers.create(op(), pod, fakeContainer('b')))).reason,
        'SignatureValidationFailed',
      );
      assert.deepEqual(at.node.leaks(), before);
    },
  );

  it('asks whether an image is whole that cannot be mounted, as a root or as a volume', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    const gone = new RuntimeError('NotFound', 'a layer is gone; pull it again');
    const broken = new RuntimeError('Internal', 'no such file or directory');
    for (const [step, mounts] of [
      ['mount', []],
      ['mountVolume', [volume]],
    ] as const) {
      for (let i = 0; i < 2; i++) at.node.node.failNext(step, broken);
      at.node.node.failNext('confirm', gone);
      at.node.confirmed.length = 0;
      const config = (name: string): NamedContainerConfig => fakeContainer(name, 0, { mounts });
      const first = await fails(at.mind.containers.create(op(), pod, config('a')));
      assert.deepEqual([first.code, /pull it again/.test(explain(first))], ['NotFound', true]);
      const second = await fails(at.mind.containers.create(op(), pod, config('a')));
      assert.deepEqual([second.code, /no such file/.test(explain(second))], ['Internal', true]);
      assert.deepEqual(at.node.confirmed, [fakeImage.id, fakeImage.id]);
    }
  });

  it('tells its image as it was asked for', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    for (const [name, userSpecifiedImage, imageName, imageRef] of [
      ['a', 'reg/app:1', 'reg/app:1', 'ref of reg/app:1'],
      ['b', '', `name of ${fakeImage.id}`, `ref of ${fakeImage.id}`],
    ] as const) {
      const image = { ...fakeContainer().image, userSpecifiedImage };
      const id = await at.mind.containers.create(op(), pod, fakeContainer(name, 0, { image }));
      const record = at.mind.containers.get(id);
      assert.deepEqual([record.imageName, record.imageRef], [imageName, imageRef]);
    }
  });

  it('tells an image volume by the id of its image, whatever it was asked for as', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    const [tag = ''] = fakeImage.repoTags;
    const asked = { ...volume, image: { ...volume.image, image: tag } };
    const id = await at.mind.containers.create(op(), pod, fakeContainer('a', 0, { mounts: [asked] }));
    const [mount] = containerStatus(at.mind.containers.get(id)).mounts;
    assert.deepEqual(
      [mount?.image?.image, mount?.image?.userSpecifiedImage, mount?.image?.imageRef],
      [fakeImage.id, 'reg/data:2', 'ref of reg/data:2'],
    );
  });

  it('is made from an image, and shows an artifact as a volume', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    const artifact = { ...image(''), image: fakeArtifact.id };
    const refused = await fails(at.mind.containers.create(op(), pod, fakeContainer('x', 0, { image: artifact })));
    assert.deepEqual(
      [refused.code, refused.message],
      [
        'FailedPrecondition',
        `"${fakeArtifact.id}" is an OCI artifact ("a/model"), and containers are made from images; ` +
          'mount it as an image volume',
      ],
    );
    const mounts = [{ ...volume, image: artifact }];
    const id = await at.mind.containers.create(op(), pod, fakeContainer('a', 0, { mounts }));
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).mounts[0]?.image?.image, fakeArtifact.id);
  });

  it('names what is missing: the image, the sandbox', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    const image = { ...fakeContainer().image, image: 'nowhere/none' };
    const error = await fails(at.mind.containers.create(op(), pod, fakeContainer('x', 0, { image })));
    assert.deepEqual([error.code, /pull it first/.test(error.message)], ['NotFound', true]);
    assert.strictEqual(
      codeOf(await fails(at.mind.containers.create(op(), 'f'.repeat(64) as never, fakeContainer()))),
      'NotFound',
    );
  });

  it('keeps the old resources when the runtime refuses new ones', async () => {
    const { id } = await at.running();
    const update = { ...sameResources, cpuShares: 512n };
    await at.mind.containers.update(op(), id, update);
    at.node.node.failNext('update', boom());
    await fails(at.mind.containers.update(op(), id, { ...update, cpuShares: 1024n }));
    assert.strictEqual(at.mind.containers.get(id).resources?.cpuShares, 512n);
  });

  it('runs commands in running containers only', async () => {
    const { id } = await at.running();
    const { stdout, exitCode } = await at.mind.execs.execSync(op(), id, ['echo', 'hi'], 0);
    assert.deepEqual([Buffer.from(stdout).toString(), exitCode], ['hi\n', 0]);
    await at.mind.containers.stop(op(), id, 0);
    assert.strictEqual((await fails(at.mind.execs.execSync(op(), id, ['true'], 0))).code, 'NotFound');
  });

  it('knows which images are in use', async () => {
    assert.isEmpty(at.mind.imageUsers(fakeImage.id));
    const { id } = await at.running();
    assert.deepEqual(at.mind.imageUsers(fakeImage.id), [id]);
  });

  it('are given up in the making when their pod is stopped: a create that hangs holds up no stop', async () => {
    for (const step of ['mount', 'create', 'checkUse'] as const) {
      const pod = await at.mind.pods.run(op(), fakePod(step), '');
      at.node.node.hangNext(step);
      const calls = at.node.node.calls.get(step) ?? 0;
      const created = fails(at.mind.containers.create(op(), pod, fakeContainer()));
      await until(() => (at.node.node.calls.get(step) ?? 0) > calls);
      await at.mind.pods.stop(op(), pod);
      assert.match(explain(await created), /is being stopped|cancelled/);
      assert.strictEqual(at.mind.pods.get(pod).state.phase, 'stopped');
      assert.lengthOf(at.mind.containers.list(), 0, step);
      assert.deepEqual(at.node.leaks(), [], step);
      await at.mind.pods.remove(op(), pod);
    }
  });
});
