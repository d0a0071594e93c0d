import { assert } from 'chai';
import { codeOf } from '../base/errors.ts';
import { NO_RESOURCES } from './resources.ts';
import { workloadOf, workloadResources } from './workloads.ts';
import type { Workload } from '../ports/spec.ts';

const NOTHING = { cpuShares: 0n, cpuQuota: 0n, cpuPeriod: 0n, cpuset: '', cpuLimit: 0n };
const management: Workload = {
  name: 'management',
  activationAnnotation: 'target.workload/management',
  annotationPrefix: 'resources.workload',
  allowedAnnotations: [],
  resources: { ...NOTHING, cpuShares: 100n, cpuset: '0-1' },
};
const MARK = { 'target.workload/management': '{}' };

describe('workloads', () => {
  it('are for pods with their annotation, whatever it says, the first one found', () => {
    const other = { ...management, activationAnnotation: 'other' };
    assert.equal(workloadOf([management, other], { ...MARK, other: 'x' }), management);
    assert.equal(workloadOf([other, management], { other: '' }), other);
    assert.isUndefined(workloadOf([management], { 'target.workload/management2': '', TARGET: '' }));
    assert.isUndefined(workloadOf([{ ...management, activationAnnotation: 'constructor' }], {}));
  });

  it('leave others alone', () => {
    const asked = { ...NO_RESOURCES, cpuShares: 7n };
    assert.equal(workloadResources(asked, [], MARK, 'app'), asked);
    assert.isUndefined(workloadResources(undefined, [{ ...management, resources: NOTHING }], MARK, 'app'));
  });

  const overrides: readonly (readonly [what: string, annotations: Readonly<Record<string, string>>, wanted: object])[] =
    [
      ['by default', {}, { cpuShares: 100n, cpusetCpus: '0-1' }],
      [
        'by an object for the container',
        { 'resources.workload/app': '{"cpushares": 200, "cpuset": "3", "memory": 1}' },
        { cpuShares: 200n, cpusetCpus: '3' },
      ],
      [
        'by an object for another container',
        { 'resources.workload/web': '{"cpushares": 200}' },
        { cpuShares: 100n, cpusetCpus: '0-1' },
      ],
      [
        'by one resource, which wins',
        {
          'resources.workload/app': '{"cpushares": 200}',
          'resources.workload.cpushares/app': '300',
          'resources.workload.cpuquota/app': '5000',
        },
        { cpuShares: 300n, cpuQuota: 5_000n, cpusetCpus: '0-1' },
      ],
      [
        'by a limit in thousandths of a CPU',
        { 'resources.workload/app': '{"cpulimit": 1500}' },
        { cpuPeriod: 100_000n, cpuQuota: 150_000n },
      ],
      [
        'by a limit and a period',
        { 'resources.workload/app': '{"cpulimit": "500", "cpuperiod": 50000}' },
        { cpuPeriod: 50_000n, cpuQuota: 25_000n },
      ],
      ['by the least limit there is', { 'resources.workload/app': '{"cpulimit": 1}' }, { cpuQuota: 1_000n }],
      [
        'by keys in any case, as Go reads them, of which the last one counts',
        { 'resources.workload/app': '{"cpushares": 200, "CPUShares": 300, "cpuSet": "3", "cpuquota": null}' },
        { cpuShares: 300n, cpusetCpus: '3' },
      ],
      ['by no quota at all', { 'resources.workload/app': '{"cpuquota": -1}' }, { cpuQuota: -1n }],
      [
        'by nothing in 0 and ""',
        { 'resources.workload/app': '{"cpushares": 0, "cpuset": ""}' },
        { cpuShares: 100n, cpusetCpus: '0-1' },
      ],
    ];
  for (const [what, annotations, wanted] of overrides) {
    it(`change resources ${what}`, () => {
      const asked = { ...NO_RESOURCES, cpuShares: 2n, memoryLimitInBytes: 99n };
      assert.include(workloadResources(asked, [management], { ...MARK, ...annotations }, 'app'), {
        memoryLimitInBytes: 99n,
        ...wanted,
      });
    });
  }

  for (const bad of [
    '{"cpushares": -1}',
    '{"cpushares": 1.5}',
    '{"cpuset": "all"}',
    '[]',
    'null',
    'x',
    '{"cpushares": {}}',
  ]) {
    it(`refuse ${bad}`, () => {
      try {
        workloadResources(undefined, [management], { ...MARK, 'resources.workload/app': bad }, 'app');
      } catch (error) {
        assert.equal(codeOf(error), 'InvalidArgument');
        return;
      }
      assert.fail('it was taken');
    });
  }
});
