/**
 * A few worker threads for layers, started when there is work and ended when there has been none for a while, so that
 * an idle daemon does not carry their heaps.
 */
import { Worker } from 'node:worker_threads';
import { RuntimeError } from '../base/errors.ts';
import { abortError, checkAlive, type Op } from '../base/op.ts';
import { Gate } from '../base/sync.ts';
import { limits } from '../base/limits.ts';
import type { Job, Reply, Request, Results } from './unpack-worker.ts';
import type { LayerSource } from '../ports/image.ts';

/**
 * What a layer may have remembered (limits.layerMemoryBytes) lies in this heap; content never enters it. Only a second
 * line of defence: a layer is refused by its account.
 */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 160, maxYoungGenerationSizeMb: 3 };

/** Told how far a job is: bytes read and bytes written. */
export type OnProgress = LayerSource['onProgress'];

/** Threads for jobs about layers. */
export class UnpackPool {
  readonly #script: URL;
  readonly #gate: Gate;
  /** Those who read what is still arriving mostly wait, so they take no place of those who could work. */
  readonly #early = new Gate(limits.earlyLayersCount);
  readonly #idle: { readonly worker: Worker; readonly timer: NodeJS.Timeout }[] = [];
  #closed = false;

  /**
   * At most `workersMax` jobs run at once, the rest wait in order. `script` is the worker's file; a bundle has it
   * elsewhere.
   */
  constructor(workersMax: number, script: URL) {
    this.#gate = new Gate(workersMax);
    this.#script = script;
  }

  /**
   * The outcome of the job, once its turn has come. @throws what the job throws; Cancelled or DeadlineExceeded when
   * `op` ends; Internal if the worker dies.
   */
  run<J extends Job>(op: Op, job: J, onProgress: OnProgress | undefined): Promise<Results[J['type']]> {
    return this.#gate.run(() => this.runNow(op, job, onProgress));
  }

  /** The same for whoever has a place already. */
  async runNow<J extends Job>(op: Op, job: J, onProgress: OnProgress | undefined): Promise<Results[J['type']]> {
    checkAlive(op, 'wait for a thread that unpacks layers');
    const worker = this.#take();
    try {
      const result = await converse(op, worker, job, onProgress);
      this.#giveBack(worker);
      return result as Results[J['type']];
    } catch (error) {
      // After an answer the worker is as good as new; only a dead or stuck one is not.
      if (error instanceof RuntimeError && !(error instanceof WorkerLost)) this.#giveBack(worker);
      else await worker.terminate();
      throw error;
    }
  }

  /**
   * Does `work` with a place of those who read what is still arriving; undefined if none comes free before `late`
   * settles.
   */
  async early<T>(late: Promise<unknown>, work: () => Promise<T>): Promise<T | undefined> {
    let state: 'waiting' | 'begun' | 'late' = 'waiting';
    const { promise, resolve } = Promise.withResolvers<undefined>();
    const turn = this.#early.run(async () => {
      if (state === 'late') return undefined;
      state = 'begun';
      return await work();
    });
    const tooLate = (): void => {
      if (state !== 'waiting') return;
      state = 'late';
      resolve(undefined);
    };
    late.then(tooLate, tooLate);
    return await Promise.race([turn, promise]);
  }

  /** Ends the idle workers; those at work end with their job. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(
      this.#idle.splice(0).map(({ worker, timer }) => {
        clearTimeout(timer);
        return worker.terminate();
      }),
    );
  }

  #take(): Worker {
    const idle = this.#idle.pop();
    if (idle === undefined) {
      const worker = new Worker(this.#script, { name: 'unpack', resourceLimits: RESOURCE_LIMITS, execArgv: [] });
      // Errors are seen by whoever waits for the job; between jobs nobody does.
      worker.on('error', () => {});
      return worker;
    }
    clearTimeout(idle.timer);
    idle.worker.ref();
    return idle.worker;
  }

  #giveBack(worker: Worker): void {
    if (this.#closed) {
      void worker.terminate();
      return;
    }
    worker.unref();
    const timer = setTimeout(() => {
      const index = this.#idle.findIndex((each) => each.worker === worker);
      if (index >= 0) this.#idle.splice(index, 1);
      void worker.terminate();
    }, limits.unpackWorkerIdleMs).unref();
    this.#idle.push({ worker, timer });
  }
}

class WorkerLost extends RuntimeError {}

/** One job, one answer. */
async function converse(
  op: Op,
  worker: Worker,
  job: Job,
  onProgress: OnProgress | undefined,
): Promise<Results[keyof Results]> {
  const request: Request = {
    job,
    cancel: new Int32Array(new SharedArrayBuffer(4)),
    progress: new BigInt64Array(new SharedArrayBuffer(16)),
  };
  const { promise, resolve, reject } = Promise.withResolvers<Reply>();
  const lost =
    (why: string) =>
    (cause?: unknown): void =>
      reject(lostError(why, cause));
  const [onError, onExit] = [lost('failed'), lost('ended in the middle of a job')];
  let stuck: NodeJS.Timeout | undefined;
  const cancel = (): void => {
    Atomics.store(request.cancel, 0, 1);
    stuck = setTimeout(lost(`does not react to being cancelled (${job.type})`), limits.unpackCancelMs);
  };
  const ticker =
    onProgress === undefined ? undefined : setInterval(report(request.progress, onProgress), limits.unpackProgressMs);
  worker.once('message', resolve).once('error', onError).once('exit', onExit);
  op.signal.addEventListener('abort', cancel, { once: true });
  try {
    worker.postMessage(request);
    const reply = await promise;
    if ('result' in reply) return reply.result;
    throw reply.code === 'Cancelled'
      ? abortError(op, `${job.type} layer`)
      : new RuntimeError(reply.code, reply.message);
  } finally {
    op.signal.removeEventListener('abort', cancel);
    clearTimeout(stuck);
    clearInterval(ticker);
    worker.off('message', resolve).off('error', onError).off('exit', onExit);
  }
}

function lostError(why: string, cause: unknown): WorkerLost {
  if (cause instanceof Error && 'code' in cause && cause.code === 'ERR_WORKER_OUT_OF_MEMORY') {
    return new WorkerLost(
      'ResourceExhausted',
      `what the layer holds needs more than ${RESOURCE_LIMITS.maxOldGenerationSizeMb} MiB of memory`,
      { cause },
    );
  }
  return new WorkerLost('Internal', `the unpack worker ${why}`, { cause });
}

function report(progress: BigInt64Array, onProgress: OnProgress): () => void {
  let last = 0n;
  return () => {
    const [read, written] = [Atomics.load(progress, 0), Atomics.load(progress, 1)];
    if (read + written > last) onProgress(Number(read), Number(written));
    last = read + written;
  };
}
