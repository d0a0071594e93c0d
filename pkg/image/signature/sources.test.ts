import { expect } from 'chai';
import { mkdir, mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { RuntimeError } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { digestOf } from '../../oci/digest.ts';
import { mediaTypes } from '../../oci/media-types.ts';
import { parseReference, withDefaultTag } from '../../oci/reference.ts';
import { failure, RecordingLog, testOp } from '../fakes.ts';
import { attachmentManifest, signatureTag } from './fakes.ts';
import type { TestAttachment } from './fakes.ts';
import { SignatureSources } from './sources.ts';
import type { FoundSignatures, Signature, SignatureSource } from './sources.ts';

const DIGEST = digestOf('the manifest');
const TAG = signatureTag(DIGEST);

/** A repository and lookaside servers in memory; everything asked is remembered. */
class FakeSource implements SignatureSource {
  readonly reference;
  readonly asked: string[] = [];
  readonly blobs = new Map<string, Buffer>();
  readonly urls = new Map<string, Buffer>();
  attachments: { readonly bytes: Buffer; readonly contentType: string } | undefined;

  constructor(name = 'reg.example/team/app:1') {
    this.reference = withDefaultTag(parseReference(name));
  }

  attach(attachments: readonly TestAttachment[], contentType: string = mediaTypes.ociManifest): void {
    this.attachments = { bytes: attachmentManifest(attachments), contentType };
    for (const { payload } of attachments) this.blobs.set(digestOf(payload), payload);
  }

  async manifest(_op: unknown, tag: string): ReturnType<SignatureSource['manifest']> {
    this.asked.push(tag);
    if (this.attachments === undefined || tag !== TAG) throw new RuntimeError('NotFound', 'no such tag');
    return { ...this.attachments, digest: digestOf(this.attachments.bytes), describe: tag };
  }
  async blob(_op: unknown, digest: string): Promise<Buffer> {
    this.asked.push(digest);
    const blob = this.blobs.get(digest);
    if (blob === undefined) throw new RuntimeError('NotFound', `no blob ${digest}`);
    return blob;
  }
  async download(_op: unknown, url: URL, max: number): Promise<Buffer | undefined> {
    this.asked.push(url.href);
    const body = this.urls.get(url.href);
    if (body !== undefined && body.length > max) throw new RuntimeError('ResourceExhausted', `more than ${max} bytes`);
    return body;
  }
}

describe('image/signature/sources', () => {
  let directory: string;
  beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'sources-'))));
  afterEach(() => rm(directory, { recursive: true }));

  const put = async (name: string, content: string | Buffer): Promise<string> => {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), content);
    return join(directory, name);
  };
  const sources = (): SignatureSources => new SignatureSources([join(directory, 'home'), join(directory, 'etc')]);
  const find = (source: SignatureSource, using = sources()): Promise<FoundSignatures> =>
    using.find(testOp(), DIGEST, source);
  const texts = ({ signatures }: { readonly signatures: readonly Signature[] }): string[] =>
    signatures.map((each) => (each.kind === 'openpgp' ? each.message : each.payload).toString());
  const path = (number: number, repository = 'team/app'): string =>
    `${repository}@sha256=${DIGEST.slice(7)}/signature-${number}`;

  describe('lookaside', () => {
    it('reads signatures in their order until there is none', async () => {
      await put('etc/a.yaml', `docker:\n  reg.example:\n    lookaside: file://${directory}/signatures/\n`);
      for (const number of [1, 2, 4]) await put(`signatures/${path(number)}`, `s${number}`);
      const found = await find(new FakeSource());
      expect(texts(found)).to.deep.equal(['s1', 's2']);
      expect(found.signatures[0]).to.deep.include({
        kind: 'openpgp',
        from: `file://${directory}/signatures/${path(1)}`,
      });
      expect(found.notes).to.deep.equal([
        'sigstore attachments were not looked for, since registries.d does not say ' +
          '"use-sigstore-attachments: true" for reg.example/team/app',
      ]);
    });

    it('asks web servers, without a path of its own or with one', async () => {
      await put(
        'etc/a.yaml',
        'default-docker:\n  sigstore: https://signatures.example\ndocker:\n  other.example:\n    ' +
          'lookaside: http://s.example:8080/all/\n    sigstore: https://old.example\n',
      );
      const one = new FakeSource();
      one.urls.set(`https://signatures.example/${path(1)}`, Buffer.from('s1'));
      expect(texts(await find(one))).to.deep.equal(['s1']);
      expect(one.asked).to.deep.equal([
        `https://signatures.example/${path(1)}`,
        `https://signatures.example/${path(2)}`,
      ]);
      expect((await find(new FakeSource('other.example/x:1'))).notes[0]).to.equal(
        `there is no http://s.example:8080/all/${path(1, 'x')}`,
      );
    });

    it('takes what is most specific, each setting by itself', async () => {
      await put(
        'etc/a.yaml',
        `default-docker:\n  lookaside: https://default.example\n  use-sigstore-attachments: ` +
          `yes\ndocker:\n  "reg.example/team/app:1":\n    use-sigstore-attachments: false\n  ` +
          `reg.example/team:\n    lookaside: https://team.example\n`,
      );
      await put(
        'etc/b.yaml',
        'docker:\n  reg.example:\n    lookaside: https://reg.example\n  "*.wild.example": ' +
          '{lookaside: "https://wild.example"}\n  empty.example:\n',
      );
      const asked = async (name: string): Promise<string> => {
        const source = new FakeSource(name);
        await find(source);
        return source.asked.map((each) => (each.startsWith('http') ? new URL(each).host : 'attachments')).join(' ');
      };
      expect(await asked('reg.example/team/app:1')).to.equal('team.example');
      expect(await asked('reg.example/team/app:2')).to.equal('team.example attachments');
      expect(await asked('reg.example/x')).to.equal('reg.example attachments');
      expect(await asked('a.wild.example:5000/x')).to.equal('wild.example attachments');
      expect(await asked('empty.example/x')).to.equal('default.example attachments');
    });

    it('leaves out what is too large, and stops at the bound of number and of sum', async () => {
      await put('etc/a.yaml', `docker:\n  reg.example:\n    lookaside: file://${directory}/s\n`);
      await put(`s/${path(1)}`, Buffer.alloc(limits.signatureBytes + 1));
      await put(`s/${path(2)}`, 's2');
      const found = await find(new FakeSource());
      expect([texts(found), found.notes[0]]).to.deep.equal([
        ['s2'],
        `file://${directory}/s/${path(1)} is not taken: ${directory}/s/${path(1)} is larger than 65536 bytes`,
      ]);
      await put('etc/a.yaml', 'docker:\n  reg.example:\n    lookaside: https://s.example\n');
      const endless = new FakeSource();
      endless.urls.get = () => Buffer.alloc(1);
      expect((await find(endless)).signatures).to.have.length(limits.signaturesCount);
      expect((await find(endless)).notes[0]).to.equal(
        `of the signatures in https://s.example/${path(1).replace('signature-1', '')} the first 128 were looked at`,
      );
      endless.urls.get = () => Buffer.alloc(limits.signatureBytes + 1);
      endless.asked.length = 0;
      expect((await find(endless)).signatures).to.have.length(0);
      expect(endless.asked).to.have.length(limits.signaturesCount);
      endless.urls.get = () => Buffer.alloc(limits.signatureBytes);
      expect((await find(endless)).signatures).to.have.length(limits.signaturesBytes / limits.signatureBytes);
    });

    it('does not take a server that fails for one that has no signatures', async () => {
      await put('etc/a.yaml', 'docker:\n  reg.example:\n    lookaside: https://s.example\n');
      const source = new FakeSource();
      source.download = async () => {
        throw new RuntimeError('Unavailable', 'down');
      };
      expect((await failure(find(source))).message).to.equal('down');
    });
  });

  describe('registries.d', () => {
    it('is the first directory that exists, and is read again when it changes', async () => {
      const source = new FakeSource();
      const using = sources();
      expect((await find(source, using)).notes[0]).to.match(
        /there is no file:\/\/\/var\/lib\/containers\/sigstore\/team\/app@sha256=/,
      );
      const file = await put('etc/a.yaml', 'docker: {reg.example: {lookaside: "https://one.example"}}\n');
      await put('etc/not-yaml.conf', '{');
      expect((await find(source, using)).notes[0]).to.match(/one\.example/);
      await put('etc/a.yaml', 'docker: {reg.example: {lookaside: "https://two.example"}}\n');
      await utimes(file, 1, 1);
      expect((await find(source, using)).notes[0]).to.match(/two\.example/);
      await put('home/a.yaml', '# sigstore: nothing but comments\n\n  # lookaside\ndefault-docker:\n#  sigstore: x\n');
      expect((await find(source, using)).notes[0]).to.match(/var\/lib\/containers/);
    });

    it('leaves a file out that is not clear, names it in a warning and a note, and reads the others', async () => {
      await put('etc/b.yaml', 'docker: {reg.example: {lookaside: "https://good.example"}}\n');
      const rows: readonly (readonly [string, RegExp])[] = [
        ['docker: {lookaside', /a\.yaml is not valid YAML/],
        ['docker: {x: {lookaside: a}, x: {lookaside: b}}', /a\.yaml is not valid YAML/],
        ['- lookaside', /a\.yaml: it is not a mapping/],
        ['docker: lookaside', /"docker" is not a mapping/],
        ['docker: {reg.example: lookaside}', /scope "reg\.example" is not a mapping/],
        ['default-docker: [lookaside]', /"default-docker" is not a mapping/],
        ['docker: {reg.example: {lookaside: 1}}', /lookaside of scope "reg\.example" is not text/],
        [
          'docker: {reg.example: {use-sigstore-attachments: perhaps}}',
          /use-sigstore-attachments of scope "reg\.example" is not true or false/,
        ],
      ];
      for (const [text, why] of rows) {
        await put('etc/a.yaml', text);
        const log = new RecordingLog();
        const source = new FakeSource();
        const { notes } = await sources().find(testOp(log), DIGEST, source);
        expect(source.asked[0], text).to.match(/^https:\/\/good\.example\//);
        expect(notes[0], text)
          .to.match(/^left out: .*etc\/a\.yaml/)
          .and.match(why);
        expect(log.full[0], text).to.match(/^warn a file of registries\.d cannot be used, it is left out .*a\.yaml/);
      }
    });

    it('leaves out what stands in an earlier file, too', async () => {
      for (const text of [
        'docker: {reg.example: {lookaside: "https://x"}}',
        'default-docker: {lookaside: "https://x"}',
      ]) {
        await put('etc/a.yaml', text);
        await put('etc/b.yaml', text.replace('//x', '//y'));
        const source = new FakeSource();
        expect((await find(source)).notes[0]).to.match(/left out: .*b\.yaml: .* stands in .*a\.yaml, too/);
        expect(source.asked[0]).to.match(/^https:\/\/x\//);
      }
    });

    it('refuses an address that is none', async () => {
      for (const address of ['ftp://x', 'file://host/x', '/var/lib']) {
        await put('etc/a.yaml', `docker: {reg.example: {lookaside: "${address}"}}`);
        const error = await failure(find(new FakeSource()));
        expect([error.code, error.message]).to.deep.equal([
          'FailedPrecondition',
          `registries.d has the lookaside "${address}" for reg.example/team/app, which is no file:///, http:// or ` +
            'https:// address',
        ]);
      }
    });
  });

  describe('attachments', () => {
    const payload = (text: string): TestAttachment => ({ payload: Buffer.from(text), signature: 'AAAA' });
    beforeEach(() => put('etc/a.yaml', 'default-docker: {use-sigstore-attachments: true}'));

    it('are the layers under the digest’s tag', async () => {
      const source = new FakeSource();
      expect((await find(source)).notes).to.include(
        `there is no reg.example/team/app:${TAG}; "cosign sign" makes it, for the manifests in an ` +
          'index with --recursive',
      );
      source.attach([payload('one'), payload('two')]);
      expect((await find(source)).signatures).to.deep.equal([
        {
          kind: 'sigstore',
          from: `attachment 1 of reg.example/team/app:${TAG}`,
          payload: Buffer.from('one'),
          signature: 'AAAA',
        },
        {
          kind: 'sigstore',
          from: `attachment 2 of reg.example/team/app:${TAG}`,
          payload: Buffer.from('two'),
          signature: 'AAAA',
        },
      ]);
    });

    it('come with what cosign puts beside them, within the same bound', async () => {
      const source = new FakeSource();
      const beside = (entry: unknown): TestAttachment => ({
        ...payload('one'),
        beside: { 'dev.sigstore.cosign/bundle': entry, 'dev.sigstore.cosign/chain': 'chain' },
      });
      source.attach([beside('entry'), beside(1), beside('x'.repeat(limits.signatureBytes - 11))]);
      const found = await find(source);
      expect(found.signatures.map((each) => each.kind === 'sigstore' && each.proof)).to.deep.equal([
        { entry: 'entry', certificate: '', chain: 'chain' },
        { entry: '', certificate: '', chain: 'chain' },
      ]);
      expect(found.notes.at(-1)).to.match(/3 of .* is not taken: it has 65537 bytes/);
    });

    it('that are no signatures, or not what they say, are left out and named', async () => {
      const source = new FakeSource();
      source.attach([
        { ...payload('att'), mediaType: 'application/vnd.dsse.envelope.v1+json' },
        { payload: Buffer.from('bare'), signature: undefined },
        payload('lost'),
        payload('false'),
        payload('x'.repeat(limits.signatureBytes)),
        payload('good'),
      ]);
      source.blobs.delete(digestOf('lost'));
      source.blobs.set(digestOf('false'), Buffer.from('other'));
      const found = await find(source);
      expect(texts(found)).to.deep.equal(['good']);
      const why = [
        /1 of .* is not taken: its type is "application\/vnd\.dsse/,
        /2 of .* is not taken: it has no annotation/,
        /3 of .* is not taken: no blob/,
        /4 of .* is not taken: .*content has digest/,
        /5 of .* is not taken: it has 65540 bytes/,
      ];
      for (const [index, each] of why.entries()) expect(found.notes[index + 1]).to.match(each);
    });

    it('are bounded in number, however many there are and whatever they are', async () => {
      const source = new FakeSource();
      source.attach(Array.from({ length: 10_000 }, (_each, index) => payload(`payload ${index}`)));
      const found = await find(source);
      expect(found.signatures).to.have.length(limits.signaturesCount - 1);
      expect(found.notes).to.include(
        `of the 10000 attachments of reg.example/team/app:${TAG} the first 127 were looked at`,
      );
      source.blobs.clear();
      source.asked.length = 0;
      expect((await find(source)).signatures).to.have.length(0);
      expect(source.asked).to.have.length(limits.signaturesCount);
    });

    it('in something that is no such manifest are refused', async () => {
      const source = new FakeSource();
      for (const [bytes, type] of [
        ['{', mediaTypes.ociManifest],
        ['{"layers":{}}', mediaTypes.ociManifest],
        ['{"layers":[]}', mediaTypes.ociIndex],
        ['{"layers":[],"manifests":[]}', mediaTypes.ociManifest],
        [`{"mediaType":"${mediaTypes.ociIndex}","layers":[]}`, mediaTypes.ociManifest],
        ['{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","layers":[]}', ''],
      ] as const) {
        source.attachments = { bytes: Buffer.from(bytes), contentType: type };
        const error = await failure(find(source));
        expect([error.reason, error.message], bytes).to.deep.equal([
          'SignatureValidationFailed',
          `reg.example/team/app:${TAG} is not an image manifest with signatures`,
        ]);
      }
    });

    it('may be in a manifest that goes by docker’s name, or by none', async () => {
      const source = new FakeSource();
      source.attach([payload('one')]);
      const { bytes } = source.attachments ?? { bytes: Buffer.alloc(0) };
      for (const contentType of [mediaTypes.dockerManifest, 'application/json', '', `${mediaTypes.ociManifest}; q=1`]) {
        const untyped = Buffer.from(bytes.toString().replace(/"mediaType":"[^"]*manifest[^"]*"/, '"mediaType":""'));
        for (const each of [bytes, untyped]) {
          source.attachments = { bytes: each, contentType };
          expect(texts(await find(source)), contentType).to.deep.equal(['one']);
        }
      }
    });
  });
});
