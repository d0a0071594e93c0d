/**
 * Why there may be no virtual machine, and which tests leave themselves out in one. Whatever else keeps one from
 * running is a fault, of this tool or of the kernel's.
 */

interface ExpectedReason {
  /** In what went wrong, or in the title. */
  readonly found: RegExp;
  readonly reason: string;
}

const EXPECTED: readonly ExpectedReason[] = [
  {
    found: /knows no archive of Debian/,
    reason: 'the disk is made of packages of Debian, and this machine has no access',
  },
  {
    found: /^(unshare|apt-get) (?=[^]*(Temporary failure|Could not resolve|Failed getting|Unable to (connect|fetch)))/,
    reason: 'the disk is made of packages of Debian, whose archive does not answer',
  },
  {
    found: /^(unshare|chroot|mkfs|mount) (?=[^]*(not permitted|Permission denied|Cannot install into target))/,
    reason: 'making a disk takes mounts, devices and chroot, which this machine does not allow',
  },
  {
    found: /does not come up/,
    reason:
      'no kernel boots here without KVM: user-mode-linux wants ptrace or seccomp, and memory that may be executed',
  },
];

/** Tests of test/e2e that leave themselves out in the machine, by their titles. */
const LEFT_OUT: readonly ExpectedReason[] = [
  { found: /\brunsc\b/, reason: 'the machine has no gVisor' },
  { found: /maps a host port/, reason: 'user-mode-linux translates no addresses' },
];

/** The reason why a test of test/e2e may leave itself out in the machine; undefined if none is expected. */
export function reasonToLeaveOut(title: string): string | undefined {
  return LEFT_OUT.find(({ found }) => found.test(title))?.reason;
}

/** The reason to do without a machine when this went wrong; undefined if none is expected. */
export function reasonToDoWithout(problem: string): string | undefined {
  return EXPECTED.find(({ found }) => found.test(problem))?.reason;
}
