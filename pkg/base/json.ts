/** JSON as the OCI's documents need it. */

declare global {
  interface JSON {
    /** ECMAScript's raw JSON text ("JSON.parse source text access"); Node has it, TypeScript's library not yet. */
    rawJSON(text: string): unknown;
  }
}

/**
 * JSON in which a bigint is a number of all its digits: a document of the OCI (a spec, LinuxResources, a process) with
 * exact 64-bit integers.
 */
export function stringifyExact(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) => (typeof item === 'bigint' ? JSON.rawJSON(String(item)) : item));
}

/**
 * As JSON.parse, which quotes what it cannot read: the first bytes of any file that somebody may name, or a password,
 * would be in an error. @throws SyntaxError that tells the place, where it is known, and nothing of the text.
 */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    const said = error instanceof Error ? error.message : '';
    const place = /at position \d+( \(line \d+ column \d+\))?$/.exec(said)?.[0];
    const why =
      said === 'Unexpected end of JSON input' ? 'it ends too early' : 'it has a character that is out of place';
    // The cause would quote the text again.
    // oxlint-disable-next-line preserve-caught-error
    throw new SyntaxError(place === undefined ? why : `${why}, ${place}`);
  }
}

/** How much there is in a document beside its bytes. */
export interface DocumentBounds {
  /** Members of all objects: each name is a string of its own, and costs a parser the most. */
  readonly members: number;
  /** Values, containers included. */
  readonly values: number;
}

/**
 * What of a JSON document is beyond these bounds, before it is parsed: 100 bytes of it cost a parser as much as 10 000
 * others. One pass that ends at the bound. What is not JSON is counted as if it were.
 */
export function excessOf(bytes: Uint8Array, { members, values }: DocumentBounds): keyof DocumentBounds | undefined {
  let [membersLeft, valuesLeft] = [members, values];
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === QUOTE) at = endOfString(bytes, at);
    else if (byte === COLON && --membersLeft < 0) return 'members';
    // Of n values of a list, the first comes with its bracket and each other with a comma.
    else if ((byte === COMMA || byte === BRACKET || byte === BRACE) && --valuesLeft < 0) return 'values';
  }
  return undefined;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const COMMA = 0x2c;
const BRACKET = 0x5b;
const BRACE = 0x7b;

/** Where the string that begins at `start` has its closing quote; the end of the bytes if it has none. */
function endOfString(bytes: Uint8Array, start: number): number {
  let at = start + 1;
  while (at < bytes.length && bytes[at] !== QUOTE) at += bytes[at] === BACKSLASH ? 2 : 1;
  return at;
}
