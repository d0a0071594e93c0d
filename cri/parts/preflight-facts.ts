/** What `berth check` looks at on the node itself: no daemon is needed, and nothing is changed. */
import { dirname, join } from 'node:path';
import { readDirSorted } from '../../pkg/base/files.ts';
import { limits } from '../../pkg/base/limits.ts';
import type { Op } from '../../pkg/base/op.ts';
import type { Config } from '../../pkg/config/index.ts';
import { ExecScratch, OciCli } from '../../pkg/runtime/index.ts';
import { fileSystems, findExecutable, mounts, nodeFacts, readSmallFile } from '../../pkg/sys/index.ts';
import { type DiskFact, type PreflightFacts, PROGRAMS, type RuntimeFact, SYSCTLS } from '../preflight.ts';
import { handlerBy } from './runtimes.ts';
import { parseJson } from '../../pkg/base/json.ts';

const KUBELET_CONFIG = '/var/lib/kubelet/config.yaml';
/** What SELinux' policy for containers brings (package container-selinux). */
const SELINUX_CONTEXTS = '/usr/share/containers/selinux/contexts';
/** Files that count as a network, as pkg/network reads them. */
const NETWORK_FILE = /\.(conf|conflist|json)$/;

/** The facts of this node, under this configuration. Whatever cannot be read counts as not there. */
export async function preflightFacts(op: Op, config: Config): Promise<PreflightFacts> {
  const { runtime, network, storage, api } = config;
  const node = nodeFacts(runtime.cgroupManager);
  const wanted = [...Object.keys(PROGRAMS), 'apparmor_parser'];
  const [overlay, sysctls, kubelet, runtimes, cni, swap, enforce, contexts, disks] = await Promise.all([
    text('/proc/filesystems').then((list) => /\toverlay$/m.test(list)),
    readSysctls(),
    text(KUBELET_CONFIG),
    Promise.all([...config.runtimes.values()].map((handler) => runtimeFact(op, config, handler))),
    cniFacts(network),
    text('/proc/swaps'),
    text('/sys/fs/selinux/enforce'),
    text(SELINUX_CONTEXTS),
    Promise.all(disksOf(storage).map(([name, directory]) => diskFact(name, directory))),
  ]);
  return {
    ...{ uid: process.getuid?.() ?? 0, kernel: node.kernel, overlay, sysctls, runtimes, cni, disks },
    ...{ cgroupMode: node.cgroupMode, controllers: node.controllers, cgroupManager: runtime.cgroupManager },
    systemd: (await text('/proc/1/comm')).trim() === 'systemd',
    listen: api.listen,
    kubelet: kubeletFacts(kubelet),
    missingPrograms: new Set(wanted.filter((name) => findExecutable(name, PROGRAM_PATH) === undefined)),
    swap: swapPlaces(swap),
    apparmor: node.apparmor,
    selinux: enforce === '' ? 'off' : enforce.startsWith('1') ? 'enforcing' : 'permissive',
    selinuxContexts: contexts !== '',
  };
}

/** A kubelet's PATH, whatever that of the caller: some have no sbin. */
const PROGRAM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** PURE. What is swapped to, by /proc/swaps. */
export function swapPlaces(swaps: string): readonly string[] {
  return swaps
    .split('\n')
    .slice(1)
    .flatMap((line) => line.split(/\s+/)[0] || []);
}

/** PURE. The two keys of a KubeletConfiguration that are about us, at its top. */
export function kubeletFacts(yaml: string): PreflightFacts['kubelet'] {
  const value = (key: string): string | undefined =>
    new RegExp(`^${key}:[ \\t]*["']?([^"'\\s#]+)`, 'm').exec(yaml)?.[1];
  return { cgroupDriver: value('cgroupDriver'), endpoint: value('containerRuntimeEndpoint') };
}

/** PURE. The plugins that a network's file names; none if it cannot be read. */
export function pluginsOf(file: string): readonly string[] {
  try {
    const conf = parseJson(file) as NetworkFile;
    return (conf.plugins ?? [conf]).flatMap(({ type, ipam }) =>
      [type, ipam?.type].filter((each) => each !== undefined),
    );
  } catch {
    return [];
  }
}

interface PluginFile {
  readonly type?: string;
  readonly ipam?: { readonly type?: string };
}
interface NetworkFile extends PluginFile {
  readonly plugins?: readonly PluginFile[];
}

async function cniFacts({ networkDir, pluginDirs }: Config['network']): Promise<PreflightFacts['cni']> {
  const names = await readDirSorted(networkDir).catch((): string[] => []);
  const files = names.filter((name) => NETWORK_FILE.test(name));
  const plugins = files[0] === undefined ? [] : pluginsOf(await text(join(networkDir, files[0])));
  const missingPlugins = plugins.filter((type) =>
    pluginDirs.every((each) => findExecutable(join(each, type)) === undefined),
  );
  return { directory: networkDir, files, missingPlugins };
}

async function runtimeFact(op: Op, config: Config, handler: Parameters<typeof handlerBy>[1]): Promise<RuntimeFact> {
  // Its monitor is nobody's business here, and what it answers is remembered nowhere: nothing can be made there.
  const meant = { ...handlerBy(config, handler, ''), root: '/dev/null/runtime' };
  const { kind, version, broken, vulnerable } = await new OciCli(meant, ExecScratch.of(meant.root)).features(op);
  return { handler: handler.name, path: meant.path, version: `${kind} ${version}`, broken, vulnerable };
}

function disksOf({
  root,
  imagestore,
}: Config['storage']): readonly (readonly [name: DiskFact['name'], path: string])[] {
  if (imagestore === '' || imagestore === root) return [['disk', root]];
  return [
    ['disk of images', imagestore],
    ['disk of containers', root],
  ];
}

/** Of the nearest directory that is there: the daemon makes the rest. */
async function diskFact(name: DiskFact['name'], directory: string): Promise<DiskFact> {
  const there = await fileSystems.stat(directory).catch(() => undefined);
  if (there === undefined && directory !== '/') return await diskFact(name, dirname(directory));
  const mount = mounts.mountOf(await mounts.read(), directory);
  return {
    ...{ name, directory, availableBytes: there?.availableBytes ?? 0n, totalBytes: there?.totalBytes ?? 0n },
    kind: mount?.fsType ?? 'unknown',
    options: mount?.options ?? [],
  };
}

async function readSysctls(): Promise<ReadonlyMap<string, string | undefined>> {
  const read = async (name: string): Promise<readonly [string, string | undefined]> => {
    const value = (await text(`/proc/sys/${name.replaceAll('.', '/')}`)).trim();
    return [name, value === '' ? undefined : value];
  };
  return new Map(await Promise.all(Object.keys(SYSCTLS).map(read)));
}

/** A small file, the kernel's included, which have no size; '' where it cannot be read. */
async function text(path: string): Promise<string> {
  const bytes = await readSmallFile(path, limits.configFileBytes).catch(() => undefined);
  return bytes?.toString('utf8') ?? '';
}
