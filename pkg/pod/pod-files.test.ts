import { assert } from 'chai';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { SandboxConfig } from '../ports/requests.ts';
import { ground, op } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';

describe('files of a pod', () => {
  const at = ground();

  function onHostNetwork(): SandboxConfig {
    const config = fakePod();
    const security = config.linux?.securityContext;
    assert.isDefined(security?.namespaceOptions);
    const namespaceOptions = { ...security.namespaceOptions, network: 'NODE' as const };
    return {
      ...config,
      linux: { cgroupParent: '', sysctls: {}, ...config.linux, securityContext: { ...security, namespaceOptions } },
    } as SandboxConfig;
  }

  it("are its own also on the node's network: a container that writes them writes none of the node's", async () => {
    const pod = await at.mind.pods.run(op(), onHostNetwork(), '');
    const id = await at.mind.containers.create(op(), pod, fakeContainer());
    const text = await readFile(join(at.node.directory, 'run/containers', id, 'config.json'), 'utf8');
    const { mounts } = JSON.parse(text) as {
      readonly mounts: readonly { readonly destination: string; readonly source: string }[];
    };
    const sourceOf = (place: string): string => mounts.find(({ destination }) => destination === place)?.source ?? '';
    for (const place of ['/etc/hosts', '/etc/hostname', '/etc/resolv.conf'])
      assert.isTrue(sourceOf(place).startsWith(`${at.node.directory}/`), `${place}: ${sourceOf(place)}`);
    assert.strictEqual(await readFile(sourceOf('/etc/hosts'), 'utf8'), '192.0.2.1\tfake-node\n');
  });
});
