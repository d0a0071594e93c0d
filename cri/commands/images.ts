/** `berth pull`, `rmi`, `import`: bringing images here and taking them away. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { quote } from '../../pkg/base/ids.ts';
import type { AuthConfig, Input, Pull } from '../../pkg/cri-api/types.ts';
import type { Client } from '../client.ts';
import { type CommandContext, interrupted, withClient } from './context.ts';
import { bytes, plain, printJson, type Screen, shortId } from './output.ts';

/** Adds `pull`, `rmi` and `import`. */
export function addImages(program: Command, context: CommandContext): void {
  const { screen } = context;
  program
    .command('pull')
    .description('pull an image, with the progress of each layer on a terminal')
    .argument('<image>')
    .option(
      '--creds <user:password>',
      'for this pull only; others on this node can see it while it runs, an auth file they cannot',
    )
    .option('--json', 'as JSON')
    .action(async (image: string, { creds, json }: { readonly creds?: string; readonly json?: true }) => {
      await withClient(context, async (client) => {
        const auth = creds === undefined ? undefined : credentials(creds);
        const imageRef = await (json === true || !screen.isTerminal
          ? pull(client, image, auth)
          : pullWithProgress(client, screen, image, auth));
        if (json === true) printJson(screen, { imageRef });
        else screen.write(`${imageRef}\n`);
      });
    });
  program
    .command('rmi')
    .description('remove images, with all their names')
    .argument('<image...>')
    .action(async (names: string[]) => {
      await withClient(context, async (client) => {
        for (const name of names) {
          const { image } = await client.imageStatus({ image: { image: name } });
          if (image === undefined) throw new RuntimeError('NotFound', `no image ${quote(name)} on this node`);
          await client.removeImage({ image: { image: image.id } });
          screen.write(`removed ${image.id} ${plain(image.repoTags.join(' '))}\n`);
        }
      });
    });
  program
    .command('import')
    .argument('<path>', 'an OCI layout directory, or an OCI or docker archive')
    .argument('[name]', 'name to give the image; default: the names that it carries')
    .description('load images from a file into the running daemon')
    .option('--json', 'as JSON')
    .action(async (path: string, name: string | undefined, { json }: { readonly json?: true }) => {
      await withClient(context, async (client) => {
        const reply = await client.import({ path: resolve(path), reference: name ?? '' });
        if (json === true) printJson(screen, reply);
        else for (const image of reply.images) screen.write(`${image.imageId} ${plain(image.references.join(' '))}\n`);
      });
    });
}

/** @throws InvalidArgument */
function credentials(text: string): Input<AuthConfig> {
  const at = text.indexOf(':');
  if (at <= 0) throw new RuntimeError('InvalidArgument', '--creds wants user:password');
  return { username: text.slice(0, at), password: text.slice(at + 1) };
}

/** The id of the image. Ctrl-C gives up; what is here already stays for the next try. */
async function pull(client: Client, image: string, auth: Input<AuthConfig> | undefined): Promise<string> {
  return (await client.pullImage({ image: { image }, auth }, { signal: interrupted() })).imageRef;
}

/** The same, with a bar for each layer until it is over. */
async function pullWithProgress(
  client: Client,
  screen: Screen,
  image: string,
  auth: Input<AuthConfig> | undefined,
): Promise<string> {
  const over = new AbortController();
  const progress = showProgress(client, screen, image, over.signal);
  try {
    return await pull(client, image, auth);
  } finally {
    over.abort();
    await progress;
  }
}

/** Bars that are drawn over themselves until `signal` fires. A daemon that tells no progress is no failure. */
async function showProgress(client: Client, screen: Screen, image: string, signal: AbortSignal): Promise<void> {
  let drawn = 0;
  try {
    for await (const { pulls } of client.pullProgress({}, { signal })) {
      const own = pulls.find((each) => isSame(each.reference, image));
      if (own === undefined) continue;
      const lines = progressLines(screen, own, process.stdout.columns ?? 80).slice(
        -Math.max(1, (process.stdout.rows ?? 24) - 1),
      );
      screen.write(`${drawn > 0 ? `\x1b[${drawn}A\x1b[J` : ''}${lines.join('\n')}\n`);
      drawn = lines.length;
    }
  } catch {
    // The end of the stream is told by the end of the pull.
  }
  if (drawn > 0) screen.write(`\x1b[${drawn}A\x1b[J`);
}

/** Whoever began the pull may have written `docker.io/library/busybox:latest` for our `busybox`, or the reverse. */
function isSame(reference: string, image: string): boolean {
  const [theirs, ours] = [reference, image].map((each) => each.replace(/:latest$/, '')) as [string, string];
  return theirs === ours || theirs.endsWith(`/${ours}`) || ours.endsWith(`/${theirs}`);
}

/** Half of a narrow terminal: the other half is for the name and the numbers. */
const BAR_CHARS = 30;

/** PURE. One line for the pull and one for each layer, none wider than the screen. */
export function progressLines(screen: Screen, pull: Pull, columns: number): string[] {
  const done = pull.layers.filter((each) => each.stage === 'done').length;
  const count = pull.layers.length > 0 ? `, ${done} of ${pull.layers.length} layers` : '';
  const head = `${plain(pull.reference)}: ${pull.stage}${count}`;
  return [head.slice(0, columns), ...layerLines(screen, pull, columns)];
}

/** PURE. A bar for each layer of a pull. */
export function layerLines(screen: Screen, { layers }: Pick<Pull, 'layers'>, columns: number): string[] {
  return layers.map((layer) => {
    const part = layer.bytesTotal > 0n ? Math.min(1, Number(layer.bytesDone) / Number(layer.bytesTotal)) : 0;
    const full = layer.stage === 'done' ? BAR_CHARS : Math.round(part * BAR_CHARS);
    const bar = `${'='.repeat(full)}${' '.repeat(BAR_CHARS - full)}`;
    const amount =
      layer.stage === 'done' ? bytes(layer.bytesTotal) : `${bytes(layer.bytesDone)} / ${bytes(layer.bytesTotal)}`;
    const text = `  ${shortId(layer.digest)} [${bar}] ${layer.stage.padEnd(11)} ${amount}`.slice(0, columns);
    return layer.stage === 'done' ? screen.paint('dim', text) : text;
  });
}
