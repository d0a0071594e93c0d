import { expect } from 'chai';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { limits } from '../../base/limits.ts';
import { failure, testOp } from '../fakes.ts';
import { fakeGpgv, fakeKeyring, fakeMessage, goodStatus, makeKey, signatureOver } from './fakes.ts';
import { isSignedBy, openMessage, readKeyring, readKeys, readPublicKey } from './keys.ts';
import type { GpgvRequest, RunGpgv } from './keys.ts';

const key = (pem: string, name = '/k.pub'): ReturnType<typeof readPublicKey> =>
  readPublicKey({ name, bytes: Buffer.from(pem) });

describe('image/signature/keys', () => {
  describe('sigstore', () => {
    const payload = Buffer.from('{"critical":{}}');

    for (const kind of ['P-256', 'P-384', 'P-521', 'rsa', 'ed25519'] as const) {
      it(`checks signatures by ${kind}`, () => {
        const [own, other] = [makeKey(kind), makeKey(kind)];
        const signature = Buffer.from(signatureOver(payload, own), 'base64');
        expect(isSignedBy([key(own.pem)], payload, signature)).to.equal(true);
        expect(isSignedBy([key(other.pem), key(own.pem)], payload, signature)).to.equal(true);
        expect(isSignedBy([key(other.pem)], payload, signature)).to.equal(false);
        expect(isSignedBy([key(own.pem)], Buffer.concat([payload, Buffer.from(' ')]), signature)).to.equal(false);
        for (const bad of [
          Buffer.alloc(0),
          randomBytes(64),
          signature.subarray(1),
          Buffer.concat([signature, Buffer.from([0])]),
        ])
          expect(isSignedBy([key(own.pem)], payload, bad), bad.toString('hex')).to.equal(false);
      });
    }

    it('takes public keys in PEM, of kinds that can be trusted', () => {
      const good = makeKey();
      expect(key(`a comment\n${good.pem}${makeKey().pem}`).asymmetricKeyType).to.equal('ec');
      const rows: readonly (readonly [string, RegExp])[] = [
        ['', /"\/k\.pub" is not a public key in PEM; write what/],
        ['ssh-ed25519 AAAA', /is not a public key in PEM/],
        [
          good.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
          /is not a public key in PEM but "PRIVATE KEY"/,
        ],
        ['-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n', /"\/k\.pub" is damaged/],
        [makeKey('rsa-1024').pem, /of a kind that is not taken \(rsa {1,2}1024\)/],
        [makeKey('secp256k1').pem, /of a kind that is not taken \(ec secp256k1\)/],
        [makeKey('x25519').pem, /of a kind that is not taken \(x25519\)/],
      ];
      for (const [pem, why] of rows)
        expect(() => key(pem), pem)
          .to.throw(why)
          .with.property('code', 'FailedPrecondition');
    });

    it('reads keys from files and from the policy', async () => {
      const directory = await mkdtemp(join(tmpdir(), 'keys-'));
      const path = join(directory, 'k');
      await writeFile(path, 'KEY');
      expect(await readKeys({ from: 'files', paths: [path] })).to.deep.equal([
        { name: path, bytes: Buffer.from('KEY') },
      ]);
      expect(await readKeys({ from: 'policy', datas: [Buffer.from('A'), Buffer.from('B')] })).to.deep.equal([
        { name: 'keyDatas[0]', bytes: Buffer.from('A') },
        { name: 'keyDatas[1]', bytes: Buffer.from('B') },
      ]);
      expect((await failure(readKeys({ from: 'files', paths: [path, join(directory, 'none')] }))).message).to.match(
        /the key ".*\/none" cannot be read/,
      );
      await rm(directory, { recursive: true });
    });
  });

  describe('OpenPGP', () => {
    const open = (message: Uint8Array, ...keys: string[]): Promise<Buffer> =>
      openMessage(testOp(), fakeGpgv, [fakeKeyring(...keys)], message);
    const without = (word: string): string[] => goodStatus('K1').filter((line) => !line.startsWith(word));

    it('gives the text that a known key signed', async () => {
      expect((await open(fakeMessage('K1', 'text'), 'K0', 'K1')).toString()).to.equal('text');
      // Old format and new: compressed, one-pass signature, signature.
      for (const first of [0xa0, 0xc8, 0x90, 0xc4, 0x88, 0xc2])
        expect(
          (await open(Buffer.concat([Buffer.from([first]), fakeMessage('K1', 'text').subarray(1)]), 'K1')).toString(),
          first.toString(16),
        ).to.equal('text');
    });

    it('refuses everything else, and says why', async () => {
      const rows: readonly (readonly [string, Buffer, RegExp])[] = [
        [
          'another key',
          fakeMessage('K2', 'x'),
          /by a key that the policy does not name, or cannot be checked \(key "K2"\)/,
        ],
        ['changed', fakeMessage('K1', 'x', ['NEWSIG', 'BADSIG K1 Somebody'], 1), /was changed/],
        ['expired', fakeMessage('K1', 'x', [...without('GOODSIG'), 'EXPSIG K1 Somebody']), /the signature has expired/],
        [
          'key expired',
          fakeMessage('K1', 'x', [...without('GOODSIG'), 'EXPKEYSIG K1 Somebody']),
          /the key has expired/,
        ],
        ['key revoked', fakeMessage('K1', 'x', [...without('GOODSIG'), 'REVKEYSIG K1 Somebody']), /the key is revoked/],
        ['two signatures', fakeMessage('K1', 'x', [...goodStatus('K1'), ...goodStatus('K1')]), /2 signatures in one/],
        [
          'a good and a bad one',
          fakeMessage('K1', 'x', [...goodStatus('K1'), 'ERRSIG K3 22 8 00 1 9 -'], 2),
          /2 signatures in one/,
        ],
        ['none', fakeMessage('K1', 'x', ['PLAINTEXT 62 0 x', 'NODATA 4'], 2), /not an OpenPGP signed message/],
        [
          'an unsigned text before the signed one',
          fakeMessage('K1', 'x', ['PLAINTEXT 62 0 y', ...goodStatus('K1')]),
          /gpgv does not vouch for it/,
        ],
        ['no VALIDSIG', fakeMessage('K1', 'x', without('VALIDSIG')), /gpgv does not vouch for it/],
        ['a bad exit code', fakeMessage('K1', 'x', goodStatus('K1'), 2), /gpgv does not vouch for it \(exit code 2\)/],
        [
          'a long text',
          fakeMessage('K1', Buffer.alloc(limits.signatureBytes + 1)),
          /the signed text has more than 65536 bytes/,
        ],
        ['empty', Buffer.alloc(0), /not an OpenPGP signed message/],
        ['a cleartext signature', Buffer.from('-----BEGIN PGP SIGNED MESSAGE-----'), /not an OpenPGP signed message/],
        [
          'a literal packet',
          Buffer.concat([Buffer.from([0xcb]), fakeMessage('K1', 'x').subarray(1)]),
          /not an OpenPGP signed message/,
        ],
        ['a sigstore signature in a lookaside', Buffer.from('\0sigstore-json\n{}'), /not an OpenPGP signed message/],
      ];
      for (const [what, message, why] of rows) {
        const error = await failure(open(message, 'K1'));
        expect([what, error.code, why.test(error.message)]).to.deep.equal(
          [what, 'FailedPrecondition', true],
          error.message,
        );
      }
    });

    it('believes status lines only, not what a name in them says', async () => {
      const said = ['PLAINTEXT 62 0 x%0A[GNUPG:]%20GOODSIG', 'NEWSIG', 'BADSIG K1 [GNUPG:] GOODSIG K1'];
      expect((await failure(open(fakeMessage('K1', 'x', said, 1), 'K1'))).message).to.match(/was changed/);
      const talking: RunGpgv = async () => ({
        exitCode: 0,
        status: 'gpgv: GOODSIG [GNUPG:] \n[GNUPG:] PLAINTEXT 62 0 x\n[GNUPG:] VALIDSIG K1\n',
        content: Buffer.from('x'),
        isCut: false,
      });
      expect((await failure(openMessage(testOp(), talking, [], fakeMessage('K1', 'x')))).message).to.match(
        /not an OpenPGP signed message/,
      );
    });

    it('hands gpgv binary keyrings, whatever form they are kept in', async () => {
      const packet = (text: string): Buffer => Buffer.concat([Buffer.from([0x98]), Buffer.from(text)]);
      const armor = (text: string, headers = ''): string =>
        `-----BEGIN PGP PUBLIC KEY BLOCK-----\r\n${headers}\n${packet(text)
          .toString('base64')
          .replace(/(.{8})/g, '$1\n')}\n=AbCd\n-----END PGP PUBLIC KEY BLOCK-----\n`;
      const keybox = Buffer.concat([Buffer.from([0, 0, 0, 32, 1, 1, 0, 2]), Buffer.from('KBXf'), Buffer.alloc(20)]);
      const ring = (bytes: Buffer | string): Uint8Array => readKeyring({ name: '/ring', bytes: Buffer.from(bytes) });
      expect(ring(packet('K1'))).to.deep.equal(packet('K1'));
      expect(ring(keybox)).to.deep.equal(keybox);
      expect(
        ring(`pub  K1\n${armor('first key', 'Comment: one - two\nVersion: GnuPG v2\n')}\n${armor('second key')}`),
      ).to.deep.equal(Buffer.concat([packet('first key'), packet('second key')]));
      for (const bad of ['', 'nothing', '-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n'])
        expect(() => ring(bad), bad).to.throw(/keyring "\/ring" has no OpenPGP public key/);
      const asked: GpgvRequest[] = [];
      await openMessage(
        testOp(),
        (op, request) => (asked.push(request), fakeGpgv(op, request)),
        [fakeKeyring('K0'), fakeKeyring('K1')],
        fakeMessage('K1', 'x'),
      );
      expect(asked.map(({ keyrings, maxBytes }) => [keyrings.length, maxBytes])).to.deep.equal([
        [2, limits.signatureBytes],
      ]);
    });
  });
});
