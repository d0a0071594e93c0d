/** `berth wipe`: all pods and images away; what CRI-O's crio-wipe.service is called with. */
import type { Command } from 'commander';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { type Client, connect } from '../client.ts';
import { wipeImagesOffline } from '../parts/offline-images.ts';
import { ABSENT_MS, type CommandContext } from './context.ts';

/** Adds `wipe`. */
export function addWipe(program: Command, context: CommandContext): void {
  program
    .command('wipe')
    .description('with --force, remove all pods and all images; without it nothing, since every start tidies up')
    .option('-f, --force', 'really, with a kubelet that is stopped; without a daemon, if there are no pods')
    .action(({ force }: { readonly force?: true }) =>
      force === true
        ? wipe(context)
        : context.screen.write(
            'nothing to wipe: what a crash or a reboot has left, the daemon removes when it starts\n',
          ),
    );
}

async function wipe(context: CommandContext): Promise<void> {
  const { config } = await context.load();
  const client = connect(config.api.listen, context.patienceMs());
  try {
    await client.waitForReady(context.patienceMs() ?? ABSENT_MS);
  } catch {
    client.close();
    const removed = await wipeImagesOffline(backgroundOp(silent), config, context.workerUrl);
    for (const { id, repoTags } of removed) sayRemoved(context, id, repoTags);
    return;
  }
  try {
    await wipeBy(client, context);
  } finally {
    client.close();
  }
}

/** Pods go one after the other: each has its grace, and what cannot be removed is said with its name. */
async function wipeBy(client: Client, context: CommandContext): Promise<void> {
  const { items } = await client.listPodSandbox({});
  for (const { id, metadata } of items) {
    await client.stopPodSandbox({ podSandboxId: id });
    await client.removePodSandbox({ podSandboxId: id });
    context.screen.write(`removed pod ${metadata?.namespace}/${metadata?.name}\n`);
  }
  const { images } = await client.listImages({});
  for (const { id, repoTags } of images) {
    await client.removeImage({ image: { image: id } });
    sayRemoved(context, id, repoTags);
  }
}

function sayRemoved({ screen }: CommandContext, id: string, tags: readonly string[]): void {
  screen.write(`removed ${[id, ...tags].join(' ')}\n`);
}
