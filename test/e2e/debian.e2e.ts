/**
 * An image as large and as odd as real ones, made from the Debian packages of this machine: some hundred megabytes,
 * more than 20 000 files in several layers, with a last layer that changes what is below. Pulled from a real registry,
 * then compared with what umoci makes of it.
 */
import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, realpathSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { newContainerId } from '../../pkg/base/ids.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { FileImageStore, RegistryPolicy } from '../../pkg/image/index.ts';
import { OverlayRootfs } from '../../pkg/rootfs/index.ts';
import {
  type BuiltImage,
  buildImage,
  device,
  dir,
  fifo,
  file,
  hardlink,
  type LayerFile,
  opaque,
  push,
  symlink,
  whiteout,
} from './images.ts';
import { type RunningRegistry, startRegistry } from './registry.ts';
import { snapshot } from './tree.ts';

const FILES_MIN = 20_500;
const BYTES_MIN = 300_000_000;
/** Packages above this would be the whole image. */
const PACKAGE_BYTES_MAX = 40_000_000;
const LISTS = '/var/lib/dpkg/info';

const op = backgroundOp(silent);
const sh = (script: string, cwd: string): string =>
  execFileSync('/bin/bash', ['-euc', script], {
    cwd,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'pipe'],
  });

interface Package {
  readonly paths: readonly string[];
  readonly bytes: number;
  readonly files: number;
}

/**
 * What a package has installed, by real paths without a slash in front: since /usr was merged, lists name files through
 * symlinks.
 */
async function packageOf(list: string, parents: Map<string, string | undefined>): Promise<Package> {
  const paths: string[] = [];
  let [bytes, files] = [0, 0];
  for (const line of (await readFile(join(LISTS, list), 'utf8')).split('\n')) {
    if (!line.startsWith('/') || line === '/.' || /^\/(proc|sys|dev|run|tmp)$/.test(line)) continue;
    const parent = dirname(line);
    if (!parents.has(parent)) parents.set(parent, existsSync(parent) ? realpathSync(parent) : undefined);
    const real = parents.get(parent);
    const stat = real === undefined ? undefined : lstatSync(join(real, basename(line)), { throwIfNoEntry: false });
    if (real === undefined || stat === undefined) continue;
    paths.push(join(real, basename(line)).slice(1));
    if (stat.isFile()) {
      bytes += stat.size;
      files++;
    }
  }
  return { paths, bytes, files };
}

/**
 * Enough packages for the image, in the order of their names, in as many parts as there are layers; parents before
 * children, nothing twice.
 */
async function partsOf(count: number): Promise<string[][]> {
  const parents = new Map<string, string | undefined>();
  const parts: Set<string>[] = Array.from({ length: count }, () => new Set());
  const seen = new Set<string>();
  let [bytes, files] = [0, 0];
  for (const [index, list] of (await readdir(LISTS))
    .filter((name) => name.endsWith('.list'))
    .sort()
    .entries()) {
    if (files >= FILES_MIN && bytes >= BYTES_MIN) break;
    const found = await packageOf(list, parents);
    if (found.bytes > PACKAGE_BYTES_MAX) continue;
    bytes += found.bytes;
    files += found.files;
    for (const path of found.paths) {
      const isDirectory = lstatSync(`/${path}`).isDirectory();
      if (!isDirectory && seen.has(path)) continue;
      seen.add(path);
      for (let at = path; at !== '.'; at = dirname(at))
        if (at === path || lstatSync(`/${at}`).isDirectory()) parts[index % count]?.add(at);
    }
  }
  return parts.map((part) => [...part].sort());
}

/** Changes to what is below, as images have them; `paths` are regular files of the lower layers. */
function changes(paths: readonly string[]): LayerFile[] {
  const [removed = '', replaced = '', linked = '', emptied = ''] = paths;
  const odd = { uid: 4_000_000_000, gid: 70_000, mtime: 1_234_567_890.987_654 };
  return [
    whiteout(removed),
    file(replaced, 'other content', { mode: 0o4711, ...odd }),
    hardlink('linked-up', linked),
    opaque(dirname(emptied)),
    file(`${dirname(emptied)}/only`, 'one'),
    dir('odd', { mode: 0o3777, uid: 12, gid: 13 }),
    device('odd/null', 'char', 1, 3, { mode: 0o666 }),
    device('odd/block', 'block', 259, 70_000),
    fifo('odd/fifo', { mode: 0o620, uid: 7 }),
    file('odd/suid', '#!', { mode: 0o6755, uid: 5, gid: 6 }),
    // umoci gives nothing of a link to its file, CRI-O and we do.
    ...['odd/suid2', 'odd/suid3'].map((path) => ({ ...hardlink(path, 'odd/suid'), mode: 0o6755, uid: 5, gid: 6 })),
    symlink('odd/away', '/../../etc/passwd'),
    file('odd/attributes', 'x', {
      ...odd,
      xattrs: {
        'user.binary': Buffer.from([0, 10, 61, 255]),
        'security.capability': Buffer.from('0100000200200000000000000000000000000000', 'hex'),
      },
    }),
    file(`odd/${'long-name-'.repeat(20)}`, 'long'),
    file('odd/\u00fc\u4e16', 'utf8'),
  ];
}

describe('an image of some hundred Debian packages', function () {
  this.timeout(900_000);
  let ground: string;
  let registry: RunningRegistry;
  let image: BuiltImage;
  before(async () => {
    ground = await mkdtemp('/tmp/berth-debian-');
    registry = await startRegistry(ground);
    const layers = [];
    const parts = await partsOf(4);
    for (const [index, paths] of parts.entries()) {
      await writeFile(join(ground, 'list'), paths.join('\0'));
      // 1: a file changed while it was read, which both sides then see alike.
      sh(
        'tar -C / --format=posix --numeric-owner --xattrs --xattrs-include=* --acls --no-recursion ' +
          '--null -T list -cf part.tar 2>/dev/null || [ $? = 1 ]',
        ground,
      );
      layers.push({
        files: [],
        raw: await readFile(join(ground, 'part.tar')),
        compression: index === 0 ? ('gzip' as const) : ('none' as const),
      });
    }
    const lower = parts.map((part) =>
      part.filter((path) => lstatSync(`/${path}`).isFile() && dirname(dirname(path)) !== '.'),
    );
    layers.push({ files: changes([lower[0]?.[10], lower[1]?.[10], lower[2]?.[10], lower[3]?.[10]].map(String)) });
    image = await buildImage({ directory: join(ground, 'layout'), name: 'large', layers, config: { Cmd: ['sh'] } });
    await rm(join(ground, 'part.tar'));
  });
  after(async () => {
    await registry.stop();
    await rm(ground, { recursive: true });
  });

  it('arrives as umoci unpacks it: owners, modes, attributes, times, links, devices, content', async () => {
    await push(image, `${registry.host}/debian:1`);
    sh('umoci unpack --image layout:large bundle', ground);
    const directory = join(ground, 'store');
    await mkdir(directory);
    await writeFile(
      join(directory, 'registries.conf'),
      `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`,
    );
    const rootfs = new OverlayRootfs({ root: directory });
    await rootfs.sweepLayers(op);
    const store = new FileImageStore({
      root: directory,
      unpacker: rootfs,
      policy: new RegistryPolicy({
        registriesConf: join(directory, 'registries.conf'),
        registriesConfDir: '',
        hostsDirs: [],
        certsDirs: [],
      }),
    });
    await store.load(op);
    const id = newContainerId();
    try {
      const pulled = await store.pull(op, `${registry.host}/debian:1`, {});
      const merged = await rootfs.mount(
        op,
        id,
        pulled.layers.map(({ chainId }) => chainId),
        { mountOptions: [], quotaBytes: 0n, idMap: null },
      );
      const [got, want] = [snapshot(merged), snapshot(join(ground, 'bundle/rootfs'))];
      assert.isAbove(want.filter((line) => / f \d+ \d+ [0-9a-f]{13} /.test(line)).length, 20_000);
      assert.isAbove(Number((await store.usage(op)).usedBytes), 200_000_000);
      // umoci sets the time of a directory anew whenever a layer puts something into it.
      const comparable = (lines: readonly string[]): string[] =>
        lines.map((line) => line.replace(/^(.* [0-7]+ \d+:\d+) -?\d+ d/, '$1 d'));
      assert.deepEqual(difference(comparable(got), comparable(want)), { only: [], missing: [] });
      assert.deepEqual(await store.check(op, 'report'), []);
    } finally {
      await rootfs.destroy(op, id);
      await rootfs.close();
      await store.close();
    }
  });
});

/** Some lines that one side has and the other has not: chai would compare texts of megabytes. */
function difference(
  got: readonly string[],
  want: readonly string[],
): { readonly only: string[]; readonly missing: string[] } {
  const [mine, theirs] = [new Set(got), new Set(want)];
  return {
    only: got.filter((line) => !theirs.has(line)).slice(0, 20),
    missing: want.filter((line) => !mine.has(line)).slice(0, 20),
  };
}
