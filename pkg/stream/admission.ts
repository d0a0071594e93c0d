/**
 * Who gets in when all places are taken. PURE but for the clock.
 *
 * Anybody who reaches the port can open connections and say nothing, and a place is held until that takes too long. So
 * a newcomer takes the place of somebody who has said nothing yet: of the peer that has the most such connections, and
 * of those the oldest. Among its own, a peer gains nothing by pushing: there a connection is safe until it has had time
 * to speak. Whoever has a session keeps it.
 */

/** A connection, by what is known before a byte of it. */
export interface Newcomer {
  readonly address: string;
  readonly port: number;
  close(): void;
}

interface Place extends Newcomer {
  readonly since: number;
}

/** The places of one server. */
export class Admission {
  readonly #count: number;
  readonly #graceMs: number;
  readonly #now: () => number;
  /** Those that have said nothing, by address, oldest first. */
  readonly #silent = new Map<string, Map<number, Place>>();
  readonly #settled = new Set<string>();
  #silentCount = 0;

  /** `graceMs`: how long a connection is safe from others of its own address. */
  constructor(count: number, graceMs: number, now: () => number = () => performance.now()) {
    this.#count = count;
    this.#graceMs = graceMs;
    this.#now = now;
  }

  /** 'refused': there is no place, close it. Makes room by closing somebody else. */
  admit(newcomer: Newcomer): 'admitted' | 'refused' {
    if (this.#silentCount + this.#settled.size >= this.#count) {
      const victim = this.#victim(newcomer.address);
      if (victim === undefined) return 'refused';
      this.left(victim);
      victim.close();
    }
    const own = this.#silent.get(newcomer.address) ?? new Map<number, Place>();
    own.set(newcomer.port, { ...newcomer, close: () => newcomer.close(), since: this.#now() });
    this.#silent.set(newcomer.address, own);
    this.#silentCount += 1;
    return 'admitted';
  }

  /** It has shown a token that is good: it keeps its place. */
  settled({ address, port }: Pick<Newcomer, 'address' | 'port'>): void {
    if (this.#drop(address, port)) this.#settled.add(keyOf(address, port));
  }

  /** It is closed. */
  left({ address, port }: Pick<Newcomer, 'address' | 'port'>): void {
    if (!this.#drop(address, port)) this.#settled.delete(keyOf(address, port));
  }

  #victim(address: string): Place | undefined {
    let greediest: Map<number, Place> | undefined;
    for (const own of this.#silent.values()) if (own.size > (greediest?.size ?? 0)) greediest = own;
    const oldest = greediest?.values().next().value;
    if (oldest === undefined) return undefined;
    const isOwn = oldest.address === address;
    return !isOwn || this.#now() - oldest.since >= this.#graceMs ? oldest : undefined;
  }

  #drop(address: string, port: number): boolean {
    const own = this.#silent.get(address);
    if (own === undefined || !own.delete(port)) return false;
    if (own.size === 0) this.#silent.delete(address);
    this.#silentCount -= 1;
    return true;
  }
}

function keyOf(address: string, port: number): string {
  return `${address} ${port}`;
}
