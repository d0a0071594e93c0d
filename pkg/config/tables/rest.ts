/** `[crio.network]`, `[crio.stats]`, and the tables of which nothing has an effect. PURE. */
import { duration, seconds } from '../formats.ts';
import { choice, file, files, flag, integer, list, path, settings, text } from '../kinds.ts';
import { type Ignored, ignored, option, row } from '../option.ts';
import { NO_CRIU, NO_NRI } from './reasons.ts';

const number = integer(-Number.MAX_SAFE_INTEGER);

/** `[crio.network]`: what Berth reads. Nothing of it is without effect. */
export const network = {
  cniDefaultNetwork: option(
    'cni_default_network',
    text,
    '',
    'Name of the network that pods join. "" is that of the first file in network_dir.',
  ),
  networkDir: option('network_dir', path, '/etc/cni/net.d', 'Directory of CNI configurations; watched.', {
    flag: 'cni-config-dir',
  }),
  statusGraceMs: option(
    'cni_status_grace_period',
    duration,
    0,
    'For how long CNI STATUS of a network that was ready may fail before the node counts as not ready.',
    { variables: ['CNI_STATUS_GRACE_PERIOD'] },
  ),
  pluginDirs: option(
    'plugin_dirs',
    files,
    ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'],
    'Directories of CNI plugins; the first that has a plugin wins.',
    { flag: 'cni-plugin-dir' },
  ),
  pluginDir: option('plugin_dir', file, '', 'One more of the plugin_dirs, after them: how old files write it.', {
    flag: '',
  }),
} as const;

/** Those of CRI-O; what is in them stands in pkg/stats. */
const METRIC_GROUPS = [
  ...['cpu', 'hugetlb', 'memory', 'network', 'oom', 'process', 'spec', 'disk', 'diskIO', 'pressure', 'all'],
] as const;

/** `[crio.stats]`: what Berth reads. */
export const stats = {
  collectionPeriodMs: option(
    'collection_period',
    seconds(0),
    0,
    'Seconds for which statistics are kept; 0 reads them at each request.',
    { variables: ['COLLECTION_PERIOD'] },
  ),
  includedPodMetrics: option(
    'included_pod_metrics',
    list(choice(...METRIC_GROUPS)),
    [],
    `Groups of the metrics that ListPodSandboxMetrics gives: ${METRIC_GROUPS.join(', ')}. [] is all of them, too.`,
    { variables: ['CONTAINER_INCLUDED_POD_METRCIS'] },
  ),
} as const;

/** `[crio.stats]`: what has no effect. */
export const statsIgnored = ignored('has no effect: write collection_period', {
  stats_collection_period: row(number, 0),
});

const nri = ignored(NO_NRI, {
  enable_nri: row(flag, true),
  nri_plugin_dir: row(text, '/opt/nri/plugins'),
  nri_plugin_config_dir: row(text, '/etc/nri/conf.d'),
  nri_listen: row(text, '/var/run/nri/nri.sock'),
  nri_disable_connections: row(flag, false),
  nri_plugin_registration_timeout: row(duration, 5000),
  nri_plugin_request_timeout: row(duration, 2000),
  default_validator: row(settings, {}, { flag: '' }),
});

/** Whole tables of crio.conf without effect: their keys, for the warning's spelling check. */
export const ignoredTables: ReadonlyMap<string, ReadonlyMap<string, Ignored>> = new Map([
  [
    'crio.checkpoint_restore',
    ignored(NO_CRIU, {
      container_level_enabled: row(text, 'checkpoint_restore', {
        flag: 'checkpoint-restore-container-level-enabled',
      }),
    }),
  ],
  ['crio.nri', nri],
]);
