/** Why several keys of crio.conf have no effect, in phrases that complete "<key> …". PURE. */

/** Of plugins that change containers. */
export const NO_NRI = 'is not implemented: NRI plugins are not connected; CDI specifications and OCI hooks are there';

/** Of checkpoints. */
export const NO_CRIU =
  'is not implemented: containers are not checkpointed, and requests for it are answered with Unimplemented';

/** Of RDT. */
export const NO_HARDWARE_CLASSES =
  'is not implemented: there are no classes of cache and memory bandwidth, and a container that names one is refused';

/** Of runtimes that are no command. */
export const NO_VM = 'has no effect: it is for runtimes of type "vm" or "pod", and only "oci" is supported';

/** Of what no image is needed for. */
export const OWN_PAUSE =
  'has no effect: Berth brings its own pause program and runs it only where a pod shares its PID namespace';
