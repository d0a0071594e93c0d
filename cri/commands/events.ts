/**
 * `berth events`: what happens to containers and pods, a line each: first the state of all there is, then whatever
 * comes.
 */
import type { Command } from 'commander';
import type { ContainerEventResponse } from '../../pkg/cri-api/types.ts';
import { toJson } from '../json.ts';
import { type CommandContext, interrupted, withClient } from './context.ts';
import { plain, type Screen, shortId, type Style } from './output.ts';

const STYLES: Readonly<Record<ContainerEventResponse['containerEventType'], Style>> = {
  CONTAINER_CREATED_EVENT: 'yellow',
  CONTAINER_STARTED_EVENT: 'green',
  CONTAINER_STOPPED_EVENT: 'dim',
  CONTAINER_DELETED_EVENT: 'red',
};

/** Adds `events`. */
export function addEvents(program: Command, context: CommandContext): void {
  const { screen } = context;
  program
    .command('events')
    .description('follow what happens to containers and pods, from the state of all there is now')
    .option('--json', 'as JSON, one object per line, with all statuses')
    .action(async ({ json }: { readonly json?: true }) => {
      await withClient(context, async (client) => {
        const signal = interrupted();
        try {
          for await (const event of client.getContainerEvents({}, { signal }))
            screen.write(json === true ? `${toJson(event)}\n` : eventLine(screen, event));
        } catch (error) {
          if (!signal.aborted) throw error;
        }
      });
    });
}

/** PURE. Time, what, and whom it happened to. */
export function eventLine(
  screen: Screen,
  { containerId, containerEventType, createdAt, podSandboxStatus, containersStatuses }: ContainerEventResponse,
): string {
  const pod =
    podSandboxStatus === undefined
      ? ''
      : `${podSandboxStatus.metadata?.namespace ?? ''}/${podSandboxStatus.metadata?.name ?? ''}`;
  const own = containersStatuses.find((each) => each.id === containerId);
  const isPod = podSandboxStatus?.id === containerId;
  const what = containerEventType.slice('CONTAINER_'.length, -'_EVENT'.length).toLowerCase();
  const ended =
    containerEventType === 'CONTAINER_STOPPED_EVENT' && own !== undefined ? ` (${own.reason} ${own.exitCode})` : '';
  const whom = isPod
    ? `pod ${shortId(containerId)} ${pod}`
    : `container ${shortId(containerId)} ${own?.metadata?.name ?? ''} of ${pod}`;
  return (
    `${new Date(Number(createdAt / 1_000_000n)).toISOString()} ` +
    `${screen.paint(STYLES[containerEventType], what.padEnd(7))} ${plain(whom)}${plain(ended)}\n`
  );
}
