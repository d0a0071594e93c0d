/** Files of a map, and the configuration that they make: for tests. */
import { assert } from 'chai';
import { isCode, RuntimeError } from '../base/errors.ts';
import { loadConfig } from './index.ts';
import type { ConfigFiles, LoadOptions, LoadedConfig } from './types.ts';

/** Where Berth's own configuration is. */
export const MAIN = '/etc/berth/berth.conf';
export const DROP_INS = '/etc/berth/berth.conf.d';

/** Files of a map from path to text. */
function filesOf(texts: Readonly<Record<string, string>>): ConfigFiles {
  return {
    read: (path) => Promise.resolve(texts[path]),
    list(path) {
      const below = Object.keys(texts)
        .filter((each) => each.startsWith(`${path}/`))
        .map((each) => each.slice(path.length + 1));
      if (below.length === 0) return Promise.resolve(undefined);
      const names = [...new Set(below.map((each) => each.split('/')[0] ?? ''))].reverse();
      return Promise.resolve(
        names.map((name) => ({ name, kind: below.includes(name) ? ('file' as const) : ('directory' as const) })),
      );
    },
  };
}

/** The configuration of files by path, or of one text in berth.conf. */
export function load(
  texts: Readonly<Record<string, string>> | string = {},
  more: Partial<LoadOptions> = {},
): Promise<LoadedConfig> {
  const files = filesOf(typeof texts === 'string' ? { [MAIN]: texts } : texts);
  return loadConfig({ node: { systemdCgroups: false }, files, ...more });
}

/** The message with which something is refused. */
export async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    assert.instanceOf(error, RuntimeError);
    assert.isTrue(isCode(error, 'InvalidArgument') || isCode(error, 'NotFound'));
    return (error as Error).message;
  }
  return assert.fail('was not refused');
}
