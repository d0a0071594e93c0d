/** Directories on their way out: what could not be deleted, for want of descriptors or of room, goes with the next. */
export class Leftovers {
  readonly #delete: (name: string) => Promise<void>;
  readonly #left = new Set<string>();

  /** `remove` deletes the directory of that name, and is content without it. */
  constructor(remove: (name: string) => Promise<void>) {
    this.#delete = remove;
  }

  /** Deletes `name`, then what was left of before. @throws what the deletion of `name` failed with */
  async remove(name: string): Promise<void> {
    try {
      await this.#delete(name);
    } catch (error) {
      this.#left.add(name);
      throw error;
    }
    const earlier = [...this.#left];
    this.#left.clear();
    for (const each of earlier) await this.#delete(each).catch(() => this.#left.add(each));
  }
}
