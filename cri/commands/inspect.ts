/** `berth inspect`, `inspectp`, `inspecti`: all that the daemon knows of one object, as JSON. */
import type { Command } from 'commander';
import type { StringMap } from '../../pkg/cri-api/types.ts';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { quote } from '../../pkg/base/ids.ts';
import type { Client } from '../client.ts';
import { type CommandContext, withClient } from './context.ts';
import { printJson } from './output.ts';
import { parseJson } from '../../pkg/base/json.ts';

/** Adds `inspect`, `inspectp` and `inspecti`. */
export function addInspect(program: Command, context: CommandContext): void {
  const add = (
    name: string,
    argument: string,
    what: string,
    look: (client: Client, id: string) => Promise<unknown>,
  ): void => {
    program
      .command(name)
      .description(`show all about ${what}, as JSON`)
      .argument(`<${argument}...>`)
      .action(async (ids: string[]) => {
        await withClient(context, async (client) => {
          for (const id of ids) printJson(context.screen, await look(client, id));
        });
      });
  };
  add('inspect', 'container', 'a container', async (client, containerId) => {
    const { status, info } = await client.containerStatus({ containerId, verbose: true });
    return { status, ...unpacked(info) };
  });
  add('inspectp', 'pod', 'a pod, with the operations on it that are under way', async (client, podSandboxId) => {
    const { status, containersStatuses, info } = await client.podSandboxStatus({ podSandboxId, verbose: true });
    return { status, containersStatuses, ...unpacked(info) };
  });
  add('inspecti', 'image', 'an image', async (client, name) => {
    const { image, info } = await client.imageStatus({ image: { image: name }, verbose: true });
    if (image === undefined)
      throw new RuntimeError('NotFound', `no image ${quote(name)} on this node; pull it with: berth pull ${name}`);
    return { status: image, ...unpacked(info) };
  });
}

/** The values of `info` are JSON each; one that is not stays text. */
export function unpacked(info: StringMap): Record<string, unknown> {
  const found: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  for (const [key, text] of Object.entries(info)) {
    try {
      found[key] = parseJson(text);
    } catch {
      found[key] = text;
    }
  }
  return found;
}
