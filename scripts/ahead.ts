/**
 * Makes ahead what CI judges with and builds itself: crictl, critest and a current runc, the virtual machine, a
 * kubelet. `.ci/run` starts this at idle priority while tests wait for something; each is made once, and whoever needs
 * it later finds it, or makes it then. So what fails here is said, and no more.
 */
import { kubernetesNamed, makeKubernetes } from '../test/cluster/programs.ts';
import { makeAllPrograms } from '../test/conformance/programs.ts';
import { alone } from '../test/vm/cache.ts';
import { emulators } from '../test/vm/emulators.ts';

const MAKERS: Readonly<Record<string, () => unknown>> = {
  'conformance programs': () => makeAllPrograms(true),
  'virtual machine': () => alone(async () => await emulators('uml', 'apparmor')[0]?.()),
  kubelet: () => makeKubernetes(kubernetesNamed('1.36'), ['kubelet']),
};

for (const [what, make] of Object.entries(MAKERS)) {
  const began = Date.now();
  try {
    await make();
    console.log(`ahead: ${what} after ${((Date.now() - began) / 1000).toFixed(0)} s`);
  } catch (error) {
    console.log(`ahead: not the ${what}: ${String(error)}`);
  }
}
