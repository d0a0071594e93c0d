/** What is known of each layer: one file beside its tree, written last and replaced whole. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { readDirSorted, readJson } from '../base/files.ts';
import { type ChainId, parseChainId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { RootOwner } from './node.ts';
import { PENDING } from './pending-file.ts';

/** What is remembered of a layer beside its files. */
export interface LayerRecord {
  readonly version: 1;
  readonly chainId: ChainId;
  readonly diffId: string;
  /** Of the blob it was unpacked from. */
  readonly digest: string;
  /** Its size; undefined in records of before this was written down. */
  readonly blobBytes?: number;
  /** Disk space and inodes of `fs`, measured once: a layer does not change. */
  readonly usedBytes: number;
  readonly inodesUsed: number;
  /** Owner and mode of the image's root directory if this layer says so. */
  readonly root: RootOwner | null;
  /** It hides all layers below it; overlay does not see that by itself. */
  readonly rootIsOpaque: boolean;
  /** 'pending': the file `pending` has to be done before the layer may be mounted on others. */
  readonly state: 'settled' | 'pending';
}

/** The records of all complete layers in `layers/`. */
export async function loadRecords(directory: string): Promise<Map<ChainId, LayerRecord>> {
  const records = new Map<ChainId, LayerRecord>();
  for (const name of await readDirSorted(directory)) {
    if (!/^[0-9a-f]{64}$/.test(name)) continue;
    const chainId = parseChainId(`sha256:${name}`);
    try {
      const record = parseRecord(await readJson(join(directory, name, 'layer.json'), limits.layerRecordBytes), chainId);
      // One that another version of us left half done.
      if (record.state === 'pending' && !(await exists(join(directory, name, PENDING)))) continue;
      records.set(chainId, record);
    } catch {
      // A layer without a readable record counts as absent: the next pull puts a whole one in its place.
    }
  }
  return records;
}

/** @throws DataLoss if it is not the whole record of this layer. */
export function parseRecord(value: unknown, chainId: ChainId): LayerRecord {
  const record = value as Partial<LayerRecord> | null;
  const isWhole =
    record !== null &&
    typeof record === 'object' &&
    record.version === 1 &&
    record.chainId === chainId &&
    typeof record.diffId === 'string' &&
    typeof record.digest === 'string' &&
    (record.blobBytes === undefined || Number.isSafeInteger(record.blobBytes)) &&
    Number.isSafeInteger(record.usedBytes) &&
    Number.isSafeInteger(record.inodesUsed) &&
    typeof record.rootIsOpaque === 'boolean' &&
    typeof record.root === 'object' &&
    (record.state === 'settled' || record.state === 'pending');
  if (!isWhole) throw new RuntimeError('DataLoss', `the record of layer ${chainId} is damaged`);
  return record as LayerRecord;
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}
