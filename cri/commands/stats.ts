/** `berth stats`: what containers and pods use right now. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { ContainerStats, PodSandboxStats, StringMap } from '../../pkg/cri-api/types.ts';
import type { Client } from '../client.ts';
import { collectLabel, type CommandContext, interrupted, withClient } from './context.ts';
import { bytes, printJson, shortId, table } from './output.ts';

interface StatsOptions {
  readonly pods?: true;
  readonly watch?: true;
  readonly label?: StringMap;
  readonly full?: true;
  readonly json?: true;
}

/** Use of processors needs two looks. */
const APART_MS = 500;
const WATCH_MS = 2_000;

/** Adds `stats`. */
export function addStats(program: Command, context: CommandContext): void {
  const { screen } = context;
  program
    .command('stats')
    .description('show the processor, memory, disk and network use of containers or pods')
    .argument('[id]', 'id of a container (or a pod), or its beginning')
    .option('-p, --pods', 'of pods as a whole')
    .option('-w, --watch', 'again every two seconds')
    .option('-l, --label <key=value>', 'only those with this label; may be given again', collectLabel)
    .option('--full', 'whole ids')
    .option('--json', 'as JSON')
    .action(async (id: string | undefined, options: StatsOptions) => {
      await withClient(context, async (client) => {
        const look = options.pods === true ? podsLook(client, id, options) : containersLook(client, id, options);
        const signal = interrupted();
        if (!(await look()).settled) await sleep(APART_MS);
        for (;;) {
          const { reply, header, rows } = await look();
          if (options.json === true) printJson(screen, reply);
          else
            screen.write(
              `${options.watch === true && screen.isTerminal ? '\x1b[H\x1b[2J' : ''}${table(screen, header, rows)}`,
            );
          if (options.watch !== true) return;
          await sleep(WATCH_MS, undefined, { signal }).catch(() => {});
          if (signal.aborted) return;
        }
      });
    });
}

interface Look {
  readonly reply: unknown;
  readonly header: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** The use of processors is known everywhere. */
  readonly settled: boolean;
}

function containersLook(client: Client, id: string | undefined, options: StatsOptions): () => Promise<Look> {
  return async () => {
    const reply = await client.listContainerStats({ filter: { id: id ?? '', labelSelector: options.label ?? {} } });
    const header = ['CONTAINER', 'NAME', 'CPU', 'MEMORY', 'LIMIT', 'SWAP', 'DISK', 'INODES'];
    return {
      reply,
      header,
      rows: reply.stats.map((each) => containerRow(each, options)),
      settled: reply.stats.every((each) => each.cpu?.usageNanoCores !== undefined),
    };
  };
}

function podsLook(client: Client, id: string | undefined, options: StatsOptions): () => Promise<Look> {
  return async () => {
    const reply = await client.listPodSandboxStats({ filter: { id: id ?? '', labelSelector: options.label ?? {} } });
    const header = ['POD', 'NAME', 'NAMESPACE', 'CPU', 'MEMORY', 'LIMIT', 'PROCESSES', 'RECEIVED', 'SENT'];
    return {
      reply,
      header,
      rows: reply.stats.map((each) => podRow(each, options)),
      settled: reply.stats.every((each) => each.linux?.cpu?.usageNanoCores !== undefined),
    };
  };
}

function containerRow(
  { attributes, cpu, memory, swap, writableLayer }: ContainerStats,
  { full }: StatsOptions,
): string[] {
  const id = attributes?.id ?? '';
  return [
    full === true ? id : shortId(id),
    attributes?.metadata?.name ?? '',
    millicores(cpu?.usageNanoCores?.value),
    bytes(memory?.workingSetBytes?.value),
    limitOf(memory),
    bytes(swap?.swapUsageBytes?.value),
    bytes(writableLayer?.usedBytes?.value),
    String(writableLayer?.inodesUsed?.value ?? '-'),
  ];
}

function podRow({ attributes, linux }: PodSandboxStats, { full }: StatsOptions): string[] {
  const id = attributes?.id ?? '';
  const network =
    linux?.network === undefined
      ? []
      : [linux.network.defaultInterface, ...linux.network.interfaces].filter((each) => each !== undefined);
  const sum = (values: readonly (bigint | undefined)[]): bigint | undefined =>
    values.length === 0 ? undefined : values.reduce<bigint>((total, each) => total + (each ?? 0n), 0n);
  return [
    full === true ? id : shortId(id),
    attributes?.metadata?.name ?? '',
    attributes?.metadata?.namespace ?? '',
    millicores(linux?.cpu?.usageNanoCores?.value),
    bytes(linux?.memory?.workingSetBytes?.value),
    limitOf(linux?.memory),
    String(linux?.process?.processCount?.value ?? '-'),
    bytes(sum(network.map((each) => each.rxBytes?.value))),
    bytes(sum(network.map((each) => each.txBytes?.value))),
  ];
}

/** CRI tells what is left; a limit is that and the working set. */
function limitOf(memory: ContainerStats['memory']): string {
  return memory?.availableBytes === undefined
    ? 'none'
    : bytes(memory.availableBytes.value + (memory.workingSetBytes?.value ?? 0n));
}

/** Thousandths of a processor, as Kubernetes writes them. */
export function millicores(nanoCores: bigint | undefined): string {
  return nanoCores === undefined ? '-' : `${(nanoCores + 500_000n) / 1_000_000n}m`;
}
