import { assert } from 'chai';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { explain, isCode, RuntimeError } from '../pkg/base/errors.ts';
import { describeEmptiness } from '../pkg/base/fake-emptiness.ts';
import type { LogFields, Logger } from '../pkg/base/op.ts';
import { loadConfig, noFiles } from '../pkg/config/index.ts';
import type { PodSettings } from '../pkg/pod/index.ts';
import type { RuntimeFeatures } from '../pkg/ports/runtime.ts';
import { parseSeccompProfile } from '../pkg/spec/index.ts';
import { handlerSettings, podSettings } from './settings.ts';

const FEATURES = { kind: 'crun' } as RuntimeFeatures;
const PROFILE = { defaultAction: 'SCMP_ACT_KILL', syscalls: [] };

/** A logger that keeps what it hears. */
function heard(): { readonly log: Logger; readonly lines: { message: string; fields: LogFields | undefined }[] } {
  const lines: { message: string; fields: LogFields | undefined }[] = [];
  const hear = (message: string, fields?: LogFields): void => void lines.push({ message, fields });
  const log: Logger = { error: hear, warn: hear, info: hear, debug: hear, child: () => log };
  return { log, lines };
}

describe('settings of pods', () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'berth-settings-'));
  });
  after(() => rm(dir, { recursive: true }));

  const ear = heard();
  beforeEach(() => void ear.lines.splice(0));
  const own = { pauseRoot: '/p', envExec: '/none', selinux: false };
  async function settings(flags: Readonly<Record<string, string>>): Promise<PodSettings> {
    const { config, places } = await loadConfig({ flags, node: { systemdCgroups: false }, files: noFiles });
    return await podSettings(config, new Map(), own, { log: ear.log, places });
  }
  async function file(name: string, content: unknown): Promise<string> {
    const path = join(dir, name);
    await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
    return path;
  }
  const messages = (): string[] => ear.lines.map(({ message }) => message);

  it('have no profile of their own where none is set: the built-in one holds', async () => {
    const { spec } = await settings({ seccompProfile: '', privilegedSeccompProfile: '' });
    assert.deepEqual([spec.seccompProfile, spec.privilegedSeccompProfile, messages()], [undefined, undefined, []]);
  });

  it('take profiles of files', async () => {
    const path = await file('ok.json', PROFILE);
    const { spec } = await settings({ seccompProfile: path, privilegedSeccompProfile: path });
    assert.deepEqual([spec.seccompProfile, spec.privilegedSeccompProfile], [PROFILE, PROFILE]);
  });

  it('have the built-in profile for a file that is absent, also for privileged containers, and say so', async () => {
    const { spec } = await settings({ seccompProfile: '/none/a', privilegedSeccompProfile: '/none/b' });
    for (const profile of [spec.seccompProfile, spec.privilegedSeccompProfile])
      assert.equal(parseSeccompProfile(profile).defaultAction, 'SCMP_ACT_ERRNO');
    assert.deepEqual(
      ear.lines.map(({ fields }) => [fields?.['key'], fields?.['path'], fields?.['place']]),
      [
        ['crio.runtime.seccomp_profile', '/none/a', '--seccomp-profile'],
        ['crio.runtime.privileged_seccomp_profile', '/none/b', '--privileged-seccomp-profile'],
      ],
    );
  });

  it('are refused for a profile that is none, naming key, place, file and remedy', async () => {
    for (const content of ['', 'null', '{}', '{"defaultAction": ""}', '[']) {
      const path = await file('bad.json', content);
      try {
        await settings({ privilegedSeccompProfile: path });
        assert.fail(content);
      } catch (error) {
        assert.isTrue(isCode(error, 'InvalidArgument'), content);
        assert.include(
          explain(error),
          `--privileged-seccomp-profile: crio.runtime.privileged_seccomp_profile ${path} cannot be used; mend the file`,
        );
      }
    }
  });

  it('of a handler are refused without its profile, as its pods would get another', async () => {
    const { config, places } = await loadConfig({
      node: { systemdCgroups: false },
      files: {
        ...noFiles,
        read: async (path) =>
          path === '/etc/berth/berth.conf' ? '[crio.runtime.runtimes.k]\nseccomp_profile = "/none/x"' : undefined,
      },
    });
    const work = handlerSettings('k', config.runtimes.get('k'), FEATURES, { log: ear.log, places });
    assert.match(
      await work.then(() => '', explain),
      /berth\.conf:2:1: crio\.runtime\.runtimes\.k\.seccomp_profile \/none\/x cannot be used; .*or remove the key/,
    );
    const without = await handlerSettings('runc', config.runtimes.get('runc'), FEATURES, { log: ear.log, places });
    assert.equal(without.seccompProfile, undefined);
  });

  it('tell of annotations that a handler allows and that change nothing', async () => {
    const text =
      '[crio.runtime.runtimes.k]\nallowed_annotations = ["umask.crio.io", "io.kubernetes.cri-o.Spoofed"]\n' +
      '[crio.runtime.workloads.w]\nactivation_annotation = "a"\nallowed_annotations = ["spoofed.crio.io"]\n';
    const { config, places } = await loadConfig({
      node: { systemdCgroups: false },
      files: { ...noFiles, read: async (path) => (path === '/etc/berth/berth.conf' ? text : undefined) },
    });
    await handlerSettings('k', config.runtimes.get('k'), FEATURES, { log: ear.log, places });
    await podSettings(config, new Map(), own, { log: ear.log, places });
    assert.deepEqual(new Set(messages()), new Set(['an allowed annotation has no effect, ignoring']));
    assert.deepEqual(
      ear.lines.map(({ fields }) => [fields?.['handler'] ?? fields?.['workload'], fields?.['annotation']]),
      ['k', 'w'].map((whose, at) => [
        whose,
        [['io.kubernetes.cri-o.Spoofed', 'spoofed.crio.io'][at], 'no container is pretended'].join(': '),
      ]),
    );
  });

  it('have no mounts of a default_mounts_file that is absent, and go on', async () => {
    assert.deepEqual((await settings({ defaultMountsFile: '/none/mounts.conf' })).defaultMounts, []);
    assert.match(messages().join(), /default_mounts_file cannot be read/);
  });

  it('read mounts as CRI-O does; a bad line costs itself', async () => {
    const path = await file('mounts.conf', '# x\n\n/a:/b\r\n/both\nrelative:/c\n/d:/\n/e:/../f\n/g:/h:ro\n /c:\n');
    assert.deepEqual((await settings({ defaultMountsFile: path })).defaultMounts, [
      { source: '/a', containerPath: '/b' },
      { source: '/both', containerPath: '/both' },
      { source: '/c', containerPath: '/c' },
    ]);
    assert.deepEqual(
      ear.lines.map(({ fields }) => fields?.['place']),
      [5, 6, 7, 8].map((line) => `${path}:${line}`),
    );
  });

  describeEmptiness({
    name: 'the default_mounts_file',
    notation: 'toml',
    samples: [{ source: '/a', destination: '/b' }],
    spelling: 'exact',
    read: async ({ source, destination }) => {
      ear.lines.splice(0);
      const line = [source ?? '', destination].filter((each) => typeof each === 'string').join(':');
      const { defaultMounts } = await settings({ defaultMountsFile: await file('line.conf', `${line}\n`) });
      if (messages().length > 0) throw new RuntimeError('InvalidArgument', messages().join());
      return defaultMounts;
    },
    keys: {
      source: { absent: 'refused', empty: 'refused', why: 'a mount needs a source; the line is left out' },
      destination: 'unset',
    },
  });

  it('leave the time zone alone where it is not set, and refuse one that nobody knows', async () => {
    assert.equal((await settings({})).localtime, '');
    assert.match(
      await settings({ timezone: 'Atlantis/Capital' }).then(() => '', explain),
      /--timezone: crio\.runtime\.timezone "Atlantis\/Capital" is not known on this node.*install tzdata/,
    );
    assert.match(await settings({ timezone: '../shadow' }).then(() => '', explain), /is not known/);
  });

  it('have labels of SELinux where the kernel has it, unless selinux is false', async () => {
    const labelled = async (flags: Readonly<Record<string, string>>): Promise<boolean> => {
      const { config, places } = await loadConfig({ flags, node: { systemdCgroups: false }, files: noFiles });
      const made = await podSettings(config, new Map(), { ...own, selinux: true }, { log: ear.log, places });
      return made.selinux !== null;
    };
    assert.deepEqual([await labelled({}), await labelled({ selinux: 'false' })], [true, false]);
  });

  it('have no AppArmor profile for "unconfined"', async () => {
    assert.equal((await settings({ apparmorProfile: 'unconfined' })).spec.apparmorProfile, '');
    assert.equal((await settings({})).spec.apparmorProfile, 'berth-default');
  });
});
