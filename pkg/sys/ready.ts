import { addon } from './addon.ts';

/** Resolves when the descriptor is ready, or when the signal fires. */
export async function untilReady(fd: number, event: 'readable' | 'writable', signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const finish = (): void => resolve();
  const watch = addon().watch(fd, finish);
  try {
    addon().arm(watch, event === 'readable' ? 1 : 2);
    signal.addEventListener('abort', finish, { once: true });
    if (!signal.aborted) await promise;
  } finally {
    signal.removeEventListener('abort', finish);
    addon().unwatch(watch);
  }
}
