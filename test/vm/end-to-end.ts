/** Which suites of test/e2e run in the machine, and why the others do not. */
import { globSync } from 'node:fs';
import { basename, join } from 'node:path';

const SUITES = join(import.meta.dirname, '../e2e');

/** Quick ones that depend on who makes cgroups, and which kind: what runs where nobody says which. */
export const USUAL_SUITES: readonly string[] = ['resources', 'cadvisor'];

/** What else does. */
export const MORE_SUITES: readonly string[] = [
  'recovery',
  'pod',
  'infra',
  'container',
  'stats',
  'userns',
  'recovery-start',
  'recovery-runroot',
];

/** The others, by their names, and why nothing would be learned from them there. */
const ELSEWHERE: readonly { readonly names: RegExp; readonly reason: string }[] = [
  {
    names: /^(image|artifact|layer-memory|debian|odd-registry|registry|signature|store|power-cut|recovery-images)/,
    reason: 'images and their store: the same on every node, and some want a registry, a network or tools for images',
  },
  {
    names: /^(rootfs|sys|stats-kernel|runtime|container-|network)/,
    reason: "rooms of pkg on the kernel itself: mounts, namespaces, plugins, runtimes' command lines, with cgroupfs",
  },
  {
    names: /^(stream|cli|errors|reload|descriptors|crio|telemetry)/,
    reason: 'requests, answers and what is told of them: no cgroup is in them',
  },
  { names: /^(security)/, reason: 'hostile requests and images: what confines is looked at by apparmor and critest' },
  { names: /^conmon$/, reason: 'podman, and its network, are not in the machine' },
  { names: /^runsc$/, reason: 'gVisor is not in the machine' },
  { names: /^package$/, reason: 'it builds packages, which the machine is given' },
  { names: /^recovery-random$/, reason: 'a hundred kills take too long; its checks know the cgroups of v1' },
];

/** Suites that are neither run in the machine nor left to others. */
export function forgottenSuites(): readonly string[] {
  return globSync('*.e2e.ts', { cwd: SUITES })
    .map((file) => basename(file, '.e2e.ts'))
    .filter((name) => ![...USUAL_SUITES, ...MORE_SUITES].includes(name))
    .filter((name) => !ELSEWHERE.some(({ names }) => names.test(name)));
}
