/** The commands of `berth`: thin, over CRI and berth.v1.Node on the daemon's socket. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { type LoadedConfig, renderConfig } from '../../pkg/config/index.ts';
import { type Client, connect } from '../client.ts';

export interface CommandContext {
  readonly version: string;
  /** The configuration as the daemon would read it with the same flags. */
  readonly load: () => Promise<LoadedConfig>;
}

/** Adds every command to the program. */
export function addCommands(program: Command, context: CommandContext): void {
  program
    .command('version')
    .description('print the version of this program, and of the daemon if one answers')
    .action(async () => {
      print(`berth ${context.version}`);
      const { config } = await context.load();
      const client = connect(config.api.listen);
      try {
        const { runtimeName, runtimeVersion, runtimeApiVersion } = await client.version({}, { deadlineMs: 2_000 });
        print(`daemon: ${runtimeName} ${runtimeVersion}, CRI ${runtimeApiVersion}, on ${config.api.listen}`);
      } catch {
        print(`daemon: none answers on ${config.api.listen}`);
      } finally {
        client.close();
      }
    });
  program
    .command('config')
    .description('print the configuration in force, as TOML')
    .option('--default', 'print the built-in defaults instead')
    .action(async () => {
      const { config, warnings } = await context.load();
      for (const warning of warnings) process.stderr.write(`berth: ${warning}\n`);
      print(renderConfig(config, { comment: 'defaults', docs: 'with' }).trimEnd());
    });
  program
    .command('import')
    .argument('<path>', 'an OCI layout directory, or an OCI or docker archive')
    .argument('[name]', 'name to give the image; default: the names that it carries')
    .description('load images from a file into the running daemon')
    .action(async (path: string, name: string | undefined) => {
      await withClient(context, async (client) => {
        const { images } = await client.import({ path: resolve(path), reference: name ?? '' });
        for (const image of images) print(`${image.imageId} ${image.references.join(' ')}`);
      });
    });
  program
    .command('status')
    .description('conditions of the node and operations in flight, with stage and age')
    .action(async () => {
      await withClient(context, async (client) => {
        const { status } = await client.status({ verbose: false }, { deadlineMs: 10_000 });
        for (const each of status?.conditions ?? []) print(`${each.type.padEnd(14)} ${each.status ? 'yes' : `no: ${each.message}`}`);
        const { operations } = await client.operations({});
        for (const each of operations) print(`${seconds(each.ageNanos).padStart(9)} ${each.rpc} ${Object.values(each.ids).join(' ')} at: ${each.stage || 'starting'} (${seconds(each.stageAgeNanos)})`);
      });
    });
}

async function withClient(context: CommandContext, work: (client: Client) => Promise<void>): Promise<void> {
  const { config } = await context.load();
  const client = connect(config.api.listen);
  try {
    await client.waitForReady(5_000);
    await work(client);
  } finally {
    client.close();
  }
}

function seconds(nanos: bigint): string {
  return `${(Number(nanos) / 1e9).toFixed(2)}s`;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
