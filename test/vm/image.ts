/**
 * The disk of the virtual machine: Debian with systemd, a runtime of each kind and AppArmor, and what makes it quick to
 * boot and ready for commands from outside. Berth is not on it: each run brings the tree under test along.
 */
import {
  chmodSync,
  copyFileSync,
  cpSync,
  globSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { contentOf, made } from './cache.ts';
import { debootstrap, inRoot, run, unpackPackage } from './debian.ts';

const SUITE = 'trixie';
const PACKAGES = [
  'systemd',
  'systemd-sysv',
  'dbus',
  'udev',
  'kmod',
  'iproute2',
  'iptables',
  'nftables',
  'procps',
  'apparmor',
  'runc',
  'crun',
  'conmon',
  'containernetworking-plugins',
  'busybox-static',
  'jq',
  'ca-certificates',
  'docker-registry',
];
/** What a test has no use for and a boot would wait for. */
const MASKED = [
  'docker-registry.service',
  'apt-daily.timer',
  'apt-daily-upgrade.timer',
  'e2scrub_all.timer',
  'e2scrub_reap.service',
  'dpkg-db-backup.timer',
  'fstrim.timer',
  'systemd-timesyncd.service',
  'getty.target',
  'console-getty.service',
  'systemd-pstore.service',
  'systemd-journal-flush.service',
  'systemd-hwdb-update.service',
  'systemd-tmpfiles-clean.timer',
  'systemd-udev-trigger.service',
  'systemd-modules-load.service',
  'ldconfig.service',
  'systemd-update-done.service',
  'systemd-journal-catalog-update.service',
  'systemd-random-seed.service',
];
const DISK_BYTES = '4G';
/** In a root filesystem: the policy is compiled here, where that takes seconds, and files get their labels by it. */
const SELINUX = `
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
apt-get update -q
apt-get install -y -q --no-install-recommends selinux-policy-default policycoreutils attr
apt-get clean
rm -rf /var/lib/apt/lists
printf 'SELINUX=permissive\nSELINUXTYPE=default\n' >/etc/selinux/config
semodule --noreload --install /tmp/berth.cil
`;
/** What the policy is told of Berth, and whom it is not to hinder. */
const MODULE = join(import.meta.dirname, 'selinux/berth.cil');
/** From the top: who may not look into a directory without a label finds no library. */
const LABELLING = ['setfiles', '-F', '/etc/selinux/default/contexts/files/file_contexts', '/'];
/** Copied over the root filesystem. */
const OVERLAY = join(import.meta.dirname, 'root');

/** Which of the two that exclude each other confines programs. */
export type Lsm = 'apparmor' | 'selinux';

/** Debian as it comes: the base of the disk, and the place to run programs that this machine is too old for. */
export async function debianRoot(): Promise<string> {
  return await made('debian', [SUITE, PACKAGES], (draft) => debootstrap(SUITE, PACKAGES, draft));
}

/** The same with SELinux's tools and Debian's policy, which forbids nothing until a suite sees to that. */
async function selinuxRoot(): Promise<string> {
  const debian = await debianRoot();
  return await made('debian-selinux', [SUITE, PACKAGES, SELINUX, readFileSync(MODULE, 'utf8')], (draft) => {
    run('cp', ['-a', debian, draft]);
    copyFileSync(MODULE, join(draft, 'tmp/berth.cil'));
    inRoot(draft, SELINUX);
  });
}

/** user-mode-linux of a suite: `usr/bin/linux.uml` and its modules. */
export async function umlTree(suite: string): Promise<string> {
  return await made(`uml-${suite}`, [], (draft) => unpackPackage(suite, 'user-mode-linux', draft));
}

/** An ext4 image with the modules of a kernel; never written to by a machine that runs from it. */
export async function diskImage(name: string, modules: string, lsm: Lsm): Promise<string> {
  const recipe = [SUITE, PACKAGES, MASKED, contentOf(OVERLAY), statSync(modules).mtimeMs, lsm];
  const labels = lsm === 'selinux' ? [LABELLING, SELINUX, readFileSync(MODULE, 'utf8')] : [];
  return await made(`${name}.ext4`, [...recipe, ...labels], async (draft) => {
    const debian = lsm === 'selinux' ? await selinuxRoot() : await debianRoot();
    const tree = `${draft}.tree`;
    rmSync(tree, { recursive: true, force: true });
    run('cp', ['-a', debian, tree]);
    cpSync(modules, join(tree, 'usr/lib/modules'), { recursive: true });
    configure(tree);
    if (lsm === 'selinux') run('chroot', [tree, ...LABELLING]);
    run('mkfs.ext4', ['-q', '-L', 'root', '-O', '^has_journal', '-E', 'root_owner=0:0', '-d', tree, draft, DISK_BYTES]);
    rmSync(tree, { recursive: true, force: true });
  });
}

function configure(tree: string): void {
  cpSync(OVERLAY, tree, { recursive: true });
  for (const each of globSync('usr/local/{bin,sbin}/*', { cwd: OVERLAY })) chmodSync(join(tree, each), 0o755);
  writeFileSync(join(tree, 'etc/fstab'), '');
  for (const each of ['host', 'vmctl']) mkdirSync(join(tree, each), { recursive: true });
  // A hundred profiles of programs that are not there, which take a while to compile.
  for (const each of globSync('etc/apparmor.d/*', { cwd: tree }))
    if (statSync(join(tree, each)).isFile()) rmSync(join(tree, each));
  for (const unit of MASKED) link('/dev/null', join(tree, 'etc/systemd/system', unit));
  link('/dev/null', join(tree, 'etc/systemd/system-generators/systemd-ssh-generator'));
  link('../vmagent.service', join(tree, 'etc/systemd/system/multi-user.target.wants/vmagent.service'));
  link('/usr/lib/systemd/system/multi-user.target', join(tree, 'etc/systemd/system/default.target'));
}

function link(target: string, path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  rmSync(path, { force: true });
  symlinkSync(target, path);
}
