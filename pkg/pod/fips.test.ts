import { assert } from 'chai';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import { op } from './fake-ground.ts';
import { FakeSurroundings, fakeContainer, fakePod } from './fake-world.ts';

describe('the FIPS switch of the kernel', () => {
  let node: FakeSurroundings;
  beforeEach(async () => {
    node = await FakeSurroundings.make();
  });
  afterEach(() => node.dispose());

  /** What a container sees in its place; undefined if it sees the kernel's. */
  async function seen(
    allowed: readonly string[],
    labels: Record<string, string>,
    tellsFips = true,
  ): Promise<string | undefined> {
    node.facts = { ...node.facts, tellsFips };
    const handler = {
      privilegedWithoutHostDevices: false,
      minMemoryBytes: 0n,
      allowedAnnotations: allowed,
      defaultAnnotations: new Map(),
      execCpuAffinity: '',
      seccompProfile: undefined,
    } as const;
    const mind = await node.boot({ handlers: new Map(['', 'fake'].map((name) => [name, handler])) });
    const annotations = { 'io.kubernetes.cri-o.DisableFIPS': 'true' };
    const pod = await mind.pods.run(op(), fakePod('web', 0, { annotations, labels }), '');
    const id = await mind.containers.create(op(), pod, fakeContainer());
    const text = await readFile(join(node.directory, 'run/containers', id, 'config.json'), 'utf8');
    const { mounts } = JSON.parse(text) as RuntimeSpec;
    const found = mounts.find(({ destination }) => destination === '/proc/sys/crypto/fips_enabled');
    const shown = found === undefined ? undefined : await readFile(found.source ?? '', 'utf8');
    await mind.pods.remove(op(), pod);
    mind.close();
    return shown;
  }

  it('hides it where pod, label and permission say so, and the kernel has it', async () => {
    const allowed = ['disable-fips.crio.io'];
    const labels = { FIPS_DISABLE: 'true' };
    assert.equal(await seen(allowed, labels), '0\n');
    assert.isUndefined(await seen([], labels), 'not allowed');
    assert.isUndefined(await seen(allowed, {}), 'no label');
    assert.isUndefined(await seen(allowed, labels, false), 'a kernel without it');
  });
});
