import { assert } from 'chai';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ground, op } from './fake-ground.ts';
import { fakePod } from './fake-world.ts';

describe('The spec that is shown', () => {
  const at = ground();

  it('of a container is what the runtime was given', async () => {
    const { id } = await at.created();
    const shown = JSON.parse((await at.mind.runtimeSpec(at.mind.containers.get(id))) ?? '') as object;
    assert.nestedProperty(shown, 'process.args');
    assert.nestedProperty(shown, 'linux.namespaces');
  });

  it('of a pod without infra container has its namespaces, by which people find its network', async () => {
    const id = await at.mind.pods.run(op(), fakePod(), '');
    const pod = at.mind.pods.get(id);
    const { linux } = JSON.parse((await at.mind.runtimeSpec({ ...pod, infra: null })) ?? '') as {
      readonly linux: { readonly namespaces: readonly { readonly type: string; readonly path: string }[] };
    };
    assert.strictEqual(linux.namespaces.find(({ type }) => type === 'network')?.path, pod.namespaces['net']);
  });

  it('is not there once the bundle is gone or damaged', async () => {
    const { id } = await at.created();
    const record = at.mind.containers.get(id);
    const config = join(at.node.directory, 'run/containers', id, 'config.json');
    await writeFile(config, '{"half');
    assert.isUndefined(await at.mind.runtimeSpec(record));
    await rm(config);
    assert.isUndefined(await at.mind.runtimeSpec(record));
  });
});
