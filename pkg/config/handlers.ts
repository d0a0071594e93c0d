/**
 * Which runtime handlers are usable: those that files and flags name and those that are installed, with what they
 * inherit; a bad one is left out with a warning. A default one that is written wrong stops the daemon, as with CRI-O;
 * one whose program is missing does not: other handlers work, and what runs needs somebody who notes its end. PURE but
 * for the look-up of executables, which is passed in.
 */
import { RuntimeError } from '../base/errors.ts';
import type { Collected, Source } from './collect.ts';
import type { Table, Values } from './option.ts';
import { type handler, handlerTable } from './schema.ts';
import type { HandlerConfig, NodeDefaults } from './types.ts';

/** Known without being named, if they are installed. */
const BUILT_IN_HANDLERS = ['crun', 'runc', 'runsc'] as const;

/** What the decision needs beside the handlers' tables. */
export interface HandlersInput {
  readonly collected: Collected;
  readonly node: NodeDefaults;
  /** `default_runtime`; '' = none in particular. */
  readonly defaultName: string;
  /** Who set it, for the message. */
  readonly defaultPlace: string;
  readonly runroot: string;
  /** The values of a table from what was given. */
  readonly valuesOf: (table: Table, given: ReadonlyMap<string, Source>, prefix: string) => Record<string, unknown>;
}

/** The usable handlers by name, sorted. @throws InvalidArgument when nothing could make the default one usable. */
export function usableHandlers(input: HandlersInput): ReadonlyMap<string, HandlerConfig> {
  const { collected, defaultName, defaultPlace } = input;
  const usable = new Map<string, HandlerConfig>();
  const names = [...new Set([...collected.handlers.keys(), ...BUILT_IN_HANDLERS])];
  if (defaultName !== '' && !names.includes(defaultName))
    throw new RuntimeError(
      'InvalidArgument',
      `${defaultPlace}: crio.runtime.default_runtime is ${JSON.stringify(defaultName)}, but there is no ` +
        `[crio.runtime.runtimes.${defaultName}]; there are ${names.join(', ')}`,
    );
  const parent = parentOf(input);
  for (const name of names.sort()) {
    const made = handlerCalled(input, name, parent);
    const wrong = whatIsWrong(made, parent);
    if (wrong !== undefined && name === defaultName)
      throw new RuntimeError('InvalidArgument', `the default runtime handler ${name} cannot be used: ${wrong}`);
    const found = wrong ?? located(input, made);
    if (typeof found !== 'string') {
      usable.set(name, found);
      if (found.runtimeType === 'pod')
        collected.warn(`runtime handler ${name} is watched by conmon: its runtime_type "pod" is conmon-rs's`);
    } else if (name === defaultName) collected.warn(`the default runtime handler ${name} is left out: ${found}`);
    else if (made.configured) collected.warn(`runtime handler ${name} is left out: ${found}`);
  }
  return usable;
}

/** Whom others inherit from: the default handler, or what would be used where nobody names one. */
function parentOf(input: HandlersInput): HandlerConfig | undefined {
  const called = (name: string): HandlerConfig => handlerCalled(input, name, undefined);
  if (input.defaultName !== '') return called(input.defaultName);
  return ['crun', 'runc'].map(called).find((each) => typeof located(input, each) !== 'string');
}

function handlerCalled(
  { collected, runroot, valuesOf }: HandlersInput,
  name: string,
  parent: HandlerConfig | undefined,
): HandlerConfig {
  const given = collected.handlers.get(name);
  const prefix = `${handlerTable.name}.${name}`;
  const prefixed = new Map([...(given ?? [])].map(([key, source]) => [`${prefix}.${key}`, source]));
  const own = valuesOf(handlerTable, prefixed, prefix) as Values<typeof handler>;
  const inherited = own.inheritDefaultRuntime && parent !== undefined ? pickInherited(parent) : {};
  const made: HandlerConfig = { ...own, ...inherited, name, configured: given !== undefined };
  return {
    ...made,
    runtimeRoot: made.runtimeRoot === '' ? `${runroot}/runtimes/${name}` : made.runtimeRoot,
    // conmon-rs, which speaks another protocol. What it runs is an OCI runtime as any other.
    monitorPath: made.runtimeType === 'pod' ? '' : made.monitorPath,
  };
}

function pickInherited(
  parent: HandlerConfig,
): Pick<HandlerConfig, 'runtimePath' | 'runtimeRoot' | 'runtimeType' | 'runtimeArgs'> {
  return {
    runtimePath: parent.runtimePath === '' ? parent.name : parent.runtimePath,
    runtimeRoot: parent.runtimeRoot,
    runtimeType: parent.runtimeType,
    runtimeArgs: parent.runtimeArgs,
  };
}

/** What is written wrong, on whatever node; undefined if nothing is. */
function whatIsWrong(made: HandlerConfig, parent: HandlerConfig | undefined): string | undefined {
  if (made.inheritDefaultRuntime && parent === undefined)
    return 'inherit_default_runtime needs a default_runtime, or crun or runc in PATH';
  if (made.runtimeType !== 'oci' && made.runtimeType !== 'pod')
    return `runtime_type ${JSON.stringify(made.runtimeType)} is not supported, only "oci"`;
  if (made.execCpuAffinity !== '' && made.execCpuAffinity !== 'first')
    return `exec_cpu_affinity ${JSON.stringify(made.execCpuAffinity)} is neither "first" nor ""`;
  if (!/^(|pod|[^/]+\.slice)$/.test(made.monitorCgroup))
    return `monitor_cgroup ${JSON.stringify(made.monitorCgroup)} is neither a *.slice nor "pod"`;
  return undefined;
}

/** The handler with the absolute paths of its programs, or which of them is missing. */
function located({ node }: HandlersInput, made: HandlerConfig): HandlerConfig | string {
  const find = node.findExecutable;
  if (find === undefined) return made;
  const monitorPath = made.monitorPath === '' ? '' : find(made.monitorPath);
  if (monitorPath === undefined) return `monitor_path ${made.monitorPath} is not an executable file`;
  const runtimePath = find(made.runtimePath === '' ? made.name : made.runtimePath);
  if (runtimePath !== undefined) return { ...made, monitorPath, runtimePath };
  return made.runtimePath === ''
    ? `runtime_path is not set and there is no ${made.name} in PATH`
    : `runtime_path ${made.runtimePath} is not an executable file`;
}
