/** The stream server over TLS: certificates, those of clients, and their renewal. */
import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { readFileSync, renameSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { type ClientOptions, WebSocket } from 'ws';
import { IMAGE, TestNode } from './harness.ts';

describe('streams over TLS', function () {
  this.timeout(60_000);
  let node: TestNode;
  let files: string;
  let container: string;

  /** A self-signed certificate, in place of what was there. */
  function certify(name: string): string {
    const [key, certificate] = [join(files, `${name}.key`), join(files, `${name}.crt`)];
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2',
        '-subj',
        `/CN=${name}`,
        '-keyout',
        `${key}.new`,
        '-out',
        `${certificate}.new`,
      ],
      { stdio: 'ignore' },
    );
    renameSync(`${key}.new`, key);
    renameSync(`${certificate}.new`, certificate);
    return new X509Certificate(readFileSync(certificate)).fingerprint256;
  }

  before(async () => {
    files = await mkdtemp(join(tmpdir(), 'berth-tls-'));
    certify('server');
    certify('client');
    const flags = [
      '--stream-enable-tls',
      '--stream-tls-cert',
      join(files, 'server.crt'),
      '--stream-tls-key',
      join(files, 'server.key'),
      '--stream-tls-ca',
      join(files, 'client.crt'),
    ];
    node = await TestNode.boot({ flags });
    container = await node.cri.runContainer(await node.cri.runPod(), IMAGE, { command: ['sleep', '100000'] });
  });
  after(async () => {
    await node.close();
    await rm(files, { recursive: true, force: true });
  });

  const url = async (): Promise<string> =>
    (
      await node.cri.rpc.exec({
        containerId: container,
        cmd: ['echo', 'over TLS'],
        stdout: true,
        stderr: true,
        stdin: false,
        tty: false,
      })
    ).url;
  const client = (): ClientOptions => ({
    cert: readFileSync(join(files, 'client.crt')),
    key: readFileSync(join(files, 'client.key')),
    rejectUnauthorized: false,
  });

  /** The server's certificate and what the command said. */
  async function run(options: ClientOptions): Promise<{ readonly fingerprint: string; readonly out: string }> {
    const address = await url();
    assert.match(address, /^https:/);
    const ws = new WebSocket(address.replace('https', 'wss'), 'v4.channel.k8s.io', options);
    let [fingerprint, out] = ['', ''];
    ws.on('upgrade', (response) => {
      fingerprint = (response.socket as TLSSocket).getPeerCertificate().fingerprint256;
    });
    ws.on('message', (message: Buffer) => {
      if (message[0] === 1) out += message.subarray(1).toString();
    });
    await new Promise((resolve, reject) => ws.once('close', resolve).once('error', reject));
    return { fingerprint, out };
  }

  it('asks for a client certificate, and serves a renewed one of its own at once', async () => {
    const first = await run(client());
    assert.strictEqual(first.out, 'over TLS\n');
    assert.match(node.log, /msg="serving exec, attach and port-forward" url=https:\S+ tls=VersionTLS12 clientCa=\S+/);
    const stranger = await run({ rejectUnauthorized: false }).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    assert.instanceOf(stranger, Error);
    const renewed = certify('server');
    const second = await run(client());
    assert.deepEqual(second, { fingerprint: renewed, out: 'over TLS\n' });
    assert.notStrictEqual(first.fingerprint, renewed);
  });

  it('speaks no older version, and uses no other suite, than it was told', async () => {
    const failed = (options: ClientOptions): Promise<string> =>
      run({ ...client(), ...options }).then(
        ({ out }) => out,
        () => 'no connection',
      );
    const restart = async (...flags: string[]): Promise<void> => {
      node.moreFlags = flags;
      await node.restart();
    };
    await restart('--tls-cipher-suites', 'TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384');
    assert.strictEqual(await failed({ maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-GCM-SHA384' }), 'over TLS\n');
    assert.strictEqual(
      await failed({ maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' }),
      'no connection',
    );
    assert.strictEqual(await failed({ minVersion: 'TLSv1.3' }), 'over TLS\n');
    await restart('--tls-min-version', 'VersionTLS13');
    assert.strictEqual(await failed({ maxVersion: 'TLSv1.2' }), 'no connection');
    assert.strictEqual(await failed({}), 'over TLS\n');
    await restart();
  });

  it('goes on with the old certificate while the new one cannot be read', async () => {
    const { fingerprint } = await run(client());
    await writeFile(join(files, 'server.crt'), 'half a certif');
    assert.deepEqual(await run(client()), { fingerprint, out: 'over TLS\n' });
    const renewed = certify('server');
    assert.strictEqual((await run(client())).fingerprint, renewed);
  });
});
