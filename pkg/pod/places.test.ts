import { assert } from 'chai';
import { isCode, RuntimeError } from '../base/errors.ts';
import { backgroundOp, silent } from '../base/op.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import type { InsideRoot, Landing } from '../ports/rootfs.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { ResolvedMount } from '../ports/spec.ts';
import { checkIdentityFiles, landTargets } from './places.ts';
import type { World } from './world.ts';

const op = backgroundOp(silent);

/** A root in which these paths land elsewhere, by links that dangle. */
function inside(lands: Readonly<Record<string, Partial<Landing>>>): InsideRoot {
  const landings = async (paths: readonly string[]): Promise<readonly Landing[]> =>
    paths.map((path) => ({ path, dangles: false, places: [path], ...lands[path] }));
  return { landings } as InsideRoot;
}
/** A host on which these paths are no files. */
function host(others: readonly string[]): World {
  const mountSource = async (_op: unknown, path: string): Promise<{ readonly kind: string }> => {
    if (!path.startsWith('/volume')) throw new RuntimeError('NotFound', 'not there');
    return { kind: others.includes(path) ? 'other' : 'file' };
  };
  return { host: { mountSource } } as unknown as World;
}
const mounts = (...paths: readonly string[]): Pick<NamedContainerConfig, 'mounts'> =>
  ({ mounts: paths.map((containerPath) => ({ containerPath })) }) as unknown as NamedContainerConfig;
const source = (path: string, kind: ResolvedMount['kind']): ResolvedMount => ({
  source: path,
  kind,
  propagation: 'private',
  image: false,
});

describe('files of users and groups', () => {
  const volume = source('/volume', 'directory');
  const rows: readonly (readonly [
    what: string,
    places: readonly string[],
    sources: readonly ResolvedMount[],
    lands: Readonly<Record<string, Partial<Landing>>>,
    others: readonly string[],
    outcome: 'InvalidArgument' | 'FailedPrecondition' | 'taken',
  ])[] = [
    ['a FIFO over one', ['/etc/group'], [source('/volume/f', 'other')], {}, [], 'InvalidArgument'],
    ['a file over one', ['/etc/group'], [source('/volume/f', 'file')], {}, [], 'taken'],
    ['a volume with one over /etc', ['/etc'], [volume], {}, ['/volume/group'], 'InvalidArgument'],
    [
      'a volume over /etc, and a file over that',
      ['/etc', '/etc/group'],
      [volume, source('/volume/x', 'file')],
      {},
      ['/volume/group'],
      'taken',
    ],
    ['a volume over all but /etc', ['/data'], [volume], {}, ['/volume/group'], 'taken'],
    [
      'a volume at a link to /etc',
      ['/here'],
      [volume],
      { '/here': { path: '/etc' } },
      ['/volume/group'],
      'InvalidArgument',
    ],
    [
      'a volume to which /etc is a link',
      ['/data'],
      [volume],
      { '/etc/group': { path: '/data/group' } },
      ['/volume/group'],
      'InvalidArgument',
    ],
    [
      'a link that dangles to below a mount',
      ['/data'],
      [volume],
      { '/etc/group': { path: '/data/e/group', places: ['/etc', '/data/e', '/data/e/group'], dangles: true } },
      [],
      'FailedPrecondition',
    ],
    [
      'a link that dangles through a mount',
      ['/data'],
      [volume],
      { '/etc/group': { path: '/e/group', places: ['/etc', '/data', '/e/group'], dangles: true } },
      [],
      'FailedPrecondition',
    ],
    [
      'a link that dangles elsewhere',
      ['/data'],
      [volume],
      { '/etc/group': { path: '/e/group', places: ['/etc', '/e/group'], dangles: true } },
      [],
      'taken',
    ],
    ['an empty volume over /etc', ['/etc'], [source('/empty', 'directory')], {}, [], 'taken'],
    ['no mounts', [], [], { '/etc/group': { dangles: true } }, [], 'taken'],
  ];
  for (const [what, places, sources, lands, others, outcome] of rows) {
    it(`${what}: ${outcome}`, async () => {
      const error: unknown = await checkIdentityFiles(op, host(others), inside(lands), mounts(...places), sources).then(
        () => 'taken',
        (cause: unknown) => cause,
      );
      if (outcome === 'taken') assert.equal(error, 'taken');
      else assert.isTrue(isCode(error, outcome), String(error));
    });
  }
});

describe('targets of mounts and devices', () => {
  const spec = {
    root: { path: '/r' },
    mounts: [
      { destination: '/dev' },
      { destination: '/run/.containerenv' },
      { destination: '/srv/x' },
      { destination: '/etc/hosts' },
    ],
    linux: { devices: [{ path: '/dev/null' }, { path: '/nodes/n' }] },
  } as unknown as RuntimeSpec;
  const placesOf = ({ mounts: all, linux }: RuntimeSpec): string[] => [
    ...all.map(({ destination }) => destination),
    ...(linux.devices ?? []).map(({ path }) => path),
  ];

  it('stay where no link dangles', async () => {
    assert.strictEqual(await landTargets(spec, inside({})), spec);
    assert.strictEqual(await landTargets(spec, inside({ '/etc/hosts': { path: '/e/hosts' } })), spec);
  });

  it('go where a link leads, parents before children', async () => {
    const lands = {
      '/run/.containerenv': { path: '/srv/x/y/.containerenv', dangles: true },
      '/nodes/n': { path: '/srv/n', dangles: true },
      '/dev': { path: '/elsewhere', dangles: true },
    };
    assert.deepEqual(placesOf(await landTargets(spec, inside(lands))), [
      '/dev',
      '/srv/x',
      '/etc/hosts',
      '/srv/x/y/.containerenv',
      '/dev/null',
      '/srv/n',
    ]);
  });

  it('are refused where the kernel lets nobody make anything', async () => {
    for (const path of ['/proc/1/root/run', '/sys'])
      await landTargets(spec, inside({ '/etc/hosts': { path, dangles: true } })).then(
        () => assert.fail('taken'),
        (error: unknown) =>
          assert.match(String(error), /"\/etc\/hosts" in the image leads by symlinks to "\/(proc|sys)/),
      );
  });
});
