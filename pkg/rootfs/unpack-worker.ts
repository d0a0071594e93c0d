/**
 * What the worker threads do: everything about layers that would hold up the event loop. One job at a time per worker.
 *
 * Jobs are cancelled by a flag in shared memory that is looked at once per block, not by killing the thread: a killed
 * thread leaves its file descriptors open in the daemon. The same memory tells the parent how far the job is.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, existsSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { parentPort } from 'node:worker_threads';
import { crc32 } from 'node:zlib';
import { codeOf, type ErrorCode, explain, RuntimeError, storageError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { Root, descriptors } from '../sys/index.ts';
import { decompress } from './decompress.ts';
import { bytesOf, RootTree } from './layer-tree.ts';
import { LayerWriter, settleLayer } from './layer-writer.ts';
import { type ManifestRecord, ManifestWriter, parseManifest } from './manifest.ts';
import { TarReader } from './tar.ts';
import type { Pending, WrittenLayer } from './node.ts';

/** Every bound of unpacking one layer. */
export interface UnpackLimits {
  readonly entriesCount: number;
  readonly unpackedBytes: number;
  /** Unpacked bytes per blob byte, looked at only above `ratioGraceBytes`. */
  readonly ratio: number;
  readonly ratioGraceBytes: number;
}

/** The blob of a layer, to be inflated and hashed. */
export interface LayerInput {
  /** Open descriptor of the blob, or of a pipe with the unpacked tar. The parent closes it. */
  readonly fd: number;
  readonly compression: 'none' | 'gzip' | 'zstd';
  /** Size of the blob, for the ratio. */
  readonly blobBytes: number;
  /** What the image config promises. */
  readonly diffId: string;
  readonly limits: UnpackLimits;
}

/** Makes a layer of a blob. */
export interface UnpackJob extends LayerInput {
  readonly type: 'unpack';
  /** Holds `fs/`; the manifest is written beside it. */
  readonly directory: string;
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
  readonly pending: Pending;
  /** What is copied from below is bounded like what is unpacked. */
  readonly limits: Pick<UnpackLimits, 'unpackedBytes'>;
}

/** Compares a layer with its manifest. */
export interface VerifyJob {
  readonly type: 'verify';
  readonly directory: string;
}

export type Job = UnpackJob | ProveJob | SettleJob | VerifyJob;

export interface Results {
  readonly unpack: WrittenLayer;
  readonly prove: null;
  readonly settle: null;
  /** What is wrong, worst first told, at most limits.layerProblemsCount lines; empty if all is well. */
  readonly verify: readonly string[];
}

export interface Request {
  readonly job: Job;
  /** Int32: [cancelled]. */
  readonly cancel: Int32Array;
  /** BigInt64: [blob bytes read, tar bytes written]. */
  readonly progress: BigInt64Array;
}

export type Reply =
  | { readonly result: Results[keyof Results] }
  | { readonly code: ErrorCode; readonly message: string };

/** One trip to the disk for so much. */
const READ_BYTES = 256 * 1024;

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
      await readTar(request.job, request, () => {});
      return null;
    case 'settle':
      return settle(request.job, request);
    case 'verify':
      return verify(request.job, request);
  }
}

async function unpack(job: UnpackJob, request: Request): Promise<WrittenLayer> {
  using root = Root.open(join(job.directory, 'fs'), 'chroot');
  return await writeManifest(join(job.directory, 'manifest'), async (manifest) => {
    const writer = new LayerWriter(new RootTree(root, undefined), manifest);
    try {
      await readLayer(job, request, writer);
      return writer.finish();
    } finally {
      writer.abandon();
    }
  });
}

async function writeManifest<T>(path: string, work: (manifest: ManifestWriter) => T | Promise<T>): Promise<T> {
  const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600);
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
async function readLayer(job: UnpackJob, request: Request, writer: LayerWriter): Promise<void> {
  const tar = new TarReader(writer, {
    entriesCount: job.limits.entriesCount,
    contentBytes: job.limits.unpackedBytes,
    recordBytes: limits.tarHeaderRecordBytes,
    pathBytes: limits.tarPathBytes,
    sparsePartsCount: limits.tarSparsePartsCount,
  });
  await readTar(job, request, (bytes) => tar.push(bytes));
  tar.finish();
}

/** Inflates and hashes. @throws DataLoss if the diff id is another one. */
async function readTar(job: LayerInput, request: Request, onBytes: (bytes: Buffer) => void): Promise<void> {
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
  await decompress(job.fd, job.compression, onRead, onTar);
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
  const bounds = { copiedBytes: job.limits.unpackedBytes, look: () => checkCancelled(request) };
  await writeManifest(join(job.directory, 'manifest.settled'), (manifest) =>
    settleLayer(tree, job.pending, manifest, bounds),
  );
  return null;
}

function verify(job: VerifyJob, request: Request): readonly string[] {
  const settled = join(job.directory, 'manifest.settled');
  const bytes = [
    readFileSync(join(job.directory, 'manifest')),
    ...(existsSync(settled) ? [readFileSync(settled)] : []),
  ];
  const records = parseManifest(Buffer.concat(bytes));
  using root = Root.open(join(job.directory, 'fs'), 'chroot');
  const problems: string[] = [];
  for (const [path, record] of records) {
    checkCancelled(request);
    const problem = compare(root, path, record, request);
    if (problem !== undefined) problems.push(`${JSON.stringify(`/${path}`)} ${problem}`);
    if (problems.length >= limits.layerProblemsCount) break;
  }
  return problems;
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
  if (stat.mode !== record.mode || stat.uid !== record.uid || stat.gid !== record.gid)
    return 'has another owner or mode';
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

function writeAll(fd: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
}
