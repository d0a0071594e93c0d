/** What a reload replaces under pods that run: each part whole, between two turns of the event loop. */
import { RuntimeError } from '../../pkg/base/errors.ts';
import type { Logger, Op } from '../../pkg/base/op.ts';
import type { Change, Config, LoadedConfig } from '../../pkg/config/index.ts';
import type { FileImageStore } from '../../pkg/image/index.ts';
import { DirectoryExtensions, type World } from '../../pkg/pod/index.ts';
import type { Taken, Takers } from '../reload.ts';
import { type OwnFiles, podSettings, type Telling } from '../settings.ts';
import { useApparmorProfile } from './facts.ts';
import type { ImageSources } from './image-sources.ts';
import { pinnedBy } from './images.ts';
import type { NodeRuntimes } from './node-runtimes.ts';
import { type Runtimes, settingsOfHandlers } from './runtimes.ts';

/** What is not for ever in a world. Those who use it look each time. */
export interface Live {
  readonly runtimes: NodeRuntimes;
  settings: World['settings'];
  extensions: World['extensions'];
}

/** What a reload needs beside the configuration. */
export interface LiveParts {
  readonly op: Op;
  readonly own: OwnFiles;
  readonly log: Logger;
}

/** What new pods get by a configuration. @throws as podSettings and settingsOfHandlers. */
export async function settingsBy(
  config: Config,
  places: Telling['places'],
  runtimes: Runtimes,
  { own, log }: LiveParts,
): Promise<Live['settings']> {
  const telling = { log, places };
  return await podSettings(config, await settingsOfHandlers(config, runtimes, telling), own, telling);
}

/** CDI devices and hooks of the directories that a configuration names. */
export function extensionsBy({ runtime }: Config, log: Logger): Live['extensions'] {
  const { cdiSpecDirs: cdiSpecs, hooksDir: hooks, blockioConfigFile: blockIo } = runtime;
  return new DirectoryExtensions({ cdiSpecs, hooks, blockIo }, log);
}

/** What else takes a change. */
export interface TakerParts {
  readonly images: FileImageStore;
  readonly sources: ImageSources;
  /** Whether containers have AppArmor here. */
  readonly apparmor: boolean;
  /** The owner's of the log. */
  readonly takeLog: TakeLog;
}

/** How a daemon takes each part. */
export function takersOf(live: Live, parts: LiveParts & TakerParts): Takers {
  const { op, log, images, sources, apparmor, takeLog } = parts;
  const settings = async ({ config, places }: LoadedConfig): Promise<Taken & { readonly fresh: Live['settings'] }> => {
    const fresh = await settingsBy(config, places, live.runtimes, parts);
    return { fresh, commit: () => replaceSettings(live, fresh) };
  };
  return {
    pinned: {
      when: 'changed',
      take: async ({ config }) => ({ commit: () => images.setPinnedImages(pinnedBy(config)) }),
    },
    apparmor: {
      when: 'changed',
      async take(loaded) {
        await useApparmorProfile(op, { apparmor }, loaded.config, log);
        return await settings(loaded);
      },
    },
    seccomp: {
      when: 'always',
      async take(loaded) {
        const { fresh, commit } = await settings(loaded);
        return { commit, content: changedContent(live.settings, fresh, loaded.config) };
      },
    },
    cdi: {
      when: 'changed',
      take: async ({ config }) => ({ commit: () => void (live.extensions = extensionsBy(config, log)) }),
    },
    runtimes: {
      when: 'changed',
      async take({ config, places }) {
        const found = await live.runtimes.find(op, config);
        if (found.standard === undefined) throw new RuntimeError('FailedPrecondition', found.trouble ?? '');
        const fresh = await settingsBy(config, places, found, parts);
        return {
          commit() {
            live.runtimes.use(found);
            replaceSettings(live, fresh);
          },
        };
      },
    },
    images: { when: 'always', take: ({ config }) => sources.take(op, config) },
    log: { when: 'changed', take: async ({ config }) => takeLog(config) },
  };
}

/** Pods of a handler that is gone go on with its settings; new ones of it are refused by `runtimeFor`. */
function replaceSettings(live: Live, fresh: Live['settings']): void {
  live.settings = { ...fresh, handlers: new Map([...live.settings.handlers, ...fresh.handlers]) };
}

/** Makes a change of level and filter ready. @throws InvalidArgument for a filter that is none. */
export type TakeLog = (config: Config) => Taken;

/** Profiles whose files have another content than before, under the same name. */
function changedContent(before: Live['settings'], after: Live['settings'], config: Config): readonly Change[] {
  const { runtime, runtimes } = config;
  const profiles = [
    ['crio.runtime.seccomp_profile', runtime.seccompProfile, before.spec.seccompProfile, after.spec.seccompProfile],
    [
      'crio.runtime.privileged_seccomp_profile',
      runtime.privilegedSeccompProfile,
      before.spec.privilegedSeccompProfile,
      after.spec.privilegedSeccompProfile,
    ],
  ] as const;
  const ofHandlers = [...after.handlers].map(
    ([name, { seccompProfile }]) =>
      [
        `crio.runtime.runtimes.${name}.seccomp_profile`,
        runtimes.get(name)?.seccompProfile ?? '',
        before.handlers.get(name)?.seccompProfile,
        seccompProfile,
      ] as const,
  );
  return [...profiles, ...ofHandlers].flatMap(([key, path, old, fresh]) =>
    old === undefined || fresh === undefined || JSON.stringify(old) === JSON.stringify(fresh)
      ? []
      : [{ key, before: `${path} as it was`, after: `${path} as it is now` }],
  );
}
