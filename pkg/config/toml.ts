/**
 * TOML with addresses. The parser (smol-toml) knows where a syntax error is, but not where a key stood; a message
 * about a wrong value is only worth something with its line. So a second, small scan over the text, which the parser
 * has found valid, notes where each key was written. PURE.
 */
import { parse, TomlError } from 'smol-toml';
import { RuntimeError } from '../base/errors.ts';
import { parseJson } from '../base/json.ts';

/** A place in a file, both counted from 1. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

/** A parsed document. */
export interface TomlDocument {
  /** Tables are objects whose own keys are what the file says (also `__proto__`); integers beyond 2^53 are bigint. */
  readonly root: Readonly<Record<string, unknown>>;
  /** Where the key with this path was written; of a key inside an inline table, where the inline table was. */
  where(path: readonly string[]): Place | undefined;
}

/** @throws InvalidArgument `<file>:<line>:<column>: …` for text that is not TOML. */
export function parseToml(text: string, file: string): TomlDocument {
  let root: Record<string, unknown>;
  try {
    root = parse(text, { integersAsBigInt: 'asNeeded', unsafeKeyBehaviour: 'keep', maxDepth: 32 });
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const what = (error.message.split('\n')[0] ?? '').replace(/^Invalid TOML document: /, '');
    throw new RuntimeError('InvalidArgument', `${file}:${error.line}:${error.column}: not valid TOML: ${what}`);
  }
  let places: Map<string, Place> | undefined;
  return {
    root,
    where(path) {
      places ??= new Scanner(text).places();
      for (let length = path.length; length > 0; length--) {
        const place = places.get(JSON.stringify(path.slice(0, length)));
        if (place !== undefined) return place;
      }
      return undefined;
    },
  };
}

/**
 * Walks the statements of a valid document: `[table]` headers and `key = value` pairs. Values are skipped, not
 * understood.
 */
class Scanner {
  readonly #text: string;
  readonly #places = new Map<string, Place>();
  #at = 0;
  #line = 1;
  #lineStart = 0;

  constructor(text: string) {
    this.#text = text;
  }

  places(): Map<string, Place> {
    let table: readonly string[] = [];
    for (this.#skipBlank(); this.#at < this.#text.length; this.#skipBlank()) {
      const start = this.#at;
      if (this.#text[this.#at] === '[') {
        while (this.#text[this.#at] === '[') this.#at++;
        table = this.#key();
        while (this.#text[this.#at] === ']') this.#at++;
        this.#note(table, start);
      } else {
        this.#note([...table, ...this.#key()], start);
        this.#at++; // the equals sign
        this.#skipValue();
      }
    }
    return this.#places;
  }

  #note(path: readonly string[], at: number): void {
    for (
      let next = this.#text.indexOf('\n', this.#lineStart);
      next >= 0 && next < at;
      next = this.#text.indexOf('\n', this.#lineStart)
    ) {
      this.#line++;
      this.#lineStart = next + 1;
    }
    const name = JSON.stringify(path);
    if (!this.#places.has(name)) this.#places.set(name, { line: this.#line, column: at - this.#lineStart + 1 });
  }

  #skipBlank(): void {
    const blank = /(?:[ \t\r\n]|#[^\n]*)*/y;
    blank.lastIndex = this.#at;
    this.#at += blank.exec(this.#text)?.[0].length ?? 0;
  }

  /** A dotted key with its bare and quoted parts; stops at `=` or `]`. */
  #key(): string[] {
    const parts: string[] = [];
    const token = /[ \t]*(?:([A-Za-z0-9_-]+)|"((?:[^"\\]|\\.)*)"|'([^']*)')[ \t]*(\.?)/y;
    for (;;) {
      token.lastIndex = this.#at;
      const match = token.exec(this.#text);
      if (match === null) break;
      this.#at += match[0].length;
      parts.push(match[1] ?? match[3] ?? unescape(match[2] ?? ''));
      if (match[4] === '') break;
    }
    return parts;
  }

  /** To the end of a value: strings are opaque, brackets nest, a comment inside brackets ends with its line. */
  #skipValue(): void {
    const token =
      /"""(?:[^\\]|\\[^])*?"""+|'''[^]*?'''+|"(?:[^"\\]|\\.)*"|'[^']*'|#[^\n]*|[[{]|[\]}]|\n|[^"'#[\]{}\n]+/y;
    for (let depth = 0; this.#at < this.#text.length; ) {
      token.lastIndex = this.#at;
      const piece = token.exec(this.#text)?.[0];
      if (piece === undefined || (depth === 0 && piece === '\n')) return;
      this.#at += piece.length;
      if (piece === '[' || piece === '{') depth++;
      if (piece === ']' || piece === '}') depth--;
    }
  }
}

function unescape(text: string): string {
  try {
    return parseJson(`"${text}"`) as string;
  } catch {
    return text; // An escape that only TOML has (\UXXXXXXXX): the place is then not found, and the table's is shown.
  }
}
