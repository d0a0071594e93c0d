/** `berth version`, `config`, `status`, `check`: the daemon and the node. */
import type { Command } from 'commander';
import { loadConfig, noFiles, renderConfig } from '../../pkg/config/index.ts';
import type { CheckProblem, NodeFact, Operation, Pull } from '../../pkg/cri-api/types.ts';
import { type Client, connect } from '../client.ts';
import { type CommandContext, withClient } from './context.ts';
import { layerLines } from './images.ts';
import { unpacked } from './inspect.ts';
import { type Cell, plain, printJson, type Screen, shortId, table } from './output.ts';

/** Adds `version`, `config`, `status` and `check`. */
export function addNode(program: Command, context: CommandContext): void {
  program
    .command('version')
    .description('print the version of this program, and of the daemon if one answers')
    .option('--json', 'as JSON')
    .action(({ json }: JsonOption) => printVersion(context, json === true ? 'json' : 'text'));
  program
    .command('config')
    .description('print the configuration in force, as TOML')
    .option('--default', 'print the built-in defaults instead')
    .action(({ default: builtIn }: { readonly default?: true }) =>
      printConfig(context, builtIn === true ? 'built-in' : 'in force'),
    );
  program
    .command('status')
    .description('conditions of the node, pulls, and operations in flight with stage and age')
    .option('--json', 'as JSON')
    .action(({ json }: JsonOption) =>
      withClient(context, (client) => printStatus(client, context.screen, json === true ? 'json' : 'text')),
    );
  program
    .command('check')
    .description('read all images again and say what is wrong with them, and what the node lacks')
    .option('--repair', 'remove images that are not whole; the next pull brings them back')
    .option('--json', 'as JSON')
    .action(({ repair, json }: JsonOption & { readonly repair?: true }) =>
      withClient(context, (client) =>
        check(client, context.screen, repair === true ? 'repair' : 'report', json === true ? 'json' : 'text'),
      ),
    );
}

interface JsonOption {
  readonly json?: true;
}
type Form = 'json' | 'text';

/** A daemon that does not answer so soon is none, for somebody who asks for a version. */
const VERSION_MS = 2_000;
/** Status reads what is in memory; a node that takes longer has other worries. */
const STATUS_MS = 10_000;

async function printVersion({ load, version, screen }: CommandContext, form: Form): Promise<void> {
  const { listen } = (await load()).config.api;
  const client = connect(listen);
  const daemon = await client.version({}, { deadlineMs: VERSION_MS }).catch(() => undefined);
  client.close();
  if (form === 'json') return printJson(screen, { version, node: process.version, listen, daemon });
  screen.write(`berth ${version}\n`);
  screen.write(
    daemon === undefined
      ? `daemon: none answers on ${listen}\n`
      : `daemon: ${daemon.runtimeName} ${daemon.runtimeVersion}, CRI ${daemon.runtimeApiVersion}, on ${listen}\n`,
  );
}

async function printConfig({ load, screen }: CommandContext, which: 'built-in' | 'in force'): Promise<void> {
  const { config, warnings, notes } = await (which === 'built-in'
    ? loadConfig({ node: { systemdCgroups: false }, files: noFiles })
    : load());
  for (const said of [...notes, ...warnings]) process.stderr.write(`berth: ${said}\n`);
  // Live values for the defaults: scripts edit them with sed, as those of `crio config --default`.
  const comment = which === 'built-in' ? 'none' : 'defaults';
  screen.write(`${renderConfig(config, { comment, docs: 'with' }).trimEnd()}\n`);
}

async function printStatus(client: Client, screen: Screen, form: Form): Promise<void> {
  const [{ status, runtimeHandlers, features, info }, { operations }] = await Promise.all([
    client.status({ verbose: true }, { deadlineMs: STATUS_MS }),
    client.operations({}),
  ]);
  // What asks is not what is asked about.
  const others = operations.filter(({ rpc }) => rpc !== 'Operations' && rpc !== 'Status');
  const details = unpacked(info);
  if (form === 'json')
    return printJson(screen, { ...status, runtimeHandlers, features, ...details, operations: others });
  const line = (name: string, text: string): void => screen.write(`${name.padEnd(14)} ${text}\n`);
  for (const { type, status: holds, message } of status?.conditions ?? [])
    line(type, holds ? screen.paint('green', 'yes') : `${screen.paint('red', 'no')}: ${plain(message)}`);
  const missed = (details['events'] as { readonly dropped?: number } | undefined)?.dropped ?? 0;
  if (missed > 0) line('Events', `${screen.paint('yellow', `${missed} missed`)} by clients that read them too slowly`);
  for (const { reference, stage, layers } of pullsIn(details)) {
    line('Pull', `${plain(reference)}: ${stage}`);
    for (const bar of layerLines(screen, { layers }, process.stdout.columns ?? 80)) screen.write(`${bar}\n`);
  }
  if (others.length === 0) return;
  const header = ['AGE', 'OPERATION', 'ABOUT', 'STAGE', 'SINCE', 'CLIENT'];
  screen.write(`\n${table(screen, header, others.map(operationRow))}`);
}

/** PURE. The pulls in a verbose status, which JSON has made numbers or text of 64-bit values. */
export function pullsIn(details: Readonly<Record<string, unknown>>): readonly Pull[] {
  return ((details['pulls'] ?? []) as readonly Pull[]).map((pull) => ({
    ...pull,
    startedAt: BigInt(pull.startedAt),
    layers: pull.layers.map((layer) => ({
      ...layer,
      bytesDone: BigInt(layer.bytesDone),
      bytesTotal: BigInt(layer.bytesTotal),
    })),
  }));
}

async function check(client: Client, screen: Screen, what: 'repair' | 'report', form: Form): Promise<void> {
  const reply = await client.check({ repair: what === 'repair' });
  // 1 as for any command that did not find all well.
  if (reply.problems.length > 0 && what === 'report') process.exitCode = 1;
  if (form === 'json') return printJson(screen, reply);
  screen.write(`${table(screen, ['NODE', '', 'FOUND', 'ADVICE'], reply.facts.map(factRow))}\n`);
  for (const each of reply.problems) {
    const end = what === 'repair' ? outcome(each) : '';
    screen.write(`${screen.paint('red', 'broken')} ${each.imageId}: ${plain(each.what)}${end}\n`);
  }
  if (reply.problems.length === 0) screen.write(`${screen.paint('green', 'ok')} all images are whole\n`);
  else if (what === 'report') screen.write('to mend: berth check --repair, then pull again\n');
}

function factRow({ name, ok, detail, advice }: NodeFact): Cell[] {
  return [name, ok ? { text: 'ok', style: 'green' } : { text: 'limited', style: 'yellow' }, detail, advice];
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
