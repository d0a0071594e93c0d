import { assert } from 'chai';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { backgroundOp, type Logger, silent } from '../../pkg/base/op.ts';
import { type Config, loadConfig, noFiles } from '../../pkg/config/index.ts';
import type { MadeBy } from '../../pkg/pod/index.ts';
import type { OciRuntime, RuntimeFeatures, RuntimeHandler } from '../../pkg/ports/runtime.ts';
import type { ExecScratch } from '../../pkg/runtime/index.ts';
import { NodeRuntimes } from './node-runtimes.ts';

describe('the runtimes of a node', () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'berth-runtimes-'));
  });
  after(() => rm(dir, { recursive: true }));

  const scratches = new Map<OciRuntime, ExecScratch>();
  const node = (): NodeRuntimes =>
    new NodeRuntimes('/bin', (handler: RuntimeHandler, scratch: ExecScratch) => {
      const features = { kind: handler.name, broken: undefined, vulnerable: undefined } as unknown as RuntimeFeatures;
      const runtime = { handler, features: async () => features } as unknown as OciRuntime;
      scratches.set(runtime, scratch);
      return runtime;
    });
  /** The configuration of a text, with runc and crun installed. */
  async function configured(text: string): Promise<Config> {
    const read = async (path: string): Promise<string | undefined> =>
      path === '/etc/berth/berth.conf' ? `[crio]\nrunroot = "${dir}"\n${text}` : undefined;
    const findExecutable = (name: string): string | undefined =>
      name.startsWith('/') ? name : ['runc', 'crun'].includes(name) ? `/usr/bin/${name}` : undefined;
    return (await loadConfig({ node: { systemdCgroups: false, findExecutable }, files: { ...noFiles, read } })).config;
  }
  const op = backgroundOp(silent);
  async function use(runtimes: NodeRuntimes, text: string): Promise<void> {
    runtimes.use(await runtimes.find(op, await configured(text)));
  }
  function madeBy(handler: string, { handler: { name, path, root, runtimeArgs } }: OciRuntime): MadeBy {
    return { runtimeHandler: handler, runtime: { name, path, root, runtimeArgs } };
  }

  it('are changed by `use`, not by looking for them', async () => {
    const runtimes = node();
    await use(runtimes, '');
    const found = await runtimes.find(op, await configured('[crio.runtime]\ndefault_runtime = "runc"'));
    assert.equal(runtimes.forNew('').handler.name, 'crun');
    runtimes.use(found);
    assert.equal(runtimes.forNew('').handler.name, 'runc');
    assert.equal(runtimes.standard?.runtime.handler.name, 'runc', 'who looks now sees what is so now');
    assert.deepEqual([...runtimes.named.keys()], ['crun', 'runc']);
  });

  it('stay the same objects while they are meant as they are, since they know what is under way', async () => {
    const runtimes = node();
    await use(runtimes, '');
    const { crun, runc } = { crun: runtimes.forNew('crun'), runc: runtimes.forNew('runc') };
    await use(runtimes, '[crio.runtime.runtimes.runc]\nno_sync_log = true');
    assert.equal(runtimes.forNew('crun'), crun);
    assert.notEqual(runtimes.forNew('runc'), runc);
    assert.isTrue(runtimes.forNew('runc').handler.noSyncLog);
    assert.equal(scratches.get(runtimes.forNew('runc')), scratches.get(runc), 'and one scratch for one root');
  });

  it('are without one whose seccomp profile is not there, as with CRI-O, unless it is the default one', async () => {
    const runtimes = node();
    const table = '[crio.runtime.runtimes.k]\nruntime_path = "/opt/k"\nseccomp_profile = "/none/x.json"\n';
    const heard: string[] = [];
    const warn: Logger['warn'] = (message, fields) => void heard.push(message, String(fields?.['cause']));
    const log: Logger = { ...silent, warn, child: () => log };
    const found = await runtimes.find(backgroundOp(log), await configured(table));
    assert.deepEqual([...found.named.keys()], ['crun', 'runc']);
    assert.equal(heard[0], 'a runtime handler is left out');
    assert.match(heard.join('\n'), /runtimes\.k\.seccomp_profile \/none\/x\.json cannot be used/);
    const asDefault = await configured(`${table}[crio.runtime]\ndefault_runtime = "k"`);
    assert.include([...(await runtimes.find(op, asDefault)).named.keys()], 'k', 'which is refused where it is read');
    const crun = '[crio.runtime.runtimes.crun]\nseccomp_profile = "/none/x.json"';
    assert.include([...(await runtimes.find(op, await configured(crun))).named.keys()], 'crun', 'the default of CRI-O');
  });

  it('of pods that are there stay theirs when the default changes, and after a restart', async () => {
    const runtimes = node();
    await use(runtimes, '[crio.runtime]\ndefault_runtime = "runc"');
    const made = madeBy('', runtimes.forNew(''));
    await use(runtimes, '[crio.runtime]\ndefault_runtime = "crun"');
    assert.equal(runtimes.thatMade(made).handler.name, 'runc');
    const restarted = node();
    await use(restarted, '[crio.runtime]\ndefault_runtime = "crun"');
    assert.equal(restarted.thatMade(made).handler.name, 'runc');
  });

  it('of pods whose handler is gone, or means another program, are made for them, once', async () => {
    const before = '[crio.runtime.runtimes.k]\nruntime_path = "/opt/k1"\nruntime_args = ["--x"]';
    const after = '[crio.runtime.runtimes.k]\nruntime_path = "/opt/k2"';
    const first = node();
    await use(first, before);
    const made = madeBy('k', first.forNew('k'));
    for (const text of [after, '']) {
      const runtimes = node();
      await use(runtimes, text);
      const own = runtimes.thatMade(made);
      assert.deepInclude(own.handler, { name: 'k', path: '/opt/k1', runtimeArgs: ['--x'] });
      assert.equal(runtimes.thatMade(made), own);
      assert.include(runtimes.all, own, 'the sweep asks it, too');
    }
    const gone = node();
    await use(gone, '');
    assert.throws(() => gone.forNew('k'), /no runtime handler is called "k"; there are: crun, runc/);
  });

  it('keep the object that knows what a pod has under way when its handler changes', async () => {
    const runtimes = node();
    await use(runtimes, '[crio.runtime.runtimes.k]\nruntime_path = "/opt/k1"');
    const own = runtimes.forNew('k');
    await use(runtimes, '[crio.runtime.runtimes.k]\nruntime_path = "/opt/k2"');
    assert.equal(runtimes.thatMade(madeBy('k', own)), own);
    await use(runtimes, '[crio.runtime.runtimes.k]\nruntime_path = "/opt/k1"');
    assert.notInclude(
      runtimes.all.filter((each) => each !== runtimes.forNew('k')).map(({ handler }) => handler.path),
      '/opt/k1',
    );
  });

  it('share a scratch where handlers share a root', async () => {
    const runtimes = node();
    await use(
      runtimes,
      `[crio.runtime]\ndefault_runtime = "crun"\n[crio.runtime.runtimes.high]\ninherit_default_runtime = true`,
    );
    const [high, crun] = [runtimes.forNew('high'), runtimes.forNew('crun')];
    assert.equal(high.handler.root, crun.handler.root);
    assert.equal(scratches.get(high), scratches.get(crun));
    assert.notEqual(scratches.get(crun), scratches.get(runtimes.forNew('runc')));
  });

  it('of a record that names a handler only are those of today', async () => {
    const runtimes = node();
    await use(runtimes, '');
    assert.equal(runtimes.thatMade({ runtimeHandler: 'runc', runtime: null }), runtimes.forNew('runc'));
    assert.throws(() => runtimes.thatMade({ runtimeHandler: 'k', runtime: null }), /no runtime handler is called "k"/);
  });
});
