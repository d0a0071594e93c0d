/**
 * The configuration: a file shaped like crio.conf, a directory of drop-ins, environment variables and flags, the
 * later ones winning, made into one immutable `Config`.
 *
 *   built-in defaults < berth.conf < berth.conf.d/** in lexical order < CONTAINER_* environment < flags
 *
 * `""` is "not set" in all of them. What is misspelt or without effect here is a warning that names it with its place;
 * what has the wrong type is an error with file, line and column; what would weaken the isolation of containers if it
 * were ignored is refused. Arrays are replaced, never appended to; tables of runtime handlers are merged by key.
 * Nothing here looks at the kernel: facts about the node are passed in.
 */
export { runtimeAsCrio } from './as-crio.ts';
export { addToList, argumentsOf, flags, readFlags } from './flags.ts';
export { loadConfig } from './load.ts';
export type { ReloadPart } from './option.ts';
export { planReload, withPart } from './reload.ts';
export type { Change } from './reload.ts';
export { renderConfig } from './render.ts';
export { diskFiles, noFiles } from './sources.ts';
export type { Collector } from './tables/operations.ts';
export type * from './types.ts';
