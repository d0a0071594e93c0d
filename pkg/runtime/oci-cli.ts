/**
 * OciRuntime over runc's command line: runc, crun, runsc, youki. One process per call, nothing kept between calls.
 *
 * What failed is told by facts where there are any (the state directory, `state`), by the runtime's words only where
 * there are none.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { explain, isCode, RuntimeError } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import { stringifyExact } from '../base/json.ts';
import { limits } from '../base/limits.ts';
import { backgroundOp, checkAlive, type Op, silent, withTimeout } from '../base/op.ts';
import { readDirSorted } from '../base/files.ts';
import { within } from '../base/time.ts';
import type { LinuxResources, RuntimeProcess } from '../oci/spec-types.ts';
import type { Captured, CaptureRequest, CgroupLayout } from '../ports/kernel.ts';
import { capture, cgroups, killTree, orphans, processes } from '../sys/index.ts';
import { execDetached } from './exec.ts';
import { remembered } from './features.ts';
import { killInside } from './inside.ts';
import { endWhenDue, removeFiles } from './left-execs.ts';
import { codeOfText, errorText, featuresOf, parseObject, shellCodeOfText } from './messages.ts';
import { ExecScratch, type LeftExec } from './scratch.ts';
import type {
  ExecStdio,
  ExitStatus,
  OciRuntime,
  OciStatus,
  RuntimeFeatures,
  RuntimeHandler,
} from '../ports/runtime.ts';

/** A runtime of a handler. */
export class OciCli implements OciRuntime {
  readonly handler: RuntimeHandler;
  readonly #scratch: ExecScratch;
  #features: Promise<RuntimeFeatures> | undefined;

  /** Runtimes of one root have one scratch. */
  constructor(handler: RuntimeHandler, scratch = ExecScratch.of(handler.root)) {
    this.handler = handler;
    this.#scratch = scratch;
  }

  features(op: Op): Promise<RuntimeFeatures> {
    this.#features ??= this.#askFeatures(op).catch((error: unknown) => {
      this.#features = undefined;
      throw error;
    });
    return this.#features;
  }

  async start(op: Op, id: ContainerId): Promise<void> {
    await this.#mustRun(op, id, 'start', ['start', id], { withoutUs: 'goes on' });
  }

  async kill(op: Op, id: ContainerId, signal: number): Promise<void> {
    await this.#mustRun(op, id, 'kill', ['kill', id, String(signal)]);
  }

  async delete(op: Op, id: ContainerId): Promise<void> {
    // Runsc waits five seconds for the process that served the container's files to vanish, which comes to us when its
    // monitor has ended.
    const result = await orphans
      .whileReaping(() => this.#run(op, 'delete', ['delete', '--force', id]))
      .catch((cause: unknown) => {
        if (!isCode(cause, 'NotFound')) throw cause;
        op.log.warn('the runtime of what is to go is not on this node any more; its processes end with their cgroup', {
          container: id,
          cause: explain(cause),
        });
        return undefined;
      });
    // What such a runtime noted is a directory in memory, and nobody will ask for it again.
    if (result === undefined) await rm(join(this.handler.root, id), { recursive: true, force: true });
    else if (result.exitCode !== 0 && (await this.#hasState(id))) throw this.#failure(id, 'delete', result);
  }

  async status(op: Op, id: ContainerId): Promise<OciStatus> {
    const result = await this.#run(op, 'state', ['state', id]);
    if (result.exitCode !== 0) {
      if (!(await this.#hasState(id))) return { state: 'absent' };
      throw this.#failure(id, 'state', result);
    }
    return parseState(result.stdout.toString('utf8'), this.handler.path);
  }

  async startsEnded(op: Op, id: ContainerId): Promise<void> {
    for await (const [start, bytes] of processes.filesOf(processes.listPids(), 'cmdline', limits.commandLineBytes)) {
      if (!startsContainer(bytes.toString('utf8').split('\0'), id)) continue;
      op.stage(`wait for ${this.handler.path} start, begun before the restart`);
      // Whoever began it would not have waited longer; a hook that hangs keeps it for ever.
      if ((await within(limits.runtimeCommandMs, processes.waitGone(start, op.signal))) === 'late') killTree(start);
      await processes.waitGone(start, op.signal);
      checkAlive(op, 'waiting for a start that was begun before the restart');
    }
  }

  async update(op: Op, id: ContainerId, resources: LinuxResources): Promise<void> {
    const { kind, ownKernel } = await this.features(op);
    if (ownKernel)
      throw new RuntimeError(
        'Unimplemented',
        `${this.handler.path} cannot change the limits of container ${id}: ${kind} has no such ` +
          'command; make the container anew with other limits',
      );
    await this.#mustRun(op, id, 'update', ['update', '--resources', '-', id], {
      stdin: stringifyExact(resources),
    });
  }

  async pause(op: Op, id: ContainerId): Promise<void> {
    await this.#mustRun(op, id, 'pause', ['pause', id]);
  }

  async resume(op: Op, id: ContainerId): Promise<void> {
    await this.#mustRun(op, id, 'resume', ['resume', id]);
  }

  async list(_op: Op): Promise<readonly ContainerId[]> {
    return stateIds(await readDirSorted(this.handler.root));
  }

  async exec(op: Op, id: ContainerId, process: RuntimeProcess, stdio: ExecStdio): Promise<ExitStatus> {
    const scratch = await this.#scratch.take();
    const killer = (await this.features(op)).ownKernel
      ? (pid: number) => killInside((args) => this.#words(args), id, pid)
      : undefined;
    const outcome = await execDetached(op, {
      argv: this.#argv([]),
      id,
      process,
      stdio,
      scratch,
      killInside: killer,
    });
    if (outcome.kind === 'exited') return { exitCode: outcome.exitCode };
    const code = codeOfText(outcome.text);
    // crun does not say what it could not execute.
    const [program = ''] = process.args;
    const text = outcome.text.includes(program) ? outcome.text : `${program}: ${outcome.text}`;
    throw code === 'InvalidArgument'
      ? this.#refused(id, 'exec', text, code, shellCodeOfText(outcome.text))
      : await this.#diagnosed(op, id, 'exec', outcome.text, code);
  }

  async endLeftExecs(op: Op): Promise<void> {
    const left = await this.#scratch.takeLeft();
    if (left.length === 0) return;
    const killer = (id: ContainerId, pid: number): Promise<void> => killInside((args) => this.#words(args), id, pid);
    op.stage(`${left.length} commands from before the restart have a time to end at`);
    const end = async ({ exec, files }: LeftExec): Promise<void> => {
      await endWhenDue(op, files, exec, killer);
      if (!op.signal.aborted) removeFiles(files);
    };
    await Promise.all(left.map(end));
  }

  async #askFeatures(op: Op): Promise<RuntimeFeatures> {
    try {
      const { version, features } = await remembered(this.handler.path, `${this.handler.root}.features`, async () => {
        const [version, features] = await Promise.all([
          this.#run(op, '--version', ['--version']),
          this.#run(op, 'features', ['features']),
        ]);
        return { version, features };
      });
      const known = featuresOf(this.handler.path, version, features);
      return { ...known, broken: known.broken ?? brokenOn(known.kind, cgroups.readLayoutSync()) };
    } catch (error) {
      if (op.signal.aborted) throw error;
      return { ...featuresOf(this.handler.path, undefined, undefined), broken: explain(error) };
    }
  }

  /** What a command prints that has to succeed, whatever becomes of the operation that it cleans up after. */
  async #words(args: readonly string[]): Promise<string> {
    const result = await this.#run(backgroundOp(silent), args[0] ?? '', args);
    if (result.exitCode !== 0)
      throw new RuntimeError('Internal', `${this.handler.path} ${args[0] ?? ''}: ${textOf(result)}`);
    return result.stdout.toString('utf8');
  }

  /** Runs a command that has to succeed. */
  async #mustRun(op: Op, id: ContainerId, verb: string, args: readonly string[], how: How = {}): Promise<void> {
    const result = await this.#run(op, verb, args, how);
    if (result.exitCode === 0) return;
    const text = textOf(result);
    throw await this.#diagnosed(op, id, verb, text, codeOfText(text));
  }

  /**
   * The error for a failed command, from the container's state: what is absent is NotFound, what is in the wrong state
   * is FailedPrecondition.
   */
  async #diagnosed(
    op: Op,
    id: ContainerId,
    verb: string,
    text: string,
    code: ReturnType<typeof codeOfText>,
  ): Promise<RuntimeError> {
    const status = await this.status(op, id).catch(() => undefined);
    if (status?.state === 'absent')
      return new RuntimeError('NotFound', `container ${id} does not exist in ${this.handler.root}`);
    if (status !== undefined && !ALLOWED[verb]?.includes(status.state)) {
      const gone = verb === 'kill' && status.state === 'stopped';
      return new RuntimeError(
        gone ? 'NotFound' : 'FailedPrecondition',
        `cannot ${verb} container ${id}: it is ${status.state} (${this.handler.path}: ${text})`,
      );
    }
    return this.#refused(id, verb, text, code);
  }

  #failure(id: ContainerId, verb: string, result: Captured): RuntimeError {
    const text = textOf(result);
    return this.#refused(id, verb, text, codeOfText(text));
  }

  #refused(
    id: ContainerId,
    verb: string,
    text: string,
    code: ReturnType<typeof codeOfText>,
    exitCode?: number,
  ): RuntimeError {
    return new RuntimeError(
      code,
      `${this.handler.path} ${verb} failed for container ${id}: ${text === '' ? 'it did not say why' : text}`,
      { exitCode },
    );
  }

  async #hasState(id: ContainerId): Promise<boolean> {
    return stateIds(await readDirSorted(this.handler.root)).includes(id);
  }

  #argv(args: readonly string[]): [string, ...string[]] {
    const { handler } = this;
    return [
      handler.path,
      '--root',
      handler.root,
      ...(handler.cgroupManager === 'systemd' ? ['--systemd-cgroup'] : []),
      ...handler.runtimeArgs,
      ...args,
    ];
  }

  #run(op: Op, verb: string, args: readonly string[], how: How = {}): Promise<Captured> {
    const what = `${this.handler.path} ${verb}`;
    op.stage(what);
    return capture(withTimeout(op, limits.runtimeCommandMs), {
      argv: this.#argv(args),
      what,
      ...how,
      stdoutMax: limits.runtimeAnswerBytes,
      stderrMax: limits.commandErrorBytes,
    });
  }
}

/** How a command is run. A start goes on without us: killed half way, it would leave out hooks that are due. */
type How = Pick<CaptureRequest, 'stdin' | 'withoutUs'>;

/** In which states each command may be used; elsewhere its failure is the caller's. */
const ALLOWED: Readonly<Record<string, readonly OciStatus['state'][]>> = {
  start: ['created'],
  kill: ['created', 'running', 'paused'],
  update: ['created', 'running', 'paused'],
  pause: ['created', 'running'],
  resume: ['paused'],
  exec: ['running'],
};

/**
 * PURE. Why this kind of runtime cannot work with the node's cgroups; undefined if it can. crun refuses to make
 * containers on the hybrid layout while any controller is left to the v2 hierarchy.
 */
export function brokenOn(kind: string, layout: Pick<CgroupLayout, 'mode' | 'hierarchies'>): string | undefined {
  const left = layout.hierarchies.find((each) => each.version === 2 && each.controllers.length > 0);
  if (kind !== 'crun' || layout.mode !== 'hybrid' || left === undefined) return undefined;
  const [name = ''] = left.controllers;
  return (
    `crun does not work on a hybrid cgroup layout with controllers in ${left.mountPoint} ` +
    `(${left.controllers.join(', ')}); mount them as v1 (mount -t cgroup -o ${name} none ` +
    `/sys/fs/cgroup/${name}), or use runc`
  );
}

/**
 * PURE but for the process table. The answer of `state`. A container whose process is gone or a zombie is stopped,
 * whatever the runtime says: crun calls it running until somebody reaps it. @throws Internal if it is no answer.
 */
export function parseState(text: string, runtime: string, living: (pid: number) => boolean = isLiving): OciStatus {
  const answer = parseObject(text);
  const status = answer?.['status'];
  const pid = typeof answer?.['pid'] === 'number' ? answer['pid'] : 0;
  switch (status) {
    case 'stopped':
      return { state: 'stopped', pid: 0 };
    case 'creating':
    case 'created':
    case 'running':
    case 'paused':
      return living(pid) ? { state: status, pid } : { state: 'stopped', pid: 0 };
    default:
      throw new RuntimeError(
        'Internal',
        `${runtime} state answered something that is no state: ${errorText(text).slice(0, 200)}`,
      );
  }
}

/**
 * PURE. Whether a command line is of a runtime that starts this container. Whatever its name: runtimes hand on to
 * others, or are scripts.
 */
export function startsContainer(words: readonly string[], id: ContainerId): boolean {
  const start = words.indexOf('start');
  return start > 0 && words[start + 1] === id;
}

/** PURE. Ids in the names of a state directory: `<id>` (runc, crun, youki) or `<id>_sandbox:<id>.state` (runsc). */
export function stateIds(names: readonly string[]): ContainerId[] {
  return [...new Set(names.flatMap((name) => /^([0-9a-f]{64})(?![0-9a-f])/.exec(name)?.[1] ?? []))] as ContainerId[];
}

function isLiving(pid: number): boolean {
  const ref = processes.refOf(pid);
  return ref !== undefined && processes.isAlive(ref);
}

function textOf(result: Captured): string {
  const text =
    errorText(result.stderr.toString('utf8')) || errorText(result.stdout.toString('utf8', 0, limits.commandErrorBytes));
  return text || (result.signal === null ? `exit code ${result.exitCode}` : `killed by signal ${result.signal}`);
}
