/**
 * What the worker threads do: everything about layers that would hold up the event loop. One job at a time per worker.
 *
 * Jobs are cancelled by a flag in shared memory that is looked at once per block, not by killing the thread: a killed
 * thread leaves its file descriptors open in the daemon. The same memory tells the parent how far the job is.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parentPort } from 'node:worker_threads';
import { crc32 } from 'node:zlib';
import { codeOf, type ErrorCode, explain, RuntimeError, storageError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { Root, descriptors } from '../sys/index.ts';
import { decompress } from './decompress.ts';
import { Growth } from './growth.ts';
import { bytesOf, RootTree } from './layer-tree.ts';
import { LayerWriter, settleLayer } from './layer-writer.ts';
import { MANIFEST, type ManifestRecord, ManifestWriter, recordsOf, replayManifest } from './manifest.ts';
import type { Stat } from '../ports/kernel.ts';
import { MemoryAccount } from './memory-account.ts';
import { PENDING, readPending, writePending } from './pending-file.ts';
import { TarReader } from './tar.ts';
import { createTexts, textsOf, writeAll } from './texts.ts';
import type { RootOwner, WrittenLayer } from './node.ts';

/** Every bound of unpacking one layer. */
export interface UnpackLimits {
  readonly entriesCount: number;
  readonly unpackedBytes: number;
  /** Unpacked bytes per blob byte, looked at only above `ratioGraceBytes`. */
  readonly ratio: number;
  readonly ratioGraceBytes: number;
  /** What may be kept in memory: names, attributes, and the window of the decoder. */
  readonly memoryBytes: number;
}

/** The blob of a layer, to be inflated and hashed. */
export interface LayerInput {
  /** Open descriptor of the blob, or of a pipe with the unpacked tar. The parent closes it. */
  readonly fd: number;
  readonly compression: 'none' | 'gzip' | 'zstd';
  /** Size of the blob as promised, for the ratio, and the end of one that is growing. */
  readonly blobBytes: number;
  /** What tells how far a blob is that is still arriving (growth.ts); null = all of it is there. */
  readonly growth: BigInt64Array<SharedArrayBuffer> | null;
  /** What the image config promises. */
  readonly diffId: string;
  readonly limits: UnpackLimits;
}

/** Makes a layer of a blob. */
export interface UnpackJob extends LayerInput {
  readonly type: 'unpack';
  /** Holds `fs/`; the manifest is written beside it. */
  readonly directory: string;
  /** The lowest layer has none to want anything from. */
  readonly place: 'lowest' | 'above others';
}

/** Only says whether the blob unpacks to the diff id. */
export interface ProveJob extends LayerInput {
  readonly type: 'prove';
  /** For messages. */
  readonly directory: string;
}

/** Does what a layer left pending. */
export interface SettleJob {
  readonly type: 'settle';
  readonly directory: string;
  /** Directory with the merged lower layers. */
  readonly below: string;
  /** What is copied from below is bounded like what is unpacked. */
  readonly limits: Pick<UnpackLimits, 'unpackedBytes' | 'memoryBytes'>;
}

/** Compares a layer with its manifest. */
export interface VerifyJob {
  readonly type: 'verify';
  readonly directory: string;
}

/** What a worker does. */
export type Job = UnpackJob | ProveJob | SettleJob | VerifyJob;

/** What remains to be said of a layer when it is written. Of fixed size: it is the daemon's. */
export interface UnpackedLayer {
  /** 'pending': what it wants from the layers below is in the file `pending`. */
  readonly state: 'settled' | 'pending';
  readonly root: RootOwner | null;
  readonly rootIsOpaque: boolean;
}

/** What comes of each. */
export interface Results {
  readonly unpack: UnpackedLayer;
  readonly prove: null;
  readonly settle: null;
  /** What is wrong, worst first told, at most limits.layerProblemsCount lines; empty if all is well. */
  readonly verify: readonly string[];
}

/** What is sent to a worker, once per job. */
export interface Request {
  readonly job: Job;
  /** Int32: [cancelled]. */
  readonly cancel: Int32Array;
  /** BigInt64: [blob bytes read, tar bytes written]. */
  readonly progress: BigInt64Array;
}

/** What comes back, once per job. */
export type Reply =
  | { readonly result: Results[keyof Results] }
  | { readonly code: ErrorCode; readonly message: string };

/** What a file's checksum is made of at a time. */
const READ_BYTES = 256 * 1024;
/** Of manifests: replayed, it takes some four times as much. */
const VERIFIED_AT_ONCE_BYTES = 16 << 20;

parentPort?.on('message', (request: Request) => {
  run(request).then(
    (result) => parentPort?.postMessage({ result } satisfies Reply),
    (error: unknown) => parentPort?.postMessage(refusal(error, request.job.directory)),
  );
});

/** Only text crosses to the parent, so what a full disk means is said on this side. */
function refusal(error: unknown, directory: string): Reply {
  const known = storageError(error, directory);
  return { code: codeOf(known), message: explain(known) };
}

async function run(request: Request): Promise<Results[keyof Results]> {
  switch (request.job.type) {
    case 'unpack':
      return unpack(request.job, request);
    case 'prove':
      await readTar(request.job, request, new MemoryAccount(request.job.limits.memoryBytes), () => {});
      return null;
    case 'settle':
      return settle(request.job, request);
    case 'verify':
      return verify(request.job, request);
  }
}

async function unpack(job: UnpackJob, request: Request): Promise<UnpackedLayer> {
  using root = Root.open(join(job.directory, 'fs'), 'chroot');
  const account = new MemoryAccount(job.limits.memoryBytes);
  return await writeManifest(join(job.directory, 'manifest'), async (manifest) => {
    const writer = new LayerWriter(new RootTree(root, undefined), manifest, account);
    try {
      await readLayer(job, request, writer, account);
      const written = writer.finish();
      return { state: leavePending(job, written), root: written.root, rootIsOpaque: written.rootIsOpaque };
    } finally {
      writer.abandon();
    }
  });
}

/** @throws DataLoss for a lowest layer that would have to lean on another. */
function leavePending(job: UnpackJob, { pending }: WrittenLayer): UnpackedLayer['state'] {
  if (job.place === 'above others')
    return writePending(join(job.directory, PENDING), pending) === 'nothing' ? 'settled' : 'pending';
  for (const [path, target] of pending.links())
    throw new RuntimeError(
      'DataLoss',
      `${quote(path)} is a hard link to ${quote(target)}, which is not in the layer, and there is no layer below`,
    );
  return 'settled';
}

async function writeManifest<T>(path: string, work: (manifest: ManifestWriter) => T | Promise<T>): Promise<T> {
  const fd = createTexts(path);
  try {
    const manifest = new ManifestWriter((bytes) => writeAll(fd, bytes));
    const result = await work(manifest);
    manifest.flush();
    return result;
  } finally {
    closeSync(fd);
  }
}

/** Inflates, hashes, parses and writes. @throws as `readTar`. */
async function readLayer(job: UnpackJob, request: Request, writer: LayerWriter, account: MemoryAccount): Promise<void> {
  const bounds = {
    entriesCount: job.limits.entriesCount,
    contentBytes: job.limits.unpackedBytes,
    recordBytes: limits.tarHeaderRecordBytes,
    pathBytes: limits.tarPathBytes,
    sparsePartsCount: limits.tarSparsePartsCount,
  };
  const tar = new TarReader(writer, bounds);
  await readTar(job, request, account, (bytes) => tar.push(bytes));
  tar.finish();
}

/** Inflates and hashes. @throws DataLoss if the diff id is another one. */
async function readTar(
  job: LayerInput,
  request: Request,
  account: MemoryAccount,
  onBytes: (bytes: Buffer) => void,
): Promise<void> {
  const hash = createHash(job.diffId.slice(0, job.diffId.indexOf(':')));
  let [consumed, produced] = [0, 0];
  const onRead = (bytes: number): void => {
    consumed += bytes;
    Atomics.store(request.progress, 0, BigInt(consumed));
  };
  const onTar = (bytes: Buffer): void => {
    checkCancelled(request);
    produced += bytes.length;
    checkRatio(job, produced);
    hash.update(bytes);
    onBytes(bytes);
    Atomics.store(request.progress, 1, BigInt(produced));
  };
  const growing = job.growth === null ? undefined : { growth: new Growth(job.growth), endBytes: job.blobBytes };
  await decompress({ fd: job.fd, compression: job.compression, growing }, { onRead, onTar, account });
  const diffId = `${job.diffId.slice(0, job.diffId.indexOf(':'))}:${hash.digest('hex')}`;
  if (diffId !== job.diffId)
    throw new RuntimeError('DataLoss', `the layer unpacks to ${diffId}, but the image config promises ${job.diffId}`);
}

/** The bound on bytes counts what lies in files; padding and headers of nothing else are bounded here too. */
function checkRatio(job: LayerInput, produced: number): void {
  const most = Math.min(
    job.limits.unpackedBytes * 2 + job.limits.ratioGraceBytes,
    Math.max(job.limits.ratioGraceBytes, job.blobBytes * job.limits.ratio),
  );
  if (produced <= most) return;
  throw new RuntimeError(
    'ResourceExhausted',
    `the layer of ${job.blobBytes} bytes unpacks to more than ${most} bytes; this looks like a decompression bomb`,
  );
}

/** In a manifest of its own: appending to the first one could be cut short by a crash. */
async function settle(job: SettleJob, request: Request): Promise<null> {
  using root = Root.open(join(job.directory, 'fs'), 'chroot');
  using below = Root.open(job.below, 'chroot');
  const tree = new RootTree(root, below);
  const bounds = {
    copiedBytes: job.limits.unpackedBytes,
    account: new MemoryAccount(job.limits.memoryBytes),
    look: () => checkCancelled(request),
  };
  const pending = readPending(join(job.directory, PENDING));
  await writeManifest(join(job.directory, 'manifest.settled'), (manifest) =>
    settleLayer(tree, pending, manifest, bounds),
  );
  return null;
}

/** A manifest is as long as its layer likes: it is replayed as often as needed, for a part of the paths each time. */
function verify(job: VerifyJob, request: Request): readonly string[] {
  const files = ['manifest', 'manifest.settled'].map((name) => join(job.directory, name));
  const bytes = files.reduce((sum, path) => sum + (statSync(path, { throwIfNoEntry: false })?.size ?? 0), 0);
  const rounds = Math.max(1, Math.ceil(bytes / VERIFIED_AT_ONCE_BYTES));
  using root = Root.open(join(job.directory, 'fs'), 'chroot');
  const problems: string[] = [];
  for (let round = 0; round < rounds; round++) {
    const records = replayManifest(linesOf(files, request), (path) => crc32(bytesOf(path)) % rounds === round);
    const given = givenByLinks(root, records, () => linesOf(files, request));
    for (const [path, record] of records) {
      checkCancelled(request);
      const problem = compare(root, path, { ...record, ...given.get(path) }, request);
      if (problem !== undefined) problems.push(`${JSON.stringify(`/${path}`)} ${problem}`);
      if (problems.length >= limits.layerProblemsCount) return problems;
    }
  }
  return problems;
}

type Owned = Pick<ManifestRecord, 'mode' | 'uid' | 'gid'>;

function isOwnedAs(stat: Stat, { mode, uid, gid }: Owned): boolean {
  return stat.mode === mode && stat.uid === uid && stat.gid === gid;
}

/**
 * What hard links have given to files that are not as their own entries said: by path. Links are found by their inode,
 * since a layer may name one file by many ways; whoever wrote the layer needs none, and the links are not read then.
 */
function givenByLinks(
  root: Root,
  records: ReadonlyMap<string, ManifestRecord>,
  lines: () => Iterable<string>,
): ReadonlyMap<string, Owned> {
  const changed = new Map<bigint, string[]>();
  for (const [path, record] of records) {
    if (record.kind !== 'f') continue;
    const stat = root.stat(bytesOf(path));
    if (stat?.kind !== 'file' || stat.links < 2 || isOwnedAs(stat, record)) continue;
    changed.set(stat.inode, [...(changed.get(stat.inode) ?? []), path]);
  }
  const given = new Map<string, Owned>();
  if (changed.size === 0) return given;
  for (const { path, record } of recordsOf(lines())) {
    const inode = record?.kind === 'h' ? root.stat(bytesOf(path))?.inode : undefined;
    if (record === undefined || inode === undefined) continue;
    const { mode, uid, gid } = record;
    for (const each of changed.get(inode) ?? []) given.set(each, { mode, uid, gid });
  }
  return given;
}

/** The second file is there only if there was something to settle. */
function* linesOf(files: readonly string[], request: Request): Generator<string, void, void> {
  for (const [index, path] of files.entries()) {
    if (index > 0 && statSync(path, { throwIfNoEntry: false }) === undefined) continue;
    for (const text of textsOf(path, MANIFEST)) {
      checkCancelled(request);
      yield text;
    }
  }
}

const KINDS: Readonly<Record<ManifestRecord['kind'], string>> = {
  d: 'directory',
  f: 'file',
  l: 'symlink',
  h: 'file',
  c: 'character',
  b: 'block',
  p: 'fifo',
};

/** What is wrong with one node; undefined if nothing is. */
function compare(root: Root, path: string, record: ManifestRecord, request: Request): string | undefined {
  const stat = root.stat(bytesOf(path));
  if (stat === undefined) return 'is missing';
  if (record.kind === 'h') {
    const target = root.stat(bytesOf(record.target));
    return target?.inode === stat.inode ? undefined : `is no longer a hard link to ${JSON.stringify(record.target)}`;
  }
  if (stat.kind !== KINDS[record.kind]) return `is a ${stat.kind} instead of a ${KINDS[record.kind]}`;
  if (record.kind === 'l')
    return root.readLink(bytesOf(path)).toString('latin1') === record.target ? undefined : 'points elsewhere';
  if (!isOwnedAs(stat, record)) return 'has another owner or mode';
  if (record.kind === 'c' || record.kind === 'b')
    return `${stat.major}:${stat.minor}` === record.target ? undefined : 'is another device';
  if (record.kind !== 'f') return undefined;
  if (stat.size !== BigInt(record.sizeBytes)) return `has ${stat.size} bytes instead of ${record.sizeBytes}`;
  return record.crc === undefined || crcOf(root, path, request) === record.crc ? undefined : 'has another content';
}

function crcOf(root: Root, path: string, request: Request): number {
  const fd = root.openFile(bytesOf(path), constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const block = Buffer.allocUnsafeSlow(READ_BYTES);
    let crc = 0;
    for (let count = readSync(fd, block); count > 0; count = readSync(fd, block)) {
      checkCancelled(request);
      crc = crc32(block.subarray(0, count), crc);
    }
    return crc;
  } finally {
    descriptors.close(fd);
  }
}

function checkCancelled(request: Request): void {
  if (Atomics.load(request.cancel, 0) !== 0) throw new RuntimeError('Cancelled', 'cancelled while unpacking a layer');
}
