/** Ground for tests of the door: requests with one thing changed, and what their refusal has to look like. */
import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import type {
  ContainerConfig,
  CreateContainerRequest,
  Input,
  LinuxContainerSecurityContext,
  LinuxPodSandboxConfig,
  Messages,
  Mount,
  PodSandboxConfig,
  RunPodSandboxRequest,
} from '../pkg/cri-api/types.ts';
import { codecs } from './codec.ts';
import { narrowCreateContainer, narrowRunPodSandbox } from './validate.ts';

/** A message as the server decodes it: everything filled in. */
export function full<M extends keyof Messages>(name: M, value: Input<Messages[M]>): Messages[M] {
  return codecs[name].decode(codecs[name].encode(value));
}

export const metadata = { name: 'web', namespace: 'shop', uid: 'a1b2' };
/** Longer than any message may be that quotes it. */
export const huge = 'x'.repeat(10_000_000);

/** A call that is refused, and the beginning of the message, which names the field. */
export type Refused = readonly [what: string, call: () => unknown, message: string];

export const run =
  (request: Input<RunPodSandboxRequest>): (() => unknown) =>
  () =>
    narrowRunPodSandbox(full('RunPodSandboxRequest', request));
export const sandbox = (config: Input<PodSandboxConfig>): (() => unknown) => run({ config: { metadata, ...config } });
export const linuxSandbox = (linux: Input<LinuxPodSandboxConfig>): (() => unknown) => sandbox({ linux });
export const create =
  (request: Input<CreateContainerRequest>): (() => unknown) =>
  () =>
    narrowCreateContainer(
      full('CreateContainerRequest', { podSandboxId: 'abcd', sandboxConfig: { metadata }, ...request }),
    );
export const container = (config: Input<ContainerConfig>): (() => unknown) =>
  create({ config: { metadata: { name: 'app' }, image: { image: 'busybox' }, ...config } });
export const security = (context: Input<LinuxContainerSecurityContext>): (() => unknown) =>
  container({ linux: { securityContext: context } });
export const mount = (it: Input<Mount>): (() => unknown) =>
  container({ mounts: [{ containerPath: '/data', hostPath: '/srv/data', ...it }] });

/** A test for each case: InvalidArgument, in words that begin so, are short, and hold no secret. */
export function refuses(cases: readonly Refused[]): void {
  for (const [what, call, message] of cases) {
    it(`refuses ${what}`, () => {
      let thrown: unknown;
      try {
        call();
      } catch (error) {
        thrown = error;
      }
      if (!(thrown instanceof RuntimeError)) assert.fail(`got ${String(thrown)}`);
      assert.equal(thrown.code, 'InvalidArgument');
      assert.isTrue(thrown.message.startsWith(message), thrown.message);
      assert.isBelow(thrown.message.length, 500, 'the value is shortened');
      assert.notInclude(thrown.message, 'geheim');
    });
  }
}
