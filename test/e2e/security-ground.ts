/** What the suites of hostile input share: images with odd files, and the spec that the runtime got. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestNode } from './harness.ts';
import { busybox, type LayerFile } from './images.ts';

/** Layers of an image whose /etc has these entries in place of its own. */
export async function withFiles(...entries: readonly LayerFile[]): Promise<{
  readonly layers: [{ readonly files: LayerFile[]; readonly compression: 'none' }];
  readonly config: { readonly Cmd: string[] };
}> {
  const taken = new Set(entries.map(({ path }) => path));
  return {
    layers: [{ files: [...(await busybox()).filter(({ path }) => !taken.has(path)), ...entries], compression: 'none' }],
    config: { Cmd: ['sleep', '1000'] },
  };
}

/** config.json of a container, as the runtime got it. */
export function specOf(
  node: TestNode,
  id: string,
): { readonly annotations?: Readonly<Record<string, string>>; readonly process: { readonly args: readonly string[] } } {
  return JSON.parse(readFileSync(join(node.dir, 'run/containers', id, 'config.json'), 'utf8')) as ReturnType<
    typeof specOf
  >;
}
