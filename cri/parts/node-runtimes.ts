/** The runtimes of the node while configurations come and go. */
import { isDeepStrictEqual } from 'node:util';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { ensureDir } from '../../pkg/base/files.ts';
import type { Op } from '../../pkg/base/op.ts';
import type { Config } from '../../pkg/config/index.ts';
import type { MadeBy } from '../../pkg/pod/index.ts';
import type { OciRuntime, RuntimeHandler, RuntimeRef } from '../../pkg/ports/runtime.ts';
import { ExecScratch, OciCli } from '../../pkg/runtime/index.ts';
import { whyUnusable } from '../settings.ts';
import { choose, handlerBy, type KnownRuntime, runtimeOf, type Runtimes, sayWhatIsWrong } from './runtimes.ts';

const NONE: Runtimes = { named: new Map(), standard: undefined, trouble: 'runtimes have not been looked for yet' };

/** Those of today's handlers for new pods, and for each pod that is there the one that made it. */
export class NodeRuntimes implements Runtimes {
  readonly #binDir: string;
  readonly #make: typeof makeOciCli;
  #today: Runtimes = NONE;
  /** Runtimes that only pods of former configurations have, by `keyOf`. */
  readonly #others = new Map<string, OciRuntime>();
  /** By root: handlers may share one. */
  readonly #scratches = new Map<string, ExecScratch>();

  /** `binDir` is where our own monitor is. */
  constructor(binDir: string, make: typeof makeOciCli = makeOciCli) {
    this.#binDir = binDir;
    this.#make = make;
  }

  get named(): Runtimes['named'] {
    return this.#today.named;
  }
  get standard(): Runtimes['standard'] {
    return this.#today.standard;
  }
  get trouble(): Runtimes['trouble'] {
    return this.#today.trouble;
  }

  /** Every runtime that may have made something. */
  get all(): readonly OciRuntime[] {
    return [...[...this.named.values()].map(({ runtime }) => runtime), ...this.#others.values()];
  }

  /**
   * Every handler of a configuration whose program is there. A default one that is missing is no reason not to start:
   * other handlers work, and what runs already needs somebody who notes its end. A handler that means what it means
   * today is the same object, since it knows what is under way. Changes nothing yet.
   */
  async find(op: Op, config: Config): Promise<Runtimes> {
    const found = new Map<string, KnownRuntime>();
    // The default one is not left out, nor replaced by another that happens to be there: who reads it refuses.
    const standard = config.runtime.defaultRuntime || 'crun';
    await Promise.all(
      [...config.runtimes.values()].map(async (handler) => {
        const cause = handler.name === standard ? undefined : await whyUnusable(handler);
        if (cause !== undefined) {
          op.log.warn('a runtime handler is left out', { handler: handler.name, cause });
          return;
        }
        const meant = handlerBy(config, handler, this.#binDir);
        const today = this.named.get(handler.name)?.runtime;
        const runtime = today !== undefined && isDeepStrictEqual(today.handler, meant) ? today : this.#made(meant);
        await ensureDir(meant.root);
        found.set(handler.name, { runtime, features: await runtime.features(op) });
      }),
    );
    const runtimes = choose(config.runtime.defaultRuntime, found);
    sayWhatIsWrong(op.log, config, runtimes);
    return runtimes;
  }

  /** From now on new pods have these; those that are there keep theirs. */
  use(found: Runtimes): void {
    for (const { runtime } of this.named.values()) this.#others.set(keyOf(runtime.handler), runtime);
    this.#today = found;
    for (const { runtime } of found.named.values()) this.#others.delete(keyOf(runtime.handler));
  }

  /** The runtime for new pods of a handler; '' is the default. @throws InvalidArgument, FailedPrecondition */
  forNew(handler: string): OciRuntime {
    return runtimeOf(this.#today, handler);
  }

  /**
   * The runtime that made what a record is of: that of its handler, unless the handler means another program or another
   * root by now, or is gone. @throws as forNew for the record of an older daemon, which names a handler only.
   */
  thatMade({ runtime: ref, runtimeHandler }: MadeBy): OciRuntime {
    if (ref === null) return this.forNew(runtimeHandler);
    const key = keyOf(ref);
    const known = this.named.get(ref.name);
    if (known !== undefined && keyOf(known.runtime.handler) === key) return known.runtime;
    const made = this.#others.get(key);
    if (made !== undefined) return made;
    // How its monitor is started is nobody's business any more; how its commands are, the reference says.
    const like = known ?? this.standard ?? [...this.named.values()][0];
    if (like === undefined) throw new RuntimeError('FailedPrecondition', this.trouble ?? 'there is no runtime handler');
    const fresh = this.#made({ ...like.runtime.handler, ...ref });
    this.#others.set(key, fresh);
    return fresh;
  }

  #made(handler: RuntimeHandler): OciRuntime {
    const scratch = this.#scratches.get(handler.root) ?? ExecScratch.of(handler.root);
    this.#scratches.set(handler.root, scratch);
    return this.#make(handler, scratch);
  }
}

function makeOciCli(handler: RuntimeHandler, scratch: ExecScratch): OciRuntime {
  return new OciCli(handler, scratch);
}

/** One text for one runtime of records. */
function keyOf({ name, path, root, runtimeArgs }: RuntimeRef): string {
  return JSON.stringify([name, path, root, runtimeArgs]);
}
