/** OCI artifacts from the real registry, as volumes of containers, with runc and crun. */
import { assert } from 'chai';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ContainerConfig, Input } from '../../pkg/cri-api/types.ts';
import { RUNTIMES } from './container-ground.ts';
import { waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';
import { fails, host, idle, mountAt, reconfigure, refusal, sh } from './inside.ts';
import { sha256 } from './images.ts';
import { artifactOf, pushRaw } from './raw-push.ts';
import { startRegistry } from './registry.ts';
import type { RunningRegistry } from './registry.ts';
import { insecure } from './stores.ts';

const MAP = { hostId: 300_000, containerId: 0, length: 65_536 };
const USERNS = {
  linux: {
    securityContext: {
      namespaceOptions: {
        network: 'POD',
        pid: 'CONTAINER',
        ipc: 'POD',
        usernsOptions: { mode: 'POD', uids: [MAP], gids: [MAP] },
      },
    },
  },
} as const;

for (const runtime of RUNTIMES) {
  describe(`artifacts with ${runtime}`, function () {
    this.timeout(120_000);
    let node: TestNode;
    let ground: string;
    let registry: RunningRegistry;
    let model: string;
    let digest: string;
    before(async () => {
      ground = await mkdtemp(join(tmpdir(), 'artifacts-'));
      registry = await startRegistry(ground);
      const registries = join(ground, 'registries.conf');
      await writeFile(registries, insecure(registry.host));
      node = await TestNode.boot({ runtime, env: { CONTAINERS_REGISTRIES_CONF: registries } });
      model = `${registry.host}/models/small:1`;
      digest = await pushRaw(
        model,
        artifactOf([
          ['README', 'read me\n'],
          ['weights/a.bin', 'A'.repeat(100_000)],
          ['weights/b.bin', 'B'],
          [undefined, 'without a name'],
          ['run.sh', '#!/bin/sh\necho ran\n'],
        ]),
      );
    });
    after(async () => {
      await registry.stop();
      await rm(ground, { recursive: true });
      await node.close();
    });
    const pull = async (image = model): Promise<string> =>
      (await node.cri.rpc.pullImage({ image: { image } })).imageRef;
    const volume = (image: string, more: object = {}): Input<ContainerConfig> => ({
      mounts: [{ containerPath: '/model', readonly: true, image: { image }, ...more }],
    });

    it('are pulled, listed and shown as CRI-O does, and hold their place while a container has them', async () => {
      const id = await pull();
      assert.equal(id, digest);
      const { image } = await node.cri.rpc.imageStatus({ image: { image: model } });
      assert.deepInclude(image, { id, repoTags: [model], pinned: false, username: '' });
      assert.deepEqual(image?.repoDigests, [`${registry.host}/models/small@${digest}`]);
      assert.isAbove(Number(image?.size), 100_000);
      assert.include(
        (await node.cri.rpc.listImages({})).images.map((each) => each.id),
        id,
      );
      const verbose = await node.cri.rpc.imageStatus({ image: { image: id }, verbose: true });
      assert.match(verbose.info['info'] ?? '', /"artifactType":"application\/vnd\.example\.model".*weights\/a\.bin/);
      const pod = await node.cri.runPod();
      await refusal(node.cri.createContainer(pod, model), /is an OCI artifact .*mount it as an image volume/);
      const container = await idle(node, pod, volume(id));
      const status = await node.cri.container(container);
      assert.equal(status.mounts[0]?.image?.image, id, 'which the kubelet keeps from its collector');
      await refusal(node.cri.rpc.removeImage({ image: { image: model } }), 'used');
      await node.cri.removePod(pod.id);
      await node.cri.rpc.removeImage({ image: { image: model } });
      assert.isUndefined((await node.cri.rpc.imageStatus({ image: { image: model } })).image);
      const left = await readdir(join(node.dir, 'root/blobs/sha256'));
      assert.notInclude(left, sha256('A'.repeat(100_000)).slice(7));
      assert.notInclude(left, digest.slice(7));
    });

    it('are volumes of files that nobody can write or run, whole or a part of them', async () => {
      await pull();
      const pod = await node.cri.runPod();
      const id = await idle(node, pod, {
        mounts: [
          { containerPath: '/all', readonly: true, image: { image: model } },
          { containerPath: '/part', readonly: true, image: { image: model }, imageSubPath: 'weights' },
        ],
      });
      assert.equal(
        await sh(node, id, 'cd /all; find . -type f | sort | tr "\\n" " "; cat README; wc -c < weights/a.bin'),
        './README ./run.sh ./weights/a.bin ./weights/b.bin read me\n100000',
      );
      assert.equal(
        await sh(node, id, 'ls /part; cat /part/b.bin; stat -c %a:%u /all /all/weights /part/b.bin'),
        'a.bin\nb.bin\nB755:0\n755:0\n444:0',
      );
      for (const script of [
        'echo x > /all/README',
        'echo x > /all/new',
        'rm /all/README',
        'mkdir /all/weights/new',
        'chmod 755 /all/run.sh',
        '/all/run.sh',
        'echo x > /part/b.bin',
      ])
        assert.isTrue(await fails(node, id, script), script);
      assert.match(await mountAt(node, id, '/all'), /\bro\b/);
      await node.kill();
      await node.start();
      assert.equal(await sh(node, id, 'cat /all/README'), 'read me');
      const after = await idle(node, pod, volume(digest));
      assert.equal(await sh(node, after, 'cat /model/README'), 'read me');
      await node.cri.removePod(pod.id);
    });

    it('cannot be changed for others, whatever a container may do in its own', async () => {
      await pull();
      const pod = await node.cri.runPod();
      const id = await idle(node, pod, {
        ...volume(model),
        linux: { securityContext: { capabilities: { addCapabilities: ['SYS_ADMIN'] }, apparmorProfile: 'unconfined' } },
      });
      await sh(
        node,
        id,
        'mount -o remount,bind,rw /model/README; mount -o remount,bind,rw /model; mount -o remount,rw /model/README; ' +
          'echo evil > /model/README; echo evil >> /model/weights/b.bin; true',
      );
      assert.equal(await sh(node, id, 'cat /model/README; cat /model/weights/b.bin'), 'read me\nB');
      const blob = join(node.dir, 'root/blobs/sha256', sha256('read me\n').slice(7));
      assert.equal(await readFile(blob, 'utf8'), 'read me\n');
      assert.deepEqual((await node.cri.rpc.check({ repair: false })).problems, []);
      await node.cri.removePod(pod.id);
    });

    it('say why a volume cannot be, with the reason that the kubelet looks for', async () => {
      await pull();
      const pod = await node.cri.runPod();
      const attempt = (more: object, image = model): Promise<string> =>
        node.cri.createContainer(pod, IMAGE, volume(image, more));
      for (const imageSubPath of ['none', 'README', 'weights/a.bin'])
        await refusal(attempt({ imageSubPath }), /^ImageVolumeMountFailed.*does not exist in the artifact/);
      await refusal(attempt({ imageSubPath: '../x' }), /must be relative and without/);
      await refusal(attempt({ readonly: false }), 'read-only');
      await refusal(attempt({}, `${registry.host}/models/none:1`), /^ImageVolumeMountFailed.*pull it first/);
      await node.cri.removePod(pod.id);
    });

    it('with hostile names show nothing outside of the volume', async () => {
      const name = `${registry.host}/models/hostile:1`;
      await pushRaw(
        name,
        artifactOf([
          ['../../../etc/passwd', 'evil:x:0:0::/:/bin/sh\n'],
          ['/etc/shadow', 'evil\n'],
          ['a/../../../b', 'b'],
          ['same', 'first'],
          ['./same', 'second'],
          ['-rf *\n', 'odd'],
          ['x'.repeat(255), 'long'],
        ]),
      );
      await pull(name);
      const pod = await node.cri.runPod();
      const id = await idle(node, pod, volume(name));
      assert.equal(
        await sh(
          node,
          id,
          'cd /model; cat etc/passwd etc/shadow b same; cat ./-rf*; ls | wc -l; grep -c evil /etc/passwd; true',
        ),
        'evil:x:0:0::/:/bin/sh\nevil\nbsecondodd5\n0',
      );
      await node.cri.removePod(pod.id);
      const rows: readonly (readonly [string, string])[] = [
        ['nul\0byte', 'a name that no file can have'],
        ['x'.repeat(256), 'more than 255 bytes'],
        ['..', 'which is the volume itself'],
      ];
      const second = await node.cri.runPod();
      for (const [at, [title, why]] of rows.entries()) {
        const bad = `${registry.host}/models/bad:${at}`;
        await pushRaw(bad, artifactOf([[title, 'x']]));
        await pull(bad);
        await refusal(
          node.cri.createContainer(second, IMAGE, volume(bad)),
          new RegExp(`^ImageVolumeMountFailed.*${why}`),
        );
      }
      await node.cri.removePod(second.id);
    });

    it('with as many files as there may be are one volume, and with more are refused', async () => {
      const many = (count: number): ReturnType<typeof artifactOf> =>
        artifactOf(Array.from({ length: count }, (_each, at) => [`d${at % 64}/f${at}`, 'x'] as const));
      const name = `${registry.host}/models/many`;
      await pushRaw(`${name}:1`, many(4_096));
      await pull(`${name}:1`);
      const pod = await node.cri.runPod();
      const id = await idle(node, pod, volume(`${name}:1`));
      assert.equal(await sh(node, id, 'find /model -type f | wc -l; cat /model/d63/f4095'), '4096\nx');
      await node.cri.removePod(pod.id);
      await pushRaw(`${name}:2`, many(4_097));
      await refusal(pull(`${name}:2`), /has 4097 layers; .* an artifact 4096 files/);
    });

    it('give a container the seccomp profile that an annotation names, where it may, and it has no other', async () => {
      const name = `${registry.host}/profiles/no-mkdir:1`;
      const syscalls = [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO' }];
      const profile = JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls });
      await pushRaw(name, artifactOf([['seccomp.json', profile]]));
      const annotations = { 'seccomp-profile.crio.io/POD': name };
      const barred = await node.cri.runPod({ annotations });
      await refusal(node.cri.createContainer(barred, IMAGE), 'allowed_annotations');
      await node.cri.removePod(barred.id);
      const allowed = '["seccomp-profile.kubernetes.cri-o.io"]';
      await reconfigure(node, `[crio.runtime.runtimes.${runtime}]\nallowed_annotations = ${allowed}\n`);
      const pod = await node.cri.runPod({ annotations });
      const id = await idle(node, pod);
      assert.isTrue(await fails(node, id, 'mkdir /made'));
      const own = await idle(node, pod, {
        linux: { securityContext: { seccomp: { profileType: 'RuntimeDefault' } } },
      });
      assert.isFalse(await fails(node, own, 'mkdir /made'));
      await node.cri.removePod(pod.id);
    });

    /** Lays the pulled artifact into an additional store under `name`; what a crio.conf says of that store. */
    async function layReady(name: string): Promise<string> {
      // A store is a layout: index.json, oci-layout, blobs.
      const store = join(node.dir, 'ready/artifacts');
      await mkdir(store, { recursive: true });
      await cp(join(node.dir, 'root/blobs'), join(store, 'blobs'), { recursive: true });
      await writeFile(join(store, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
      const { size } = await stat(join(store, 'blobs/sha256', digest.slice(7)));
      const annotations = { 'org.opencontainers.image.ref.name': name };
      const mediaType = 'application/vnd.oci.image.manifest.v1+json';
      await writeFile(
        join(store, 'index.json'),
        JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType, digest, size, annotations }] }),
      );
      return `[crio.runtime]\nadditional_artifact_stores = ["${join(node.dir, 'ready')}"]\n`;
    }

    it('lie ready in additional stores, and can be switched off', async () => {
      await pull();
      const ready = 'ready.example/models/small:1';
      const conf = await layReady(ready);
      await node.cri.rpc.removeImage({ image: { image: model } });
      await reconfigure(node, conf);
      assert.equal(await pull(ready), digest);
      const { image } = await node.cri.rpc.imageStatus({ image: { image: ready } });
      assert.deepInclude(image, { id: digest, repoTags: [ready], pinned: true });
      const pod = await node.cri.runPod();
      const id = await idle(node, pod, volume(ready));
      assert.equal(await sh(node, id, 'cat /model/README'), 'read me');
      await node.cri.rpc.removeImage({ image: { image: ready } }).catch(() => {});
      assert.isTrue(existsSync(join(node.dir, 'ready/artifacts/index.json')));
      await reconfigure(node, `${conf}[crio.image]\noci_artifact_mount_support = false\n`);
      assert.equal(await sh(node, id, 'cat /model/README'), 'read me');
      await refusal(node.cri.createContainer(pod, IMAGE, volume(ready)), /oci_artifact_mount_support is off/);
      await node.cri.removePod(pod.id);
      await reconfigure(node, '');
    });

    it('that lie ready hide a pulled one of the same tag from lists, as long as their store is there', async () => {
      await pull();
      const name = `${registry.host}/models/twice:1`;
      const pulled = await pushRaw(name, artifactOf([['README', 'pulled\n']]));
      assert.equal(await pull(name), pulled);
      const listed = async (): Promise<readonly string[]> =>
        (await node.cri.rpc.listImages({})).images.flatMap(({ id, repoTags }) => (repoTags.includes(name) ? [id] : []));
      assert.deepEqual(await listed(), [pulled]);
      await reconfigure(node, await layReady(name));
      assert.deepEqual(await listed(), [digest]);
      assert.equal((await node.cri.rpc.imageStatus({ image: { image: pulled } })).image?.id, pulled, 'by its id');
      const pod = await node.cri.runPod();
      const id = await idle(node, pod, volume(name));
      assert.equal(await sh(node, id, 'cat /model/README'), 'read me', 'of the store');
      await node.cri.removePod(pod.id);
      await reconfigure(node, '');
      assert.deepEqual(await listed(), [pulled]);
      await node.cri.rpc.removeImage({ image: { image: name } });
    });

    if (runtime === 'crun')
      it('belong to root of a pod with a user namespace', async () => {
        await pull();
        const pod = await node.cri.runPod(USERNS);
        const id = await idle(node, pod, { ...USERNS, ...volume(model) });
        assert.equal(
          await sh(node, id, 'cat /model/README; stat -c %u:%a /model /model/README'),
          'read me\n0:755\n0:444',
        );
        await node.cri.removePod(pod.id);
      });

    it('leave no mount when their container goes', async () => {
      await pull();
      const pod = await node.cri.runPod();
      const id = await idle(node, pod, volume(model));
      const below = (): string =>
        host('cat', '/proc/self/mountinfo')
          .split('\n')
          .filter((line) => line.includes(id))
          .join('\n');
      assert.match(below(), /volumes\/0\.view/);
      await node.cri.removePod(pod.id);
      await waitFor(below, (text) => text === '', 'the volume to be unmounted');
    });
  });
}
