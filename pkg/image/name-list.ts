/** The names of one image, in the order in which they came. Pure. */
import { limits } from '../base/limits.ts';

/**
 * `old` with what of `added` is not among them. Above the limits a name goes for each that is too much: the oldest of
 * the registry that takes most, so that nobody can push others' names out by giving the image a thousand of their own.
 * What was added goes last.
 */
export function withNames(old: readonly string[], added: readonly string[]): readonly string[] {
  const fresh = [...new Set(added)].slice(-limits.imageNamesCount);
  const shares = new Map<string, Share>();
  for (const name of new Set([...old, ...fresh])) {
    const share = shares.get(registryOf(name)) ?? new Share();
    shares.set(registryOf(name), share);
    share.add(name);
  }
  const all = [...shares.values()];
  const isFresh = new Set(fresh);
  for (;;) {
    const isTooMany = sum(all, 'count') > limits.imageNamesCount;
    if (!isTooMany && sum(all, 'bytes') <= limits.imageNamesBytes) break;
    const measure = isTooMany ? 'count' : 'bytes';
    all.reduce((most, each) => (each[measure] > most[measure] ? each : most)).dropOne(isFresh);
  }
  const left = new Set(all.flatMap((share) => share.names));
  return [...new Set([...old, ...fresh])].filter((name) => left.has(name));
}

/** The names of one registry, oldest first. */
class Share {
  names: string[] = [];
  bytes = 0;

  get count(): number {
    return this.names.length;
  }

  add(name: string): void {
    this.names.push(name);
    this.bytes += Buffer.byteLength(name);
  }

  /** The oldest goes that is not in `spared`; if all are, the oldest. */
  dropOne(spared: ReadonlySet<string>): void {
    const at = Math.max(
      0,
      this.names.findIndex((name) => !spared.has(name)),
    );
    const [dropped = ''] = this.names.splice(at, 1);
    this.bytes -= Buffer.byteLength(dropped);
  }
}

function sum(shares: readonly Share[], measure: 'count' | 'bytes'): number {
  return shares.reduce((total, share) => total + share[measure], 0);
}

function registryOf(name: string): string {
  return name.slice(0, Math.max(0, name.indexOf('/')));
}
