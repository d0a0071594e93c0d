/**
 * One JSON file per object: `<dir>/<id>/record.json`, an envelope around the record with a checksum.
 *
 * The checksum is over the record's exact text, so that a flipped bit inside a string is found too. Bigints, bytes and
 * prototype-free maps survive the trip: a record that is loaded equals the one that was saved.
 */
import { crc32 } from 'node:zlib';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, explain, RuntimeError, storageError } from '../base/errors.ts';
import {
  ensureDirInMemory,
  isTemporaryName,
  listInMemory,
  readInMemory,
  removeEmptyDirInMemory,
  removeInMemory,
  replaceFile,
} from '../base/files.ts';
import { limits } from '../base/limits.ts';
import { type Freeing, noReserve } from '../base/reserve.ts';
import type { ContainerRecord, Damaged, SandboxRecord, StateStore } from '../ports/state.ts';
import { parseJson } from '../base/json.ts';

type AnyRecord = SandboxRecord | ContainerRecord;
type Kind = AnyRecord['kind'];

const ID = /^[0-9a-f]{64}$/;
/** Raised when a record of an older layout can no longer be read; see docs/STATE.md. */
const VERSION = 1;
/** Room for the envelope around a record's text. */
const ENVELOPE_BYTES = 128;

/** StateStore on a directory of tmpfs: `sandboxes/<id>/record.json` and `containers/<id>/record.json`. */
export class FileStateStore implements StateStore {
  readonly #root: string;
  readonly #reserve: Freeing;

  /** `reserve` is of the file system that `root` is on; only records of what ends take it. */
  constructor(root: string, reserve: Freeing = noReserve) {
    this.#root = root;
    this.#reserve = reserve;
  }

  async load(): Promise<{ sandboxes: SandboxRecord[]; containers: ContainerRecord[]; damaged: Damaged[] }> {
    const damaged: Damaged[] = [];
    const sandboxes = await this.#loadKind<SandboxRecord>('sandbox', damaged);
    const containers = await this.#loadKind<ContainerRecord>('container', damaged);
    return { sandboxes, containers, damaged };
  }

  async save(record: AnyRecord): Promise<void> {
    const text = encodeRecord(record);
    const path = this.#path(record.kind, record.id);
    try {
      await (isEnding(record) ? this.#reserve : noReserve).freeing(() => this.#write(record, path, text));
    } catch (error) {
      throw storageError(error, `record ${path}`);
    }
  }

  async #write(record: AnyRecord, path: string, text: string): Promise<void> {
    const directory = join(this.#root, directoryOf(record.kind), record.id);
    try {
      // The first of an object; to try without, and fail, costs as much as three saves.
      if (record.state.phase === 'creating') ensureDirInMemory(directory);
      await replaceFile(path, text, 'memory').catch(async (error: unknown) => {
        if (errnoOf(error) !== 'ENOENT') throw error;
        ensureDirInMemory(directory);
        await replaceFile(path, text, 'memory');
      });
    } catch (error) {
      removeEmptyDirInMemory(directory);
      throw error;
    }
  }

  async remove(record: { readonly kind: Kind; readonly id: string }): Promise<void> {
    removeInMemory(this.#path(record.kind, record.id));
  }

  async #loadKind<R extends AnyRecord>(kind: Kind, damaged: Damaged[]): Promise<R[]> {
    const directory = join(this.#root, directoryOf(kind));
    ensureDirInMemory(directory);
    const ids = listInMemory(directory).filter((name) => ID.test(name));
    const loaded = await Promise.all(ids.map((id) => this.#loadOne<R>(kind, id, damaged)));
    return loaded.filter((record) => record !== undefined);
  }

  async #loadOne<R extends AnyRecord>(kind: Kind, id: string, damaged: Damaged[]): Promise<R | undefined> {
    const path = this.#path(kind, id);
    this.#dropTemporaries(kind, id);
    try {
      return decodeRecord(readInMemory(path, limits.recordBytes), kind, id) as R;
    } catch (error) {
      // A directory without a record: the object was being removed, or never got further than mkdir. The sweep finds
      // it.
      if (errnoOf(error) === 'ENOENT') return undefined;
      damaged.push({ kind, id, path: await this.#setAside(path, kind, id), why: explain(error) });
      return undefined;
    }
  }

  /**
   * Moves a damaged record out of the object's directory, which is about to be destroyed, and keeps it for the curious.
   */
  async #setAside(path: string, kind: Kind, id: string): Promise<string> {
    const quarantine = join(this.#root, 'damaged');
    ensureDirInMemory(quarantine);
    const kept = join(quarantine, `${kind}-${id}.json`);
    await rename(path, kept);
    return kept;
  }

  #dropTemporaries(kind: Kind, id: string): void {
    const directory = join(this.#root, directoryOf(kind), id);
    for (const name of listInMemory(directory)) if (isTemporaryName(name)) removeInMemory(join(directory, name));
  }

  #path(kind: Kind, id: string): string {
    if (!ID.test(id)) throw new RuntimeError('Internal', `record with a strange id: ${JSON.stringify(id)}`);
    return join(this.#root, directoryOf(kind), id, 'record.json');
  }
}

function directoryOf(kind: Kind): string {
  return kind === 'sandbox' ? 'sandboxes' : 'containers';
}

/** On its way out, or told to stop: what has to be written down before space can be freed. */
function isEnding(record: AnyRecord): boolean {
  if (record.kind === 'sandbox') return record.state.phase !== 'creating' && record.state.phase !== 'ready';
  return record.stopping !== null || ENDED.has(record.state.phase);
}

const ENDED: ReadonlySet<ContainerRecord['state']['phase']> = new Set(['exited', 'unknown', 'removing']);

/** The file's text for a record. @throws ResourceExhausted if it is larger than what `load` would accept. */
export function encodeRecord(record: AnyRecord): string {
  const complaint = faultOf(record, record.kind, record.id);
  if (complaint !== undefined) throw new RuntimeError('Internal', `refusing to save a damaged record: ${complaint}`);
  const body = JSON.stringify(encodeValue(record));
  if (Buffer.byteLength(body) > limits.recordBytes - ENVELOPE_BYTES) {
    throw new RuntimeError(
      'ResourceExhausted',
      `the ${record.kind} needs a record of more than ${limits.recordBytes} bytes; use fewer or ` +
        'smaller labels, annotations, environment variables or mounts',
    );
  }
  return `{"version":${VERSION},"crc32":${crc32(body)},"record":${body}}\n`;
}

/** The record in a file's bytes. @throws DataLoss that says what is wrong. */
export function decodeRecord(bytes: Uint8Array, kind: Kind, id: string): AnyRecord {
  const text = Buffer.from(bytes).toString('utf8');
  const head = /^\{"version":(\d+),"crc32":(\d+),"record":/.exec(text);
  if (head === null || !text.endsWith('}\n'))
    throw new RuntimeError('DataLoss', `record of ${text.length} characters is cut short or not a record`);
  if (Number(head[1]) !== VERSION)
    throw new RuntimeError('DataLoss', `record has version ${head[1]}, this Berth reads ${VERSION}`);
  const body = text.slice(head[0].length, -2);
  if (crc32(body) !== Number(head[2])) throw new RuntimeError('DataLoss', 'checksum of the record does not match');
  const record = upgraded(decodeValue(parseJson(body)) as AnyRecord);
  const fault = faultOf(record, kind, id);
  if (fault !== undefined) throw new RuntimeError('DataLoss', fault);
  return record;
}

/**
 * A record of a daemon before this one as today's: it did not say which runtime it was; a stop's kill was due by the
 * clock of the wall, which says nothing by now, so the container has all of its grace again.
 */
function upgraded(old: AnyRecord): AnyRecord {
  const record: AnyRecord = { ...old, runtime: (old as Partial<AnyRecord>).runtime ?? null };
  if (record.kind === 'sandbox') return { ...record, lost: (record.lost as string | undefined) ?? '' };
  const whole = { ...record, monitorLost: (record.monitorLost as ContainerRecord['monitorLost'] | undefined) ?? null };
  if (record.stopping === null) return whole;
  const { signalledAt, killAt } = record.stopping as Partial<Record<'signalledAt' | 'killAt', bigint>>;
  if (signalledAt === undefined || killAt === undefined) return whole;
  const graceMs = Math.max(0, Number((killAt - signalledAt) / 1_000_000n));
  const stopping = { begunAt: signalledAt, signalled: true, graceMs, killAtMs: Number.MAX_SAFE_INTEGER };
  return { ...whole, stopping };
}

/** What is wrong with the shape of a record; undefined if nothing is. Both sides of the disk ask it. */
function faultOf(record: AnyRecord, kind: Kind, id: string): string | undefined {
  if (record.kind !== kind || record.id !== id) return `record is of ${record.kind} ${record.id}`;
  if (typeof record.createdAt !== 'bigint' || record.createdAt <= 0n) return 'createdAt is missing';
  if (record.config?.metadata === undefined) return 'config.metadata is missing';
  if (record.kind === 'container' && record.config.image === undefined) return 'config.image is missing';
  const phases: readonly string[] = record.kind === 'sandbox' ? SANDBOX_PHASES : CONTAINER_PHASES;
  if (!phases.includes(record.state?.phase))
    return `state has the unknown phase ${JSON.stringify(record.state?.phase)}`;
  if (record.kind === 'container' && !ID.test(record.sandboxId)) return 'sandboxId is missing';
  return undefined;
}

const SANDBOX_PHASES: readonly SandboxRecord['state']['phase'][] = [
  'creating',
  'ready',
  'stopping',
  'stopped',
  'removing',
];
const CONTAINER_PHASES: readonly ContainerRecord['state']['phase'][] = [
  'creating',
  'created',
  'starting',
  'running',
  'exited',
  'unknown',
  'removing',
];

/**
 * JSON has no bigint, no bytes and no undefined. `{"$n":"1"}` and `{"$b":"base64"}` stand for the first two; a map that
 * really has such a single key is wrapped once more as `{"$o":{…}}`, so that no label can pass for a number.
 */
function encodeValue(value: unknown): unknown {
  if (typeof value === 'bigint') return { $n: value.toString() };
  if (value instanceof Uint8Array) return { $b: Buffer.from(value).toString('base64') };
  if (Array.isArray(value)) return value.map(encodeValue);
  if (typeof value !== 'object' || value === null) return value;
  const keys = Object.keys(value);
  const encoded = mapOf(Object.entries(value), encodeValue);
  return keys.length === 1 && /^\$[nbo]$/.test(keys[0] ?? '') ? { $o: encoded } : encoded;
}

function decodeValue(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(decodeValue);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value);
  const [first] = entries;
  if (entries.length === 1 && first !== undefined) {
    const [key, inner] = first;
    if (key === '$n') return BigInt(inner as string);
    if (key === '$b') return new Uint8Array(Buffer.from(inner as string, 'base64'));
    if (key === '$o') return mapOf(Object.entries(inner as object), decodeValue);
  }
  return mapOf(entries, decodeValue);
}

/** Without a prototype, so that `__proto__` and `constructor` are keys like any other. */
function mapOf(entries: readonly (readonly [string, unknown])[], convert: (value: unknown) => unknown): object {
  const map = Object.create(null) as Record<string, unknown>;
  for (const [key, value] of entries) map[key] = convert(value);
  return map;
}
