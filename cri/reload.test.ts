import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import type { LogFields, Logger } from '../pkg/base/op.ts';
import { type Config, type LoadedConfig, loadConfig, noFiles, type ReloadPart } from '../pkg/config/index.ts';
import { Reloader, type Taken, type Takers } from './reload.ts';

function configured(text: string): Promise<LoadedConfig> {
  return loadConfig({
    node: { systemdCgroups: false },
    files: { ...noFiles, read: async (path) => (path === '/etc/berth/berth.conf' ? text : undefined) },
  });
}

/** A daemon of which each part notes what it took. */
async function daemon(text: string, broken: readonly ReloadPart[] = [], content: Taken['content'] = []) {
  const said: string[] = [];
  const say = (message: string, fields: LogFields = {}): void =>
    void said.push([message, ...Object.entries(fields).map(([key, value]) => `${key}=${value}`)].join(' '));
  const log: Logger = { error: say, warn: say, info: say, debug: say, child: () => log };
  const taken: [ReloadPart, Config][] = [];
  const taker = (part: ReloadPart, when: 'changed' | 'always' = 'changed'): Takers[ReloadPart] => ({
    when,
    take: async ({ config }) => {
      if (broken.includes(part)) throw new RuntimeError('InvalidArgument', `${part} is broken`);
      return {
        commit: () => void taken.push([part, config]),
        content: part === 'seccomp' ? (content ?? []) : [],
        settle: () => say(`settled ${part}`),
      };
    },
  });
  const takers: Takers = {
    pinned: taker('pinned'),
    apparmor: taker('apparmor'),
    seccomp: taker('seccomp', 'always'),
    cdi: taker('cdi'),
    runtimes: taker('runtimes'),
    images: taker('images'),
    log: taker('log'),
  };
  const reloader = new Reloader((await configured(text)).config, takers, log);
  return { reloader, said, taken };
}

describe('a reload', () => {
  it("takes each part that changed, says old and new value in CRI-O's words, and settles at last", async () => {
    const { reloader, said, taken } = await daemon('[crio.runtime]\nlog_level = "info"');
    await reloader.reload(() => configured('[crio.runtime]\nlog_level = "debug"\n[crio.image]\npinned_images = ["a"]'));
    assert.deepEqual(
      taken.map(([part]) => part),
      ['pinned', 'seccomp', 'log'],
    );
    assert.deepEqual(said, [
      'Set config pinned_images to "[\\"a\\"]" key=crio.image.pinned_images before=[]',
      'Set config log_level to "debug" key=crio.runtime.log_level before="info"',
      'Configuration reload completed waiting=0',
      'settled pinned',
      'settled seccomp',
      'settled log',
    ]);
    assert.equal(reloader.inForce.runtime.logLevel, 'debug');
  });

  it('keeps a part that cannot be taken, whole, and takes the others', async () => {
    const { reloader, said } = await daemon('', ['seccomp']);
    const text = '[crio.runtime]\nseccomp_profile = "/x"\nprivileged_seccomp_profile = "/y"\nlog_level = "debug"';
    await reloader.reload(() => configured(text));
    const { seccompProfile, privilegedSeccompProfile, logLevel } = reloader.inForce.runtime;
    assert.deepEqual([seccompProfile, privilegedSeccompProfile, logLevel], ['', '', 'debug']);
    assert.include(
      said,
      'Unable to reload configuration; the old values of these keys stay in force ' +
        'keys=crio.runtime.seccomp_profile crio.runtime.privileged_seccomp_profile cause=seccomp is broken',
    );
    assert.notInclude(said.join(), 'completed');
    await reloader.reload(() => configured(''));
    assert.equal(reloader.inForce.runtime.logLevel, 'info', 'and goes on with the next one');
  });

  it('keeps everything when the file is bad, and says so', async () => {
    const { reloader, said, taken } = await daemon('[crio.runtime]\nlog_level = "debug"');
    await reloader.reload(() => configured('[crio.runtime]\nlog_level = 3'));
    assert.lengthOf(taken, 0);
    assert.match(
      said.join(),
      /^Unable to reload configuration; all of the old one stays .*berth\.conf:2:1: .*log_level/,
    );
    assert.equal(reloader.inForce.runtime.logLevel, 'debug');
  });

  it('says at each of two in a row what waits for a restart, and no more once it is taken back', async () => {
    const { reloader, said } = await daemon('[crio]\nroot = "/a"');
    const waits = 'a change of the configuration waits for a restart key=crio.root before="/a" after="/b"';
    for (const level of ['debug', 'warn']) {
      said.splice(0);
      await reloader.reload(() => configured(`[crio]\nroot = "/b"\n[crio.runtime]\nlog_level = "${level}"`));
      assert.include(said, waits);
      assert.include(said, 'Configuration reload completed waiting=1');
    }
    said.splice(0);
    await reloader.reload(() => configured('[crio]\nroot = "/a"'));
    assert.notInclude(said.join(), 'waits for a restart');
    assert.equal(reloader.inForce.storage.root, '/a');
  });

  it('says what changed in files whose names did not', async () => {
    const { reloader, said } = await daemon('', [], [{ key: 'crio.runtime.seccomp_profile', before: 'a', after: 'b' }]);
    await reloader.reload(() => configured(''));
    assert.include(said, 'Set config seccomp_profile to "b" key=crio.runtime.seccomp_profile before=a');
  });

  it('names a handler by its table', async () => {
    const { reloader, said } = await daemon('');
    await reloader.reload(() => configured('[crio.runtime.runtimes.k]\nruntime_path = "/k"'));
    assert.match(
      said.join('\n'),
      /^Set config runtimes\.k to "\{ runtime_path = .* key=crio\.runtime\.runtimes\.k before=none$/m,
    );
  });

  it('is one at a time, in the order in which they came', async () => {
    const { reloader } = await daemon('');
    const gate = Promise.withResolvers<void>();
    const first = reloader.reload(async () => {
      await gate.promise;
      return await configured('[crio.runtime]\nlog_level = "debug"');
    });
    const second = reloader.reload(() => configured('[crio.runtime]\nlog_level = "warn"'));
    gate.resolve();
    await Promise.all([first, second]);
    assert.equal(reloader.inForce.runtime.logLevel, 'warn');
  });
});
