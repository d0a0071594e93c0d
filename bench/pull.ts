/**
 * PullImage of an image as large as real ones, beside two tools that do the same: `skopeo copy`, then `umoci unpack`.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { buildImage, dir, file, type LayerFile, push } from '../test/e2e/images.ts';
import { memoryKb, run } from './ground.ts';
import { type Bench, turned } from './life.ts';
import type { Target } from './targets.ts';
import { writeFile } from 'node:fs/promises';

const LAYERS = 7;
const FILES_PER_LAYER = 1000;
const BYTES_PER_LAYER = 33_000_000;
const ROUNDS = 3;

export async function pulls(bench: Bench): Promise<void> {
  const { ground, targets, report, say } = bench;
  for (const compression of ['gzip', 'zstd'] as const) {
    say(`make the image, ${compression}`);
    const layout = join(ground.dir, `images/${compression}`);
    const reference = `${ground.registry.host}/bench/large:${compression}`;
    const layers = Array.from({ length: LAYERS }, (_, layer) => ({ files: layerFiles(layer), compression }));
    await push(await buildImage({ directory: layout, name: 'large', layers }), reference);
    await rm(layout, { recursive: true });
    for (let i = 0; i < ROUNDS; i++) {
      say(`pull ${compression} ${i}/${ROUNDS}`);
      for (const work of turned(
        [
          () => byHand(bench, reference, compression),
          ...targets.map((target) => () => pull(bench, target, reference, compression)),
        ],
        i,
      )) {
        // What the last one wrote must not be written during the next one's time.
        await run('sync', ['-f', ground.dir]);
        await work();
      }
    }
  }
  for (const { column, own } of targets)
    if (own === undefined) report.lacks(column, 'daemon growth while it pulls', 'unknown', 'MB');
}

async function pull(
  { report }: Bench,
  { column, cri, own }: Target,
  image: string,
  compression: string,
): Promise<void> {
  const before = own === undefined ? 0 : memoryKb(own.pid, 'status', 'VmRSS');
  // 5: forget the peak of the resident set (proc_pid_clear_refs(5)).
  if (own !== undefined) await writeFile(`/proc/${own.pid}/clear_refs`, '5');
  const from = performance.now();
  await cri.pull(image);
  report.add(column, `PullImage ${compression}`, performance.now() - from);
  if (own !== undefined)
    report.add(column, 'daemon growth while it pulls', (memoryKb(own.pid, 'status', 'VmHWM') - before) / 1024, 'MB');
  await cri.rpc.removeImage({ image: { image } });
}

async function byHand({ ground, report }: Bench, reference: string, compression: string): Promise<void> {
  const layout = join(ground.dir, 'by-hand');
  const name = `PullImage ${compression}`;
  const from = performance.now();
  await run('skopeo', [
    'copy',
    '--quiet',
    '--insecure-policy',
    '--src-tls-verify=false',
    `docker://${reference}`,
    `oci:${layout}:large`,
  ]);
  try {
    await run('umoci', ['unpack', '--image', `${layout}:large`, `${layout}-bundle`], { maxBuffer: 1e8 });
    report.add('floor', name, performance.now() - from);
  } catch (error) {
    if (compression !== 'zstd') throw error;
    report.lacks('floor', name, 'umoci has no zstd');
  }
  await rm(layout, { recursive: true });
  await rm(`${layout}-bundle`, { recursive: true, force: true });
}

/**
 * Files as in real images, from a few bytes to megabytes, three quarters text and the rest noise; the same bytes in
 * every run.
 */
function layerFiles(layer: number): LayerFile[] {
  const random = xorshift(layer + 1);
  const words = Array.from({ length: 4096 }, () =>
    Buffer.from(Array.from({ length: 2 + (random() % 9) }, () => 97 + (random() % 26))),
  );
  const sizes = Array.from({ length: FILES_PER_LAYER }, () => 2 ** ((random() % 1600) / 100));
  const scale = BYTES_PER_LAYER / sizes.reduce((sum, size) => sum + size, 0);
  const root = `layer${layer}`;
  const directories = Array.from({ length: FILES_PER_LAYER / 20 }, (_, i) => dir(`${root}/d${i}`));
  return [
    dir(root),
    ...directories,
    ...sizes.map((size, i) =>
      file(`${root}/d${Math.floor(i / 20)}/f${i}`, content(Math.ceil(size * scale), words, random)),
    ),
  ];
}

function content(size: number, words: readonly Buffer[], random: () => number): Buffer {
  const bytes = Buffer.alloc(size, 32);
  const text = Math.floor(size * 0.75);
  for (let at = 0; at < text; ) {
    // The product of two: some words are far more common than others, as in any language.
    const word = words[((random() % 64) * (random() % 64)) % words.length] ?? Buffer.alloc(1);
    at += word.copy(bytes, at, 0, Math.min(word.length, text - at)) + 1;
  }
  for (let at = text; at < size; at++) bytes[at] = random() & 0xff;
  return bytes;
}

/** Marsaglia's 32-bit xorshift: noise that is the same everywhere. */
function xorshift(seed: number): () => number {
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
}
