/** Samples in, a table or JSON out. */

/** One column's result: milliseconds, bytes or counts, as the row's unit says; or why there is none. */
export type Cell = { readonly p50: number; readonly p99: number } | { readonly error: string };

export interface Row {
  /** The RPC's name, or what was done in words. */
  readonly name: string;
  readonly unit: string;
  readonly berth?: Cell;
  readonly peer?: Cell;
  /**
   * The same work by hand: CNI plugins and OCI runtime without any daemon; for pulls, two tools that pull and unpack.
   */
  readonly floor?: Cell;
}
export type Column = 'berth' | 'peer' | 'floor';

/** The whole run's samples, in the order in which the rows were first heard of. */
export class Report {
  readonly #rows = new Map<
    string,
    { readonly unit: string; readonly samples: Map<Column, number[]>; readonly errors: Map<Column, string> }
  >();

  /** One more sample. */
  add(column: Column, name: string, value: number, unit = 'ms'): void {
    const { samples } = this.#row(name, unit);
    const known = samples.get(column);
    if (known === undefined) samples.set(column, [value]);
    else known.push(value);
  }

  /** The column has no such thing. */
  lacks(column: Column, name: string, why: string, unit = 'ms'): void {
    this.#row(name, unit).errors.set(column, why);
  }

  rows(): Row[] {
    return Array.from(this.#rows, ([name, { unit, samples, errors }]) => ({
      name,
      unit,
      ...Object.fromEntries(
        Array.from(samples, ([column, values]) => [
          column,
          { p50: percentile(values, 0.5), p99: percentile(values, 0.99) },
        ]),
      ),
      ...Object.fromEntries(Array.from(errors, ([column, error]) => [column, { error }])),
    }));
  }

  /**
   * For each series of rows over numbers of pods (`rowAt`), what one pod more costs, from the fewest to the most that
   * it has.
   */
  addSlopes(): void {
    const names = Array.from(this.#rows.keys(), (name) => /^(.*), (\d+) pods$/.exec(name)).filter(
      (name) => name !== null,
    );
    for (const [series = '', rows] of Map.groupBy(names, ([, name]) => name)) {
      const counts = rows.map(([, , count]) => Number(count));
      const [few, many] = [Math.min(...counts), Math.max(...counts)];
      const [first, last] = [few, many].map((count) => this.#rows.get(rowAt(series, count)));
      for (const [column, values] of first?.samples ?? []) {
        const top = last?.samples.get(column);
        if (top === undefined || few === many) continue;
        const perPod = (percentile(top, 0.5) - percentile(values, 0.5)) / (many - few);
        this.add(column, `${series}, each pod more`, perPod, first?.unit);
      }
    }
  }

  #row(name: string, unit: string) {
    const known = this.#rows.get(name);
    if (known !== undefined) return known;
    const row = { unit, samples: new Map<Column, number[]>(), errors: new Map<Column, string>() };
    this.#rows.set(name, row);
    return row;
  }
}

/** The name of a row of a series over numbers of pods. */
export function rowAt(name: string, pods: number): string {
  return `${name}, ${pods} pods`;
}

/** By nearest rank. @throws without values. */
function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const value = sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)];
  if (value === undefined) throw new Error('percentile of nothing');
  return value;
}

/** Rows as Markdown, which reads well on a terminal too. `peer` is the peer's name, undefined without one. */
export function table(rows: readonly Row[], peer: string | undefined): string {
  const head = [
    'row',
    'unit',
    'floor p50 / p99',
    'Berth p50 / p99',
    ...(peer === undefined ? [] : [`${peer} p50 / p99`, 'Berth ÷ peer']),
    'Berth − floor',
  ];
  const body = rows.map((row) => [
    row.name,
    row.unit,
    cell(row.floor),
    cell(row.berth),
    ...(peer === undefined ? [] : [cell(row.peer), combine(row.berth, row.peer, (a, b) => (a / b).toFixed(2))]),
    combine(row.berth, row.floor, (a, b) => number(a - b)),
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...body.map((line) => (line[i] ?? '').length)));
  const line = (cells: readonly string[]): string =>
    '| ' +
    `${cells.map((text, i) => (i === 0 ? text.padEnd(widths[i] ?? 0) : text.padStart(widths[i] ?? 0))).join(' | ')} ` +
    '|';
  const dashes = widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  const rule = `| ${dashes.join(' | ')} |`;
  return [line(head), rule, ...body.map(line)].join('\n');
}

function cell(value: Cell | undefined): string {
  if (value === undefined) return '';
  if ('error' in value) return value.error;
  return value.p50 === value.p99 ? number(value.p50) : `${number(value.p50)} / ${number(value.p99)}`;
}

function combine(a: Cell | undefined, b: Cell | undefined, show: (a: number, b: number) => string): string {
  return a === undefined || b === undefined || 'error' in a || 'error' in b ? '' : show(a.p50, b.p50);
}

function number(value: number): string {
  if (Number.isInteger(value)) return String(value);
  if (Math.abs(value) < 0.1) return value.toFixed(4);
  return Math.abs(value) < 10 ? value.toFixed(2) : value.toFixed(1);
}
