/**
 * What a hostile layer can make the daemon keep: headers that hold for the rest of the archive, names by the hundred
 * thousand, attributes that can be set only at the end. Whatever it is, the daemon grows by less than 200 MB.
 */
import { assert } from 'chai';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { mkdir, rename, stat } from 'node:fs/promises';
import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { paxHeader, tarEntry } from '../../pkg/rootfs/tar-build.ts';
import { CriError } from './cri-client.ts';
import { TestNode } from './harness.ts';

const MB = 1_000_000;
const GROWTH_MAX = 200 * MB;

interface Shape {
  readonly what: string;
  /** The n-th piece of the archive. */
  readonly piece: (index: number) => Buffer;
  readonly rawBytes: number;
  readonly packed: 'gzip' | 'none';
}

const name = (index: number, length: number): string => `${index.toString(36)}-`.padEnd(length, 'n');
/** Directories in directories, so that a path is as long as it can be. */
const deep = (index: number): string => `${name(index, 200)}/${Array(15).fill('d'.repeat(200)).join('/')}`;
const longName = (path: string): Buffer => tarEntry({ name: '././@LongLink', type: 'L' }, `${path}\0`);
const longLink = (path: string): Buffer => tarEntry({ name: '././@LongLink', type: 'K' }, `${path}\0`);
const value = 'v'.repeat(60_000);

const SHAPES: readonly Shape[] = [
  {
    what: 'global attributes, each another one',
    piece: (index) =>
      paxHeader(
        Array.from({ length: 15 }, (_, at) => [`SCHILY.xattr.user.${index}.${at}`, value] as const),
        'g',
      ),
    rawBytes: 900 * MB,
    packed: 'gzip',
  },
  {
    what: 'global attributes of a megabyte',
    piece: (index) => paxHeader([[`SCHILY.xattr.user.${index}`, 'v'.repeat(1_000_000)]], 'g'),
    rawBytes: 900 * MB,
    packed: 'gzip',
  },
  {
    what: 'global records that nobody knows',
    piece: (index) => paxHeader([[`unknown.${index}`, 'v'.repeat(1_000_000)]], 'g'),
    rawBytes: 900 * MB,
    packed: 'gzip',
  },
  {
    what: 'default ACLs',
    piece: (index) =>
      Buffer.concat([
        paxHeader([['SCHILY.xattr.system.posix_acl_default', value]]),
        tarEntry({ name: `d${index}/`, type: '5' }),
      ]),
    rawBytes: 900 * MB,
    packed: 'gzip',
  },
  {
    what: 'attributes by the thousand, in one entry after the other',
    piece: (index) =>
      Buffer.concat([
        paxHeader(Array.from({ length: 20_000 }, (_, at) => [`SCHILY.xattr.foreign.${at}`, 'v'] as const)),
        tarEntry({ name: `f${index}` }),
      ]),
    rawBytes: 100 * MB,
    packed: 'gzip',
  },
  {
    what: 'directories with long names',
    piece: (index) => Buffer.concat([longName(`${deep(index)}/`), tarEntry({ name: 'd', type: '5' })]),
    rawBytes: 40 * MB,
    packed: 'none',
  },
  {
    what: 'hard links to what is nowhere',
    piece: (index) => Buffer.concat([longLink(deep(index)), tarEntry({ name: `l${index}`, type: '1' })]),
    rawBytes: 900 * MB,
    packed: 'gzip',
  },
];

describe('what a layer makes the daemon keep', function () {
  this.timeout(300_000);
  let node: TestNode;
  before(async () => {
    node = await TestNode.boot({ runtime: 'crun' });
  });
  after(() => node.close());

  for (const [index, shape] of SHAPES.entries()) {
    it(`is less than 200 MB: ${shape.what}`, async () => {
      const layout = await hostileImage(join(node.dir, `images/hostile-${index}`), shape);
      const rss = settled(node.pid);
      writeFileSync(`/proc/${node.pid}/clear_refs`, '5');
      const error = await node.cri.rpc.import({ path: layout, reference: '' }).then(
        () => undefined,
        (cause: unknown) => cause,
      );
      const grown = statusOf(node.pid, 'VmHWM') - rss;
      assert.isBelow(grown, GROWTH_MAX, String(error));
      if (error !== undefined) assert.instanceOf(error, CriError);
      await node.cri.rpc.version({ version: '' });
    });
  }
});

/** Bytes of a row of /proc/<pid>/status. */
function statusOf(pid: number, row: string): number {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`^${row}:\\s*(\\d+) kB`, 'm').exec(text)?.[1]) * 1024;
}

function settled(pid: number): number {
  return statusOf(pid, 'VmRSS');
}

/** An OCI layout of an image whose only layer is of this shape, made without holding it. */
async function hostileImage(layout: string, shape: Shape): Promise<string> {
  const blobs = join(layout, 'blobs/sha256');
  await mkdir(blobs, { recursive: true });
  const raw = createHash('sha256');
  const packed = createHash('sha256');
  const temporary = join(layout, 'layer');
  await pipeline(
    Readable.from(pieces(shape)),
    through(raw),
    ...(shape.packed === 'gzip' ? [createGzip({ level: 1 })] : []),
    through(packed),
    createWriteStream(temporary),
  );
  const layer = `sha256:${packed.digest('hex')}`;
  await rename(temporary, join(blobs, layer.slice(7)));
  const blob = (mediaType: string, document: object): { mediaType: string; digest: string; size: number } => {
    const bytes = Buffer.from(JSON.stringify(document));
    const digest = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(join(blobs, digest), bytes);
    return { mediaType, digest: `sha256:${digest}`, size: bytes.length };
  };
  const config = blob('application/vnd.oci.image.config.v1+json', {
    os: 'linux',
    architecture: 'amd64',
    config: {},
    rootfs: { type: 'layers', diff_ids: [`sha256:${raw.digest('hex')}`] },
  });
  const mediaType = `application/vnd.oci.image.layer.v1.tar${shape.packed === 'gzip' ? '+gzip' : ''}`;
  const manifest = blob('application/vnd.oci.image.manifest.v1+json', {
    schemaVersion: 2,
    config,
    layers: [{ mediaType, digest: layer, size: (await stat(join(blobs, layer.slice(7)))).size }],
  });
  writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const annotations = { 'org.opencontainers.image.ref.name': 'localhost/test/hostile:1' };
  writeFileSync(
    join(layout, 'index.json'),
    JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest, annotations }] }),
  );
  return layout;
}

function* pieces({ piece, rawBytes }: Shape): Generator<Buffer> {
  for (let index = 0, bytes = 0; bytes < rawBytes; index++) {
    const next = piece(index);
    bytes += next.length;
    yield next;
  }
  yield tarEntry({ name: 'last' });
  yield Buffer.alloc(1024);
}

function through(hash: { update(bytes: Buffer): unknown }): Transform {
  return new Transform({
    transform: (chunk: Buffer, _encoding, done) => {
      hash.update(chunk);
      done(null, chunk);
    },
  });
}
