import { assert } from 'chai';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { mediaTypeLabel, pullFailureLabel, sizeLabel, stageLabel, stalledLabel } from './labels.ts';

describe('cri/metrics/labels', () => {
  it('has the classes of sizes of CRI-O', () => {
    const cases: readonly (readonly [number, string])[] = [
      [0, '>0 B'],
      [1000, '>0 B'],
      [1001, '>1 KiB'],
      [1_000_001, '>1 MiB'],
      [99e6, '>50 MiB'],
      [2e9, '>1 GiB'],
      [2e10, '>10 GiB'],
    ];
    for (const [bytes, label] of cases) assert.equal(sizeLabel(bytes), label);
  });

  it('names media types that are known, and no others', () => {
    const gzip = 'application/vnd.oci.image.layer.v1.tar+gzip';
    assert.equal(mediaTypeLabel(gzip), gzip);
    for (const made of ['', 'text/plain', `${gzip}${'x'.repeat(99)}`, 'application/x-evil'])
      assert.equal(mediaTypeLabel(made), 'other');
  });

  it('says in words of CRI-O what a pull failed of', () => {
    const cases: readonly (readonly [Error, string])[] = [
      [new RuntimeError('NotFound', 'a: 404: MANIFEST_UNKNOWN: manifest unknown'), 'MANIFEST_UNKNOWN'],
      [new RuntimeError('Unauthenticated', 'no'), 'UNAUTHORIZED'],
      [new RuntimeError('PermissionDenied', 'no'), 'DENIED'],
      [new RuntimeError('NotFound', 'no'), 'NOT_FOUND'],
      [new RuntimeError('Unavailable', 'a', { cause: new Error('connect ECONNREFUSED') }), 'CONNECTION_REFUSED'],
      [new RuntimeError('Unavailable', 'connect ETIMEDOUT'), 'CONNECTION_TIMEOUT'],
      [new Error('disk full'), 'UNKNOWN'],
    ];
    for (const [error, label] of cases) assert.equal(pullFailureLabel(error), label);
  });

  it('has words of CRI-O for stages at which the making of things stalls', () => {
    assert.equal(stalledLabel('RunPodSandbox', 'cni add: bridge'), 'sandbox network creation');
    assert.equal(stalledLabel('RunPodSandbox', 'wait for a turn of network x'), 'sandbox network creation');
    assert.equal(stalledLabel('RunPodSandbox', 'infra container: create'), 'sandbox container runtime creation');
    assert.equal(
      stalledLabel('CreateContainer', '/usr/bin/crun create, run by /usr/bin/conmon'),
      'container runtime creation',
    );
    assert.equal(stalledLabel('CreateContainer', 'volume /data'), 'container volume configuration');
    assert.equal(stalledLabel('CreateContainer', 'anything'), 'container creating');
  });

  it('leaves the objects out of a stage, so that there are few', () => {
    const cases: readonly (readonly [string, string])[] = [
      ['cni add: bridge', 'cni add: bridge'],
      [`image: layer sha256:${'a'.repeat(64)} downloading`, 'image: layer downloading'],
      ['/usr/bin/crun create, run by /usr/bin/conmon', 'create, run by'],
      ['connect to port 80', 'connect to port'],
      [`wait for container ${'0'.repeat(64)} to end`, 'wait for container to end'],
      ['', ''],
    ];
    for (const [stage, label] of cases) assert.equal(stageLabel(stage), label);
  });
});
