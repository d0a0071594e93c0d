/** The commands as data: what completions and the manual are made of. */
import type { Command } from 'commander';

/** An option, of what --help shows. */
export interface OptionShape {
  /** `-a`, or ''. */
  readonly short: string;
  /** `--all` */
  readonly long: string;
  /** What follows it, `<state>` or `[bool]`; '' for nothing. */
  readonly value: string;
  readonly description: string;
  /** Words that it takes; empty for anything. */
  readonly choices: readonly string[];
}

/** A command with those below it. */
export interface CommandShape {
  readonly name: string;
  readonly description: string;
  /** `[options] <container> <command...>` */
  readonly usage: string;
  readonly options: readonly OptionShape[];
  readonly commands: readonly CommandShape[];
}

/** PURE. Of a program as it stands; hidden options and commander's own `help` are left out. */
export function shapeOf(command: Command): CommandShape {
  return {
    name: command.name(),
    description: command.description(),
    usage: command.usage(),
    options: command.options
      .filter(({ hidden }) => !hidden)
      .map(({ short, long, flags, description, argChoices }) => ({
        short: short ?? '',
        long: long ?? '',
        value: /[<[].*$/.exec(flags)?.[0] ?? '',
        description,
        choices: argChoices ?? [],
      })),
    commands: command.commands.map(shapeOf),
  };
}

/** PURE. A command and all below it, each with the words that lead there: `['status', 'info']`. */
export function everyCommand(
  shape: CommandShape,
  path: readonly string[] = [],
): readonly { readonly path: readonly string[]; readonly shape: CommandShape }[] {
  return [{ path, shape }, ...shape.commands.flatMap((each) => everyCommand(each, [...path, each.name]))];
}
