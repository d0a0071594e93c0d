/** System calls that a seccomp profile tells of, and that are refused here (seccomp_unotify(2)). */
import type { CallWatch } from '../ports/kernel.ts';
import { addon, errnoBehind } from './addon.ts';
import { close } from './descriptors.ts';

/**
 * Answers each system call that `fd` tells of with ENOSYS, and says its name (`call 999` where it has none), at most
 * `burst` of them before a pause of `pauseMs`, in which whoever makes such calls waits. Closes `fd` when no process is
 * under the filter any more, or at `close`.
 */
export function refuseCalls(
  fd: number,
  { burst, pauseMs }: { readonly burst: number; readonly pauseMs: number },
  { told, ended }: { readonly told: (call: string) => void; readonly ended: () => void },
): CallWatch {
  let open = true;
  let timer: NodeJS.Timeout | undefined;
  const end = (): void => {
    if (!open) return;
    open = false;
    clearTimeout(timer);
    addon().unwatch(watch);
    close(fd);
    ended();
  };
  /** Undefined if there is none now; the watch may have ended. */
  const next = (): string | undefined => {
    try {
      return addon().refuseCallSync(fd).toString();
    } catch (error) {
      if (errnoBehind(error) !== 'EAGAIN') end();
      return undefined;
    }
  };
  const watch = addon().watch(fd, () => {
    for (let count = 0; count < burst; count++) {
      const call = next();
      if (call === undefined) return;
      told(call);
      if (!open) return;
    }
    addon().arm(watch, 0);
    timer = setTimeout(() => addon().arm(watch, 1), pauseMs).unref();
  });
  addon().arm(watch, 1);
  return { close: end };
}
