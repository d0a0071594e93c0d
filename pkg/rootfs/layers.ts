/**
 * The layers on disk.
 *
 *     layers/<hex of chain id>/fs/          the tree, in overlay's form
 *     layers/<hex>/manifest, manifest.settled   what is in it (manifest.ts)
 *     layers/<hex>/pending                  what it still wants from the layers below (pending-file.ts); absent in most
 *     layers/<hex>/layer.json               what it is and how large (LayerRecord)
 *     layers/.tmp-<random>/                 one on its way in or out; nobody's after a crash
 *
 * A layer is complete or absent: everything is written under a temporary name, the file system is synced, then it gets
 * its name and the name is synced (containerd#10655, cri-o#4285: layers that were marked complete before their data was
 * on disk). One syncfs costs far less than fsync of every file, and layers that are ready at the same time share it.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, explain, isCode, RuntimeError, storageError, wrap } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { ensureDir, readDirSorted, readJson, replaceFile, syncDirectory } from '../base/files.ts';
import { type ChainId, hexOf, isDigest } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError, checkAlive, type Op } from '../base/op.ts';
import { abortable, SingleFlight } from '../base/sync.ts';
import { Root, fileSystems, mounts } from '../sys/index.ts';
import { BLOCK_BYTES } from './decompress.ts';
import { HEAD_BYTES, readArriving, readWhole } from './layer-input.ts';
import { Leftovers } from './leftovers.ts';
import type { UnpackPool } from './unpack-pool.ts';
import { type LayerRecord, loadRecords, parseRecord } from './layer-record.ts';
import type { LayerInput, UnpackedLayer, UnpackJob, UnpackLimits } from './unpack-worker.ts';
import type { ArrivingBlob, FsUsage, LayerOrigin, LayerSource, LayerUnpacker, StagedLayer } from '../ports/image.ts';
import type { RootOwner } from './node.ts';

const TEMPORARY = '.tmp-';
const DEFAULT_LIMITS: UnpackLimits = {
  entriesCount: limits.tarEntriesCount,
  unpackedBytes: limits.layerUnpackedBytes,
  ratio: limits.layerRatio,
  ratioGraceBytes: limits.layerRatioGraceBytes,
  memoryBytes: limits.layerMemoryBytes,
};

/** A layer that is unpacked, under the name of a temporary directory. */
interface Staged {
  readonly name: string;
  readonly record: LayerRecord;
}

/** The directory `layers/`. */
export class Layers implements LayerUnpacker {
  readonly directory: string;
  readonly #pool: UnpackPool;
  readonly #limits: UnpackLimits;
  readonly #flights = new SingleFlight<ChainId, void>();
  readonly #settling = new SingleFlight<ChainId, void>();
  readonly #sync: SharedSync;
  readonly #leftovers = new Leftovers(async (name) => {
    await mounts.unmountTree(join(this.directory, name, 'below'));
    using root = Root.open(this.directory, 'strict');
    await root.removeTreeAsync(name);
  });
  #records: Promise<Map<ChainId, LayerRecord>> | undefined;

  constructor(directory: string, pool: UnpackPool, bounds: Partial<UnpackLimits>) {
    this.directory = directory;
    this.#pool = pool;
    this.#limits = { ...DEFAULT_LIMITS, ...bounds };
    this.#sync = new SharedSync(directory);
  }

  async has(chainId: ChainId): Promise<boolean> {
    const known = await this.#known();
    if (!known.has(chainId)) return false;
    const parts = await Promise.all(['layer.json', 'fs'].map((name) => exists(join(this.#path(chainId), name))));
    if (parts.every((isThere) => isThere)) return true;
    // Somebody else has taken it away, or a part of it.
    known.delete(chainId);
    return false;
  }

  async origin(chainId: ChainId): Promise<LayerOrigin | undefined> {
    if (!(await this.has(chainId))) return undefined;
    const { digest, blobBytes } = await this.record(chainId);
    return isDigest(digest) && blobBytes !== undefined ? { digest, sizeBytes: BigInt(blobBytes) } : undefined;
  }

  async listLayers(): Promise<readonly ChainId[]> {
    return [...(await this.#known()).keys()];
  }

  async layersUsage(_op: Op): Promise<FsUsage> {
    let [usedBytes, inodesUsed] = [0, 0];
    for (const record of (await this.#known()).values()) {
      usedBytes += record.usedBytes;
      inodesUsed += record.inodesUsed;
    }
    return { usedBytes: BigInt(usedBytes), inodesUsed: BigInt(inodesUsed) };
  }

  /** @throws NotFound unless the layer is complete. */
  async record(chainId: ChainId): Promise<LayerRecord> {
    const record = (await this.#known()).get(chainId);
    if (record === undefined)
      throw new RuntimeError('NotFound', `layer ${chainId} is not on this node; pull the image again`);
    return record;
  }

  /**
   * Directories for overlay's lowerdir, topmost first, of layers given bottom first. @throws NotFound if one is
   * missing.
   */
  async lowerDirs(layers: readonly ChainId[]): Promise<string[]> {
    const directories: string[] = [];
    for (const chainId of layers.toReversed()) {
      directories.push(join(this.#path(chainId), 'fs'));
      if ((await this.record(chainId)).rootIsOpaque) break;
    }
    return directories;
  }

  /** Owner and mode of the root that these layers make together. */
  async rootOwner(layers: readonly ChainId[]): Promise<RootOwner> {
    for (const chainId of layers.toReversed()) {
      const { root } = await this.record(chainId);
      if (root !== null) return root;
    }
    return { mode: 0o755, uid: 0, gid: 0 };
  }

  async unpack(op: Op, layer: LayerSource): Promise<void> {
    const { chainId } = layer;
    await shared(op, this.#flights, chainId, { isDone: () => this.has(chainId), work: () => this.#unpack(op, layer) });
  }

  async unpackEarly(op: Op, layer: LayerSource, blob: ArrivingBlob): Promise<StagedLayer | undefined> {
    // It could not be read before it is whole, and would only take a thread.
    if (layer.sizeBytes <= BLOCK_BYTES) return undefined;
    await abortable(blob.has(HEAD_BYTES), op.signal, () => abortError(op, `wait for layer ${layer.digest}`));
    const staged = await this.#pool.early(blob.whole, () =>
      readArriving(op, { layer, blob }, this.#limits, (input) =>
        this.#stage(op, layer, (job) => this.#pool.runNow(op, { ...job, ...input }, layer.onProgress)),
      ),
    );
    if (staged === undefined) return undefined;
    let isHere = true;
    const drop = async (): Promise<void> => {
      if (isHere) await this.#giveUp(op, staged.name);
      isHere = false;
    };
    const work = (): Promise<void> => {
      isHere = false;
      return this.#keep(op, staged);
    };
    const { chainId } = layer;
    const keep = async (): Promise<void> => {
      await shared(op, this.#flights, chainId, { isDone: () => this.has(chainId), work });
      await drop();
    };
    return { keep, drop };
  }

  async prove(op: Op, layer: LayerSource): Promise<void> {
    op.stage(`read layer ${layer.digest}`);
    try {
      await readWhole(op, layer, this.#limits, (input) =>
        this.#pool.run(op, { type: 'prove', directory: this.directory, ...input }, layer.onProgress),
      );
    } catch (error) {
      throw wrap(`compare layer ${layer.digest} with the one that is here`, storageError(error, this.directory));
    }
  }

  async settle(op: Op, layers: readonly ChainId[]): Promise<void> {
    for (const [index, chainId] of layers.entries()) {
      await shared(op, this.#settling, chainId, {
        isDone: async () => (await this.record(chainId)).state === 'settled',
        work: () => this.#settle(op, chainId, layers.slice(0, index)),
      });
    }
  }

  async removeLayer(_op: Op, chainId: ChainId): Promise<void> {
    await this.#flights.get(chainId)?.catch(() => {});
    await this.#drop(chainId);
  }

  /** Deletes what a crash left half made or half deleted. For the start of the daemon, before anything is unpacked. */
  async sweep(op: Op): Promise<void> {
    for (const name of await readDirSorted(this.directory)) {
      if (name.startsWith(TEMPORARY)) await this.#giveUp(op, name);
    }
  }

  /**
   * Compares a layer with what was written when it was unpacked. Empty = whole; otherwise what is wrong, a few lines at
   * most.
   */
  async verifyLayer(op: Op, chainId: ChainId): Promise<readonly string[]> {
    try {
      const record = parseRecord(
        await readJson(join(this.#path(chainId), 'layer.json'), limits.layerRecordBytes),
        chainId,
      );
      const problems = await this.#pool.run(op, { type: 'verify', directory: this.#path(chainId) }, undefined);
      if (problems.length > 0) return problems;
      const { inodesUsed } = await fileSystems.usage(join(this.#path(chainId), 'fs'));
      return Number(inodesUsed) === record.inodesUsed
        ? []
        : [`it holds ${inodesUsed} inodes instead of ${record.inodesUsed}`];
    } catch (error) {
      if (op.signal.aborted) throw error;
      return [explain(error)];
    }
  }

  async #unpack(op: Op, layer: LayerSource): Promise<void> {
    const staged = await this.#stage(op, layer, (job) =>
      readWhole(op, layer, this.#limits, (input) => this.#pool.run(op, { ...job, ...input }, layer.onProgress)),
    );
    await this.#keep(op, staged);
  }

  /** Unpacks a layer under a temporary name, with all that belongs to it but its durability. */
  async #stage(
    op: Op,
    layer: LayerSource,
    unpack: (job: Omit<UnpackJob, keyof LayerInput>) => Promise<UnpackedLayer>,
  ): Promise<Staged> {
    await ensureDir(this.directory);
    // ext4 puts a new file where its directory is, and without a journal looks there at every inode freed in the last
    // minutes, for each new one again: a layer that comes after one that went would cost seconds of that.
    await fileSystems.spreadDirectories(this.directory);
    const name = temporaryName();
    const directory = join(this.directory, name);
    try {
      op.stage(`unpack layer ${layer.chainId}`);
      await mkdir(directory, { mode: 0o700 });
      await mkdir(join(directory, 'fs'), { mode: 0o755 });
      const written = await unpack({ type: 'unpack', directory, place: placeOf(layer) });
      const record = await recordOf(layer, directory, written);
      await writeFile(join(directory, 'layer.json'), `${JSON.stringify(record)}\n`, { mode: 0o600 });
      await failpoint('rootfs.unpack.written');
      return { name, record };
    } catch (error) {
      await this.#giveUp(op, name);
      throw wrap(`unpack layer ${layer.digest}`, storageError(error, directory));
    }
  }

  /** Makes what was unpacked durable, and then visible. */
  async #keep(op: Op, { name, record }: Staged): Promise<void> {
    const { chainId } = record;
    const directory = join(this.directory, name);
    try {
      op.stage(`sync layer ${chainId}`);
      await this.#sync.run();
      await failpoint('rootfs.unpack.synced');
      const records = await this.#known();
      // Only a layer without a readable record can be in the way.
      await this.#discard(hexOf(chainId));
      await rename(directory, this.#path(chainId));
      await syncDirectory(this.directory);
      await failpoint('rootfs.unpack.renamed');
      records.set(chainId, record);
    } catch (error) {
      await this.#giveUp(op, name);
      throw wrap(`unpack layer ${record.digest}`, storageError(error, directory));
    }
  }

  async #giveUp(op: Op, name: string): Promise<void> {
    await this.#leftovers.remove(name).catch((cause: unknown) =>
      op.log.warn('cannot remove a partial layer, will retry with the next one', {
        path: join(this.directory, name),
        cause: explain(cause),
      }),
    );
  }

  async #settle(op: Op, chainId: ChainId, below: readonly ChainId[]): Promise<void> {
    const directory = this.#path(chainId);
    op.stage(`settle layer ${chainId}`);
    try {
      await this.#withBelow(below, (merged) =>
        this.#pool.run(op, { type: 'settle', directory, below: merged, limits: this.#limits }, undefined),
      );
      const { usedBytes, inodesUsed } = await fileSystems.usage(join(directory, 'fs'));
      const record: LayerRecord = {
        ...(await this.record(chainId)),
        usedBytes: Number(usedBytes),
        inodesUsed: Number(inodesUsed),
        state: 'settled',
      };
      await this.#sync.run();
      await failpoint('rootfs.settle.synced');
      await replaceFile(join(directory, 'layer.json'), `${JSON.stringify(record)}\n`, 'durable');
      (await this.#known()).set(chainId, record);
    } catch (error) {
      // It will never fit; without it the next pull says so again instead of the next mount.
      if (isCode(error, 'DataLoss')) await this.#drop(chainId);
      throw wrap(`tie layer ${chainId} to the layers below`, storageError(error, directory));
    }
  }

  /** Runs `work` with a read-only view of complete layers. */
  async #withBelow(layers: readonly ChainId[], work: (merged: string) => Promise<unknown>): Promise<void> {
    const name = temporaryName();
    const merged = join(this.directory, name, 'below');
    await ensureDir(merged);
    try {
      const lower = await this.lowerDirs(layers);
      if (lower.length > 1)
        await mounts.overlay({ lower, writable: null, target: merged, options: ['ro', 'nodev', 'nosuid', 'noexec'] });
      else
        await mounts.bind({
          source: lower[0] as string,
          target: merged,
          extent: 'one',
          attributes: ['ro', 'nodev', 'nosuid', 'noexec'],
        });
      await work(merged);
    } finally {
      await this.#leftovers.remove(name);
    }
  }

  #path(chainId: ChainId): string {
    return join(this.directory, hexOf(chainId));
  }

  #known(): Promise<Map<ChainId, LayerRecord>> {
    this.#records ??= loadRecords(this.directory);
    return this.#records;
  }

  async #drop(chainId: ChainId): Promise<void> {
    (await this.#known()).delete(chainId);
    await this.#discard(hexOf(chainId));
  }

  /** Takes the name away at once and the files after it. Content if absent. */
  async #discard(name: string): Promise<void> {
    const temporary = temporaryName();
    try {
      await rename(join(this.directory, name), join(this.directory, temporary));
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return;
      throw wrap(`remove layer ${name}`, storageError(error, this.directory));
    }
    await this.#leftovers.remove(temporary);
  }
}

interface SharedWork {
  readonly isDone: () => Promise<boolean>;
  readonly work: () => Promise<void>;
}

/**
 * Does `work` on a layer unless it is done, once for all who want it at the same time. Who gives up does not take it
 * from the others: one of them begins anew.
 */
async function shared(
  op: Op,
  flights: SingleFlight<ChainId, void>,
  chainId: ChainId,
  { isDone, work }: SharedWork,
): Promise<void> {
  for (;;) {
    checkAlive(op, `wait for layer ${chainId}`);
    if (await isDone()) return;
    const flying = flights.get(chainId);
    if (flying === undefined) return flights.run(chainId, work);
    try {
      return await abortable(flying, op.signal, () => abortError(op, `wait for layer ${chainId}`));
    } catch (error) {
      // Whoever began gave up; we did not.
      if (op.signal.aborted || !(isCode(error, 'Cancelled') || isCode(error, 'DeadlineExceeded'))) throw error;
    }
  }
}

/** One syncfs for all who ask while the one before is running. */
class SharedSync {
  readonly #path: string;
  #running: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /** Everything written before the call is on disk when it resolves. */
  run(): Promise<void> {
    this.#next ??= this.#running.then(() => {
      this.#next = undefined;
      const sync = fileSystems.sync(this.#path);
      this.#running = sync.catch(() => {});
      return sync;
    });
    return this.#next;
  }
}

async function recordOf(layer: LayerSource, directory: string, written: UnpackedLayer): Promise<LayerRecord> {
  const { usedBytes, inodesUsed } = await fileSystems.usage(join(directory, 'fs'));
  return {
    version: 1,
    chainId: layer.chainId,
    diffId: layer.diffId,
    digest: layer.digest,
    blobBytes: Number(layer.sizeBytes),
    usedBytes: Number(usedBytes),
    inodesUsed: Number(inodesUsed),
    root: written.root,
    rootIsOpaque: written.rootIsOpaque,
    state: written.state,
  };
}

/** The chain id of the lowest layer is its diff id. */
function placeOf(layer: LayerSource): 'lowest' | 'above others' {
  return (layer.chainId as string) === layer.diffId ? 'lowest' : 'above others';
}

function temporaryName(): string {
  return `${TEMPORARY}${randomBytes(12).toString('hex')}`;
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}
