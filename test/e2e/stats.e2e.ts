/** Statistics, metrics, events and streamed lists, from containers that really use what they are measured for. */
import { assert } from 'chai';
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import type { Client } from '../../cri/client.ts';
import type { ContainerEventResponse, Metric, Operation } from '../../pkg/cri-api/types.ts';
import { type CriClient, CriError, type Pod, podConfig, waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';
import { cgroupFile, containerCgroup, V2 } from './node-cgroups.ts';

const HAS_PRESSURE = existsSync('/proc/pressure');
const MIB = 1_048_576n;

describe('statistics', function () {
  this.timeout(120_000);
  let node: TestNode;
  let cri: CriClient;
  let rpc: Client;
  before(async () => {
    node = await TestNode.boot();
    ({ cri } = node);
    ({ rpc } = cri);
  });
  after(() => node.close());
  afterEach(() => node.clear());

  const run = (pod: Pod, script: string, more = {}): Promise<string> =>
    cri.runContainer(pod, IMAGE, { command: ['sh', '-c', script], ...more });
  const statsOf = async (containerId: string) => (await rpc.containerStats({ containerId })).stats;
  async function fails(work: Promise<unknown>): Promise<string> {
    const error = await work.then(
      () => undefined,
      (cause: unknown) => cause,
    );
    return error instanceof CriError ? error.codeName : `it did not fail as it should: ${String(error)}`;
  }

  describe('of containers', () => {
    it('show a processor in use, and its quota at work', async () => {
      const pod = await cri.runPod();
      const id = await run(pod, 'while :; do :; done', {
        linux: { resources: { cpuPeriod: 100_000n, cpuQuota: 20_000n } },
      });
      const idle = await run(pod, 'sleep 1000');
      const first = await statsOf(id);
      const used = (stats: typeof first): bigint => stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n;
      const later = await waitFor(
        () => statsOf(id),
        (stats) => used(stats) > used(first) + 300_000_000n,
        'the burner to burn',
      );
      assert.isTrue((later?.cpu?.timestamp ?? 0n) > (first?.cpu?.timestamp ?? 0n));
      const nanoCores = later?.cpu?.usageNanoCores?.value ?? 0n;
      // A fifth of a processor at the most, but for the rounding of periods; how much less depends on who else is here.
      assert.isTrue(nanoCores > 0n && nanoCores < 400_000_000n, `${nanoCores}`);
      assert.isTrue(used(await statsOf(idle)) < used(later));
      const metrics = await metricsOf(pod.id, id);
      assert.isTrue(value(metrics, 'container_cpu_cfs_throttled_periods_total') > 0n);
    });

    it('count memory in use, and leave out pages of files that nobody uses', async () => {
      const pod = await cri.runPod();
      const id = await run(
        pod,
        'busybox dd if=/dev/zero of=/dev/shm/held bs=1M count=20; busybox dd if=/dev/zero of=/file ' +
          'bs=1M count=30; busybox sync; echo > /done; sleep 1000',
        { linux: { resources: { memoryLimitInBytes: 128n * MIB } } },
      );
      await waitFor(
        () => cri.exec(id, ['sh', '-c', 'test -e /done']),
        (result) => result.exitCode === 0,
        'the writer',
      );
      const memory = (await statsOf(id))?.memory;
      const [workingSet = 0n, usage = 0n, available = 0n] = [
        memory?.workingSetBytes?.value,
        memory?.usageBytes?.value,
        memory?.availableBytes?.value,
      ];
      assert.isTrue(workingSet >= 20n * MIB && usage >= 50n * MIB, `usage ${usage}, working set ${workingSet}`);
      const stat = cgroupFile(containerCgroup(node.driver, pod.id, id), 'memory', 'memory.stat');
      const unused = BigInt((V2 ? /^inactive_file (\d+)$/m : /^total_inactive_file (\d+)$/m).exec(stat)?.[1] ?? '-1');
      const off = usage - unused - workingSet;
      assert.isTrue(off < MIB && off > -MIB, `usage ${usage}, unused ${unused}, working set ${workingSet}`);
      // Which pages those are is the kernel's to say; the machine's, of cgroup v2, finds none among young ones.
      if (!V2) assert.isTrue(unused >= 10n * MIB, `unused ${unused}`);
      assert.equal(available + workingSet, 128n * MIB);
      assert.isTrue((memory?.pageFaults?.value ?? 0n) > 0n);
    });

    it('measure the writable layer, inodes too', async () => {
      const pod = await cri.runPod();
      const small = await run(pod, 'sleep 1000');
      const id = await cri.createContainer(pod, IMAGE, {
        command: [
          'sh',
          '-c',
          'busybox dd if=/dev/urandom of=/file bs=1M count=3; for i in 1 2 3 4 5 6 7; do echo > /f$i; ' +
            'done; echo > /done; sleep 1000',
        ],
      });
      await rpc.startContainer({ containerId: id });
      await waitFor(
        () => cri.exec(id, ['sh', '-c', 'test -e /done']),
        (result) => result.exitCode === 0,
        'the writer',
      );
      const { stats } = await rpc.listContainerStats();
      const layer = (containerId: string) => stats.find((each) => each.attributes?.id === containerId)?.writableLayer;
      assert.isTrue((layer(id)?.usedBytes?.value ?? 0n) >= 3n * MIB);
      assert.isTrue((layer(id)?.inodesUsed?.value ?? 0n) >= (layer(small)?.inodesUsed?.value ?? 0n) + 8n);
      const image = (await rpc.imageFsInfo()).imageFilesystems[0];
      assert.equal(layer(id)?.fsId?.mountpoint, image?.fsId?.mountpoint);
      assert.isTrue((layer(id)?.timestamp ?? 0n) > 0n);
      await cri.exec(id, ['busybox', 'dd', 'if=/dev/urandom', 'of=/more', 'bs=1M', 'count=4']);
      const { stats: now } = await rpc.containerStats({ containerId: id });
      assert.isTrue((now?.writableLayer?.usedBytes?.value ?? 0n) >= 7n * MIB, 'who asks for one has it as it is');
    });

    it('tell of pressure, where the kernel does', async () => {
      const pod = await cri.runPod();
      const stats = await statsOf(await run(pod, 'sleep 1000'));
      const told = [stats?.cpu?.psi?.some, stats?.memory?.psi?.full, stats?.io?.psi?.some];
      assert.deepEqual(
        told.map((each) => each !== undefined),
        told.map(() => HAS_PRESSURE),
      );
    });

    it('count a child that was killed for lack of memory, and end as OOMKilled when it was the container', async () => {
      const pod = await cri.runPod();
      const resources = { memoryLimitInBytes: 32n * MIB, memorySwapLimitInBytes: 32n * MIB };
      const parent = await run(pod, 'busybox tail /dev/zero; sleep 1000', { linux: { resources } });
      await waitFor(
        () => metricsOf(pod.id, parent),
        (found) => value(found, 'container_oom_events_total') > 0n,
        'the kernel to kill',
      );
      assert.equal((await cri.container(parent)).state, 'CONTAINER_RUNNING');
      const own = await cri.runContainer(pod, IMAGE, {
        command: ['busybox', 'tail', '/dev/zero'],
        linux: { resources },
      });
      const ended = await cri.waitForContainer(own, 'CONTAINER_EXITED');
      assert.deepEqual([ended.reason, ended.exitCode], ['OOMKilled', 137]);
    });

    it('are there for those that run, filtered, and say not found for others', async () => {
      const [one, two] = [await cri.runPod(), await cri.runPod()];
      const [a, b, c] = [
        await run(one, 'sleep 1000', { labels: { x: 'a', y: '1' } }),
        await run(one, 'sleep 1000', { labels: { x: 'b' } }),
        await run(two, 'sleep 1000', { labels: { x: 'a' } }),
      ];
      const ended = await run(two, 'true');
      await cri.waitForContainer(ended, 'CONTAINER_EXITED');
      const list = async (filter: object): Promise<string[]> =>
        (await rpc.listContainerStats({ filter })).stats.map((each) => each.attributes?.id ?? '').sort();
      assert.deepEqual(await list({}), [a, b, c].sort());
      assert.deepEqual(await list({ podSandboxId: one.id }), [a, b].sort());
      assert.deepEqual(await list({ labelSelector: { x: 'a' } }), [a, c].sort());
      assert.deepEqual(await list({ labelSelector: { x: 'a', y: '1' } }), [a]);
      assert.deepEqual(await list({ id: b.slice(0, 13) }), [b]);
      assert.deepEqual(await list({ id: b, podSandboxId: two.id }), []);
      assert.deepEqual(await list({ id: 'f'.repeat(64) }), []);
      assert.equal(await fails(statsOf('f'.repeat(64))), 'NotFound');
      // One that has ended has no cgroup, but what it wrote is still there.
      const rest = await statsOf(ended);
      assert.deepEqual([rest?.attributes?.id, rest?.cpu, rest?.memory], [ended, undefined, undefined]);
      assert.isDefined(rest?.writableLayer);
      assert.equal((await statsOf(a.slice(0, 10)))?.attributes?.id, a);
    });

    it('do not fail for one that vanishes meanwhile', async () => {
      const pod = await cri.runPod();
      const stays = await run(pod, 'sleep 1000');
      let over = false;
      const churn = (async () => {
        for (let i = 0; i < 6; i++) {
          const id = await run(pod, 'sleep 1000');
          await rpc.removeContainer({ containerId: id });
        }
        over = true;
      })();
      let lists = 0;
      for (; !over; lists++) {
        const [{ stats }, pods, { podMetrics }] = await Promise.all([
          rpc.listContainerStats(),
          rpc.listPodSandboxStats(),
          rpc.listPodSandboxMetrics(),
        ]);
        assert.include(
          stats.map((each) => each.attributes?.id),
          stays,
        );
        assert.lengthOf(pods.stats, 1);
        assert.include(podMetrics[0]?.containerMetrics.map((each) => each.containerId) ?? [], stays);
      }
      await churn;
      assert.isAbove(lists, 0);
    });
  });

  describe('of pods', () => {
    it('have the network of the pod, its processes and its containers', async () => {
      const pod = await cri.runPod();
      const id = await run(pod, 'sleep 1000 & while :; do busybox dd if=/dev/zero bs=1000 count=5 | nc -l -p 80; done');
      const sent = async (): Promise<bigint> =>
        (await rpc.podSandboxStats({ podSandboxId: pod.id })).stats?.linux?.network?.defaultInterface?.txBytes?.value ??
        0n;
      const before = await sent();
      const ip = (await cri.pod(pod.id)).network?.ip ?? '';
      await waitFor(
        () => bytesFrom(ip, 80),
        (count) => count === 5_000,
        'the pod to send',
      );
      assert.isTrue((await sent()) >= before + 5_000n);
      const { stats } = await rpc.podSandboxStats({ podSandboxId: pod.id });
      assert.equal(stats?.linux?.network?.defaultInterface?.name, 'eth0');
      assert.isTrue((stats?.linux?.process?.processCount?.value ?? 0n) >= 2n);
      assert.deepEqual(
        stats?.linux?.containers.map((each) => each.attributes?.id),
        [id],
      );
      assert.isTrue(
        (stats?.linux?.memory?.workingSetBytes?.value ?? 0n) >=
          (stats?.linux?.containers[0]?.memory?.workingSetBytes?.value ?? 1n) / 2n,
      );
      assert.equal(stats?.attributes?.metadata?.name, pod.config.metadata?.name);
    });

    it('have a network without any process, and none of their own on the network of the host', async () => {
      const [empty, host] = [
        await cri.runPod(),
        await cri.runPod({
          linux: { securityContext: { namespaceOptions: { network: 'NODE', pid: 'CONTAINER', ipc: 'POD' } } },
        }),
      ];
      const { stats } = await rpc.listPodSandboxStats();
      const network = (pod: Pod) => stats.find((each) => each.attributes?.id === pod.id)?.linux?.network;
      assert.equal(network(empty)?.defaultInterface?.name, 'eth0');
      assert.isUndefined(network(host));
    });

    it('let go of the network of a pod that stops', async () => {
      const pod = await cri.runPod();
      await run(pod, 'sleep 1000');
      const open = (): number =>
        readdirSync(`/proc/${node.pid}/fd`).filter((fd) => linkOf(`/proc/${node.pid}/fd/${fd}`).includes('/net/dev'))
          .length;
      await Promise.all([
        rpc.listPodSandboxStats(),
        rpc.listPodSandboxStats(),
        rpc.podSandboxStats({ podSandboxId: pod.id }),
      ]);
      assert.equal(open(), 1, 'it is kept open to be read again');
      await rpc.stopPodSandbox({ podSandboxId: pod.id });
      assert.equal(open(), 0, 'an open file would keep the namespace alive');
    });

    it('are there for those that are ready, filtered', async () => {
      const [one, two] = [await cri.runPod({ labels: { app: 'a' } }), await cri.runPod({ labels: { app: 'b' } })];
      const list = async (filter: object): Promise<string[]> =>
        (await rpc.listPodSandboxStats({ filter })).stats.map((each) => each.attributes?.id ?? '').sort();
      assert.deepEqual(await list({}), [one.id, two.id].sort());
      assert.deepEqual(await list({ labelSelector: { app: 'b' } }), [two.id]);
      assert.deepEqual(await list({ id: one.id.slice(0, 8) }), [one.id]);
      await rpc.stopPodSandbox({ podSandboxId: two.id });
      assert.deepEqual(await list({}), [one.id]);
      assert.equal(await fails(rpc.podSandboxStats({ podSandboxId: 'f'.repeat(64) })), 'NotFound');
    });
  });

  describe('as metrics', () => {
    it('have a value of each of the 56 that this kernel tells, with the labels described', async () => {
      const pod = await cri.runPod();
      const resources = {
        cpuPeriod: 100_000n,
        cpuQuota: 20_000n,
        cpuShares: 1_024n,
        memoryLimitInBytes: 64n * MIB,
        memorySwapLimitInBytes: 64n * MIB,
      };
      const id = await run(pod, 'exec 3</etc/passwd; nc -l -p 1000 & while :; do sleep 0.1; done', {
        linux: { resources },
      });
      const { descriptors } = await rpc.listMetricDescriptors();
      assert.lengthOf(descriptors, 56);
      const metrics = await waitFor(
        () => metricsOf(pod.id, id),
        (found) => value(found, 'container_sockets') > 0n,
        'the listening socket',
      );
      const keys = new Map(descriptors.map((each) => [each.name, each.labelKeys]));
      for (const each of metrics) assert.equal(each.labelValues.length, keys.get(each.name)?.length, each.name);
      const silent = descriptors.map((each) => each.name).filter((name) => !metrics.some((each) => each.name === name));
      assert.deepEqual(
        silent.filter(
          (name) => !/_fs_(reads|writes)|blkio|hugetlb/.test(name) && (HAS_PRESSURE || !/pressure/.test(name)),
        ),
        [] as string[],
      );
      assert.isTrue(value(metrics, 'container_file_descriptors') > 3n);
      assert.isTrue(value(metrics, 'container_processes') >= 2n);
      assert.equal(value(metrics, 'container_spec_memory_limit_bytes'), 64n * MIB);
      const labels = Object.fromEntries(
        (keys.get('container_memory_rss') ?? []).map((key, index) => [
          key,
          metrics.find((each) => each.name === 'container_memory_rss')?.labelValues[index],
        ]),
      );
      assert.include(labels, { name: id, namespace: 'default', pod: pod.config.metadata?.name, image: IMAGE });
    });
  });

  describe('as streams', () => {
    it('are the lists, every item once', async () => {
      const pods = [await cri.runPod(), await cri.runPod()];
      for (const pod of pods) await run(pod, 'sleep 1000');
      const ids = async <M>(stream: AsyncIterable<M>, idsIn: (message: M) => readonly string[]): Promise<string[]> => {
        const found: string[] = [];
        for await (const message of stream) {
          const some = idsIn(message);
          assert.isNotEmpty(some);
          found.push(...some);
        }
        return found.sort();
      };
      const podIds = pods.map((pod) => pod.id).sort();
      const containerIds = (await rpc.listContainers()).containers.map((each) => each.id).sort();
      assert.deepEqual(await ids(rpc.streamPodSandboxes(), (each) => each.podSandboxes.map(({ id }) => id)), podIds);
      assert.deepEqual(await ids(rpc.streamContainers(), (each) => each.containers.map(({ id }) => id)), containerIds);
      assert.deepEqual(
        await ids(rpc.streamContainerStats(), (each) =>
          each.containerStats.map(({ attributes }) => attributes?.id ?? ''),
        ),
        containerIds,
      );
      assert.deepEqual(
        await ids(rpc.streamPodSandboxStats(), (each) =>
          each.podSandboxStats.map(({ attributes }) => attributes?.id ?? ''),
        ),
        podIds,
      );
      assert.deepEqual(
        await ids(rpc.streamPodSandboxMetrics(), (each) =>
          each.podSandboxMetrics.map(({ podSandboxId }) => podSandboxId),
        ),
        podIds,
      );
      assert.deepEqual(
        await ids(rpc.streamImages(), (each) => each.images.map(({ id }) => id)),
        (await rpc.listImages()).images.map((each) => each.id).sort(),
      );
      assert.deepEqual(
        await ids(rpc.streamContainers({ filter: { podSandboxId: pods[0]?.id } }), (each) =>
          each.containers.map(({ podSandboxId }) => podSandboxId),
        ),
        [pods[0]?.id],
      );
      assert.deepEqual(await ids(rpc.streamContainers({ filter: { id: 'f'.repeat(64) } }), () => ['never']), []);
    });
  });

  describe('events', () => {
    it('tell a life to every subscriber, and to one who comes back what is there', async () => {
      const abort = new AbortController();
      const told: ContainerEventResponse[][] = [[], []];
      const reading = told.map(async (list) => {
        for await (const event of rpc.getContainerEvents({}, { signal: abort.signal })) list.push(event);
      });
      for (const each of reading) each.catch(() => {});
      const pod = await cri.runPod();
      const id = await run(pod, 'exit 7');
      await cri.waitForContainer(id, 'CONTAINER_EXITED');
      await rpc.removeContainer({ containerId: id });
      await cri.removePod(pod.id);
      const short = (event: ContainerEventResponse): string =>
        `${event.containerEventType.slice(10, -6)} ${event.containerId === pod.id ? 'pod' : 'container'}`;
      for (const list of told) {
        await waitFor(
          () => list.length,
          (length) => length >= 8,
          'eight events',
        );
        assert.deepEqual(list.map(short), [
          'CREATED pod',
          'STARTED pod',
          'CREATED container',
          'STARTED container',
          'STOPPED container',
          'DELETED container',
          'STOPPED pod',
          'DELETED pod',
        ]);
        const stopped = list[4];
        assert.deepEqual(
          stopped?.containersStatuses.map((each) => [each.state, each.exitCode]),
          [['CONTAINER_EXITED', 7]],
        );
        assert.equal(stopped?.podSandboxStatus?.metadata?.uid, pod.config.metadata?.uid);
        assert.equal(list[7]?.podSandboxStatus?.state, 'SANDBOX_NOTREADY');
      }
      abort.abort();
      const other = await cri.runPod();
      const again = rpc.getContainerEvents()[Symbol.asyncIterator]();
      const { value: first } = (await again.next()) as IteratorResult<ContainerEventResponse, undefined>;
      assert.deepEqual([first?.containerId, first?.containerEventType], [other.id, 'CONTAINER_STARTED_EVENT']);
      await again.return?.();
    });
  });

  describe('what is under way', () => {
    it('is in the verbose status of the node and of the pod, with its stage', async () => {
      const pod = await cri.runPod();
      const id = await run(pod, 'trap "" TERM; while :; do sleep 0.1; done');
      const stopping = rpc.stopContainer({ containerId: id, timeout: 30n });
      const underWay = async (): Promise<Operation[]> =>
        JSON.parse(
          (await rpc.podSandboxStatus({ podSandboxId: pod.id, verbose: true })).info['operations'] ?? '[]',
        ) as Operation[];
      const [stop] = await waitFor(
        underWay,
        (found) => found.some((each) => each.rpc === 'StopContainer' && each.stage !== ''),
        'the stop to be seen',
      );
      assert.equal(stop?.ids['container'], id);
      const { info } = await rpc.status({ verbose: true });
      assert.include(
        (JSON.parse(info['operations'] ?? '[]') as Operation[]).map((each) => each.rpc),
        'StopContainer',
      );
      assert.equal(
        (JSON.parse(info['config'] ?? '{}') as { readonly storage: { readonly root: string } }).storage.root,
        `${node.dir}/root`,
      );
      assert.deepEqual(JSON.parse(info['pulls'] ?? ''), []);
      // A shorter grace ends the wait.
      await Promise.all([rpc.stopContainer({ containerId: id, timeout: 0n }), stopping]);
      const other = await cri.runPod();
      const quiet = JSON.parse(
        (await rpc.podSandboxStatus({ podSandboxId: other.id, verbose: true })).info['operations'] ?? '',
      ) as Operation[];
      assert.deepEqual(
        quiet.filter((each) => each.rpc !== 'PodSandboxStatus'),
        [],
      );
    });
  });

  async function metricsOf(podId: string, containerId: string): Promise<Metric[]> {
    const { podMetrics } = await rpc.listPodSandboxMetrics();
    const pod = podMetrics.find((each) => each.podSandboxId === podId);
    return [
      ...(pod?.metrics ?? []),
      ...(pod?.containerMetrics.find((each) => each.containerId === containerId)?.metrics ?? []),
    ];
  }
});

/** What a port sends until it hangs up; 0 if nobody listens. */
function bytesFrom(host: string, port: number): Promise<number> {
  return new Promise((resolve) => {
    let count = 0;
    const socket = connectTcp(port, host);
    socket
      .on('data', (chunk) => (count += chunk.length))
      .on('error', () => resolve(0))
      .on('close', () => resolve(count));
  });
}

function value(metrics: readonly Metric[], name: string): bigint {
  return metrics.find((each) => each.name === name)?.value?.value ?? 0n;
}

/** '' for what is gone. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
describe('statistics kept for a period', function () {
  this.timeout(60_000);

  it('are not read again within it', async () => {
    const node = await TestNode.boot({ flags: ['--collection-period', '3600'] });
    const pod = await node.cri.runPod(podConfig());
    const containerId = await node.cri.runContainer(pod, IMAGE, { command: ['sh', '-c', 'while :; do :; done'] });
    const at = async (): Promise<bigint | undefined> =>
      (await node.cri.rpc.containerStats({ containerId })).stats?.cpu?.timestamp;
    const first = await at();
    assert.isDefined(first);
    assert.equal(await at(), first);
    await node.close();
  });
});
