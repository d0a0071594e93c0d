/**
 * What `build/berth.cjs` is: runs the bundle with the bytecode that an earlier run left in the cache.
 *
 * Node's own compile cache knows a file as it is when it has just been read: of functions only those that V8 compiles
 * at once. Ours is taken when the daemon serves and holds every function that ran until then; V8 compiles none of them
 * again. That is a sixth of the way from start to serving (docs/adr/0005).
 *
 * V8 refuses bytecode of another version, or made under other flags, by itself. It knows the source by its length only,
 * so the bundle has a digest in its name, and the cache has the bundle's.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join } from 'node:path';
import { cachedDataVersionTag } from 'node:v8';
import { Script } from 'node:vm';
import { CodeCache } from './code-cache.ts';

/** `lib/main-<digest>.cjs`: one function around the bundle. */
declare const BERTH_BUNDLE: string;

const bundle = join(import.meta.dirname, BERTH_BUNDLE);
const directory = process.env['NODE_COMPILE_CACHE'] ?? '';
const cache = directory === '' ? undefined : new CodeCache(directory, basename(bundle, '.cjs'), cachedDataVersionTag());
const cachedData = cache?.read();
// The bundle is plain ASCII: no time goes into decoding it, and V8 keeps a byte per character.
const script = new Script(readFileSync(bundle, 'latin1'), {
  filename: bundle,
  ...(cachedData === undefined ? {} : { cachedData }),
});
const known = cachedData !== undefined && script.cachedDataRejected !== true;
const keepCode = async (): Promise<void> => {
  if (!known) await cache?.keep(script.createCachedData());
};
const run = script.runInThisContext() as (
  require: NodeJS.Require,
  filename: string,
  dirname: string,
  keepCode: () => Promise<void>,
) => void;
run(createRequire(bundle), import.meta.filename, import.meta.dirname, keepCode);
