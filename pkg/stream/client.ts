/**
 * The client's side of a session, whatever carries it: what spdy.ts and websocket.ts make and session.ts uses. Types
 * only.
 */
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { Inbox } from './inbox.ts';

/** Takes bytes towards the client; resolves when the kernel has them. @throws once the client is gone. */
export type Sink = (data: Uint8Array) => Promise<void>;

/** The streams that an exec or attach was asked for. */
export interface Wanted {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
}

/** How an exec or attach ended; `why` is there if the command could not even be run. */
export type Ending =
  | { readonly kind: 'exited'; readonly exitCode: number; readonly why?: string }
  | { readonly kind: 'failed'; readonly message: string };

/** A client of exec or attach. */
export interface StdioClient {
  /** Fires when the connection is lost, and after `finish`. */
  readonly gone: AbortSignal;
  readonly stdin: Inbox | null;
  readonly stdout: Sink | null;
  readonly stderr: Sink | null;
  /** JSON objects with Width and Height, one after the other, cut anywhere. */
  readonly sizes: Inbox | null;
  /**
   * Ends every stream, says how it ended, and hangs up in order. Resolves when the connection is closed. Never rejects.
   */
  finish(ending: Ending): Promise<void>;
}

/** One connection that a client wants forwarded. */
export interface Forward {
  readonly port: number;
  /** Ends at the client's half-close. */
  readonly input: Inbox;
  readonly output: Sink;
  /** The pod says no more; the client may go on. null where clients cannot be told. Never rejects. */
  readonly endOutput: (() => Promise<void>) | null;
  /** Fires when the client gives this connection up, or is lost. */
  readonly gone: AbortSignal;
  /** Ends both directions; `failure` is shown to the client. Never rejects. */
  finish(failure?: string): Promise<void>;
}

/** A client of port-forward. */
export interface PortsClient {
  readonly gone: AbortSignal;
  /**
   * Calls `handle`, which does not reject, for every connection that the client asks for; resolves when there will be
   * no more and all are handled.
   */
  serve(handle: (forward: Forward) => Promise<void>): Promise<void>;
  /** Hangs up in order. Resolves when the connection is closed. Never rejects. */
  finish(): Promise<void>;
}

/** What a URL allows. */
export interface AttachGrant extends Wanted {
  readonly containerId: ContainerId;
}

/** What a URL for a command allows. */
export interface ExecGrant extends AttachGrant {
  readonly cmd: readonly string[];
}

/** What a URL for ports allows. */
export interface ForwardGrant {
  readonly podSandboxId: SandboxId;
  /** Ports that may be forwarded; none named is any. */
  readonly port: readonly number[];
}
