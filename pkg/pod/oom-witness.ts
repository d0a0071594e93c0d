/**
 * A second witness of what the OOM killer did. Where systemd makes cgroups, it takes a scope away as soon as that is
 * empty, and a monitor that reads the scope's counter only then finds nothing: half of the kills were lost with
 * upstream's on one processor. The slice above has counted them too, and stays.
 */
import type { ContainerId } from '../base/ids.ts';
import type { ExitRecord } from '../ports/runtime.ts';
import type { ContainerRecord } from '../ports/state.ts';
import type { Books } from './books.ts';
import type { World } from './world.ts';

/** 128 + SIGKILL. */
const KILLED = 137;

/** Knows what the slice of each living container had counted when the container was last seen alive. */
export class OomWitness {
  readonly #world: World;
  readonly #books: Books;
  readonly #before = new Map<ContainerId, bigint>();

  constructor(world: World, books: Books) {
    this.#world = world;
    this.#books = books;
    books.subscribe(({ type, record }) => {
      if (type === 'deleted' && record.kind === 'container') this.#before.delete(record.id);
    });
  }

  /** The container lives: nothing that has been counted so far was its end. */
  watch(id: ContainerId): void {
    const record = this.#books.container(id);
    const kills = record === undefined ? undefined : this.#killsAbove(record);
    if (kills !== undefined) this.#before.set(id, kills);
  }

  /**
   * The end with what the monitor could not know. Whoever of its pod lives on was not meant; of two that are killed in
   * the same moment, one for memory and one by hand, both may be called so.
   */
  completed(id: ContainerId, exit: ExitRecord): ExitRecord {
    const record = this.#books.container(id);
    const kills = record === undefined ? undefined : this.#killsAbove(record);
    if (record === undefined || kills === undefined) return exit;
    const before = this.#before.get(id) ?? kills;
    const own = this.#world.host.oomKills(record.cgroupsPath, 'own');
    const killed = own === undefined ? kills > before : own > 0n;
    this.#clear(record, kills);
    return killed && exit.exitCode === KILLED ? { ...exit, oomKilled: true } : exit;
  }

  #clear({ sandboxId }: ContainerRecord, kills: bigint): void {
    for (const { id, state } of this.#books.containersOf(sandboxId))
      if (state.phase === 'running' && this.#world.processes.alive(state.process)) this.#before.set(id, kills);
  }

  #killsAbove({ cgroupsPath }: ContainerRecord): bigint | undefined {
    const { facts, host } = this.#world;
    return facts.cgroupManager === 'systemd' ? host.oomKills(cgroupsPath, 'above') : undefined;
  }
}
