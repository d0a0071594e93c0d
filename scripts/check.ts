/**
 * `npm run check`: what a machine can judge of the sources, without building or running anything. Prints what is wrong
 * and what to do instead. Needs no PATH: every tool is started by its file.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { join } from 'node:path';
import { checkDocs } from './docs.ts';

const root = join(import.meta.dirname, '..');

interface Step {
  readonly what: string;
  /** The complaints, each with its place; none if all is well. */
  readonly judge: () => Promise<readonly string[]>;
}

const steps: readonly Step[] = [
  { what: 'types', judge: () => tool('typescript/bin/tsc', '-p', '.') },
  { what: 'lint', judge: () => tool('oxlint/bin/oxlint', '--type-aware', '--quiet') },
  { what: 'format (npm run format)', judge: () => tool('@biomejs/biome/bin/biome', 'format', '.') },
  { what: 'generated files', judge: () => script('scripts/gen-api.mjs', '--check') },
  { what: 'layers and cycles', judge: async () => (await import('./layers.ts')).checkLayers(root) },
  { what: 'rules', judge: async () => (await import('./rules.ts')).checkRules(root) },
  { what: 'documents', judge: async () => checkDocs(root) },
  { what: 'mutants', judge: async () => (await import('./mutate.ts')).staleMutants() },
  { what: 'dead code', judge: () => tool('knip/bin/knip.js', '--no-progress') },
  {
    what: 'code that only tests use',
    judge: () => tool('knip/bin/knip.js', '--no-progress', '--production'),
  },
];

if (!existsSync(join(root, 'node_modules/.package-lock.json'))) {
  console.log('FAILED  packages\nnode_modules is not there; run npm ci (or scripts/setup.sh, which also builds)');
  process.exit(1);
}
const verdicts = steps.map(({ judge }) => judge().catch((error: unknown) => [String(error)]));
const failed: string[] = [];
for (const [index, { what }] of steps.entries()) {
  const complaints = (await verdicts[index]) ?? [];
  if (complaints.length === 0) console.log(`ok      ${what}`);
  else failed.push(`FAILED  ${what}`, ...complaints);
}
for (const line of failed) console.log(line);
process.exitCode = failed.length === 0 ? 0 : 1;

/** A tool from node_modules, on the Node that runs this. */
async function tool(file: string, ...args: readonly string[]): Promise<readonly string[]> {
  const path = join(root, 'node_modules', file);
  return existsSync(path) ? script(path, ...args) : [`node_modules/${file} is not there; run npm ci`];
}

async function script(...argv: readonly string[]): Promise<readonly string[]> {
  const child = spawn(process.execPath, argv, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(`cannot be started: ${error.message}`));
    child.once('close', (code, signal) => resolve(code === 0 ? '' : `ended with ${signal ?? `exit code ${code}`}`));
  });
  const [ending, stdout, stderr] = await Promise.all([ended, text(child.stdout), text(child.stderr)]);
  if (ending === '') return [];
  const said = `${stdout}${stderr}`.trim();
  return [said === '' ? `${argv.join(' ')} ${ending}` : said];
}
