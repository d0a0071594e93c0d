/**
 * Which files a configuration is read from: those that somebody asks for, else Berth's own, else CRI-O's; the drop-ins
 * of a directory after its file.
 */
import { readdirSync, statSync } from 'node:fs';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { readInMemory } from '../base/files.ts';
import { limits } from '../base/limits.ts';
import { CRIO_CONFIG_DIR, CRIO_CONFIG_FILE, DEFAULT_CONFIG_DIR, DEFAULT_CONFIG_FILE } from './flags.ts';
import type { ConfigEntry, ConfigFiles } from './types.ts';

/** Depth of a drop-in directory; a loop of links ends here. Protocol of this file system, not of a policy. */
const DROP_IN_DEPTH_MAX = 8;
/** Where nobody has set anything here, the node has never been configured for Berth. */
const OWN_DIRECTORY = '/etc/berth';

/** What was asked for on the command line or by a variable; '' = none, undefined = nothing was asked for. */
export interface Asked {
  readonly file: string | undefined;
  readonly directory: string | undefined;
}

/** A file with its text. */
export interface SourceText {
  readonly file: string;
  readonly text: string;
}

/**
 * The files in the order in which they are read, later ones winning, and what to tell the operator about the choice.
 * @throws NotFound for a file that was asked for and is absent; InvalidArgument for a directory that never ends.
 */
export async function readSources(
  files: ConfigFiles,
  asked: Asked,
): Promise<{ readonly texts: readonly SourceText[]; readonly notes: readonly string[] }> {
  const notes: string[] = [];
  let [main, directory] = [DEFAULT_CONFIG_FILE, DEFAULT_CONFIG_DIR];
  if (asked.file === undefined && asked.directory === undefined && (await isCrioNode(files))) {
    [main, directory] = [CRIO_CONFIG_FILE, CRIO_CONFIG_DIR];
    notes.push(`${OWN_DIRECTORY} sets nothing: reading CRI-O's ${CRIO_CONFIG_FILE} and ${CRIO_CONFIG_DIR}`);
  }
  const texts: SourceText[] = [];
  const file = asked.file ?? main;
  const text = file === '' ? undefined : await files.read(file);
  if (text !== undefined) texts.push({ file, text });
  else if (asked.file !== undefined && file !== '')
    throw new RuntimeError('NotFound', `configuration file ${file} does not exist; check --config, or run without it`);
  const dropIns = asked.directory ?? directory;
  for (const each of dropIns === '' ? [] : await filesBelow(files, dropIns, 0)) {
    const own = await files.read(each);
    // Gone since it was listed: whoever took it away meant it.
    if (own !== undefined) texts.push({ file: each, text: own });
  }
  return { texts, notes };
}

/** A package brings a file in which everything is commented out; that is no configuration yet. */
async function isCrioNode(files: ConfigFiles): Promise<boolean> {
  const own = [DEFAULT_CONFIG_FILE, ...(await filesBelow(files, DEFAULT_CONFIG_DIR, 0))];
  const texts = await Promise.all(own.map((file) => files.read(file)));
  if (!texts.every((text) => setsNothing(text ?? ''))) return false;
  return (await files.read(CRIO_CONFIG_FILE)) !== undefined || (await files.list(CRIO_CONFIG_DIR)) !== undefined;
}

/** PURE. Comments, and tables without a key. */
function setsNothing(toml: string): boolean {
  return toml.split('\n').every((line) => /^\s*(#.*|\[[\w.-]+\]\s*(#.*)?)?$/.test(line));
}

/**
 * Files below `directory`, depth first in the order of their names, as crio walks it. Hidden files and editors' backups
 * are skipped.
 */
async function filesBelow(files: ConfigFiles, directory: string, depth: number): Promise<string[]> {
  if (depth > DROP_IN_DEPTH_MAX)
    throw new RuntimeError(
      'InvalidArgument',
      `${directory} is more than ${DROP_IN_DEPTH_MAX} directories deep; is there a loop of links?`,
    );
  const entries = [...((await files.list(directory)) ?? [])].sort((a, b) => (a.name < b.name ? -1 : 1));
  const found: string[] = [];
  for (const entry of entries) {
    if (entry.name.startsWith('.') || entry.name.endsWith('~')) continue;
    if (entry.kind === 'file') found.push(`${directory}/${entry.name}`);
    if (entry.kind === 'directory') found.push(...(await filesBelow(files, `${directory}/${entry.name}`, depth + 1)));
    if (found.length > limits.extensionFilesCount)
      throw new RuntimeError('InvalidArgument', `${directory} has more than ${limits.extensionFilesCount} files`);
  }
  return found;
}

/**
 * The files of the node. Read on the spot: nobody is served yet, and the thread pool would first have to be started.
 * Hidden names are left out.
 */
export const diskFiles: ConfigFiles = {
  async read(path) {
    // What people give who want no file at all.
    if (path === '/dev/null') return '';
    return ifPresent(() => readInMemory(path, limits.configFileBytes).toString('utf8'));
  },
  async list(path) {
    const names = ifPresent(() => readdirSync(path))?.filter((name) => !name.startsWith('.'));
    return names?.map((name) => ({ name, kind: kindOfEntry(ifPresent(() => statSync(`${path}/${name}`))) }));
  },
};

/** No files at all: what is left are the built-in defaults. */
export const noFiles: ConfigFiles = { read: async () => undefined, list: async () => undefined };

function ifPresent<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function kindOfEntry(found: { isFile(): boolean; isDirectory(): boolean } | undefined): ConfigEntry['kind'] {
  return found?.isFile() === true ? 'file' : found?.isDirectory() === true ? 'directory' : 'other';
}
