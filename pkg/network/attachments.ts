/**
 * What is kept on disk of each pod's attachment to its network: a file of two lines, `<sandbox>.jsonl`, and a third
 * while it is given back.
 */
import { appendFile, open, unlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { errnoOf, explain, RuntimeError, wrap } from '../base/errors.ts';
import { isTemporaryName, readBounded, readDirSorted, removeFile } from '../base/files.ts';
import { parseSandboxId } from '../base/ids.ts';
import type { SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Logger } from '../base/op.ts';
import type { PlainObject } from '../base/go.ts';
import { networkConfOf } from './conf.ts';
import type { NetworkConf } from './conf.ts';
import { type CniResult, INTERFACE, resultAs, resultOf } from './results.ts';
import { normalised } from './ports.ts';
import type { PodPorts } from './ports.ts';
import { parseJson } from '../base/json.ts';

/** What a pod's file holds: all that DEL and CHECK need. */
export interface Attachment {
  readonly id: SandboxId;
  readonly netns: string;
  /** CNI_ARGS */
  readonly args: string;
  readonly capabilityArgs: PlainObject;
  readonly network: NetworkConf;
  /** What Berth itself maps for the pod; undefined if nothing. */
  readonly hostPorts: Pick<PodPorts, 'pod' | 'mappings'> | undefined;
  /** undefined until the whole chain has answered. */
  readonly result: CniResult | undefined;
  /** The DEL that comes next: what one that was cut off took away in part, another does not look for. */
  readonly del: 'first' | 'again';
}

/** The files of all pods. */
export class AttachmentFiles {
  readonly #dir: string;
  readonly #log: Logger;
  /** What the files of the pods hold that were added since the start, so that stopping one reads nothing. */
  readonly #attached = new Map<SandboxId, Attachment>();

  constructor(dir: string, log: Logger) {
    this.#dir = dir;
    this.#log = log;
  }

  /** Where a pod's file is. */
  path(id: SandboxId): string {
    return `${this.#dir}/${id}.jsonl`;
  }

  /** Removes what a daemon has left here that died while it replaced a file. */
  async clear(): Promise<void> {
    for (const name of await readDirSorted(this.#dir))
      if (isTemporaryName(name)) await removeFile(`${this.#dir}/${name}`);
  }

  /** Every pod that has one. */
  async list(): Promise<readonly SandboxId[]> {
    const names = await readDirSorted(this.#dir);
    return names
      .filter((name) => /^[0-9a-f]{64}\.jsonl$/.test(name))
      .map((name) => parseSandboxId(name.slice(0, -'.jsonl'.length)));
  }

  /** A new file; undefined if the pod has one. @throws ResourceExhausted on a full disk. */
  async make(id: SandboxId): Promise<FileHandle | undefined> {
    try {
      return await open(this.path(id), 'wx', 0o600);
    } catch (error) {
      if (errnoOf(error) === 'EEXIST') return undefined;
      throw unwritable(this.path(id), error);
    }
  }

  /** Writes the first line: what DEL needs. */
  async intend(file: FileHandle, intent: Attachment): Promise<void> {
    const { id, netns, args, capabilityArgs, network, hostPorts } = intent;
    await this.#write(file, id, {
      version: 1,
      id,
      netns,
      interface: INTERFACE,
      args,
      capabilityArgs,
      config: network.raw,
      hostPorts,
    });
  }

  /** Writes the second line, and keeps all of it in memory. */
  async conclude(file: FileHandle, intent: Attachment, result: CniResult): Promise<void> {
    await this.#write(file, intent.id, { result: resultAs(result, intent.network.cniVersion) });
    this.#attached.set(intent.id, { ...intent, result });
  }

  /** Writes the third line, before the first plugin is asked to give back; a full disk may keep it from that. */
  async leave(id: SandboxId): Promise<void> {
    const attached = this.#attached.get(id);
    if (attached !== undefined) this.#attached.set(id, { ...attached, del: 'again' });
    try {
      await appendFile(this.path(id), `${JSON.stringify({ del: 'begun' })}\n`);
    } catch (error) {
      this.#log.warn('cannot write that a pod leaves its network, leaving it without', {
        sandbox: id,
        why: explain(error),
      });
    }
  }

  /** What the file of a pod says; undefined if there is none, `damaged` if it cannot be read. */
  async load(id: SandboxId): Promise<Attachment | 'damaged' | undefined> {
    const attached = this.#attached.get(id);
    if (attached !== undefined) return attached;
    const path = this.path(id);
    try {
      const [intent, ...later] = linesOf((await readBounded(path, limits.cniCacheFileBytes)).toString('utf8'));
      const result = later.find((line) => line?.['result'] !== undefined);
      const network = networkConfOf(path, intent?.['config']);
      return {
        id,
        netns: stringIn(intent, 'netns'),
        args: stringIn(intent, 'args'),
        capabilityArgs: (intent?.['capabilityArgs'] ?? {}) as PlainObject,
        network,
        hostPorts: hostPortsOf(intent?.['hostPorts']),
        result: result === undefined ? undefined : resultOf(result['result'] as PlainObject, network.cniVersion),
        del: later.some((line) => line?.['del'] !== undefined) ? 'again' : 'first',
      };
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      if (errnoOf(error) !== undefined) throw wrap(`cannot read ${path}`, error);
      this.#log.warn('damaged cni cache file, using the present configuration', { path, why: explain(error) });
      return 'damaged';
    }
  }

  /** unlink, and nothing more: one trip to the disk. Content if it is gone. */
  async forget(id: SandboxId): Promise<void> {
    this.#attached.delete(id);
    const path = this.path(id);
    try {
      await unlink(path);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw wrap(`cannot remove ${path}`, error);
    }
  }

  async #write(file: FileHandle, id: SandboxId, line: PlainObject): Promise<void> {
    try {
      await file.writeFile(`${JSON.stringify(line)}\n`);
    } catch (error) {
      throw unwritable(this.path(id), error);
    }
  }
}

/** The whole lines of a cache file; the piece after the last newline was cut off by a crash. */
function linesOf(text: string): (PlainObject | undefined)[] {
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => parseJson(line) as PlainObject);
}

function unwritable(path: string, error: unknown): RuntimeError {
  const full = errnoOf(error) === 'ENOSPC' || errnoOf(error) === 'EDQUOT';
  return wrap(
    `cannot write ${path}${full ? '; make room on its file system' : ''}`,
    error,
    full ? 'ResourceExhausted' : 'Internal',
  );
}

/** As it was written. @throws InvalidArgument if it was not written so. */
function hostPortsOf(raw: unknown): Attachment['hostPorts'] {
  if (raw === undefined) return undefined;
  const { pod, mappings } = raw as { readonly pod: unknown; readonly mappings: unknown };
  if (typeof pod !== 'string' || !Array.isArray(mappings))
    throw new RuntimeError('InvalidArgument', 'hostPorts are not as they were written');
  return { pod, mappings: normalised(mappings as PodPorts['mappings']) };
}

function stringIn(file: PlainObject | undefined, key: string): string {
  const value = file?.[key];
  return typeof value === 'string' ? value : '';
}
