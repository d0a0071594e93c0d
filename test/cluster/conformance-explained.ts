/** Specs of node conformance that do not pass here, each with its reason; whoever adds one has looked at its cause. */

const EXPLAINED: readonly { readonly spec: RegExp; readonly why: string }[] = [
  { spec: /AppArmor/, why: 'this kernel has no AppArmor' },
  { spec: /PrivilegedPod .*should enable privileged commands/, why: 'this kernel has no links of type dummy' },
  {
    spec: /when the runtime does not support recursive read-only mounts/,
    why: 'Berth does support them, by which the spec leaves itself out',
  },
  {
    spec: /Summary API .*should report resource usage through the stats api/,
    why: 'it wants a kubelet with flags for the cgroups of system and runtime, and pods without a volume for a token',
  },
  {
    spec: /ContainerMetrics .*should report container metrics/,
    why: 'it wants bytes read and written: blkio of cgroup v1 counts nothing that goes through the page cache',
  },
  {
    spec: /should report termination message from log output if TerminationMessagePolicy FallbackToLogsOnError/,
    why: 'a last line without a newline is F, as readers of logs ask (containerd#4813); a kubelet puts one behind it',
  },
];

/** The reason why a spec need not pass here; undefined if it must. */
export function explained(name: string): string | undefined {
  return EXPLAINED.find(({ spec }) => spec.test(name))?.why;
}
