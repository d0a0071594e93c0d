/**
 * Calls of CRI's RuntimeService without a library around them: a request without fields goes out, the reply's bytes are counted and not read. What is
 * timed is the server and one HTTP/2 stream of Node's; a client that decodes a hundred pods in JavaScript costs more than either.
 */
import { type ClientHttp2Session, connect, type IncomingHttpHeaders } from 'node:http2';
import { createConnection } from 'node:net';
import { CriError } from '../test/e2e/cri-client.ts';

/** No compression, no bytes: a message with every field at its default. */
const EMPTY_MESSAGE = Buffer.alloc(5);
const REQUEST = { ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers' };

export class Caller {
  readonly #socket: string;
  #session: ClientHttp2Session | undefined;

  constructor(socket: string) {
    this.#socket = socket;
  }

  /** Length of the reply to `rpc` (as `ListContainers`), in bytes. @throws CriError when the status is not OK. */
  call(rpc: string): Promise<number> {
    this.#session ??= this.#connect();
    const stream = this.#session.request({ ...REQUEST, ':path': `/runtime.v1.RuntimeService/${rpc}` });
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    let bytes = 0;
    let status = '';
    let message = '';
    // An error that comes before any reply is in the headers.
    for (const part of ['response', 'trailers'] as const) {
      stream.on(part, (headers: IncomingHttpHeaders) => {
        status = headers['grpc-status']?.toString() ?? status;
        message = headers['grpc-message']?.toString() ?? message;
      });
    }
    stream.on('data', (chunk: Buffer) => void (bytes += chunk.length));
    stream.once('error', reject);
    stream.once('close', () => (status === '0' ? resolve(bytes) : reject(new CriError(rpc, Number(status || 2), decodeURIComponent(message)))));
    stream.end(EMPTY_MESSAGE);
    return promise;
  }

  close(): void {
    this.#session?.close();
    this.#session = undefined;
  }

  #connect(): ClientHttp2Session {
    const session = connect('http://localhost', { createConnection: () => createConnection(this.#socket) });
    session.once('close', () => (this.#session = undefined));
    session.on('error', () => {}); // Every stream has it too.
    return session;
  }
}
