/** The two ways to have a machine without KVM, and the versions of each that are tried. */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { availableParallelism } from 'node:os';
import { made } from './cache.ts';
import { inRoot, run } from './debian.ts';
import { debianRoot, diskImage, type Lsm, umlTree } from './image.ts';
import type { Emulator } from './machine.ts';

export type EmulatorName = 'uml' | 'qemu';

const MEMORY = '2G';
/** Emulated in software, everything takes this many times longer; booting does, and what a suite does. */
const QEMU_SLOWNESS = 10;
const QEMU_KERNEL = ['console=ttyS0', 'mitigations=off', 'tsc=reliable', 'nowatchdog'];
/**
 * Suites whose user-mode-linux is tried, the first that boots is taken: those of Debian 12 and 13 (Linux 6.1 and 6.12)
 * panic on processors with AMX.
 */
const UML_SUITES = ['sid', 'forky', 'trixie', 'bookworm'];

/** What may be tried for a name, best first; each is made when it is asked for. */
export function emulators(name: EmulatorName, lsm: Lsm): readonly (() => Promise<Emulator>)[] {
  return name === 'uml' ? UML_SUITES.map((suite) => () => uml(suite, lsm)) : [() => qemu(lsm)];
}

/**
 * Linux as a process: quick, and with one CPU. It has the controllers cpu, io, memory and pids, and neither PSI nor
 * NAT.
 */
async function uml(suite: string, lsm: Lsm): Promise<Emulator> {
  const tree = await umlTree(suite);
  const disk = await diskImage(diskName(`uml-${suite}`, lsm), join(tree, 'usr/lib/uml/modules'), lsm);
  return {
    name: `user-mode-linux of ${suite}`,
    root: await debianRoot(),
    slowness: 1,
    command: (kernelArguments) => [
      `/mnt/uml-${suite}/usr/bin/linux.uml`,
      `mem=${MEMORY}`,
      `ubd0=/mnt/run/disk.cow,/mnt/${basename(disk)}`,
      'root=/dev/ubda',
      'rootfstype=ext4',
      'rw',
      'uml_dir=/tmp/uml/',
      'umid=berth',
      'seccomp=on',
      'con=null',
      'con0=null,fd:1',
      'ssl=null',
      'console=tty0',
      ...lsmArguments(lsm),
      ...kernelArguments,
    ],
  };
}

/** A whole PC in software: all controllers, PSI, NAT and two CPUs, and some ten times slower. */
async function qemu(lsm: Lsm): Promise<Emulator> {
  const root = await qemuRoot();
  const disk = await diskImage(diskName('qemu', lsm), join(root, 'usr/lib/modules'), lsm);
  return {
    name: 'QEMU',
    root,
    slowness: QEMU_SLOWNESS,
    command: (kernelArguments) => [
      'qemu-system-x86_64',
      ...['-machine', 'q35', '-accel', 'tcg,thread=multi,tb-size=512', '-cpu', 'max,-svm'],
      ...['-smp', String(Math.min(2, availableParallelism())), '-m', MEMORY],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
      ...['-kernel', '/boot/vmlinuz', '-initrd', '/boot/initrd.img'],
      ...['-append', [...QEMU_KERNEL, ...lsmArguments(lsm), ...kernelArguments].join(' ')],
      ...['-device', 'virtio-rng-pci', '-device', 'virtio-blk-pci,drive=disk'],
      '-drive',
      `id=disk,if=none,format=raw,file=/mnt/${basename(disk)},snapshot=on,cache=unsafe,aio=threads,file.locking=off`,
      ...['-virtfs', 'local,path=/mnt/run/control,mount_tag=control,security_model=none'],
      ...['-virtfs', 'local,path=/mnt/run/share,mount_tag=share,security_model=none,multidevs=remap'],
    ],
  };
}

function diskName(kernel: string, lsm: Lsm): string {
  return lsm === 'apparmor' ? kernel : `${kernel}-${lsm}`;
}

/** What SELinux refuses is told by the audit log alone. Nobody takes it; whoever is refused would wait for somebody. */
function lsmArguments(lsm: Lsm): readonly string[] {
  const audit = lsm === 'selinux' ? ['audit=1', 'audit_backlog_limit=0'] : ['audit=0'];
  return [`lsm=landlock,lockdown,yama,${lsm},bpf`, ...audit];
}

async function qemuRoot(): Promise<string> {
  const script = readFileSync(join(import.meta.dirname, 'qemu-root.sh'), 'utf8');
  const debian = await debianRoot();
  return await made('qemu', [script], (draft) => {
    run('cp', ['-a', debian, draft]);
    inRoot(draft, script);
  });
}
