/**
 * Regular expressions as Go reads them (RE2, pkg/regexp/syntax), for files that are written for programs in Go: OCI
 * hooks, filters. PURE.
 *
 * What Go has and JavaScript spells otherwise is rewritten: flags anywhere (`(?i)`), `(?P<name>`, `\A`, `\z`, `\Q…\E`,
 * `[[:alpha:]]`, `\pL`, and escapes of signs that need none. What Go has not (look-around, references back) is taken
 * all the same: nobody writes it who has tried the file with its own reader.
 */

/** The expression in JavaScript's terms. @throws SyntaxError for what neither reads. */
export function goPattern(pattern: string): RegExp {
  return new RegExp(new Rewriter(pattern).all(), 'u');
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

class Rewriter {
  readonly #text: string;
  #at = 0;
  /** For each open group, flags that hold up to its end: groups of ours that are still to be closed. */
  readonly #flags: string[][] = [[]];

  constructor(text: string) {
    this.#text = text;
  }

  all(): string {
    let out = '';
    while (this.#at < this.#text.length) out += this.#next();
    return out + this.#closing();
  }

  #next(): string {
    const rest = this.#text.slice(this.#at);
    if (rest.startsWith('\\')) return this.#escape('outside');
    if (rest.startsWith('[')) return this.#bracket();
    if (rest.startsWith('(')) return this.#open(rest);
    this.#at++;
    if (rest.startsWith(')')) {
      const closing = this.#flags.length > 1 ? this.#closing() : '';
      if (this.#flags.length > 1) this.#flags.pop();
      return `${closing})`;
    }
    // A flag of the group holds for its other branches, too.
    if (rest.startsWith('|')) return `${this.#closing()}|${this.#here().join('')}`;
    if (rest.startsWith('{') && !/^\{\d+(,\d*)?\}/.test(rest)) return '\\{';
    if (rest.startsWith(']')) return '\\]';
    if (rest.startsWith('}')) return /\{\d+(,\d*)?$/.test(this.#text.slice(0, this.#at - 1)) ? '}' : '\\}';
    return rest.charAt(0);
  }

  #here(): string[] {
    return this.#flags.at(-1) ?? [];
  }

  #closing(): string {
    return ')'.repeat(this.#here().length);
  }

  #open(rest: string): string {
    const [alone, flags] = /^\(\?([ims]*(?:-[ims]+)?)\)/.exec(rest) ?? [];
    if (alone !== undefined) {
      this.#at += alone.length;
      if (flags === '') return '';
      this.#here().push(`(?${flags}:`);
      return `(?${flags}:`;
    }
    this.#flags.push([]);
    const opening = /^\((?:\?P?<[A-Za-z_]\w*>|\?[ims-]*:|\?<?[=!])?/.exec(rest)?.[0] ?? '(';
    this.#at += opening.length;
    return opening.replace('?P<', '?<');
  }

  #bracket(): string {
    const start = /^\[\^?\]?/.exec(this.#text.slice(this.#at))?.[0] ?? '[';
    this.#at += start.length;
    let out = start.replace(/\]$/, '\\]');
    while (this.#at < this.#text.length) {
      const rest = this.#text.slice(this.#at);
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
    return out;
  }

  #escape(where: 'inside' | 'outside'): string {
    const rest = this.#text.slice(this.#at);
    const take = (length: number, out: string): string => {
      this.#at += length;
      return out;
    };
    const [quoted, literal = ''] = /^\\Q([^]*?)(?:\\E|$)/.exec(rest) ?? [];
    if (quoted !== undefined) return take(quoted.length, literal.replaceAll(/[\^$\\.*+?()[\]{}|/]/g, '\\$&'));
    const [hex, digits = ''] = /^\\x\{([0-9A-Fa-f]{1,6})\}/.exec(rest) ?? [];
    if (hex !== undefined) return take(hex.length, `\\u{${digits}}`);
    const [octal, number = ''] = /^\\([0-7]{2,3}|0)/.exec(rest) ?? [];
    if (octal !== undefined) return take(octal.length, `\\u{${Number.parseInt(number, 8).toString(16)}}`);
    const [property, sign = '', name = ''] = /^\\([pP])(?:\{\^?([A-Za-z_]+)\})?/.exec(rest) ?? [];
    if (property !== undefined) return this.#property(rest, sign, name, property.length);
    const [char = ''] = rest.slice(1);
    if (where === 'outside' && char === 'A') return take(2, '(?<![^])');
    if (where === 'outside' && char === 'z') return take(2, '(?![^])');
    if (char === 'a') return take(2, '\\x07');
    // Go's white space is that of Perl of old, without the vertical tab and what is beyond ASCII.
    if (char === 's') return take(2, where === 'inside' ? '\\t\\n\\f\\r ' : '[\\t\\n\\f\\r ]');
    if (where === 'outside' && char === 'S') return take(2, '[^\\t\\n\\f\\r ]');
    if (/[A-Za-z0-9]/.test(char) || char === '') return take(2, `\\${char}`);
    if (char === '-') return take(2, where === 'inside' ? '\\-' : '-');
    return take(1 + char.length, SYNTAX.test(char) ? `\\${char}` : char);
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
