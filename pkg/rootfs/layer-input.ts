/** From the file of a blob, whole or still arriving, to what a worker reads. */
import { constants, openSync, readSync } from 'node:fs';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { abortError, type Op } from '../base/op.ts';
import type { ArrivingBlob, LayerSource } from '../ports/image.ts';
import type { Child } from '../ports/kernel.ts';
import { descriptors, spawn } from '../sys/index.ts';
import { type Compression, compressionOf } from './decompress.ts';
import { Growth } from './growth.ts';
import type { LayerInput, UnpackLimits } from './unpack-worker.ts';

/** The longest magic number: so many bytes say how a blob is packed. */
export const HEAD_BYTES = 6;

/** Gives the blob of a layer to `work`, inflated if no worker can. */
export async function readWhole<T>(
  op: Op,
  layer: LayerSource,
  limits: UnpackLimits,
  work: (input: LayerInput) => Promise<T>,
): Promise<T> {
  const known = { blobBytes: Number(layer.sizeBytes), diffId: layer.diffId, limits, growth: null };
  const blob = openSync(layer.path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const compression = compressionOf(head(blob));
    if (compression === 'xz' || compression === 'bzip2')
      return await unpackThrough(op, compression, blob, (fd) => work({ ...known, fd, compression: 'none' }));
    return await work({ ...known, fd: blob, compression });
  } finally {
    descriptors.close(blob);
  }
}

/**
 * Gives a blob to `work` that is still arriving and of which the first bytes are here; undefined if it is there
 * meanwhile, under its own name, or packed with what only another program can unpack, which would take the end of what
 * is here for the end of the blob.
 */
export async function readArriving<T>(
  op: Op,
  { layer, blob }: { readonly layer: LayerSource; readonly blob: ArrivingBlob },
  limits: UnpackLimits,
  work: (input: LayerInput) => Promise<T>,
): Promise<T | undefined> {
  const fd = openArriving(blob.path);
  if (fd === undefined) return undefined;
  const growth = new Growth();
  const giveUp = (): void => growth.giveUp();
  try {
    const compression = compressionOf(head(fd));
    if (compression === 'xz' || compression === 'bzip2') return undefined;
    op.signal.addEventListener('abort', giveUp, { once: true });
    blob.follow((present) => growth.reach(present));
    blob.whole.catch(giveUp);
    const blobBytes = Number(layer.sizeBytes);
    return await work({ fd, compression, blobBytes, growth: growth.shared, diffId: layer.diffId, limits });
  } finally {
    op.signal.removeEventListener('abort', giveUp);
    descriptors.close(fd);
  }
}

/**
 * Formats that Node cannot unpack go through their own program, which has no right to more than it needs to hold one
 * window.
 */
async function unpackThrough<T>(
  op: Op,
  program: Extract<Compression, 'xz' | 'bzip2'>,
  blob: number,
  work: (fd: number) => Promise<T>,
): Promise<T> {
  const tar = descriptors.pipe();
  let child: Child;
  try {
    child = await spawn({
      argv: program === 'xz' ? ['xz', '-dc', '--memlimit-decompress=256MiB'] : ['bzip2', '-dc'],
      fds: [blob, tar.write, 'null'],
    });
  } catch (cause) {
    descriptors.close(tar.read);
    descriptors.close(tar.write);
    throw new RuntimeError(
      'Unimplemented',
      `the layer is packed with ${program}, and the program \`${program}\` does not start on this node: install it`,
      { cause },
    );
  }
  descriptors.close(tar.write);
  // The worker may be waiting for bytes and not see its flag.
  const kill = (): void => void child.kill(9);
  op.signal.addEventListener('abort', kill, { once: true });
  try {
    const result = await work(tar.read).catch((error: unknown) => error);
    descriptors.close(tar.read);
    const ending = await child.exited;
    if (op.signal.aborted) throw abortError(op, 'unpack layer');
    // SIGPIPE ends it when nobody listens any more; then the result says why.
    if (ending.kind === 'exited' && ending.code !== 0)
      throw new RuntimeError(
        'DataLoss',
        `the ${program} data of the layer is damaged, cut short, or wants more than 256 MiB of ` +
          `memory (${program} exit code ${ending.code})`,
      );
    if (result instanceof Error) throw result;
    return result as T;
  } finally {
    op.signal.removeEventListener('abort', kill);
  }
}

function openArriving(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function head(fd: number): Uint8Array {
  const bytes = Buffer.alloc(HEAD_BYTES);
  return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, 0));
}
