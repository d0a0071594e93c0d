/** Directories watched by inotify(7). */
import type { DirectoryEvent, DirectoryWatch } from '../ports/kernel.ts';
import { addon, attempt } from './addon.ts';
import { close } from './descriptors.ts';

/** Where events land, which are taken out at once: some hundred of them. */
const scratch = Buffer.allocUnsafeSlow(16_384);

const IN = {
  CLOSE_WRITE: 0x8,
  MOVED_FROM: 0x40,
  MOVED_TO: 0x80,
  CREATE: 0x100,
  DELETE: 0x200,
  DELETE_SELF: 0x400,
  MOVE_SELF: 0x800,
  UNMOUNT: 0x2000,
  Q_OVERFLOW: 0x4000,
  IGNORED: 0x8000,
  ONLYDIR: 0x1000000,
};
const IN_MASK =
  IN.CLOSE_WRITE | IN.MOVED_FROM | IN.MOVED_TO | IN.CREATE | IN.DELETE | IN.DELETE_SELF | IN.MOVE_SELF | IN.ONLYDIR;

/**
 * Calls `onEvent` for every change in directory `path`, in order; every change after this returns is seen. To miss
 * nothing: watch first, then read the directory. @throws NotFound, FailedPrecondition (no directory), ResourceExhausted
 * (fs.inotify.max_user_watches).
 */
export function watchDirectory(path: string, onEvent: (event: DirectoryEvent) => void): DirectoryWatch {
  const fd = attempt(`watch ${path}`, (native) => native.inotifySync(path, IN_MASK));
  let open = true;
  const watch = addon().watch(fd, () => {
    for (
      let count = addon().readSync(fd, scratch, 0, scratch.length);
      open && count > 0;
      count = open ? addon().readSync(fd, scratch, 0, scratch.length) : 0
    ) {
      for (const event of parseInotify(scratch.subarray(0, count))) if (open) onEvent(event);
    }
  });
  addon().arm(watch, 1);
  return {
    close: () => {
      if (!open) return;
      open = false;
      addon().unwatch(watch);
      close(fd);
    },
  };
}

/** PURE: struct inotify_event records (inotify(7)) as events. */
export function parseInotify(bytes: Buffer): DirectoryEvent[] {
  const events: DirectoryEvent[] = [];
  for (let at = 0; at + 16 <= bytes.length; ) {
    const mask = bytes.readUInt32LE(at + 4);
    const length = bytes.readUInt32LE(at + 12);
    const text = bytes.subarray(at + 16, at + 16 + length);
    const end = text.indexOf(0);
    const name = text.toString('utf8', 0, end < 0 ? text.length : end);
    at += 16 + length;
    if ((mask & IN.Q_OVERFLOW) !== 0) events.push({ kind: 'overflow' });
    else if ((mask & (IN.DELETE_SELF | IN.MOVE_SELF | IN.UNMOUNT)) !== 0) events.push({ kind: 'gone' });
    else if ((mask & (IN.CREATE | IN.MOVED_TO | IN.CLOSE_WRITE)) !== 0) events.push({ kind: 'changed', name });
    else if ((mask & (IN.DELETE | IN.MOVED_FROM)) !== 0) events.push({ kind: 'removed', name });
  }
  return events;
}
