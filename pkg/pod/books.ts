/**
 * The books: every record in memory, indexed, always written to disk first.
 *
 * Readers get immutable records at once. Writers go through `save`, which is the only place where a record changes, an
 * event goes out and those who wait for a change are woken.
 */
import { explain, RuntimeError } from '../base/errors.ts';
import { type ContainerId, quote, type SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import type { PodEvent } from '../ports/pods.ts';
import type { ContainerRecord, SandboxRecord, StateStore } from '../ports/state.ts';

type AnyRecord = SandboxRecord | ContainerRecord;

/** All records, by id and by what the kubelet calls them; what is told here is on disk. */
export class Books {
  readonly #state: StateStore;
  readonly #clock: () => bigint;
  readonly #sandboxes = new Map<string, SandboxRecord>();
  readonly #containers = new Map<string, ContainerRecord>();
  readonly #containersOf = new Map<string, Set<string>>();
  readonly #byKey = new Map<string, string>();
  readonly #waiters = new Map<string, Set<() => void>>();
  readonly #listeners = new Set<(event: PodEvent) => void>();

  constructor(state: StateStore, clock: () => bigint) {
    this.#state = state;
    this.#clock = clock;
  }

  /** Takes a record that is on disk already (recovery). No event. */
  adopt(record: AnyRecord): void {
    this.#index(record);
  }

  /**
   * Writes the record to disk, then shows it to everybody. A new object is in the index at once, so that its key is
   * taken.
   */
  async save(record: AnyRecord): Promise<void> {
    const before = this.#peek(record);
    if (before === undefined) this.#index(record);
    try {
      await this.#state.save(record);
    } catch (cause) {
      if (before === undefined) this.#drop(record);
      throw cause;
    }
    this.#index(record);
    this.#tell(before, record);
  }

  /** Forgets an object whose record is gone from disk. */
  forget(record: AnyRecord): void {
    const last = this.#peek(record);
    if (last === undefined) return;
    this.#drop(last);
    this.#wake(last.id);
    if (isVisible(last) || last.state.phase === 'removing') this.#publish('deleted', last);
  }

  sandbox(id: SandboxId): SandboxRecord | undefined {
    return this.#sandboxes.get(id);
  }
  container(id: ContainerId): ContainerRecord | undefined {
    return this.#containers.get(id);
  }
  byKey(key: string): string | undefined {
    return this.#byKey.get(key);
  }
  /** Containers of a sandbox in order of creation, those in the making included. */
  containersOf(id: SandboxId): ContainerRecord[] {
    const ids = this.#containersOf.get(id);
    if (ids === undefined) return [];
    return [...ids].map((each) => this.#containers.get(each)).filter((record) => record !== undefined);
  }
  sandboxes(): IterableIterator<SandboxRecord> {
    return this.#sandboxes.values();
  }
  containers(): IterableIterator<ContainerRecord> {
    return this.#containers.values();
  }

  findSandbox(idOrPrefix: string): SandboxRecord | undefined {
    return lookUp(this.#sandboxes, idOrPrefix, 'pod sandbox');
  }
  findContainer(idOrPrefix: string): ContainerRecord | undefined {
    return lookUp(this.#containers, idOrPrefix, 'container');
  }

  /** Resolves at the next change of this object (or its removal), or when `signal` fires. */
  changed(id: string, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const set = this.#waiters.get(id) ?? new Set();
      this.#waiters.set(id, set);
      const done = (): void => {
        set.delete(done);
        if (set.size === 0 && this.#waiters.get(id) === set) this.#waiters.delete(id);
        signal?.removeEventListener('abort', done);
        resolve();
      };
      set.add(done);
      if (signal?.aborted === true) done();
      else signal?.addEventListener('abort', done, { once: true });
    });
  }

  /** Calls `listener` for every event from now on, synchronously; returns the way to stop. */
  subscribe(listener: (event: PodEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #peek(record: AnyRecord): AnyRecord | undefined {
    return record.kind === 'sandbox' ? this.#sandboxes.get(record.id) : this.#containers.get(record.id);
  }

  #index(record: AnyRecord): void {
    this.#byKey.set(keyOf(record), record.id);
    if (record.kind === 'sandbox') {
      this.#sandboxes.set(record.id, record);
      return;
    }
    this.#containers.set(record.id, record);
    const siblings = this.#containersOf.get(record.sandboxId) ?? new Set();
    siblings.add(record.id);
    this.#containersOf.set(record.sandboxId, siblings);
  }

  #drop(record: AnyRecord): void {
    const key = keyOf(record);
    if (this.#byKey.get(key) === record.id) this.#byKey.delete(key);
    if (record.kind === 'sandbox') {
      this.#sandboxes.delete(record.id);
      return;
    }
    this.#containers.delete(record.id);
    const siblings = this.#containersOf.get(record.sandboxId);
    siblings?.delete(record.id);
    if (siblings?.size === 0) this.#containersOf.delete(record.sandboxId);
  }

  #tell(before: AnyRecord | undefined, after: AnyRecord): void {
    this.#wake(after.id);
    const from = before?.state.phase;
    const to = after.state.phase;
    if (from === to) return;
    if (to === 'ready') {
      this.#publish('created', after);
      this.#publish('started', after);
    } else if (to === 'created' && from === 'creating') this.#publish('created', after);
    else if (to === 'running') this.#publish('started', after);
    else if (to === 'exited' || (to === 'stopping' && from === 'ready')) this.#publish('stopped', after);
    // It could neither be made nor cleaned up, and is seen for the first time.
    else if (to === 'removing' && from === 'creating' && isVisible(after)) this.#publish('stopped', after);
  }

  #publish(type: PodEvent['type'], record: AnyRecord): void {
    const event = { type, record, at: this.#clock() };
    for (const listener of this.#listeners) listener(event);
  }

  #wake(id: string): void {
    for (const done of [...(this.#waiters.get(id) ?? [])]) done();
  }
}

/**
 * Saves a record that is true; if it cannot be saved (a full disk), the books have it nevertheless, and the next start
 * finds out again.
 */
export async function saveOrAdopt(op: Op, books: Books, record: AnyRecord): Promise<void> {
  try {
    await books.save(record);
  } catch (cause) {
    op.log.error('what became of something could not be put on record, going on without', {
      [record.kind]: record.id,
      cause: explain(cause),
    });
    books.adopt(record);
  }
}

/**
 * True once a client may see the object: not while it is being made (CRI: half-made objects must not appear in lists).
 */
export function isVisible(record: AnyRecord): boolean {
  const { phase } = record.state;
  return (
    phase !== 'creating' &&
    !(phase === 'removing' && !('last' in record.state && record.state.last !== null) && record.kind === 'container')
  );
}

/** The name under which the kubelet would make this object again: what makes two requests "the same". */
function keyOf(record: AnyRecord): string {
  return record.kind === 'sandbox'
    ? sandboxKey(record.config.metadata)
    : containerKey(record.sandboxId, record.config.metadata);
}

/** What tells one pod from another, for flights. */
export function sandboxKey(metadata: SandboxRecord['config']['metadata']): string {
  return JSON.stringify(['pod', metadata.namespace, metadata.name, metadata.uid, metadata.attempt]);
}

/** What tells one container of a pod from another, for flights. */
export function containerKey(pod: SandboxId, metadata: ContainerRecord['config']['metadata']): string {
  return JSON.stringify(['container', pod, metadata.name, metadata.attempt]);
}

function lookUp<R extends AnyRecord>(records: ReadonlyMap<string, R>, idOrPrefix: string, what: string): R | undefined {
  const exact = records.get(idOrPrefix);
  if (exact !== undefined) return exact;
  if (idOrPrefix.length < limits.idPrefixChars || idOrPrefix.length >= 64) return undefined;
  let found: R | undefined;
  for (const [id, record] of records) {
    if (!id.startsWith(idOrPrefix)) continue;
    if (found !== undefined)
      throw new RuntimeError(
        'InvalidArgument',
        `${what} id prefix ${quote(idOrPrefix)} is ambiguous; give more characters`,
      );
    found = record;
  }
  return found;
}
