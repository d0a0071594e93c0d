/**
 * Images in files: an OCI layout directory, the same in a tar, or what `docker save` writes. Each becomes a
 * `PullSource`, so that what is imported goes the same way as what is pulled, with the same checks.
 *
 * Of a tar only an index is made (name → place in the file); contents are read in place. Names in it are keys of a map
 * and never become paths.
 */
import { createHash } from 'node:crypto';
import { lstat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { openRegular, readBounded } from '../base/files.ts';
import { errnoOf, RuntimeError, wrap } from '../base/errors.ts';
import { hexOf, isDigest, quote } from '../base/ids.ts';
import type { Digest } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { algorithmOf, checkDigest, digestOf } from '../oci/digest.ts';
import { GoObject } from '../base/go.ts';
import { parseObject } from '../oci/document.ts';
import { parseImageConfig } from '../oci/image-config.ts';
import { parseManifest } from '../oci/manifest.ts';
import { mediaTypes } from '../oci/media-types.ts';
import type { Descriptor, Platform } from '../oci/spec-types.ts';
import { fileRange } from './file-range.ts';
import type { PullSource } from './source.ts';
import type { ManifestAnswer } from './registry/repository.ts';

/** An image of an archive, ready to be installed. */
export interface ArchivedImage {
  readonly source: PullSource;
  readonly root: ManifestAnswer;
  /** As the archive's index says; undefined when it does not. */
  readonly platform: Platform | undefined;
  /** Names that the archive gives it, as written there. */
  readonly names: readonly string[];
  /** False for docker archives: the manifest is made up here, so its digest is known to no registry. */
  readonly hasRegistryDigest: boolean;
}

/** A file in an archive or a layout. */
interface Place {
  readonly path: string;
  readonly start: bigint;
  readonly size: bigint;
}
type Find = (name: string) => Promise<Place | undefined>;

/**
 * The images in `path`. @throws NotFound if it is not there; InvalidArgument if it is no image archive, with what was
 * expected.
 */
export async function openArchive(path: string): Promise<readonly ArchivedImage[]> {
  const info = await lstat(path).catch((error: unknown) => {
    throw errnoOf(error) === 'ENOENT'
      ? new RuntimeError('NotFound', `${path} does not exist`)
      : wrap(`${path} cannot be read`, error);
  });
  const find = info.isDirectory() ? findInDirectory(path) : await findInTar(path);
  if ((await find('index.json')) !== undefined && (await find('oci-layout')) !== undefined)
    return openLayout(path, find);
  if ((await find('manifest.json')) !== undefined) return openDockerArchive(path, find);
  throw new RuntimeError(
    'InvalidArgument',
    `${path} is neither an OCI layout (oci-layout, index.json) nor a docker archive (manifest.json)`,
  );
}

async function openLayout(path: string, find: Find): Promise<readonly ArchivedImage[]> {
  const index = parseManifest(await readPlace(find, 'index.json', limits.manifestBytes, path), mediaTypes.ociIndex);
  if (index.kind !== 'index') throw new RuntimeError('InvalidArgument', `${path}: index.json is not an index`);
  const blob = async (digest: Digest): Promise<Place> => {
    const place = await find(`blobs/${algorithmOf(digest)}/${hexOf(digest)}`);
    if (place === undefined) throw new RuntimeError('NotFound', `${path} has no blob ${digest}`);
    return place;
  };
  const manifest = async (digest: string): Promise<ManifestAnswer> => {
    if (!isDigest(digest)) throw new RuntimeError('InvalidArgument', `${path}: ${quote(digest)} is not a digest`);
    const bytes = await readWhole(await blob(digest), limits.manifestBytes);
    const describe = `manifest ${digest} in ${path}`;
    checkDigest(bytes, digest, describe);
    return { bytes, contentType: '', digest, describe };
  };
  const source: PullSource = {
    describe: path,
    manifest: (_op, digest) => manifest(digest),
    sizeOf: async (_op, digest) => (await blob(digest)).size,
    blob: (_op, want, offset) => readFrom(() => blob(want.digest), want, offset),
    discredit: () => false,
  };
  // One entry per name: an image that has several is in the index several times.
  const images = new Map<Digest, ArchivedImage & { readonly names: string[] }>();
  for (const { digest, mediaType, platform, annotations } of index.manifests) {
    const image = images.get(digest) ?? {
      source,
      root: { ...(await manifest(digest)), contentType: mediaType },
      platform,
      names: [],
      hasRegistryDigest: true,
    };
    image.names.push(
      ...['io.containerd.image.name', 'org.opencontainers.image.ref.name']
        .map((key) => annotations?.[key] ?? '')
        .filter((name) => name !== ''),
    );
    images.set(digest, image);
  }
  return [...images.values()];
}

/**
 * `docker save`: manifest.json lists images with the paths of their config and layer tars; there is no manifest, so one
 * is made.
 */
async function openDockerArchive(path: string, find: Find): Promise<readonly ArchivedImage[]> {
  const bytes = await readPlace(find, 'manifest.json', limits.manifestBytes, path);
  const list = parseObject(
    Buffer.concat([Buffer.from('{"list":'), bytes, Buffer.from('}')]),
    limits.manifestBytes + 16,
    `${path}: manifest.json`,
  ).get('list');
  if (!Array.isArray(list)) throw new RuntimeError('InvalidArgument', `${path}: manifest.json is not a list`);
  const images: ArchivedImage[] = [];
  for (const entry of list as unknown[]) images.push(await dockerImage(path, find, entry));
  return images;
}

async function dockerImage(path: string, find: Find, entry: unknown): Promise<ArchivedImage> {
  const fail = (what: string): RuntimeError => new RuntimeError('InvalidArgument', `${path}: manifest.json: ${what}`);
  const image = GoObject.of(entry);
  const [configName, layerNames] = [image?.get('Config'), image?.get('Layers') ?? []];
  const tags = image?.get('RepoTags');
  if (typeof configName !== 'string' || !isTexts(layerNames)) throw fail('an image has no Config or no Layers');
  const configBytes = await readPlace(find, configName, limits.imageConfigBytes, path);
  const { diffIds } = parseImageConfig(configBytes);
  if (diffIds.length !== layerNames.length || diffIds.length > limits.layersCount)
    throw fail(`${layerNames.length} layers for a config with ${diffIds.length}`);
  const places = new Map<Digest, Place>();
  const layers: Descriptor[] = [];
  for (const [i, name] of layerNames.entries()) {
    const place = await find(name);
    const diffId = diffIds[i];
    if (place === undefined || diffId === undefined) throw fail(`layer ${quote(name)} is not in the archive`);
    // Uncompressed, as docker writes them, blob and diff id are one; the store checks that it is true.
    const gzip = await isGzip(place);
    const digest = gzip ? await hashPlace(place) : diffId;
    places.set(digest, place);
    layers.push({ mediaType: gzip ? mediaTypes.dockerLayerGzip : mediaTypes.ociLayer, digest, size: place.size });
  }
  const config: Descriptor = {
    mediaType: mediaTypes.dockerConfig,
    digest: digestOf(configBytes),
    size: BigInt(configBytes.length),
  };
  const manifest = Buffer.from(
    JSON.stringify(
      { schemaVersion: 2, mediaType: mediaTypes.dockerManifest, config, layers },
      (_key, value: unknown) => (typeof value === 'bigint' ? Number(value) : value),
    ),
  );
  const blob = async (digest: Digest): Promise<Place> => {
    const place = places.get(digest);
    if (place === undefined) throw new RuntimeError('NotFound', `${path} has no blob ${digest}`);
    return place;
  };
  return {
    source: {
      describe: path,
      manifest: () => Promise.reject(new RuntimeError('NotFound', `${path} has no manifests`)),
      sizeOf: async (_op, digest) => (await blob(digest)).size,
      blob: (_op, want, offset) =>
        want.digest === config.digest
          ? once(configBytes.subarray(Number(offset)))
          : readFrom(() => blob(want.digest), want, offset),
      discredit: () => false,
    },
    root: {
      bytes: manifest,
      contentType: mediaTypes.dockerManifest,
      digest: digestOf(manifest),
      describe: `an image in ${path}`,
    },
    platform: undefined,
    names: isTexts(tags) ? tags : [],
    hasRegistryDigest: false,
  };
}

function findInDirectory(directory: string): Find {
  return async (name) => {
    // Names come from this file: fixed ones, or `blobs/<algorithm>/<hex>` of a digest that was checked.
    if (name.split('/').some((part) => part === '..' || part === '')) return undefined;
    const path = join(directory, name);
    const info = await lstat(path, { bigint: true }).catch(() => undefined);
    if (info === undefined) return undefined;
    if (!info.isFile()) throw new RuntimeError('InvalidArgument', `${path} is not a regular file`);
    return { path, start: 0n, size: info.size };
  };
}

const BLOCK = 512;

/** Reads the headers of a tar; symbolic and hard links among its files are followed inside it. */
async function findInTar(path: string): Promise<Find> {
  const file = await openRegular(path);
  const files = new Map<string, Place>();
  const links = new Map<string, string>();
  try {
    for await (const { name, type, link, start, size } of tarEntries(file, path)) {
      if (files.size + links.size >= limits.archiveEntriesCount)
        throw new RuntimeError('ResourceExhausted', `${path} has more than ${limits.archiveEntriesCount} entries`);
      if (type === 'file') files.set(name, { path, start, size });
      if (type === 'symlink') links.set(name, posix.normalize(posix.join(posix.dirname(name), link)));
      if (type === 'hardlink') links.set(name, posix.normalize(link));
    }
  } finally {
    await file.close();
  }
  return (name) => {
    let at = posix.normalize(name);
    for (let hops = 0; hops < limits.symlinkDepth && !files.has(at); hops++) at = links.get(at) ?? at;
    return Promise.resolve(files.get(at));
  };
}

interface TarEntry {
  readonly name: string;
  readonly type: 'file' | 'symlink' | 'hardlink' | 'other';
  readonly link: string;
  readonly start: bigint;
  readonly size: bigint;
}

async function* tarEntries(file: FileHandle, path: string): AsyncGenerator<TarEntry, void, void> {
  const { size: end } = await file.stat({ bigint: true });
  let at = 0n;
  let extra = new Map<string, string>();
  while (at + BigInt(BLOCK) <= end) {
    const header = Buffer.alloc(BLOCK);
    await file.read(header, 0, BLOCK, Number(at));
    if (header.every((byte) => byte === 0)) return;
    const { size: ownSize, type, name, link } = readHeader(header, path);
    const size = extra.has('size') ? BigInt(extra.get('size') ?? '0') : ownSize;
    const start = at + BigInt(BLOCK);
    at = start + ((size + 511n) / 512n) * 512n;
    if (start + size > end) throw new RuntimeError('DataLoss', `${path} is cut off`);
    if (type === 'x' || type === 'L' || type === 'K') {
      extra = new Map([...extra, ...(await readExtra(file, type, start, size, path))]);
      continue;
    }
    const kind =
      type === '0' || type === '\0' || type === '7'
        ? 'file'
        : type === '2'
          ? 'symlink'
          : type === '1'
            ? 'hardlink'
            : 'other';
    yield {
      name: posix.normalize(extra.get('path') ?? name),
      type: kind,
      link: extra.get('linkpath') ?? link,
      start,
      size,
    };
    if (type !== 'g') extra = new Map();
  }
  // Some writers leave out the zero blocks at the end, but nobody stops inside a header.
  if (at < end) throw at === 0n ? notTar(path) : new RuntimeError('DataLoss', `${path} is cut off`);
}

function readHeader(
  header: Buffer,
  path: string,
): { readonly name: string; readonly size: bigint; readonly type: string; readonly link: string } {
  const field = (from: number, length: number): string => {
    const bytes = header.subarray(from, from + length);
    const zero = bytes.indexOf(0);
    return bytes.subarray(0, zero < 0 ? length : zero).toString('utf8');
  };
  let sum = 0;
  for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 0x20 : (header[i] ?? 0);
  if (parseInt(field(148, 8).trim(), 8) !== sum) throw notTar(path);
  const sizeField = field(124, 12).trim();
  const isBinary = ((header[124] ?? 0) & 0x80) !== 0;
  const size = isBinary
    ? header.readBigUInt64BE(128)
    : /^[0-7]{1,12}$/.test(sizeField)
      ? BigInt(`0o${sizeField}`)
      : sizeField === ''
        ? 0n
        : undefined;
  if (size === undefined || size > 1n << 53n)
    throw new RuntimeError('InvalidArgument', `${path} has an entry with a damaged size`);
  const prefix = field(257, 6) === 'ustar' && header[262] === 0 ? field(345, 155) : '';
  return {
    name: prefix === '' ? field(0, 100) : `${prefix}/${field(0, 100)}`,
    size,
    type: String.fromCharCode(header[156] ?? 0),
    link: field(157, 100),
  };
}

function notTar(path: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${path} is not a tar archive (if it is compressed, uncompress it first)`);
}

/** PAX records (path, linkpath, size) or a GNU long name, for the entry that follows. */
async function readExtra(
  file: FileHandle,
  type: 'x' | 'L' | 'K',
  start: bigint,
  size: bigint,
  path: string,
): Promise<Map<string, string>> {
  if (size > BigInt(limits.tarHeaderRecordBytes))
    throw new RuntimeError('ResourceExhausted', `${path} has a header record of ${size} bytes`);
  const bytes = Buffer.alloc(Number(size));
  await file.read(bytes, 0, bytes.length, Number(start));
  const found = new Map<string, string>();
  if (type !== 'x') return found.set(type === 'L' ? 'path' : 'linkpath', bytes.toString('utf8').replace(/\0.*$/s, ''));
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(0x20, at);
    const length = Number(bytes.subarray(at, Math.max(at, space)).toString('latin1'));
    if (space < 0 || !Number.isSafeInteger(length) || length <= space - at || at + length > bytes.length)
      throw new RuntimeError('InvalidArgument', `${path} has a damaged PAX header`);
    const record = bytes.subarray(space + 1, at + length - 1).toString('utf8');
    const equals = record.indexOf('=');
    const key = record.slice(0, Math.max(0, equals));
    const value = record.slice(equals + 1);
    if (key === 'size' && !/^\d{1,16}$/.test(value))
      throw new RuntimeError('InvalidArgument', `${path} has a damaged PAX header`);
    if (key === 'path' || key === 'linkpath' || key === 'size') found.set(key, value);
    at += length;
  }
  return found;
}

async function readPlace(find: Find, name: string, max: number, path: string): Promise<Buffer> {
  const place = await find(name);
  if (place === undefined) throw new RuntimeError('NotFound', `${path} has no ${quote(name)}`);
  return readWhole(place, max);
}

async function readWhole(place: Place, max: number): Promise<Buffer> {
  if (place.size > BigInt(max))
    throw new RuntimeError(
      'ResourceExhausted',
      `${place.path} has a document of ${place.size} bytes, at most ${max} are read (CVE-2023-25153)`,
    );
  if (place.start === 0n && place.size === 0n) return readBounded(place.path, max);
  const parts: Uint8Array[] = [];
  for await (const part of fileRange(place.path, place.start, place.start + place.size)) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}

async function* readFrom(
  find: () => Promise<Place>,
  want: { readonly digest: Digest; readonly size: bigint },
  offset: bigint,
): AsyncGenerator<Uint8Array, void, void> {
  const place = await find();
  if (place.size !== want.size)
    throw new RuntimeError(
      'DataLoss',
      `blob ${want.digest} in ${place.path} has ${place.size} bytes, the manifest promises ${want.size}`,
    );
  yield* fileRange(place.path, place.start + offset, place.start + place.size);
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, void> {
  yield bytes;
}

async function isGzip(place: Place): Promise<boolean> {
  for await (const part of fileRange(place.path, place.start, place.start + (place.size < 2n ? place.size : 2n)))
    return part[0] === 0x1f && part[1] === 0x8b;
  return false;
}

async function hashPlace(place: Place): Promise<Digest> {
  const hash = createHash('sha256');
  for await (const part of fileRange(place.path, place.start, place.start + place.size)) hash.update(part);
  const digest = `sha256:${hash.digest('hex')}`;
  if (!isDigest(digest)) throw new RuntimeError('Internal', 'sha256 is not 64 characters');
  return digest;
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((each) => typeof each === 'string');
}
