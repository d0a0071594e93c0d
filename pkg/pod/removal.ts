/**
 * A container being removed: killed if it runs, then everything given back by destroyContainer, which is the only way.
 *
 * One that has ended just now is gone for its client as soon as its root is: what the runtime has of it follows. The
 * record says `removing` until then, so a crash on the way costs nothing.
 */
import { explain } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { Flights } from '../base/flights.ts';
import { limits } from '../base/limits.ts';
import { type Op } from '../base/op.ts';
import type { ContainerRecord } from '../ports/state.ts';
import { destroyContainer, type Ended } from './destroy.ts';
import { containerRemains, hasEnded, type LifeCore } from './life-core.ts';
import type { Retirement } from './retirement.ts';

/** What the removal needs of the rest of the life. */
export interface BeforeRemoval {
  readonly retirement: Retirement;
  /** Kills it if it runs; resolves when its end is on record. */
  stop(op: Op): Promise<void>;
  /** Nothing is left of the container. */
  gone(): void;
}

/** The removal of one container; what of it fails is tried again in the background, whether or not somebody asks. */
export class Removal {
  readonly #core: LifeCore;
  readonly #before: BeforeRemoval;
  #isGone = false;
  readonly #flights = new Flights<'remove', void>('goes on', limits.podStopMs);
  /** What is being given back, or could not be, of a container that nobody sees any more. */
  #leaving: { readonly record: ContainerRecord; readonly work: Promise<void> } | undefined;

  constructor(core: LifeCore, before: BeforeRemoval) {
    this.#core = core;
    this.#before = before;
  }

  /** Removes it, or joins whoever does; content if nobody sees it any more. */
  async run(op: Op): Promise<void> {
    if (this.#core.record === undefined) return;
    await this.#flights.run(op, 'remove', (own) => this.#remove(own));
  }

  /** Gives everything back that `record` may hold, whatever it says. @throws as destroyContainer. */
  async destroy(op: Op, record: ContainerRecord): Promise<void> {
    await this.#core.locked(async () => {
      if (!this.#isGone) await this.#destroy(op, record);
    });
  }

  /**
   * Resolves when nothing is left of a container that nobody sees any more; what failed before is tried again. @throws
   * as destroyContainer.
   */
  async left(op: Op): Promise<void> {
    const leaving = this.#leaving;
    if (leaving === undefined) return;
    op.stage(`wait until container ${this.#core.id} has left`);
    await leaving.work;
    await this.#core.locked(async () => {
      if (this.#leaving !== undefined) await this.#destroy(op, leaving.record);
    });
  }

  async #remove(op: Op): Promise<void> {
    await this.#before.stop(op);
    const told = Promise.withResolvers<void>();
    const work = this.#core.locked(async () => {
      const { record } = this.#core;
      if (record === undefined) return;
      const removing = await this.#core.apply(record, { type: 'remove' });
      await failpoint('container.removing.after');
      await this.#destroy(op, removing, () => this.#leave(op, removing, work, told.resolve));
    });
    work.then(told.resolve, told.reject);
    await told.promise;
  }

  /** Its root is gone, and the runtime has only to clean up after itself: nobody needs to wait for that. */
  #leave(op: Op, record: ContainerRecord, work: Promise<void>, tell: () => void): void {
    const { id, sandboxId, around } = this.#core;
    const failed = work.catch((cause: unknown) => {
      op.log.warn('a removed container still holds something, will retry', {
        container: id,
        sandbox: sandboxId,
        cause: explain(cause),
      });
    });
    this.#leaving = { record, work: failed };
    around.background.begin('clean-up after the removal', { container: id, sandbox: sandboxId }).goesOn?.(failed);
    around.books.forget(record);
    tell();
  }

  async #destroy(op: Op, record: ContainerRecord, rootGone = (): void => {}): Promise<void> {
    const { world, books } = this.#core.around;
    const { retirement } = this.#before;
    const wasUnderWay = retirement.isUnderWay;
    const ended: Ended | undefined =
      hasEnded(record) && containerRemains(record).process === 'made'
        ? {
            retire: () => retirement.complete(op, record),
            rootGone: () => {
              if (wasUnderWay) rootGone();
            },
          }
        : undefined;
    try {
      await destroyContainer(op, world, containerRemains(record), ended);
    } catch (cause) {
      this.#destroyLater(record);
      throw cause;
    }
    this.#isGone = true;
    this.#leaving = undefined;
    books.forget(record);
    this.#before.gone();
  }

  #destroyLater(record: ContainerRecord): void {
    const { id, sandboxId, around } = this.#core;
    around.cleanUps.later(id, {
      what: 'container',
      ids: { container: id, sandbox: sandboxId },
      isDue: () => !this.#isGone,
      run: (op) => this.destroy(op, record),
    });
  }
}
