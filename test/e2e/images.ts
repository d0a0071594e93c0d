/**
 * Images made on the spot, as OCI layouts, from busybox-static and whatever files a test wants.
 *
 *     const layers = [{ files: await busybox() }];
 *     const image = await buildImage({ directory: `${dir}/app`, name: 'v1', layers, config: { Cmd: ['sh'] } });
 *     await push(image, `${registry.host}/team/app:v1`);
 *
 * The tar writer is our own, so that a layer can hold anything, also what no tool would write: binary xattrs, devices,
 * whiteouts, names with `..`, raw bytes.
 */
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync, zstdCompressSync } from 'node:zlib';

const run = promisify(execFile);

/** One entry of a layer. `path` goes into the tar as it is. */
export interface LayerFile {
  readonly path: string;
  readonly type: 'file' | 'dir' | 'symlink' | 'hardlink' | 'char' | 'block' | 'fifo';
  readonly content?: Buffer;
  readonly link?: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since the epoch, fractions allowed. */
  readonly mtime: number;
  readonly device?: { readonly major: number; readonly minor: number };
  readonly xattrs?: Readonly<Record<string, Buffer>>;
}
type Attributes = Partial<Pick<LayerFile, 'mode' | 'uid' | 'gid' | 'mtime' | 'xattrs'>>;

/** 2020-01-01: equal inputs give equal digests. */
const MTIME = 1_577_836_800;
const base = { uid: 0, gid: 0, mtime: MTIME };

export const file = (path: string, content: string | Buffer, attributes: Attributes = {}): LayerFile => ({
  ...base,
  path,
  type: 'file',
  mode: 0o644,
  content: Buffer.from(content),
  ...attributes,
});
export const dir = (path: string, attributes: Attributes = {}): LayerFile => ({
  ...base,
  path: `${path.replace(/\/$/, '')}/`,
  type: 'dir',
  mode: 0o755,
  ...attributes,
});
export const symlink = (path: string, link: string): LayerFile => ({
  ...base,
  path,
  type: 'symlink',
  mode: 0o777,
  link,
});
export const hardlink = (path: string, link: string): LayerFile => ({
  ...base,
  path,
  type: 'hardlink',
  mode: 0o644,
  link,
});
export const device = (
  path: string,
  type: 'char' | 'block',
  major: number,
  minor: number,
  attributes: Attributes = {},
): LayerFile => ({ ...base, path, type, mode: 0o600, device: { major, minor }, ...attributes });
export const fifo = (path: string, attributes: Attributes = {}): LayerFile => ({
  ...base,
  path,
  type: 'fifo',
  mode: 0o600,
  ...attributes,
});
/** Hides `path` of the layers below. */
export const whiteout = (path: string): LayerFile => file(path.replace(/([^/]+)$/, '.wh.$1'), '', { mode: 0 });
/** Hides everything that the layers below have in `directory`. */
export const opaque = (directory: string): LayerFile => file(`${directory}/.wh..wh..opq`, '', { mode: 0 });

/**
 * /bin with a static busybox (the one at `path`) and its applets as hard links (symlinks would follow a masked
 * /bin/sh), /etc with root and nobody, /tmp.
 */
export async function busybox(path = '/bin/busybox'): Promise<LayerFile[]> {
  const program = await readFile(path);
  const { stdout } = await run(path, ['--list']);
  const applets = stdout.split('\n').filter((name) => name !== '' && name !== 'busybox');
  return [
    dir('bin'),
    file('bin/busybox', program, { mode: 0o755 }),
    ...applets.map((name) => ({ ...hardlink(`bin/${name}`, 'bin/busybox'), mode: 0o755 })),
    dir('etc'),
    file(
      'etc/passwd',
      'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\n' +
        'nobody:x:65534:65534:nobody:/:/bin/false\n',
    ),
    file('etc/group', 'root:x:0:\nwheel:x:10:root\nwww-data:x:33:\nnogroup:x:65534:\n'),
    ...['dev', 'proc', 'sys', 'var', 'root'].map((name) => dir(name)),
    dir('tmp', { mode: 0o1777 }),
  ];
}

export interface LayerPlan {
  readonly files: readonly LayerFile[];
  /** Default gzip. `xz` calls itself gzip. */
  readonly compression?: 'gzip' | 'zstd' | 'none' | 'xz';
  /** Instead of a tar of `files`: these bytes, as they are (damaged layers). */
  readonly raw?: Buffer;
}
export interface ImagePlan {
  readonly layers: readonly LayerPlan[];
  /** The `config` member of the image config: User, Env, Cmd, Entrypoint, Volumes, Labels, StopSignal, … */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Default linux/amd64. */
  readonly platform?: { readonly os: string; readonly architecture: string; readonly variant?: string };
  readonly annotations?: Readonly<Record<string, string>>;
}
export interface BuiltImage {
  /** Directory of the OCI layout. */
  readonly layout: string;
  /** Its name in the layout's index: `oci:<layout>:<name>` for skopeo. */
  readonly name: string;
  /** Digest of the manifest, or of the index if there are several platforms. */
  readonly digest: string;
  /** Per platform, in the order of the plan. */
  readonly images: readonly {
    readonly id: string;
    readonly manifest: string;
    readonly layers: readonly string[];
    readonly diffIds: readonly string[];
  }[];
}

/** Writes an OCI layout with one image, called `name` in it. */
export async function buildImage(
  plan: ImagePlan & { readonly directory: string; readonly name: string },
): Promise<BuiltImage> {
  return buildIndex({ directory: plan.directory, name: plan.name, images: [plan] });
}

/** Writes an OCI layout with an index of several platforms; of one image without an index. */
export async function buildIndex(plan: {
  readonly directory: string;
  readonly name: string;
  readonly images: readonly ImagePlan[];
}): Promise<BuiltImage> {
  await mkdir(join(plan.directory, 'blobs/sha256'), { recursive: true });
  await writeFile(join(plan.directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const built = [];
  for (const image of plan.images) built.push(await writeImage(plan.directory, image));
  const entries = built.map(({ descriptor }) => descriptor);
  const first = entries[0];
  if (first === undefined) throw new Error('buildIndex: no image');
  const top =
    entries.length === 1
      ? first
      : await writeBlob(
          plan.directory,
          'application/vnd.oci.image.index.v1+json',
          json({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests: entries }),
        );
  const { platform: _platform, ...plain } = top;
  await writeFile(
    join(plan.directory, 'index.json'),
    json({
      schemaVersion: 2,
      manifests: [{ ...plain, annotations: { 'org.opencontainers.image.ref.name': plan.name } }],
    }),
  );
  return { layout: plan.directory, name: plan.name, digest: top.digest, images: built.map(({ image }) => image) };
}

interface BlobDescriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly platform?: ImagePlan['platform'];
}

async function writeImage(
  directory: string,
  plan: ImagePlan,
): Promise<{ readonly descriptor: BlobDescriptor; readonly image: BuiltImage['images'][number] }> {
  const layers: BlobDescriptor[] = [];
  const diffIds: string[] = [];
  for (const layer of plan.layers) {
    const tar = layer.raw ?? makeTar(layer.files);
    const { bytes, suffix } = compress(tar, layer.compression ?? 'gzip');
    diffIds.push(sha256(tar));
    layers.push(await writeBlob(directory, `application/vnd.oci.image.layer.v1.tar${suffix}`, bytes));
  }
  const platform = plan.platform ?? { os: 'linux', architecture: 'amd64' };
  const config = await writeBlob(
    directory,
    'application/vnd.oci.image.config.v1+json',
    json({
      ...platform,
      created: '2020-01-01T00:00:00Z',
      config: plan.config ?? {},
      rootfs: { type: 'layers', diff_ids: diffIds },
      history: [],
    }),
  );
  const manifest = json({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config,
    layers,
    ...(plan.annotations === undefined ? {} : { annotations: plan.annotations }),
  });
  const descriptor = await writeBlob(directory, 'application/vnd.oci.image.manifest.v1+json', manifest);
  return {
    descriptor: { ...descriptor, platform },
    image: { id: config.digest, manifest: descriptor.digest, layers: layers.map(({ digest }) => digest), diffIds },
  };
}

function compress(
  tar: Buffer,
  compression: 'gzip' | 'zstd' | 'none' | 'xz',
): { readonly bytes: Buffer; readonly suffix: string } {
  if (compression === 'gzip') return { bytes: gzipSync(tar, { level: 1 }), suffix: '+gzip' };
  if (compression === 'zstd') return { bytes: zstdCompressSync(tar), suffix: '+zstd' };
  // No media type is defined for it: images that have it say gzip.
  if (compression === 'xz')
    return { bytes: execFileSync('xz', ['-1'], { input: tar, maxBuffer: 1 << 28 }), suffix: '+gzip' };
  return { bytes: tar, suffix: '' };
}

async function writeBlob(directory: string, mediaType: string, bytes: Buffer): Promise<BlobDescriptor> {
  const digest = sha256(bytes);
  await writeFile(join(directory, 'blobs/sha256', digest.slice('sha256:'.length)), bytes);
  return { mediaType, digest, size: bytes.length };
}

export function sha256(bytes: Buffer | string): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}

/** A PAX tar with these entries, in this order. */
function makeTar(files: readonly LayerFile[]): Buffer {
  return Buffer.concat([...files.flatMap(entry), Buffer.alloc(1024)]);
}

const TYPE_FLAGS: Readonly<Record<LayerFile['type'], string>> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  char: '3',
  block: '4',
  dir: '5',
  fifo: '6',
};

function entry(each: LayerFile): Buffer[] {
  const records: [string, Buffer][] = Object.entries(each.xattrs ?? {}).map(([name, value]) => [
    `SCHILY.xattr.${name}`,
    value,
  ]);
  if (Buffer.byteLength(each.path) > 100) records.push(['path', Buffer.from(each.path)]);
  if (Buffer.byteLength(each.link ?? '') > 100) records.push(['linkpath', Buffer.from(each.link ?? '')]);
  if (!Number.isInteger(each.mtime)) records.push(['mtime', Buffer.from(String(each.mtime))]);
  if (each.uid > 0o7777777 || each.gid > 0o7777777)
    records.push(['uid', Buffer.from(String(each.uid))], ['gid', Buffer.from(String(each.gid))]);
  const content = each.type === 'file' ? (each.content ?? Buffer.alloc(0)) : Buffer.alloc(0);
  const parts = [header(each, TYPE_FLAGS[each.type], content.length), padded(content)];
  if (records.length === 0) return parts;
  const pax = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
  return [header({ ...file('PaxHeaders/x', ''), mtime: MTIME }, 'x', pax.length), padded(pax), ...parts];
}

/** `<length> <key>=<value>\n`, where the length counts its own digits. */
function paxRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function header(each: LayerFile, flag: string, size: number): Buffer {
  const block = Buffer.alloc(512);
  const octal = (value: number, at: number, digits: number): void =>
    void block.write(value.toString(8).padStart(digits, '0'), at, digits, 'latin1');
  block.write(each.path, 0, 100);
  octal(each.mode, 100, 7);
  octal(Math.min(each.uid, 0o7777777), 108, 7);
  octal(Math.min(each.gid, 0o7777777), 116, 7);
  octal(size, 124, 11);
  octal(Math.trunc(each.mtime), 136, 11);
  block.write(flag, 156, 1);
  block.write(each.link ?? '', 157, 100);
  block.write('ustar\u000000', 257, 8, 'latin1');
  octal(each.device?.major ?? 0, 329, 7);
  octal(each.device?.minor ?? 0, 337, 7);
  block.fill(0x20, 148, 156);
  octal(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    6,
  );
  block.write('\u0000 ', 154, 2, 'latin1');
  return block;
}

function padded(bytes: Buffer): Buffer {
  const rest = bytes.length % 512;
  return rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(512 - rest)]);
}

export interface PushOptions {
  /** `v2s2` converts to docker's formats, lists included. */
  readonly format?: 'oci' | 'v2s2';
  /** `user:password` */
  readonly credentials?: string;
  /** Directory with client.cert and client.key for a registry that wants them. */
  readonly certDir?: string;
  /** Packs the layers anew. */
  readonly compression?: 'zstd:chunked';
}

/** Copies an image (all its platforms) from its layout to `reference` (`host/path:tag`), with skopeo. */
export async function push(
  image: Pick<BuiltImage, 'layout' | 'name'>,
  reference: string,
  options: PushOptions = {},
): Promise<void> {
  const packing =
    options.compression === undefined
      ? ['--preserve-digests']
      : ['--dest-compress', '--dest-compress-format', options.compression];
  const format = options.format === 'v2s2' ? ['--format', 'v2s2'] : packing;
  const credentials = options.credentials === undefined ? [] : ['--dest-creds', options.credentials];
  const certificates = options.certDir === undefined ? [] : ['--dest-cert-dir', options.certDir];
  await run(
    'skopeo',
    [
      'copy',
      '--quiet',
      '--insecure-policy',
      '--all',
      '--dest-tls-verify=false',
      ...format,
      ...credentials,
      ...certificates,
      `oci:${image.layout}:${image.name}`,
      `docker://${reference}`,
    ],
    { timeout: 60_000 },
  );
}
