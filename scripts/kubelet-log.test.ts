import { assert } from 'chai';
import { complaintsOf, goneBy } from '../test/cluster/kubelet-log.ts';

const ID = '5d4c'.repeat(16);
const OTHER = 'e01a'.repeat(16);
/** A time of day here, as the kubelet and as Berth write it. */
const at = (seconds: number): Date => new Date(2026, 11, 1, 10, 3, seconds);
const klog = (seconds: number, rest: string): string => `E1201 10:03:0${seconds}.250417     171 ${rest}`;
const unknown = (id: string): string => `rpc error: code = NotFound desc = no container has the id \\"${id}\\"`;
const removal = (end: Date, what: string): string =>
  `time=${end.toISOString()} level=info msg=ok rpc=Remove${what} ms=1700.2\n`;
const CONTAINER = removal(at(4), `Container req=9a1 container=${ID}`);
/** It began to be removed at 2.3 s. */
const GONE = goneBy(CONTAINER, [at(0)]);

const garbage = (id: string): string => {
  const error = `failed to get container status \\"${id}\\": ${unknown(id)}`;
  return `kuberuntime_gc.go:151] "Failed to remove container" err="${error}" containerID="${id}"`;
};
const remote = (line: number, what: string, error: string): string =>
  `remote_runtime.go:${line}] "${what} from runtime service failed" err="${error}" containerID="${ID}"`;
const status = remote(569, 'ContainerStatus', unknown(ID));

describe("complaints in a kubelet's log", () => {
  it('are none of a container that the kubelet itself has removed, whichever of its threads asks for it', () => {
    const rotating = `container_log_manager.go:233] "Failed to get container status" err="${unknown(ID)}" worker=1`;
    const probing = remote(636, 'ExecSync cmd', unknown(ID));
    const nested = `failed to \\"Stop\\": ${unknown(ID).replaceAll('"', '\\\\\\"')}`;
    const syncing = `pod_workers.go:1338] "Error syncing pod, skipping" err="${nested}"`;
    const log = [garbage(ID), status, rotating, probing, syncing].map((line) => klog(3, line)).join('\n');
    assert.deepEqual(complaintsOf(log, GONE), []);
  });

  it('are what it says of a container that nobody removed, or not yet', () => {
    const [other, early] = [klog(3, garbage(OTHER)), klog(1, status)];
    assert.deepEqual(complaintsOf([other, early].join('\n'), GONE), [other, early]);
    assert.deepEqual(complaintsOf(klog(3, status), goneBy('', [at(0)])), [klog(3, status)]);
    const failed = CONTAINER.replace('msg=ok', 'msg=failed');
    assert.deepEqual(complaintsOf(klog(3, status), goneBy(failed, [at(0)])), [klog(3, status)]);
  });

  it('are none of a sandbox that it has removed', () => {
    const text = unknown(ID).replace('container', 'pod sandbox');
    const line = klog(5, `kuberuntime_manager.go:2044] "PodSandboxStatus of sandbox for pod" err="${text}"`);
    const slow = removal(at(4), `PodSandbox req=9a2 sandbox=${ID}`).replace('ok', '"ok, but slow"');
    assert.deepEqual(complaintsOf(line, goneBy(slow, [at(0)])), []);
    assert.deepEqual(complaintsOf(line, new Map()), [line]);
  });

  it('are none of what was there before a power cut, since the node is on again', () => {
    const before = `time=${at(2).toISOString()} level=info msg=ok rpc=CreateContainer req=1 ms=9.1 container=${ID}\n`;
    const after = `time=${at(5).toISOString()} level=info msg=serving\n`;
    const gone = goneBy(before + after, [at(0), at(4)]);
    const [early, late] = [klog(3, status), klog(6, status)];
    assert.deepEqual(complaintsOf(`${early}\n${late}`, gone), [early]);
    assert.deepEqual(complaintsOf(late, goneBy(before + after, [at(0)])), [late]);
  });

  it('are none of a container that ended while it was to be probed, or its log turned over', () => {
    const says = (code: string, rest: string): string =>
      `err="rpc error: code = ${code} desc = container ${ID} is ${rest}"`;
    const probe = says('NotFound', 'exited; commands run only in one that is created or running');
    const turn = says('FailedPrecondition', 'exited; its log is reopened only while it runs');
    const log = [
      klog(1, `remote_runtime.go:636] "ExecSync cmd from runtime service failed" ${probe} containerID="${ID}"`),
      klog(1, `container_log_manager.go:266] "Failed to rotate log for container" ${turn} containerID="${ID}"`),
    ];
    assert.deepEqual(complaintsOf(log.join('\n'), new Map()), []);
    const alive = log.map((line) => line.replace('is exited', 'is running'));
    assert.deepEqual(complaintsOf(alive.join('\n'), new Map()), alive);
  });

  it('are none while Berth is away, whatever was under way then', () => {
    const says = [
      'transport: Error while dialing: dial unix /run/b.sock: connect: connection refused',
      'error reading server preface: read unix @->/run/b.sock: connection reset by peer',
      'error reading from server: EOF',
    ].map((text) => klog(1, remote(636, 'ExecSync cmd', `rpc error: code = Unavailable desc = ${text}`)));
    assert.deepEqual(complaintsOf(says.join('\n'), new Map()), []);
    const recovering = klog(1, remote(636, 'ExecSync cmd', 'rpc error: code = Unavailable desc = recovering'));
    assert.deepEqual(complaintsOf(recovering, new Map()), [recovering]);
  });

  it('are told once each, of errors about the runtime alone', () => {
    const internal =
      'remote_runtime.go:435] "StartContainer from runtime service failed" err="rpc error: code = Internal"';
    const log = [klog(1, internal), klog(2, internal), klog(2, 'reflector.go:1] "Unhandled" err="connection refused"')];
    const warning = klog(3, internal).replace('E', 'W');
    assert.deepEqual(complaintsOf([...log, warning].join('\n'), new Map()), [klog(2, internal)]);
  });
});
