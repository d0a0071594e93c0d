/** `[crio.image]`: pulling images. PURE. */
import { duration } from '../formats.ts';
import { choice, file, flag, path, text, texts } from '../kinds.ts';
import { ignored, merge, option, row } from '../option.ts';
import { OWN_PAUSE } from './reasons.ts';

/** What Berth reads. */
export const image = {
  globalAuthFile: option(
    'global_auth_file',
    file,
    '',
    "Registry credentials in the format of docker's config.json, for pulls that bring none.",
    { reload: 'images' },
  ),
  namespacedAuthDir: option(
    'namespaced_auth_dir',
    path,
    '/etc/crio/auth',
    'Credentials per namespace and image, written by a credential provider.',
    { reload: 'images' },
  ),
  pinnedImages: option(
    'pinned_images',
    texts,
    [],
    'Images that the kubelet must not collect: exact, or with a part of their name anywhere, "part*" or "*part*".',
    { reload: 'pinned' },
  ),
  pauseImage: option(
    'pause_image',
    text,
    '',
    'One more of the pinned_images. Berth itself needs no image for pods: it brings its own pause program.',
    { reload: 'pinned' },
  ),
  imageVolumes: option(
    'image_volumes',
    choice('mkdir', 'bind', 'ignore'),
    'mkdir',
    'What to do with the VOLUMEs of an image: make the directory, mount an anonymous volume, nothing.',
  ),
  ociArtifactMountSupport: option(
    'oci_artifact_mount_support',
    flag,
    true,
    'Whether volumes of pods may show OCI artifacts, which are files of any kind in a registry, beside images.',
    { variables: ['CONTAINER_OCI_ARTIFACT_SUPPORT'] },
  ),
  pullProgressTimeoutMs: option(
    'pull_progress_timeout',
    duration,
    60_000,
    'Ends a pull in which nothing moved (network, inflate, disk) for this long; "0s" is never.',
  ),
  signaturePolicy: option(
    'signature_policy',
    file,
    '',
    'Who must have signed which images (containers-policy.json). "" is policy.json in ' +
      '/root/.config/containers or /etc/containers, and without either anything is accepted; a ' +
      'file that is named here must exist, and is asked again when a container is made.',
    { reload: 'images' },
  ),
  signaturePolicyDir: option(
    'signature_policy_dir',
    path,
    '/etc/crio/policies',
    'A <namespace>.json in here wins over signature_policy for the pods of that namespace, at a ' +
      'pull and when a container is made.',
    { reload: 'images' },
  ),
  registriesConf: option(
    'registries_conf',
    file,
    '',
    'registries.conf, where it is not in /etc/containers. (In a crio setup this is a flag only.)',
    { reload: 'images' },
  ),
  registriesConfDir: option(
    'registries_conf_dir',
    file,
    '',
    'registries.conf.d, where it is not in /etc/containers. (In a crio setup this is a flag only.)',
    { reload: 'images' },
  ),
  shortNameMode: option(
    'short_name_mode',
    choice('enforcing', 'permissive', 'disabled'),
    'enforcing',
    'Whether a name without a registry may be ambiguous: an error, or the first registry that has it.',
    { reload: 'images' },
  ),
} as const;

/** What has no effect. */
export const imageIgnored = merge(
  ignored(OWN_PAUSE, { pause_image_auth_file: row(text, ''), pause_command: row(text, '/pause') }),
  ignored('has no effect: write it in registries.conf', {
    insecure_registries: row(texts, [], { flag: 'insecure-registry' }),
    registries: row(texts, [], { flag: '' }),
  }),
  ignored('has no effect: changes of registries.conf are seen at once', {
    auto_reload_registries: row(flag, false, { variables: ['AUTO_RELOAD_REGISTRIES'] }),
  }),
  ignored('has no effect: images come from registries and archives only', {
    default_transport: row(text, 'docker://'),
  }),
  ignored('has no effect: unfinished downloads lie beside the images', { big_files_temporary_dir: row(text, '') }),
);
