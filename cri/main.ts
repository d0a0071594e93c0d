/**
 * The process: arguments, configuration, signals, exit codes. Everything else is in daemon.ts and commands/.
 */
import { Command, CommanderError } from 'commander';
import { dirname, join } from 'node:path';
import { existsSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { readdir, readFile, stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { flags, loadConfig, type LoadedConfig } from '../pkg/config/index.ts';
import { errnoOf, explain, isCode } from '../pkg/base/errors.ts';
import { journaldReads, Log, parseLogLevel } from '../pkg/base/log.ts';
import { findExecutable, notifyServiceManager } from '../pkg/sys/index.ts';
import { addCommands } from './commands/index.ts';
import { type Daemon, startDaemon } from './daemon.ts';

declare const BERTH_VERSION: string | undefined;

const VERSION = typeof BERTH_VERSION === 'string' ? BERTH_VERSION : 'development';
const HERE = dirname(fileURLToPath(import.meta.url));
/** Bundled, we are build/berth.mjs; from source, cri/main.ts. */
const BIN_DIR = existsSync(join(HERE, 'bin')) ? join(HERE, 'bin') : join(HERE, '../build/bin');
const WORKER = join(HERE, 'unpack-worker.mjs');

const program = new Command('berth')
  .description('A Kubernetes CRI runtime. Without a command it serves; the commands talk to the daemon that serves on --listen.')
  .version(VERSION, '-v, --version')
  .enablePositionalOptions()
  .exitOverride();
for (const flag of flags) {
  if (flag.argument === 'list') program.option(flag.syntax, flag.description, (value: string, before: string[] | undefined) => [...(before ?? []), ...value.split(',')]);
  else program.option(flag.syntax, flag.description);
}
program.action(() => serveForever(program.opts()));
addCommands(program, { version: VERSION, load: () => configuration(program.opts()) });

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode;
  else {
    process.stderr.write(`berth: ${explain(error)}\n`);
    // 2: what was asked for is wrong; 1: it could not be done.
    process.exitCode = isCode(error, 'InvalidArgument') ? 2 : 1;
  }
}

async function configuration(given: Readonly<Record<string, string | boolean | string[] | undefined>>): Promise<LoadedConfig> {
  return await loadConfig({
    flags: given,
    env: process.env,
    // sd_booted(3): the directory exists exactly when systemd is PID 1.
    node: { systemdCgroups: existsSync('/run/systemd/system'), findExecutable: (name) => findExecutable(name) },
    files: {
      async read(path) {
        return await orUndefined(readFile(path, 'utf8'));
      },
      async list(path) {
        const names = await orUndefined(readdir(path));
        if (names === undefined) return undefined;
        return await Promise.all(names.map(async (name) => ({ name, kind: kindOf(await orUndefined(stat(join(path, name)))) })));
      },
    },
  });
}

async function orUndefined<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function kindOf(found: { isFile(): boolean; isDirectory(): boolean } | undefined): 'file' | 'directory' | 'other' {
  return found?.isFile() === true ? 'file' : found?.isDirectory() === true ? 'directory' : 'other';
}

async function serveForever(given: Readonly<Record<string, string | boolean | string[] | undefined>>): Promise<void> {
  process.umask(0o022);
  const { config, warnings } = await configuration(given);
  const log = new Log({ level: parseLogLevel(config.runtime.logLevel), format: config.runtime.logFormat === 'json' ? 'json' : 'logfmt', filter: '', journald: journaldReads(process.env) });
  for (const warning of warnings) log.warn(warning);
  // One request's bug must not end every container's daemon; the request has failed already, and this is the trace of it.
  process.on('unhandledRejection', (reason) => log.error('a promise failed and nobody noticed: a bug', { cause: explain(reason), stack: reason instanceof Error ? reason.stack : undefined }));
  const daemon = await startDaemon({ config, log, version: VERSION, binDir: BIN_DIR, workerUrl: existsSync(WORKER) ? new URL(`file://${WORKER}`) : undefined });
  const stop = (signal: string): void => {
    log.info('stopping; containers go on', { signal });
    notifyServiceManager('STOPPING=1');
    void daemon.close().then(
      () => process.exit(0),
      (cause: unknown) => {
        log.error('the stop was not clean; the next start tidies up', { cause: explain(cause) });
        process.exit(1);
      },
    );
  };
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
  process.on('SIGHUP', () => void reloadConfiguration(given, log, daemon));
  // winston takes a while to load; the daemon serves already.
  await log.openSink();
  // What was compiled until now spares the next start a third of its time. Node would write it at the end only, and a kill has none.
  flushCompileCache();
}

/** What SIGHUP does: takes the keys that can change in a running daemon, names those that wait for a restart, and keeps the old ones if the file is bad. */
async function reloadConfiguration(given: Readonly<Record<string, string | boolean | string[] | undefined>>, log: Log, daemon: Daemon): Promise<void> {
  try {
    const fresh = await configuration(given);
    for (const warning of fresh.warnings) log.warn(warning);
    log.setLevel(parseLogLevel(fresh.config.runtime.logLevel));
    const { applied, needRestart } = daemon.reload(fresh.config);
    log.info('configuration read again', { applied: applied.join(' '), needRestart: needRestart.join(' ') });
  } catch (cause) {
    log.error('the new configuration is bad; the old one stays in force', { cause: explain(cause) });
  }
}
