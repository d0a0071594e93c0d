/** `berth check`: what the node lacks, what is wrong with images, and the command that mends each. */
import type { Command } from 'commander';
import { explain } from '../../pkg/base/errors.ts';
import { limits } from '../../pkg/base/limits.ts';
import { backgroundOp, type LogFields, type Logger, silent } from '../../pkg/base/op.ts';
import type { CheckProblem, CheckResponse, NodeFact } from '../../pkg/cri-api/types.ts';
import { type Client, connect } from '../client.ts';
import { exitCodeOfFindings, type Finding, preflight, type Standing } from '../preflight.ts';
import { checkImagesOffline } from '../parts/offline-images.ts';
import { preflightFacts } from '../parts/preflight-facts.ts';
import { ABSENT_MS, type CommandContext } from './context.ts';
import { type Cell, plain, printJson, type Screen, shortId, type Style, table } from './output.ts';

interface CheckOptions {
  readonly repair?: true;
  readonly node?: true;
  readonly quick?: true;
  readonly json?: true;
}

type What = 'repair' | 'report';

/** Adds `check`. */
export function addCheck(program: Command, context: CommandContext): void {
  program
    .command('check')
    .description(
      'say what the node lacks, with the command that mends it, and read all images again, without a daemon if ' +
        'none answers; exits with 1 if the node cannot run pods or an image is not whole',
    )
    .option('--node', 'the node alone: needs no daemon, and is done at once')
    .option('-q, --quick', 'as --node, unless something is to be repaired: what takes long is to read images')
    .option('-r, --repair', 'remove images that are not whole; the next pull brings them back')
    .option('-a, --age <duration>', "CRI-O's, without effect: layers of no image are swept anyway")
    .option('-f, --force', "CRI-O's, without effect: containers that are damaged are removed at the start")
    .option('-w, --wipe', "CRI-O's, without effect: berth wipe --force removes everything")
    .option('--json', 'as JSON')
    .action((options: CheckOptions) => check(context, options));
}

async function check(context: CommandContext, { repair, node, quick, json }: CheckOptions): Promise<void> {
  const what = repair === true ? 'repair' : 'report';
  const { config } = await context.load();
  const found = preflight(await preflightFacts(backgroundOp(silent, limits.runtimeCommandMs), config));
  const nodeAlone = node === true || (quick === true && what === 'report');
  if (nodeAlone) return report(context.screen, found, undefined, { what, json });
  const reply = await askDaemon(context, config.api.listen, what);
  const all = together(found, reply, config.api.listen);
  if (reply !== undefined) return report(context.screen, all, reply.problems, { what, json });
  try {
    report(context.screen, all, await checkImagesOffline(backgroundOp(loud), config, what, context.workerUrl), {
      what,
      json,
    });
  } catch (cause) {
    const images: Finding = { name: 'images', standing: 'wrong', detail: 'not read', advice: explain(cause) };
    report(context.screen, [...all, images], undefined, { what, json });
  }
}

/** What a start would log: an image of which not even the record or configuration can be read is set aside by both. */
const loud: Logger = {
  ...silent,
  warn: (message, fields) => say(message, fields),
  error: (message, fields) => say(message, fields),
  child: () => loud,
};

function say(message: string, fields: LogFields = {}): void {
  const about = Object.entries(fields).map(([name, value]) => ` ${name}=${value}`);
  process.stderr.write(`berth: ${plain(message + about.join(''))}\n`);
}

/** Prints it all and sets the exit code. `problems`: undefined if nobody has looked at images. */
function report(
  screen: Screen,
  findings: readonly Finding[],
  problems: readonly CheckProblem[] | undefined,
  { what, json }: { readonly what: What; readonly json: true | undefined },
): void {
  const broken = what === 'report' && (problems ?? []).length > 0;
  process.exitCode = broken ? 1 : exitCodeOfFindings(findings);
  if (json === true) return printJson(screen, { findings, problems: problems ?? [] });
  screen.write(table(screen, ['NODE', '', 'FOUND', 'ADVICE'], findings.map(findingRow)));
  if (problems !== undefined) printImages(screen, problems, what);
}

/** What the daemon says, which reads every image; undefined if none answers. */
async function askDaemon(
  { patienceMs }: CommandContext,
  listen: string,
  what: What,
): Promise<CheckResponse | undefined> {
  const client: Client = connect(listen, patienceMs());
  try {
    await client.waitForReady(patienceMs() ?? ABSENT_MS);
  } catch {
    client.close();
    return undefined;
  }
  try {
    return await client.check({ repair: what === 'repair' });
  } finally {
    client.close();
  }
}

/**
 * PURE. What was found without the daemon and what it says, together: of two that are about the same the worse one
 * stands, and ours if they agree, since it names a command. That no daemon answers is no fault of the node: CRI-O's
 * check is for a daemon that is stopped.
 */
export function together(
  found: readonly Finding[],
  reply: CheckResponse | undefined,
  listen: string,
): readonly Finding[] {
  if (reply === undefined) {
    const advice = 'systemctl start berth; if it does not come: journalctl -u berth -n 50';
    return [...found, { name: 'daemon', standing: 'limited', detail: `none answers on ${listen}`, advice }];
  }
  const said = new Map(reply.facts.map((fact) => [fact.name, asFinding(fact)]));
  const worse = found.map((each) => {
    const other = said.get(each.name);
    said.delete(each.name);
    return each.standing === 'ok' && other !== undefined ? other : each;
  });
  return [...worse, { name: 'daemon', standing: 'ok', detail: listen, advice: '' }, ...said.values()];
}

function asFinding({ name, ok, detail, advice }: NodeFact): Finding {
  return { name, standing: ok ? 'ok' : 'limited', detail, advice };
}

const STYLES: Readonly<Record<Standing, Style>> = { ok: 'green', limited: 'yellow', wrong: 'red' };

function findingRow({ name, standing, detail, advice }: Finding): Cell[] {
  return [name, { text: standing, style: STYLES[standing] }, detail, advice];
}

function printImages(screen: Screen, problems: readonly CheckProblem[], what: What): void {
  screen.write('\n');
  for (const each of problems) {
    const end = what === 'repair' ? outcome(each) : '';
    screen.write(`${screen.paint('red', 'broken')} ${each.imageId}: ${plain(each.what)}${end}\n`);
  }
  if (problems.length === 0) screen.write(`${screen.paint('green', 'ok')} all images are whole\n`);
  else if (what === 'report') screen.write('to mend: berth check --repair, then pull again\n');
}

function outcome({ keptBy }: CheckProblem): string {
  return keptBy.length === 0
    ? '; removed, pull it again'
    : `; kept for ${keptBy.slice(0, 3).map(shortId).join(', ')}, remove what runs on it first`;
}
