/**
 * PullImage of an image as large as real ones, beside two tools that do the same: `skopeo copy`, then `umoci unpack`;
 * over a slow line, of one very large layer, and five at once.
 */
import { appendFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buildImage, dir, file, type LayerFile, push } from '../test/e2e/images.ts';
import { memoryKb, run } from './ground.ts';
import { type Bench, turned } from './life.ts';
import { costing } from './processor.ts';
import { type Rounds, roundsOf } from './rounds.ts';
import { SlowLine } from './slow-line.ts';
import type { Target } from './targets.ts';

const LAYERS = 7;
const FILES_PER_LAYER = 1000;
const BYTES_PER_LAYER = 33_000_000;
const ROUNDS: Rounds = { most: 3, ms: 40_000 };
/** A registry at the other end of what many nodes have. */
const SLOW_BYTES_PER_SECOND = 20_000_000;
/** One layer as those of machine learning have it. */
const HUGE_FILES = 60_000;
const HUGE_BYTES = 2_000_000_000;
const HUGE_ROUNDS: Rounds = { most: 2, ms: 30_000 };
const AT_ONCE = 5;
/** Nobody measures it, and a disk that others use takes minutes for 60 000 files. */
const REMOVAL_MS = 10 * 60_000;

const GROWTH = 'daemon growth while it pulls';

export async function pulls(bench: Bench): Promise<void> {
  const { ground, targets, report } = bench;
  for (const compression of ['gzip', 'zstd'] as const) {
    const layers = Array.from({ length: LAYERS }, (_, layer) => ({ files: layerFiles(layer), compression }));
    const reference = await offer(bench, `large:${compression}`, layers);
    if (compression === 'zstd') report.lacks('floor', `PullImage ${compression}`, 'umoci has no zstd');
    await inTurn(bench, ROUNDS, compression, [
      ...(compression === 'zstd' ? [] : [() => byHand(bench, reference, `PullImage ${compression}`)]),
      ...targets.map((target) => () => pull(bench, target, [reference], `PullImage ${compression}`, GROWTH)),
    ]);
  }
  await slowPulls(bench, `${ground.registry.host}/bench/large:gzip`);
  await pullsAtOnce(bench);
  await hugePull(bench);
  for (const { column, own } of targets) if (own === undefined) report.lacks(column, GROWTH, 'unknown', 'MB');
}

/** Over a line of 20 MB/s: how long, and how much of that was after the last byte. */
async function slowPulls(bench: Bench, image: string): Promise<void> {
  const { ground, targets, report } = bench;
  const line = await SlowLine.to(ground.registry.host, SLOW_BYTES_PER_SECOND);
  const reference = image.replace(ground.registry.host, line.host);
  await appendFile(join(ground.dir, 'registries.conf'), `[[registry]]\nlocation = "${line.host}"\ninsecure = true\n`);
  const name = 'PullImage gzip at 20 MB/s';
  const slowly = async (target: Target): Promise<void> => {
    line.count();
    const end = await pull(bench, target, [reference], name, GROWTH);
    const { firstAt, lastAt } = line.carried;
    report.add(target.column, `${name}: after the last byte`, end - lastAt);
    report.add(target.column, `${name}: that of the transfer`, ((end - lastAt) / (lastAt - firstAt)) * 100, '%');
  };
  try {
    await inTurn(
      bench,
      ROUNDS,
      'at 20 MB/s',
      targets.map((target) => () => slowly(target)),
    );
  } finally {
    await line.close();
  }
}

/** Different images, so that nobody waits for what somebody else brings. */
async function pullsAtOnce(bench: Bench): Promise<void> {
  const references: string[] = [];
  for (let i = 0; i < AT_ONCE; i++) {
    const layers = [0, 1].map((layer) => ({ files: layerFiles(LAYERS + 2 * i + layer) }));
    references.push(await offer(bench, `one-of-${AT_ONCE}:${i}`, layers));
  }
  const name = `${AT_ONCE} pulls at once`;
  await inTurn(
    bench,
    ROUNDS,
    name,
    bench.targets.map((target) => () => pull(bench, target, references, name, `daemon growth, ${name}`)),
  );
}

async function hugePull(bench: Bench): Promise<void> {
  const name = 'PullImage of one layer, 2 GB in 60 000 files';
  const reference = await offer(bench, 'huge:1', [{ files: hugeLayer() }]);
  await inTurn(
    bench,
    HUGE_ROUNDS,
    name,
    bench.targets.map((target) => () => pull(bench, target, [reference], name, 'daemon growth, 2 GB layer')),
  );
}

/** Makes an image and gives it to the registry; its name there. */
async function offer(
  { ground, say }: Bench,
  name: string,
  layers: Parameters<typeof buildImage>[0]['layers'],
): Promise<string> {
  say(`make the image ${name}`);
  const layout = join(ground.dir, 'images/pulled');
  const reference = `${ground.registry.host}/bench/${name}`;
  await push(await buildImage({ directory: layout, name: 'large', layers }), reference);
  await rm(layout, { recursive: true });
  return reference;
}

/** Everybody once in each round, another one first each time. */
async function inTurn(
  { ground, say }: Bench,
  rounds: Rounds,
  what: string,
  works: readonly (() => Promise<unknown>)[],
): Promise<void> {
  for (const i of roundsOf(rounds)) {
    say(`pull ${what} ${i}/${rounds.most}`);
    for (const work of turned(works, i)) {
      // What the last one wrote must not be written during the next one's time.
      await run('sync', ['-f', ground.dir]);
      await work();
    }
  }
}

/** When it ended, in milliseconds of `performance.now()`. */
async function pull(
  { report }: Bench,
  target: Target,
  images: readonly string[],
  name: string,
  growth: string,
): Promise<number> {
  const { column, cri, own } = target;
  const before = own === undefined ? 0 : memoryKb(own.pid, 'status', 'VmRSS');
  // 5: forget the peak of the resident set (proc_pid_clear_refs(5)).
  if (own !== undefined) await writeFile(`/proc/${own.pid}/clear_refs`, '5');
  const from = performance.now();
  await costing(report, target, `processor time of ${name}`, () => Promise.all(images.map((image) => cri.pull(image))));
  const end = performance.now();
  report.add(column, name, end - from);
  if (own !== undefined) report.add(column, growth, (memoryKb(own.pid, 'status', 'VmHWM') - before) / 1024, 'MB');
  for (const image of images) await cri.rpc.removeImage({ image: { image } }, { deadlineMs: REMOVAL_MS });
  return end;
}

async function byHand({ ground, report }: Bench, reference: string, name: string): Promise<void> {
  const layout = join(ground.dir, 'by-hand');
  const from = performance.now();
  await run('skopeo', [
    'copy',
    '--quiet',
    '--insecure-policy',
    '--src-tls-verify=false',
    `docker://${reference}`,
    `oci:${layout}:large`,
  ]);
  await run('umoci', ['unpack', '--image', `${layout}:large`, `${layout}-bundle`], { maxBuffer: 1e8 });
  report.add('floor', name, performance.now() - from);
  await rm(layout, { recursive: true });
  await rm(`${layout}-bundle`, { recursive: true });
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

/** Its files are pieces of the same bytes, which are much longer than what any packing looks back. */
function hugeLayer(): LayerFile[] {
  const all = Buffer.concat(layerFiles(100).map(({ content: bytes }) => bytes ?? Buffer.alloc(0)));
  const each = HUGE_BYTES / HUGE_FILES;
  const files: LayerFile[] = [];
  for (let i = 0; i < HUGE_FILES; i++) {
    const at = (i * 7_919_993) % (all.length - 2 * each);
    if (i % 100 === 0) files.push(dir(`d${i / 100}`));
    // From a tenth to nearly twice the mean.
    const size = Math.trunc(each * (0.1 + ((i * 37) % 100) * 0.018));
    files.push({ ...file(`d${Math.trunc(i / 100)}/f${i}`, ''), content: all.subarray(at, at + size) });
  }
  return files;
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
