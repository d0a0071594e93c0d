/**
 * What the suites of the monitor share. One set of cases, two monitors: ours must pass every case, the distribution's
 * (conmon 2.1.6) all but those listed in upstream.ts, each with the reason. CONMON names another build of ours (the
 * ASan one); CONMON_SUBJECT=ours|upstream picks one; CONMON_KNOWN=1 shows that upstream fails what is listed.
 */
import { readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { assert } from 'chai';
import { Case, subjects, until } from './harness.ts';
import { upstreamFails, upstreamUnsteady } from './upstream.ts';

const longMs = 60_000;
const only = process.env['CONMON_SUBJECT'];
const proveKnown = process.env['CONMON_KNOWN'] === '1';

export type Body = (c: Case) => Promise<void>;

export function fdCount(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

export function rssKb(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

/** Writes to a FIFO of the monitor from another process, for a monitor may never read it. */
export async function ctl(c: Case, text: string, fifo: 'ctl' | 'winsz' = 'ctl'): Promise<void> {
  const writer = c.help('sh', ['-c', 'exec cat > "$1"', '-', join(c.bundle, fifo)]);
  writer.write(text);
  writer.end();
  await until(`${fifo} takes ${text.length} bytes`, () => writer.process.exitCode !== null);
}

/** A container that goes on until its stdin, or a file, tells it to end. */
export const untilFile = (c: Case): string => `while [ ! -e ${c.path('go')} ]; do sleep 0.02; done`;
export const go = (c: Case): void => writeFileSync(c.path('go'), '');

/**
 * Executes what follows the first two arguments, with a /dev that is mounted on the first and has nothing but null and,
 * as log, the second.
 */
export const OWN_SYSLOG =
  'set -e; mount -t tmpfs none "$1"; touch "$1/null" "$1/log"; mount --bind /dev/null ' +
  '"$1/null"; mount --bind "$2" "$1/log"; mount --rbind "$1" /dev; shift 2; exec "$@"';

export function socketCount(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => (linkOf(pid, fd) ?? '').startsWith('socket:')).length;
}

function linkOf(pid: number, fd: string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`);
  } catch {
    return undefined;
  }
}

export function holds(pid: number, path: string): boolean {
  return readdirSync(`/proc/${pid}/fd`).some((fd) => linkOf(pid, fd) === path);
}

/** The fields of one entry of journald's native protocol. */
export function parseJournal(data: Buffer): Map<string, string> {
  const fields = new Map<string, string>();
  for (let at = 0; at < data.length; ) {
    const end = data.indexOf(10, at);
    const line = data.subarray(at, end).toString('latin1');
    const equals = line.indexOf('=');
    if (equals >= 0) {
      fields.set(line.slice(0, equals), line.slice(equals + 1));
      at = end + 1;
    } else {
      const len = Number(data.readBigUInt64LE(end + 1));
      fields.set(line, data.subarray(end + 9, end + 9 + len).toString('latin1'));
      at = end + 9 + len + 1;
    }
  }
  return fields;
}

/** What a suite has: a way to add a case, which leaves nothing behind, and whether the monitor is ours. */
export interface Suite {
  readonly check: (title: string, body: Body) => void;
  readonly ours: boolean;
}

/** Runs the cases of `suite` with each monitor. */
export function describeMonitors(suite: (with_: Suite) => void): void {
  for (const subject of subjects) {
    if (only !== undefined && only !== subject.name) continue;
    describe(`conmon (${subject.name})`, function () {
      this.timeout(longMs);
      const ours = subject.name === 'ours';
      function check(title: string, body: Body): void {
        const known = ours ? undefined : upstreamFails[title];
        const run = async (): Promise<void> => {
          const c = new Case(subject);
          let leaks: string[] = [];
          try {
            await body(c);
          } finally {
            leaks = await c.close();
          }
          assert.deepEqual(leaks, [], 'left behind');
        };
        if (known === undefined) {
          it(title, run);
        } else if (proveKnown && !upstreamUnsteady.has(title)) {
          it(`fails: ${title} (${known})`, async () => {
            const c = new Case(subject);
            let timer: NodeJS.Timeout | undefined;
            const late = new Promise<never>((_, no) => {
              timer = setTimeout(no, longMs - 20_000, new Error('too late'));
            });
            const failed = await Promise.race([body(c), late]).then(
              () => false,
              () => true,
            );
            clearTimeout(timer);
            await c.close();
            assert.isTrue(failed, 'upstream passes this case now: take it off the list');
          });
        }
      }
      suite({ check, ours });
    });
  }
}
