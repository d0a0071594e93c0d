/** The AppArmor profile for RuntimeDefault, as text for apparmor_parser(8). PURE. */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';

/** A name that a profile's text can hold as it is. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;

/**
 * A second line behind namespaces, capabilities and masked paths: a container may use its files, network and
 * capabilities, and may not mount, nor write settings of the node in /proc and /sys, nor read the memory of the kernel.
 * It needs no file of the distribution.
 * @throws InvalidArgument for a name that would not be one word of the profile.
 */
export function apparmorProfileText(name: string): string {
  if (!NAME.test(name))
    throw new RuntimeError('InvalidArgument', `apparmor_profile ${quote(name)} is not a profile name`);
  return `profile ${name} flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # The daemon, the monitor and the runtime end containers; containers reach their own kind only.
  signal (receive) peer=unconfined,
  signal (receive) peer={runc,crun,berth},
  signal (send, receive) peer=${name},
  ptrace (trace, read, tracedby, readby) peer=${name},

  deny mount,

  # Settings of the node: what lies directly in /proc, and its trees that no namespace owns.
  deny /proc/* w,
  deny /proc/{acpi,asound,bus,driver,dynamic_debug,fs,irq,mtrr,pressure,scsi,tty}/** w,
  deny /proc/sys/{abi,crypto,debug,dev,kernel,sunrpc,user,vm}/** w,
  deny /proc/sys/fs/{[^m]**,m[^q]**} w,
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,

  deny /sys/{block,bus,class,dev,devices,firmware,hypervisor,kernel,module,power}/** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`;
}
