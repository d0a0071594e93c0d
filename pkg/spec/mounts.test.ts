import { assert } from 'chai';
import { outcome } from './golden/refused.ts';
import { inputOf } from './golden/request.ts';
import { buildContainerSpec } from './index.ts';
import { containerPath } from './mounts.ts';

type Golden = NonNullable<Parameters<typeof inputOf>[0]>;
const MAP = { hostId: 100000, containerId: 0, length: 65536 };
const IMAGE = { image: 'sha256:2', annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' };

function mount(fields: object, golden: Golden = {}, propagation = 'private'): string {
  const container = {
    mounts: [{ containerPath: '/data', hostPath: '/srv/data', ...fields }],
  } as unknown as NonNullable<Golden['container']>;
  const found = { mounts: [{ source: '/srv/data', kind: 'directory', propagation, image: false }] };
  return outcome(() => buildContainerSpec(inputOf({ container, found, ...golden })));
}

describe('CRI mounts', () => {
  const refused: readonly (readonly [
    id: string,
    fields: object,
    golden: Golden,
    propagation: string,
    message: RegExp,
  ])[] = [
    ['1.7 empty container_path', { containerPath: '' }, {}, 'private', /^InvalidArgument: .*container_path is empty/],
    ['container_path /', { containerPath: '/' }, {}, 'private', /^InvalidArgument: .*is the root itself/],
    ['container_path .', { containerPath: '.' }, {}, 'private', /^InvalidArgument: .*is the root itself/],
    [
      'container_path above the root',
      { containerPath: '/a/../..' },
      {},
      'private',
      /^InvalidArgument: .*is the root itself/,
    ],
    ['container_path with NUL', { containerPath: '/a\0' }, {}, 'private', /^InvalidArgument: .*NUL/],
    [
      'container_path of 5000 characters',
      { containerPath: `/${'x'.repeat(5000)}` },
      {},
      'private',
      /^InvalidArgument: .*4096/,
    ],
    [
      '1.7 HOST_TO_CONTAINER of a private source',
      { propagation: 'PROPAGATION_HOST_TO_CONTAINER' },
      {},
      'private',
      /^FailedPrecondition: .*not shared or slave.*make-rshared/,
    ],
    [
      '1.7 BIDIRECTIONAL of a slave source',
      { propagation: 'PROPAGATION_BIDIRECTIONAL' },
      {},
      'slave',
      /^FailedPrecondition: .*not shared,/,
    ],
    ['unknown propagation', { propagation: 'PROPAGATION_X' }, {}, 'shared', /^InvalidArgument: .*unknown propagation/],
    [
      '1.7 recursive_read_only without readonly',
      { recursiveReadOnly: true },
      {},
      'private',
      /^InvalidArgument: .*needs readonly/,
    ],
    [
      '1.7 recursive_read_only with propagation',
      { recursiveReadOnly: true, readonly: true, propagation: 'PROPAGATION_HOST_TO_CONTAINER' },
      {},
      'shared',
      /^InvalidArgument: .*needs PROPAGATION_PRIVATE/,
    ],
    [
      'X14 recursive_read_only that the handler lacks',
      { recursiveReadOnly: true, readonly: true },
      { runtime: { recursiveReadOnlyMounts: false } },
      'private',
      /^Unimplemented RROUnsupported: /,
    ],
    [
      '1.7 id mappings that the runtime lacks',
      { uidMappings: [MAP], gidMappings: [MAP] },
      { runtime: { idmappedMounts: false } },
      'private',
      /^FailedPrecondition: .*no idmapped mounts/,
    ],
    ['uid mappings alone', { uidMappings: [MAP] }, {}, 'private', /^InvalidArgument: .*together/],
    [
      'unknown mount option',
      { mountOptions: ['noexec', 'suid'] },
      {},
      'private',
      /^InvalidArgument: .*"suid" is not supported/,
    ],
    ['mount option with a comma', { mountOptions: ['noexec,rw'] }, {}, 'private', /^InvalidArgument/],
    [
      '1.7 image volume with host_path',
      { image: IMAGE, readonly: true },
      {},
      'private',
      /^InvalidArgument: .*host_path must be empty/,
    ],
    [
      '1.7 writable image volume',
      { image: IMAGE, hostPath: '' },
      {},
      'private',
      /^InvalidArgument: .*must be read-only/,
    ],
    [
      'KEP-4639 image_sub_path',
      { image: IMAGE, hostPath: '', readonly: true, imageSubPath: '../../etc' },
      {},
      'private',
      /^InvalidArgument: .*image_sub_path/,
    ],
    [
      'KEP-4639 image_sub_path in the middle',
      { image: IMAGE, hostPath: '', readonly: true, imageSubPath: 'a/../../b' },
      {},
      'private',
      /^InvalidArgument: .*image_sub_path/,
    ],
    [
      'KEP-4639 absolute image_sub_path',
      { image: IMAGE, hostPath: '', readonly: true, imageSubPath: '/etc' },
      {},
      'private',
      /^InvalidArgument: .*image_sub_path/,
    ],
  ];
  for (const [id, fields, golden, propagation, message] of refused)
    it(`refuses ${id}`, () => assert.match(mount(fields, golden, propagation), message));

  it('are accepted at paths that other runtimes take', () => {
    for (const path of ['/proc', '/dev', '/sys', '/proc/cpuinfo', '/..a', 'relative', '/a//b/'])
      assert.equal(mount({ containerPath: path }), 'accepted', path);
  });
  it('are at most as many as the limit (5000 mounts)', () => {
    const many = Array.from({ length: 5000 }, (_, at) => ({ containerPath: `/m/${at}`, hostPath: '/srv' }));
    assert.match(
      outcome(() => buildContainerSpec(inputOf({ container: { mounts: many } }))),
      /^ResourceExhausted: 5000 mounts/,
    );
  });
  it('stay inside the root whatever their path says (CVE-2022-23648)', () => {
    assert.deepEqual(['/../../../../etc', 'a/../b', '/a/./b//c/'].map(containerPath), ['/etc', '/b', '/a/b/c']);
  });
  it('of images are read-only, and may hold programs unless asked otherwise', () => {
    const optionsOf = (mountOptions: readonly string[]): readonly string[] | undefined => {
      const asked = { containerPath: '/v', hostPath: '', image: IMAGE, readonly: true, mountOptions };
      const found = { mounts: [{ source: '/i', kind: 'directory', propagation: 'private', image: true }] };
      const spec = buildContainerSpec(inputOf({ container: { mounts: [asked] }, found }));
      return spec.mounts.find(({ destination }) => destination === '/v')?.options;
    };
    assert.deepEqual(optionsOf([]), ['rbind', 'rprivate', 'ro', 'nosuid', 'nodev']);
    assert.deepEqual(optionsOf(['noexec']), ['rbind', 'rprivate', 'ro', 'nosuid', 'nodev', 'noexec']);
  });
  it('of artifacts have each of their files over them, but where the config has a mount of its own', () => {
    const asked = { containerPath: '/v', hostPath: '', image: IMAGE, readonly: true };
    const over = ['/v/own', '/v/a/mine'].map((at) => ({ containerPath: at, hostPath: '/srv' }));
    const files = ['w', 'a/b', 'a/mine/x', 'own', 'owner'].map((place) => ({ place, source: `/view/${place}` }));
    const source = { source: '/i', kind: 'directory', propagation: 'private', image: true, files };
    const plain = { source: '/srv', kind: 'directory', propagation: 'private', image: false };
    const found = { mounts: [source, plain, plain] };
    const { mounts } = buildContainerSpec(inputOf({ container: { mounts: [asked, ...over] }, found } as Golden));
    const shown = mounts.filter(({ destination }) => /^\/v(\/|$)/.test(destination));
    assert.deepEqual(
      shown.map((each) => `${each.destination} ${each.source}`),
      ['/v /i', '/v/w /view/w', '/v/owner /view/owner', '/v/own /srv', '/v/a/b /view/a/b', '/v/a/mine /srv'],
    );
    assert.deepEqual(shown[1]?.options, ['bind', 'rprivate', 'ro', 'nosuid', 'nodev', 'noexec']);
  });
  it('of the node that nobody asked for are read-only with all below them, or without what is below', () => {
    const volumes = [{ source: '/usr/share/secrets', containerPath: '/run/secrets', access: 'ro' as const }];
    const optionsWith = (recursiveReadOnlyMounts: boolean): readonly string[] | undefined =>
      buildContainerSpec(inputOf({ found: { volumes }, runtime: { recursiveReadOnlyMounts } })).mounts.find(
        ({ destination }) => destination === '/run/secrets',
      )?.options;
    assert.deepEqual(optionsWith(true), ['rbind', 'rprivate', 'rro']);
    assert.deepEqual(optionsWith(false), ['bind', 'rprivate', 'ro']);
  });
  it('must have been looked up', () => {
    assert.match(
      outcome(() =>
        buildContainerSpec(
          inputOf({ container: { mounts: [{ containerPath: '/a', hostPath: '/b' }] }, found: { mounts: [] } }),
        ),
      ),
      /^Internal: /,
    );
  });
});
