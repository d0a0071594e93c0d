/** The pulls of this node: equal ones fly together, so many at once and no more, with their progress, all counted. */
import { createHash } from 'node:crypto';
import type { AuthConfig } from '../cri-api/types.ts';
import { Flights } from '../base/flights.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError, checkAlive, withLog } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { Gate } from '../base/sync.ts';
import { formatReference } from '../oci/reference.ts';
import { chosenImages, namesInArchive } from './archive-names.ts';
import { openArchive } from './archive.ts';
import { install } from './install.ts';
import { NO_TIME, PullTracker, sumOfTimes } from './progress.ts';
import type { StageTimes } from './progress.ts';
import { Pull } from './pull.ts';
import type { PullRequest, PullWorld } from './pull.ts';
import type { StoredImage } from './records.ts';
import type { PullListener, PullOptions, PullProgress } from '../ports/image.ts';

/** What pulls have done since the daemon started. */
export interface PullCounters {
  readonly pullsSucceeded: number;
  readonly pullsFailed: number;
  readonly downloadedBytes: bigint;
  readonly layersReused: number;
  /** Of pulls that have ended, well or not. */
  readonly stageMs: StageTimes;
}

/** Everything that brings images here. */
export class Pulls {
  readonly #world: PullWorld;
  readonly #now: () => number;
  readonly #listener: PullListener | undefined;
  readonly #flights = new Flights<string, StoredImage>('ends');
  readonly #underWay = new Set<PullTracker>();
  readonly #gate = new Gate(limits.pullsCount);
  #counters: PullCounters = {
    pullsSucceeded: 0,
    pullsFailed: 0,
    downloadedBytes: 0n,
    layersReused: 0,
    stageMs: NO_TIME,
  };

  /** `now` is in milliseconds since the epoch. */
  constructor(world: PullWorld, now: () => number, listener?: PullListener) {
    this.#world = world;
    this.#now = now;
    this.#listener = listener;
  }

  /** As `ImageStore.pull`. */
  async pull(op: Op, reference: string, { auth, namespace = '' }: PullOptions): Promise<StoredImage> {
    const { policy } = this.#world;
    checkAlive(op, `pulling ${quote(reference)}`);
    await policy.refresh(op);
    const wanted = policy.resolve(reference);
    const key = JSON.stringify([wanted.map(formatReference), fingerprint(auth), namespace]);
    const request = { written: reference, wanted, auth, namespace };
    return await this.#flights.run(op, key, (own) => {
      const bound = withLog(own, { reference: wanted[0] === undefined ? reference : formatReference(wanted[0]) });
      return this.#gate.run(() => this.#pull(bound, request));
    });
  }

  /** As `ImageStore.import`. */
  async import(op: Op, path: string, reference: string | undefined): Promise<readonly StoredImage[]> {
    const archived = chosenImages(await openArchive(path), reference, this.#world.platform, path);
    const images: StoredImage[] = [];
    for (const { source, root, ...image } of archived) {
      const names = namesInArchive({ source, root, ...image }, reference);
      const own = withLog(op, { reference: names.repoTags[0] ?? path });
      const track = new PullTracker(own, names.repoTags[0] ?? path, this.#now);
      const key = `import ${root.digest}`;
      const stored = await this.#tracked(own, track, () =>
        install(own, this.#world, { source, root, key, names, track, vouch: async () => undefined }),
      );
      op.log.info('image imported', { image: stored.id, path });
      images.push(stored);
    }
    return images;
  }

  /** Pulls and imports under way. */
  progress(): readonly PullProgress[] {
    return [...this.#underWay].map((track) => track.snapshot());
  }

  /** What has been done so far. */
  counters(): PullCounters {
    return this.#counters;
  }

  async #pull(op: Op, request: PullRequest): Promise<StoredImage> {
    if (op.signal.aborted) throw abortError(op, 'waiting for other pulls');
    const started = this.#now();
    const track = new PullTracker(op, request.written, this.#now, this.#listener);
    try {
      const stored = await this.#tracked(op, track, () => new Pull(op, this.#world, request, track).run());
      this.#count({ pullsSucceeded: 1 });
      this.#listener?.ended();
      op.log.info('image pulled', {
        image: stored.id,
        bytes: track.downloadedBytes,
        reused: track.reusedLayers,
        ms: this.#now() - started,
      });
      return stored;
    } catch (error) {
      this.#count({ pullsFailed: 1 });
      this.#listener?.ended(error);
      throw error;
    } finally {
      this.#count({ downloadedBytes: track.downloadedBytes, layersReused: track.reusedLayers, stageMs: track.times() });
    }
  }

  async #tracked<T>(op: Op, track: PullTracker, work: () => Promise<T>): Promise<T> {
    this.#underWay.add(track);
    track.stage('resolving');
    const report = setInterval(() => op.log.info('pull goes on', track.fields()), limits.pullReportMs).unref();
    try {
      return await work();
    } finally {
      clearInterval(report);
      this.#underWay.delete(track);
    }
  }

  #count(more: Partial<PullCounters>): void {
    const now = this.#counters;
    this.#counters = {
      pullsSucceeded: now.pullsSucceeded + (more.pullsSucceeded ?? 0),
      pullsFailed: now.pullsFailed + (more.pullsFailed ?? 0),
      downloadedBytes: now.downloadedBytes + (more.downloadedBytes ?? 0n),
      layersReused: now.layersReused + (more.layersReused ?? 0),
      stageMs: sumOfTimes(now.stageMs, more.stageMs ?? NO_TIME),
    };
  }
}

/** Tells equal credentials without keeping them. */
function fingerprint(auth: AuthConfig | undefined): string {
  if (auth === undefined || isEmpty(auth)) return '';
  const { username, password, auth: encoded, serverAddress, identityToken, registryToken } = auth;
  return createHash('sha256')
    .update(JSON.stringify([username, password, encoded, serverAddress, identityToken, registryToken]))
    .digest('hex');
}

function isEmpty(auth: AuthConfig): boolean {
  return (
    auth.username === '' &&
    auth.password === '' &&
    auth.auth === '' &&
    auth.identityToken === '' &&
    auth.registryToken === ''
  );
}
