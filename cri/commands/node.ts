/** `berth version`, `config`, `status`, `check`: the daemon and the node. */
import type { Command } from 'commander';
import { loadConfig, noFiles, renderConfig } from '../../pkg/config/index.ts';
import type { CheckProblem, Operation, Pull } from '../../pkg/cri-api/types.ts';
import { connect } from '../client.ts';
import { type CommandContext, withClient } from './context.ts';
import { unpacked } from './inspect.ts';
import { plain, printJson, shortId, table } from './output.ts';

export function addNode(program: Command, context: CommandContext): void {
  const { screen } = context;
  program
    .command('version')
    .description('print the version of this program, and of the daemon if one answers')
    .option('--json', 'as JSON')
    .action(async ({ json }: { readonly json?: true }) => {
      const { config } = await context.load();
      const client = connect(config.api.listen);
      const daemon = await client.version({}, { deadlineMs: 2_000 }).catch(() => undefined);
      client.close();
      if (json === true)
        return printJson(screen, {
          version: context.version,
          node: process.version,
          listen: config.api.listen,
          daemon,
        });
      screen.write(`berth ${context.version}\n`);
      screen.write(
        daemon === undefined
          ? `daemon: none answers on ${config.api.listen}\n`
          : `daemon: ${daemon.runtimeName} ${daemon.runtimeVersion}, CRI ${daemon.runtimeApiVersion}, on ` +
              `${config.api.listen}\n`,
      );
    });
  program
    .command('config')
    .description('print the configuration in force, as TOML')
    .option('--default', 'print the built-in defaults instead')
    .action(async ({ default: builtIn }: { readonly default?: true }) => {
      const { config, warnings } = await (builtIn === true
        ? loadConfig({ node: { systemdCgroups: false }, files: noFiles })
        : context.load());
      for (const warning of warnings) process.stderr.write(`berth: ${warning}\n`);
      screen.write(`${renderConfig(config, { comment: 'defaults', docs: 'with' }).trimEnd()}\n`);
    });
  program
    .command('status')
    .description('conditions of the node, pulls, and operations in flight with stage and age')
    .option('--json', 'as JSON')
    .action(async ({ json }: { readonly json?: true }) => {
      await withClient(context, async (client) => {
        const [{ status, runtimeHandlers, features, info }, { operations }] = await Promise.all([
          client.status({ verbose: true }, { deadlineMs: 10_000 }),
          client.operations({}),
        ]);
        // What asks is not what is asked about.
        const others = operations.filter(({ rpc }) => rpc !== 'Operations' && rpc !== 'Status');
        const details = unpacked(info);
        if (json === true)
          return printJson(screen, { ...status, runtimeHandlers, features, ...details, operations: others });
        for (const each of status?.conditions ?? [])
          screen.write(
            `${each.type.padEnd(14)} ${each.status ? screen.paint('green', 'yes') : `${screen.paint('red', 'no')}: ${plain(each.message)}`}\n`,
          );
        const missed = (details['events'] as { readonly dropped?: number } | undefined)?.dropped ?? 0;
        if (missed > 0)
          screen.write(
            `${'Events'.padEnd(14)} ${screen.paint('yellow', `${missed} missed`)} by clients that read them too slowly\n`,
          );
        for (const each of (details['pulls'] ?? []) as readonly Pull[])
          screen.write(`${'Pull'.padEnd(14)} ${plain(each.reference)}: ${each.stage}\n`);
        if (others.length > 0)
          screen.write(
            `\n${table(screen, ['AGE', 'OPERATION', 'ABOUT', 'STAGE', 'SINCE', 'CLIENT'], others.map(operationRow))}`,
          );
      });
    });
  program
    .command('check')
    .description('read all images again and say what is wrong with them, and what the node lacks')
    .option('--repair', 'remove images that are not whole; the next pull brings them back')
    .option('--json', 'as JSON')
    .action(async ({ repair, json }: { readonly repair?: true; readonly json?: true }) => {
      await withClient(context, async (client) => {
        const reply = await client.check({ repair: repair === true });
        // 1 as for any command that did not find all well.
        if (reply.problems.length > 0 && repair !== true) process.exitCode = 1;
        if (json === true) return printJson(screen, reply);
        screen.write(
          table(
            screen,
            ['NODE', '', 'FOUND', 'ADVICE'],
            reply.facts.map((each) => [
              each.name,
              each.ok ? { text: 'ok', style: 'green' } : { text: 'limited', style: 'yellow' },
              each.detail,
              each.advice,
            ]),
          ),
        );
        screen.write('\n');
        for (const each of reply.problems)
          screen.write(
            `${screen.paint('red', 'broken')} ${each.imageId}: ` +
              `${plain(each.what)}${repair === true ? outcome(each) : ''}\n`,
          );
        if (reply.problems.length === 0) screen.write(`${screen.paint('green', 'ok')} all images are whole\n`);
        else if (repair !== true) screen.write('to mend: berth check --repair, then pull again\n');
      });
    });
}

function outcome({ keptBy }: CheckProblem): string {
  return keptBy.length === 0
    ? '; removed, pull it again'
    : `; kept for ${keptBy.slice(0, 3).map(shortId).join(', ')}, remove what runs on it first`;
}

function operationRow({ rpc, ids, stage, ageNanos, stageAgeNanos, clientGone }: Operation): string[] {
  const about = Object.entries(ids)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
  return [
    seconds(ageNanos),
    rpc,
    about,
    stage === '' ? 'starting' : stage,
    seconds(stageAgeNanos),
    clientGone ? 'gone' : 'waits',
  ];
}

function seconds(nanos: bigint): string {
  return `${(Number(nanos) / 1e9).toFixed(1)}s`;
}
