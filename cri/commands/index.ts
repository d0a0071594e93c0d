/**
 * The commands of `berth`, for people on a node that has no crictl: thin, over CRI and berth.v1.Node on the daemon's
 * socket.
 *
 *   lists.ts     ps, pods, images          images.ts    pull, rmi, import
 *   inspect.ts   inspect, inspectp, inspecti             logs.ts      logs
 *   exec.ts      exec, attach              stats.ts     stats
 *   events.ts    events                    node.ts      version, config, status
 *   check.ts     check                     shape.ts     the commands as data
 *   wipe.ts      wipe                      pages.ts     status config, info, containers, goroutines, heap; debug
 *   completion.ts completion
 */
import type { Command } from 'commander';
import { type CommandContext, wholeNumber } from './context.ts';
import { addCheck } from './check.ts';
import { addCompletion } from './completion.ts';
import { addEvents } from './events.ts';
import { addExec } from './exec.ts';
import { addImages } from './images.ts';
import { addInspect } from './inspect.ts';
import { addLists } from './lists.ts';
import { addLogs } from './logs.ts';
import { addNode } from './node.ts';
import { screenOf } from './output.ts';
import { addDebug } from './pages.ts';
import { addStats } from './stats.ts';
import { addWipe } from './wipe.ts';

/** Adds every command to the program. */
export function addCommands(program: Command, own: Omit<CommandContext, 'screen' | 'patienceMs'>): void {
  program.option('--timeout <seconds>', 'how long commands wait for the daemon and its answer', wholeNumber);
  const context: CommandContext = {
    ...own,
    screen: screenOf(process.stdout, process.env),
    patienceMs: () => {
      const seconds = program.getOptionValue('timeout') as number | undefined;
      return seconds === undefined ? undefined : seconds * 1_000;
    },
  };
  program.hook('preAction', (_program, command) => {
    // `berth ps | head`: whoever does not read on has seen enough. Not for the daemon, which has no command's name.
    if (command !== program)
      process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  });
  for (const add of [
    addLists,
    addInspect,
    addLogs,
    addExec,
    addStats,
    addEvents,
    addImages,
    addNode,
    addCheck,
    addWipe,
    addDebug,
    addCompletion,
  ])
    add(program, context);
}
