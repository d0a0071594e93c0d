/**
 * Images whose symlinks lead nowhere, with runc and crun: what a container needs is made where they lead, inside its
 * root. Shapes out of public images: /var/run and /run of slim bases, /etc of image builders.
 */
import { assert } from 'chai';
import { existsSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TestNode } from './harness.ts';
import { busybox, dir, fifo, file, symlink as link, type LayerFile } from './images.ts';
import { addImage, host, idle, refusal, sh } from './inside.ts';
import { RUNTIMES, secured } from './container-ground.ts';

for (const runtime of RUNTIMES) {
  describe(`links that lead nowhere with ${runtime}`, function () {
    this.timeout(60_000);
    let node: TestNode;
    let volume: string;
    before(async () => {
      node = await TestNode.boot({ runtime });
      volume = join(node.dir, 'volume');
      await mkdir(volume);
      await writeFile(join(volume, 'file'), 'content\n');
    });
    after(() => node.close());

    let count = 0;
    /** The image without the places of `files`, and then with them. */
    const imageWith = async (files: readonly LayerFile[], config: Record<string, unknown> = {}): Promise<string> => {
      const named = files.map(({ path }) => path.replace(/\/$/, ''));
      const isReplaced = ({ path }: LayerFile): boolean =>
        named.some((name) => path.replace(/\/$/, '') === name || path.startsWith(`${name}/`));
      count++;
      return await addImage(node, `links-${count}`, {
        layers: [{ files: [...(await busybox()).filter((each) => !isReplaced(each)), ...files], compression: 'none' }],
        config: { Cmd: ['sleep', '1000'], Env: ['PATH=/bin'], ...config },
      });
    };
    const mount = (containerPath: string): { readonly containerPath: string; readonly hostPath: string } => ({
      containerPath,
      hostPath: volume,
    });

    const rows: readonly (readonly [
      what: string,
      files: readonly LayerFile[],
      script: string,
      says: string | RegExp,
      more?: { readonly at?: string; readonly file?: string; readonly config?: Record<string, unknown> },
    ])[] = [
      ['/run -> /tmp/run', [link('run', '/tmp/run')], 'ls /tmp/run/.containerenv', '/tmp/run/.containerenv'],
      ['/run -> a/b/c', [link('run', 'a/b/c')], 'ls /a/b/c/.containerenv', '/a/b/c/.containerenv'],
      ['/etc -> absent', [link('etc', 'absent')], 'grep -c localhost /absent/hosts', /^\d/],
      ['/etc -> /usr/x/etc, as a user', [link('etc', '/usr/x/etc')], 'id -u; id -G', '1000\n1000'],
      [
        '/var/run -> /run, which is absent',
        [link('var/run', '/run')],
        'cat /run/s/file',
        'content',
        { at: '/var/run/s' },
      ],
      ['/var -> v and /run -> var/run', [link('var', 'v'), link('run', 'var/run')], 'ls -A /v/run', '.containerenv'],
      ['a chain', [link('a', '/b'), link('b', 'c'), link('c', './d')], 'cat /d/e/file', 'content', { at: '/a/e' }],
      ['more .. than there are', [link('a', '../../../up')], 'cat /up/x/file', 'content', { at: '/a/x' }],
      ['.. of what is not there', [link('a', 'none/../up')], 'cat /up/x/file', 'content', { at: '/a/x' }],
      ['a target that is the link', [link('data', '/srv/data')], 'cat /srv/data/file', 'content', { at: '/data' }],
      ['a file that is the link', [link('conf', '/srv/conf')], 'cat /srv/conf', 'content', { file: '/conf' }],
      ['a link into the pod’s shm', [link('run', '/dev/shm/run')], 'ls -A /run', '.containerenv'],
      [
        '/etc/hosts, hostname and resolv.conf',
        [dir('etc'), link('etc/hosts', '/run/x/hosts'), link('etc/hostname', '../o/n'), link('etc/resolv.conf', 'r/c')],
        'grep -c localhost /run/x/hosts; ls /o/n /etc/r/c',
        /^\d+\n\/etc\/r\/c\n\/o\/n$/,
      ],
      [
        '/etc/passwd and /etc/group',
        [dir('etc'), link('etc/passwd', '/private/passwd'), link('etc/group', 'private/group')],
        'id -u; id -G',
        '1000\n1000',
      ],
      [
        'a working directory',
        [link('app', '/opt/app')],
        'pwd -P; ls -ld .',
        /^\/opt\/app\/src\n/,
        { config: { WorkingDir: '/app/src' } },
      ],
      [
        'a VOLUME',
        [link('data', 'srv/data')],
        'touch /srv/data/v/x && echo made',
        'made',
        { config: { Volumes: { '/data/v': {} } } },
      ],
      [
        'a VOLUME that /run leads below',
        [link('run', '/tmp/run')],
        'ls -A /tmp/run',
        '.containerenv',
        { config: { Volumes: { '/tmp': {} } } },
      ],
    ];
    for (const [what, files, script, says, { at, file: single, config } = {}] of rows) {
      it(`${what}: starts, and the target is inside the root`, async () => {
        const pod = await node.cri.runPod();
        const user =
          what.includes('user') || what.includes('passwd')
            ? secured({ runAsUser: { value: 1000n }, runAsGroup: { value: 1000n } })
            : {};
        const id = await idle(node, pod, {
          imageName: await imageWith(files, config),
          mounts: [
            ...(at === undefined ? [] : [mount(at)]),
            ...(single === undefined ? [] : [{ containerPath: single, hostPath: join(volume, 'file') }]),
          ],
          ...user,
        });
        const said = await sh(node, id, script);
        if (typeof says === 'string') assert.equal(said, says);
        else assert.match(said, says);
        await node.cri.removePod(pod.id);
        assert.deepEqual(await readdir(volume), ['file']);
      });
    }

    for (const [what, config, remedy] of [
      ['WORKDIR', { WorkingDir: '/app/file' }, 'set another working_dir'],
      ['VOLUME', { Volumes: { '/app/file/data': {} } }, 'mount something there'],
    ] as const) {
      it(`a ${what} where the image has a file is refused, by its place inside and with a remedy`, async () => {
        const imageName = await imageWith([dir('app'), file('app/file', 'x')], config);
        const error = await refusal(
          node.cri.createContainer(await node.cri.runPod(), imageName),
          '"/app/file" in the image is a file',
        );
        assert.equal(error.codeName, 'FailedPrecondition');
        assert.include(error.message, remedy);
        assert.notInclude(error.message, node.dir);
      });
    }

    it('a link below a mount of the config: the target is made in the volume, as runc has it', async () => {
      const pod = await node.cri.runPod();
      const data = join(node.dir, 'data');
      await mkdir(data);
      const id = await idle(node, pod, {
        imageName: await imageWith([link('run', '/data/run')]),
        mounts: [{ containerPath: '/data', hostPath: data }],
      });
      assert.equal(await sh(node, id, 'ls -A /run/'), '.containerenv');
      await node.cri.removePod(pod.id);
    });

    it('a device below a link', async () => {
      const pod = await node.cri.runPod();
      const id = await idle(node, pod, {
        imageName: await imageWith([link('nodes', '/srv/nodes')]),
        devices: [{ containerPath: '/nodes/null', hostPath: '/dev/null', permissions: 'rw' }],
      });
      assert.equal(await sh(node, id, 'stat -c %t:%T /srv/nodes/null'), '1:3');
      await node.cri.removePod(pod.id);
    });

    it('nothing is made outside, wherever a link points to', async () => {
      const pod = await node.cri.runPod();
      const outside = join(node.dir, 'outside');
      const id = await idle(node, pod, {
        imageName: await imageWith(
          [link('run', `/../../../..${outside}`), link('app', `${'../'.repeat(30)}${outside.slice(1)}`)],
          {
            WorkingDir: '/app/work',
          },
        ),
        mounts: [mount('/app/volume')],
      });
      assert.equal(await sh(node, id, `cat ${outside}/volume/file`), 'content');
      assert.isFalse(existsSync(outside));
      await node.cri.removePod(pod.id);
    });

    it('refuses a circle, by its name', async () => {
      const pod = await node.cri.runPod();
      for (const files of [
        [link('run', 'run')],
        [link('etc', '/e'), link('e', 'etc')],
        [link('run', 'a'), link('a', 'run')],
      ])
        await refusal(
          idle(node, pod, { imageName: await imageWith(files) }),
          /in the image leads through more than 40 symlinks/,
        );
      await refusal(
        idle(node, pod, { imageName: await imageWith([link('app', 'app')], { WorkingDir: '/app' }) }),
        /"\/app" in the image leads through more than 40 symlinks/,
      );
      await node.cri.removePod(pod.id);
    });

    it('refuses what leads into the kernel’s places, and working directories that lead to descriptors', async () => {
      const pod = await node.cri.runPod();
      await refusal(
        idle(node, pod, { imageName: await imageWith([link('run', '/proc/1/root/run')]) }),
        /"\/run\/.containerenv" in the image leads by symlinks to "\/proc\/1\/root\/run\/.containerenv"/,
      );
      for (const target of ['/proc/self/fd/7', '/dev/fd/8', '../proc/self/cwd'])
        await refusal(
          idle(node, pod, { imageName: await imageWith([link('work', target)], { WorkingDir: '/work' }) }),
          'CVE-2024-21626',
        );
      await node.cri.removePod(pod.id);
    });

    it('refuses an /etc that leads below a mount: nobody knows what runtimes read there', async () => {
      const pod = await node.cri.runPod();
      const trap = join(node.dir, 'trap');
      await mkdir(trap);
      host('mkfifo', join(trap, 'group'));
      const at = (containerPath: string): object => ({ mounts: [{ containerPath, hostPath: trap }] });
      await refusal(
        idle(node, pod, { imageName: await imageWith([link('etc', '/data/etc')]), ...at('/data') }),
        /leads by symlinks to "\/data\/etc\/(passwd|group)".*hidden by the mount at "\/data"/,
      );
      // The same by links that lead to something: what lies there can be looked at.
      for (const [files, containerPath] of [
        [[link('etc', 'data'), dir('data')], '/data'],
        [[link('here', 'etc')], '/here'],
      ] as const)
        await refusal(
          idle(node, pod, {
            imageName: await imageWith(files),
            ...at(containerPath),
            ...secured({ runAsUser: { value: 1000n } }),
          }),
          'where runtimes read users and groups',
        );
      await refusal(
        idle(node, pod, {
          imageName: await imageWith([]),
          mounts: [
            {
              containerPath: '/etc',
              readonly: true,
              image: { image: await imageWith([file('x', ''), fifo('group')]) },
            },
          ],
          ...secured({ runAsUser: { value: 1000n } }),
        }),
        'where runtimes read users and groups',
      );
      await node.cri.removePod(pod.id);
    });
  });
}
