import { readFileSync } from 'node:fs';
import { assert } from 'chai';
import { parse } from 'yaml';
import { SERIES } from './series.ts';

const contrib = (path: string): string => readFileSync(new URL(`../../contrib/${path}`, import.meta.url), 'utf8');

interface Rules {
  readonly groups: readonly {
    readonly name: string;
    readonly rules: readonly {
      readonly alert: string;
      readonly expr: string;
      readonly labels: Readonly<Record<string, string>>;
      readonly annotations: Readonly<Record<string, string>>;
    }[];
  }[];
}
interface Dashboard {
  readonly panels: readonly {
    readonly id: number;
    readonly title: string;
    readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[];
  }[];
  readonly templating: { readonly list: readonly { readonly query: string | { readonly query: string } }[] };
}

/** Names by which values of a series are asked for, and the labels that they have beside those of the scrape. */
const ASKED = new Map<string, readonly string[]>(
  Object.values(SERIES).flatMap(({ name, type, labels }): [string, readonly string[]][] => {
    if (type === 'counter' || type === 'gauge') return [[name, labels]];
    const sums: [string, readonly string[]][] = [
      [`${name}_sum`, labels],
      [`${name}_count`, labels],
    ];
    return type === 'summary'
      ? [[name, [...labels, 'quantile']], ...sums]
      : [[`${name}_bucket`, [...labels, 'le']], ...sums];
  }),
);
/** What a scrape adds. */
const SCRAPED = ['instance', 'job'];

/** Every series in an expression with the labels that it is chosen by. */
function selectors(expr: string): { readonly name: string; readonly labels: readonly string[] }[] {
  const found = expr.matchAll(/\b((?:container_runtime|berth|process)_[a-z_]+)(\{[^}]*\})?/g);
  return Array.from(found, ([, name = '', braces = '']) => ({
    name,
    labels: Array.from(braces.matchAll(/([a-z]+)\s*[=!]~?"/g), ([, label = '']) => label),
  }));
}

/** Labels that an expression groups by, or a text names. */
function named(text: string): string[] {
  const grouped = Array.from(text.matchAll(/\bby \(([^)]*)\)/g), ([, list = '']) => list.split(/, */)).flat();
  const shown = Array.from(text.matchAll(/\{\{ ?(?:\$labels\.)?([a-z]+) ?\}\}/g), ([, label = '']) => label);
  return [...grouped, ...shown];
}

function judge(where: string, expr: string, texts: readonly string[]): void {
  const used = selectors(expr);
  assert.isNotEmpty(used, where);
  const known = new Set(SCRAPED);
  for (const { name, labels } of used) {
    const own = ASKED.get(name) ?? assert.fail(`${where}: nothing gives ${name}`);
    for (const label of own) known.add(label);
    for (const label of labels) assert.include([...own, ...SCRAPED], label, `${where}: ${name} has no label ${label}`);
  }
  for (const label of [expr, ...texts].flatMap(named)) assert.isTrue(known.has(label), `${where}: no label ${label}`);
}

describe('contrib for Prometheus and Grafana', () => {
  it('has alerts on series that there are, with their labels, that say what to do', () => {
    const { groups } = parse(contrib('prometheus/berth.rules.yaml')) as Rules;
    const rules = groups.flatMap((group) => group.rules);
    assert.isAtLeast(rules.length, 8);
    assert.equal(new Set(rules.map(({ alert }) => alert)).size, rules.length);
    for (const { alert, expr, labels, annotations } of rules) {
      judge(alert, expr, Object.values(annotations));
      assert.include(['info', 'warning', 'critical'], labels['severity'], alert);
      assert.containsAllKeys(annotations, ['summary', 'description']);
    }
  });

  it('has a dashboard of series that there are, each panel once, and all of CRI-O’s that have values here', () => {
    const { panels, templating } = JSON.parse(contrib('grafana/berth.json')) as Dashboard;
    assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
    const targets = panels.flatMap(({ title, targets: own = [] }) => own.map((target) => ({ title, ...target })));
    for (const { title, expr, legendFormat } of targets) judge(title, expr, [legendFormat]);
    for (const { query } of templating.list)
      if (typeof query !== 'string')
        for (const { name } of selectors(query.query)) assert.isTrue(ASKED.has(name), query.query);
    const shown = new Set(targets.flatMap(({ expr }) => selectors(expr).map(({ name }) => name)));
    const unshown = Object.values(SERIES)
      .map(({ name }) => name)
      .filter((name) => !['', '_bucket', '_sum'].some((suffix) => shown.has(`${name}${suffix}`)));
    assert.deepEqual(unshown, [
      'container_runtime_crio_containers_oom_total',
      'container_runtime_crio_image_layer_reuse_total',
      'container_runtime_crio_containers_seccomp_notifier_count_total',
      'berth_spans_dropped_total',
      'process_start_time_seconds',
    ]);
  });
});
