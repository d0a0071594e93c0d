/**
 * Giving back what the runtime and the monitor have of a container that has ended: begun by itself as soon as the end
 * is on record, so that RemoveContainer has little left to do.
 */
import { explain } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { nextTurn } from '../base/loop-share.ts';
import type { ContainerRecord } from '../ports/state.ts';
import { retireContainer } from './destroy.ts';
import { containerRemains, type LifeCore } from './life-core.ts';

/** Turns of the event loop in which the answer of a call leaves: its message, then its end. */
const ANSWER_TURNS = 3;

/** The runtime's side of one container, on its way out. */
export class Retirement {
  readonly #core: LifeCore;
  #underWay: Promise<void> | undefined;
  /** Forgotten by a restart, which only costs a call. */
  #isDone = false;

  constructor(core: LifeCore) {
    this.#core = core;
  }

  /** It goes on, and may be waited for. */
  get isUnderWay(): boolean {
    return this.#underWay !== undefined;
  }

  /** Begins it in the background. */
  begin(record: ContainerRecord): void {
    const op = this.#core.around.background.begin(
      'clean-up after the end',
      { container: record.id, sandbox: record.sandboxId },
      limits.runtimeCommandMs,
    );
    const work = this.#retireSoon(op, record).catch((cause: unknown) => {
      op.log.debug('clean-up after an exit failed, RemoveContainer will retry', {
        container: record.id,
        cause: explain(cause),
      });
    });
    this.#underWay = work.finally(() => {
      this.#underWay = undefined;
    });
    op.goesOn?.(work);
  }

  /** Waits for the one under way, and does what that could not. @throws as retireContainer. */
  async complete(op: Op, record: ContainerRecord): Promise<void> {
    await this.#underWay;
    await this.#retire(op, record);
  }

  /** Whoever waited for the end hears of it first: to start a process is half a millisecond of the event loop. */
  async #retireSoon(op: Op, record: ContainerRecord): Promise<void> {
    for (let turn = 0; turn < ANSWER_TURNS; turn++) await nextTurn();
    await this.#retire(op, record);
  }

  async #retire(op: Op, record: ContainerRecord): Promise<void> {
    if (this.#isDone) return;
    await retireContainer(op, this.#core.around.world, containerRemains(record));
    this.#isDone = true;
  }
}
