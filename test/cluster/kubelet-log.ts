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
    line: /container [0-9a-f]{64} is (exited|removing); (commands run only|its log is reopened only|only a created)/,
    why: 'the kubelet probes, updates or turns the log over of a container that has ended meanwhile',
  },
  {
    line: /dial unix \S+: connect: (connection refused|no such file)|error reading (from server|server preface)/,
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

/** What Berth answers, as a kubelet quotes it, once or twice. */
const UNKNOWN = /code = NotFound desc = no (?:container|pod sandbox) has the id \\*"([0-9a-f]{64})/;
/** Berth's line of a removal: when it was over, of what, and how many milliseconds it took. */
const REMOVED = new RegExp(
  [
    '^time=(\\S+) level=\\w+ msg=(?:ok|"ok, [^"]*")',
    'rpc=Remove(?:Container|PodSandbox) .*\\b(?:container|sandbox)=([0-9a-f]{64}) ms=([\\d.]+)',
  ].join(' '),
);

/**
 * Which containers and sandboxes are gone since when, as a kubelet's log tells time, by the log of the runtime that
 * removed them. What was there before a node was switched on went with its power.
 */
export function goneBy(runtimeLog: string, switchedOn: readonly Date[]): ReadonlyMap<string, string> {
  const gone = new Map<string, string>();
  const note = (id: string, since: number): void => {
    if (!gone.has(id)) gone.set(id, stampOf(new Date(since)));
  };
  const cuts = switchedOn.slice(1).map(Number);
  const living = new Set<string>();
  for (const line of runtimeLog.split('\n')) {
    const time = Date.parse(/^time=(\S+)/.exec(line)?.[1] ?? '');
    for (const cut of cuts.splice(0, cuts.filter((each) => each <= time).length)) {
      for (const id of living) note(id, cut);
      living.clear();
    }
    for (const [id] of line.matchAll(/\b[0-9a-f]{64}\b/g)) living.add(id);
    const [, end = '', id, took] = REMOVED.exec(line) ?? [];
    // It is gone for others before the call has ended.
    if (id !== undefined) note(id, Date.parse(end) - Math.ceil(Number(took)));
  }
  return gone;
}

/** As klog writes it: month and day, and the time of day where we are. */
function stampOf(date: Date): string {
  const two = (number: number): string => String(number).padStart(2, '0');
  const day = `${two(date.getMonth() + 1)}${two(date.getDate())}`;
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':');
  return `${day} ${time}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}

/**
 * PURE. The complaints that nobody has explained, each kind once. Threads of a kubelet work without knowledge of each
 * other: one asks for what another has removed since it was listed (its collection of garbage for a container that a
 * pod's worker deletes), so "not found" is the right answer for what is `gone` by then, whoever tells of it; and a
 * complaint for anything else.
 */
export function complaintsOf(log: string, gone: ReadonlyMap<string, string>): string[] {
  const kinds = new Map<string, string>();
  for (const line of log.split('\n')) {
    const stamp = /^E(\d{4} [\d:.]+)/.exec(line)?.[1];
    if (stamp === undefined || !OURS.test(line) || EXPLAINED.some((each) => each.line.test(line))) continue;
    const since = gone.get(UNKNOWN.exec(line)?.[1] ?? '');
    if (since !== undefined && since <= stamp) continue;
    const kind = /^\S+ \S+\s+\d+ ([^\]]+)\] ("[^"]*")?/.exec(line);
    kinds.set(`${kind?.[1]} ${kind?.[2]}`, line.slice(0, 500));
  }
  return [...kinds.values()];
}
