/** How the image store says who it is: names and passwords, certificates, tokens. */
import { expect } from 'chai';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { AuthConfig } from '../../pkg/cri-api/types.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { file, push } from './images.ts';
import { answerWith, startRegistry, startScriptedRegistry } from './registry.ts';
import { insecure, noAuth, outcome, StoreGround } from './stores.ts';

const op = backgroundOp(silent);
describe('images for those who may have them', function () {
  this.timeout(120_000);
  let stores: StoreGround;
  let ground: string;
  before(async () => {
    stores = await StoreGround.make();
    ground = stores.directory;
  });
  after(() => stores.remove());
  const build: StoreGround['build'] = (...args) => stores.build(...args);
  const openStore: StoreGround['open'] = (...args) => stores.open(...args);

  it('names and passwords (htpasswd), in every way CRI gives them', async () => {
    const registry = await startRegistry(ground, { login: { user: 'user', password: 'pa:ss' } });
    const { store, close } = await openStore(insecure(registry.host));
    try {
      await push(await build([{ files: [file('x', 'secret')] }]), `${registry.host}/private:1`, {
        credentials: 'user:pa:ss',
      });
      const pull = (auth: Partial<AuthConfig>): Promise<string> =>
        outcome(store.pull(op, `${registry.host}/private:1`, { auth: { ...noAuth, ...auth } }));
      expect(await pull({})).to.equal('Unauthenticated');
      expect(await pull({ username: 'user', password: 'wrong' })).to.equal('Unauthenticated');
      expect(await pull({ username: 'user', password: 'pa:ss' })).to.equal('undefined');
      expect(
        await pull({
          auth: Buffer.from('user:pa:ss\0\0').toString('base64').replace(/=+$/, ''),
          serverAddress: `http://${registry.host}`,
        }),
      ).to.equal('undefined');
      expect(await pull({ username: 'user', password: 'pa:ss', serverAddress: 'other.example' })).to.equal(
        'Unauthenticated',
      );
    } finally {
      await close();
      await registry.stop();
    }
  });

  it('TLS: refused with the remedy, taken with the CA in certs.d, taken unchecked when marked insecure', async () => {
    const registry = await startRegistry(ground, { tls: true });
    try {
      await push(await build([{ files: [file('x', 'tls')] }]), `${registry.host}/tls:1`);
      const reference = `${registry.host}/tls:1`;
      const strict = await openStore('');
      const error: unknown = await strict.store.pull(op, reference, {}).catch((each: unknown) => each);
      expect(error).to.include({ code: 'Unavailable', reason: 'RegistryUnavailable' });
      expect(error).to.have.property('message').that.contains('certs.d');
      const certs = join(strict.directory, 'certs.d', registry.host);
      await mkdir(certs, { recursive: true });
      await writeFile(join(certs, 'ca.crt'), await readFile(registry.caFile ?? ''));
      expect((await strict.store.pull(op, reference, {})).repoTags).to.deep.equal([reference]);
      await strict.close();
      const lax = await openStore(insecure(registry.host));
      await lax.store.pull(op, reference, {});
      await lax.close();
    } finally {
      await registry.stop();
    }
  });

  it('a token server: one token for the pull, another one when it is gone', async () => {
    const registry = await startScriptedRegistry();
    let [tokens, valid] = [0, ''];
    const server = createServer((request, response) => {
      const basic = `Basic ${Buffer.from('user:pass').toString('base64')}`;
      if (request.headers.authorization !== basic) return void response.writeHead(401).end();
      valid = `t${++tokens}`;
      response.end(JSON.stringify({ token: valid, expires_in: 300 }));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const realm = `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`;
    const image = await build([{ files: [file('x', 'token')] }, { files: [file('y', 'token')] }]);
    await registry.serve(image, 'private', '1');
    for (const path of [
      'manifests/1',
      ...[image.images[0]?.id, ...(image.images[0]?.layers ?? [])].map((digest) => `blobs/${digest}`),
    ]) {
      registry.on(`/v2/private/${path}`, (request, response, normal) => {
        if (request.headers.authorization === `Bearer ${valid}`)
          answerWith(normal.status, normal.headers, normal.body)(request, response, normal);
        else
          answerWith(401, { 'www-authenticate': `Bearer realm="${realm}",service="test"` })(request, response, normal);
      });
    }
    const { store, close } = await openStore(insecure(registry.host));
    try {
      const pull = (auth: Partial<AuthConfig>): Promise<string> =>
        outcome(store.pull(op, `${registry.host}/private:1`, { auth: { ...noAuth, ...auth } }));
      expect(await pull({})).to.equal('Unauthenticated');
      expect(await pull({ username: 'user', password: 'pass' })).to.equal('undefined');
      expect(tokens).to.equal(1);
      valid = 'revoked';
      await store.remove(op, `${registry.host}/private:1`);
      expect(await pull({ username: 'user', password: 'pass' })).to.equal('undefined');
      expect(tokens).to.equal(2);
      expect(registry.requests.every(({ headers }) => !(headers.authorization ?? '').startsWith('Basic'))).to.equal(
        true,
      );
    } finally {
      await close();
      server.close();
      await registry.stop();
    }
  });
});
