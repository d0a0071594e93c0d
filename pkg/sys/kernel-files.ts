/** Many small files of the kernel in one call. */
import { RuntimeError } from '../base/errors.ts';
import type { FilesIn, KernelFiles } from '../ports/kernel.ts';
import { addon, attemptAsync, codeOfErrno, errnoName } from './addon.ts';

/**
 * Small kernel files in one synchronous native call, for statistics: content, or null where there is none; a file of
 * more than `max` bytes is cut.
 */
export function readFiles(paths: readonly string[], max = 65_536): (Buffer | null)[] {
  const [lengths, bytes] = addon().readFilesSync(paths, max);
  return slices(lengths, bytes).map((part) => part ?? null);
}

/**
 * A small file of the host, in one call on another thread; undefined if there is none. @throws FailedPrecondition if it
 * has more than `max` bytes, by the table of errno if it cannot be read.
 */
export async function readSmallFile(path: string, max: number): Promise<Buffer | undefined> {
  const [[length = 0], bytes] = await attemptAsync(`read ${path}`, (native) => native.readFiles([path], max + 1));
  if (length >= 0 && bytes.length <= max) return bytes;
  if (length >= 0) throw new RuntimeError('FailedPrecondition', `${path} is larger than ${max} bytes`);
  const errno = errnoName(-length);
  if (errno === 'ENOENT') return undefined;
  throw new RuntimeError(codeOfErrno(errno), `cannot read ${path} (${errno})`);
}

/**
 * Small files of cgroups and the like in one call on another thread: for hundreds of them, some of which the kernel
 * adds up over all processors first. A file of more than `max` bytes is cut.
 */
export async function readKernelFiles(wanted: readonly FilesIn[], max = KERNEL_FILE_BYTES): Promise<KernelFiles> {
  const [lengths, bytes] = await attemptAsync('read kernel files', (native) =>
    native.readKernelFiles(...columns(wanted), max),
  );
  return { text: bytes.toString('latin1'), lengths };
}

/** A line of /proc/net/dev is some 120 bytes; nodes with thousands of interfaces exist, pods with them do not. */
export const KERNEL_FILE_BYTES = 1 << 18;

/** PURE. As the addon takes it: directories, names, network namespaces. */
export function columns(wanted: readonly FilesIn[]): [directories: string[], names: string[], netns: string[]] {
  return [
    wanted.map((each) => each.directory),
    wanted.map((each) => each.names),
    wanted.map((each) => each.netns ?? ''),
  ];
}

/** PURE. Files that came in one buffer; a negative length is one that did not. */
function slices(lengths: Int32Array, bytes: Buffer): (Buffer | undefined)[] {
  let at = 0;
  return Array.from(lengths, (length) => {
    if (length < 0) return undefined;
    const part = bytes.subarray(at, at + length);
    at += part.length;
    return part;
  });
}
