/**
 * What a run of kills found and how much it tried (crash.ts), with evidence of the former: a directory that is kept.
 */
import { execFileSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestNode } from './harness.ts';

/** mulberry32: small, and the same everywhere. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

export type FindingKind = 'leak' | 'exit code' | 'line' | 'call';

/** Something that must not be: the run notes it and goes on. */
export class Finding extends Error {
  readonly kind: FindingKind;

  constructor(kind: FindingKind, message: string) {
    super(message);
    this.kind = kind;
  }
}

/** With more than this there is nothing new to learn. */
const FINDINGS_MAX = 20;
/** What the kernel and the disk hold, for whoever looks into a finding later. */
const EVIDENCE = [
  'cat /proc/self/mountinfo',
  'ps -eo pid,ppid,stat,lstart,args',
  'ip -d link',
  'nft list ruleset',
  'ls -lR run/exits run/ns root/cni root/rootfs --ignore=bin --ignore=merged ipam',
  'find /sys/fs/cgroup -path "*/berth/*" -type d',
];

export class Journal {
  /** How often each thing was done. */
  readonly counts = new Map<string, number>();
  readonly #found = new Map<string, FindingKind>();
  readonly #title: string;
  readonly #say: (line: string) => void;
  #evidence: Promise<string> | undefined;
  /** Kills so far. */
  round = 0;

  constructor(title: string, say: (line: string) => void) {
    this.#title = title;
    this.#say = say;
  }

  count(what: string, add = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + add);
  }

  /** True once it is no use to go on. */
  get full(): boolean {
    return this.#found.size >= FINDINGS_MAX;
  }

  get clean(): boolean {
    return this.#found.size === 0;
  }

  /** Notes a finding, once, with what the node looks like now. */
  async note(node: TestNode, kind: FindingKind, text: string): Promise<void> {
    if (this.#found.has(text) || this.full) return;
    this.#found.set(text, kind);
    const name = `${this.#found.size}-round-${this.round}`;
    this.#evidence ??= mkdtemp(join(tmpdir(), 'berth-crash-'));
    const directory = join(await this.#evidence, name);
    await mkdir(directory);
    await writeFile(join(directory, 'finding'), `${this.#title}, round ${this.round}: ${kind}: ${text}\n`);
    await writeFile(join(directory, 'daemon.log'), node.log);
    for (const kind of ['sandboxes', 'containers'])
      await cp(join(node.dir, 'run', kind), join(directory, kind), {
        recursive: true,
        filter: (path) => !/\/(shm|attach|ctl|winsz)$/.test(path),
      }).catch(() => {});
    await cp(join(node.dir, 'logs'), join(directory, 'logs'), { recursive: true }).catch(() => {});
    const looks = EVIDENCE.map((command) => `# ${command}\n${look(command, node.dir)}`);
    await writeFile(join(directory, 'node.txt'), looks.join('\n'));
    this.#say(`${this.#title}, round ${this.round}: ${kind}: ${text}\n  evidence: ${directory}`);
  }

  /** The last line. */
  summary(): string {
    const of = (kind: FindingKind): number => [...this.#found.values()].filter((each) => each === kind).length;
    const counts = [...this.counts].map(([what, count]) => `${count} ${what}`).join(', ');
    return (
      `${this.#title}: ${this.round} kills: ${of('leak')} leaks, ${of('exit code')} wrong exit codes, ` +
      `${of('line')} lost lines, ${of('call')} failed calls (${counts})`
    );
  }
}

function look(command: string, cwd: string): string {
  try {
    return execFileSync('sh', ['-c', `${command} 2>&1`], { cwd, encoding: 'utf8', maxBuffer: 1 << 26 });
  } catch (error) {
    return String(error);
  }
}
