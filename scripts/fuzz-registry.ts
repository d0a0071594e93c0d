/**
 * The registry part of `npm run fuzz`: pulls from registries that answer as a seed tells them
 * (test/e2e/odd-registry.ts). Held to three things: a pull always ends; it ends with the right image or with an error
 * that names host, request and remedy, and no secret; and where nothing is wrong but what other clients put up with, it
 * ends with the image.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { explain, RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { backgroundOp } from '../pkg/base/op.ts';
import { pause, within } from '../pkg/base/time.ts';
import { FakeUnpacker, RecordingLog } from '../pkg/image/fakes.ts';
import { RegistryPolicy } from '../pkg/image/policy/policy.ts';
import { ImageTrust } from '../pkg/image/signature/index.ts';
import { FileImageStore } from '../pkg/image/store.ts';
import type { Fault, FaultKind } from '../test/e2e/odd-faults.ts';
import { digestOf, LOGIN, OddRegistry, PLAIN, SECRET } from '../test/e2e/odd-registry.ts';
import type { Mood, OddImage, RangeMood, Redirect } from '../test/e2e/odd-registry.ts';

/** How much longer everything takes where others work, too: a registry that is only slow has not failed. */
const SLOWNESS = Math.min(10, Math.max(1, (loadavg()[0] ?? 0) / availableParallelism()));
/** A pull that takes longer hangs. Everything that it waits for is set to fractions of a second. */
const ENDS_MS = 60_000 * SLOWNESS;
const PATIENCE = { headersMs: 400 * SLOWNESS, bodyMs: 400 * SLOWNESS, progressTimeoutMs: 800 * SLOWNESS };
/** Half of a part is progress. */
const RANGES = { fromBytes: 200_000, eachBytes: 2 * limits.pullProgressBytes };

/** A whole number from 0 up to `below`. */
type Random = (below: number) => number;
type Pick = <T>(...choices: readonly [T, ...T[]]) => T;

/** What one seed makes. */
interface Case {
  readonly mood: Mood;
  readonly image: OddImage;
  /** Nothing in it that a client may fail over. */
  readonly mustSucceed: boolean;
}

/** One pull from what `seed` makes. @throws Error that says which promise was broken, and by which mood. */
export async function fuzzRegistry(seed: number): Promise<void> {
  const made = caseOf(seed);
  const directory = await mkdtemp(join(tmpdir(), 'fuzz-registry-'));
  const odd = await OddRegistry.start(made.image, made.mood);
  const log = new RecordingLog();
  const unpacker = new FakeUnpacker();
  const store = await storeIn(directory, odd.host, unpacker);
  const stop = new AbortController();
  try {
    await store.load(backgroundOp(log));
    const op = { ...backgroundOp(log), signal: stop.signal, stage() {} };
    const auth = { ...LOGIN, auth: '', serverAddress: '', identityToken: '', registryToken: '' };
    const outcome = await within(
      ENDS_MS,
      store.pull(op, odd.reference, made.mood.auth === 'none' ? {} : { auth }).then(
        ({ id }): Outcome => ({ id }),
        (error: unknown): Outcome => ({ error: error instanceof Error ? error : new Error(String(error)) }),
      ),
    );
    const left = unpacker.staged.size > 0 ? 'a layer that was unpacked early is left' : undefined;
    const wrong = problemOf(outcome, made, odd) ?? left ?? leakIn(log.full.join('\n'));
    if (wrong === undefined) return;
    throw new Error(
      `${wrong}\nseed: ${seed}\nmood: ${JSON.stringify(made.mood)}\nmanifest: ${made.image.manifest.toString()}\n` +
        `asked:\n  ${odd.asked.slice(0, 40).join('\n  ')}\nlog:\n  ${log.full.join('\n  ')}`,
    );
  } finally {
    stop.abort();
    await store.close();
    await odd.stop();
    await rm(directory, { recursive: true });
  }
}

async function storeIn(directory: string, host: string, unpacker: FakeUnpacker): Promise<FileImageStore> {
  const registriesConf = join(directory, 'registries.conf');
  await writeFile(registriesConf, `[[registry]]\nlocation = "${host}"\ninsecure = true\n`);
  return new FileImageStore({
    root: directory,
    unpacker,
    policy: new RegistryPolicy({ registriesConf, registriesConfDir: '', certsDirs: [], hostsDirs: [] }),
    trust: new ImageTrust({ defaultPolicies: [], signaturePolicyDir: '', registriesDirs: [] }),
    platform: { os: 'linux', architecture: 'amd64' },
    // Waits as told, a hundred times as fast.
    registry: { ...PATIENCE, ranges: RANGES, pause: (ms, signal) => pause(ms / 100, signal) },
  });
}

/** How a pull ended: the id of the image, an error, or not at all. */
type Outcome = { readonly id: string } | { readonly error: Error } | 'late';

function problemOf(outcome: Outcome, made: Case, odd: OddRegistry): string | undefined {
  if (outcome === 'late') return `it did not end in ${ENDS_MS / 1000} s`;
  if ('id' in outcome)
    return outcome.id === digestOf(made.image.config) ? undefined : `it ended with another image: ${outcome.id}`;
  const { error } = outcome;
  const text = explain(error);
  if (!(error instanceof RuntimeError)) return `no error of ours: ${error.stack ?? text}`;
  if (made.mustSucceed) return `it must succeed: ${text}`;
  if (error.code === 'Internal') return `an error without a cause that is understood: ${text}`;
  if (![odd.host, odd.store].some((host) => text.includes(host))) return `the error names no host: ${text}`;
  if (!/manifest "|blob sha256:|token server /.test(text)) return `the error does not say what was asked for: ${text}`;
  if (!REMEDIES.test(text)) return `the error has no remedy: ${text}`;
  return leakIn(text);
}

function leakIn(text: string): string | undefined {
  const secrets = [SECRET, LOGIN.password, Buffer.from(`${LOGIN.username}:${LOGIN.password}`).toString('base64')];
  const found = secrets.find((each) => text.includes(each));
  return found === undefined ? undefined : `a secret was told: ${text}`;
}

const REMEDIES = new RegExp(
  [
    'try again later',
    'pull again',
    '(push|log in) (it )?again',
    'built or pushed again',
    'must be pushed again',
    'check the name and the tag',
    'credentials do not allow',
    'no credentials were found',
    'look (at|whether)',
    'the registry has to',
    'it has to',
    'mark (it|the registry) insecure',
    'something else (is|answers)',
    'is broken',
    'do not fit together',
    'must leave that',
    'before it loops',
    'name an image',
    'rebuild (it|the image)',
    'in clear',
  ].join('|'),
);

/** A linear congruential generator with its low bits dropped: small, and the same everywhere. */
function generator(seed: number): Random {
  let state = (seed ^ 0x5deece6) >>> 0;
  const next = (): number => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0);
  for (let i = 0; i < 8; i++) next();
  return (below) => Math.floor((next() / 2 ** 32) * below);
}

function caseOf(seed: number): Case {
  const random = generator(seed);
  const pick: Pick = (...choices) => choices[random(choices.length)] ?? choices[0];
  const mood: Mood = {
    auth: pick<Mood['auth']>('none', 'none', 'basic', 'bearer', 'hidden'),
    token: pick(PLAIN.token, PLAIN.token, ...TOKENS, ...NO_TOKENS),
    contentType: pick(PLAIN.contentType, ...CONTENT_TYPES),
    digestHeader: pick<Mood['digestHeader']>('right', 'missing', 'empty', 'wrong'),
    head: pick<Mood['head']>(200, 401, 403, 404, 405, 500),
    manifestCoding: pick<Mood['manifestCoding']>(
      'none',
      'none',
      'gzip',
      'x-gzip',
      'deflate',
      'zstd',
      'gzip, said only',
      'utf-8, said only',
    ),
    blobCoding: pick<Mood['blobCoding']>('none', 'none', 'none', 'gzip', 'deflate', 'zstd'),
    chunked: pick(false, false, true),
    headerBytes: pick(0, 0, 40_000),
    ranges: pick<RangeMood>('honoured', 'honoured', ...RANGE_MOODS),
    redirect: pick<Redirect | undefined>(undefined, redirectOf(random, pick)),
    faults: Array.from({ length: pick(0, 0, 1, 1, 2, 3) }, () => faultOf(random, pick)),
  };
  const image = imageOf(random, pick);
  return { mood, image, mustSucceed: isBearable(mood) };
}

const TOKENS: readonly [string, ...string[]] = [
  '{"access_token":"TOKEN"}',
  '{"token":"","access_token":"TOKEN"}',
  '{"token":null,"access_token":"TOKEN","expires_in":null}',
  '{"Token":"TOKEN","expires_in":"300","issued_at":""}',
  '{"token":"TOKEN","expires_in":0.5}',
  '{"token":"TOKEN","expires_in":1e99}',
];
const NO_TOKENS: ReadonlySet<string> = new Set(['{}', '<html>', '{"token":7}', '{"token":"a\\nb"}', '']);
const CONTENT_TYPES: readonly [string, ...string[]] = [
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/vnd.oci.image.manifest.v1+json; charset=utf-8',
  'Application/VND.OCI.image.manifest.v1+JSON',
  'application/json',
  'text/plain',
  'text/html',
  'application/octet-stream',
  '',
];
const RANGE_MOODS: readonly [RangeMood, ...RangeMood[]] = [
  'ignored',
  'wrong part',
  'part unsaid',
  'shorter part',
  'refused 400',
  'refused 403',
  'refused 416',
  'refused 500',
  'refused 501',
];

function redirectOf(random: Random, pick: Pick): Redirect {
  return {
    status: pick<Redirect['status']>(301, 302, 303, 307, 308),
    hops: pick(1, 1, 2, 1 + random(limits.redirectsCount), limits.redirectsCount + 5),
    to: pick<Redirect['to']>('store', 'store', 'itself'),
  };
}

function faultOf(random: Random, pick: Pick): Fault {
  const status = pick(400, 401, 403, 404, 408, 410, 418, 425, 429, 500, 501, 502, 503, 504, 505, 204, 304);
  const retryAfter = pick(
    '',
    '0',
    '1',
    '6',
    '29',
    '31',
    '86400',
    'Mon, 30 Nov 2026 12:00:09 GMT',
    '1796040000',
    'soon',
    '-1',
  );
  const afterBytes = random(pick(3, 300, 60_000));
  return {
    where: pick<Fault['where']>('manifest', 'config', 'layer', 'layer', 'token'),
    times: pick(1, 1, 2, 3, 1_000_000),
    what: pick<FaultKind>(
      { kind: 'status', status, headers: retryAfter === '' ? {} : { 'retry-after': retryAfter } },
      { kind: 'status', status: 429, headers: { 'retry-after': '6' } },
      { kind: 'reset' },
      { kind: 'cut', afterBytes },
      { kind: 'end early', afterBytes },
      { kind: 'silence' },
      { kind: 'stall', afterBytes },
      { kind: 'trickle' },
      { kind: 'flipped bit' },
      { kind: 'endless' },
      { kind: 'page' },
      { kind: 'nothing' },
      { kind: 'no HTTP' },
    ),
  };
}

/** An image as other tools write it: mixed names, keys in other cases, null where Go writes it. */
function imageOf(random: Random, pick: Pick): OddImage {
  const texts = Array.from({ length: 1 + random(3) }, (_each, index) => randomText(random, index));
  const layers = texts.map((text) => gzipSync(text, { level: 1 }));
  const config = Buffer.from(
    JSON.stringify({
      [pick('architecture', 'Architecture')]: pick('amd64', 'x86_64', ''),
      [pick('os', 'OS')]: pick('linux', '', null, 'Linux'),
      config: pick<unknown>(
        null,
        {},
        '',
        { Env: null, Labels: { a: null }, Cmd: [null], Volumes: null },
        { env: ['A=b'] },
      ),
      [pick('rootfs', 'RootFS')]: {
        type: pick('layers', '', null),
        diff_ids: texts.map((text) => digestOf(Buffer.from(text))),
      },
    }),
  );
  const layerType = pick(
    'application/vnd.oci.image.layer.v1.tar+gzip',
    'application/vnd.docker.image.rootfs.diff.tar.gzip',
    '',
    'application/octet-stream',
  );
  const configType = pick(
    'application/vnd.oci.image.config.v1+json',
    'application/vnd.docker.container.image.v1+json',
    'text/html',
    'application/json',
    '',
    'application/octet-stream',
  );
  const types = [PLAIN.contentType, CONTENT_TYPES[0], '', 'application/json', null];
  const manifest = Buffer.from(
    JSON.stringify({
      [pick('schemaVersion', 'SchemaVersion')]: pick<unknown>(2, 2, null),
      mediaType: types[random(types.length)],
      [pick('config', 'Config')]: { mediaType: configType, digest: digestOf(config), size: config.length },
      [pick('layers', 'LAYERS')]: layers.map((each) => ({
        mediaType: layerType,
        digest: digestOf(each),
        size: each.length,
      })),
      ...pick<object>({}, { manifests: null }, { annotations: null }, { annotations: { a: null } }),
    }),
  );
  return { manifest, config, layers };
}

/** Hard to compress; the first of an image may be above the size from which it comes in ranges. */
function randomText(random: Random, index: number): string {
  const words = index === 0 && random(2) === 0 ? 40_000 + random(40_000) : random(200);
  return Array.from({ length: words }, () => random(2 ** 31).toString(36)).join('');
}

/** What a client that means well puts up with. */
function isBearable({ faults, redirect, auth, token, blobCoding, chunked }: Mood): boolean {
  if (redirect !== undefined && redirect.hops > limits.redirectsCount) return false;
  if (auth !== 'none' && auth !== 'basic' && NO_TOKENS.has(token)) return false;
  // A blob that is coded, and comes from where it stopped: only its whole tells what it is.
  if (blobCoding !== 'none' && chunked && faults.length > 0) return false;
  const counts = new Map<Fault['where'], number>();
  for (const fault of faults) counts.set(fault.where, (counts.get(fault.where) ?? 0) + fault.times);
  return (
    faults.every((fault) => passes(fault)) && [...counts.values()].every((count) => count < limits.registryTriesCount)
  );
}

/** True for what is over when it is asked for again. */
function passes({ where, what }: Fault): boolean {
  switch (what.kind) {
    case 'status': {
      const { status, headers } = what;
      const told = headers['retry-after'] ?? '';
      return [408, 425, 429, 500, 502, 503, 504].includes(status) && ['', '0', '1', '6', '29'].includes(told);
    }
    case 'reset':
    case 'silence':
    case 'no HTTP':
      return true;
    case 'cut':
    case 'stall':
    case 'trickle':
      return true;
    case 'end early':
    case 'nothing':
      return where === 'layer' || where === 'config';
    case 'flipped bit':
    case 'endless':
    case 'page':
      return false;
  }
}
