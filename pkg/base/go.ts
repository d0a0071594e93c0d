/**
 * Documents as programs in Go read them. Theirs are most of the files and answers that a node meets, and their readers
 * (encoding/json, BurntSushi/toml, yaml) agree on two things that JavaScript's do not: names of members count in any
 * case, and a value that is null or the empty text was not set.
 */

/** An object out of JSON, TOML or YAML: not a list, not null. */
export type PlainObject = Readonly<Record<string, unknown>>;

/** True for a `PlainObject`. */
export function isObject(value: unknown): value is PlainObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** True for what Go writes where nothing is to be said: nothing, null, or the empty text. */
export function isUnset(value: unknown): value is undefined | null | '' {
  return value === undefined || value === null || value === '';
}

/**
 * The object with these names spelled so, whatever case it has them in; of several spellings the last one counts. For
 * what is handed on to programs that look for the names as they are.
 */
export function spelledAs(object: PlainObject, names: readonly string[]): PlainObject {
  const spelling = new Map(names.map((name) => [folded(name), name]));
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [spelling.get(folded(name)) ?? name, value]));
}

/** The members of one object by their names in any case; of several spellings the last one counts, as in Go. */
export class GoObject {
  readonly #members = new Map<string, unknown>();
  /** A name that stands there in two spellings: readers of other languages would see another document. */
  readonly twin: string | undefined;

  constructor(object: PlainObject) {
    let twin: string | undefined;
    for (const [name, value] of Object.entries(object)) {
      const key = folded(name);
      if (this.#members.has(key)) twin ??= name;
      this.#members.set(key, value);
    }
    this.twin = twin;
  }

  /** undefined unless `value` is an object. */
  static of(value: unknown): GoObject | undefined {
    return isObject(value) ? new GoObject(value) : undefined;
  }

  /** The value of a member; undefined if it is not set. */
  get(name: string): unknown {
    const value = this.#members.get(folded(name));
    return isUnset(value) ? undefined : value;
  }

  /** True if the member is there with any value but null; the empty text is one. */
  has(name: string): boolean {
    const value = this.#members.get(folded(name));
    return value !== undefined && value !== null;
  }
}

/** One spelling for all cases of a name. Go folds by Unicode: two letters beyond ASCII are cases of `k` and `s`. */
function folded(name: string): string {
  return name.toLowerCase().replaceAll('ſ', 's');
}
