/**
 * The command line that runs `command` with a mount and a network namespace of its own: a mount, a bridge or a
 * packet-filter rule that leaks goes with the tests and is seen by nobody else, and runs side by side do not meet.
 * Loopback is up, nothing else is there.
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
    'ip link set lo up && exec "$@"',
    'sh',
    ...command,
  ];
}
