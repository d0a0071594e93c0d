/**
 * Debian's crun refuses the hybrid cgroup layout while a controller sits in the v2 hierarchy; hugetlb as v1 frees it.
 * runsc makes its cgroups in a directory of that name even if nothing is mounted there, where others have left one.
 */
const FREE_V2 = [
  'at=/sys/fs/cgroup/hugetlb; [ -e /sys/fs/cgroup/cgroup.controllers ] || mountpoint -q $at',
  '{ mkdir -p $at && mount -t cgroup -o hugetlb none $at; }',
  'echo "ground: hugetlb cannot be mounted as v1, so crun may refuse to work" >&2',
].join(' || ');

/**
 * The command line that runs `command` with a mount and a network namespace of its own: a mount, a bridge or a
 * packet-filter rule that leaks goes with the tests and is seen by nobody else, and runs side by side do not meet.
 * Loopback is up, nothing else is there; every runtime works with the cgroups that are.
 */
export function onPrivateGround(command: readonly string[]): string[] {
  return [
    'unshare',
    '--mount',
    '--net',
    '--propagation',
    'private',
    'sh',
    '-c',
    `ip link set lo up && { ${FREE_V2}; } && exec "$@"`,
    'sh',
    ...command,
  ];
}
