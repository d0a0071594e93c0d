/** How often something is measured: as often as there is time for, so that a whole run ends within twenty minutes. */

export interface Rounds {
  /** More say nothing new. */
  readonly most: number;
  /** After so long no other round begins: a machine, or a peer, that is slow has fewer. */
  readonly ms: number;
}

/** Numbers of the rounds from 0; one at least. */
export function* roundsOf({ most, ms }: Rounds): Generator<number, void, undefined> {
  const until = performance.now() + ms;
  for (let i = 0; i < most && (i === 0 || performance.now() < until); i++) yield i;
}
