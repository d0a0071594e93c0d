/**
 * What is kept on disk of each pod's attachment to its network: a file of two lines, `<sandbox>.jsonl`.
 */
import { open, unlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { errnoOf, explain, RuntimeError, wrap } from '../base/errors.ts';
import { readBounded, readDirSorted } from '../base/files.ts';
import { parseSandboxId } from '../base/ids.ts';
import type { SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Logger } from '../base/op.ts';
import { INTERFACE, networkConfOf, resultAs, resultOf } from './conf.ts';
import type { CniResult, Json, NetworkConf } from './conf.ts';
import { normalised } from './ports.ts';
import type { PodPorts } from './ports.ts';

/** What a pod's file holds: all that DEL and CHECK need. */
export interface Attachment {
  readonly id: SandboxId;
  readonly netns: string;
  /** CNI_ARGS */
  readonly args: string;
  readonly capabilityArgs: Json;
  readonly network: NetworkConf;
  /** What Berth itself maps for the pod; undefined if nothing. */
  readonly hostPorts: Pick<PodPorts, 'pod' | 'mappings'> | undefined;
  /** undefined until the whole chain has answered. */
  readonly result: CniResult | undefined;
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

  /** What the file of a pod says; undefined if there is none, `damaged` if it cannot be read. */
  async load(id: SandboxId): Promise<Attachment | 'damaged' | undefined> {
    const attached = this.#attached.get(id);
    if (attached !== undefined) return attached;
    const path = this.path(id);
    try {
      const [intent, result] = linesOf((await readBounded(path, limits.cniCacheFileBytes)).toString('utf8'));
      const network = networkConfOf(path, intent?.['config']);
      return {
        id,
        netns: stringIn(intent, 'netns'),
        args: stringIn(intent, 'args'),
        capabilityArgs: (intent?.['capabilityArgs'] ?? {}) as Json,
        network,
        hostPorts: hostPortsOf(intent?.['hostPorts']),
        result: result === undefined ? undefined : resultOf(result['result'] as Json, network.cniVersion),
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

  async #write(file: FileHandle, id: SandboxId, line: Json): Promise<void> {
    try {
      await file.writeFile(`${JSON.stringify(line)}\n`);
    } catch (error) {
      throw unwritable(this.path(id), error);
    }
  }
}

/** The whole lines of a cache file; the piece after the last newline was cut off by a crash. */
function linesOf(text: string): (Json | undefined)[] {
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Json);
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

function stringIn(file: Json | undefined, key: string): string {
  const value = file?.[key];
  return typeof value === 'string' ? value : '';
}
