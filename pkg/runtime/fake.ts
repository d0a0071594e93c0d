/**
 * A node in memory. The fakes are programs that keep the promises of pkg/ports/runtime.ts, not lists of expected calls:
 * containers run, die, leave exit records and namespaces behind, and all of that outlives the fakes themselves.
 *
 *   const node = new FakeNode();
 *   let world = boot(node);             // a daemon's view: monitor, runtime, namespaces, processes, host
 *   node.failNext('create', error);     // the next monitor.create throws
 *   node.crashNext('start', 'after');   // the daemon dies right after runtime.start had its effect
 *   world = boot(node);                 // the next daemon finds what the last one left; the old one never answers
 *   node.leaks();                       // what is still there, in words
 *
 * Deterministic: no timers, no disk (but for `ownRoots`), no randomness; every call yields to the microtask queue
 * before and after its effect, so that interleavings happen.
 */
import { FakeHost, FakeNamespaces, FakeProcesses } from './fake-host.ts';
import { FakeMonitor } from './fake-monitor.ts';
import type { FakeNode } from './fake-node.ts';
import { FakeRuntime, fakeHandler } from './fake-runtime.ts';

export { type FakeMoment, FakeNode, type FakeOperation } from './fake-node.ts';
export { fakeHandler } from './fake-runtime.ts';

/** What one daemon sees of the node. */
export interface FakeView {
  /** Which daemon it is, for calls of fakes elsewhere. */
  readonly epoch: number;
  readonly monitor: FakeMonitor;
  readonly runtime: FakeRuntime;
  readonly runtimeFor: (handler: string) => FakeRuntime;
  readonly namespaces: FakeNamespaces;
  readonly processes: FakeProcesses;
  readonly host: FakeHost;
}

/** A daemon starts: fresh fakes over the same node. The fakes of earlier daemons never answer again. */
export function boot(node: FakeNode): FakeView {
  const epoch = node.begin();
  const runtimeFor = (name: string): FakeRuntime => new FakeRuntime(node, epoch, fakeHandler(name));
  return {
    epoch,
    monitor: new FakeMonitor(node, epoch),
    runtime: runtimeFor('fake'),
    runtimeFor,
    namespaces: new FakeNamespaces(node, epoch),
    processes: new FakeProcesses(node, epoch),
    host: new FakeHost(node, epoch),
  };
}
