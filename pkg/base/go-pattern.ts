/**
 * Regular expressions as Go reads them (RE2, regexp/syntax), for files that are written for programs in Go: OCI hooks,
 * filters. As there, a text takes time by its length, whatever the expression is. What Go has not (look-around,
 * references back) is refused, as there. PURE.
 */
import { type Assertion, Automaton, type Expression } from './automaton.ts';

/** Says of a text whether something in it matches. */
export interface Pattern {
  test(text: string): boolean;
}

/** The expression, ready to be asked. @throws SyntaxError for what Go would not take. */
export function goPattern(pattern: string): Pattern {
  return new Automaton(new Parser(pattern).whole());
}

/** Inside a bracket, by their names in POSIX. */
const POSIX_CLASSES: Readonly<Record<string, string>> = {
  alnum: '0-9A-Za-z',
  alpha: 'A-Za-z',
  ascii: '\\x00-\\x7f',
  blank: '\\t ',
  cntrl: '\\x00-\\x1f\\x7f',
  digit: '0-9',
  graph: '!-~',
  lower: 'a-z',
  print: ' -~',
  punct: '!-\\/:-@\\[-`\\{-~',
  space: '\\t\\n\\v\\f\\r ',
  upper: 'A-Z',
  word: '0-9A-Za-z_',
  xdigit: '0-9A-Fa-f',
};
/** Signs that have a meaning in JavaScript, so that an escape before them must stay. */
const SYNTAX = /[\^$\\.*+?()[\]{}|/-]/;
/** Letters that mean the same behind a backslash in both; what else Go has is rewritten before these are asked. */
const ESCAPES = /[dDwWSfnrtvx]/;
/** Go's own bounds: how often a repetition may say that something is repeated, and how deep groups may be. */
const REPEATED_MAX = 1_000;
const DEPTH_MAX = 1_000;

/** `i`: upper and lower case are one; `m`: ^ and $ are of lines; `s`: a dot is a newline, too. */
type Flags = ReadonlySet<string>;

class Parser {
  readonly #text: string;
  #at = 0;
  #depth = 0;

  constructor(text: string) {
    this.#text = text;
  }

  whole(): Expression {
    const all = this.#branches(new Set());
    if (this.#at < this.#text.length) throw this.#error('a ) without a (');
    return all;
  }

  get #rest(): string {
    return this.#text.slice(this.#at);
  }

  #error(what: string): SyntaxError {
    return new SyntaxError(`${what}, at character ${this.#at + 1}`);
  }

  /** Up to the end of the group. Flags that are set in a branch hold for those behind it, too. */
  #branches(given: Flags): Expression {
    if (++this.#depth > DEPTH_MAX) throw this.#error(`groups are more than ${DEPTH_MAX} deep`);
    const branches: Expression[] = [];
    let [flags, of]: [Flags, Expression[]] = [given, []];
    for (; this.#at < this.#text.length && this.#text[this.#at] !== ')'; ) {
      const [alone, set = ''] = /^\(\?([imsU]*(?:-[imsU]+)?)\)/.exec(this.#rest) ?? [];
      if (alone !== undefined) {
        this.#at += alone.length;
        flags = withFlags(flags, set);
      } else if (this.#text[this.#at] === '|') {
        this.#at++;
        branches.push({ is: 'all', of });
        of = [];
      } else of.push(this.#repeated(this.#one(flags)));
    }
    this.#depth--;
    branches.push({ is: 'all', of });
    return { is: 'any', of: branches };
  }

  #repeated(of: Expression): Expression {
    const [found, sign = '', least, comma, most] =
      /^(?:([*+?])|\{(\d{1,4})(?:(,)(\d{1,4})?)?\})\??/.exec(this.#rest) ?? [];
    if (found === undefined) return of;
    this.#at += found.length;
    if (/^(?:[*+?]|\{\d+(?:,\d*)?\})/.test(this.#rest)) throw this.#error('a repetition of a repetition');
    const min = least === undefined ? (sign === '+' ? 1 : 0) : Number(least);
    const open = sign === '?' ? 1 : Number.POSITIVE_INFINITY;
    const max = least === undefined ? open : comma === undefined ? min : most === undefined ? open : Number(most);
    if (min > REPEATED_MAX || (max > REPEATED_MAX && max !== Number.POSITIVE_INFINITY) || max < min)
      throw this.#error(`a repetition out of range (at most ${REPEATED_MAX})`);
    return { is: 'repeat', of, min, max };
  }

  #one(flags: Flags): Expression {
    const rest = this.#rest;
    const [sign = ''] = rest;
    if (sign === '(') return this.#group(rest, flags);
    if (sign === '[') return charIn(this.#bracket(), flags);
    if (sign === '\\') return this.#escaped(rest, flags);
    if (/^(?:[*+?]|\{\d+(?:,\d*)?\})/.test(rest)) throw this.#error('a repetition of nothing');
    this.#at += sign.length;
    if (sign === '^') return { is: 'assertion', what: flags.has('m') ? 'line start' : 'text start' };
    if (sign === '$') return { is: 'assertion', what: flags.has('m') ? 'line end' : 'text end' };
    if (sign === '.') return { is: 'char', has: flags.has('s') ? () => true : (char) => char !== '\n' };
    return this.#literal(sign, flags);
  }

  #literal(sign: string, flags: Flags): Expression {
    if (flags.has('i')) return charIn(SYNTAX.test(sign) ? `\\${sign}` : sign, flags);
    return { is: 'char', has: (char) => char === sign };
  }

  #group(rest: string, flags: Flags): Expression {
    const [opening = '', set = ''] = /^\((?:\?P?<[A-Za-z_]\w*>|\?([imsU]*(?:-[imsU]+)?):)?/.exec(rest) ?? [];
    if (opening === '(' && rest.startsWith('(?')) throw this.#error(`${rest.slice(0, 4)} is no group of Go's`);
    this.#at += opening.length;
    const inner = this.#branches(withFlags(flags, set));
    if (this.#text[this.#at] !== ')') throw this.#error('a ( without a )');
    this.#at++;
    return inner;
  }

  #escaped(rest: string, flags: Flags): Expression {
    const [quoted, literal = ''] = /^\\Q([^]*?)(?:\\E|$)/.exec(rest) ?? [];
    if (quoted !== undefined) {
      this.#at += quoted.length;
      return { is: 'all', of: Array.from(literal, (sign) => this.#literal(sign, flags)) };
    }
    const what = ASSERTIONS[rest.slice(0, 2)];
    if (what === undefined) return charIn(this.#escape('outside'), flags);
    this.#at += 2;
    return { is: 'assertion', what };
  }

  /** A bracket in JavaScript's terms. */
  #bracket(): string {
    const start = /^\[\^?\]?/.exec(this.#rest)?.[0] ?? '[';
    this.#at += start.length;
    let out = start.replace(/\]$/, '\\]');
    while (this.#at < this.#text.length) {
      const rest = this.#rest;
      if (rest.startsWith(']')) {
        this.#at++;
        return `${out}]`;
      }
      const [posix, not, name = ''] = /^\[:(\^?)([a-z]+):\]/.exec(rest) ?? [];
      if (posix !== undefined && not === '' && Object.hasOwn(POSIX_CLASSES, name)) {
        this.#at += posix.length;
        out += POSIX_CLASSES[name] ?? '';
      } else if (rest.startsWith('\\')) out += this.#escape('inside');
      else {
        this.#at++;
        out += rest.startsWith('[') ? '\\[' : rest.charAt(0);
      }
    }
    throw this.#error('a [ without a ]');
  }

  /** A character or a class in JavaScript's terms. */
  #escape(where: 'inside' | 'outside'): string {
    const rest = this.#rest;
    const take = (length: number, out: string): string => {
      this.#at += length;
      return out;
    };
    const [hex, digits = ''] = /^\\x\{([0-9A-Fa-f]{1,6})\}/.exec(rest) ?? [];
    if (hex !== undefined) return take(hex.length, `\\u{${digits}}`);
    const [octal, number = ''] = /^\\([0-7]{2,3}|0)/.exec(rest) ?? [];
    if (octal !== undefined) return take(octal.length, `\\u{${Number.parseInt(number, 8).toString(16)}}`);
    const [property, sign = '', name = ''] = /^\\([pP])(?:\{\^?([A-Za-z_]+)\})?/.exec(rest) ?? [];
    if (property !== undefined) return this.#property(rest, sign, name, property.length);
    const [char = ''] = rest.slice(1);
    if (char === 'a') return take(2, '\\x07');
    // Go's white space is that of Perl of old, without the vertical tab and what is beyond ASCII.
    if (char === 's') return take(2, where === 'inside' ? '\\t\\n\\f\\r ' : '[\\t\\n\\f\\r ]');
    if (where === 'outside' && char === 'S') return take(2, '[^\\t\\n\\f\\r ]');
    if (char === '' || (/[A-Za-z0-9]/.test(char) && !ESCAPES.test(char)))
      throw this.#error(`\\${char} is no escape of Go's`);
    if (char === 'x') {
      if (!/^\\x[0-9A-Fa-f]{2}/.test(rest)) throw this.#error('\\x without two digits');
      return take(4, rest.slice(0, 4));
    }
    if (/[A-Za-z]/.test(char)) return take(2, `\\${char}`);
    return take(1 + char.length, SYNTAX.test(char) && (char !== '-' || where === 'inside') ? `\\${char}` : char);
  }

  #property(rest: string, sign: string, name: string, length: number): string {
    if (name === '') {
      this.#at += 3;
      return `\\${sign}{${rest.charAt(2)}}`;
    }
    this.#at += length;
    const negated = rest.startsWith(`\\${sign}{^`);
    const effective = negated ? (sign === 'p' ? 'P' : 'p') : sign;
    return `\\${effective}{${name.length <= 2 ? name : `Script=${name}`}}`;
  }
}

const ASSERTIONS: Readonly<Record<string, Assertion>> = {
  '\\A': 'text start',
  '\\z': 'text end',
  '\\b': 'word edge',
  '\\B': 'no word edge',
};

/** One character of a class in JavaScript's terms. @throws SyntaxError if it is none. */
function charIn(source: string, flags: Flags): Expression {
  const one = new RegExp(`^${source}$`, flags.has('i') ? 'iu' : 'u');
  return { is: 'char', has: (char) => one.test(char) };
}

/** `im-s`: with the first ones, without those behind the dash. */
function withFlags(flags: Flags, set: string): Flags {
  const [on = '', off = ''] = set.split('-');
  return new Set([...flags, ...Array.from(on)]).difference(new Set(off));
}
