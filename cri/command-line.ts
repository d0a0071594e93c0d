/**
 * A command line as commander reads it: commands and their flags, help, and what is wrong. Flags of the daemon alone do
 * not need it (`readFlags`).
 */
import { Command, CommanderError, Option } from 'commander';
import { addToList, argumentsOf, flags } from '../pkg/config/index.ts';
import type { FlagValues, LoadedConfig } from '../pkg/config/index.ts';
import { addCommands } from './commands/index.ts';

/** What a command line is run with. */
export interface OwnProgram {
  readonly version: string;
  /** Where the unpack worker's script is; absent when running from source. */
  readonly workerUrl?: URL | undefined;
  /** Without a command: the daemon. */
  readonly serve: (given: FlagValues) => Promise<void>;
  /** The configuration as a daemon with these flags would have it. */
  readonly configuration: (given: FlagValues) => Promise<LoadedConfig>;
}

/** Does what the words after the program's name say. @throws what a command throws; what commander says is said. */
export async function runCommandLine(argv: readonly string[], own: OwnProgram): Promise<void> {
  try {
    await programOf(own).parseAsync(argumentsOf(argv), { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    process.exitCode = error.exitCode;
  }
}

/** All that can be said on a command line. */
export function programOf({ version, workerUrl, serve, configuration }: OwnProgram): Command {
  const program = new Command('berth')
    .description(
      'A Kubernetes CRI runtime. Without a command it serves; the commands talk to the daemon that serves on --listen.',
    )
    // In the form of CRI-O's, of which scripts take the third word.
    .version(`berth version ${version}`, '-v, --version')
    .enablePositionalOptions()
    // Which commander has by itself only where a program does nothing without a command.
    .helpCommand(true)
    .exitOverride();
  for (const flag of flags) {
    const option = new Option(flag.syntax, flag.description).hideHelp(!flag.shown);
    if (flag.argument === 'list') option.argParser(addToList);
    program.addOption(option);
  }
  program.action(() => serve(program.opts()));
  addCommands(program, { version, workerUrl, load: () => configuration(program.opts()) });
  return program;
}
