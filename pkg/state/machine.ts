/**
 * The two state machines. Pure: no clock, no disk, no log; the caller saves what comes back.
 *
 * Containers:
 *
 *   creating ──created──▶ created ──started──▶ running ──exited──▶ exited
 *      │                     │ ╰───startFailed, exited───────────────▲ │
 *      ╰──────remove──────▶ removing ◀──────────remove─────────────────╯
 *
 * `unknown` is where recovery puts a container whose process it can no longer watch. It can only
 * be found dead (exited), and is removed after that; it never goes back to running.
 *
 * Sandboxes:
 *
 *   creating ──ran──▶ ready ──stop──▶ stopping ──released──▶ stopped ──remove──▶ removing
 *      ╰──────────stop────────────────────▲
 *
 * From `stopping` on, CRI calls the sandbox NOTREADY and no container can be created in it. A sandbox whose
 * release failed stays `stopping`, and the next StopPodSandbox tries again.
 */
import { RuntimeError } from '../base/errors.ts';
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
    case 'started':
      if (state.phase === 'created') return { phase: 'running', process: state.process, startedAt: event.at };
      break;
    case 'startFailed':
      if (state.phase === 'created') {
        return {
          phase: 'exited',
          exitCode: 128,
          reason: 'StartError',
          message: event.message,
          startedAt: 0n,
          finishedAt: event.at,
        };
      }
      break;
    case 'exited':
    case 'vanished':
      // The watcher, the pidfd and recovery may all report one exit.
      if (state.phase === 'exited' || state.phase === 'removing') return state;
      if (state.phase !== 'creating') return exited(state, event);
      break;
    case 'lost':
      if (state.phase === 'created' || state.phase === 'running') {
        return { phase: 'unknown', why: event.why, process: state.process, startedAt: startOf(state) };
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

function exited(
  state: Extract<ContainerState, { phase: 'created' | 'running' | 'unknown' }>,
  event: Extract<ContainerEvent, { type: 'exited' | 'vanished' }>,
): ExitedState {
  const startedAt = startOf(state);
  // The exit file's time is the file system's clock, which may lag the one that stamped the start.
  const finishedAt = event.at > startedAt ? event.at : startedAt;
  if (event.type === 'vanished') {
    return {
      phase: 'exited',
      exitCode: 255,
      reason: 'ContainerStatusUnknown',
      message: event.message,
      startedAt,
      finishedAt,
    };
  }
  return { phase: 'exited', exitCode: event.exitCode, reason: reasonOf(event), message: '', startedAt, finishedAt };
}

function startOf(state: Extract<ContainerState, { phase: 'created' | 'running' | 'unknown' }>): bigint {
  return state.phase === 'created' ? 0n : state.startedAt;
}

function reasonOf(event: { readonly exitCode: number; readonly oomKilled: boolean }): ExitReason {
  if (event.oomKilled) return 'OOMKilled';
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
      if (phase === 'stopped' || phase === 'removing') return { phase: 'removing' };
      break;
  }
  throw new RuntimeError('FailedPrecondition', `pod sandbox is ${phase}, cannot apply '${event}'`);
}
