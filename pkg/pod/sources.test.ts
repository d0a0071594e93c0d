import { assert } from 'chai';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf, RuntimeError } from '../base/errors.ts';
import { newContainerId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { backgroundOp, silent } from '../base/op.ts';
import type { Image } from '../ports/image.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { InsideRoot } from '../ports/rootfs.ts';
import type { FoundDevice } from '../ports/spec.ts';
import type { ContainerRecord } from '../ports/state.ts';
import { Workspace } from '../state/index.ts';
import { fakeArtifact } from './fake-world.ts';
import { anonymousVolumes, defaultMounts, findDevices, imageVolumesOf, resolveMounts } from './sources.ts';
import type { World } from './world.ts';

const op = backgroundOp(silent);
const draft = { id: newContainerId(), config: { mounts: [] } } as unknown as ContainerRecord;

describe('volumes of artifacts', () => {
  it('are refused by the name of the key where they are switched off', () => {
    const mount = { containerPath: '/v', image: { image: 'a/model', userSpecifiedImage: '' } };
    const config = { mounts: [mount] } as unknown as NamedContainerConfig;
    const images = { find: () => fakeArtifact, called: () => ({ name: '', ref: 'ref' }) };
    const world = (artifactVolumes: 'on' | 'off'): World =>
      ({ images, settings: { artifactVolumes: artifactVolumes === 'on' } }) as unknown as World;
    assert.deepEqual(imageVolumesOf(world('on'), config), [
      { containerPath: '/v', imageId: fakeArtifact.id, imageRef: 'ref' },
    ]);
    assert.throws(() => imageVolumesOf(world('off'), config), RuntimeError, /oci_artifact_mount_support is off/);
  });

  it('are bounded together: each file is a mount of the container', () => {
    const mount = { containerPath: '/v', image: { image: 'a/model', userSpecifiedImage: '' } };
    const config = { mounts: Array.from({ length: 4_097 }, () => mount) } as unknown as NamedContainerConfig;
    const images = { find: () => fakeArtifact, called: () => ({ name: '', ref: '' }) };
    const world = { images, settings: { artifactVolumes: true } } as unknown as World;
    assert.throws(() => imageVolumesOf(world, config), RuntimeError, /have 4097 files together.* at most 4096/);
  });
});

describe('VOLUMEs of an image', () => {
  for (const [imageVolumes, owner] of [
    ['mkdir', { uid: 1000, gid: 1001 }],
    ['bind', { uid: 0, gid: 0 }],
  ] as const)
    it(`belong, where they are made by ${imageVolumes}, to ${owner.uid}:${owner.gid}`, async () => {
      const made: unknown[] = [];
      const inside = {
        ensureDir: async (path, whose) => {
          made.push([path, whose]);
          return path;
        },
        copyOut: async () => {},
      } as Partial<InsideRoot> as InsideRoot;
      const world = { settings: { imageVolumes }, rootfs: { makeVolume: async () => '/v' } } as unknown as World;
      const image = { config: { volumes: ['/data'] } } as unknown as Image;
      const user = { uid: 1000, gid: 1001, additionalGids: [], home: '/' };
      await anonymousVolumes(op, world, draft, image, { inside, idMap: null, label: '', user });
      assert.deepEqual(made, [['/data', owner]]);
    });
});

describe('a volume that asks for a label', () => {
  it('does not get it again where an annotation says to look at its top first', async () => {
    const labels = new Map([['/old', 'x']]);
    const done: string[] = [];
    const world = {
      settings: { absentMountSourcesToReject: [], bindMountPrefix: '' },
      host: {
        mountSource: async (_op: unknown, path: string) => ({
          realPath: path,
          kind: 'directory',
          propagation: 'private',
        }),
        labelOf: async (_op: unknown, path: string) => labels.get(path) ?? '',
        relabel: async (_op: unknown, paths: readonly string[]) => void done.push(...paths),
      },
    } as unknown as World;
    const mounts = ['/old', '/new'].map((hostPath) => ({ hostPath, containerPath: hostPath, selinuxRelabel: true }));
    const record = { ...draft, config: { ...draft.config, mounts } } as unknown as typeof draft;
    for (const relabel of ['unless labelled', 'always'] as const)
      await resolveMounts(op, world, record, { idMap: null, label: 'x', relabel });
    assert.deepEqual(done, ['/new', '/old', '/new']);
  });
});

describe('devices of a request', () => {
  const node = (path: string): FoundDevice => ({
    path,
    type: 'c',
    major: 1,
    minor: 3,
    fileMode: 0o666,
    uid: 0,
    gid: 0,
  });
  const ask = async (hostPaths: readonly string[]): Promise<{ readonly looks: string[]; readonly count: number }> => {
    const looks: string[] = [];
    const world = {
      settings: { additionalDevices: [] },
      host: {
        devices: async (_op: unknown, path: string) => {
          looks.push(path);
          return path === '/dev' ? Array.from({ length: 500 }, (_, index) => node(`/dev/d${index}`)) : [node(path)];
        },
      },
    } as unknown as World;
    const devices = hostPaths.map((hostPath) => ({ hostPath, containerPath: hostPath, permissions: 'rwm' }));
    const config = { devices } as unknown as NamedContainerConfig;
    const { devices: found } = await findDevices(op, world, config, { annotated: [], host: 'none' });
    return { looks, count: found.length };
  };

  it('are looked at once for each path', async () => {
    assert.deepEqual(await ask(['/dev/null', '/dev', '/dev/null', '/dev']), {
      looks: ['/dev/null', '/dev'],
      count: 1_002,
    });
  });

  it('are so many nodes at most, however many directories of them are asked for', async () => {
    const error: unknown = await ask(Array.from({ length: limits.mountsCount }, () => '/dev')).catch(
      (cause: unknown) => cause,
    );
    assert.match(String(error), /devices are more than 16384 nodes together; ask for those that are needed/);
    assert.strictEqual(codeOf(error), 'InvalidArgument');
  });
});

describe('mounts of default_mounts_file', () => {
  it('have in place of links what these lead to on the host', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'berth-sources-'));
    try {
      for (const name of ['plain', 'linked', 'elsewhere']) await mkdir(join(dir, name));
      await writeFile(join(dir, 'elsewhere/key'), 'KEY');
      await symlink('../elsewhere', join(dir, 'linked/pki'));
      const names = ['plain', 'linked', 'absent'];
      const labelled: string[] = [];
      const world = {
        settings: { defaultMounts: names.map((name) => ({ source: join(dir, name), containerPath: `/${name}` })) },
        workspace: new Workspace(join(dir, 'run')),
        host: {
          mountSource: async (_op: unknown, path: string) => {
            if (path.endsWith('absent')) throw new RuntimeError('NotFound', 'not there');
            return { realPath: path, kind: 'directory' };
          },
          relabel: async (_op: unknown, path: string, label: string) => void labelled.push(`${label} ${path}`),
        },
      } as unknown as World;
      await mkdir(join(dir, 'run/containers'), { recursive: true });
      const [plain, linked, ...more] = await defaultMounts(op, world, draft, { idMap: null, label: 'x' });
      assert.deepEqual([plain?.source, plain?.containerPath, more.length], [join(dir, 'plain'), '/plain', 0]);
      assert.equal(await readFile(join(linked?.source ?? '', 'pki/key'), 'utf8'), 'KEY');
      assert.isTrue(linked?.source.startsWith(world.workspace.bundle(draft.id)));
      assert.deepEqual(labelled, [`x ${linked?.source}`]);
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});
