/**
 * Regular expressions without backtracking: an automaton that is in all of its states at once, so that a text takes
 * time by its length, whoever wrote the expression and whoever the text. Sets of states that were met are remembered
 * (a lazy DFA). Whether anything matches, not where. PURE.
 */

/** Where an assertion looks: at the ends of the text, of a line (`(?m)`), or of an ASCII word. */
export type Assertion = 'text start' | 'text end' | 'line start' | 'line end' | 'word edge' | 'no word edge';

/** An expression, taken apart. */
export type Expression =
  | { readonly is: 'char'; readonly has: (char: string) => boolean }
  | { readonly is: 'assertion'; readonly what: Assertion }
  | { readonly is: 'all' | 'any'; readonly of: readonly Expression[] }
  | { readonly is: 'repeat'; readonly of: Expression; readonly min: number; readonly max: number };

/** Instructions of one expression: repetitions are written out, so `((a{1000}){1000}){1000}` has to end somewhere. */
const INSTRUCTIONS_COUNT = 20_000;
/** Steps that are remembered, over all sets of states; beyond, it begins to remember anew. */
const STEPS_COUNT = 20_000;

type Instruction =
  | { readonly is: 'char'; readonly has: (char: string) => boolean; readonly next: number }
  | { readonly is: 'assertion'; readonly what: Assertion; readonly next: number }
  | { readonly is: 'fork'; readonly next: readonly number[] }
  | { readonly is: 'match' };

/** What is before a place of the text: its start, or a character of a kind. */
type Before = 'start' | 'newline' | 'word' | 'other';

/** A set of states between two characters, and where known characters lead from it; '' is the end of the text. */
interface Place {
  readonly states: readonly number[];
  readonly before: Before;
  readonly steps: Map<string, Place | 'matched'>;
}

/** Says of texts whether something in them matches an expression. */
export class Automaton {
  readonly #program: Instruction[] = [];
  readonly #start: number;
  readonly #places = new Map<string, Place>();
  #stepsCount = 0;

  /** @throws SyntaxError for an expression that is too large when it is written out. */
  constructor(expression: Expression) {
    const match = this.#add({ is: 'match' });
    this.#start = this.#compile(expression, match);
  }

  /** True if a part of the text matches. */
  test(text: string): boolean {
    let place = this.#place([this.#start], 'start');
    for (const char of text) {
      const next = this.#step(place, char);
      if (next === 'matched') return true;
      place = next;
    }
    return this.#step(place, '') === 'matched';
  }

  #add(instruction: Instruction): number {
    if (this.#program.length >= INSTRUCTIONS_COUNT) throw new SyntaxError('it is too large when repeated so often');
    return this.#program.push(instruction) - 1;
  }

  /** Where to begin with `expression` if what follows it is at `next`: from the end to the start. */
  #compile(expression: Expression, next: number): number {
    switch (expression.is) {
      case 'char':
        return this.#add({ is: 'char', has: expression.has, next });
      case 'assertion':
        return this.#add({ is: 'assertion', what: expression.what, next });
      case 'all':
        return expression.of.reduceRight((after, each) => this.#compile(each, after), next);
      case 'any':
        return this.#add({ is: 'fork', next: expression.of.map((each) => this.#compile(each, next)) });
      case 'repeat':
        return this.#repeat(expression, next);
    }
  }

  #repeat({ of, min, max }: Extract<Expression, { is: 'repeat' }>, next: number): number {
    let start = next;
    if (max === Number.POSITIVE_INFINITY) {
      const ways = [next];
      start = this.#add({ is: 'fork', next: ways });
      ways.unshift(this.#compile(of, start));
    } else for (let i = min; i < max; i++) start = this.#add({ is: 'fork', next: [this.#compile(of, start), next] });
    for (let i = 0; i < min; i++) start = this.#compile(of, start);
    return start;
  }

  #place(states: readonly number[], before: Before): Place {
    const key = `${before} ${states.join()}`;
    const known = this.#places.get(key);
    if (known !== undefined) return known;
    const place: Place = { states, before, steps: new Map() };
    this.#places.set(key, place);
    return place;
  }

  #step(from: Place, char: string): Place | 'matched' {
    const known = from.steps.get(char);
    if (known !== undefined) return known;
    if (++this.#stepsCount > STEPS_COUNT) {
      this.#stepsCount = 0;
      this.#places.clear();
      from.steps.clear();
    }
    const step = this.#stepAnew(from, char);
    from.steps.set(char, step);
    return step;
  }

  #stepAnew({ states, before }: Place, char: string): Place | 'matched' {
    // A match may begin at each place.
    const after = new Set<number>([this.#start]);
    const seen = new Set<number>();
    const open = [...states];
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      if (seen.has(at)) continue;
      seen.add(at);
      const instruction = this.#program[at];
      if (instruction === undefined || instruction.is === 'match') return 'matched';
      if (instruction.is === 'fork') open.push(...instruction.next);
      else if (instruction.is === 'assertion') {
        if (holds(instruction.what, before, char)) open.push(instruction.next);
      } else if (char !== '' && instruction.has(char)) after.add(instruction.next);
    }
    return this.#place(
      [...after].sort((a, b) => a - b),
      kindOf(char),
    );
  }
}

function kindOf(char: string): Before {
  if (char === '\n') return 'newline';
  return /^\w$/.test(char) ? 'word' : 'other';
}

/** Whether it holds between what was before and the next character, which is '' at the end of the text. */
function holds(what: Assertion, before: Before, next: string): boolean {
  const isEdge = (before === 'word') !== /^\w$/.test(next);
  switch (what) {
    case 'text start':
      return before === 'start';
    case 'text end':
      return next === '';
    case 'line start':
      return before === 'start' || before === 'newline';
    case 'line end':
      return next === '' || next === '\n';
    case 'word edge':
      return isEdge;
    case 'no word edge':
      return !isEdge;
  }
}
