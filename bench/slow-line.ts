/** A line to a registry that carries so much and no more, whoever shares it; and when it carried what. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { Transform } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

/** What came over the line since somebody asked for it to be counted. */
export interface Carried {
  readonly bytes: number;
  /** In milliseconds of `performance.now()`. */
  readonly firstAt: number;
  readonly lastAt: number;
}

/** Answers are slowed down, questions are not. */
export class SlowLine {
  readonly #server: Server;
  readonly #bytesPerMs: number;
  readonly #sockets = new Set<Socket>();
  /** When the line is free again. */
  #freeAt = 0;
  #carried = { bytes: 0, firstAt: 0, lastAt: 0 };

  private constructor(to: string, bytesPerSecond: number) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    const { hostname, port } = new URL(`http://${to}`);
    this.#server = createServer((near) => {
      const far = connect(Number(port), hostname);
      for (const socket of [near, far]) {
        this.#sockets.add(socket);
        socket.on('close', () => {
          this.#sockets.delete(socket);
          near.destroy();
          far.destroy();
        });
        socket.on('error', () => {});
      }
      near.pipe(far);
      far.pipe(this.#slow()).pipe(near);
    });
  }

  /** A line to `host:port`. */
  static async to(host: string, bytesPerSecond: number): Promise<SlowLine> {
    const line = new SlowLine(host, bytesPerSecond);
    line.#server.listen(0, '127.0.0.1');
    await once(line.#server, 'listening');
    return line;
  }

  /** `host:port` of this end. */
  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** From now on. */
  count(): void {
    this.#carried = { bytes: 0, firstAt: 0, lastAt: 0 };
  }

  get carried(): Carried {
    return this.#carried;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #slow(): Transform {
    return new Transform({
      transform: (chunk: Buffer, _encoding, done) => {
        const now = performance.now();
        this.#freeAt = Math.max(this.#freeAt, now) + chunk.length / this.#bytesPerMs;
        const pass = (): void => {
          const at = performance.now();
          const { bytes, firstAt } = this.#carried;
          this.#carried = { bytes: bytes + chunk.length, firstAt: bytes === 0 ? at : firstAt, lastAt: at };
          done(null, chunk);
        };
        // Timers count whole milliseconds; what is less is made up for by the next chunk.
        if (this.#freeAt - now < 1) pass();
        else void sleep(this.#freeAt - now).then(pass);
      },
    });
  }
}
