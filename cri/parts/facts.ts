/** What the node can give to containers, found once at start and said where it is less than everything. */
import { readdirSync } from 'node:fs';
import type { Config } from '../../pkg/config/index.ts';
import { limits } from '../../pkg/base/limits.ts';
import { type Logger, type Op, withTimeout } from '../../pkg/base/op.ts';
import type { NodeFacts } from '../../pkg/ports/spec.ts';
import { capture, findExecutable, nodeFacts, readSmallFile } from '../../pkg/sys/index.ts';
import { type Apparmor, loadApparmor, profileNames, requireApparmor } from '../apparmor.ts';

/** Where NRI's plugins lie, unless a configuration says otherwise, which is a warning by itself. */
const NRI_PLUGINS = '/opt/nri/plugins';
/** The kernel's list of profiles. */
const LOADED_PROFILES = '/sys/kernel/security/apparmor/profiles';

/** The facts, with our AppArmor profile loaded. @throws FailedPrecondition when the kernel refuses the profile. */
export async function findFacts(op: Op, config: Config, log: Logger): Promise<NodeFacts> {
  const seen = nodeFacts(config.runtime.cgroupManager);
  const facts = { ...seen, apparmor: await useApparmorProfile(op, seen, config, log) };
  sayWhatIsClamped(log, facts);
  sayNriPlugins(log, NRI_PLUGINS);
  return facts;
}

/** Loads the profile that the configuration names, if it is ours; as loadApparmor. */
export function useApparmorProfile(
  op: Op,
  facts: Pick<NodeFacts, 'apparmor'>,
  config: Config,
  log: Logger,
): Promise<boolean> {
  return loadApparmor(apparmorHere(op, facts, config), log);
}

/** As requireApparmor, of this kernel. */
export function requireProfileHere(
  op: Op,
  facts: Pick<NodeFacts, 'apparmor'>,
  config: Config,
  name: string,
): Promise<void> {
  return requireApparmor(name, apparmorHere(op, facts, config), op.log);
}

function apparmorHere(op: Op, facts: Pick<NodeFacts, 'apparmor'>, { runtime }: Config): Apparmor {
  return {
    enabled: facts.apparmor,
    profile: runtime.apparmorProfile,
    parser: findExecutable('apparmor_parser'),
    loaded: async () => {
      try {
        const list = await readSmallFile(LOADED_PROFILES, limits.profileListBytes);
        return list === undefined ? undefined : profileNames(list.toString('utf8'));
      } catch {
        return undefined; // securityfs is not mounted: the runtime will say.
      }
    },
    run: async (argv, stdin) => {
      const { exitCode, stderr } = await capture(withTimeout(op, limits.runtimeCommandMs), {
        argv,
        stdin,
        stdoutMax: 0,
        stderrMax: limits.commandErrorBytes,
        what: 'apparmor_parser',
      });
      return { exitCode, stderr: stderr.toString('utf8') };
    },
  };
}

/** Plugins that CRI-O and containerd would start: nobody may believe that they change containers here. */
export function sayNriPlugins(log: Logger, directory: string): void {
  let names: readonly string[] = [];
  try {
    names = readdirSync(directory);
  } catch {
    // There are none on most nodes.
  }
  const plugins = names.filter((name) => /^\d\d-/.test(name)).toSorted();
  if (plugins.length > 0)
    log.warn(
      'NRI plugins are on this node, and are not started: there is no NRI here. What they change of containers, CDI ' +
        'specifications and OCI hooks can; take them away, or keep this node from pods that need them',
      { path: directory, plugins: plugins.join(', ') },
    );
}

/** Said once, here: what a node without all privileges cannot give to containers. */
function sayWhatIsClamped(log: Logger, facts: NodeFacts): void {
  if (facts.capabilities.has('CAP_SYS_RESOURCE')) return;
  log.warn(
    'no CAP_SYS_RESOURCE: capabilities are intersected with our own, oom_score_adj and hard ' +
      'limits are not lowered or raised beyond ours',
    { oomScoreAdjMin: facts.oomScoreAdjMin },
  );
}
