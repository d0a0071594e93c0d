import { assert } from 'chai';
import { existsSync, readlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import type { HostMount } from '../ports/requests.ts';
import { ground, op } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';
import { withLinkedLogs } from './link-logs.ts';

const mount = (hostPath: string): HostMount => ({
  containerPath: '/logs',
  hostPath,
  readonly: false,
  selinuxRelabel: false,
  propagation: 'PROPAGATION_PRIVATE',
  uidMappings: [],
  gidMappings: [],
  recursiveReadOnly: false,
  image: undefined,
  imageSubPath: '',
  mountOptions: [],
});

describe('the logs of a pod in a volume of its own', () => {
  const at = ground();

  it('are shown read-only in place of the emptyDir that is named, and in no other', () => {
    const pod = fakePod();
    const at = `/var/lib/kubelet/pods/${pod.metadata.uid}/volumes/kubernetes.io~empty-dir`;
    const paths = [
      `${at}/logs`,
      `${at}/logs/`,
      `${at}/other`,
      `/var/lib/kubelet/pods/x/volumes/kubernetes.io~empty-dir/logs`,
    ];
    const config = fakeContainer('app', 0, { mounts: paths.map(mount) });
    const sandbox = { config: pod, logDirectory: '/var/log/pods/x' };
    assert.deepEqual(
      withLinkedLogs(config, sandbox, 'logs').mounts.map((each) => [each.hostPath, each.readonly]),
      [
        ['/var/log/pods/x', true],
        ['/var/log/pods/x', true],
        [paths[2], false],
        [paths[3], false],
      ],
    );
    assert.strictEqual(withLinkedLogs(config, sandbox, undefined), config);
  });

  it('have a link for each container, by its id; the status tells of the volume', async () => {
    at.mind.close();
    const handler = {
      privilegedWithoutHostDevices: false,
      minMemoryBytes: 0n,
      allowedAnnotations: ['io.kubernetes.cri-o.LinkLogs'],
      defaultAnnotations: new Map<string, string>(),
      execCpuAffinity: '' as const,
      seccompProfile: undefined,
    };
    at.mind = await at.node.boot({ handlers: new Map(['', 'fake'].map((name) => [name, handler])) });
    const config = fakePod('web', 0, { annotations: { 'link-logs.crio.io': 'logs' } });
    const pod = await at.mind.pods.run(op(), config, '');
    const { logDirectory } = at.mind.pods.get(pod);
    const volume = `/var/lib/kubelet/pods/${config.metadata.uid}/volumes/kubernetes.io~empty-dir/logs`;
    const id = await at.mind.containers.create(op(), pod, fakeContainer('app', 0, { mounts: [mount(volume)] }));
    const text = await readFile(join(at.node.directory, 'run/containers', id, 'config.json'), 'utf8');
    const found = (JSON.parse(text) as RuntimeSpec).mounts.find(({ destination }) => destination === '/logs');
    assert.strictEqual(found?.source, logDirectory);
    assert.include(found?.options ?? [], 'ro');
    assert.strictEqual(readlinkSync(join(logDirectory, `${id}.log`)), 'app.log');
    assert.strictEqual((at.mind.containers.get(id).config.mounts[0] as HostMount).hostPath, volume);
    const other = await at.mind.pods.run(op(), fakePod('other'), '');
    const plain = await at.mind.containers.create(op(), other, fakeContainer());
    assert.isFalse(existsSync(join(at.mind.pods.get(other).logDirectory, `${plain}.log`)));
  });
});
