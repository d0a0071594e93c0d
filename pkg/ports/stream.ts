/**
 * The port of those who carry out exec, attach and port-forward for the stream server.
 */
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { AttachChannel, Connection, ExecStdio, ExitStatus, TerminalSize } from './runtime.ts';

/** What sessions reach; `Execs` of pkg/pod is one. Every call ends when `op.signal` fires, leaving nothing. */
export interface StreamBackend {
  exec(op: Op, id: ContainerId, argv: readonly string[], stdio: ExecStdio): Promise<ExitStatus>;
  attach(
    op: Op,
    id: ContainerId,
  ): Promise<AttachChannel & { resize(size: TerminalSize): Promise<void>; readonly tty: boolean }>;
  portForward(op: Op, id: SandboxId, port: number): Promise<Connection>;
}
