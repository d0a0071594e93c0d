/** AppArmor at start: the profile that containers run under must be in the kernel before the first of them. */
import { RuntimeError } from '../pkg/base/errors.ts';
import type { Logger } from '../pkg/base/op.ts';
import { apparmorProfileText } from '../pkg/spec/index.ts';

/** The name of the profile that we bring; any other is the administrator's to load. */
export const OWN_PROFILE = 'berth-default';

/** What is known of AppArmor here. */
export interface Apparmor {
  /** Whether the kernel has it switched on. */
  readonly enabled: boolean;
  /** `apparmor_profile` of the configuration. */
  readonly profile: string;
  /** Path of apparmor_parser; undefined if it is not installed. */
  readonly parser: string | undefined;
  /** Runs a command with a text on its stdin. */
  readonly run: (
    argv: readonly [string, ...string[]],
    stdin: string,
  ) => Promise<{ readonly exitCode: number; readonly stderr: string }>;
}

/**
 * Loads our profile, or replaces an older one of its name. False if containers are to run without AppArmor: it is off,
 * or nothing can load a profile (as with other runtimes, which look for the parser too). @throws FailedPrecondition
 * when the profile is refused: containers could not start.
 */
export async function loadApparmor({ enabled, profile, parser, run }: Apparmor, log: Logger): Promise<boolean> {
  if (!enabled) return false;
  if (parser === undefined) {
    log.warn(
      'AppArmor is on, but there is no apparmor_parser to load a profile: containers run without ' +
        'one; install the package apparmor',
    );
    return false;
  }
  if (profile !== OWN_PROFILE) return true;
  const { exitCode, stderr } = await run([parser, '--replace', '--skip-cache'], apparmorProfileText(OWN_PROFILE));
  if (exitCode === 0) return true;
  throw new RuntimeError(
    'FailedPrecondition',
    `the AppArmor profile ${OWN_PROFILE} cannot be loaded: ${parser}: ${stderr.trim() || `exit code ${exitCode}`}; ` +
      'mend that, or name a loaded one with apparmor_profile',
  );
}
