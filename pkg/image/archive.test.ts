import { expect } from 'chai';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { mediaTypes } from '../oci/media-types.ts';
import { digestOf } from '../oci/digest.ts';
import { openArchive } from './archive.ts';
import type { ArchivedImage } from './archive.ts';
import { drain, failure, fakeImage, testOp } from './fakes.ts';

/**
 * A tar of these files; a value that starts with `->` is a symlink. Names above 100 bytes get a GNU or a PAX header.
 */
function tar(files: Readonly<Record<string, Buffer | string>>, longNames: 'gnu' | 'pax' = 'pax'): Buffer {
  const parts: Buffer[] = [];
  const entry = (name: string, type: string, bytes: Buffer, link = ''): void => {
    const header = Buffer.alloc(512);
    header.write(name.slice(0, 100), 0, 'utf8');
    header.write(
      '0000644\0' + '0000000\0'.repeat(2) + bytes.length.toString(8).padStart(11, '0') + '\0' + '0'.repeat(11) + '\0',
      100,
      'latin1',
    );
    header.write(`        ${type}${link}`, 148, 'latin1');
    header.write('ustar\u000000', 257, 'latin1');
    header.write(
      `${header
        .reduce((sum, byte) => sum + byte, 0)
        .toString(8)
        .padStart(6, '0')}\0 `,
      148,
      'latin1',
    );
    parts.push(header, bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512));
  };
  for (const [name, value] of Object.entries(files)) {
    if (name.length > 100 && longNames === 'gnu') entry('././@LongLink', 'L', Buffer.from(`${name}\0`));
    if (name.length > 100 && longNames === 'pax') {
      const rest = ` path=${name}\n`;
      entry('PaxHeaders/x', 'x', Buffer.from(`${rest.length + 3}${rest}`));
    }
    if (typeof value === 'string' && value.startsWith('->')) entry(name, '2', Buffer.alloc(0), value.slice(2));
    else entry(name, '0', Buffer.from(value));
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

describe('image/archive', () => {
  let directory: string;
  beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'archive-'))));
  afterEach(() => rm(directory, { recursive: true }));
  const put = async (name: string, bytes: Buffer | string): Promise<string> => {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), bytes);
    return join(directory, name);
  };

  const image = fakeImage(['base', 'top']);
  const layoutFiles = (): Record<string, Buffer | string> => {
    const files: Record<string, Buffer | string> = {
      'oci-layout': '{"imageLayoutVersion":"1.0.0"}',
      'index.json': JSON.stringify({
        schemaVersion: 2,
        manifests: [
          {
            mediaType: mediaTypes.ociManifest,
            digest: image.manifest.digest,
            size: image.manifest.bytes.length,
            annotations: { 'org.opencontainers.image.ref.name': 'a.example/x:1' },
          },
        ],
      }),
    };
    for (const [digest, bytes] of [
      [image.manifest.digest, image.manifest.bytes],
      [image.id, image.config],
      ...image.layers.map((layer) => [layer.digest, layer.bytes] as const),
    ] as const)
      files[`blobs/${digest.replace(':', '/')}`] = bytes;
    return files;
  };
  const whole = async (archived: ArchivedImage): Promise<void> => {
    expect(archived.root.digest).to.equal(image.manifest.digest);
    expect(archived.names).to.deep.equal(['a.example/x:1']);
    for (const { digest, bytes } of image.layers) {
      const want = { digest, size: BigInt(bytes.length) };
      expect(await drain(archived.source.blob(testOp(), want, 0n))).to.deep.equal(bytes);
      expect(await drain(archived.source.blob(testOp(), want, 5n))).to.deep.equal(bytes.subarray(5));
    }
  };

  it('reads an OCI layout, as a directory and as a tar', async () => {
    for (const [name, bytes] of Object.entries(layoutFiles())) await put(`layout/${name}`, bytes);
    const [fromDirectory] = await openArchive(join(directory, 'layout'));
    const [fromTar] = await openArchive(await put('layout.tar', tar(layoutFiles())));
    const [fromDotted] = await openArchive(
      await put(
        'dotted.tar',
        tar(Object.fromEntries(Object.entries(layoutFiles()).map(([name, bytes]) => [`./${name}`, bytes]))),
      ),
    );
    for (const archived of [fromDirectory, fromTar, fromDotted]) await whole(archived as ArchivedImage);
  });

  it('reads what docker saves: uncompressed, compressed, linked, long-named layers', async () => {
    const texts = ['layer one', 'layer two', 'layer one'];
    const config = Buffer.from(
      JSON.stringify({
        architecture: 'amd64',
        os: 'linux',
        rootfs: { type: 'layers', diff_ids: texts.map((text) => digestOf(text)) },
      }),
    );
    const long = `${'d/'.repeat(60)}layer.tar`;
    for (const longNames of ['gnu', 'pax'] as const) {
      const file = await put(
        'docker.tar',
        tar(
          {
            'abc.json': config,
            [long]: 'layer one',
            'two/layer.tar': gzipSync('layer two'),
            'three/layer.tar': `->../d/${'d/'.repeat(30)}x`,
            [`d/${'d/'.repeat(30)}x`]: 'layer one',
            'manifest.json': JSON.stringify([
              { Config: 'abc.json', RepoTags: ['team/app:v1'], Layers: [long, 'two/layer.tar', 'three/layer.tar'] },
            ]),
          },
          longNames,
        ),
      );
      const [archived] = await openArchive(file);
      expect(archived?.names).to.deep.equal(['team/app:v1']);
      expect(archived?.hasRegistryDigest).to.equal(false);
      const manifest = JSON.parse(archived?.root.bytes.toString() ?? '') as {
        config: { digest: string };
        layers: { digest: ReturnType<typeof digestOf>; size: number; mediaType: string }[];
      };
      expect(manifest.config.digest).to.equal(digestOf(config));
      expect(manifest.layers.map(({ digest }) => digest)).to.deep.equal([
        digestOf('layer one'),
        digestOf(gzipSync('layer two')),
        digestOf('layer one'),
      ]);
      const read = await Promise.all(
        manifest.layers.map(({ digest, size }) =>
          drain(archived!.source.blob(testOp(), { digest, size: BigInt(size) }, 0n)),
        ),
      );
      expect(read.map(String)[0]).to.equal('layer one');
    }
  });

  it('refuses what is no image archive, and says what was expected', async () => {
    const rows: readonly (readonly [string, Buffer | string, RegExp])[] = [
      ['empty.tar', '', /neither an OCI layout/],
      ['text.tar', 'x'.repeat(2000), /not a tar archive/],
      ['gzip.tar', gzipSync(tar({ a: 'x' }).toString('latin1').repeat(50)), /not a tar archive|neither/],
      ['cut.tar', tar(layoutFiles()).subarray(0, 1700), /cut off/],
      ['other.tar', tar({ 'etc/passwd': 'x' }), /neither an OCI layout/],
      ['manifest.tar', tar({ 'manifest.json': '{"a":1}' }), /not a list/],
      ['missing.tar', tar({ 'manifest.json': '[{"Config":"x.json","Layers":[]}]' }), /has no "x.json"/],
      ['escape.tar', tar({ 'manifest.json': '[{"Config":"../../../../etc/passwd","Layers":[]}]' }), /has no "/],
      ['loop.tar', tar({ 'manifest.json': '->b', b: '->manifest.json' }), /neither an OCI layout/],
      [
        'fewer.tar',
        tar({ 'c.json': image.config, 'manifest.json': '[{"Config":"c.json","Layers":["x"]}]' }),
        /1 layers for a config with 2/,
      ],
      ['pax.tar', Buffer.concat([tar({ [`${'x'.repeat(101)}`]: 'y' }).fill('9', 512, 520)]), /damaged PAX/],
      [
        'index.tar',
        tar({
          'oci-layout': '{}',
          'index.json': '{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1}]}',
        }),
        /CVE-2024-3727/,
      ],
    ];
    for (const [name, bytes, why] of rows)
      expect((await failure(openArchive(await put(name, bytes)))).message, name).to.match(why);
    expect((await failure(openArchive(join(directory, 'absent')))).code).to.equal('NotFound');
    await symlink('/dev/zero', join(directory, 'zero'));
    expect((await failure(openArchive(join(directory, 'zero')))).message).to.contain('not a regular file');
  });

  it('refuses a blob of another size than the manifest says, and a layout without its blobs', async () => {
    const files = layoutFiles();
    files[`blobs/${image.layers[0]?.digest.replace(':', '/')}`] = 'short';
    const [archived] = await openArchive(await put('wrong.tar', tar(files)));
    const layer = image.layers[0];
    expect(
      (
        await failure(
          drain(archived!.source.blob(testOp(), { digest: layer!.digest, size: BigInt(layer!.bytes.length) }, 0n)),
        )
      ).code,
    ).to.equal('DataLoss');
    delete files[`blobs/${image.manifest.digest.replace(':', '/')}`];
    expect((await failure(openArchive(await put('none.tar', tar(files))))).code).to.equal('NotFound');
  });

  it('reads no document of any size (CVE-2023-25153)', async () => {
    const files = { ...layoutFiles(), 'index.json': Buffer.alloc(5 * 1024 * 1024, 0x20) };
    expect((await failure(openArchive(await put('huge.tar', tar(files))))).code).to.equal('ResourceExhausted');
  });
});
