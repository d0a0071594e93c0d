/**
 * The two state machines. Pure: no clock, no disk, no log; the caller saves what comes back.
 *
 * Containers:
 *
 *                              ╭─notStarted─╮
 *                              ▼            │
 *   creating ──created──▶ created ──────▶ starting ──started──▶ running ──exited──▶ exited
 *      │                     ╰───────────────┴────────exited, vanished───────────────▲ │
 *      ╰──remove──▶ removing ◀─────────────────────remove──────────────────────────────╯
 *
 * `starting` is on record before the runtime is told to start: whoever finds it there, after a crash or a failed call,
 * asks what is true and applies `started`, `notStarted`, or `exited`. `startFailed` says why a process has ended whose
 * end is not on record yet. `unknown` is where a container is put of which nobody can tell whether it was started. It
 * can only be found dead (exited), and is removed after that; it never goes back to running.
 *
 * Sandboxes:
 *
 *   creating ──ran──▶ ready ──stop──▶ stopping ──released──▶ stopped ──remove──▶ removing
 *      ├──────────stop────────────────────▲                                          ▲
 *      ╰───────────────────────────────────────remove────────────────────────────────╯
 *
 * From `stopping` on, CRI calls the sandbox NOTREADY and no container can be created in it. A sandbox whose
 * release failed stays `stopping`, and the next StopPodSandbox tries again. One that could neither be made nor
 * cleaned up is `removing`: the daemon tries again by itself, and whoever lists it may remove it.
 */
import { RuntimeError } from '../base/errors.ts';
import type { ProcessRef } from '../base/ids.ts';
import type {
  ContainerEvent,
  ContainerState,
  ExitReason,
  ExitedState,
  SandboxEvent,
  SandboxState,
} from '../ports/state.ts';

/**
 * The state after `event`.
 * @throws FailedPrecondition when the machine has no such edge.
 */
export function next(state: ContainerState, event: ContainerEvent): ContainerState {
  switch (event.type) {
    case 'created':
      if (state.phase === 'creating') return { phase: 'created', process: event.process };
      break;
    case 'starting':
      if (state.phase === 'created')
        return {
          phase: 'starting',
          process: state.process,
          startedAt: event.at,
          executed: event.executed,
          failure: '',
        };
      break;
    case 'started':
      if (state.phase === 'starting') return { phase: 'running', process: state.process, startedAt: state.startedAt };
      break;
    case 'notStarted':
      if (state.phase === 'starting') return { phase: 'created', process: state.process };
      break;
    case 'startFailed':
      if (state.phase === 'starting') return { ...state, failure: event.message };
      break;
    case 'exited':
    case 'vanished':
      // The watcher, the pidfd and recovery may all report one exit.
      if (state.phase === 'exited' || state.phase === 'removing') return state;
      if (state.phase !== 'creating') return exited(state, event);
      break;
    case 'lost':
      if (state.phase === 'starting') {
        return { phase: 'unknown', why: event.why, process: state.process, startedAt: state.startedAt };
      }
      break;
    case 'remove':
      if (state.phase === 'removing') return state;
      if (state.phase === 'exited') return { phase: 'removing', last: state };
      if (state.phase === 'creating') return { phase: 'removing', last: null };
      break;
  }
  throw new RuntimeError('FailedPrecondition', `container is ${state.phase}, cannot apply '${event.type}'`);
}

type Ending = Extract<ContainerEvent, { type: 'exited' | 'vanished' }>;

function exited(state: LivingState, event: Ending): ExitedState {
  const startedAt = event.type === 'vanished' && failureOf(state) !== '' ? 0n : startOf(state);
  // The exit file's time is the file system's clock, which may lag the one that stamped the start.
  const finishedAt = event.at > startedAt ? event.at : startedAt;
  return { phase: 'exited', ...outcome(state, event), startedAt, finishedAt };
}

function outcome(state: LivingState, event: Ending): Pick<ExitedState, 'exitCode' | 'reason' | 'message'> {
  const failure = failureOf(state);
  if (event.type === 'exited') {
    const reason = reasonOf(event);
    const message = reason === 'seccomp killed' ? `Used forbidden syscalls: ${event.forbiddenCalls}` : failure;
    return { exitCode: event.exitCode, reason, message };
  }
  // The code that containerd has for a start that failed; nobody knows a better one.
  if (failure !== '') return { exitCode: 128, reason: 'StartError', message: failure };
  return { exitCode: 255, reason: 'ContainerStatusUnknown', message: event.message };
}

function failureOf(state: LivingState): string {
  return state.phase === 'starting' ? state.failure : '';
}

type LivingState = Extract<ContainerState, { readonly process: ProcessRef }>;

function startOf(state: LivingState): bigint {
  return state.phase === 'created' ? 0n : state.startedAt;
}

function reasonOf(event: Extract<Ending, { type: 'exited' }>): ExitReason {
  if (event.oomKilled) return 'OOMKilled';
  if (event.forbiddenCalls !== undefined) return 'seccomp killed';
  return event.exitCode === 0 ? 'Completed' : 'Error';
}

/**
 * The state after `event`. Stopping what is stopped, or removing what is being removed, changes nothing.
 * @throws FailedPrecondition when the machine has no such edge.
 */
export function nextSandbox(state: SandboxState, event: SandboxEvent): SandboxState {
  const { phase } = state;
  switch (event) {
    case 'ran':
      if (phase === 'creating') return { phase: 'ready' };
      break;
    case 'stop':
      if (phase === 'ready' || phase === 'creating') return { phase: 'stopping' };
      return state;
    case 'released':
      if (phase === 'stopping' || phase === 'stopped') return { phase: 'stopped' };
      break;
    case 'remove':
      if (phase === 'removing') return state;
      if (phase === 'stopped' || phase === 'creating') return { phase: 'removing' };
      break;
  }
  throw new RuntimeError('FailedPrecondition', `pod sandbox is ${phase}, cannot apply '${event}'`);
}
