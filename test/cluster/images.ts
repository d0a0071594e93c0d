/** The images of a cluster's pods, made on the spot and pushed to its registry. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildImage, busybox, dir, file, push } from '../e2e/images.ts';

const BUILD = process.env['BERTH_BUILD'] ?? new URL('../../build/', import.meta.url).pathname;
const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface ClusterImages {
  /** busybox with /version and /www/index.html, which say 1. */
  readonly box: string;
  /** The same, where they say 2. */
  readonly boxTwo: string;
  /** Files without a program: /data/hello, for an image volume. */
  readonly data: string;
}

/** The infra containers of runtimes that take an image for them; its name and tag in the registry. */
export const PAUSE = 'pause:1';

/** Pushes `PAUSE` to the registry at `host`: the program that Berth has for this, too. */
export async function publishPause(directory: string, host: string): Promise<void> {
  const pause = file('pause', readFileSync(join(BUILD, 'bin/pause')), { mode: 0o755 });
  const plan = { layers: [{ files: [pause] }], config: { Entrypoint: ['/pause'] } };
  await push(await buildImage({ ...plan, directory: join(directory, 'pause'), name: '1' }), `${host}/${PAUSE}`);
}

/** Builds them below `directory` and pushes them to the registry at `host`. */
export async function publishImages(directory: string, host: string, credentials?: string): Promise<ClusterImages> {
  const layer = { files: await busybox() };
  const box = (version: string) => ({
    layers: [layer, { files: [file('version', version), dir('www'), file('www/index.html', version)] }],
    config: { Cmd: ['sh'], Env: [PATH] },
  });
  const data = { layers: [{ files: [dir('data'), file('data/hello', 'hello from an image')] }] };
  const publish = async (
    name: string,
    tag: string,
    plan: Parameters<typeof buildImage>[0] | object,
  ): Promise<string> => {
    const place = { directory: join(directory, `${name}-${tag}`), name: tag };
    const built = await buildImage({ layers: [], ...plan, ...place });
    const reference = `${host}/${name}:${tag}`;
    await push(built, reference, credentials === undefined ? {} : { credentials });
    return reference;
  };
  return {
    box: await publish('box', '1', box('1')),
    boxTwo: await publish('box', '2', box('2')),
    data: await publish('data', '1', data),
  };
}
