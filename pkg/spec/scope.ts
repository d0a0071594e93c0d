/**
 * What systemd is told about the scope of a container, as annotations that runc and crun turn into properties of the
 * unit (`org.systemd.property.*`, values in the text format of GVariant). PURE.
 *
 * Without a word runtimes make scopes that the shutdown of the machine does not know: they are killed in its last
 * moment, after their network and their file systems; and systemd allows them 15 % of the machine's processes.
 */
import { containerScope, monitorScope } from '../base/ids.ts';
import type { NodeFacts, SpecDefaults } from '../ports/spec.ts';

/** Written by the kubelet: the seconds that a pod may take to end. */
const GRACE = 'io.kubernetes.pod.terminationGracePeriod';
const PREFIX = 'org.systemd.property.';
const MICROSECONDS = 1_000_000n;
const UNLIMITED = 'uint64 18446744073709551615';
/** Whatever ends before these at a shutdown still has its network and its file systems. */
const NEEDED = ['network.target', 'remote-fs.target', 'local-fs.target'];

/** What the properties follow from. */
export interface ScopeInput {
  readonly id: string;
  readonly facts: NodeFacts;
  readonly defaults: SpecDefaults;
  /** Of the container, else of the pod. */
  readonly annotations: Readonly<Record<string, string>>;
  readonly stopSignal: number;
  /** The infra container of the pod; '' if it has none. */
  readonly infra: string;
  /** What the pod brings and its handler allows: it wins. */
  readonly allowed: ReadonlyMap<string, string>;
}

/**
 * The scope ends before its monitor, which writes the last of its log and its exit code; before the pod's infra
 * container, with which its PID namespace may end; before the daemon, and before what it needs; by its own stop signal,
 * within the pod's grace period; its tasks are limited only where somebody asked for it. Only what is `allowed` where
 * systemd makes no scopes.
 */
export function withScopeProperties(input: ScopeInput): ReadonlyMap<string, string> {
  const { id, facts, defaults, annotations, stopSignal, infra, allowed } = input;
  if (facts.cgroupManager !== 'systemd') return allowed;
  const after = [
    monitorScope(id),
    ...(infra === '' ? [] : [containerScope(infra)]),
    ...(facts.ownService === '' ? [] : [facts.ownService]),
    ...NEEDED,
  ];
  const grace = /^\d{1,9}$/.exec(annotations[GRACE] ?? '')?.[0];
  return new Map([
    [`${PREFIX}DefaultDependencies`, 'true'],
    [`${PREFIX}After`, `[${after.map((unit) => `'${unit}'`).join(', ')}]`],
    [`${PREFIX}KillSignal`, `int32 ${stopSignal}`],
    [`${PREFIX}CollectMode`, `'inactive-or-failed'`],
    ...(grace === undefined ? [] : [[`${PREFIX}TimeoutStopUSec`, `uint64 ${BigInt(grace) * MICROSECONDS}`] as const]),
    ...(defaults.pidsLimit > 0n ? [] : [[`${PREFIX}TasksMax`, UNLIMITED] as const]),
    ...allowed,
  ]);
}
