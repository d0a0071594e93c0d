/** `berth version`, `config`, `status`: the daemon. What `status` has below it is in pages.ts. */
import type { Command } from 'commander';
import { loadConfig, noFiles, renderConfig } from '../../pkg/config/index.ts';
import type { Operation, Pull } from '../../pkg/cri-api/types.ts';
import { type Client, connect } from '../client.ts';
import { type CommandContext, socketOf, withClient } from './context.ts';
import { layerLines } from './images.ts';
import { unpacked } from './inspect.ts';
import { addPages } from './pages.ts';
import { plain, printJson, type Screen, table } from './output.ts';

/** Adds `version`, `config` and `status`. */
export function addNode(program: Command, context: CommandContext): void {
  program
    .command('version')
    .description('print the version of this program, and of the daemon if one answers')
    .option('-j, --json', 'as JSON')
    .option('-v, --verbose', "CRI-O's: there is no more to say")
    .action(({ json }: JsonOption) => printVersion(context, json === true ? 'json' : 'text'));
  program
    .command('config')
    .description('print the configuration in force, as TOML')
    .option('--default', 'print the built-in defaults instead')
    .action(({ default: builtIn }: { readonly default?: true }) =>
      printConfig(context, builtIn === true ? 'built-in' : 'in force'),
    );
  const status = program
    .command('status')
    .description('conditions of the node, pulls, and operations in flight with stage and age')
    .option('--json', 'as JSON')
    .option('-s, --socket <path>', 'the socket to ask, in place of that of the configuration');
  status.action(async ({ json }: JsonOption) =>
    withClient(
      context,
      (client) => printStatus(client, context.screen, json === true ? 'json' : 'text'),
      await socketOf(status, context),
    ),
  );
  addPages(status, context);
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
  const platform = `linux/${process.arch === 'x64' ? 'amd64' : process.arch}`;
  if (form === 'json') return printJson(screen, { version, node: process.version, platform, listen, daemon });
  screen.write(`berth ${version}\n`);
  screen.write(
    daemon === undefined
      ? `daemon: none answers on ${listen}\n`
      : `daemon: ${daemon.runtimeName} ${daemon.runtimeVersion}, CRI ${daemon.runtimeApiVersion}, on ${listen}\n`,
  );
  // As CRI-O's lines begin, which scripts look for.
  for (const [name, value] of Object.entries({ Version: version, NodeVersion: process.version, Platform: platform }))
    screen.write(`${`${name}:`.padEnd(16)}${value}\n`);
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
