/**
 * The mind of Berth: sandboxes and containers, from the request to the last trace.
 *
 * It sees the world through `World`, a struct of interfaces, so it runs whole in a unit test, and it never touches the
 * kernel. Three rules hold everywhere in here: the record is saved before the first side effect and removed after the
 * last; `destroy` is the only clean-up; reads look at immutable records and never wait for a write.
 */

export { type Inspected, type OpenPods, openPods } from './open.ts';
export { containerName, podContainerName } from './names.ts';
export { DirectoryExtensions } from './extensions.ts';
export * from './query.ts';
export type * from './world.ts';
