/** The disks of a node: full ones, and images on another one than containers. */
import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { newContainerId } from '../../pkg/base/ids.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { DiskReserve } from '../../pkg/base/reserve.ts';
import { OverlayRootfs } from '../../pkg/rootfs/index.ts';
import { type Pod, waitFor } from './cri-client.ts';
import { IMAGE, processesOf, TestNode } from './harness.ts';

const sh = (command: string, ...args: readonly string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

/** A small file system of one's own, to be filled. */
interface SmallDisk {
  readonly path: string;
  /** Takes everything that is left, first in files of the given size. */
  fill(firstBytes: number): Promise<void>;
  /** Gives back what `fill` took, if it did. */
  drain(): Promise<void>;
  remove(): Promise<void>;
}

async function tmpfs(options: string): Promise<SmallDisk> {
  const path = await mkdtemp('/tmp/berth-disk-');
  sh('mount', '-t', 'tmpfs', '-o', `mode=711,${options}`, 'berth-test', path);
  return diskAt(path, async () => {});
}

/** Small blocks, so that a directory soon needs another one. */
async function ext4(bytes: number): Promise<SmallDisk> {
  const path = await mkdtemp('/tmp/berth-disk-');
  const image = `${path}.img`;
  await writeFile(image, '');
  await truncate(image, bytes);
  sh('mkfs.ext4', '-q', '-b', '1024', '-m', '0', image);
  sh('mount', '-o', 'loop', image, path);
  sh('chmod', '711', path);
  return diskAt(path, () => rm(image));
}

function diskAt(path: string, after: () => Promise<void>): SmallDisk {
  const fillers = join(path, 'fillers');
  return {
    path,
    async fill(firstBytes) {
      await mkdir(fillers, { recursive: true });
      for (const size of [firstBytes, 65_536, 4096, 1024, 1]) await writeUntilFull(fillers, size);
    },
    drain: () => rm(fillers, { recursive: true, force: true }),
    async remove() {
      sh('umount', '--lazy', path);
      await rm(path, { recursive: true });
      await after();
    },
  };
}

let written = 0;

async function writeUntilFull(directory: string, size: number): Promise<void> {
  for (;;) {
    try {
      await writeFile(join(directory, String(written++)), Buffer.alloc(size, 1));
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
      return;
    }
  }
}

/** A container that ends as 7 when it is told, and its monitor with it; the daemon is dead by then. */
async function endsWhenTold({ cri }: TestNode, pod: Pod): Promise<{ readonly id: string; tell(): Promise<unknown> }> {
  const id = await cri.runContainer(pod, IMAGE, {
    metadata: { name: 'ends', attempt: 0 },
    command: ['sh', '-c', 'trap "exit 7" USR1; touch /ready; while :; do sleep 0.05; done'],
  });
  await waitFor(
    () => cri.exec(id, ['sh', '-c', 'test -e /ready']),
    ({ exitCode }) => exitCode === 0,
    'it to listen',
  );
  const { info } = await cri.rpc.containerStatus({ containerId: id, verbose: true });
  const { pid } = JSON.parse(info['info'] ?? '{}') as { readonly pid: number };
  const tell = (): Promise<unknown> => {
    process.kill(pid, 'SIGUSR1');
    return waitFor(
      () => processesOf(id),
      (left) => left.length === 0,
      'its monitor to end',
    );
  };
  return { id, tell };
}

const FULL: readonly (readonly [what: string, make: () => Promise<SmallDisk>, fillers: number])[] = [
  ['bytes', () => tmpfs('size=64m'), 1 << 20],
  ['inodes', () => tmpfs('size=512m,nr_inodes=4000'), 0],
  ['blocks of ext4', () => ext4(128 << 20), 1 << 20],
];

for (const [what, make, fillers] of FULL) {
  describe(`a disk that has no ${what} left`, function () {
    this.timeout(60_000);
    let disk: SmallDisk;
    let node: TestNode;
    beforeEach(async () => {
      disk = await make();
      node = await TestNode.boot({ parent: disk.path });
    });
    afterEach(async function () {
      await node.closeAfter(this.currentTest);
      await disk.remove();
    });

    it('still lets containers, pods and images be removed, also by the next daemon (K10)', async () => {
      const { cri } = node;
      const [one, other] = [await cri.runPod(), await cri.runPod()];
      const running = await cri.runContainer(one, IMAGE, { command: ['sleep', '1000'] });
      const created = await cri.createContainer(one, IMAGE, { metadata: { name: 'created', attempt: 0 } });
      const ends = await endsWhenTold(node, other);
      const forNextDaemon = await cri.runContainer(other, IMAGE, { command: ['sleep', '1000'] });
      await cri.rpc.import({
        path: new URL('../../build/embedded-image', import.meta.url).pathname,
        reference: 'localhost/second:name',
      });
      const reserves = ['root/reserve', 'run/reserve'].map((name) => join(node.dir, name));
      await waitFor(
        async () => reserves.every(existsSync),
        (made) => made,
        'the reserves',
      );
      await disk.fill(fillers);

      await cri.rpc.stopContainer({ containerId: running, timeout: 0n });
      const { state, exitCode } = await cri.container(running);
      assert.deepEqual([state, exitCode], ['CONTAINER_EXITED', 137]);
      for (const containerId of [running, created]) await cri.rpc.removeContainer({ containerId });
      await cri.rpc.stopPodSandbox({ podSandboxId: one.id });
      await cri.rpc.removePodSandbox({ podSandboxId: one.id });

      await node.kill();
      await disk.fill(fillers);
      await ends.tell();
      await node.start();
      assert.strictEqual((await cri.container(forNextDaemon)).state, 'CONTAINER_RUNNING');
      const end = await cri.container(ends.id);
      assert.deepEqual([end.state, end.exitCode], ['CONTAINER_EXITED', 7]);
      await cri.rpc.removePodSandbox({ podSandboxId: other.id });
      assert.lengthOf((await cri.rpc.listPodSandbox()).items, 0);
      await cri.rpc.removeImage({ image: { image: 'localhost/second:name' } });
      assert.lengthOf((await cri.rpc.listImages()).images, 0);
      assert.deepEqual(
        [await readdir(join(node.dir, 'root/layers')), await readdir(join(node.dir, 'root/blobs/sha256'))],
        [[], []],
      );

      // Whatever is removed next notices that there is room again.
      await disk.drain();
      await cri.rpc.import({ path: new URL('../../build/embedded-image', import.meta.url).pathname, reference: '' });
      await cri.removePod((await cri.runPod()).id);
      await cri.rpc.removeImage({ image: { image: IMAGE } });
      await waitFor(
        async () => reserves.every(existsSync),
        (made) => made,
        'the reserves again',
      );
    });
  });
}

describe('a directory that would need another block on a full disk', function () {
  this.timeout(60_000);
  const op = backgroundOp(silent);
  let disk: SmallDisk;
  beforeEach(async () => (disk = await ext4(32 << 20)));
  afterEach(() => disk.remove());

  /**
   * A root in which one container is all that there is, and whose directory of containers has no room for the name of a
   * 31 character entry.
   */
  async function crowded(
    name: string,
  ): Promise<{ readonly directory: string; readonly id: ReturnType<typeof newContainerId> }> {
    const id = newContainerId();
    const filled = async (directory: string, count: number): Promise<number> => {
      await mkdir(join(directory, 'rootfs', id), { recursive: true });
      for (let i = 0; i < count; i++) await writeFile(join(directory, 'rootfs', `.${String(i).padStart(30, 'x')}`), '');
      return (await stat(join(directory, 'rootfs'))).size;
    };
    let count = 0;
    while ((await filled(join(disk.path, `${name}-try-${count}`), count)) === 1024) count++;
    const directory = join(disk.path, name);
    await filled(directory, count - 1);
    return { directory, id };
  }

  it('is why something is kept back: without it the container stays', async () => {
    const [without, kept] = [await crowded('without'), await crowded('kept')];
    const reserve = new DiskReserve({ path: join(disk.path, 'reserve'), bytes: 1 << 20, log: silent });
    await reserve.open();
    await reserve.settled();
    await disk.fill(1 << 20);
    const bare = new OverlayRootfs({ root: without.directory });
    const error: unknown = await bare.destroy(op, without.id).then(
      () => undefined,
      (each: unknown) => each,
    );
    assert.instanceOf(error, RuntimeError);
    assert.deepInclude(error, { code: 'ResourceExhausted' });
    assert.deepEqual(
      (await bare.list()).filter((id) => id === without.id),
      [without.id],
    );
    await bare.close();
    const driver = new OverlayRootfs({ root: kept.directory, reserve });
    await driver.destroy(op, kept.id);
    await driver.close();
    assert.isFalse(existsSync(join(kept.directory, 'rootfs', kept.id)));
    await reserve.close();
  });
});

describe('images on another disk than containers', function () {
  this.timeout(60_000);
  let images: SmallDisk;
  let node: TestNode;
  const layers = async (): Promise<string[]> => await readdir(join(images.path, 'store/layers'));
  before(async () => {
    images = await tmpfs('size=48m');
    node = await TestNode.boot({ flags: ['--imagestore', join(images.path, 'store')] });
  });
  afterEach(() => images.drain());
  after(async function () {
    await node.closeSuite(this.test?.parent);
    await images.remove();
  });

  it('lie there with their layers, and both disks are reported for what is on them', async () => {
    const { cri } = node;
    assert.deepEqual((await readdir(join(images.path, 'store'))).sort(), [
      'blobs',
      'images',
      'layers',
      'lock',
      'reserve',
    ]);
    assert.deepEqual((await readdir(join(node.dir, 'root'))).sort(), ['cni', 'lock', 'pods', 'reserve', 'rootfs']);
    const id = await cri.runContainer(await cri.runPod(), IMAGE, {
      command: ['sh', '-c', 'busybox head -c 3000000 /dev/urandom > /file; exec sleep 1000'],
    });
    await waitFor(
      () => cri.exec(id, ['busybox', 'stat', '-c', '%s', '/file']),
      ({ stdout }) => stdout === '3000000\n',
      'the file',
    );
    const {
      imageFilesystems: [image],
      containerFilesystems: [container],
    } = await cri.rpc.imageFsInfo();
    assert.deepEqual(
      [image?.fsId?.mountpoint, container?.fsId?.mountpoint],
      [join(images.path, 'store'), join(node.dir, 'root')],
    );
    const [imageBytes, containerBytes] = [image?.usedBytes?.value ?? 0n, container?.usedBytes?.value ?? 0n];
    assert.isTrue(imageBytes > 500_000n && imageBytes < 2_900_000n, `${imageBytes} bytes of images`);
    assert.isTrue(containerBytes >= 3_000_000n && containerBytes < 3_500_000n, `${containerBytes} bytes of containers`);
    assert.isTrue((container?.inodesUsed?.value ?? 0n) >= 2n && (container?.timestamp ?? 0n) > 0n);
    assert.equal(
      (await cri.rpc.containerStats({ containerId: id })).stats?.writableLayer?.fsId?.mountpoint,
      join(node.dir, 'root'),
    );
    await cri.removeAllPods();
  });

  it('are swept, checked and mended there after a crash, and containers on theirs', async () => {
    const { cri } = node;
    const pod = await cri.runPod();
    const kept = await cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    const [layer = ''] = await layers();
    await node.kill();
    const strays = [
      join(images.path, 'store/layers/.tmp-0123'),
      join(node.dir, 'root/rootfs/.trash-0123'),
      join(node.dir, 'root/rootfs', '5'.repeat(64)),
    ];
    for (const stray of strays) await mkdir(join(stray, 'fs/a/b'), { recursive: true });
    await writeFile(join(images.path, 'store/blobs/sha256', '7'.repeat(64)), 'nobody refers to this');
    await node.start();
    await waitFor(
      async () => [...strays, join(images.path, 'store/blobs/sha256', '7'.repeat(64))].filter(existsSync),
      (left) => left.length === 0,
      'the strays to go',
    );
    assert.deepEqual(await layers(), [layer]);
    assert.equal((await cri.exec(kept, ['echo', 'alive'])).stdout, 'alive\n');
    const { problems, facts } = await cri.rpc.check({ repair: false });
    assert.deepEqual(problems, []);
    assert.deepEqual(
      facts.filter(({ name }) => /disk|run root/.test(name)).map(({ name, detail }) => [name, detail.split(': ')[0]]),
      [
        ['disk of images', join(images.path, 'store')],
        ['disk of containers', join(node.dir, 'root')],
        ['run root', join(node.dir, 'run')],
      ],
    );
    await cri.removeAllPods();
    await rm(join(images.path, 'store/layers', layer, 'fs/bin/busybox'));
    assert.match((await cri.rpc.check({ repair: true })).problems[0]?.what ?? '', /"\/bin\/busybox" is missing/);
    assert.deepEqual([await layers(), (await cri.rpc.listImages()).images], [[], []]);
    await cri.rpc.import({ path: new URL('../../build/embedded-image', import.meta.url).pathname, reference: '' });
    assert.deepEqual((await cri.rpc.check({ repair: false })).problems, []);
  });

  it('of which a layer is lost are absent as soon as a create or a start meets it, and pulled again', async () => {
    const { cri } = node;
    const again = { path: new URL('../../build/embedded-image', import.meta.url).pathname, reference: '' };
    const present = async (): Promise<boolean> =>
      (await cri.rpc.imageStatus({ image: { image: IMAGE } })).image !== undefined;
    const lost = async (): Promise<number> => {
      const { info } = await cri.rpc.status({ verbose: true });
      return (JSON.parse(info['images'] ?? '{}') as { imagesLost: number }).imagesLost;
    };
    const pod = await cri.runPod();
    for (const part of ['', 'fs']) {
      await rm(join(images.path, 'store/layers', (await layers())[0] ?? '', part), { recursive: true });
      const error: unknown = await cri.createContainer(pod, IMAGE, {}).catch((each: unknown) => each);
      assert.match(String(error), /is not whole any more, layer sha256:.* is gone; pull it again/, part);
      assert.isFalse(await present(), part);
      await cri.rpc.import(again);
      assert.isTrue(await present(), part);
    }
    assert.equal(await lost(), 2);
    const id = await cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    for (const part of ['layer.json', '']) {
      await node.kill();
      await rm(join(images.path, 'store/layers', (await layers())[0] ?? '', part), { recursive: true });
      await node.start();
      assert.isFalse(await present(), part);
      assert.equal(await lost(), 1, part);
      assert.strictEqual((await cri.container(id)).state, 'CONTAINER_RUNNING');
      await cri.rpc.import(again);
    }
    await cri.removeAllPods();
    assert.deepEqual((await cri.rpc.check({ repair: false })).problems, []);
  });

  it('full, they keep nobody from running containers, and can be removed', async () => {
    const { cri } = node;
    await images.fill(1 << 20);
    const pod = await cri.runPod();
    const id = await cri.runContainer(pod, IMAGE, { command: ['sh', '-c', 'echo x > /file && exec sleep 1000'] });
    await cri.waitForContainer(id, 'CONTAINER_RUNNING');
    await cri.removePod(pod.id);
    await cri.rpc.removeImage({ image: { image: IMAGE } });
    assert.deepEqual(await layers(), []);
    await images.drain();
    await cri.rpc.import({ path: new URL('../../build/embedded-image', import.meta.url).pathname, reference: '' });
  });

  it('are for one daemon', async () => {
    const error: unknown = await TestNode.boot({ flags: ['--imagestore', join(images.path, 'store')] }).catch(
      (each: unknown) => each,
    );
    assert.match(String(error), /another berth serves from it.*--imagestore/);
  });
});

describe('a disk that turned read-only', function () {
  this.timeout(60_000);
  let disk: SmallDisk;
  let node: TestNode;
  beforeEach(async () => {
    disk = await ext4(64 << 20);
    node = await TestNode.boot({ flags: ['--root', join(disk.path, 'root')] });
  });
  afterEach(async () => {
    // Its files cannot be deleted; its process can be ended.
    for (const { id } of (await node.cri.rpc.listContainers()).containers)
      await node.cri.rpc.stopContainer({ containerId: id, timeout: 0n });
    await node.stop();
    await node.discard();
    await disk.remove();
    node.checkLoop();
  });

  it('takes nothing away from what runs, also not with a new daemon, and says what is wrong (K11)', async () => {
    const { cri } = node;
    const pod = await cri.runPod();
    const id = await cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    // As the file system itself does when it finds an error in what it reads.
    sh('mount', '-o', 'remount,abort', disk.path);
    const told = async (work: Promise<unknown>): Promise<string> =>
      await work.then(
        () => 'done',
        (error: unknown) => String(error),
      );
    const bad = { path: new URL('../../build/embedded-image', import.meta.url).pathname, reference: 'other:1' };
    for (const life of ['same-daemon', 'next-daemon']) {
      assert.equal((await cri.exec(id, ['echo', 'alive'])).stdout, 'alive\n', life);
      assert.lengthOf((await cri.rpc.listImages()).images, 1, life);
      assert.deepEqual((await cri.rpc.check({ repair: false })).problems, [], life);
      assert.match(await told(cri.rpc.import(bad)), /read-only/, life);
      assert.match(
        await told(
          cri.rpc.createContainer({
            podSandboxId: pod.id,
            config: { metadata: { name: life, attempt: 0 }, image: { image: IMAGE } },
            sandboxConfig: pod.config,
          }),
        ),
        /read-only/i,
        life,
      );
      if (life === 'same-daemon') await node.restart();
    }
    await cri.rpc.stopContainer({ containerId: id, timeout: 0n });
    assert.equal((await cri.container(id)).exitCode, 137);
    for (const work of [
      cri.rpc.removeContainer({ containerId: id }),
      cri.rpc.removePodSandbox({ podSandboxId: pod.id }),
    ])
      assert.match(await told(work), /read-only/i);
    const {
      images: [image],
    } = await cri.rpc.listImages();
    assert.isDefined(image);
  });
});
