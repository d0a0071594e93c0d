/**
 * Two protocols on one socket, as with CRI-O: gRPC for the kubelet, and HTTP/1 for cAdvisor and people with curl. The
 * first bytes of a connection say which it is; from then on nothing of this is between it and its server, so a call
 * costs what it did.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { limits } from '../pkg/base/limits.ts';
import { type PlacedSocket, placeSocket } from './socket.ts';

/** What a connection of HTTP/2 begins with (RFC 9113, 3.4). No method of HTTP/1 does. */
const PREFACE = Buffer.from('PRI');

/** Who takes the connections: with all that was read of them put back. */
export interface Takers {
  grpc(connection: Socket): void;
  http(connection: Socket): void;
}

/** Sockets and what comes in by them, until it is known who is to have it. */
export class Front {
  readonly #takers: Takers;
  readonly #places: PlacedSocket[] = [];
  /** In the order in which they came. */
  readonly #silent = new Set<Socket>();

  constructor(takers: Takers) {
    this.#takers = takers;
  }

  /** Opens a socket at `path`. @throws as placeSocket. */
  async open(path: string): Promise<void> {
    this.#places.push(await placeSocket(path, this.#listener()));
  }

  /** Takes no more connections, and the sockets away; drops those that have not said a word. Synchronous. */
  close(): void {
    for (const place of this.#places.splice(0)) place.remove();
    for (const connection of this.#silent) connection.destroy();
  }

  #listener(): Server {
    // A client that has asked may close its half; who serves it decides what that means.
    return createServer({ allowHalfOpen: true }, (connection) => this.#accept(connection));
  }

  #accept(connection: Socket): void {
    // Who is silent longest goes first: a client that means it speaks at once.
    if (this.#silent.size >= limits.silentConnectionsCount) this.#silent.values().next().value?.destroy();
    this.#silent.add(connection);
    const timer = setTimeout(() => connection.destroy(), limits.connectionSilentMs).unref();
    let head: Buffer = Buffer.alloc(0);
    const look = (): void => {
      const chunk = connection.read() as Buffer | null;
      if (chunk !== null) head = Buffer.concat([head, chunk]);
      const compared = Math.min(head.length, PREFACE.length);
      const grpc = head.subarray(0, compared).equals(PREFACE.subarray(0, compared));
      if (grpc && compared < PREFACE.length) return;
      over();
      connection.unshift(head);
      this.#takers[grpc ? 'grpc' : 'http'](connection);
    };
    const drop = (): void => void connection.destroy();
    const over = (): void => {
      clearTimeout(timer);
      this.#silent.delete(connection);
      connection.off('readable', look).off('end', drop).off('error', drop).off('close', over);
    };
    connection.on('readable', look).on('end', drop).on('error', drop).on('close', over);
  }
}
