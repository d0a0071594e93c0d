/** `WWW-Authenticate`: what a registry wants to hear from us. Pure. */

/** One `WWW-Authenticate` challenge. */
export interface Challenge {
  /** Lower case. */
  readonly scheme: string;
  /** Names in lower case. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Whose challenges have parameters, never a token: `realm=` would look like one. */
const OURS: ReadonlySet<string> = new Set(['basic', 'bearer']);
/** RFC 9110 11.2: what others have in the place of parameters, to the next challenge. */
const TOKEN = /[A-Za-z0-9._~+/-]+=*[ \t]*(?:,|$)/y;

/**
 * Reads the challenges of one or several header lines (RFC 9110 11.6.1). What cannot be read ends the list; nothing
 * throws.
 */
export function parseChallenges(lines: readonly string[]): Challenge[] {
  const challenges: Challenge[] = [];
  for (const line of lines) challenges.push(...parseChallengeLine(line.slice(0, 8192)));
  return challenges;
}

function parseChallengeLine(line: string): Challenge[] {
  const found: { scheme: string; parameters: Map<string, string> }[] = [];
  let at = 0;
  const skip = (characters: string): void => {
    while (at < line.length && characters.includes(line.charAt(at))) at++;
  };
  const word = (): string => {
    const start = at;
    while (at < line.length && !' \t,="'.includes(line.charAt(at))) at++;
    return line.slice(start, at);
  };
  for (;;) {
    skip(' \t,');
    const name = word();
    if (name === '') return found;
    skip(' \t');
    const current = found.at(-1);
    if (line.charAt(at) !== '=') {
      const scheme = name.toLowerCase();
      found.push({ scheme, parameters: new Map() });
      TOKEN.lastIndex = at;
      if (!OURS.has(scheme) && TOKEN.test(line)) at = TOKEN.lastIndex;
      continue;
    }
    at++;
    skip(' \t');
    const value = line.charAt(at) === '"' ? quotedString() : word();
    if (current === undefined || value === undefined) return found;
    current.parameters.set(name.toLowerCase(), value);
  }

  function quotedString(): string | undefined {
    let value = '';
    for (at++; at < line.length; at++) {
      const c = line.charAt(at);
      if (c === '"') {
        at++;
        return value;
      }
      if (c === '\\') at++;
      value += line.charAt(at);
    }
    return undefined;
  }
}
