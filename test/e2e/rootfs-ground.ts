/**
 * What the suites of layers and mounts share: a driver on a directory of its own, and layers to feed it. Each test
 * starts with no layer, and leaves none half done, no container, no mount and no descriptor.
 */
import { assert } from 'chai';
import { waitFor } from './cri-client.ts';
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { explain, RuntimeError } from '../../pkg/base/errors.ts';
import { type ChainId, type Digest, hexOf, parseChainId, parseDigest } from '../../pkg/base/ids.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { OverlayRootfs } from '../../pkg/rootfs/index.ts';
import * as sys from '../../pkg/sys/index.ts';
import type { LayerSource } from '../../pkg/ports/image.ts';
import type { RootfsOptions } from '../../pkg/ports/rootfs.ts';

export const PLAIN: RootfsOptions = { mountOptions: [], quotaBytes: 0n, idMap: null };
export const BOUNDS = {
  entriesCount: 12_000,
  unpackedBytes: 64 * 1024 * 1024,
  ratio: 100,
  ratioGraceBytes: 8 * 1024 * 1024,
};
export const op = backgroundOp(silent);
export const WHOLE = { subPath: '', idMap: null };

export let dir = '';
export let driver: OverlayRootfs;
let blobs = 0;

export const sh = (script: string, cwd = dir): string =>
  execFileSync('/bin/bash', ['-euc', script], { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
export const sha256 = (bytes: Buffer | string): Digest =>
  parseDigest(`sha256:${createHash('sha256').update(bytes).digest('hex')}`);

/** A layer whose blob is `blob`, on top of `below`. */
export async function layerOf(tar: Buffer, blob = tar, below: readonly ChainId[] = []): Promise<LayerSource> {
  const path = join(dir, `blob-${blobs++}`);
  await writeFile(path, blob);
  const diffId = sha256(tar);
  const top = below.at(-1);
  const chainId = parseChainId(top === undefined ? diffId : sha256(`${top} ${diffId}`));
  return {
    path,
    digest: sha256(blob),
    diffId,
    chainId,
    mediaType: '',
    sizeBytes: BigInt(blob.length),
    onProgress() {},
  };
}

/** Unpacks tars on top of each other. */
export async function stackOf(...tars: readonly Buffer[]): Promise<ChainId[]> {
  const chain: ChainId[] = [];
  for (const tar of tars) {
    const layer = await layerOf(tar, tar, chain);
    await driver.unpack(op, layer);
    chain.push(layer.chainId);
  }
  return chain;
}

export const treeOf = (chainId: ChainId | undefined): string =>
  join(dir, 'root/layers', hexOf(chainId as ChainId), 'fs');

export async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    return `${error.code}: ${explain(error)}`;
  }
  return 'accepted';
}

const openFiles = async (): Promise<number> => (await readdir('/proc/self/fd')).length;
export const mounts = async (): Promise<string[]> =>
  (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').filter((line) => line.includes(dir));

/** Gives the suite that calls it the directory `dir` and a `driver` for each test; checks what they leave. */
export function useRootfsGround(): void {
  before(async function () {
    if (process.getuid?.() !== 0) throw new Error('needs root');
    dir = await mkdtemp('/tmp/berth-rootfs-');
    // libuv opens /dev/null beside the first stream of a loop and keeps it, as a spare for when descriptors run out.
    // With stdout into a pipe that is at the start; into a file, it would be in the middle of a test.
    await once(spawn('true', { stdio: ['ignore', 'pipe', 'inherit'] }), 'close');
    // The first child of ours makes the null device of all that follow, which stays, too.
    await (await sys.spawn({ argv: ['/bin/true'] })).exited;
  });

  after(async () => {
    assert.deepEqual(await mounts(), [], 'mounts left behind');
    await rm(dir, { recursive: true, force: true });
  });

  let filesBefore = 0;

  beforeEach(async () => {
    driver = new OverlayRootfs({ root: join(dir, 'root'), unpackLimits: BOUNDS });
    await driver.sweepLayers(op);
    filesBefore = await openFiles();
  });

  afterEach(async () => {
    for (const id of await driver.list()) await driver.destroy(op, id);
    await driver.close();
    const left = (await readdir(join(dir, 'root/layers'))).filter((name) => name.startsWith('.tmp-'));
    assert.deepEqual(left, [], 'partial layers left behind');
    assert.deepEqual(await readdir(join(dir, 'root/rootfs')), [], 'containers left behind');
    // Pipes of a child that was killed close a turn of the loop or two after its exit is known.
    await waitFor(openFiles, (count) => count <= filesBefore, `no more than ${filesBefore} descriptors to be open`, {
      timeoutMs: 20_000,
    });
    await rm(join(dir, 'root'), { recursive: true, force: true });
    for (const name of await readdir(dir)) if (name.startsWith('blob-')) await rm(join(dir, name));
  });
}
