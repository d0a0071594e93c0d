/** gpgv as a bounded child: what pkg/image needs for OpenPGP signatures and may not start itself. */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { isCode, RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { withTimeout } from '../pkg/base/op.ts';
import type { RunGpgv } from '../pkg/image/index.ts';
import { capture } from '../pkg/sys/index.ts';

/**
 * open(2): with O_DIRECTORY this is O_TMPFILE, a file without a name: it is gone with its last descriptor, whatever
 * happens to us.
 */
const TMPFILE = 0o20000000 | constants.O_DIRECTORY;

/**
 * Runs gpgv of the node with keyrings that are nameless files on the file system of `directory`. @throws Unimplemented,
 * with the package's name, if there is none.
 */
export function gpgvIn(directory: string): RunGpgv {
  return async (op, { keyrings, message, maxBytes }) => {
    const files: FileHandle[] = [];
    try {
      for (const keyring of keyrings) {
        const file = await open(directory, TMPFILE | constants.O_RDWR, 0o600);
        files.push(file);
        await file.writeFile(keyring);
      }
      const { exitCode, stdout, stderr, stdoutCut, stderrCut } = await capture(withTimeout(op, limits.gpgvMs), {
        // Descriptor 3 and on are the keyrings. Its talk for people goes nowhere, so that stderr has status lines only.
        argv: [
          'gpgv',
          '--status-fd',
          '2',
          '--log-file',
          '/dev/null',
          '--homedir',
          '/nonexistent',
          ...files.flatMap((_file, index) => ['--keyring', `/dev/fd/${index + 3}`]),
          '--output',
          '-',
          '-',
        ],
        env: [`PATH=${process.env['PATH'] ?? '/usr/bin:/bin'}`, 'LC_ALL=C'],
        stdin: message,
        stdoutMax: maxBytes,
        stderrMax: maxBytes,
        stderrKeep: 'head',
        extraFds: files.map(({ fd }) => fd),
      });
      return { exitCode, status: stderr.toString('utf8'), content: stdout, isCut: stdoutCut || stderrCut };
    } catch (cause) {
      if (!isCode(cause, 'NotFound')) throw cause;
      throw new RuntimeError(
        'Unimplemented',
        'this node has no gpgv, which checks OpenPGP signatures; install it (Debian and Ubuntu: ' +
          'apt-get install gpgv; Fedora: dnf install gnupg2)',
      );
    } finally {
      await Promise.all(files.map((file) => file.close()));
    }
  };
}
