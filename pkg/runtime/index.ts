/**
 * The OCI runtime and the monitor: two command lines, driven. Knows nothing of pods, names or images.
 *
 * The monitor (conmon, ours or the distribution's) is the process that outlives us: it calls `runtime create`, holds
 * the container's stdio, writes its log and its exit code. The runtime is runc, crun, runsc: whatever has runc's
 * command line.
 */

export { LinuxBlockedCalls } from './blocked-calls.ts';
export { LinuxCpus } from './cpus.ts';
export { ConmonMonitor } from './conmon.ts';
export { OciCli } from './oci-cli.ts';
export { ExecScratch } from './scratch.ts';
export { LinuxHost, LinuxProcesses } from './host.ts';
export { PinnedNamespaces } from './namespaces.ts';
