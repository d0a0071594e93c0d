/**
 * Makes the image of the first pod: an OCI layout with one layer, Debian's busybox-static and a few directories.
 * Reproducible: the same busybox gives the same digests.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

/** The name that the image has in the store. */
export const EMBEDDED_IMAGE = 'localhost/berth/busybox:latest';

const BUSYBOX = '/bin/busybox';
const APPLETS = [
  'sh',
  'cat',
  'date',
  'echo',
  'hostname',
  'id',
  'ip',
  'ls',
  'nc',
  'ping',
  'ps',
  'seq',
  'sleep',
  'top',
  'true',
  'uname',
  'wget',
];

/** Writes the layout into `directory`, replacing what is there. */
export async function makeEmbeddedImage(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true });
  await mkdir(join(directory, 'blobs/sha256'), { recursive: true });
  const tar = await rootTar();
  const layer = gzipSync(tar, { level: 6 });
  const layerDescriptor = await blob(directory, 'application/vnd.oci.image.layer.v1.tar+gzip', layer);
  const config = {
    created: '1970-01-01T00:00:00Z',
    architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
    os: 'linux',
    config: { Env: ['PATH=/bin'], Cmd: ['sh'], WorkingDir: '/' },
    rootfs: { type: 'layers', diff_ids: [digest(tar)] },
    history: [{ created: '1970-01-01T00:00:00Z', created_by: 'berth: busybox-static' }],
  };
  const configDescriptor = await blob(
    directory,
    'application/vnd.oci.image.config.v1+json',
    Buffer.from(JSON.stringify(config)),
  );
  const manifestType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = { schemaVersion: 2, mediaType: manifestType, config: configDescriptor, layers: [layerDescriptor] };
  const manifestDescriptor = await blob(directory, manifestType, Buffer.from(JSON.stringify(manifest)));
  const index = {
    schemaVersion: 2,
    manifests: [{ ...manifestDescriptor, annotations: { 'org.opencontainers.image.ref.name': EMBEDDED_IMAGE } }],
  };
  await writeFile(join(directory, 'index.json'), JSON.stringify(index));
  await writeFile(join(directory, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
}

async function rootTar(): Promise<Buffer> {
  const busybox = await readFile(BUSYBOX);
  const file = (name: string, content: string): Buffer =>
    Buffer.concat([header(name, '0', 0o644, content.length), padded(Buffer.from(content))]);
  return Buffer.concat([
    ...['bin/', 'etc/', 'root/', 'var/'].map((name) => header(name, '5', 0o755, 0)),
    header('tmp/', '5', 0o1777, 0),
    header('bin/busybox', '0', 0o755, busybox.length),
    padded(busybox),
    ...APPLETS.map((applet) => header(`bin/${applet}`, '1', 0o755, 0, 'bin/busybox')),
    file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n'),
    file('etc/group', 'root:x:0:\nnogroup:x:65534:\n'),
    Buffer.alloc(1024),
  ]);
}

/** One ustar header (POSIX.1-1988, pax(1)). */
function header(name: string, type: string, mode: number, size: number, link = ''): Buffer {
  const block = Buffer.alloc(512);
  const octal = (value: number, at: number, width: number): number =>
    block.write(`${value.toString(8).padStart(width - 1, '0')}\0`, at, 'latin1');
  block.write(name, 0, 'latin1');
  octal(mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(size, 124, 12);
  octal(0, 136, 12);
  block.write('        ', 148, 'latin1');
  block.write(type, 156, 'latin1');
  block.write(link, 157, 'latin1');
  block.write('ustar\0' + '00', 257, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

function padded(content: Buffer): Buffer {
  return Buffer.concat([content, Buffer.alloc((512 - (content.length % 512)) % 512)]);
}

async function blob(
  directory: string,
  mediaType: string,
  content: Buffer,
): Promise<{ mediaType: string; digest: string; size: number }> {
  const name = digest(content);
  await writeFile(join(directory, 'blobs/sha256', name.slice('sha256:'.length)), content);
  return { mediaType, digest: name, size: content.length };
}

function digest(content: Buffer): string {
  return `sha256:${createHash('sha256').update(content).digest('hex')}`;
}
