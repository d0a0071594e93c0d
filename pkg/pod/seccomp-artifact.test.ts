import { assert } from 'chai';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf, explain } from '../base/errors.ts';
import { backgroundOp, silent } from '../base/op.ts';
import type { Subject } from './gather.ts';
import { artifactSeccomp } from './seccomp-artifact.ts';
import type { World } from './world.ts';

const POD = 'seccomp-profile.crio.io/POD';

describe('a seccomp profile in an OCI artifact', () => {
  let dir = '';
  let asked: string[] = [];
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'berth-profile-'));
    asked = [];
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  function read(
    options: { readonly profileType?: string; readonly allowed?: readonly string[]; readonly files?: number } = {},
  ): Promise<unknown> {
    const { profileType, allowed = ['seccomp-profile.crio.io'], files = 1 } = options;
    writeFileSync(join(dir, 'blob'), '{"defaultAction":"SCMP_ACT_ERRNO"}');
    const artifact = { id: 'x', artifact: { files: Array(files).fill({ name: 'p.json', path: join(dir, 'blob') }) } };
    const world = {
      settings: { workloads: [], handlers: new Map([['', { allowedAnnotations: allowed }]]) },
      images: {
        find: () => undefined,
        pull: async (_op: unknown, reference: string) => {
          asked.push(`pull ${reference}`);
          return artifact;
        },
        checkUse: async (_op: unknown, _id: unknown, use: { namespace: string }) =>
          void asked.push(`use ${use.namespace}`),
      },
    } as unknown as World;
    const security = profileType === undefined ? undefined : { seccomp: { profileType, localhostRef: '/x' } };
    const subject = {
      draft: { config: { metadata: { name: 'app' }, linux: { securityContext: security } } },
      sandbox: {
        runtime: null,
        runtimeHandler: '',
        config: { annotations: { [POD]: 'registry.test/profile:1' }, metadata: { namespace: 'default' } },
      },
      image: { annotations: {} },
    } as unknown as Subject;
    return artifactSeccomp(backgroundOp(silent), world, subject);
  }

  it('is pulled, may be used by the policy of the namespace, and is that of a container without another', async () => {
    for (const profileType of [undefined, 'Unconfined'])
      assert.deepEqual(await read(profileType === undefined ? {} : { profileType }), {
        defaultAction: 'SCMP_ACT_ERRNO',
      });
    assert.deepEqual(asked.slice(0, 2), ['pull registry.test/profile:1', 'use default']);
  });

  it('is nothing to a container that names a profile of its own', async () => {
    for (const profileType of ['RuntimeDefault', 'Localhost']) assert.isUndefined(await read({ profileType }));
    assert.deepEqual(asked, []);
  });

  it('is refused where it is not allowed, and where there is none in it', async () => {
    const error = async (work: Promise<unknown>): Promise<unknown> =>
      await work.then(
        () => undefined,
        (cause: unknown) => cause,
      );
    assert.strictEqual(codeOf(await error(read({ allowed: [] }))), 'InvalidArgument');
    assert.match(explain(await error(read({ files: 0 }))), /registry\.test\/profile:1.*no OCI artifact/);
  });
});
