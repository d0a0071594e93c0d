/**
 * What a runtime answered about itself, remembered until the next boot: asking costs two processes for each handler,
 * and a daemon that comes back to a hundred pods has better things to do.
 */
import { readFile } from 'node:fs/promises';
import { openRegular, replaceFile } from '../base/files.ts';
import type { Answer } from './messages.ts';
import { parseObject } from './messages.ts';

/** `--version` and `features`. */
export interface Answers {
  readonly version: Answer;
  readonly features: Answer;
}

/**
 * What `ask` answers, or answered for the very same binary. A script is asked each time: what it runs may have changed.
 * `file` is ours, on tmpfs; when it cannot be read or written, everything is asked again.
 */
export async function remembered(binary: string, file: string, ask: () => Promise<Answers>): Promise<Answers> {
  const identity = await identityOf(binary);
  if (identity === undefined) return await ask();
  const known = parse(await readFile(file, 'utf8').catch(() => ''), identity);
  if (known !== undefined) return known;
  const answers = await ask();
  // A runtime that does not work may work in a moment, without having changed itself.
  if (answers.version.exitCode === 0 && (answers.features.exitCode === 0 || isRefusal(answers.features)))
    await replaceFile(
      file,
      JSON.stringify({ identity, version: written(answers.version), features: written(answers.features) }),
      'memory',
    ).catch(() => {});
  return answers;
}

/**
 * PURE. True if a runtime says that it has no such command, as crun and runc, youki, and runsc put it; anything else
 * may be a moment's trouble.
 */
function isRefusal({ stdout, stderr }: Answer): boolean {
  return /unknown command|no help topic|unrecognized (sub)?command|^usage:/im.test(
    `${stderr.toString('utf8')}\n${stdout.toString('utf8')}`,
  );
}

/** Tells one binary from another, also one that was replaced; undefined for what is no ELF program. */
async function identityOf(path: string): Promise<string | undefined> {
  const file = await openRegular(path).catch(() => undefined);
  if (file === undefined) return undefined;
  try {
    const { buffer } = await file.read(Buffer.alloc(ELF.length), 0, ELF.length, 0);
    const { dev, ino, size, mtimeNs, ctimeNs } = await file.stat({ bigint: true });
    return buffer.equals(ELF) ? [path, dev, ino, size, mtimeNs, ctimeNs].join(' ') : undefined;
  } finally {
    await file.close();
  }
}

const ELF = Buffer.from('\x7fELF', 'latin1');

function parse(text: string, identity: string): Answers | undefined {
  const found = parseObject(text);
  if (found?.['identity'] !== identity) return undefined;
  const version = answerOf(found['version']);
  const features = answerOf(found['features']);
  return version === undefined || features === undefined ? undefined : { version, features };
}

function written({ exitCode, stdout, stderr }: Answer): object {
  return { exitCode, stdout: stdout.toString('utf8'), stderr: stderr.toString('utf8') };
}

function answerOf(value: unknown): Answer | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { exitCode, stdout, stderr } = value as Record<string, unknown>;
  if (typeof exitCode !== 'number' || typeof stdout !== 'string' || typeof stderr !== 'string') return undefined;
  return { exitCode, stdout: Buffer.from(stdout), stderr: Buffer.from(stderr) };
}
