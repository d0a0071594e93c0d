/**
 * PURE. What a node lacks to run pods, from facts: what kubeadm's preflight looks at, and what Berth needs besides.
 * Each finding names what mends it, as a command wherever there is one.
 */

/** How a thing stands: `wrong` keeps pods from running, `limited` takes something from them. */
export type Standing = 'ok' | 'limited' | 'wrong';

/** One line for an operator. */
export interface Finding {
  readonly name: string;
  readonly standing: Standing;
  /** What was found. */
  readonly detail: string;
  /** What it means, and what to do; '' where all is well. */
  readonly advice: string;
}

/** A handler's runtime as it answers. */
export interface RuntimeFact {
  readonly handler: string;
  readonly path: string;
  /** `crun 1.21` */
  readonly version: string;
  /** Why nothing runs under it; undefined if it works. */
  readonly broken: string | undefined;
  /** What is known against this release; undefined if nothing is. */
  readonly vulnerable: string | undefined;
}

/** A directory that we keep things in, or the nearest one above it that is there. */
export interface DiskFact {
  /** As the daemon calls it. */
  readonly name: 'disk' | 'disk of images' | 'disk of containers';
  readonly directory: string;
  readonly availableBytes: bigint;
  readonly totalBytes: bigint;
  /** As /proc/self/mountinfo calls it: `ext4`, `overlay`. */
  readonly kind: string;
  /** Of the mount: `rw,nosuid,noexec`. */
  readonly options: readonly string[];
}

/** What the node says about itself. */
export interface PreflightFacts {
  readonly uid: number;
  /** `6.1.0-18-amd64` */
  readonly kernel: string;
  /** The kernel has overlay, built in or loaded. */
  readonly overlay: boolean;
  /** Values below /proc/sys by their name (`net.ipv4.ip_forward`); undefined where there is no such file. */
  readonly sysctls: ReadonlyMap<string, string | undefined>;
  readonly cgroupMode: 'v1' | 'hybrid' | 'v2';
  readonly controllers: ReadonlySet<string>;
  /** systemd is PID 1. */
  readonly systemd: boolean;
  readonly cgroupManager: 'cgroupfs' | 'systemd';
  readonly listen: string;
  /** `cgroupDriver` and `containerRuntimeEndpoint` of the kubelet's configuration; undefined where it says nothing. */
  readonly kubelet: { readonly cgroupDriver: string | undefined; readonly endpoint: string | undefined };
  readonly runtimes: readonly RuntimeFact[];
  /** Files of the CNI directory that count, and the plugins that they name and no plugin directory has. */
  readonly cni: {
    readonly directory: string;
    readonly files: readonly string[];
    readonly missingPlugins: readonly string[];
  };
  /** Programs that are not in PATH, of those in PROGRAMS. */
  readonly missingPrograms: ReadonlySet<string>;
  /** Devices and files that are swapped to. */
  readonly swap: readonly string[];
  readonly apparmor: boolean;
  readonly selinux: 'off' | 'permissive' | 'enforcing';
  /** The policy knows containers (package container-selinux). */
  readonly selinuxContexts: boolean;
  readonly disks: readonly DiskFact[];
}

/** Programs that the node needs, who needs them, and the Debian package of each. */
export const PROGRAMS: Readonly<Record<string, { readonly user: string; readonly packageName: string }>> = {
  mount: { user: 'kubelet', packageName: 'mount' },
  nsenter: { user: 'kubelet', packageName: 'util-linux' },
  iptables: { user: 'kube-proxy, CNI plugins', packageName: 'iptables' },
  ip: { user: 'kubeadm', packageName: 'iproute2' },
  conntrack: { user: 'kube-proxy', packageName: 'conntrack' },
  nft: { user: 'host ports without a portmap plugin', packageName: 'nftables' },
};

/** Sysctls that pods need, with what goes wrong without. */
export const SYSCTLS: Readonly<Record<string, string>> = {
  'net.ipv4.ip_forward': 'kubeadm refuses it, and pods reach nothing beyond the node unless the network sets it',
  'net.bridge.bridge-nf-call-iptables': 'services and network policies miss what goes over a bridge of the node',
};

/** Layers need mounts by descriptor (fsopen, mount_setattr with idmap), which came one by one until this release. */
const KERNEL_LEAST: readonly [number, number] = [5, 10];
/** Less than one image of a usual size. */
const DISK_LEAST_BYTES = 2n << 30n;
/** File systems that an overlay cannot have its writable layer on (kernel: filesystems/overlayfs). */
const NO_UPPER = new Set(['overlay', 'nfs', 'nfs4', 'cifs', 'vfat', 'fuse']);

/** Everything, in the order in which one would mend it. */
export function preflight(facts: PreflightFacts): readonly Finding[] {
  return [
    ...privilege(facts),
    kernel(facts),
    ...modules(facts),
    ...sysctls(facts),
    ...cgroups(facts),
    ...kubelet(facts),
    ...runtimes(facts),
    ...cni(facts),
    ...programs(facts),
    swap(facts),
    ...security(facts),
    ...disks(facts),
  ];
}

/**
 * The exit code of `berth check`: 1 if something keeps pods from running, else 0. What is limited is for people to
 * weigh.
 */
export function exitCodeOfFindings(findings: readonly Finding[]): 0 | 1 {
  return findings.some(({ standing }) => standing === 'wrong') ? 1 : 0;
}

function ok(name: string, detail: string): Finding {
  return { name, standing: 'ok', detail, advice: '' };
}
function limited(name: string, detail: string, advice: string): Finding {
  return { name, standing: 'limited', detail, advice };
}
function wrong(name: string, detail: string, advice: string): Finding {
  return { name, standing: 'wrong', detail, advice };
}

function privilege({ uid }: PreflightFacts): Finding[] {
  if (uid === 0) return [];
  return [limited('user', `uid ${uid}`, 'not everything can be seen; run it as root: sudo berth check')];
}

function kernel({ kernel: release }: PreflightFacts): Finding {
  const [major = 0, minor = 0] = release.split('.').map((part) => Number.parseInt(part, 10));
  const [leastMajor, leastMinor] = KERNEL_LEAST;
  if (major > leastMajor || (major === leastMajor && minor >= leastMinor)) return ok('kernel', release);
  return wrong(
    'kernel',
    release,
    `Berth needs ${leastMajor}.${leastMinor} or later: apt-get install linux-image-amd64`,
  );
}

function modules({ overlay, sysctls: values }: PreflightFacts): Finding[] {
  const bridge = values.get('net.bridge.bridge-nf-call-iptables') !== undefined;
  return [
    overlay
      ? ok('module overlay', 'loaded')
      : wrong('module overlay', 'not loaded', `no container has a root filesystem: ${loading('overlay')}`),
    bridge
      ? ok('module br_netfilter', 'loaded')
      : limited('module br_netfilter', 'not loaded', `needed where pods are on a bridge: ${loading('br_netfilter')}`),
  ];
}

function loading(module: string): string {
  return `modprobe ${module} && echo ${module} >>/etc/modules-load.d/berth.conf`;
}

function sysctls({ sysctls: values }: PreflightFacts): Finding[] {
  return Object.entries(SYSCTLS).flatMap(([name, without]) => {
    const value = values.get(name);
    // The module that it is of is a finding of its own.
    if (value === undefined) return [];
    if (value === '1') return [ok(`sysctl ${name}`, '1')];
    const advice = `${without}: sysctl -w ${name}=1 && echo ${name}=1 >>/etc/sysctl.d/60-berth.conf`;
    return [limited(`sysctl ${name}`, value, advice)];
  });
}

function cgroups({ cgroupMode, cgroupManager, controllers, systemd }: PreflightFacts): Finding[] {
  const detail = `${cgroupMode}, ${cgroupManager}, ${[...controllers].sort().join(' ')}`;
  const missing = ['cpu', 'memory', 'pids'].filter((name) => !controllers.has(name));
  if (missing.length > 0)
    return [
      wrong(
        'cgroups',
        detail,
        `there is no controller ${missing.join(', ')}: boot without cgroup_disable= and with cgroup_enable=memory, ` +
          'see /proc/cgroups',
      ),
    ];
  if (cgroupManager === 'systemd' && !systemd)
    return [wrong('cgroups', detail, 'systemd is not PID 1: set cgroup_manager = "cgroupfs" in /etc/berth/berth.conf')];
  if (cgroupManager === 'cgroupfs' && systemd)
    return [
      limited(
        'cgroups',
        detail,
        'two managers share the hierarchy, which loses limits when systemd reloads: remove cgroup_manager from ' +
          '/etc/berth/berth.conf and systemctl restart berth',
      ),
    ];
  if (cgroupMode !== 'v2')
    return [
      limited(
        'cgroups',
        detail,
        'the kubelet of Kubernetes 1.35 and later refuses cgroup v1: boot with systemd.unified_cgroup_hierarchy=1 on ' +
          "the kernel's command line",
      ),
    ];
  return [ok('cgroups', detail)];
}

function kubelet({ kubelet: { cgroupDriver, endpoint }, cgroupManager, listen }: PreflightFacts): Finding[] {
  const found: Finding[] = [];
  if (cgroupDriver !== undefined)
    found.push(
      cgroupDriver === cgroupManager
        ? ok('kubelet cgroupDriver', cgroupDriver)
        : limited(
            'kubelet cgroupDriver',
            cgroupDriver,
            `Berth uses ${cgroupManager}; a kubelet that does not ask it (before 1.28, or without ` +
              `KubeletCgroupDriverFromCRI) makes pods that do not start: sed -i 's/^cgroupDriver:.*/cgroupDriver: ` +
              `${cgroupManager}/' /var/lib/kubelet/config.yaml && systemctl restart kubelet`,
          ),
    );
  if (endpoint !== undefined)
    found.push(
      endpoint.replace(/^unix:\/\//, '') === listen
        ? ok('kubelet endpoint', endpoint)
        : limited(
            'kubelet endpoint',
            endpoint,
            `the kubelet uses another runtime; for Berth: sed -i 's|^containerRuntimeEndpoint:.*|` +
              `containerRuntimeEndpoint: unix://${listen}|' /var/lib/kubelet/config.yaml, on a node that is drained`,
          ),
    );
  return found;
}

function runtimes({ runtimes: all }: PreflightFacts): Finding[] {
  if (all.length === 0)
    return [wrong('runtime', 'none', 'no OCI runtime is installed: apt-get install crun && systemctl restart berth')];
  // Others may be installed for nothing; one has to work.
  const judge = all.every(({ broken }) => broken !== undefined) ? wrong : limited;
  return all.map(({ handler, path, version, broken, vulnerable }) => {
    const name = `runtime ${handler}`;
    if (broken !== undefined) return judge(name, path, broken);
    return vulnerable === undefined ? ok(name, version) : limited(name, version, vulnerable);
  });
}

function cni({ cni: { directory, files, missingPlugins } }: PreflightFacts): Finding[] {
  const [first] = files;
  if (first === undefined)
    return [
      limited(
        'network',
        `nothing in ${directory}`,
        'pods wait for a network, and the node is NotReady until there is one: install that of the cluster (kubectl ' +
          'apply), which writes a file there',
      ),
    ];
  if (missingPlugins.length > 0)
    return [
      wrong(
        'network',
        first,
        `it names the plugins ${missingPlugins.join(', ')}, which are in no plugin directory: apt-get install ` +
          'containernetworking-plugins, or install those of the network',
      ),
    ];
  return [ok('network', `${directory}/${first}`)];
}

function programs({ missingPrograms }: PreflightFacts): Finding[] {
  const missing = Object.entries(PROGRAMS).filter(([name]) => missingPrograms.has(name));
  if (missing.length === 0) return [ok('programs', Object.keys(PROGRAMS).join(' '))];
  return missing.map(([name, { user, packageName }]) =>
    limited(`program ${name}`, 'missing', `${user} needs it: apt-get install ${packageName}`),
  );
}

function swap({ swap: places }: PreflightFacts): Finding {
  if (places.length === 0) return ok('swap', 'off');
  return limited(
    'swap',
    places.join(' '),
    'a kubelet does not start with swap unless its failSwapOn is false: swapoff -a, and take it out of /etc/fstab',
  );
}

function security({ apparmor, selinux, selinuxContexts, missingPrograms }: PreflightFacts): Finding[] {
  const profile =
    apparmor && missingPrograms.has('apparmor_parser')
      ? limited('apparmor', 'enabled', 'containers run without a profile: apt-get install apparmor')
      : ok('apparmor', apparmor ? 'enabled' : 'not enabled');
  const labels =
    selinux === 'off' || selinuxContexts
      ? ok('selinux', selinux === 'off' ? 'not enabled' : selinux)
      : limited(
          'selinux',
          selinux,
          'the policy has no contexts for containers, which run without labels: dnf install container-selinux',
        );
  return [profile, labels];
}

function disks({ disks: all }: PreflightFacts): Finding[] {
  return all.map(({ name, directory, availableBytes, totalBytes, kind, options }) => {
    const detail = `${directory}: ${kind}, ${availableBytes >> 20n} of ${totalBytes >> 20n} MiB free`;
    if (NO_UPPER.has(kind))
      return wrong(name, detail, `containers cannot write on ${kind}: mount ext4 or xfs there, or name another root`);
    const bad = ['ro', 'noexec', 'nodev'].filter((option) => options.includes(option));
    if (bad.length > 0) {
      const remount = bad.map((option) => ({ ro: 'rw', noexec: 'exec', nodev: 'dev' })[option] ?? '').join(',');
      return wrong(name, `${detail}, ${bad.join(',')}`, `mount -o remount,${remount} ${directory}, and in /etc/fstab`);
    }
    if (availableBytes < DISK_LEAST_BYTES)
      return limited(name, detail, `less than 2 GiB: crictl rmi --prune, or enlarge the file system`);
    return ok(name, detail);
  });
}
