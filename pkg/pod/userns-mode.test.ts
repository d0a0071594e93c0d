import { assert } from 'chai';
import { codeOf, explain } from '../base/errors.ts';
import type { LinuxSandboxSecurityContext } from '../cri-api/types.ts';
import type { IdMap } from '../ports/rootfs.ts';
import { fails, ground, op } from './fake-ground.ts';
import { fakePod } from './fake-world.ts';
import { parseUsernsMode, type UsernsNode, usernsIdMap } from './userns-mode.ts';

const RANGE = [{ start: 100_000, count: 200_000 }];
const NODE: UsernsNode = { available: { uids: RANGE, gids: RANGE }, used: [], least: { uid: -1, gid: -1 } };

/** `container:host:size` of the uids, then of the gids where they are others. */
function mapOf(
  mode: string,
  security: Partial<LinuxSandboxSecurityContext> = {},
  node: Partial<UsernsNode> = {},
): string {
  const parsed = parseUsernsMode(mode);
  assert.isDefined(parsed);
  const map = usernsIdMap(parsed, security as LinuxSandboxSecurityContext, { ...NODE, ...node });
  const [uids, gids] = [map.uids, map.gids].map((each) =>
    each.map(({ containerId, hostId, size }) => `${containerId}:${hostId}:${size}`).join(' '),
  );
  return uids === gids ? String(uids) : `${uids} / ${gids}`;
}

function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return `${codeOf(error)}: ${explain(error)}`;
  }
  return 'nothing';
}

const one = (hostId: number, size: number): IdMap => ({
  uids: [{ containerId: 0, hostId, size }],
  gids: [{ containerId: 0, hostId, size }],
});
const runAs = (uid: bigint, gid = uid): Partial<LinuxSandboxSecurityContext> => ({
  runAsUser: { value: uid },
  runAsGroup: { value: gid },
  supplementalGroups: [],
});

describe('userns-mode: auto', () => {
  it('takes 65536 ids of the user containers, and those that no other pod has', () => {
    assert.strictEqual(mapOf('auto'), '0:100000:65536');
    assert.strictEqual(mapOf('auto', {}, { used: [one(100_000, 65_536)] }), '0:165536:65536');
    assert.strictEqual(mapOf('auto:size=10', {}, { used: [one(100_005, 100)] }), '0:100000:5 5:100105:5');
  });

  it('maps who the pod runs as to the first id, to itself, or to root', () => {
    assert.strictEqual(mapOf('auto:size=100', runAs(7n)), '1:100000:99 0:7:1');
    assert.strictEqual(mapOf('auto:size=100;keep-id=true', runAs(7n)), '0:100000:7 8:100007:92 7:7:1');
    assert.strictEqual(mapOf('auto:size=100;map-to-root=true', runAs(7n)), '1:100000:99 0:7:1');
    assert.strictEqual(
      mapOf('auto:size=4;keep-id=true', { ...runAs(2n), supplementalGroups: [2n, 3n] }),
      '0:100000:2 3:100002:1 2:2:1 / 0:100000:2 2:2:1 3:3:1',
    );
  });

  it('adds the mappings that root asks for, and does not give their ids twice', () => {
    assert.match(
      refusal(() => mapOf('auto:size=10;uidmapping=5:100003:2', runAs(0n))),
      /^InvalidArgument: .*include 0, which is root of the node/,
    );
    assert.strictEqual(
      mapOf('auto:size=10;uidmapping=5:100003:2;gidmapping=5:100003:2', runAs(1000n), {
        least: { uid: 1000, gid: 1000 },
      }),
      '0:100000:3 3:100005:2 8:100007:2 5:100003:2 7:1000:1',
    );
  });

  it('is refused where nothing is left, with the remedy', () => {
    assert.match(
      refusal(() => mapOf('auto', {}, { available: { uids: [], gids: [] } })),
      /^FailedPrecondition: .*"containers".*\/etc\/subuid/,
    );
    assert.match(
      refusal(() => mapOf('auto:size=200001')),
      /^FailedPrecondition: .*auto:size=N/,
    );
  });

  it('never makes anybody root of the node', () => {
    assert.match(
      refusal(() => mapOf('auto', runAs(0n))),
      /root of the node/,
    );
    assert.match(
      refusal(() => mapOf('auto', {}, { available: { uids: [{ start: 0, count: 70_000 }], gids: RANGE } })),
      /root of the node/,
    );
  });
});

describe('userns-mode: private', () => {
  it('maps what is named, the groups as the users unless they are named', () => {
    assert.strictEqual(
      mapOf('private:uidmapping=0:5000:1000', runAs(5000n), { least: { uid: 5000, gid: -1 } }),
      '0:5000:1000',
    );
    assert.strictEqual(
      mapOf('private:uidmapping=0:5000:10;gidmapping=0:6000:10', runAs(9000n, 6000n), {
        least: { uid: 5000, gid: 6000 },
      }),
      '0:5000:10 10:9000:1 / 0:6000:10',
    );
  });

  it('is refused as CRI-O refuses it', () => {
    const cases: readonly (readonly [string, Partial<LinuxSandboxSecurityContext>, number, RegExp])[] = [
      ['private', runAs(1n), -1, /wants a uidmapping/],
      ['private:uidmapping=0:1:2', {}, -1, /RunAsUser is not set/],
      ['private:uidmapping=0:1:2', runAs(5n), -1, /minimum_mappable_uid is not set/],
      ['private:uidmapping=0:1:2', runAs(5n), 10, /below minimum mappable ID 10/],
      ['private:uidmapping=0:3:2', runAs(20n), 10, /not allowed to map uid range \(3-4\)/],
      ['private:uidmapping=0:0:2', runAs(20n), 0, /root of the node/],
      ['private:uidmapping=1:20:2', runAs(20n), 0, /do not include 0/],
      ['private:uidmapping=0:20:2,1:50:2', runAs(20n), 0, /overlap/],
      ['private:uidmapping=0:20:0', runAs(20n), 0, /is empty/],
      ['private:uidmapping=0:20:1,5:4294967290:9', runAs(20n), 0, /ends beyond/],
    ];
    for (const [mode, security, uid, message] of cases)
      assert.match(
        refusal(() => mapOf(mode, security, { least: { uid, gid: uid } })),
        message,
        mode,
      );
  });
});

describe('a userns-mode', () => {
  it('that asks for none of its own is none', () => {
    for (const mode of ['', ' ', 'host']) assert.isUndefined(parseUsernsMode(mode));
  });

  it('that nobody can read is refused', () => {
    for (const mode of [
      'pod',
      'autox',
      'auto:',
      'auto:size',
      'auto:size=x',
      'auto:size=4294967296',
      'auto:keep-id=true;map-to-root=true',
      'auto:uidmapping=1:2',
      'auto:uidmapping=1:2:3:4',
      'auto:uidmapping=a:b:c',
    ])
      assert.match(
        refusal(() => parseUsernsMode(mode)),
        /^InvalidArgument: annotation userns-mode: /,
        mode,
      );
  });
});

describe('a pod with the annotation userns-mode', () => {
  const at = ground();
  const NAMES = ['userns-mode.crio.io', 'io.kubernetes.cri-o.userns-mode'];
  const handler = {
    privilegedWithoutHostDevices: false,
    minMemoryBytes: 0n,
    allowedAnnotations: ['userns-mode.crio.io'],
    defaultAnnotations: new Map<string, string>(),
    execCpuAffinity: '' as const,
    seccompProfile: undefined,
  };
  const allow = async (): Promise<void> => {
    at.mind.close();
    at.mind = await at.node.boot({ handlers: new Map(['', 'fake', 'other'].map((name) => [name, handler])) });
  };
  const host = (id: Awaited<ReturnType<typeof at.mind.pods.run>>): number | undefined =>
    at.mind.pods.get(id).idMap?.uids[0]?.hostId;

  it('gets a range of its own where its handler allows it, by either name, many at once', async () => {
    await allow();
    const pods = await Promise.all(
      ['a', 'b', 'c'].map((name, index) =>
        at.mind.pods.run(op(), fakePod(name, 0, { annotations: { [NAMES[index % 2] ?? '']: 'auto' } }), ''),
      ),
    );
    assert.sameMembers(pods.map(host), [200_000, 265_536, 331_072]);
    const full = await fails(
      at.mind.pods.run(op(), fakePod('d', 0, { annotations: { [NAMES[0] ?? '']: 'auto' } }), ''),
    );
    assert.strictEqual(full.code, 'FailedPrecondition');
    await at.mind.pods.remove(op(), pods[1] as (typeof pods)[number]);
    const next = await at.mind.pods.run(op(), fakePod('d', 0, { annotations: { [NAMES[0] ?? '']: 'auto' } }), '');
    assert.strictEqual(host(next), 265_536);
    assert.isUndefined(
      host(await at.mind.pods.run(op(), fakePod('e', 0, { annotations: { [NAMES[0] ?? '']: 'host' } }), '')),
    );
  });

  it('is refused rather than forgotten where it is not allowed, which would make it root of the node', async () => {
    for (const name of NAMES) {
      for (const mode of ['auto', 'auto:size=65536;map-to-root=true', 'private', 'nonsense']) {
        const error = await fails(at.mind.pods.run(op(), fakePod('web', 0, { annotations: { [name]: mode } }), ''));
        assert.strictEqual(error.code, 'InvalidArgument');
        assert.match(explain(error), new RegExp(`annotation ${name} .*allowed_annotations.*hostUsers: false`));
      }
      for (const nothing of ['', 'host'])
        assert.isUndefined(
          host(
            await at.mind.pods.run(op(), fakePod(`ok-${name}-${nothing}`, 0, { annotations: { [name]: nothing } }), ''),
          ),
        );
    }
    assert.lengthOf(at.mind.pods.list(), 4);
  });
});
