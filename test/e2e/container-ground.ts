/** What the suites of containers share: an image with people in it, and the parts of a config that they ask for. */
import type { Input, LinuxContainerSecurityContext, NamespaceOption } from '../../pkg/cri-api/types.ts';
import { type RuntimeName, TestNode } from './harness.ts';
import { busybox, dir, file } from './images.ts';
import { addImage } from './inside.ts';

/** The runtimes that every suite of containers runs with. */
export const RUNTIMES: readonly RuntimeName[] = ['runc', 'crun'];

/** A container config with this security context. */
export const secured = (
  security: Input<LinuxContainerSecurityContext>,
): { readonly linux: { readonly securityContext: Input<LinuxContainerSecurityContext> } } => ({
  linux: { securityContext: security },
});

/** A container config with these namespaces over the usual ones. */
export const namespaces = (
  options: Partial<NamespaceOption>,
): { readonly linux: { readonly securityContext: { readonly namespaceOptions: Input<NamespaceOption> } } } => ({
  linux: { securityContext: { namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD', ...options } } },
});

/** Whether bit `number` is set in a mask as /proc/<pid>/status writes it. */
export const bit = (mask: string, number: number): boolean => ((BigInt(`0x${mask}`) >> BigInt(number)) & 1n) === 1n;
/** Numbers of capabilities (capability(7)). */
export const CAP = { CHOWN: 0, NET_BIND_SERVICE: 10, NET_ADMIN: 12, NET_RAW: 13, SYS_ADMIN: 21 } as const;

/** A node, and on it an image with users and groups of its own. */
export async function bootWithPeople(
  runtime: RuntimeName,
): Promise<{ readonly node: TestNode; readonly image: string }> {
  const node = await TestNode.boot({ runtime });
  const people = 'root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\n';
  const image = await addImage(node, 'people', {
    layers: [
      {
        files: [
          ...(await busybox()).filter(({ path }) => path !== 'etc/passwd' && path !== 'etc/group'),
          file('etc/passwd', people),
          file('etc/group', 'root:x:0:\nann:x:1000:\nwheel:x:10:ann\naudio:x:50000:ann\n'),
          dir('home'),
          dir('home/ann', { uid: 1000, gid: 1000 }),
        ],
        compression: 'none',
      },
    ],
    config: { Cmd: ['sleep', '1000'], Env: ['PATH=/bin', 'FROM_IMAGE=1', 'BOTH=image'], StopSignal: 'SIGUSR2' },
  });
  return { node, image };
}
