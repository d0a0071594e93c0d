/** The configuration as the text of a file that can be read again. PURE. */
import { handlerTable, tables } from './schema.ts';
import type { Option, Table } from './option.ts';
import type { Config, HandlerConfig } from './types.ts';

/** How a configuration is printed. */
export interface RenderOptions {
  /** `none`: every value stands. `defaults`: values that are the default are comments, as `crio config` prints them. */
  readonly comment: 'none' | 'defaults';
  /** The text above each option. */
  readonly docs: 'with' | 'without';
}

/** berth.conf as TOML. Reading it back gives the same configuration; without handlers that are built in. */
export function renderConfig(config: Config, options: RenderOptions): string {
  const lines: string[] = [];
  if (options.docs === 'with') lines.push(...HEADER);
  for (const [section, table] of Object.entries<Table>(tables)) {
    const values = (config as unknown as Record<string, Record<string, unknown>>)[section] ?? {};
    if (options.docs === 'with') lines.push(`# ${table.doc}`);
    lines.push(`[${table.name}]`, '');
    lines.push(
      ...Object.entries(table.options).flatMap(([field, option]) => renderOption(option, values[field], options)),
    );
    if (options.docs === 'with') lines.push(...ignoredNote(table));
    if (section === 'runtime') lines.push(...renderHandlers(config, options));
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

const HEADER = [
  '# Configuration of berth. The tables and keys are those of crio.conf(5); a crio.conf can be used as it is.',
  '# Commented values are the defaults. Files in berth.conf.d win over this one, flags and ' +
    'CONTAINER_* variables over both.',
  '# "Reloads on SIGHUP" marks what needs no restart.',
  '',
];

function renderOption(option: Option<unknown>, value: unknown, options: RenderOptions): string[] {
  const text = `${option.key} = ${option.kind.show(value)}`;
  const isDefault = option.kind.show(value) === option.kind.show(option.fallback);
  const line = options.comment === 'defaults' && isDefault ? `# ${text}` : text;
  if (options.docs === 'without') return [line];
  return [...wrapText(docOf(option)), line, ''];
}

function docOf(option: Option<unknown>): string {
  return option.reload === undefined ? option.doc : `${option.doc} Reloads on SIGHUP.`;
}

function renderHandlers(config: Config, options: RenderOptions): string[] {
  const lines: string[] = [];
  if (options.docs === 'with') {
    lines.push(
      '# Runtime handlers (RuntimeClass). runc, crun and runsc are there without being named, if they are installed.',
      '# Reloads on SIGHUP.',
    );
    lines.push('#', '# [crio.runtime.runtimes.example]');
    for (const option of Object.values(handlerTable.options))
      lines.push(
        ...wrapText(docOf(option)).map((line) => `#${line}`),
        `# ${option.key} = ${option.kind.show(option.fallback)}`,
      );
    lines.push('');
  }
  for (const each of [...config.runtimes.values()].filter(({ configured }) => configured))
    lines.push(...renderHandler(each));
  return lines;
}

function renderHandler(each: HandlerConfig): string[] {
  const values = each as unknown as Record<string, unknown>;
  const rows = Object.entries(handlerTable.options).map(
    ([field, option]) => `${option.key} = ${option.kind.show(values[field])}`,
  );
  return [
    `[${handlerTable.name}.${/^[A-Za-z0-9_-]+$/.test(each.name) ? each.name : JSON.stringify(each.name)}]`,
    ...rows,
    '',
  ];
}

function ignoredNote(table: Table): string[] {
  if (table.ignored.size === 0) return [];
  return [
    ...wrapText(
      'Known from crio.conf and without effect (each one that is set is a warning): ' +
        `${[...table.ignored.keys()].join(', ')}.`,
    ),
    '',
  ];
}

function wrapText(text: string): string[] {
  const lines: string[] = [];
  let line = '#';
  for (const word of text.split(' ')) {
    if (line.length + word.length > 110) {
      lines.push(line);
      line = '#';
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}
