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
import { waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';

const sh = (command: string, ...args: readonly string[]): string => execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

/** A small file system of one's own, to be filled. */
interface SmallDisk {
  readonly path: string;
  /** Takes everything that is left, first in files of the given size. */
  fill(firstBytes: number): Promise<void>;
  /** Gives back what `fill` took. */
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
    drain: () => rm(fillers, { recursive: true }),
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
    before(async () => {
      disk = await make();
      node = await TestNode.boot({ parent: disk.path });
    });
    after(async function () {
      if (this.currentTest?.state === 'failed') await node.discard();
      else await node.close();
      await disk.remove();
    });

    it('still lets containers, pods and images be removed, also by the next daemon', async () => {
      const { cri } = node;
      const [one, other] = [await cri.runPod(), await cri.runPod()];
      const running = await cri.runContainer(one, IMAGE, { command: ['sleep', '1000'] });
      const created = await cri.createContainer(one, IMAGE, { metadata: { name: 'created', attempt: 0 } });
      const forNextDaemon = await cri.runContainer(other, IMAGE, { command: ['sleep', '1000'] });
      await cri.rpc.import({ path: new URL('../../build/embedded-image', import.meta.url).pathname, reference: 'localhost/second:name' });
      const reserves = ['root/reserve', 'run/reserve'].map((name) => join(node.dir, name));
      await waitFor(async () => reserves.every(existsSync), (made) => made, 'the reserves');
      await disk.fill(fillers);

      await cri.rpc.stopContainer({ containerId: running, timeout: 0n });
      const { state, exitCode } = await cri.container(running);
      assert.deepEqual([state, exitCode], ['CONTAINER_EXITED', 137]);
      for (const containerId of [running, created]) await cri.rpc.removeContainer({ containerId });
      await cri.rpc.stopPodSandbox({ podSandboxId: one.id });
      await cri.rpc.removePodSandbox({ podSandboxId: one.id });

      await node.kill();
      await disk.fill(fillers);
      await node.start();
      assert.strictEqual((await cri.container(forNextDaemon)).state, 'CONTAINER_RUNNING');
      await cri.rpc.removePodSandbox({ podSandboxId: other.id });
      assert.lengthOf((await cri.rpc.listPodSandbox()).items, 0);
      await cri.rpc.removeImage({ image: { image: 'localhost/second:name' } });
      assert.lengthOf((await cri.rpc.listImages()).images, 0);
      assert.deepEqual([await readdir(join(node.dir, 'root/layers')), await readdir(join(node.dir, 'root/blobs/sha256'))], [[], []]);

      // Whatever is removed next notices that there is room again.
      await disk.drain();
      await cri.rpc.import({ path: new URL('../../build/embedded-image', import.meta.url).pathname, reference: '' });
      await cri.removePod((await cri.runPod()).id);
      await cri.rpc.removeImage({ image: { image: IMAGE } });
      await waitFor(async () => reserves.every(existsSync), (made) => made, 'the reserves again');
    });
  });
}

describe('a directory that would need another block on a full disk', function () {
  this.timeout(60_000);
  const op = backgroundOp(silent);
  let disk: SmallDisk;
  before(async () => (disk = await ext4(32 << 20)));
  after(() => disk.remove());

  /** A root in which one container is all that there is, and whose directory of containers has no room for the name of a 31 character entry. */
  async function crowded(name: string): Promise<{ readonly directory: string; readonly id: ReturnType<typeof newContainerId> }> {
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
    const error: unknown = await bare.destroy(op, without.id).then(() => undefined, (each: unknown) => each);
    assert.instanceOf(error, RuntimeError);
    assert.deepInclude(error, { code: 'ResourceExhausted' });
    assert.deepEqual((await bare.list()).filter((id) => id === without.id), [without.id]);
    await bare.close();
    const driver = new OverlayRootfs({ root: kept.directory, reserve });
    await driver.destroy(op, kept.id);
    await driver.close();
    assert.isFalse(existsSync(join(kept.directory, 'rootfs', kept.id)));
    await reserve.close();
  });
});
