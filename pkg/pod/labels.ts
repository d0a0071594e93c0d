/** SELinux labels of pods, their containers and their volumes. Pure. */
import type { SELinuxOption } from '../cri-api/types.ts';
import { RuntimeError } from '../base/errors.ts';
import { selinuxLabels } from '../spec/index.ts';
import type { SandboxRecord } from '../ports/state.ts';
import type { SandboxPlan } from './sandbox-plan.ts';
import type { PodSettings } from './world.ts';

type Labels = SandboxRecord['selinux'];

const NO_LABELS: Labels = { processLabel: '', mountLabel: '' };

/** Categories of the MCS policies that distributions ship. */
const CATEGORIES_COUNT = 1024;

/**
 * SELinux labels of a new pod: none on the network of the host where the configuration says so. @throws as podLabels.
 */
export function sandboxLabels(
  settings: PodSettings,
  plan: Pick<SandboxPlan, 'network'>,
  ...rest: Tail<Parameters<typeof podLabels>>
): Labels {
  return plan.network === 'host' && settings.selinuxOnHostNetwork === 'none'
    ? NO_LABELS
    : podLabels(settings.selinux, ...rest);
}

type Tail<T extends readonly unknown[]> = T extends readonly [unknown, ...infer Rest] ? Rest : never;

/**
 * SELinux labels of a pod: what its options name, else the policy's, with a pair of categories that no other pod has.
 * `draw` gives a random number from 0 to below its argument. @throws InvalidArgument for options that no policy can
 * hold; ResourceExhausted when no pair is found.
 */
export function podLabels(
  base: PodSettings['selinux'],
  options: SELinuxOption | undefined,
  others: Iterable<Labels>,
  draw: (below: number) => number,
): Labels {
  if (base === null) return NO_LABELS;
  const taken = new Set(Array.from(others, ({ processLabel }) => levelOf(processLabel)));
  // A node has some hundred pods, and there are half a million pairs.
  for (let attempt = 0; attempt < 1000; attempt++) {
    const [a, b] = [draw(CATEGORIES_COUNT), draw(CATEGORIES_COUNT)];
    const level = `s0:c${Math.min(a, b)},c${Math.max(a, b)}`;
    if (a !== b && !taken.has(level)) return selinuxLabels(options, { ...base, level });
  }
  throw new RuntimeError('ResourceExhausted', 'no free pair of SELinux categories was found for the pod');
}

/** Labels of a container: its own options on top of its pod's. @throws InvalidArgument as podLabels. */
export function containerLabels(pod: Labels, options: SELinuxOption | undefined): Labels {
  return pod.processLabel === '' ? NO_LABELS : selinuxLabels(options, { ...pod, level: levelOf(pod.processLabel) });
}

/**
 * The label that volumes get which ask for one; '' for none: SELinux is off, or the container's type may use everything
 * anyway.
 */
export function volumeLabel(labels: Labels): string {
  return labels.processLabel.split(':')[2] === 'spc_t' ? '' : labels.mountLabel;
}

function levelOf(label: string): string {
  return label.split(':').slice(3).join(':');
}
