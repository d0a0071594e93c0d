/**
 * A power cut while images are pulled (K15). The store is on a disk that writes down what it is told (logged-disk.py);
 * after the pulls, disks are made as a power cut at each flush would have left them: all that was written before it,
 * and any of what was written after it. Each is mounted, and a store opened on it.
 */
import { assert } from 'chai';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import type { Image } from '../../pkg/ports/image.ts';
import { waitFor } from './cri-client.ts';
import { seeded } from './crash-journal.ts';
import { type BuiltImage, file, sha256 } from './images.ts';
import { artifactOf } from './raw-push.ts';
import { type ScriptedRegistry, startScriptedRegistry } from './registry.ts';
import { insecure, layerTree, type OpenStore, StoreGround } from './stores.ts';

const op = backgroundOp(silent);
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const DISK_BYTES = 48 << 20;
const IMAGES = 20;
/** Every so many images an artifact is pulled, too. */
const ARTIFACT_EVERY = 4;
/** Some of them are removed again, while others come. */
const REMOVED = 10;
/** Cuts to try, out of some hundred flushes. */
const CUTS = Number(process.env['BERTH_CUTS'] ?? 16);

const sh = (command: string, ...args: readonly string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

interface Write {
  readonly offset: number;
  readonly data: Buffer;
}
/** A flush: what was written since the one before, and where it is in the log. */
interface Flush {
  readonly writes: readonly Write[];
  readonly at: number;
}
/** One image: its own content, and where in the log it was said to be there, and asked to be removed. */
interface Pulled {
  readonly name: string;
  readonly content: Buffer;
  pulledAt: number;
  removedAt: number;
}

/** The log of the disk; the last element has what was written after the last flush. */
function flushesOf(log: Buffer): Flush[] {
  const flushes: Flush[] = [];
  let writes: Write[] = [];
  for (let at = 0; at < log.length; ) {
    if (log[at] === 0x46) {
      flushes.push({ writes, at: at++ });
      writes = [];
      continue;
    }
    const [offset, length] = [Number(log.readBigUInt64LE(at + 1)), Number(log.readBigUInt64LE(at + 9))];
    writes.push({ offset, data: log.subarray(at + 17, at + 17 + length) });
    at += 17 + length;
  }
  return [...flushes, { writes, at: log.length }];
}

async function apply(path: string, writes: readonly Write[]): Promise<void> {
  const disk = await open(path, 'r+');
  for (const { offset, data } of writes) await disk.write(data, 0, data.length, offset);
  await disk.close();
}

describe('images of a node whose power is cut (K15)', function () {
  this.timeout(240_000);
  let stores: StoreGround;
  let registry: ScriptedRegistry;
  const mounts: string[] = [];
  before(async () => {
    stores = await StoreGround.make();
    registry = await startScriptedRegistry();
  });
  afterEach(() => {
    for (const path of mounts.splice(0).reverse()) sh('umount', '--lazy', path);
  });
  after(async () => {
    await registry.stop();
    await stores.remove();
  });

  /** Mounts a disk. Its journal may have names of files whose content is not there yet: not every disk orders them. */
  async function mounted(disk: string): Promise<string> {
    const path = stores.fresh('mounted');
    await mkdir(path);
    sh('mount', '-o', 'loop,noatime,data=writeback,commit=1', disk, path);
    mounts.push(path);
    return path;
  }

  function unmount(path: string): void {
    sh('umount', path);
    mounts.splice(mounts.indexOf(path), 1);
  }

  async function serveImages(): Promise<Pulled[]> {
    const shared = { files: Array.from({ length: 100 }, (_, i) => file(`shared/${i}`, `${i}`)) };
    const pulled: Pulled[] = [];
    for (let i = 0; i < IMAGES; i++) {
      const content = randomBytes(60_000);
      const own = { files: [file('own', content), file('name', `image${i}`)] };
      const built = await stores.build([shared, own]);
      await registry.serve(built, `image${i}`, '1');
      pulled.push({ name: `${registry.host}/image${i}:1`, content, pulledAt: Infinity, removedAt: Infinity });
      if (i % ARTIFACT_EVERY === 0) pulled.push(await serveArtifact(built, i));
    }
    return pulled;
  }

  /** An artifact whose file is a layer of an image: what that throws away, this one keeps. */
  async function serveArtifact({ layout, images }: BuiltImage, i: number): Promise<Pulled> {
    const layer = images[0]?.layers.at(-1) ?? '';
    const content = await readFile(join(layout, 'blobs', layer.replace(':', '/')));
    const { manifest, blobs } = artifactOf([['own', content]]);
    const type = 'application/vnd.oci.image.manifest.v1+json';
    registry.offer(`/v2/artifact${i}/manifests/1`, Buffer.from(JSON.stringify(manifest)), type);
    for (const blob of blobs)
      registry.offer(`/v2/artifact${i}/blobs/${sha256(blob)}`, blob, 'application/octet-stream');
    return { name: `${registry.host}/artifact${i}:1`, content, pulledAt: Infinity, removedAt: Infinity };
  }

  /** Its own file, as the store has it. */
  const ownOf = (directory: string, image: Image): Promise<Buffer> =>
    readFile(image.artifact?.files[0]?.path ?? join(layerTree(directory, image, 1), 'own'));

  /** Pulls them at once on a disk that is logged, and removes some. @returns the log, and where in it that began. */
  async function pulls(images: readonly Pulled[]): Promise<{ readonly log: Buffer; readonly readyAt: number }> {
    const [fuse, log] = [stores.fresh('fuse'), stores.fresh('log')];
    await mkdir(fuse);
    const program = join(import.meta.dirname, 'logged-disk.py');
    const server = spawn('python3', [program, fuse, `${DISK_BYTES}`, log], { stdio: ['ignore', 'ignore', 'inherit'] });
    const ended = once(server, 'exit');
    const disk = join(fuse, 'disk');
    await waitFor(() => existsSync(disk), Boolean, 'the disk');
    mounts.push(fuse);
    sh('mkfs.ext4', '-q', '-m', '0', disk);
    const path = await mounted(disk);
    const { store, close } = await stores.open(insecure(registry.host), {}, join(path, 'store'));
    sh('sync', '--file-system', path);
    const readyAt = (await stat(log)).size;
    await Promise.all(
      images.map(async (image, i) => {
        await store.pull(op, image.name, {});
        image.pulledAt = (await stat(log)).size;
        if (i >= REMOVED) return;
        image.removedAt = image.pulledAt;
        await store.remove(op, image.name);
      }),
    );
    await close();
    unmount(path);
    unmount(fuse);
    await ended;
    return { log: await readFile(log), readyAt };
  }

  /** What a record names is there and whole, what was pulled has its record, and what is not there can be pulled. */
  async function isWhole({ store, directory }: OpenStore, images: readonly Pulled[], at: number, cut: string) {
    assert.deepEqual(await store.check(op, 'report'), [], cut);
    assert.notInclude((await readdir(join(directory, 'images')).catch(() => [])).join(), 'damaged', cut);
    let missing: Pulled | undefined;
    for (const image of images) {
      const found = store.find(image.name);
      const isOnDisk = image.pulledAt <= at && image.removedAt === Infinity;
      if (isOnDisk) assert.isDefined(found, `${cut}: ${image.name}`);
      if (found === undefined) missing = image;
      else assert.isTrue(image.content.equals(await ownOf(directory, found)), `${cut}: the content of ${image.name}`);
    }
    await store.sweep(op);
    if (missing === undefined) return;
    const again = await store.pull(op, missing.name, {});
    assert.isTrue(missing.content.equals(await ownOf(directory, again)), cut);
    assert.deepEqual(await store.check(op, 'report'), [], cut);
  }

  it(`at any flush of parallel pulls: every record's image verifies, and nothing is wiped (SEED=${SEED})`, async () => {
    const random = seeded(SEED);
    const images = await serveImages();
    const { log, readyAt } = await pulls(images);
    const flushes = flushesOf(log);
    const began = flushes.findIndex(({ at }) => at >= readyAt);
    const chosen = new Set<number>([flushes.length - 2]);
    while (chosen.size < Math.min(CUTS, flushes.length - 1 - began))
      chosen.add(began + Math.floor(random() * (flushes.length - 1 - began)));
    const [kept, disk] = [stores.fresh('kept'), stores.fresh('cut')];
    await writeFile(kept, '');
    sh('truncate', '--size', `${DISK_BYTES}`, kept);
    for (const [i, { writes }] of flushes.slice(0, -1).entries()) {
      await apply(kept, writes);
      if (!chosen.has(i)) continue;
      const next = flushes[i + 1]!;
      const share = random();
      await copyFile(kept, disk);
      await apply(
        disk,
        next.writes.filter(() => random() < share),
      );
      const path = await mounted(disk);
      const open = await stores.open(insecure(registry.host), {}, join(path, 'store'));
      await isWhole(open, images, next.at, `SEED=${SEED}, flush ${i} of ${flushes.length - 1}`);
      await open.close();
      unmount(path);
    }
    await rm(disk);
    assert.isAtLeast(flushes.length - began, IMAGES, 'each pull waits for the disk');
    console.log(`      ${flushes.length - 1} flushes, ${chosen.size} cuts`);
  });
});
