/** The files that every container of a pod sees at well-known places. */
import { dirname } from 'node:path';
import type { Op } from '../base/op.ts';
import type { DNSConfig } from '../cri-api/types.ts';
import { containerPath } from '../spec/index.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { AnnotationSettings, Identity, PodFiles } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import { directoryMode, ownerOnHost } from './id-maps.ts';
import { containerLabels } from './labels.ts';
import type { World } from './world.ts';

/** Writes those that are the container's own, and says where all are. */
export async function podFiles(
  op: Op,
  world: World,
  draft: ContainerRecord,
  sandbox: SandboxRecord,
  { identity, fips }: { readonly identity: Identity; readonly fips: AnnotationSettings['fips'] },
): Promise<PodFiles> {
  const { workspace, settings, facts } = world;
  // As CRI-O: the pod says it twice, by an annotation that needs permission and by a label.
  const hidesFips = fips === 'hidden' && sandbox.config.labels['FIPS_DISABLE'] === 'true' && facts.tellsFips;
  const owner = ownerOnHost(sandbox.idMap, { uid: 0, gid: 0 });
  const own = async (name: 'passwd' | 'group' | 'fips', content: Uint8Array | undefined): Promise<string> =>
    content === undefined ? '' : await workspace.writeContainerFile(draft.id, name, content, owner);
  await workspace.ensureBundle(draft.id, directoryMode(sandbox.idMap));
  const files: PodFiles = {
    resolvConf: sandbox.files.resolvConf,
    hostname: sandbox.files.hostname,
    hosts: await hostsFile(world, draft.config, sandbox),
    shm: sandbox.files.shm,
    passwd: await own('passwd', identity.passwd),
    group: await own('group', identity.group),
    containerenv: await workspace.writeContainerFile(draft.id, 'containerenv', '', owner),
    fips: await own('fips', hidesFips ? Buffer.from('0\n') : undefined),
    localtime: settings.localtime,
  };
  await label(op, world, files, sandbox, draft);
  return files;
}

/** With SELinux a container may read what has its label: of files that the pod shares, the pod's; never the node's. */
async function label(
  op: Op,
  { host }: World,
  { resolvConf, hostname, hosts, passwd, group, containerenv, fips }: PodFiles,
  sandbox: SandboxRecord,
  { config }: ContainerRecord,
): Promise<void> {
  if (sandbox.selinux.mountLabel === '') return;
  const own = containerLabels(sandbox.selinux, config.linux?.securityContext?.selinuxOptions);
  await host.relabel(
    op,
    [resolvConf, hostname, hosts].filter((path) => path === resolvConf || path.startsWith(`${dirname(resolvConf)}/`)),
    sandbox.selinux.mountLabel,
  );
  await host.relabel(
    op,
    [passwd, group, containerenv, fips].filter((path) => path !== ''),
    own.mountLabel,
  );
}

/**
 * The kubelet mounts an /etc/hosts of its own. Other clients (crictl, critest) give none: then a pod on the host's
 * network has a copy of the host's, which its containers may write, and any other one that names the pod.
 */
async function hostsFile(world: World, config: NamedContainerConfig, sandbox: SandboxRecord): Promise<string> {
  if (config.mounts.some((mount) => containerPath(mount.containerPath) === '/etc/hosts')) return '';
  const { hosts } = sandbox.files;
  const own = sandbox.namespaces['net'] === undefined ? await world.host.hosts() : undefined;
  await world.workspace.writeSandboxFile(
    hosts,
    own ?? renderHosts(sandbox.config.hostname, sandbox.ips),
    ownerOnHost(sandbox.idMap, { uid: 0, gid: 0 }),
  );
  return hosts;
}

/** resolv.conf of a DNS config; undefined when there is nothing in it and the host's file is to be used. */
export function renderResolvConf(dns: DNSConfig | undefined): string | undefined {
  if (dns === undefined || (dns.servers.length === 0 && dns.searches.length === 0 && dns.options.length === 0))
    return undefined;
  const lines: string[] = [];
  if (dns.searches.length > 0) lines.push(`search ${dns.searches.join(' ')}`);
  for (const server of dns.servers) lines.push(`nameserver ${server}`);
  if (dns.options.length > 0) lines.push(`options ${dns.options.join(' ')}`);
  return `${lines.join('\n')}\n`;
}

/** /etc/hosts of a pod with a network of its own. */
export function renderHosts(hostname: string, ips: readonly string[]): string {
  const names = [
    '127.0.0.1\tlocalhost',
    '::1\tlocalhost ip6-localhost ip6-loopback',
    'ff02::1\tip6-allnodes',
    'ff02::2\tip6-allrouters',
  ];
  return `${[...names, ...(hostname === '' ? [] : ips.map((ip) => `${ip}\t${hostname}`))].join('\n')}\n`;
}
