/**
 * The ways to a registry and who we are there: proxies, hosts.toml, client certificates, token servers, files and
 * helpers with credentials.
 */
import { expect } from 'chai';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { createServer, request as httpRequest } from 'node:http';
import type { Server } from 'node:http';
import { connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import type { AuthConfig } from '../../pkg/cri-api/types.ts';
import { NodeCredentials } from '../../pkg/image/index.ts';
import { CriError, waitFor } from './cri-client.ts';
import { TestNode } from './harness.ts';
import { file, push } from './images.ts';
import type { BuiltImage } from './images.ts';
import { answerWith, flipBit, stallAfter, startRegistry, startScriptedRegistry } from './registry.ts';
import type { RunningRegistry, ScriptedRegistry } from './registry.ts';
import { startSocks } from './socks.ts';
import { insecure, outcome, StoreGround } from './stores.ts';

const op = backgroundOp(silent);
const noAuth: AuthConfig = {
  username: '',
  password: '',
  auth: '',
  serverAddress: '',
  identityToken: '',
  registryToken: '',
};

async function listening(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

/** An HTTP proxy with a password that leads every name to this machine, and remembers what it was asked for. */
async function startProxy(): Promise<{ readonly port: number; readonly asked: string[]; stop(): void }> {
  const asked: string[] = [];
  const sockets = new Set<Socket>();
  const allowed = `Basic ${Buffer.from('user:pa:ss').toString('base64')}`;
  const server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    const url = new URL(request.url ?? '');
    if (request.headers['proxy-authorization'] !== allowed) return void response.writeHead(407).end();
    const { 'proxy-authorization': _own, ...headers } = request.headers;
    const onward = httpRequest(
      { host: '127.0.0.1', port: url.port, path: `${url.pathname}${url.search}`, method: request.method, headers },
      (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      },
    );
    request.pipe(onward);
  });
  server.on('connect', (request, socket: Socket) => {
    asked.push(`CONNECT ${request.url}`);
    if (request.headers['proxy-authorization'] !== allowed)
      return void socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
    const onward = connect(Number((request.url ?? '').split(':').at(-1)), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      onward.pipe(socket).pipe(onward);
    });
    for (const each of [socket, onward]) {
      sockets.add(each);
      each.on('error', () => {});
    }
  });
  const port = await listening(server);
  return {
    port,
    asked,
    stop() {
      for (const each of sockets) each.destroy();
      server.closeAllConnections();
      server.close();
    },
  };
}

describe('the way to a registry', function () {
  this.timeout(60_000);
  let stores: StoreGround;
  let image: BuiltImage;
  before(async () => {
    stores = await StoreGround.make();
    image = await stores.build([
      { files: [file('x', 'content')] },
      { files: [file('y', 'more')], compression: 'zstd' },
    ]);
  });
  after(() => stores.remove());
  const port = (host: string): string => host.split(':')[1] ?? '';
  const ca = async (directory: string, host: string, registry: RunningRegistry): Promise<string> => {
    const certs = join(directory, 'certs.d', host);
    await mkdir(certs, { recursive: true });
    await writeFile(join(certs, 'ca.crt'), await readFile(registry.caFile ?? ''));
    return certs;
  };

  it(
    'a proxy: with its password, by CONNECT for https, by whole addresses for http; not for what ' + 'NO_PROXY names',
    async () => {
      const [secure, plain, proxy] = [
        await startRegistry(stores.directory, { tls: true }),
        await startRegistry(stores.directory),
        await startProxy(),
      ];
      const environment = {
        HTTPS_PROXY: `http://user:pa%3Ass@127.0.0.1:${proxy.port}`,
        HTTP_PROXY: `http://user:pa%3Ass@127.0.0.1:${proxy.port}`,
        NO_PROXY: 'direct.test,10.0.0.0/8',
      };
      const [one, other, direct] = [
        `registry.test:${port(secure.host)}`,
        `registry.test:${port(plain.host)}`,
        `direct.test:${port(plain.host)}`,
      ];
      try {
        await push(image, `${secure.host}/app:1`);
        await push(image, `${plain.host}/app:1`);
        const { store, directory, close } = await stores.open(
          `${insecure(direct)}[[registry]]\nprefix = "${other}"\nlocation = "${other}"\ninsecure = true\n`,
          {},
          undefined,
          { environment },
        );
        await ca(directory, one, secure);
        expect((await store.pull(op, `${one}/app:1`, {})).id).to.equal(image.images[0]?.id);
        expect(new Set(proxy.asked)).to.deep.equal(new Set([`CONNECT ${one}`]));
        proxy.asked.length = 0;
        await store.remove(op, image.images[0]?.id ?? '');
        expect((await store.pull(op, `${other}/app:1`, {})).repoTags).to.deep.equal([`${other}/app:1`]);
        expect(proxy.asked).to.include(`GET http://${other}/v2/app/manifests/1`);
        expect(proxy.asked.filter((line) => line.startsWith('CONNECT'))).to.deep.equal(
          [`CONNECT ${other}`],
          'https is tried first',
        );
        proxy.asked.length = 0;
        expect(await outcome(store.pull(op, `${direct}/app:1`, {}))).to.equal('Unavailable RegistryUnavailable');
        expect(proxy.asked).to.deep.equal([]);
        await close();
        const wrong = await stores.open('', {}, undefined, {
          environment: { HTTPS_PROXY: `http://user:wrong@127.0.0.1:${proxy.port}` },
        });
        await ca(wrong.directory, one, secure);
        const error: unknown = await wrong.store.pull(op, `${one}/app:1`, {}).catch((each: unknown) => each);
        expect(error).to.include({ code: 'Unavailable', reason: 'RegistryUnavailable' });
        expect(String(error)).to.contain('407').and.not.contain('wrong@');
        await wrong.close();
      } finally {
        proxy.stop();
        await Promise.all([secure.stop(), plain.stop()]);
      }
    },
  );

  for (const scheme of ['socks5', 'socks5h'])
    it(`a proxy by ${scheme}, as Go's programs take it: with its password, TLS as ever`, async () => {
      const [secure, plain] = [
        await startRegistry(stores.directory, { tls: true }),
        await startRegistry(stores.directory),
      ];
      const proxy = await startSocks('user', 'pa:ss');
      const address = `${scheme}://user:pa%3Ass@127.0.0.1:${proxy.port}`;
      const [one, other] = [`registry.test:${port(secure.host)}`, `registry.test:${port(plain.host)}`];
      try {
        await push(image, `${secure.host}/app:1`);
        await push(image, `${plain.host}/app:1`);
        const environment = { HTTPS_PROXY: address, HTTP_PROXY: address };
        const { store, directory, close } = await stores.open(insecure(other), {}, undefined, { environment });
        expect(await outcome(store.pull(op, `${one}/app:1`, {}))).to.equal('Unavailable RegistryUnavailable');
        await ca(directory, one, secure);
        expect((await store.pull(op, `${one}/app:1`, {})).id).to.equal(image.images[0]?.id);
        expect(new Set(proxy.asked)).to.deep.equal(new Set([one]));
        await store.remove(op, image.images[0]?.id ?? '');
        expect((await store.pull(op, `${other}/app:1`, {})).repoTags).to.deep.equal([`${other}/app:1`]);
        expect(proxy.asked).to.include(other);
        await close();
        const wrong = await stores.open(insecure(other), {}, undefined, {
          environment: { HTTP_PROXY: `${scheme}://user:wrong@127.0.0.1:${proxy.port}` },
        });
        const error: unknown = await wrong.store.pull(op, `${other}/app:1`, {}).catch((each: unknown) => each);
        expect(error).to.include({ code: 'Unavailable', reason: 'RegistryUnavailable' });
        expect(String(error)).to.not.contain('wrong@');
        await wrong.close();
      } finally {
        proxy.stop();
        await Promise.all([secure.stop(), plain.stop()]);
      }
    });

  it('hosts.toml: mirrors with their own CA and headers, then the server; read again at each pull', async () => {
    const [secure, mirror] = [await startRegistry(stores.directory, { tls: true }), await startScriptedRegistry()];
    try {
      await push(image, `${secure.host}/app:1`);
      const { store, directory, close } = await stores.open('');
      const hosts = join(directory, 'hosts', 'hub.test');
      await mkdir(hosts, { recursive: true });
      await writeFile(join(hosts, 'own.pem'), await readFile(secure.caFile ?? ''));
      const write = (server: string): Promise<void> =>
        writeFile(
          join(hosts, 'hosts.toml'),
          `server = "${server}"\n[host."http://${mirror.host}"]\ncapabilities = ["pull", ` +
            `"resolve"]\n[host."http://${mirror.host}".header]\nx-team = ["blue"]\n`,
        );
      await write('https://127.0.0.1:1');
      expect(await outcome(store.pull(op, 'hub.test/app:1', {}))).to.equal('Unavailable RegistryUnavailable');
      expect(mirror.requests[0]?.headers).to.include({ 'x-team': 'blue' });
      expect(mirror.requests[0]?.line).to.equal('GET /v2/app/manifests/1?ns=hub.test');
      await writeFile(
        join(hosts, 'hosts.toml'),
        `server = "https://${secure.host}"\nca = ` +
          `"own.pem"\n[host."http://${mirror.host}"]\ncapabilities = ["pull", "resolve"]\n`,
      );
      expect((await store.pull(op, 'hub.test/app:1', {})).repoTags).to.deep.equal(['hub.test/app:1']);
      await close();
    } finally {
      await Promise.all([secure.stop(), mirror.stop()]);
    }
  });

  it('a client certificate from certs.d, where the registry wants one', async () => {
    const registry = await startRegistry(stores.directory, { tls: 'mutual' });
    try {
      const { store, directory, close } = await stores.open('');
      const certs = await ca(directory, registry.host, registry);
      expect(await outcome(store.pull(op, `${registry.host}/app:1`, {}))).to.equal('Unavailable RegistryUnavailable');
      await writeFile(join(certs, 'client.cert'), await readFile(registry.caFile ?? ''));
      await writeFile(join(certs, 'client.key'), await readFile(registry.keyFile ?? ''));
      await push(image, `${registry.host}/app:1`, { certDir: certs });
      expect((await store.pull(op, `${registry.host}/app:1`, {})).id).to.equal(image.images[0]?.id);
      await close();
    } finally {
      await registry.stop();
    }
  });
});

describe('who we are to a registry', function () {
  this.timeout(60_000);
  let stores: StoreGround;
  let image: BuiltImage;
  before(async () => {
    stores = await StoreGround.make();
    image = await stores.build([{ files: [file('x', 'private')] }]);
  });
  after(() => stores.remove());

  it('identity and registry tokens: the one buys a token, the other is one', async () => {
    const registry = await startScriptedRegistry();
    const asked: string[] = [];
    const tokens = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => (body += chunk.toString()));
      request.on('end', () => {
        asked.push(`${request.method} ${body}`);
        const form = new URLSearchParams(body);
        if (form.get('refresh_token') !== 'identity') return void response.writeHead(401).end();
        response.end(JSON.stringify({ access_token: 'bought', expires_in: 300 }));
      });
    });
    const realm = `http://127.0.0.1:${await listening(tokens)}/token`;
    await registry.serve(image, 'private', '1');
    for (const path of [`manifests/1`, `blobs/${image.images[0]?.id}`, `blobs/${image.images[0]?.layers[0]}`]) {
      registry.on(`/v2/private/${path}`, (request, response, normal) => {
        const isKnown =
          request.headers.authorization === 'Bearer bought' || request.headers.authorization === 'Bearer direct';
        if (isKnown) answerWith(normal.status, normal.headers, normal.body)(request, response, normal);
        else
          answerWith(401, {
            'www-authenticate': `Bearer realm="${realm}",service="test",scope="repository:private:pull"`,
          })(request, response, normal);
      });
    }
    const { store, close } = await stores.open(insecure(registry.host));
    try {
      const pull = (auth: Partial<AuthConfig>): Promise<string> =>
        outcome(store.pull(op, `${registry.host}/private:1`, { auth: { ...noAuth, ...auth } }));
      expect(await pull({ registryToken: 'stale' })).to.equal('Unauthenticated');
      expect(await pull({ identityToken: 'stale' })).to.equal('Unauthenticated');
      asked.length = 0;
      expect(await pull({ identityToken: 'identity' })).to.equal('undefined');
      expect(asked).to.have.length(1);
      expect(Object.fromEntries(new URLSearchParams(asked[0]?.split(' ')[1]))).to.include({
        grant_type: 'refresh_token',
        service: 'test',
        scope: 'repository:private:pull',
      });
      await store.remove(op, image.images[0]?.id ?? '');
      asked.length = 0;
      expect(await pull({ registryToken: 'direct' })).to.equal('undefined');
      expect(asked).to.deep.equal([]);
    } finally {
      await close();
      tokens.close();
      await registry.stop();
    }
  });

  it('files: the namespace’s for this image, then the global one; they work once and always', async () => {
    const registry = await startRegistry(stores.directory, { login: { user: 'user', password: 'right' } });
    const [namespaced, global] = [stores.fresh('auth'), stores.fresh('config.json')];
    await mkdir(namespaced);
    const auths = (password: string): string =>
      JSON.stringify({ auths: { [registry.host]: { auth: Buffer.from(`user:${password}`).toString('base64') } } });
    await writeFile(global, auths('wrong'));
    const credentials = new NodeCredentials({ authFiles: [], globalAuthFile: global, namespacedAuthDir: namespaced });
    const { store, close } = await stores.open(insecure(registry.host), { credentials });
    try {
      const reference = `${registry.host}/private:1`;
      await push(image, reference, { credentials: 'user:right' });
      const own = join(namespaced, `shop-${createHash('sha256').update(reference).digest('hex')}.json`);
      await writeFile(own, auths('right'));
      expect(await outcome(store.pull(op, reference, { namespace: 'other' }))).to.equal('Unauthenticated');
      expect(await outcome(store.pull(op, reference, { namespace: 'shop' }))).to.equal('undefined');
      expect((await readdir(namespaced, { recursive: true })).filter((name) => name.endsWith('.json'))).to.deep.equal(
        [],
      );
      expect(await outcome(store.pull(op, reference, { namespace: 'shop' }))).to.equal(
        'Unauthenticated',
        'the image is here, but who asks is asked, too',
      );
      await writeFile(global, auths('right'));
      expect(await outcome(store.pull(op, reference, { namespace: 'shop' }))).to.equal('undefined');
    } finally {
      await close();
      await registry.stop();
    }
  });
});

describe('a node that pulls', function () {
  this.timeout(60_000);
  const SECRET = 'pa55word-of-helper';
  let stores: StoreGround;
  let node: TestNode;
  let locked: RunningRegistry;
  let odd: ScriptedRegistry;
  let image: BuiltImage;
  before(async () => {
    stores = await StoreGround.make();
    locked = await startRegistry(stores.directory, { login: { user: 'helper', password: SECRET } });
    odd = await startScriptedRegistry();
    image = await stores.build([
      { files: [file('x', Buffer.alloc(300_000, 7))], compression: 'none' },
      { files: [file('y', 'y')] },
    ]);
    await push(image, `${locked.host}/app:1`, { credentials: `helper:${SECRET}` });
    const { directory } = stores;
    await writeFile(join(directory, 'registries.conf'), insecure(locked.host, odd.host));
    await writeFile(join(directory, 'auth.json'), JSON.stringify({ credHelpers: { [locked.host]: 'test' } }));
    await writeFile(
      join(directory, 'docker-credential-test'),
      `#!/bin/sh\nread host\n[ "$1 $host" = "get ${locked.host}" ] && printf ` +
        `'{"Username":"helper","Secret":"${SECRET}"}'\n`,
    );
    await chmod(join(directory, 'docker-credential-test'), 0o755);
    node = await TestNode.boot({
      env: {
        CONTAINERS_REGISTRIES_CONF: join(directory, 'registries.conf'),
        REGISTRY_AUTH_FILE: join(directory, 'auth.json'),
        PATH: `${directory}:${process.env['PATH'] ?? ''}`,
      },
    });
  });
  after(async () => {
    await node.close();
    await Promise.all([locked.stop(), odd.stop()]);
    await stores.remove();
  });
  beforeEach(() => odd.serve(image, 'app', '1'));
  afterEach(async () => {
    for (const { id } of (await node.cri.rpc.listImages()).images)
      if (id === image.images[0]?.id) await node.cri.rpc.removeImage({ image: { image: id } });
  });
  const layerPath = (): string => `/v2/app/blobs/${image.images[0]?.layers[0]}`;
  const error = async (work: Promise<unknown>): Promise<string> =>
    await work.then(
      () => 'done',
      (each: unknown) => (each instanceof CriError ? `${each.codeName} ${each.message}` : String(each)),
    );

  it('asks a credential helper, and never writes down what it says', async () => {
    expect(await node.cri.pull(`${locked.host}/app:1`)).to.equal(image.images[0]?.id);
    const wrong = { ...noAuth, username: 'someone', password: 'secret-of-the-request' };
    expect(await error(node.cri.rpc.pullImage({ image: { image: `${locked.host}/app:1` }, auth: wrong }))).to.match(
      /^Unauthenticated /,
    );
    for (const secret of [SECRET, 'secret-of-the-request', Buffer.from(`helper:${SECRET}`).toString('base64')])
      expect(node.log).to.not.contain(secret);
  });

  it('answers the kubelet in its own words when a registry is not there', async () => {
    // The kubelet strips the decoration of gRPC for code UNKNOWN only, and looks at the beginning of the text.
    expect(await error(node.cri.pull('127.0.0.1:1/app:1'))).to.match(/^Unknown RegistryUnavailable: /);
    odd.on('/v2/app/manifests/1', answerWith(500, {}), 100);
    expect(await error(node.cri.pull(`${odd.host}/app:1`))).to.match(/^Unknown RegistryUnavailable: .*500/);
    odd.on(layerPath(), flipBit(), 1);
    odd.on('/v2/app/manifests/1', () => {}, 0);
    expect(await error(node.cri.pull(`${odd.host}/app:1`))).to.match(/^DataLoss /);
  });

  it('shows what it is doing, and counts what it did', async () => {
    odd.on(layerPath(), stallAfter(100_000), 1);
    const before = odd.requests.length;
    const reference = `${odd.host}/app:1`;
    const leaving = new AbortController();
    const [first, second] = [
      error(node.cri.pull(reference, { signal: leaving.signal })),
      error(node.cri.pull(reference)),
    ];
    interface Shown {
      readonly reference: string;
      readonly stage: string;
      readonly layers: readonly {
        readonly stage: string;
        readonly bytesDone: string | number;
        readonly bytesTotal: string | number;
      }[];
    }
    const status = async (): Promise<Shown[]> =>
      JSON.parse((await node.cri.rpc.status({ verbose: true })).info['pulls'] ?? '[]') as Shown[];
    const [shown, ...more] = await waitFor(
      status,
      ([pull]) => Number(pull?.layers[0]?.bytesDone ?? 0) === 100_000,
      'the first bytes',
    );
    expect([shown?.reference, shown?.stage, more]).to.deep.equal([reference, 'downloading', []]);
    expect(shown?.layers[0]).to.include({ stage: 'downloading' });
    expect(Number(shown?.layers[0]?.bytesTotal)).to.be.above(300_000);
    const operations = (await node.cri.rpc.operations()).operations.filter(({ rpc }) => rpc === 'PullImage');
    expect(operations).to.have.length(2);
    // The small layers may be done, or still on their way to the disk.
    for (const { stage } of operations) expect(stage).to.match(/^(image: |(unpack|sync|settle) layer )/);
    // One who leaves does not take the pull from the other, and a cut connection only costs what was on its way.
    leaving.abort();
    expect(await first).to.match(/^Cancelled /);
    odd.cut();
    expect(await second).to.equal('done');
    expect(
      odd.requests
        .slice(before)
        .filter(({ line }) => line.includes(layerPath()))
        .map(({ headers }) => headers.range),
    ).to.deep.equal([undefined, 'bytes=100000-']);
    expect(await status()).to.deep.equal([]);
    const counters = JSON.parse((await node.cri.rpc.status({ verbose: true })).info['images'] ?? '{}') as Readonly<
      Record<string, string | number>
    >;
    expect(Number(counters['pullsSucceeded'])).to.be.above(0);
    expect(Number(counters['downloadedBytes'])).to.be.above(300_000);
    expect(node.log).to.match(/msg=pull .*reference=.*stage=downloading/);
    expect(node.log).to.match(/msg="image pulled" .*bytes=\d+ .*ms=/);
  });
});
