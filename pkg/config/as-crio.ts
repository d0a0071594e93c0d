/** The table [crio.runtime] as CRI-O shows it in a verbose Status, with the names that its Go fields have. PURE. */
import { renderConfig } from './render.ts';
import { parseToml } from './toml.ts';
import type { Config } from './types.ts';

/** Words that Go writes in capitals, or with more of them than one (CRI-O: pkg/config/config.go, RuntimeConfig). */
const WORDS: ReadonlyMap<string, string> = new Map([
  ['selinux', 'SELinux'],
  ['cdi', 'CDI'],
  ['cpuset', 'CPUSet'],
  ['cpu', 'CPU'],
  ['hostport', 'HostPort'],
  ['hostnetwork', 'HostNetwork'],
  ['irqbalance', 'IrqBalance'],
  ['gomaxprocs', 'GOMAXPROCS'],
  ['uid', 'UID'],
  ['gid', 'GID'],
]);
/** Fields that are not called as their keys are. */
const NAMES: ReadonlyMap<string, string> = new Map([['cgroup_manager', 'CgroupManagerName']]);

/** What is in force of [crio.runtime] and its handlers and workloads, values as in a file. */
export function runtimeAsCrio(config: Config): Readonly<Record<string, unknown>> {
  // Those that are built in are in no file.
  const runtimes = new Map([...config.runtimes].map(([name, each]) => [name, { ...each, configured: true }]));
  const text = renderConfig({ ...config, runtimes }, { comment: 'none', docs: 'without' });
  const { root } = parseToml(text, 'the configuration');
  const { runtime } = root['crio'] as { readonly runtime: Readonly<Record<string, unknown>> };
  return renamed(runtime, (key, each) => (key === 'runtimes' || key === 'workloads' ? everyTable(each) : each));
}

function everyTable(tables: unknown): unknown {
  if (tables === null || typeof tables !== 'object' || Array.isArray(tables)) return tables;
  return Object.fromEntries(Object.entries(tables).map(([name, each]) => [name, renamed(each as object, keep)]));
}

function keep(_key: string, value: unknown): unknown {
  return value;
}

function renamed(table: object, value: (key: string, each: unknown) => unknown): Record<string, unknown> {
  return Object.fromEntries(Object.entries(table).map(([key, each]) => [fieldName(key), value(key, each)]));
}

function fieldName(key: string): string {
  return NAMES.get(key) ?? key.split('_').map(capitalized).join('');
}

function capitalized(word: string): string {
  return WORDS.get(word) ?? `${word.charAt(0).toUpperCase()}${word.slice(1)}`;
}
