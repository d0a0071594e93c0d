/**
 * What Berth knows about each sandbox and container, one JSON file per object on tmpfs, and the state machines.
 *
 * The record is written before the first side effect of its object and removed after the last one: while it exists,
 * somebody will call `destroy`. One damaged file costs one object.
 */

export { next, nextSandbox } from './machine.ts';
export { FileStateStore } from './store.ts';
export { Workspace } from './workspace.ts';
