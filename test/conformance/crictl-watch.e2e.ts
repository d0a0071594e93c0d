/** What crictl shows of what is going on: stats, metrics and events. */
import { assert } from 'chai';
import { waitFor } from '../e2e/cri-client.ts';
import { CrictlNode, get, list } from './crictl.ts';

describe('crictl as a watch', function () {
  this.timeout(120_000);
  let node: CrictlNode;
  before(async () => (node = await CrictlNode.boot()));
  after(() => node.close());

  it('stats and statsp: tell what a busy container and its pod use', async () => {
    const { pod, id } = await node.started('busy', [
      'sh',
      '-c',
      'head -c 100000 /dev/zero > /file; while :; do :; done',
    ]);
    const quiet = await node.started('quiet', ['sleep', '1000']);
    const table = node.type('stats');
    assert.strictEqual(await table.end(), 0, table.out);
    const [head = '', ...rows] = table.out.trimEnd().split('\r\n');
    assert.match(head.slice(head.indexOf('CONTAINER')), /^CONTAINER +NAME +CPU % +MEM +DISK +INODES +SWAP$/);
    const row = (id: string): string[] =>
      rows
        .find((each) => each.startsWith(id.slice(0, 13)))
        ?.trim()
        .split(/ {2,}/) ?? [];
    const [, name, cpu, memory, disk, inodes] = row(id);
    assert.strictEqual(name, 'busy');
    assert.isTrue(Number(cpu) > 1 && Number(cpu) < 110, `${cpu} % of a processor, by one thread`);
    assert.isBelow(Number(row(quiet.id)[2]), 1, 'percent of a container that sleeps');
    assert.match(memory ?? '', /^[\d.]+[kM]?B$/);
    assert.match(disk ?? '', /^1\d\d(\.\d+)?kB$/, 'a file of 100 kB');
    assert.isAtLeast(Number(inodes), 1);

    const [stats] = list(get(await node.json('stats', '--output', 'json', id), 'stats'));
    assert.deepEqual([get(stats, 'attributes', 'id'), get(stats, 'attributes', 'metadata', 'name')], [id, 'busy']);
    const known = (...path: string[]): number => Number(get(stats, ...path, 'value'));
    assert.isAbove(known('cpu', 'usageCoreNanoSeconds'), 0);
    assert.isTrue(known('memory', 'workingSetBytes') > 10_000 && known('memory', 'workingSetBytes') < 50_000_000);
    assert.isAbove(known('writableLayer', 'usedBytes'), 99_999);

    const pods = node.type('statsp', '--id', pod);
    assert.strictEqual(await pods.end(), 0, pods.out);
    assert.match(pods.out, new RegExp(`POD +POD ID +CPU % +MEM\\s+busy +${pod.slice(0, 13)} +[\\d.]+ +[\\d.]+[kM]?B`));
    const [podStats, ...more] = list(get(await node.json('statsp', '--output', 'json', pod), 'stats'));
    assert.deepEqual([get(podStats, 'attributes', 'id'), more], [pod, []]);
    assert.deepEqual(
      list(get(podStats, 'linux', 'containers')).map((each) => get(each, 'attributes', 'id')),
      [id],
    );
    assert.strictEqual(get(podStats, 'linux', 'network', 'defaultInterface', 'name'), 'eth0');
    assert.isAtLeast(Number(get(podStats, 'linux', 'process', 'processCount', 'value')), 1);

    const watching = node.type('stats', '--watch', '--seconds', '1', id);
    await watching.says(new RegExp(`${id.slice(0, 13)}[^]*${id.slice(0, 13)}`));
    watching.write('\x03');
    assert.strictEqual(await watching.end(), 0);
  });

  it('metricsp: has numbers of each running pod and container', async () => {
    const { pod, id } = await node.started('metrics', ['sh', '-c', 'while :; do :; done']);
    const look = async (): Promise<{ readonly ofPod: unknown; readonly ofContainer: unknown }> => {
      const printed = node.type('metricsp');
      assert.strictEqual(await printed.end(), 0, printed.out);
      const own = list(get(JSON.parse(printed.out) as unknown, 'podMetrics')).find(
        (each) => get(each, 'podSandboxId') === pod,
      );
      const containers = list(get(own, 'containerMetrics'));
      assert.deepEqual(
        containers.map((each) => get(each, 'containerId')),
        [id],
      );
      return { ofPod: get(own, 'metrics'), ofContainer: get(containers[0], 'metrics') };
    };
    const values = (metrics: unknown, name: string): number[] =>
      list(metrics)
        .filter((each) => get(each, 'name') === name)
        .map((each) => Number(get(each, 'value', 'value')));
    // Whole seconds, which is all that the messages of CRI can say.
    const { ofPod, ofContainer } = await waitFor(
      look,
      (found) => (values(found.ofContainer, 'container_cpu_usage_seconds_total')[0] ?? 0) >= 1,
      'a second on a processor',
    );
    assert.isAbove(values(ofContainer, 'container_memory_working_set_bytes')[0] ?? 0, 10_000);
    assert.isAbove(values(ofPod, 'container_network_receive_packets_total').length, 0);
  });

  it('events: tells the whole life of a pod and its container, until Ctrl-C', async () => {
    const template = node.type(
      'events',
      '--output',
      'go-template',
      '--template',
      '{{.containerEventType}} {{.containerId}} {{.podSandboxStatus.state}}',
    );
    const whole = node.type('events');
    const { pod, id } = await node.started('events', ['sh', '-c', 'exit 3']);
    await waitFor(
      () => node.json('inspect', id),
      (found) => get(found, 'status', 'state') === 'CONTAINER_EXITED',
      'the end of the container',
    );
    await node.crictl('rm', id);
    await node.crictl('stopp', pod);
    await node.crictl('rmp', pod);
    await template.says(new RegExp(`CONTAINER_DELETED_EVENT ${pod}`));
    // protojson puts one blank or two after a colon, by a digest of the binary that it is in.
    const [type, of] = [/"containerEventType": +"CONTAINER_DELETED_EVENT"/, new RegExp(`"containerId": +"${pod}"`)];
    await whole.says(new RegExp(`${type.source},\\s+[^{}]*${of.source}|${of.source},\\s+${type.source}`));
    for (const each of [template, whole]) {
      each.write('\x03');
      await each.end();
    }
    const told = (of: string): string[] =>
      template.out
        .split('\r\n')
        .filter((line) => line.includes(of))
        .map((line) =>
          line
            .split(' ')
            .filter((word) => word !== of)
            .join(' '),
        );
    assert.deepEqual(told(id), [
      'CONTAINER_CREATED_EVENT SANDBOX_READY',
      'CONTAINER_STARTED_EVENT SANDBOX_READY',
      'CONTAINER_STOPPED_EVENT SANDBOX_READY',
      'CONTAINER_DELETED_EVENT SANDBOX_READY',
    ]);
    assert.deepEqual(told(pod), [
      'CONTAINER_CREATED_EVENT SANDBOX_READY',
      'CONTAINER_STARTED_EVENT SANDBOX_READY',
      'CONTAINER_STOPPED_EVENT SANDBOX_NOTREADY',
      'CONTAINER_DELETED_EVENT SANDBOX_NOTREADY',
    ]);
    assert.match(whole.out, /"exitCode": +3/);
  });
});
