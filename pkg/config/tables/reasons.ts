/** Why several keys of crio.conf have no effect, in phrases that complete "<key> …". PURE. */

/** For what nobody has written yet. */
export const NOT_YET = 'is not implemented';

/** Of checkpoints. */
export const NO_CRIU =
  'is not implemented: containers are not checkpointed, and requests for it are answered with Unimplemented';

/** Of RDT and block I/O classes. */
export const NO_HARDWARE_CLASSES =
  'is not implemented: containers belong to no class of cache, memory bandwidth or block I/O';

/** Of CPUs that are set apart and interrupts that are led away from them. */
export const NO_POLICED_CPUS = "is not implemented: CPUs and their interrupts are left to the kubelet's CPU manager";

/** Of runtimes that are no command. */
export const NO_VM = 'has no effect: it is for runtimes of type "vm" or "pod", and only "oci" is supported';

/** Of what no image is needed for. */
export const OWN_PAUSE =
  'has no effect: Berth brings its own pause program and runs it only where a pod shares its PID namespace';

/** Of artifacts that are no images. */
export const NO_ARTIFACTS = 'is not implemented: volumes come from images, not from other artifacts';
