/**
 * The process: arguments, configuration, signals, exit codes. Everything else is in daemon.ts and command-line.ts.
 */
import { join } from 'node:path';
import { existsSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { diskFiles, loadConfig, readFlags } from '../pkg/config/index.ts';
import { explain, isCode } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { journaldReads, type Log, type LogLevel, openLog, parseLogLevel } from '../pkg/base/log.ts';
import { logFilter } from '../pkg/base/log-filter.ts';
import { findExecutable, sockets } from '../pkg/sys/index.ts';
import { type Daemon, startDaemon } from './daemon.ts';
import type { TakeLog } from './parts/live.ts';
import type { FlagValues, LoadedConfig } from '../pkg/config/index.ts';

declare const BERTH_VERSION: string | undefined;
/** In the bundle, see boot.ts: keeps compiled code for the next start. */
declare const berthKeepCode: (() => Promise<void>) | undefined;

const VERSION = typeof BERTH_VERSION === 'string' ? BERTH_VERSION : 'development';
/** Bundled, we are build/berth.cjs; from source, cri/main.ts. */
const BIN_DIR = existsSync(join(import.meta.dirname, 'bin'))
  ? join(import.meta.dirname, 'bin')
  : join(import.meta.dirname, '../build/bin');
const WORKER = join(import.meta.dirname, 'unpack-worker.cjs');
const WORKER_URL = existsSync(WORKER) ? new URL(`file://${WORKER}`) : undefined;

void main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`berth: ${explain(error)}\n`);
  // 2: what was asked for is wrong; 1: it could not be done.
  process.exitCode = isCode(error, 'InvalidArgument') ? 2 : 1;
});

/** A daemon is started with flags alone, and does not carry along what reads commands and prints help. */
async function main(argv: readonly string[]): Promise<void> {
  const given = readFlags(argv);
  if (given !== undefined) return await serveForever(given);
  const { runCommandLine } = await import('./command-line.ts');
  await runCommandLine(argv, { version: VERSION, workerUrl: WORKER_URL, serve: serveForever, configuration });
}

async function configuration(given: FlagValues): Promise<LoadedConfig> {
  return await loadConfig({
    flags: given,
    env: process.env,
    // sd_booted(3): the directory exists exactly when systemd is PID 1.
    node: { systemdCgroups: existsSync('/run/systemd/system'), findExecutable: (name) => findExecutable(name) },
    files: diskFiles,
  });
}

async function serveForever(given: FlagValues): Promise<void> {
  process.umask(0o022);
  // From the beginning: without a handler the signal would end us. One that comes early waits for the daemon.
  const daemonServes = Promise.withResolvers<Daemon>();
  process.on('SIGHUP', () => {
    void daemonServes.promise.then(({ reloader }) => reloader.reload(() => configuration(given)));
  });
  const loaded = await configuration(given);
  const { config, warnings, notes } = loaded;
  const log = openLog({
    level: parseLogLevel(config.runtime.logLevel),
    format: config.runtime.logFormat === 'json' ? 'json' : 'logfmt',
    filter: config.runtime.logFilter,
    prefix: journaldReads(process.env) ? 'priority' : 'none',
  });
  for (const note of notes) log.info(note);
  for (const warning of warnings) log.warn(warning);
  // One request's bug must not end every container's daemon; the request has failed already, and this is the trace of
  // it.
  process.on('unhandledRejection', (reason) =>
    log.error('a promise failed and nobody noticed: a bug', {
      cause: explain(reason),
      stack: reason instanceof Error ? reason.stack : undefined,
    }),
  );
  const daemon = await startDaemon({
    loaded,
    log,
    takeLog: takeLogOf(log, parseLogLevel(config.runtime.logLevel)),
    version: VERSION,
    binDir: BIN_DIR,
    workerUrl: WORKER_URL,
  });
  const stop = (signal: string): void => {
    log.info('stopping; containers go on', { signal });
    sockets.notifyServiceManager('STOPPING=1\nSTATUS=stopping; containers go on');
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
  daemonServes.resolve(daemon);
  setTimeout(() => void settle(log), limits.startSettleMs).unref();
}

/** What makes the daemon complete, or its next start quicker. Nothing here is worth ending for. */
async function settle(log: Log): Promise<void> {
  try {
    // What ran until now is compiled already at the next start. Node would write its part at the end only, and a kill
    // has none.
    if (typeof berthKeepCode === 'function') await berthKeepCode();
    // winston takes a while to load.
    await log.openSink();
    flushCompileCache();
  } catch (cause) {
    log.debug('compiled code cannot be kept; starts take longer', { cause: explain(cause) });
  }
}

const LOUDNESS: readonly LogLevel[] = ['error', 'warn', 'info', 'debug'];

/** The way to change what is logged. While a reload is reported, the more talkative of both levels holds. */
function takeLogOf(log: Log, atStart: LogLevel): TakeLog {
  let current = atStart;
  return ({ runtime }) => {
    const level = parseLogLevel(runtime.logLevel);
    logFilter(runtime.logFilter);
    const louder = LOUDNESS.indexOf(level) > LOUDNESS.indexOf(current) ? level : current;
    return {
      commit: () => log.setLevel(louder),
      settle() {
        log.setLevel((current = level));
        log.setFilter(runtime.logFilter);
      },
    };
  };
}
