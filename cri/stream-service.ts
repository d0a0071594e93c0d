/**
 * Exec, Attach and PortForward: each leaves a grant with the stream server and answers with a URL that works once. What
 * cannot work is refused here already, where the client still gets a proper error; it is looked at again when the URL
 * is dialled.
 */
import { RuntimeError } from '../pkg/base/errors.ts';
import { type OpenPods, takesCommands } from '../pkg/pod/index.ts';
import type { StreamServer } from '../pkg/stream/index.ts';
import type { Handlers } from './handler.ts';
import { narrowAttach, narrowExec, narrowPortForward } from './validate.ts';
import type { ContainerRecord } from '../pkg/ports/state.ts';

/** What gives URLs. */
export type Urls = Pick<StreamServer, 'urlForExec' | 'urlForAttach' | 'urlForPortForward'>;

/** Handlers of the RPCs that answer with a URL. */
export type StreamService = ReturnType<typeof streamService>;

/** Answers with URLs; `streams` is asked at each of them. */
export function streamService(mind: Pick<OpenPods, 'pods' | 'containers'>, streams: () => Promise<Urls>) {
  const entered = (id: string, may: (record: ContainerRecord) => boolean): ContainerRecord => {
    const record = mind.containers.get(id);
    if (may(record)) return record;
    throw new RuntimeError(
      'FailedPrecondition',
      `container ${record.id} is ${record.state.phase}; only a running one can be entered`,
    );
  };
  return {
    async exec(_op, request) {
      const { containerId, cmd, stdin, stdout, stderr, tty } = narrowExec(request);
      return {
        url: await (await streams()).urlForExec({
          containerId: entered(containerId, takesCommands).id,
          cmd,
          stdin,
          stdout,
          stderr,
          tty,
        }),
      };
    },
    async attach(_op, request) {
      const { containerId, stdin, stdout, stderr, tty } = narrowAttach(request);
      const { id, config } = entered(containerId, ({ state }) => state.phase === 'running');
      if (tty && !config.tty)
        throw new RuntimeError('InvalidArgument', `container ${id} has no terminal; attach to it without tty`);
      return { url: await (await streams()).urlForAttach({ containerId: id, stdin, stdout, stderr, tty }) };
    },
    async portForward(_op, request) {
      const { podSandboxId, port } = narrowPortForward(request);
      const { id, state } = mind.pods.get(podSandboxId);
      if (state.phase !== 'ready')
        throw new RuntimeError(
          'FailedPrecondition',
          `pod sandbox ${id} is ${state.phase}; ports are forwarded only to a ready one`,
        );
      return { url: await (await streams()).urlForPortForward({ podSandboxId: id, port }) };
    },
  } satisfies Handlers;
}
