/** `[crio]` and `[crio.api]`: where things are kept, and the sockets. PURE. */
import { cipherSuite, duration, portText, storageDriver, storageOptions } from '../formats.ts';
import { choice, file, flag, integer, list, path, text } from '../kinds.ts';
import { ignored, option, row } from '../option.ts';

const CRASH_ONLY =
  'has no effect: Berth recovers from its records after any crash and after a reboot, and needs no such file or step';

/** `[crio]`: what Berth reads. */
export const storage = {
  root: option(
    'root',
    path,
    '/var/lib/berth',
    'Images and containers, on disk. Must survive a reboot. storage.conf(5), which CRI-O asks where this is not set, ' +
      'is not read.',
    { short: 'r', empty: 'earlier' },
  ),
  runroot: option(
    'runroot',
    path,
    '/run/berth',
    'Records, sockets, pinned namespaces. Must not survive a reboot: put it on a tmpfs.',
    { empty: 'earlier' },
  ),
  imagestore: option(
    'imagestore',
    path,
    '',
    'Images and their layers, where they are to lie on another file system than the writable ' +
      'layers of containers. "" keeps them under root. What is under root from before is not used ' +
      'any more.',
  ),
  storageDriver: option(
    'storage_driver',
    storageDriver,
    'overlay',
    'How the root filesystems of containers are put together. There is one driver.',
    { short: 's', empty: 'earlier' },
  ),
  storageOptions: option(
    'storage_option',
    storageOptions,
    [],
    'Options of the driver: "overlay.mountopt=metacopy=on,volatile". Those of a later file come to those of the ' +
      'earlier ones. Others are ignored with a warning.',
    { flag: 'storage-opt' },
  ),
  logDir: option(
    'log_dir',
    path,
    '/var/log/berth/pods',
    'Container logs of pods for which the kubelet names no log directory.',
  ),
} as const;

/** `[crio]`: what has no effect. */
export const storageIgnored = ignored(CRASH_ONLY, {
  version_file: row(text, '/var/run/crio/version'),
  version_file_persist: row(text, ''),
  internal_wipe: row(flag, true),
  internal_repair: row(flag, true),
  clean_shutdown_file: row(text, '/var/lib/crio/clean.shutdown'),
});

/** CRI-O's default for messages of gRPC. */
const GRPC_USUAL_BYTES = 80 * 1024 * 1024;

/** `[crio.api]`: what Berth reads. */
export const api = {
  listen: option('listen', path, '/run/berth/berth.sock', 'The CRI socket, mode 0660.'),
  crioSocket: option(
    'crio_socket',
    text,
    '/var/run/crio/crio.sock',
    "Where the same is served beside listen, unless somebody answers there: the kubelet's cAdvisor asks only at " +
      'that path for the labels of containers. "none": nowhere.',
  ),
  streamAddress: option(
    'stream_address',
    text,
    '127.0.0.1',
    'Address of the server for exec, attach and port-forward.',
  ),
  streamPort: option('stream_port', portText, 0, 'Port of that server; "0" lets the kernel choose.'),
  streamEnableTls: option('stream_enable_tls', flag, false, 'Serve exec, attach and port-forward over TLS.', {
    variables: ['CONTAINER_ENABLE_TLS'],
  }),
  streamTlsCert: option('stream_tls_cert', file, '', 'Certificate (PEM). Read again when it changes.', {
    variables: ['CONTAINER_TLS_CERT'],
  }),
  streamTlsKey: option('stream_tls_key', file, '', 'Private key (PEM). Read again when it changes.', {
    variables: ['CONTAINER_TLS_KEY'],
  }),
  streamTlsCa: option(
    'stream_tls_ca',
    file,
    '',
    'CA (PEM) that clients must have a certificate from; "" asks for none.',
    { variables: ['CONTAINER_TLS_CA'] },
  ),
  tlsMinVersion: option(
    'tls_min_version',
    choice('VersionTLS12', 'VersionTLS13'),
    'VersionTLS12',
    'The oldest TLS that clients of streams may speak.',
  ),
  tlsCipherSuites: option(
    'tls_cipher_suites',
    list(cipherSuite),
    [],
    'Cipher suites that they may use, by their IANA names; [] leaves the choice to OpenSSL. ' +
      'Those of TLS 1.3 are always allowed unless one of them is named.',
  ),
  streamIdleTimeoutMs: option(
    'stream_idle_timeout',
    duration,
    14_400_000,
    'Ends a stream after this long without data; pings do not count. "" is 4h, "0s" is never.',
    { variables: ['STREAM_IDLE_TIMEOUT'] },
  ),
} as const;

/** `[crio.api]`: what has no effect. */
export const apiIgnored = ignored(
  'has no effect: a request may have 16 MiB and a reply 64 MiB, and the kubelet itself takes 16 MiB',
  {
    grpc_max_send_msg_size: row(integer(-Number.MAX_SAFE_INTEGER), GRPC_USUAL_BYTES),
    grpc_max_recv_msg_size: row(integer(-Number.MAX_SAFE_INTEGER), GRPC_USUAL_BYTES),
  },
);
