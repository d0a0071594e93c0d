/** AppArmor: the profile that containers run under must be in the kernel before the first of them. */
import { RuntimeError } from '../pkg/base/errors.ts';
import { quote } from '../pkg/base/ids.ts';
import type { Logger } from '../pkg/base/op.ts';
import { apparmorProfileText } from '../pkg/spec/index.ts';

/**
 * The names of the profile that we bring; any other is the administrator's to load. Files written for CRI-O name its
 * own, which nobody has loaded on a node that has no CRI-O.
 */
export const OWN_PROFILES: readonly string[] = ['berth-default', 'crio-default'];

/** What `loadApparmor` needs of the node. */
export interface Apparmor {
  /** Whether the kernel has it switched on. */
  readonly enabled: boolean;
  /** `apparmor_profile` of the configuration. */
  readonly profile: string;
  /** Path of apparmor_parser; undefined if it is not installed. */
  readonly parser: string | undefined;
  /** Names of the profiles that the kernel has; undefined if it does not say. */
  readonly loaded: () => Promise<readonly string[] | undefined>;
  /** Runs a command with a text on its stdin. */
  readonly run: (
    argv: readonly [string, ...string[]],
    stdin: string,
  ) => Promise<{ readonly exitCode: number; readonly stderr: string }>;
}

/**
 * Loads our profile, or replaces an older one of its name. False if containers are to run without AppArmor: it is off,
 * or nothing can load a profile (as with other runtimes, which look for the parser too). @throws FailedPrecondition
 * when the profile is refused, or is another's and not there: containers could not start.
 */
export async function loadApparmor({ enabled, profile, parser, loaded, run }: Apparmor, log: Logger): Promise<boolean> {
  if (!enabled) return false;
  if (parser === undefined) {
    log.warn(
      'AppArmor is on, but there is no apparmor_parser to load a profile: containers run without ' +
        'one; install the package apparmor',
    );
    return false;
  }
  if (profile === 'unconfined') return true;
  if (!OWN_PROFILES.includes(profile)) {
    if ((await loaded())?.includes(profile) === false)
      throw new RuntimeError(
        'FailedPrecondition',
        `apparmor_profile ${profile} is not loaded; load it with apparmor_parser, or remove the key`,
      );
    return true;
  }
  const { exitCode, stderr } = await run([parser, '--replace', '--skip-cache'], apparmorProfileText(profile));
  if (exitCode === 0) return true;
  throw new RuntimeError(
    'FailedPrecondition',
    `the AppArmor profile ${profile} cannot be loaded: ${parser}: ${stderr.trim() || `exit code ${exitCode}`}; ` +
      'mend that, or name a loaded one with apparmor_profile',
  );
}

/**
 * Content if the kernel has a profile that a container is to run under; loads it if it is ours. @throws
 * FailedPrecondition naming the profile and the remedy.
 */
export async function requireApparmor(name: string, here: Apparmor, log: Logger): Promise<void> {
  const loaded = await here.loaded();
  if (loaded === undefined || loaded.includes(name)) return;
  if (OWN_PROFILES.includes(name)) {
    log.warn('the AppArmor profile of containers was unloaded, loading it again', { profile: name });
    await loadApparmor({ ...here, profile: name }, log);
    return;
  }
  throw new RuntimeError(
    'FailedPrecondition',
    `AppArmor profile ${quote(name)} is not loaded on this node; load it with apparmor_parser --replace FILE on ` +
      'every node where such pods may run, or correct the name in the pod',
  );
}

/** The names in the kernel's list of profiles, a `name (mode)` per line. */
export function profileNames(text: string): readonly string[] {
  return text.split('\n').flatMap((line) => /^(.+) \([a-z]+\)$/.exec(line.trim())?.[1] ?? []);
}
