/** What a kubelet complains of in its log, and which of it has a reason that is not Berth's. */

/** Lines of level error that are about the runtime, or what is measured of it. */
const OURS = /runtime service|image service|rpc error|CRI|eviction manager|cadvisor|PLEG|Sandbox|StopContainer/i;

/** With reasons; whoever adds one has looked at its cause. */
const EXPLAINED: readonly { readonly line: RegExp; readonly why: string }[] = [
  { line: /PLEG is not healthy: pleg has yet to be successful/, why: 'the kubelet has just started' },
  { line: /code = Canceled desc = context canceled/, why: 'the kubelet itself has called it off' },
  { line: /failed to get node info: node \S+ not found/, why: 'the kubelet has not been told of its own node yet' },
  { line: /refuses \\"box|\/nothing|ImagePullBackOff|ErrImagePull/, why: 'a test wants an image that cannot be had' },
  {
    line: /ContainerStatus from runtime service failed.*NotFound/,
    why: 'the kubelet asks for a container that it has removed meanwhile',
  },
  {
    line: /dial unix \S+: connect: (connection refused|no such file)|error reading from server/,
    why: 'Berth is away, as a test wants it',
  },
  { line: /cannot talk to \S+: connect ECONNREFUSED/, why: 'a registry is away, as a test wants it' },
  { line: /CNI plugin \S+ of network berth is not in/, why: "CNI's plugins are away, as a test wants it" },
  { line: /"Failed to stop sandbox"/, why: 'said without a reason after the line of StopPodSandbox, which has it' },
  {
    line: /ContainerInfoV2.*RecentStats: unable to find data in memory cache/,
    why: 'cAdvisor has found a container just now, and not measured it yet',
  },
  {
    line: /no imagefs label for configured runtime/,
    why: "the kubelet has a label for CRI-O's path alone, and says so of every other",
  },
  {
    line: /separate container filesystem. Ignoring.*non-existent label \\"crio-containers\\"/,
    why: 'cAdvisor has that label only where images have a disk of their own, under CRI-O too',
  },
];

/** The complaints that nobody has explained, each kind once. */
export function complaintsOf(log: string): string[] {
  const kinds = new Map<string, string>();
  for (const line of log.split('\n')) {
    if (!/^E\d{4} /.test(line) || !OURS.test(line) || EXPLAINED.some((each) => each.line.test(line))) continue;
    const kind = /^\S+ \S+\s+\d+ ([^\]]+)\] ("[^"]*")?/.exec(line);
    kinds.set(`${kind?.[1]} ${kind?.[2]}`, line.slice(0, 500));
  }
  return [...kinds.values()];
}
