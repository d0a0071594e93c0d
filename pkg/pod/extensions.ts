/**
 * What administrators, drivers and device plugins drop into directories to extend containers: CDI specs and OCI hooks.
 *
 * Each is looked at when a container is made, and read again only if a file in it has changed, so that a new device is
 * there for the next container without a signal or a restart. A broken file costs what is in it and a warning, never
 * the others.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, explain } from '../base/errors.ts';
import { readBounded, readDirSorted } from '../base/files.ts';
import { limits } from '../base/limits.ts';
import type { Logger, Op } from '../base/op.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import { loadCdi, loadHooks } from '../spec/index.ts';
import type { CdiRegistry, ConfigFile, DamagedFile, HookDefinition } from '../ports/extensions.ts';
import { parseJson } from '../base/json.ts';
import { BlockIoFile } from './block-io.ts';

/** CDI devices and OCI hooks as they are now. */
export interface Extensions {
  /** The devices of all CDI specs as they are now. */
  cdi(op: Op): Promise<CdiRegistry>;
  /** The OCI hooks as they are now. */
  hooks(op: Op): Promise<readonly HookDefinition[]>;
  /** What a class of block I/O asks for; undefined if there is none of that name, which is a warning. */
  blockIo(op: Op, name: string): Promise<LinuxResources['blockIO']>;
}

/** Where they are described; a later directory wins. */
export interface ExtensionDirectories {
  /** In ascending order of priority; absent ones have nothing. */
  readonly cdiSpecs: readonly string[];
  readonly hooks: readonly string[];
  /** A file of classes (`blockio_config_file`); '' = none. */
  readonly blockIo: string;
}

/** Extensions from files, which are read again only when they have changed. */
export class DirectoryExtensions implements Extensions {
  readonly #cdi: Documents<CdiRegistry>;
  readonly #hooks: Documents<readonly HookDefinition[]>;
  readonly #blockIo: BlockIoFile;

  constructor(directories: ExtensionDirectories, log: Logger) {
    this.#cdi = new Documents(directories.cdiSpecs, /\.(json|yaml)$/, log, (files, unreadable) => {
      const registry = loadCdi(files);
      const damaged = [...unreadable, ...registry.damaged];
      return { made: { ...registry, damaged }, damaged };
    });
    this.#blockIo = new BlockIoFile(directories.blockIo, log, async (path) => readYaml(await textOf(path)));
    void this.#blockIo.load();
    this.#hooks = new Documents(directories.hooks, /\.json$/, log, (files, unreadable) => {
      const { hooks, damaged } = loadHooks(files);
      return { made: hooks, damaged: [...unreadable, ...damaged] };
    });
  }

  blockIo(op: Op, name: string): Promise<LinuxResources['blockIO']> {
    op.stage('read classes of block I/O');
    return this.#blockIo.classOf(name);
  }

  cdi(op: Op): Promise<CdiRegistry> {
    op.stage('read CDI specs');
    return this.#cdi.current();
  }

  hooks(op: Op): Promise<readonly HookDefinition[]> {
    op.stage('read OCI hooks');
    return this.#hooks.current();
  }
}

/** A file as the directory shows it; equal fingerprints mean equal content. */
interface Seen {
  readonly path: string;
  readonly directory: number;
  readonly fingerprint: string;
}

type Make<T> = (
  files: readonly ConfigFile[],
  unreadable: readonly DamagedFile[],
) => { readonly made: T; readonly damaged: readonly DamagedFile[] };

/** JSON and YAML documents of a list of directories, made into one thing whenever one of them has changed. */
class Documents<T> {
  readonly #directories: readonly string[];
  readonly #name: RegExp;
  readonly #log: Logger;
  readonly #make: Make<T>;
  #fingerprint: string | undefined;
  #made: T | undefined;

  constructor(directories: readonly string[], name: RegExp, log: Logger, make: Make<T>) {
    this.#directories = directories;
    this.#name = name;
    this.#log = log;
    this.#make = make;
  }

  async current(): Promise<T> {
    const seen = (await Promise.all(this.#directories.map((directory, index) => this.#look(directory, index)))).flat();
    const fingerprint = seen.map((file) => file.fingerprint).join('\n');
    if (this.#made !== undefined && fingerprint === this.#fingerprint) return this.#made;
    const files: ConfigFile[] = [];
    const unreadable: DamagedFile[] = [];
    for (const { path, directory } of seen.slice(0, limits.extensionFilesCount)) {
      try {
        files.push({ path, directory, ...(await readDocument(path)) });
      } catch (error) {
        unreadable.push({ path, why: explain(error) });
      }
    }
    const { made, damaged } = this.#make(files, unreadable);
    for (const { path, why } of damaged) this.#log.warn('a file cannot be used, ignoring', { path, cause: why });
    this.#made = made;
    this.#fingerprint = fingerprint;
    return made;
  }

  async #look(directory: string, index: number): Promise<readonly Seen[]> {
    const names = (await namesIn(directory)).filter((name) => this.#name.test(name) && !name.startsWith('.'));
    return await Promise.all(
      names.map(async (name) => {
        const path = join(directory, name);
        const info = await stat(path, { bigint: true }).catch(() => undefined);
        return {
          path,
          directory: index,
          fingerprint: JSON.stringify([
            path,
            String(info?.ino),
            String(info?.mtimeNs),
            String(info?.ctimeNs),
            String(info?.size),
          ]),
        };
      }),
    );
  }
}

/** A directory that is absent, or no directory, has nothing. */
async function namesIn(directory: string): Promise<readonly string[]> {
  try {
    return await readDirSorted(directory);
  } catch (error) {
    if (errnoOf(error) === 'ENOTDIR') return [];
    throw error;
  }
}

/**
 * YAML is a superset of JSON, but JSON.parse is the stricter reader of what calls itself JSON. CDI's own reader takes
 * YAML 1.1 (an octal `fileMode: 0640`, `yes`), but no times of day and no dates. Aliases are bounded: they may multiply
 * a file a millionfold.
 */
async function readDocument(path: string): Promise<Pick<ConfigFile, 'notation' | 'value'>> {
  const text = await textOf(path);
  if (!path.endsWith('.yaml')) return { notation: 'json', value: parseJson(text) };
  return { notation: 'yaml', value: await readYaml(text) };
}

async function textOf(path: string): Promise<string> {
  return (await readBounded(path, limits.configFileBytes)).toString('utf8');
}

async function readYaml(text: string): Promise<unknown> {
  // Loaded when there is such a file, which few nodes have.
  const { parse } = (await import('yaml')).default;
  return parse(text, {
    version: '1.1',
    customTags: (tags) => tags.filter((tag) => typeof tag === 'string' || !isTime(tag)),
    maxAliasCount: 100,
    logLevel: 'error',
    // Their errors quote lines of the file.
    prettyErrors: false,
  });
}

function isTime({ tag, format }: { readonly tag: string; readonly format?: string }): boolean {
  return format === 'TIME' || tag === 'tag:yaml.org,2002:timestamp';
}
