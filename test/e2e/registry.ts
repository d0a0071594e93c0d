/**
 * Registries for tests, on loopback, gone without a trace after `stop()`.
 *
 *     const registry = await startRegistry(dir);                          // the real one: Debian's docker-registry
 *     const registry = await startRegistry(dir, { login: { user, password }, tls: true });
 *     const odd = await startScriptedRegistry();                          // one that misbehaves as told
 *     await odd.serve(image, 'team/app', 'v1');
 *     odd.on(`/v2/team/app/blobs/${digest}`, stallAfter(1000));
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { BuiltImage } from './images.ts';

const run = promisify(execFile);

export interface RegistryOptions {
  /** Asks for this name and password (htpasswd). */
  readonly login?: { readonly user: string; readonly password: string };
  /**
   * Speaks TLS with a certificate of its own for 127.0.0.1 and registry.test; `caFile` has its authority. `mutual`:
   * clients need that certificate, too (`keyFile`).
   */
  readonly tls?: boolean | 'mutual';
  /** Where it listens. Default: 127.0.0.1. */
  readonly address?: string;
}
export interface RunningRegistry {
  /** `address:port` */
  readonly host: string;
  /** PEM file, with `tls`. */
  readonly caFile: string | undefined;
  /** The key of that certificate, with `tls`. */
  readonly keyFile: string | undefined;
  stop(): Promise<void>;
}

/** Starts docker-registry with its data in `directory`/registry-<port>; resolves when it answers. */
export async function startRegistry(directory: string, options: RegistryOptions = {}): Promise<RunningRegistry> {
  const port = await freePort();
  const host = `${options.address ?? '127.0.0.1'}:${port}`;
  const own = join(directory, `registry-${port}`);
  await mkdir(join(own, 'data'), { recursive: true });
  const caFile = options.tls !== undefined && options.tls !== false ? join(own, 'tls.crt') : undefined;
  if (caFile !== undefined) await makeCertificate(own);
  if (options.login !== undefined)
    await writeFile(
      join(own, 'htpasswd'),
      (await run('htpasswd', ['-Bbn', '-C', '4', options.login.user, options.login.password])).stdout,
    );
  await writeFile(join(own, 'config.yml'), config(own, host, options));
  const child = spawn('docker-registry', ['serve', join(own, 'config.yml')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => (log = `${log}${chunk.toString()}`.slice(-4000)));
  const ended = once(child, 'exit');
  const client =
    caFile === undefined
      ? undefined
      : { cert: await readFile(join(own, 'tls.crt')), key: await readFile(join(own, 'tls.key')) };
  await answering(
    host,
    client,
    () => child.exitCode ?? child.signalCode,
    () => log,
  );
  return {
    host,
    caFile,
    keyFile: caFile === undefined ? undefined : join(own, 'tls.key'),
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
      await rm(own, { recursive: true, force: true });
    },
  };
}

function config(own: string, host: string, { login, tls }: RegistryOptions): string {
  const lines = [
    'version: 0.1',
    'log:',
    '  level: error',
    '  accesslog: {disabled: true}',
    'storage:',
    '  filesystem:',
    `    rootdirectory: ${own}/data`,
    '  delete: {enabled: true}',
    'http:',
    `  addr: ${host}`,
  ];
  if (tls !== undefined && tls !== false)
    lines.push('  tls:', `    certificate: ${own}/tls.crt`, `    key: ${own}/tls.key`);
  if (tls === 'mutual') lines.push('    clientcas:', `      - ${own}/tls.crt`);
  if (login !== undefined) lines.push('auth:', '  htpasswd:', '    realm: test', `    path: ${own}/htpasswd`);
  return `${lines.join('\n')}\n`;
}

async function makeCertificate(own: string): Promise<void> {
  await run('openssl', [
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
    '/CN=127.0.0.1',
    '-addext',
    'subjectAltName=IP:127.0.0.1,DNS:registry.test',
    '-keyout',
    join(own, 'tls.key'),
    '-out',
    join(own, 'tls.crt'),
  ]);
}

async function answering(
  host: string,
  client: { readonly cert: Buffer; readonly key: Buffer } | undefined,
  exited: () => number | string | null,
  log: () => string,
): Promise<void> {
  for (;;) {
    if (exited() !== null) throw new Error(`docker-registry ended (${exited()}): ${log()}`);
    const answered = await new Promise<boolean>((resolve) => {
      const request =
        client !== undefined
          ? httpsRequest(`https://${host}/v2/`, { rejectUnauthorized: false, ...client })
          : httpRequest(`http://${host}/v2/`);
      request.on('response', (response) => {
        response.resume();
        resolve(true);
      });
      request.on('error', () => resolve(false));
      request.end();
    });
    if (answered) return;
    await sleep(20);
  }
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** Answers a request instead of the scripted registry; `normal` gives what it would have answered. */
export type Behaviour = (request: IncomingMessage, response: ServerResponse, normal: Answer) => void;
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

export interface ScriptedRegistry {
  readonly host: string;
  /** `METHOD path?query` of everything asked so far, and the headers that came with it. */
  readonly requests: readonly { readonly line: string; readonly headers: IncomingMessage['headers'] }[];
  /** Offers all manifests and blobs of a layout as `repository`; the named image as `tag` too. */
  serve(image: BuiltImage, repository: string, tag: string): Promise<void>;
  /** Offers these bytes under an exact path. */
  offer(path: string, body: Buffer, contentType: string): void;
  /** From now on, requests for exactly `path` go to `behaviour`, the first `times` of them. */
  on(path: string, behaviour: Behaviour, times?: number): void;
  /** Ends all connections; what is asked next is answered as ever. */
  cut(): void;
  stop(): Promise<void>;
}

/** A registry in this process. Serves ranges. */
export async function startScriptedRegistry(): Promise<ScriptedRegistry> {
  const contents = new Map<string, { readonly body: Buffer; readonly contentType: string }>();
  const behaviours = new Map<string, { readonly behaviour: Behaviour; left: number }>();
  const requests: { line: string; headers: IncomingMessage['headers'] }[] = [];
  const server: Server = createServer((request, response) => {
    requests.push({ line: `${request.method} ${request.url}`, headers: request.headers });
    const path = (request.url ?? '').split('?', 1)[0] ?? '';
    const special = behaviours.get(path);
    const normal = answerFor(contents.get(path), request.headers.range);
    if (special !== undefined && special.left-- > 0) special.behaviour(request, response, normal);
    else say(response, normal);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const offer: ScriptedRegistry['offer'] = (path, body, contentType) => void contents.set(path, { body, contentType });
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    offer,
    serve: (image, repository, tag) => serveLayout(image, repository, tag, offer),
    on: (path, behaviour, times = Number.POSITIVE_INFINITY) => void behaviours.set(path, { behaviour, left: times }),
    cut: () => server.closeAllConnections(),
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

async function serveLayout(
  image: BuiltImage,
  repository: string,
  tag: string,
  offer: ScriptedRegistry['offer'],
): Promise<void> {
  const blob = (digest: string): Promise<Buffer> => readFile(join(image.layout, 'blobs', digest.replace(':', '/')));
  const top = await blob(image.digest);
  const type = (bytes: Buffer): string => (JSON.parse(bytes.toString()) as { mediaType: string }).mediaType;
  for (const name of [tag, image.digest]) offer(`/v2/${repository}/manifests/${name}`, top, type(top));
  for (const each of image.images) {
    const manifest = await blob(each.manifest);
    offer(`/v2/${repository}/manifests/${each.manifest}`, manifest, type(manifest));
    for (const digest of [each.id, ...each.layers])
      offer(`/v2/${repository}/blobs/${digest}`, await blob(digest), 'application/octet-stream');
  }
}

function answerFor(
  content: { readonly body: Buffer; readonly contentType: string } | undefined,
  range: string | undefined,
): Answer {
  if (content === undefined)
    return {
      status: 404,
      headers: { 'content-type': 'application/json' },
      body: Buffer.from('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'),
    };
  const headers = { 'content-type': content.contentType };
  const match = /^bytes=(\d+)-(\d*)$/.exec(range ?? '');
  if (match === null) return { status: 200, headers, body: content.body };
  const from = Number(match[1]);
  const to = match[2] === '' ? content.body.length : Math.min(content.body.length, Number(match[2]) + 1);
  return {
    status: 206,
    headers: { ...headers, 'content-range': `bytes ${from}-${to - 1}/${content.body.length}` },
    body: content.body.subarray(from, to),
  };
}

function say(response: ServerResponse, { status, headers, body }: Answer): void {
  response.writeHead(status, { ...headers, 'content-length': body.length });
  response.end(body);
}

/** Sends `bytes` of the answer, then nothing more, with the connection open. */
export const stallAfter =
  (bytes: number): Behaviour =>
  (_request, response, normal) => {
    response.writeHead(normal.status, { ...normal.headers, 'content-length': normal.body.length });
    response.write(normal.body.subarray(0, bytes));
  };
/** Sends `bytes` of the answer, then resets the connection. */
export const resetAfter =
  (bytes: number): Behaviour =>
  (_request, response, normal) => {
    response.writeHead(normal.status, { ...normal.headers, 'content-length': normal.body.length });
    response.write(normal.body.subarray(0, bytes), () => response.socket?.resetAndDestroy());
  };
/** One byte each `everyMs`, for ever. */
export const trickle =
  (everyMs: number): Behaviour =>
  (_request, response, normal) => {
    response.writeHead(normal.status, { ...normal.headers, 'content-length': normal.body.length });
    let at = 0;
    const timer = setInterval(() => {
      if (response.destroyed || at >= normal.body.length) clearInterval(timer);
      else response.write(normal.body.subarray(at, ++at));
    }, everyMs);
  };
/** Answers with this status, headers and text. */
export const answerWith =
  (status: number, headers: Readonly<Record<string, string>> = {}, body: string | Buffer = ''): Behaviour =>
  (_request, response) =>
    say(response, { status, headers, body: Buffer.from(body) });
/** For who comes as `login` (`user:password`); all others are told to log in. */
export const onlyFor = (login: string): Behaviour => {
  const wanted = `Basic ${Buffer.from(login).toString('base64')}`;
  const challenge = answerWith(401, { 'www-authenticate': 'Basic realm="test"' });
  return (request, response, normal) =>
    request.headers.authorization === wanted ? say(response, normal) : challenge(request, response, normal);
};
/** The right size, one bit wrong. */
export const flipBit = (): Behaviour => (_request, response, normal) => {
  const body = Buffer.from(normal.body);
  body[body.length >> 1] = (body[body.length >> 1] ?? 0) ^ 1;
  say(response, { ...normal, body });
};
/** Sends on after the end of the content, for ever, chunked. */
export const neverEnding = (): Behaviour => (_request, response, normal) => {
  response.writeHead(normal.status, normal.headers);
  response.write(normal.body);
  const more = Buffer.alloc(65_536, 0x20);
  const push = (): void => {
    while (!response.destroyed && response.write(more));
  };
  response.on('drain', push);
  push();
};

/** True if somebody listens; for tests that nothing is left. */
export async function isListening(host: string): Promise<boolean> {
  const [address = '', port = ''] = host.split(':');
  const socket = connect(Number(port), address);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
