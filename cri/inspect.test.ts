import { assert } from 'chai';
import { text } from 'node:stream/consumers';
import { Readable } from 'node:stream';
import { RuntimeError } from '../pkg/base/errors.ts';
import type { ContainerId, SandboxId } from '../pkg/base/ids.ts';
import { ground, op } from '../pkg/pod/fake-ground.ts';
import { refusal } from './fake-server.ts';
import { fakeContainer, fakeImage, fakePod } from '../pkg/pod/fake-world.ts';
import type { Page } from './http.ts';
import { inspectPages, type InspectOptions } from './inspect.ts';

/** What CRI-O 1.36 gives of each container, in its order (pkg/types). */
const KEYS = [
  ...['name', 'pid', 'image', 'image_ref', 'created_time', 'labels', 'annotations', 'crio_annotations', 'log_path'],
  ...['root', 'sandbox', 'ip_addresses', 'host_network'],
];

describe('cri/inspect', () => {
  const at = ground();
  const page = async (path: string, changes: Partial<InspectOptions> = {}): Promise<Page | undefined> =>
    await inspectPages({
      inspect: at.mind.inspect,
      rootfs: {
        rootOf: (id) => `/var/lib/berth/rootfs/${id}/merged`,
        podRoot: '/var/lib/berth/pods/merged',
        containerRoot: '/var/lib/berth',
        imageRoot: '/var/lib/berth',
      },
      cgroupManager: 'systemd',
      config: () => '[crio]\nroot = "/var/lib/berth"\n',
      operations: () => [],
      heap: () => Readable.from(['{}']),
      cpu: (ms) => Promise.resolve(`profile of ${ms} ms`),
      freeze: (what, id) => at.mind.containers[what](op(), id),
      ...changes,
    })(path, new AbortController().signal, new URLSearchParams());
  const json = async (path: string, changes?: Partial<InspectOptions>): Promise<Record<string, unknown>> => {
    const found = await page(path, changes);
    assert.equal(found?.type, 'application/json');
    return JSON.parse(found?.body as string) as Record<string, unknown>;
  };
  const pidOf = (id: ContainerId | SandboxId): number | undefined =>
    at.node.node.containers.get(id as ContainerId)?.process.ref.pid;

  it('/info says where cAdvisor finds the file systems of images and containers', async () => {
    const everybody = [{ container_id: 0, host_id: 0, size: 4_294_967_295 }];
    assert.deepEqual(await json('/info'), {
      storage_driver: 'overlay',
      storage_image: '',
      storage_root: '/var/lib/berth',
      cgroup_driver: 'systemd',
      default_id_mappings: { uids: everybody, gids: everybody },
    });
    const split = { rootOf: () => '', podRoot: '', containerRoot: '/c', imageRoot: '/i' };
    assert.include(await json('/info', { rootfs: split }), { storage_image: '/i', storage_root: '/c' });
  });

  it('/containers/<id> has what CRI-O’s has of a container', async () => {
    const pod = await at.mind.pods.run(op(), fakePod('web', 3), '');
    const config = fakeContainer('app', 2, { labels: { 'io.kubernetes.container.name': 'app' } });
    const id = await at.mind.containers.create(op(), pod, config);
    const { created_time, log_path, ...shown } = await json(`/containers/${id}`);
    assert.deepEqual(shown, {
      name: 'k8s_app_web_default_uid-web_2',
      pid: pidOf(id),
      image: at.mind.containers.get(id).imageName,
      image_ref: fakeImage.id.slice('sha256:'.length),
      labels: { 'io.kubernetes.container.name': 'app' },
      annotations: {},
      crio_annotations: {},
      root: `/var/lib/berth/rootfs/${id}/merged`,
      sandbox: pod,
      ip_addresses: at.mind.pods.get(pod).ips,
      host_network: false,
    });
    assert.equal(log_path, at.mind.containers.get(id).logPath);
    assert.isNumber(created_time);
    assert.closeTo(created_time as number, Number(at.mind.containers.get(id).createdAt), 1_000);
    assert.sameMembers(Object.keys(await json(`/containers/${id}`)), KEYS);
    assert.deepEqual(await json(`/containers/${id.slice(0, 13)}`), await json(`/containers/${id}`));
  });

  it('/containers/<id> has a pod as the container that counts its network, by a process of any in it', async () => {
    const pod = await at.mind.pods.run(op(), fakePod('web', 1), '');
    const before = await json(`/containers/${pod}`);
    assert.sameMembers(Object.keys(before), KEYS);
    assert.include(before, {
      name: 'k8s_POD_web_default_uid-web_1',
      pid: 0,
      image: '',
      root: '/var/lib/berth/pods/merged',
    });
    assert.deepEqual(before['labels'], { app: 'web', 'io.kubernetes.container.name': 'POD' });
    const id = await at.mind.containers.create(op(), pod, fakeContainer());
    assert.equal((await json(`/containers/${pod}`))['pid'], pidOf(id));
    await at.mind.containers.start(op(), id);
    await at.mind.containers.stop(op(), id, 0);
    const next = await at.mind.containers.create(op(), pod, fakeContainer('app', 1));
    assert.equal((await json(`/containers/${pod}`))['pid'], pidOf(next));
  });

  it('/containers/<id> has the infra process where there is one', async () => {
    const config = fakePod();
    const namespaceOptions = {
      network: 'NODE',
      pid: 'POD',
      ipc: 'POD',
      targetId: '',
      usernsOptions: undefined,
    } as const;
    const securityContext = { ...config.linux?.securityContext, namespaceOptions };
    const linux = { ...config.linux, securityContext } as typeof config.linux;
    const pod = await at.mind.pods.run(op(), { ...config, linux }, '');
    assert.include(await json(`/containers/${pod}`), { pid: pidOf(pod), host_network: true });
  });

  it('refuses ids that nobody has in the words of CRI-O, whatever they look like', async () => {
    for (const id of ['f'.repeat(64), 'x', '..', '%2e%2e', 'f'.repeat(65), '"quoted"']) {
      const error = await page(`/containers/${id}`).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      assert.instanceOf(error, RuntimeError);
      assert.equal((error as RuntimeError).code, 'NotFound');
      assert.match((error as RuntimeError).message, /^can't find the container with id /);
    }
    for (const path of ['/containers', '/containers/', '/containers/a/b', '/', '', '/toString', 'info', '/info/'])
      assert.isUndefined(await page(path), path);
  });

  it('shows the configuration, what is under way, and the heap', async () => {
    assert.deepEqual(await page('/config'), { type: 'application/toml', body: '[crio]\nroot = "/var/lib/berth"\n' });
    const operation = { what: 'RunPodSandbox' } as unknown as ReturnType<InspectOptions['operations']>[number];
    assert.match((await page('/debug/goroutines', { operations: () => [operation] }))?.body as string, /RunPodSandbox/);
    const heap = await page('/debug/heap');
    assert.equal(heap?.type, 'application/octet-stream');
    assert.equal(await text(heap?.body as Readable), '{}');
    assert.equal((await page('/debug/cpu/3'))?.body, 'profile of 3000 ms');
    for (const seconds of ['0', '46', '1e1', '-1', '9999', 'x'])
      assert.equal((await refusal(page(`/debug/cpu/${seconds}`))).code, 'InvalidArgument', seconds);
  });

  describe('/pause/<id> and /unpause/<id>', () => {
    const refused = async (path: string): Promise<string> => {
      const { code, message } = await refusal(page(path));
      return `${code}: ${message}`;
    };

    it('answer as CRI-O does, by the state of the container', async () => {
      const { pod, id } = await at.running();
      const ok: Page = { type: 'text/html', body: '200 OK' };
      assert.equal(
        await refused(`/unpause/${id}`),
        'FailedPrecondition: container is not in paused state, now is running',
      );
      assert.deepEqual(await page(`/pause/${id}`), ok);
      assert.equal(at.node.node.containers.get(id)?.state, 'paused');
      assert.equal(
        await refused(`/pause/${id}`),
        'FailedPrecondition: container is not in running or created state, now is paused',
      );
      assert.deepEqual(await page(`/unpause/${id}`), ok);
      assert.equal(at.node.node.containers.get(id)?.state, 'running');
      await at.mind.containers.stop(op(), id, 0);
      assert.equal(
        await refused(`/pause/${id}`),
        'FailedPrecondition: container is not in running or created state, now is stopped',
      );
      for (const path of [`/pause/${pod}`, `/unpause/${pod}`, `/pause/${'0'.repeat(64)}`, '/pause/x'])
        assert.match(await refused(path), /^NotFound: can't find the container with id /);
    });

    it('do not keep a container from being stopped', async () => {
      const { id } = await at.running();
      await page(`/pause/${id}`);
      await at.mind.containers.stop(op(), id, 10_000);
      assert.equal(at.node.node.calls.get('resume'), 1);
      assert.equal(at.mind.containers.get(id).state.phase, 'exited');
    });
  });
});
