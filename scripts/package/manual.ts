/** The manual pages: the text of docs/man, with what follows from the sources put in where it belongs. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CommandShape, everyCommand, type OptionShape } from '../../cri/commands/shape.ts';
import type { Option, Table } from '../../pkg/config/option.ts';
import { handlerTable, tables } from '../../pkg/config/schema.ts';
import { manualPage, verbatim } from './roff.ts';

const ROOT = join(import.meta.dirname, '../..');
const PAGES = join(ROOT, 'docs/man');

/** A page by its name in a directory of manuals, `man8/berth.8`. */
export interface Page {
  readonly path: string;
  readonly text: string;
}

/** All pages. `date` and `version` are those of the release. */
export function manual(shape: CommandShape, { version, date }: { version: string; date: string }): readonly Page[] {
  const parts: Readonly<Record<string, () => string>> = {
    commands: () => commands(shape),
    flags: () => definitions(shape.options),
    keys: () => keys(),
    conmon: () => monitorOptions(),
  };
  return readdirSync(PAGES).map((file) => {
    const [, name = '', section = ''] = /^(.+)\.(\d)\.md$/.exec(file) ?? [];
    const markdown = readFileSync(join(PAGES, file), 'utf8').replaceAll(/\{\{(\w+)\}\}/g, (_, part: string) => {
      const fill = parts[part];
      if (fill === undefined) throw new Error(`docs/man/${file} asks for ${part}, which nobody knows`);
      return fill();
    });
    const title = { name, section: Number(section), date, source: `berth ${version}` };
    return { path: `man${section}/${name}.${section}`, text: manualPage(title, markdown) };
  });
}

function commands(shape: CommandShape): string {
  return everyCommand(shape)
    .filter(({ path }) => path.length > 0)
    .map(({ path, shape: each }) => {
      const own = each.options.map(({ short, long, value, description }) => {
        const spelled = [short, long].filter((word) => word !== '').map((word) => `**${word}**`);
        return `${spelled.join(', ')}${value === '' ? '' : ` *${unbracketed(value)}*`}: ${verbatim(description)}`;
      });
      const text = [`${capital(verbatim(each.description))}.`, ...own.map((option) => `${option}.`)].join(' ');
      return `**${path.join(' ')}** ${verbatim(each.usage)}\n: ${text}`;
    })
    .join('\n\n');
}

function definitions(options: readonly OptionShape[]): string {
  return options
    .map(({ short, long, value, description }) => {
      const spelled = [short, long].filter((word) => word !== '').map((word) => `**${word}**`);
      return `${spelled.join(', ')}${value === '' ? '' : ` *${unbracketed(value)}*`}\n: ${verbatim(description)}`;
    })
    .join('\n\n');
}

function keys(): string {
  const section = ({ name, doc, options }: Table, title = name): string =>
    [
      `## [${title}]`,
      doc,
      ...Object.values<Option<unknown>>(options).map(
        ({ key, kind, fallback, doc: text, reload }) =>
          `**${key}** = ${verbatim(kind.show(fallback))}\n: ${verbatim(text)}` +
          `${reload === undefined ? '' : ' Reloads on SIGHUP.'}`,
      ),
    ].join('\n\n');
  const handler = section(handlerTable, `${handlerTable.name}.NAME`);
  return [...Object.values<Table>(tables).map((table) => section(table)), handler].join('\n\n');
}

/** From the monitor's own table, which its --help is printed from. */
function monitorOptions(): string {
  const source = readFileSync(join(ROOT, 'conmon/cli.c'), 'utf8');
  const rows = source.matchAll(/^\t\{ "([a-z-]+)", (?:'(.)'|0), (\w+), (?:FIELD\(\w+\)|0), "(.*)" \},$/gm);
  return Array.from(rows, ([, long = '', short, kind, text = '']) => {
    const value = kind === 'FLAG' ? '' : kind === 'INT' || kind === 'INT64' ? ' *number*' : ' *value*';
    return `${short === undefined ? '' : `**-${short}**, `}**--${long}**${value}\n: ${verbatim(text)}.`;
  }).join('\n\n');
}

function unbracketed(value: string): string {
  return value.replaceAll(/[<>]/g, '');
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
