/**
 * registries.d (containers-registries.d(5)): for each scope, at which "lookaside" address its signatures lie and
 * whether its registry has sigstore attachments. A file with a mistake costs itself: fewer signatures are found then,
 * and where they are wanted the refusal names the file.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { explain, RuntimeError } from '../../base/errors.ts';
import { readBounded, readDirSorted } from '../../base/files.ts';
import { isObject, isUnset } from '../../base/go.ts';
import type { PlainObject } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import type { Op } from '../../base/op.ts';
import type { Reference } from '../../oci/reference.ts';
import { scopesOf } from './requirements.ts';

/** What is said of one scope; undefined where nothing is. */
export interface Section {
  readonly lookaside: string | undefined;
  readonly attachments: boolean | undefined;
}

/** One file, or all of them merged. */
export interface RegistriesD {
  readonly byDefault: Section | undefined;
  readonly docker: ReadonlyMap<string, Section>;
}

const NO_SECTION: Section = { lookaside: undefined, attachments: undefined };

/** The directory as of the last `read`. */
export class RegistriesDirectory {
  readonly #directories: readonly string[];
  #seen = '';
  #config: RegistriesD = { byDefault: undefined, docker: new Map() };
  #damaged: readonly string[] = [];

  /** The first of `directories` that exists counts. */
  constructor(directories: readonly string[]) {
    this.#directories = directories;
  }

  /** Why each file that is left out is. */
  get damaged(): readonly string[] {
    return this.#damaged;
  }

  /** What is said of `reference`: each setting by itself from the most specific scope that makes it. */
  sectionFor(reference: Reference): Section {
    const { docker, byDefault } = this.#config;
    const sections = [...scopesOf(reference).map((scope) => docker.get(scope)), byDefault].filter(
      (each) => each !== undefined,
    );
    return {
      lookaside: sections.find((each) => each.lookaside !== undefined)?.lookaside,
      attachments: sections.find((each) => each.attachments !== undefined)?.attachments,
    };
  }

  /** Reads all files if one changed. @throws as the file system, for one that cannot be read at all. */
  async read(op: Op): Promise<void> {
    const paths = await this.#files();
    const stamps = await Promise.all(
      paths.map(async (path) => {
        const { mtimeNs, ctimeNs, size, ino } = await stat(path, { bigint: true });
        return `${path} ${mtimeNs} ${ctimeNs} ${size} ${ino}`;
      }),
    );
    const seen = stamps.join('\n');
    if (seen === this.#seen) return;
    const merge = new Merge();
    const damaged: string[] = [];
    for (const path of paths) {
      try {
        merge.add(
          path,
          await parseRegistriesD((await readBounded(path, limits.configFileBytes)).toString('utf8'), path),
        );
      } catch (error) {
        damaged.push(explain(error));
        op.log.warn('a file of registries.d cannot be used, it is left out', { error: explain(error) });
      }
    }
    [this.#config, this.#damaged, this.#seen] = [merge.result, damaged, seen];
  }

  async #files(): Promise<string[]> {
    for (const directory of this.#directories) {
      const isThere = await stat(directory).then(
        (info) => info.isDirectory(),
        () => false,
      );
      if (isThere)
        return (await readDirSorted(directory))
          .filter((name) => name.endsWith('.yaml'))
          .map((name) => join(directory, name));
    }
    return [];
  }
}

/** Files put together; each scope may stand in one of them only. */
class Merge {
  readonly #docker = new Map<string, Section>();
  readonly #places = new Map<string, string>();
  #byDefault: Section | undefined;

  /** All of a file, or nothing of it. @throws FailedPrecondition for what stands in an earlier one, too. */
  add(path: string, file: RegistriesD): void {
    const scopes = [...file.docker.keys()].map((scope) => `scope ${quote(scope, 300)}`);
    const said = file.byDefault === undefined ? scopes : [...scopes, '"default-docker"'];
    for (const what of said) {
      const earlier = this.#places.get(what);
      if (earlier !== undefined) throw bad(path, `${what} stands in ${earlier}, too; it may stand in one file only`);
    }
    for (const what of said) this.#places.set(what, path);
    for (const [scope, section] of file.docker) this.#docker.set(scope, section);
    this.#byDefault = file.byDefault ?? this.#byDefault;
  }

  get result(): RegistriesD {
    return { byDefault: this.#byDefault, docker: this.#docker };
  }
}

/** Reads one file. @throws FailedPrecondition that names it and what is wrong in it. */
export async function parseRegistriesD(text: string, path: string): Promise<RegistriesD> {
  const document = await parseYaml(text, path);
  const byDefault = document['default-docker'];
  const scopes = isUnset(document['docker']) ? {} : document['docker'];
  if (!isObject(scopes)) throw bad(path, '"docker" is not a mapping');
  return {
    byDefault: isUnset(byDefault) ? undefined : readSection(byDefault, '"default-docker"', path),
    docker: new Map(
      Object.entries(scopes).map(([scope, value]) => [scope, readSection(value, `scope ${quote(scope, 300)}`, path)]),
    ),
  };
}

/** `sigstore` is what `lookaside` was called at first. Other members are for signing. */
function readSection(value: unknown, what: string, path: string): Section {
  if (isUnset(value)) return NO_SECTION;
  if (!isObject(value)) throw bad(path, `${what} is not a mapping`);
  const use = value['use-sigstore-attachments'];
  // YAML 1.1 spells truth in several ways, and so do people.
  const spelled = typeof use === 'string' ? { yes: true, on: true, no: false, off: false }[use.toLowerCase()] : use;
  if (!isUnset(use) && typeof spelled !== 'boolean')
    throw bad(path, `use-sigstore-attachments of ${what} is not true or false`);
  return {
    lookaside: textIn(value, 'lookaside', what, path) ?? textIn(value, 'sigstore', what, path),
    attachments: typeof spelled === 'boolean' ? spelled : undefined,
  };
}

function textIn(from: PlainObject, key: string, what: string, path: string): string | undefined {
  const value = from[key];
  if (isUnset(value)) return undefined;
  if (typeof value !== 'string') throw bad(path, `${key} of ${what} is not text`);
  return value;
}

async function parseYaml(text: string, path: string): Promise<PlainObject> {
  // Distributions ship a default.yaml with nothing but comments; a node that has no other does not pay for the YAML
  // reader.
  if (!/^[^#\n]*(lookaside|sigstore)/m.test(text)) return {};
  const { parse } = (await import('yaml')).default;
  let value: unknown;
  try {
    value = parse(text, { maxAliasCount: 10, logLevel: 'error' });
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', `${path} is not valid YAML`, { cause });
  }
  if (isUnset(value)) return {};
  if (!isObject(value)) throw bad(path, 'it is not a mapping');
  return value;
}

function bad(path: string, message: string): RuntimeError {
  return new RuntimeError('FailedPrecondition', `${path}: ${message}`);
}
