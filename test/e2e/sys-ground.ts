/**
 * What the suites of pkg/sys, native/ and the Linux side of pkg/runtime share. Everything that they make lies in one
 * temporary directory and in cgroups and namespaces of their own; the last hook checks that nothing is left.
 */
import { assert } from 'chai';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { RuntimeError, type ErrorCode } from '../../pkg/base/errors.ts';
import { backgroundOp, silent, type Op } from '../../pkg/base/op.ts';
import * as sys from '../../pkg/sys/index.ts';
import { isAtOrBelow } from '../../pkg/sys/mountinfo.ts';
import type { Captured } from '../../pkg/ports/kernel.ts';

const BIN = join(import.meta.dirname, '../../build/bin');
export const PINNS = join(BIN, 'pinns');
export const PAUSE = join(BIN, 'pause');
export const SIGTERM = 15;
export const SIGKILL = 9;

export let top = '';
export const op = (ms = 20_000): Op => backgroundOp(silent, ms);
export const run = (...argv: [string, ...string[]]): Promise<Captured> =>
  sys.capture(op(), { argv, stdoutMax: 1 << 20, stderrMax: 4096 });
export const openFds = (): number => readdirSync('/proc/self/fd').length;

/** A fresh directory below the suite's. */
export function fresh(name: string): string {
  const path = join(top, `${name}-${randomBytes(4).toString('hex')}`);
  mkdirSync(path, { recursive: true });
  return path;
}

export async function refusal(work: () => unknown, code: ErrorCode): Promise<RuntimeError> {
  try {
    await work();
  } catch (error) {
    assert.instanceOf(error, RuntimeError);
    assert.equal(error.code, code, error.message);
    return error;
  }
  return assert.fail(`wanted ${code}, got success`);
}

/** Everything to the end. */
export async function bytesOf(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

/** What is there; fails if nothing is. */
export function there<T>(found: T | undefined): T {
  assert.isDefined(found);
  return found as T;
}

/** Waits for a condition; fails with its name after 10 s. */
export async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 10_000; !(await holds()); ) {
    if (Date.now() > end) assert.fail(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Gives the suite that calls it a directory of its own, `top`, and checks that no mount is left in it. */
export function useSysGround(): void {
  before(() => {
    top = realpathSync(mkdtempSync('/tmp/berth-sys-'));
  });
  after(async () => {
    const mounts = (await sys.mounts.read())
      .filter((mount) => isAtOrBelow(mount.mountPoint, top))
      .map((mount) => mount.mountPoint);
    await sys.mounts.unmountTree(top);
    rmSync(top, { recursive: true, force: true });
    assert.deepEqual(mounts, [], 'mounts left behind');
  });
}
