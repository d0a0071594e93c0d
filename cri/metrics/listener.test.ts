import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text as textOf } from 'node:stream/consumers';
import { connect as connectTls } from 'node:tls';
import { assert } from 'chai';
import { isCode } from '../../pkg/base/errors.ts';
import { limits } from '../../pkg/base/limits.ts';
import { silent } from '../../pkg/base/op.ts';
import { selfSigned } from './certificate.ts';
import { type ListenerOptions, MetricsListener } from './listener.ts';

interface Answer {
  readonly status: number | undefined;
  readonly type: string | undefined;
  readonly body: string;
}

describe('cri/metrics/listener', () => {
  let home: string;
  const open: MetricsListener[] = [];
  const listen = async (changes: Partial<ListenerOptions> = {}): Promise<MetricsListener> => {
    const text = async (): Promise<string> => 'a 1\n';
    const options = { host: '127.0.0.1', port: 0, socket: '', tls: undefined, log: silent, text, ...changes };
    const listener = await MetricsListener.open(options);
    open.push(listener);
    return listener;
  };
  const ask = (to: { port?: number; socketPath?: string; path?: string; method?: string }): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const asked = request({ path: '/metrics', agent: false, ...to }, (response) => {
        const { statusCode: status, headers } = response;
        textOf(response).then((body) => resolve({ status, type: headers['content-type'], body }), reject);
      });
      asked.on('error', reject).end();
    });
  /** The certificate that is served. */
  const served = (port: number): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket = connectTls({ port, rejectUnauthorized: false }, () => {
        resolve(socket.getPeerX509Certificate()?.fingerprint256 ?? '');
        socket.end();
      });
      socket.on('error', reject);
    });
  const refusal = async (changes: Partial<ListenerOptions>): Promise<string> => {
    try {
      await listen(changes);
    } catch (error) {
      assert.isTrue(isCode(error, 'FailedPrecondition'));
      return (error as Error).message;
    }
    return assert.fail('it listens');
  };

  beforeEach(() => {
    home = mkdtempSync(join(tmpdir(), 'berth-metrics-'));
  });
  afterEach(async () => {
    for (const each of open.splice(0)) await each.close();
    rmSync(home, { recursive: true, force: true });
  });

  it('gives metrics at /metrics and nothing elsewhere, on a port and on a socket for root and its group', async () => {
    const socketPath = join(home, 'm.sock');
    const { port } = await listen({ socket: socketPath });
    const good = { status: 200, type: 'text/plain; version=0.0.4; charset=utf-8', body: 'a 1\n' };
    assert.deepEqual(await ask({ port }), good);
    assert.deepEqual(await ask({ port, path: '/metrics?x=1' }), good);
    assert.deepEqual(await ask({ socketPath }), good);
    assert.equal(statSync(socketPath).mode & 0o777, 0o660);
    assert.equal((await ask({ port, path: '/' })).status, 404);
    assert.equal((await ask({ port, method: 'POST' })).status, 405);
  });

  it('answers 500 with the reason when something cannot be looked up, and goes on', async () => {
    let broken = true;
    const { port } = await listen({
      async text() {
        if (broken) throw new Error('no /proc');
        return '';
      },
    });
    assert.include(await ask({ port }), { status: 500, body: 'no /proc\n' });
    broken = false;
    assert.equal((await ask({ port })).status, 200);
  });

  it('has so many connections and no more, and serves again when they are gone', async () => {
    const { port } = await listen();
    const idle = Array.from({ length: limits.metricConnectionsCount }, () => connect(port, '127.0.0.1'));
    await Promise.all(idle.map((each) => once(each, 'connect')));
    const refused = connect(port, '127.0.0.1').on('error', () => {});
    await once(refused, 'close');
    const closed = idle.map((each) => once(each, 'close'));
    for (const each of idle) each.destroy();
    await Promise.all(closed);
    let answer = await ask({ port }).catch(() => undefined);
    // The server hears of their ends a moment later.
    while (answer === undefined) answer = await ask({ port }).catch(() => undefined);
    assert.equal(answer.status, 200);
  });

  it('says which keys to change where it cannot listen', async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as { port: number };
    assert.match(await refusal({ port }), new RegExp(`port ${port}; choose others with metrics_host and metrics_port`));
    await new Promise((resolve) => taken.close(resolve));
    assert.include(await refusal({ socket: '/proc/none/m.sock' }), 'metrics_socket');
  });

  describe('with TLS', () => {
    const paths = (): { cert: string; key: string } => ({ cert: join(home, 'x/c.pem'), key: join(home, 'x/k.pem') });
    const tls = (): NonNullable<ListenerOptions['tls']> => ({
      ...paths(),
      minVersion: 'VersionTLS12',
      cipherSuites: [],
    });

    it('makes a certificate where there is none, and keeps one that is there', async () => {
      const { port } = await listen({ tls: tls() });
      const first = await served(port);
      assert.equal(statSync(paths().key).mode & 0o777, 0o600);
      const before = readFileSync(paths().cert, 'utf8');
      const again = await listen({ tls: tls(), socket: join(home, 'm.sock') });
      assert.equal(await served(again.port), first);
      assert.equal(readFileSync(paths().cert, 'utf8'), before);
    });

    it('serves a certificate that was renewed to the second client after that, without a restart', async () => {
      const { port } = await listen({ tls: tls() });
      const first = await served(port);
      const { cert, key } = selfSigned('other', Date.now());
      writeFileSync(paths().key, key);
      writeFileSync(paths().cert, cert);
      let now = await served(port);
      while (now === first) now = await served(port);
      // Half of a renewal, or nonsense: what was served is served on.
      writeFileSync(paths().cert, 'nonsense');
      for (let each = 0; each < 3; each++) assert.equal(await served(port), now);
    });

    it('does not start with what is no certificate, and says whose keys it is', async () => {
      await listen({ tls: tls() });
      writeFileSync(paths().cert, 'nonsense');
      assert.match(await refusal({ tls: tls() }), /^metrics_cert and metrics_key cannot be used/);
      rmSync(paths().cert);
      assert.match(await refusal({ tls: tls() }), /^metrics_cert and metrics_key cannot be used/);
    });
  });
});
