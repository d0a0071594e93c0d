/**
 * The stream server, made when the first URL is asked for: it brings HTTP and WebSocket along, which many a node never
 * needs.
 */
import type { Logger } from '../../pkg/base/op.ts';
import type { Config } from '../../pkg/config/index.ts';
import type { Operation } from '../../pkg/cri-api/types.ts';
import type { Execs } from '../../pkg/ports/pods.ts';
import type { StreamServer } from '../../pkg/stream/index.ts';
import type { Urls } from '../stream-service.ts';

/** A stream server that may not be open yet. */
export class Streams {
  readonly #open: () => Promise<StreamServer>;
  #server: Promise<StreamServer> | undefined;
  #running: StreamServer | undefined;

  constructor({ api }: Config, log: Logger, backend: Execs) {
    const tls = api.streamEnableTls
      ? {
          cert: api.streamTlsCert,
          key: api.streamTlsKey,
          clientCa: api.streamTlsCa,
          minVersion: api.tlsMinVersion,
          cipherSuites: api.tlsCipherSuites,
        }
      : undefined;
    this.#open = async () => {
      const { StreamServer } = await import('../../pkg/stream/index.ts');
      return await StreamServer.listen({
        backend,
        log,
        address: api.streamAddress,
        port: api.streamPort,
        idleTimeoutMs: api.streamIdleTimeoutMs,
        tls,
      });
    };
  }

  /** @throws as StreamServer.listen; the next call tries again. */
  async open(): Promise<Urls> {
    this.#server ??= this.#open();
    try {
      return (this.#running = await this.#server);
    } catch (cause) {
      this.#server = undefined;
      throw cause;
    }
  }

  /** Sessions that run. */
  operations(): readonly Operation[] {
    return this.#running?.operations() ?? [];
  }

  /** Ends what runs, within bounds; content if it was never open. */
  async close(): Promise<void> {
    await (await this.#server)?.close();
  }
}
