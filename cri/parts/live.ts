/** What a reload replaces under pods that run: each part whole, between two turns of the event loop. */
import type { Logger, Op } from '../../pkg/base/op.ts';
import type { Change, Config, LoadedConfig } from '../../pkg/config/index.ts';
import type { FileImageStore } from '../../pkg/image/index.ts';
import { DirectoryExtensions, type World } from '../../pkg/pod/index.ts';
import type { Taken, Takers } from '../reload.ts';
import { type OwnFiles, podSettings, type Telling } from '../settings.ts';
import { useApparmorProfile } from './facts.ts';
import { type Runtimes, settingsOfHandlers } from './runtimes.ts';

/** The members of a world that are not for ever. Those who use them look each time. */
export type Live = { -readonly [K in 'settings' | 'extensions']: World[K] };

/** What settings are made from, beside the configuration. */
export interface LiveParts {
  readonly op: Op;
  readonly own: OwnFiles;
  readonly runtimes: Runtimes;
  readonly log: Logger;
}

/** What new pods get by a configuration. @throws as podSettings and settingsOfHandlers. */
export async function settingsBy(
  config: Config,
  places: Telling['places'],
  { own, runtimes, log }: LiveParts,
): Promise<Live['settings']> {
  const telling = { log, places };
  return await podSettings(config, await settingsOfHandlers(config, runtimes, telling), own, telling);
}

/** CDI devices and hooks of the directories that a configuration names. */
export function extensionsBy({ runtime }: Config, log: Logger): Live['extensions'] {
  return new DirectoryExtensions({ cdiSpecs: runtime.cdiSpecDirs, hooks: runtime.hooksDir }, log);
}

/** Images that the kubelet is not to collect. */
export function pinnedBy({ image }: Config): readonly string[] {
  return image.pauseImage === '' ? image.pinnedImages : [...image.pinnedImages, image.pauseImage];
}

/** How a daemon takes each part. `takeLog` is the owner's of the log. */
export function takersOf(
  live: Live,
  parts: LiveParts & { readonly images: FileImageStore; readonly apparmor: boolean; readonly takeLog: TakeLog },
): Takers {
  const { op, log, images, apparmor, takeLog } = parts;
  const settings = async ({ config, places }: LoadedConfig): Promise<Taken & { readonly fresh: Live['settings'] }> => {
    const fresh = await settingsBy(config, places, parts);
    return { fresh, commit: () => void (live.settings = fresh) };
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
      take: () => Promise.reject(new Error('runtime handlers wait for a restart')),
    },
    log: { when: 'changed', take: async ({ config }) => takeLog(config) },
  };
}

/** Makes a change of level and filter ready. @throws InvalidArgument for a filter that is none. */
export type TakeLog = (config: Config) => Taken;

/** Profiles whose files have another content than before, under the same name. */
function changedContent(before: Live['settings'], after: Live['settings'], { runtime }: Config): readonly Change[] {
  const profiles = [
    ['crio.runtime.seccomp_profile', runtime.seccompProfile, before.spec.seccompProfile, after.spec.seccompProfile],
    [
      'crio.runtime.privileged_seccomp_profile',
      runtime.privilegedSeccompProfile,
      before.spec.privilegedSeccompProfile,
      after.spec.privilegedSeccompProfile,
    ],
  ] as const;
  return profiles.flatMap(([key, path, old, fresh]) =>
    old === undefined || fresh === undefined || JSON.stringify(old) === JSON.stringify(fresh)
      ? []
      : [{ key, before: `${path} as it was`, after: `${path} as it is now` }],
  );
}
