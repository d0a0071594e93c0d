import { assert } from 'chai';
import type { ContainerRecord, SandboxRecord } from '../pkg/ports/state.ts';
import { containerInfo, podInfo } from './verbose.ts';

const RECORD = {
  kind: 'container',
  id: 'c'.repeat(64),
  sandboxId: 's'.repeat(64),
  createdAt: 5n,
  config: {
    envs: [{ key: 'TOKEN', value: Buffer.from('secret') }],
    linux: { securityContext: { privileged: true } },
  },
  state: { phase: 'running', process: { pid: 42, startTicks: 7n } },
} as unknown as ContainerRecord;

describe('The info of a verbose status', () => {
  it('has what CRI-O and containerd have of a container, and the record', () => {
    const info = JSON.parse(containerInfo(RECORD, '{"process":{"args":["sh"]}}')) as Record<string, unknown>;
    assert.deepInclude(info, {
      sandboxID: 's'.repeat(64),
      pid: 42,
      privileged: true,
      runtimeSpec: { process: { args: ['sh'] } },
      createdAt: 5,
    });
    assert.notInclude(JSON.stringify(info), Buffer.from('secret').toString('base64'));
  });

  it('says of a container that has ended, without privileges and spec, what is true', () => {
    const ended = { ...RECORD, config: { envs: [] }, state: { phase: 'exited' } } as unknown as ContainerRecord;
    const info = JSON.parse(containerInfo(ended, undefined)) as Record<string, unknown>;
    assert.deepInclude(info, { pid: 0, privileged: false });
    assert.notProperty(info, 'runtimeSpec');
  });

  it('keeps numbers of 64 bits in the spec, to the digit', () => {
    const text = containerInfo(RECORD, '{"rlimit":18446744073709551615}');
    assert.match(text, /"runtimeSpec":\{"rlimit":18446744073709551615\}\}$/);
  });

  it('has the process and spec of a pod', () => {
    const pod = { kind: 'sandbox', infra: { process: { pid: 9 } } } as unknown as SandboxRecord;
    assert.deepInclude(JSON.parse(podInfo(pod, '{"linux":{}}')), { pid: 9, runtimeSpec: { linux: {} } });
    assert.deepInclude(JSON.parse(podInfo({ ...pod, infra: null }, '{}')), { pid: 0 });
  });
});
