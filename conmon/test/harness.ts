/**
 * Runs a monitor as a CRI daemon would, over a stand-in runtime whose container is a shell script,
 * or over a real one. Everything a case makes lives in its own directory, and `leaks` says what
 * was left behind after it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Duplex } from 'node:stream';

const here = import.meta.dirname;
const out = resolve(here, '../../build/bin');

/** The suite's C helper (tool.c says what it can do). */
export const tool = join(out, 'conmon-test-tool');
const standInRuntime = join(here, 'runtime.sh');

/** A monitor under test. */
export interface Subject {
  readonly name: 'ours' | 'upstream';
  readonly path: string;
}

/** The monitors to test: ours, which CONMON may replace by another build of it, and the distribution's. */
export const subjects: readonly Subject[] = [
  { name: 'ours', path: resolve(process.env['CONMON'] ?? join(out, 'conmon')) },
  { name: 'upstream', path: '/usr/bin/conmon' },
];

/** Waits until `ask` gives something other than undefined or false; fails saying `what` after `ms`. */
export async function until<T>(what: string, ask: () => T | undefined | false, ms = 15_000): Promise<T> {
  const deadline = Date.now() + ms;
  for (;;) {
    const answer = ask();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > deadline) throw new Error(`waited ${ms} ms in vain: ${what}`);
    await new Promise((done) => setTimeout(done, 4));
  }
}

/** The file's text, or undefined while there is none. */
export function readIf(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return undefined;
  }
}

/** Whether a process exists and is no zombie. */
export function isAlive(pid: number): boolean {
  const stat = readIf(`/proc/${pid}/stat`);
  return stat !== undefined && !/\) Z /.test(stat);
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has gone by itself.
  }
}

/** One line of a CRI log. */
export interface LogLine {
  readonly at: string;
  readonly stream: string;
  readonly tag: string;
  readonly text: string;
}

/** Parses a CRI log strictly: a line that is none is an error. */
export function parseLog(text: string): LogLine[] {
  if (text !== '' && !text.endsWith('\n')) throw new Error(`torn log: ...${JSON.stringify(text.slice(-80))}`);
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const m = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d) (stdout|stderr) ([FP]) ([^]*)$/.exec(line);
      if (!m) throw new Error(`no CRI log line: ${JSON.stringify(line.slice(0, 120))}`);
      return { at: m[1]!, stream: m[2]!, tag: m[3]!, text: m[4]! };
    });
}

/** What the container wrote to a stream, put together from its log. */
export function contentOf(lines: readonly LogLine[], stream: string): string {
  return lines
    .filter((l) => l.stream === stream)
    .map((l) => l.text + (l.tag === 'F' ? '\n' : ''))
    .join('');
}

/** Splits the tool's output into the messages in it. */
function messagesOf(data: Buffer): Buffer[] {
  const messages: Buffer[] = [];
  for (let at = 0; at + 4 <= data.length; ) {
    const len = data.readUInt32LE(at);
    if (at + 4 + len > data.length) break;
    messages.push(data.subarray(at + 4, at + 4 + len));
    at += 4 + len;
  }
  return messages;
}

/** A process of the suite whose output is kept. */
export class Helper {
  readonly process: ChildProcess;
  readonly ended: Promise<number | null>;
  #output: Buffer[] = [];

  constructor(command: string, args: readonly string[]) {
    this.process = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.process.stdout!.on('data', (chunk: Buffer) => this.#output.push(chunk));
    this.process.stdin!.on('error', () => undefined);
    this.ended = new Promise((done) => this.process.once('close', done));
  }

  get output(): Buffer {
    return Buffer.concat(this.#output);
  }

  get messages(): Buffer[] {
    return messagesOf(this.output);
  }

  /** Waits until an attach client is connected, which is before the monitor accepts it. */
  async connected(): Promise<this> {
    await until('the client is connected', () => this.messages.length > 0);
    return this;
  }

  /** What packets of this stream carried so far (2 stdout, 3 stderr). */
  received(stream: number): string {
    return this.messages
      .filter((m) => m[0] === stream)
      .map((m) => m.subarray(1).toString('latin1'))
      .join('');
  }

  write(text: string): void {
    this.process.stdin!.write(text);
  }

  end(): void {
    this.process.stdin!.end();
  }
}

/** How to start a monitor; all that is left out is as an everyday container has it. */
export interface StartOptions {
  /** The script that is the container, for the stand-in runtime. */
  readonly program?: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Log drivers; the default is one k8s-file at `log`. */
  readonly logs?: readonly string[];
  readonly runtime?: string;
  readonly mode?: 'create' | 'exec';
  /** Hold the start byte back, for the case to send. */
  readonly holdStart?: boolean;
  /** Descriptors from 6 upwards. */
  readonly extraFds?: readonly number[];
  /** A command that executes the monitor in the end. */
  readonly under?: readonly string[];
}

/** One case: a directory, and the monitor in it. */
export class Case {
  readonly dir: string;
  readonly bundle: string;
  readonly id: string;
  readonly log: string;
  readonly subject: Subject;
  #pids = new Set<number>();
  #helpers: Helper[] = [];

  constructor(subject: Subject) {
    this.subject = subject;
    this.dir = mkdtempSync(join(tmpdir(), 'conmon-suite-'));
    this.id = `c${this.dir.slice(-6)}0123456789abcdef`;
    this.bundle = join(this.dir, 'bundle');
    this.log = join(this.dir, 'ctr.log');
    for (const name of ['bundle', 'exits', 'persist', 'sock', 'tmp']) mkdirSync(join(this.dir, name));
  }

  path(...names: string[]): string {
    return join(this.dir, ...names);
  }

  /** Starts a monitor; returns once the command the daemon runs has been started, not ended. */
  start(options: StartOptions = {}): Run {
    if (options.program !== undefined) writeFileSync(join(this.bundle, 'program'), options.program);
    const exec = options.mode === 'exec';
    const logs = (options.logs ?? [`k8s-file:${this.log}`]).flatMap((l) => ['-l', l]);
    const args = [
      '-c',
      this.id,
      '-u',
      this.id,
      '-n',
      'name',
      '-b',
      this.bundle,
      '-r',
      options.runtime ?? standInRuntime,
      '-p',
      this.path('pidfile'),
      '-P',
      this.path('conmon.pid'),
      '--exit-dir',
      this.path('exits'),
      '--persist-dir',
      this.path('persist'),
      '--socket-dir-path',
      this.path('sock'),
      ...(exec ? ['-e', '--exec-process-spec', join(this.bundle, 'program')] : []),
      ...logs,
      ...(options.args ?? []),
    ];
    return this.#track(new Run(this, args, options));
  }

  /** Starts a monitor with exactly these arguments. */
  startRaw(args: readonly string[], options: StartOptions = {}): Run {
    return this.#track(new Run(this, args, options));
  }

  #track(run: Run): Run {
    if (run.child.pid !== undefined) this.#pids.add(run.child.pid);
    return run;
  }

  attach(verb: 'attach' | 'deaf' = 'attach'): Helper {
    return this.help(tool, [verb, this.path('bundle', 'attach')]);
  }

  help(command: string, args: readonly string[]): Helper {
    const helper = new Helper(command, args);
    this.#helpers.push(helper);
    return helper;
  }

  /** The pid in a file, once it is there. */
  async pidIn(name: 'conmon.pid' | 'pidfile'): Promise<number> {
    const text = await until(`${name} is written`, () => readIf(this.path(name)) || undefined);
    const pid = Number(text);
    this.#pids.add(pid);
    return pid;
  }

  /** Waits for the exit file; returns what is in it. */
  async exit(ms?: number): Promise<string> {
    return until('the exit file appears', () => readIf(this.path('exits', this.id)), ms);
  }

  /** Waits until the monitor has gone. */
  async gone(ms?: number): Promise<void> {
    const pid = await this.pidIn('conmon.pid');
    await until('the monitor ends', () => !isAlive(pid), ms);
  }

  lines(): LogLine[] {
    return parseLog(readFileSync(this.log, 'latin1'));
  }

  /** Ends what is left of the case and says what had leaked. */
  async close(): Promise<string[]> {
    for (const name of ['conmon.pid', 'pidfile'] as const) {
      const pid = Number(readIf(this.path(name)) ?? 0);
      if (pid > 1) this.#pids.add(pid);
    }
    for (const helper of this.#helpers) helper.process.kill('SIGKILL');
    for (const pid of this.#pids) kill(pid);
    for (const pid of ownedBy(this.dir)) kill(pid);
    await until('the processes of the case end', () => ownedBy(this.dir).length === 0);
    const left = readdirSync(this.path('tmp')).map((f) => `file ${f} in TMPDIR`);
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((l) => l.includes(this.dir));
    rmSync(this.dir, { recursive: true, force: true });
    return [...left, ...mounts.map((m) => `mount ${m}`)];
  }
}

/** Processes that name a directory in their arguments or work in it. */
function ownedBy(dir: string): number[] {
  return readdirSync('/proc')
    .filter((n) => /^\d+$/.test(n) && Number(n) !== process.pid)
    .map(Number)
    .filter((pid) => isAlive(pid) && (readIf(`/proc/${pid}/cmdline`) ?? '').includes(dir));
}

/** A running monitor, from the side of the daemon. */
export class Run {
  readonly child: ChildProcess;
  /** Exit status of the command the daemon started: the intermediate process unless --sync. */
  readonly started: Promise<number | null>;
  #sync = '';
  #attach = '';
  #stderr = '';

  constructor(testCase: Case, args: readonly string[], options: StartOptions) {
    const [command = '', ...rest] = [...(options.under ?? []), testCase.subject.path, ...args];
    this.child = spawn(command, rest, {
      cwd: testCase.bundle,
      stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', 'pipe', ...(options.extraFds ?? [])],
      env: {
        PATH: process.env['PATH'] ?? '/usr/bin:/bin',
        TMPDIR: testCase.path('tmp'),
        _OCI_SYNCPIPE: '3',
        _OCI_STARTPIPE: '4',
        _OCI_ATTACHPIPE: '5',
        ASAN_OPTIONS: 'detect_leaks=0',
        VALGRIND_LOGS: process.env['VALGRIND_LOGS'] ?? '',
        ...options.env,
      },
    });
    this.started = new Promise((done) => this.child.once('exit', done));
    this.#pipe(3)
      .on('data', (d: Buffer) => (this.#sync += d.toString('utf8')))
      .on('error', () => undefined);
    this.#pipe(5)
      .on('data', (d: Buffer) => (this.#attach += d.toString('utf8')))
      .on('error', () => undefined);
    this.#pipe(4).on('error', () => undefined);
    this.child.stderr!.on('data', (d: Buffer) => (this.#stderr += d.toString('utf8')));
    this.child.stdout!.resume();
    if (!options.holdStart) this.release();
  }

  #pipe(fd: number): Duplex {
    return this.child.stdio[fd] as unknown as Duplex;
  }

  /** Sends the start byte. */
  release(): void {
    this.#pipe(4).write('x');
  }

  get stderr(): string {
    return this.#stderr;
  }

  get attachPipe(): string {
    return this.#attach;
  }

  /** The complete messages on the sync pipe so far. */
  get reports(): Record<string, unknown>[] {
    return this.#sync
      .split('\n')
      .slice(0, -1)
      .map((l) => JSON.parse(l) as Record<string, unknown>);
  }

  /** Waits for the n-th message on the sync pipe. */
  async report(n = 0, ms?: number): Promise<Record<string, unknown>> {
    return until(`message ${n} on the sync pipe (stderr: ${this.#stderr.slice(0, 300)})`, () => this.reports[n], ms);
  }

  /** Waits for {"pid": ...} of a container that could be created. */
  async created(): Promise<number> {
    const { pid, message } = await this.report();
    if (typeof pid !== 'number' || pid <= 0) throw new Error(`not created: ${String(message)}`);
    return pid;
  }
}

/** Makes a root file system of busybox and the tool, and a config.json, for a real runtime. */
export function realBundle(
  testCase: Case,
  program: string,
  options: { terminal?: boolean; memory?: number } = {},
): void {
  const root = join(testCase.bundle, 'rootfs');
  for (const dir of ['bin', 'dev', 'proc']) mkdirSync(join(root, dir), { recursive: true });
  writeFileSync(join(root, 'bin/busybox'), readFileSync('/bin/busybox'));
  writeFileSync(join(root, 'bin/tool'), readFileSync(tool));
  for (const f of ['busybox', 'tool']) chmodSync(join(root, 'bin', f), 0o755);
  const config = {
    ociVersion: '1.0.2',
    process: {
      terminal: options.terminal ?? false,
      user: { uid: 0, gid: 0 },
      cwd: '/',
      env: ['PATH=/bin'],
      noNewPrivileges: true,
      args: ['/bin/busybox', 'sh', '-c', program],
      capabilities: { bounding: ['CAP_KILL'], effective: ['CAP_KILL'], permitted: ['CAP_KILL'] },
    },
    root: { path: 'rootfs' },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs' },
      { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['newinstance', 'ptmxmode=0666'] },
    ],
    linux: {
      namespaces: ['pid', 'mount', 'ipc', 'uts'].map((type) => ({ type })),
      cgroupsPath: `/conmon-suite-${testCase.id}`,
      ...(options.memory === undefined ? {} : { resources: { memory: { limit: options.memory } } }),
    },
  };
  writeFileSync(join(testCase.bundle, 'config.json'), JSON.stringify(config));
}

/** The runtimes of this machine. */
export const realRuntimes: readonly string[] = ['/usr/bin/runc', '/usr/bin/crun'].filter((p) => existsSync(p));

/** Runs a command to its end; returns its status and output. */
export async function runCommand(
  command: string,
  args: readonly string[],
): Promise<{ status: number | null; output: string }> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (d: Buffer) => (output += d.toString('latin1')));
  child.stderr.on('data', (d: Buffer) => (output += d.toString('latin1')));
  const status = await new Promise<number | null>((done) => child.once('close', done));
  return { status, output };
}
