import { assert } from 'chai';
import { codeOf } from '../pkg/base/errors.ts';
import type { Logger } from '../pkg/base/op.ts';
import { silent } from '../pkg/base/op.ts';
import { type Apparmor, loadApparmor, OWN_PROFILES, profileNames, requireApparmor } from './apparmor.ts';

function machine(changes: Partial<Apparmor> = {}): { readonly apparmor: Apparmor; readonly runs: string[][] } {
  const runs: string[][] = [];
  const run: Apparmor['run'] = async (argv, stdin) => {
    runs.push([...argv, stdin]);
    return { exitCode: 0, stderr: '' };
  };
  const loaded = async (): Promise<readonly string[]> => ['site-default'];
  const apparmor = {
    enabled: true,
    profile: 'berth-default',
    parser: '/sbin/apparmor_parser',
    loaded,
    run,
    ...changes,
  };
  return { runs, apparmor };
}

describe('AppArmor at start', () => {
  for (const profile of OWN_PROFILES) {
    it(`gets our profile as ${profile}, in place of an older one`, async () => {
      const { apparmor, runs } = machine({ profile });
      assert.isTrue(await loadApparmor(apparmor, silent));
      assert.lengthOf(runs, 1);
      assert.deepEqual(runs[0]?.slice(0, -1), ['/sbin/apparmor_parser', '--replace', '--skip-cache']);
      assert.include(runs[0]?.at(-1), `profile ${profile} flags=`);
    });
  }

  it("is left alone where it is off, or the profile is the administrator's", async () => {
    for (const [changes, used] of [
      [{ enabled: false }, false],
      [{ profile: 'site-default' }, true],
      [{ profile: 'unconfined' }, true],
      [{ profile: 'other', loaded: async () => undefined }, true],
    ] as const) {
      const { apparmor, runs } = machine(changes);
      assert.equal(await loadApparmor(apparmor, silent), used);
      assert.deepEqual(runs, []);
    }
  });

  it('is done without where nothing can load a profile, and that is said', async () => {
    const said: string[] = [];
    const log: Logger = { ...silent, warn: (message) => void said.push(message) };
    assert.isFalse(await loadApparmor(machine({ parser: undefined }).apparmor, log));
    assert.match(said.join(), /install the package apparmor/);
  });

  it('that refuses the profile keeps the daemon from starting, with the reason', async () => {
    const { apparmor } = machine({ run: async () => ({ exitCode: 1, stderr: 'parser error in line 3\n' }) });
    const error = await loadApparmor(apparmor, silent).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    assert.equal(codeOf(error), 'FailedPrecondition');
    assert.match(String(error), /parser error in line 3; mend that/);
  });

  it('refuses a profile that is not loaded, rather than every container', async () => {
    const error = await loadApparmor(machine({ profile: 'other' }).apparmor, silent).catch((cause: unknown) => cause);
    assert.equal(codeOf(error), 'FailedPrecondition');
    assert.match(String(error), /apparmor_profile other is not loaded; load it with apparmor_parser/);
  });

  it('knows the profiles of the kernel by their lines', () => {
    assert.deepEqual(profileNames('berth-default (enforce)\n/usr/bin/man (complain)\na b (unconfined)\n\n'), [
      'berth-default',
      '/usr/bin/man',
      'a b',
    ]);
  });
});

describe('AppArmor for a container', () => {
  it('takes a profile that is loaded, and any where the kernel does not say', async () => {
    const { apparmor, runs } = machine();
    await requireApparmor('site-default', apparmor, silent);
    await requireApparmor('other', { ...apparmor, loaded: async () => undefined }, silent);
    assert.deepEqual(runs, []);
  });

  it('loads ours again when somebody unloaded it, and says so', async () => {
    const said: string[] = [];
    const log: Logger = { ...silent, warn: (message) => void said.push(message) };
    const { apparmor, runs } = machine({ profile: 'site-default' });
    await requireApparmor('berth-default', apparmor, log);
    assert.include(runs[0]?.at(-1), 'profile berth-default flags=');
    assert.match(said.join(), /was unloaded/);
  });

  it('names a profile that is not loaded, and the remedy', async () => {
    const { apparmor } = machine();
    const error = await requireApparmor('not-loaded', apparmor, silent).catch((cause: unknown) => cause);
    assert.equal(codeOf(error), 'FailedPrecondition');
    assert.match(String(error), /AppArmor profile "not-loaded" is not loaded.*apparmor_parser --replace/);
  });
});
