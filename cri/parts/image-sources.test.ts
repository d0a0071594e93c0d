import { assert } from 'chai';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { explain } from '../../pkg/base/errors.ts';
import { backgroundOp, type Logger, silent } from '../../pkg/base/op.ts';
import { type Config, loadConfig, noFiles } from '../../pkg/config/index.ts';
import { parseReference } from '../../pkg/oci/reference.ts';
import { ImageSources } from './image-sources.ts';

const ACCEPT = '{"default": [{"type": "insecureAcceptAnything"}]}';
const REJECT = '{"default": [{"type": "reject"}]}';

describe('the sources of images', () => {
  let dir: string;
  let registries: string;
  let policy: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'berth-sources-'));
    [registries, policy] = [join(dir, 'registries.conf'), join(dir, 'policy.json')];
    await writeFile(registries, 'unqualified-search-registries = ["one.example"]');
    await writeFile(policy, ACCEPT);
  });
  afterEach(() => rm(dir, { recursive: true }));

  const said: string[] = [];
  const log: Logger = { ...silent, error: (message) => void said.push(message), child: () => log };
  const op = backgroundOp(log);
  async function configured(more: Readonly<Record<string, string>> = {}): Promise<Config> {
    const flags = {
      registriesConf: registries,
      registriesConfDir: join(dir, 'none.d'),
      signaturePolicy: policy,
      namespacedAuthDir: join(dir, 'auth'),
      ...more,
    };
    return (await loadConfig({ flags, node: { systemdCgroups: false }, files: noFiles })).config;
  }
  async function started(): Promise<ImageSources> {
    said.splice(0);
    const config = await configured();
    const sources = new ImageSources(config, { HOME: dir });
    await sources.makeDirectory(op, config);
    await sources.remember(op);
    return sources;
  }
  const image = parseReference('one.example/app:1');
  const accepts = (sources: ImageSources): Promise<string> =>
    sources.trust.demand(image, '').then(() => 'yes', explain);

  it('begin with the directory of namespaced credentials, as a provider expects it', async () => {
    await started();
    assert.equal((await stat(join(dir, 'auth'))).mode & 0o777, 0o755);
  });

  it('are changed by commit only: another policy, other registries', async () => {
    const sources = await started();
    const other = join(dir, 'other.json');
    await writeFile(other, REJECT);
    const { commit, content } = await sources.take(op, await configured({ signaturePolicy: other }));
    assert.equal(await accepts(sources), 'yes');
    commit();
    assert.match(await accepts(sources), /not accepted/);
    assert.deepEqual(
      content?.map(({ key }) => key),
      ['signature policy'],
    );
    assert.match(content?.[0]?.before ?? '', /policy\.json sha256:[0-9a-f]{12}$/);
    assert.match(content?.[0]?.after ?? '', /other\.json sha256:[0-9a-f]{12}$/);
  });

  it('are found changed under the same names, once', async () => {
    const sources = await started();
    await writeFile(registries, 'unqualified-search-registries = ["two.example"]');
    const { commit, content } = await sources.take(op, await configured());
    assert.deepEqual(
      content?.map(({ key }) => key),
      ['registries'],
    );
    commit();
    assert.deepEqual((await sources.take(op, await configured())).content, []);
  });

  it('are not taken when registries.conf or policy.json is broken, and that is said with the file', async () => {
    const sources = await started();
    await writeFile(registries, 'unqualified-search-registries = 5');
    assert.include(await sources.take(op, await configured()).then(() => '', explain), registries);
    await writeFile(registries, '');
    await writeFile(policy, '{"default": []');
    assert.include(await sources.take(op, await configured()).then(() => '', explain), policy);
  });

  it('let the daemon start without a policy that can be read: no image is accepted then', async () => {
    await writeFile(policy, 'nonsense');
    const sources = await started();
    assert.deepEqual(said, ['images cannot be pulled until this is mended']);
    assert.match(await accepts(sources), /is not a signature policy/);
  });
});
