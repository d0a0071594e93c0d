/**
 * `berth status config`, `info`, `containers`, `goroutines` and `heap`: CRI-O's, which read what the daemon's socket
 * shows by HTTP.
 */
import type { Command } from 'commander';
import { createWriteStream } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { text } from 'node:stream/consumers';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { limits } from '../../pkg/base/limits.ts';
import { type CommandContext, socketOf, wholeNumber } from './context.ts';
import { plain } from './output.ts';
import { parseJson } from '../../pkg/base/json.ts';

/** Adds them below `status`, whose `--socket` says whom to ask. */
export function addPages(status: Command, context: CommandContext): void {
  const { screen } = context;
  const page = async (path: string): Promise<IncomingMessage> =>
    fetchPage(await socketOf(status, context), path, context.patienceMs());
  const shows = (name: string, short: string, description: string, path: string): void => {
    status
      .command(name)
      .alias(short)
      .description(description)
      .action(async () => screen.write(await text(await page(path))));
  };
  shows('config', 'c', 'the configuration that the daemon has in force, as TOML', '/config');
  shows('goroutines', 'g', 'what the daemon is doing: CRI-O has its stacks there', '/debug/goroutines');
  status
    .command('info')
    .alias('i')
    .description("the daemon's storage and cgroup driver")
    .action(async () => screen.write(infoLines((await json(await page('/info'))) as Shown)));
  status
    .command('containers')
    .aliases(['container', 'cs', 's'])
    .description('one container or pod')
    .requiredOption('-i, --id <id>', 'its id, or the beginning of it')
    .option('--json', 'all of it, as JSON')
    .action(async ({ id, json: whole }: { readonly id: string; readonly json?: true }) => {
      if (id === '') throw new RuntimeError('InvalidArgument', 'the argument --id cannot be empty');
      const found = (await json(await page(`/containers/${encodeURIComponent(id)}`))) as Shown;
      screen.write(whole === true ? `${JSON.stringify(found, null, 2)}\n` : containerLines(found));
    });
  status
    .command('heap')
    .alias('hp')
    .description("write a snapshot of the daemon's heap, which is in nobody's way but takes seconds")
    .option('-f, --file <path>', 'where to; "-" is standard output, and without it a file is named by the time')
    .action(async ({ file = heapName(new Date()) }: { readonly file?: string }) => {
      await keep(await page('/debug/heap'), file, 'heap dump');
    });
}

const MS_PER_S = 1000;

/** Adds `debug`: what pprof is with CRI-O. */
export function addDebug(program: Command, context: CommandContext): void {
  const debug = program
    .command('debug')
    .description('profiles of the daemon, for the developer tools of Chrome or Node')
    .option('-s, --socket <path>', 'the socket to ask, in place of that of the configuration');
  debug
    .command('cpu')
    .description('write where the daemon spends its processor time, over some seconds')
    .option('-t, --seconds <seconds>', `for how long: 1 to ${limits.cpuProfileMs / MS_PER_S}`, wholeNumber, 10)
    .option('-f, --file <path>', 'where to; "-" is standard output, and without it a file is named by the time')
    .action(async ({ seconds, file = nameBy(new Date(), 'cpu', 'cpuprofile') }: CpuOptions) => {
      const patienceMs = (context.patienceMs() ?? limits.commandConnectMs) + seconds * MS_PER_S;
      const profile = await fetchPage(await socketOf(debug, context), `/debug/cpu/${seconds}`, patienceMs);
      await keep(profile, file, 'CPU profile');
    });
  debug
    .command('heap')
    .description("write a snapshot of the daemon's heap, as `status heap`; it answers nobody meanwhile")
    .option('-f, --file <path>', 'where to; "-" is standard output, and without it a file is named by the time')
    .action(async ({ file = heapName(new Date()) }: { readonly file?: string }) => {
      const heap = await fetchPage(await socketOf(debug, context), '/debug/heap', context.patienceMs());
      await keep(heap, file, 'heap dump');
    });
}

interface CpuOptions {
  readonly seconds: number;
  readonly file?: string;
}

/** Whatever the daemon remembers is in it: for its owner only. */
async function keep(page: IncomingMessage, file: string, what: string): Promise<void> {
  if (file === '-') return await pipeline(page, process.stdout);
  await pipeline(page, createWriteStream(file, { mode: 0o600 }));
  process.stderr.write(`Wrote ${what} to: ${file}\n`);
}

/** A page as JSON. */
type Shown = Readonly<Record<string, unknown>>;

function heapName(at: Date): string {
  return nameBy(at, 'heap', 'heapsnapshot');
}

function nameBy(at: Date, what: string, ending: string): string {
  return `berth-${what}-${at.toISOString().replaceAll(':', '').replace(/\..*/, 'Z')}.${ending}`;
}

/** Names of lines as CRI-O prints them, which scripts look for, and where their values are. */
const INFO: readonly (readonly [name: string, key: string])[] = [
  ['cgroup driver', 'cgroup_driver'],
  ['storage driver', 'storage_driver'],
  ['storage graph root', 'storage_root'],
  ['storage image', 'storage_image'],
];
const CONTAINER: readonly (readonly [name: string, key: string])[] = [
  ['name', 'name'],
  ['pid', 'pid'],
  ['image', 'image'],
  ['image ref', 'image_ref'],
  ['created', 'created_time'],
  ['labels', 'labels'],
  ['annotations', 'annotations'],
  ['CRI-O annotations', 'crio_annotations'],
  ['log path', 'log_path'],
  ['graph root', 'root'],
  ['sandbox', 'sandbox'],
  ['ips', 'ip_addresses'],
];

/** PURE. `/info` as text. */
export function infoLines(info: Shown): string {
  const { uids = [], gids = [] } = (info['default_id_mappings'] ?? {}) as {
    readonly uids?: IdMap[];
    readonly gids?: IdMap[];
  };
  return [
    ...linesOf(info, INFO),
    'default GID mappings (format <container>:<host>:<size>):',
    ...gids.map(mapLine),
    'default UID mappings (format <container>:<host>:<size>):',
    ...uids.map(mapLine),
    '',
  ].join('\n');
}

/** An entry of a map of ids. */
interface IdMap {
  readonly container_id: number;
  readonly host_id: number;
  readonly size: number;
}

function mapLine({ container_id: inside, host_id: outside, size }: IdMap): string {
  return `  ${inside}:${outside}:${size}`;
}

/** PURE. `/containers/<id>` as text. */
export function containerLines(container: Shown): string {
  return [...linesOf(container, CONTAINER), ''].join('\n');
}

function linesOf(shown: Shown, names: readonly (readonly [name: string, key: string])[]): string[] {
  return names.flatMap(([name, key]) => {
    const value = shown[key] ?? '';
    if (Array.isArray(value)) return [`${name}: ${plain(value.map(wordOf).join(', '))}`];
    if (typeof value !== 'object') return [`${name}: ${plain(wordOf(value))}`];
    return [`${name}:`, ...Object.entries(value).map(([each, said]) => plain(`  ${each}: ${wordOf(said)}`))];
  });
}

function wordOf(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
}

async function json(page: IncomingMessage): Promise<object> {
  return parseJson(await text(page)) as object;
}

/** The body of a page. @throws NotFound, Unavailable, DeadlineExceeded, in words for who asks. */
export async function fetchPage(
  socketPath: string,
  path: string,
  patienceMs: number = limits.commandConnectMs,
): Promise<IncomingMessage> {
  const answer = Promise.withResolvers<IncomingMessage>();
  const asked = get({ socketPath, path, timeout: patienceMs }, answer.resolve)
    .once('error', answer.reject)
    .once('timeout', () => {
      const why = `the daemon has not shown ${path} within ${patienceMs / MS_PER_S} s; --timeout SECONDS waits longer`;
      answer.reject(new RuntimeError('DeadlineExceeded', why));
    });
  const response = await answer.promise.catch((cause: unknown) => {
    asked.destroy();
    if (cause instanceof RuntimeError) throw cause;
    throw new RuntimeError('Unavailable', `nobody shows ${path} on ${socketPath}; is the daemon running?`, { cause });
  });
  if (response.statusCode === 200) return response;
  const why = plain((await text(response)).trim());
  throw new RuntimeError(response.statusCode === 404 ? 'NotFound' : 'Unavailable', `${path}: ${why}`);
}
