/** `berth ps`, `pods`, `images`: what there is. */
import { type Command, Option } from 'commander';
import type { Container, ContainerState, Image, PodSandbox, StringMap } from '../../pkg/cri-api/types.ts';
import type { Client } from '../client.ts';
import { collectLabel, type CommandContext, now, withClient } from './context.ts';
import { ago, bytes, type Cell, printJson, type Screen, shortId, table } from './output.ts';

const STATES: Readonly<Record<string, ContainerState>> = {
  created: 'CONTAINER_CREATED',
  running: 'CONTAINER_RUNNING',
  exited: 'CONTAINER_EXITED',
  unknown: 'CONTAINER_UNKNOWN',
};

interface ListOptions {
  readonly label?: StringMap;
  readonly quiet?: true;
  readonly full?: true;
  readonly json?: true;
}
interface PsOptions extends ListOptions {
  readonly all?: true;
  readonly state?: string;
  readonly pod?: string;
}
interface PodsOptions extends ListOptions {
  readonly state?: 'ready' | 'notready';
}

/** Adds `ps`, `pods` and `images`. */
export function addLists(program: Command, context: CommandContext): void {
  listCommand(program, 'ps', 'list containers, those that run unless told otherwise')
    .argument('[id]', 'id of a container, or its beginning')
    .option('-a, --all', 'also those that do not run')
    .addOption(new Option('-s, --state <state>', 'only those in this state').choices(Object.keys(STATES)))
    .option('-p, --pod <id>', 'only those of this pod')
    .action((id: string | undefined, options: PsOptions) =>
      withClient(context, (client) => listContainers(client, context, id, options)),
    );
  listCommand(program, 'pods', 'list pods')
    .argument('[id]', 'id of a pod, or its beginning')
    .addOption(new Option('-s, --state <state>', 'only those in this state').choices(['ready', 'notready']))
    .action((id: string | undefined, options: PodsOptions) =>
      withClient(context, (client) => listPods(client, context, id, options)),
    );
  program
    .command('images')
    .description('list images, a line per name')
    .argument('[name]', 'only this image')
    .option('-q, --quiet', 'ids only')
    .option('--full', 'whole ids')
    .option('--json', 'as JSON')
    .action((name: string | undefined, options: ListOptions) =>
      withClient(context, (client) => listImages(client, context, name, options)),
    );
}

async function listContainers(
  client: Client,
  { screen }: CommandContext,
  id: string | undefined,
  options: PsOptions,
): Promise<void> {
  const everything = options.all === true || id !== undefined;
  const state = options.state === undefined ? (everything ? undefined : 'CONTAINER_RUNNING') : STATES[options.state];
  const filter = {
    id: id ?? '',
    podSandboxId: options.pod ?? '',
    labelSelector: options.label ?? {},
    state: state === undefined ? undefined : { state },
  };
  const [{ containers }, { items: pods }] = await Promise.all([
    client.listContainers({ filter }),
    client.listPodSandbox({}),
  ]);
  const byId = new Map(pods.map((pod) => [pod.id, pod]));
  print(screen, options, {
    json: { containers },
    ids: containers.map((each) => each.id),
    header: ['CONTAINER', 'IMAGE', 'CREATED', 'STATE', 'NAME', 'ATTEMPT', 'POD ID', 'POD', 'NAMESPACE'],
    rows: () => newest(containers).map((each) => psRow(each, byId.get(each.podSandboxId), options)),
  });
}

async function listPods(
  client: Client,
  { screen }: CommandContext,
  id: string | undefined,
  options: PodsOptions,
): Promise<void> {
  const state = options.state === 'ready' ? 'SANDBOX_READY' : 'SANDBOX_NOTREADY';
  const { items } = await client.listPodSandbox({
    filter: {
      id: id ?? '',
      state: options.state === undefined ? undefined : { state },
      labelSelector: options.label ?? {},
    },
  });
  print(screen, options, {
    json: { items },
    ids: items.map((each) => each.id),
    header: ['POD ID', 'CREATED', 'STATE', 'NAME', 'NAMESPACE', 'ATTEMPT', 'RUNTIME'],
    rows: () => newest(items).map((each) => podRow(each, options)),
  });
}

async function listImages(
  client: Client,
  { screen }: CommandContext,
  name: string | undefined,
  options: ListOptions,
): Promise<void> {
  const { images } = await client.listImages({ filter: { image: { image: name ?? '' } } });
  print(screen, options, {
    json: { images },
    ids: images.map((each) => each.id),
    header: ['IMAGE', 'TAG', 'IMAGE ID', 'SIZE', 'PINNED'],
    rows: () => images.flatMap((each) => imageRows(each, options)),
  });
}

/** A list in each form that it may be asked for. */
interface Listed {
  readonly json: unknown;
  readonly ids: readonly string[];
  readonly header: readonly string[];
  readonly rows: () => readonly (readonly Cell[])[];
}

function print(screen: Screen, options: ListOptions, { json, ids, header, rows }: Listed): void {
  if (options.json === true) printJson(screen, json);
  else if (options.quiet === true) for (const id of ids) screen.write(`${id}\n`);
  else screen.write(table(screen, header, rows()));
}

function listCommand(program: Command, name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .option('-l, --label <key=value>', 'only those with this label; may be given again', collectLabel)
    .option('-q, --quiet', 'ids only')
    .option('--full', 'whole ids')
    .option('--json', 'as JSON');
}

function newest<T extends { readonly createdAt: bigint }>(items: readonly T[]): T[] {
  return [...items].sort((a, b) => (a.createdAt > b.createdAt ? -1 : 1));
}

function psRow(each: Container, pod: PodSandbox | undefined, { full }: ListOptions): Cell[] {
  const id = full === true ? (text: string) => text : shortId;
  const { metadata } = each;
  return [
    id(each.id),
    imageName(each),
    ago(each.createdAt, now()),
    stateCell(each.state),
    metadata?.name ?? '',
    String(metadata?.attempt ?? 0),
    id(each.podSandboxId),
    pod?.metadata?.name ?? '',
    pod?.metadata?.namespace ?? '',
  ];
}

/** What the user wrote, where it is known; an id shortened. */
function imageName({ image }: Container): string {
  const name = image?.userSpecifiedImage === '' ? image.image : (image?.userSpecifiedImage ?? '');
  return /^(sha256:)?[0-9a-f]{64}$/.test(name) ? shortId(name) : name;
}

/** A state in words that people use, in the colour of how good it is. */
export function stateCell(state: ContainerState | PodSandbox['state']): Cell {
  const text =
    state === 'SANDBOX_NOTREADY'
      ? 'Not ready'
      : state
          .slice(state.indexOf('_') + 1)
          .replace(/^(.)(.*)$/, (_, first: string, rest: string) => first + rest.toLowerCase());
  const style =
    text === 'Running' || text === 'Ready'
      ? 'green'
      : text === 'Unknown'
        ? 'red'
        : text === 'Created'
          ? 'yellow'
          : 'dim';
  return { text, style };
}

function podRow(each: PodSandbox, { full }: ListOptions): Cell[] {
  const { metadata } = each;
  return [
    full === true ? each.id : shortId(each.id),
    ago(each.createdAt, now()),
    stateCell(each.state),
    metadata?.name ?? '',
    metadata?.namespace ?? '',
    String(metadata?.attempt ?? 0),
    each.runtimeHandler === '' ? '(default)' : each.runtimeHandler,
  ];
}

function imageRows(image: Image, { full }: ListOptions): Cell[][] {
  const rest = [full === true ? image.id : shortId(image.id), bytes(image.size), image.pinned ? 'yes' : ''];
  const names =
    image.repoTags.length > 0
      ? image.repoTags.map(splitTag)
      : [[image.repoDigests[0]?.split('@')[0] ?? '<none>', '<none>'] as const];
  return names.map(([name, tag]) => [name, tag, ...rest]);
}

/** The tag begins after the last colon that is no port's. */
function splitTag(name: string): readonly [name: string, tag: string] {
  const at = name.lastIndexOf(':');
  return at > name.lastIndexOf('/') ? [name.slice(0, at), name.slice(at + 1)] : [name, '<none>'];
}
