/**
 * Nothing that an image holds keeps the daemon from its other callers: configs of a few megabytes, VOLUMEs by the
 * thousand, files of accounts that are all lines. Each is refused, or done while the event loop goes on.
 */
import { assert } from 'chai';
import { join } from 'node:path';
import type { CriError } from './cri-client.ts';
import { type RuntimeName, TestNode } from './harness.ts';
import { buildImage, busybox, file } from './images.ts';
import { addImage, idle, refusal, sh } from './inside.ts';
import { secured } from './container-ground.ts';
import { withFiles } from './security-ground.ts';

const MiB = 1 << 20;
/** The machine may be busy with others: what is held, is held in each of these. */
const ROUNDS = 20;

interface Answers {
  /** How long the work took. */
  readonly tookMs: number;
  /** The slowest answer to Version meanwhile. */
  readonly slowestMs: number;
  /** How late the daemon's event loop was at the most. */
  readonly lateMs: number;
}

/** Does some work while somebody asks for the version all the time. */
async function asking(node: TestNode, work: () => Promise<unknown>): Promise<Answers> {
  let over = false;
  let slowestMs = 0;
  const asker = async (): Promise<void> => {
    while (!over) {
      const before = performance.now();
      await node.cri.rpc.version({ version: '' });
      slowestMs = Math.max(slowestMs, performance.now() - before);
    }
  };
  const lateMs = async (): Promise<number> => {
    const { info } = await node.cri.rpc.status({ verbose: true });
    return (JSON.parse(info['eventLoop'] ?? '{}') as { readonly maxMs: number | null }).maxMs ?? 0;
  };
  await lateMs();
  await lateMs();
  const asked = asker();
  const before = performance.now();
  try {
    await work();
  } finally {
    over = true;
    await asked;
  }
  return { tookMs: performance.now() - before, slowestMs, lateMs: await lateMs() };
}

/** The best of some rounds: a busy machine makes some of them worse, an event loop that is held each. */
async function best(rounds: number, one: (round: number) => Promise<Answers>): Promise<Answers> {
  const all: Answers[] = [];
  for (let round = 0; round < rounds; round++) {
    const answers = await one(round);
    all.push(answers);
    if (answers.tookMs < 50 && answers.slowestMs < 20 && answers.lateMs < 20) break;
  }
  const least = (key: keyof Answers): number => Math.min(...all.map((each) => each[key]));
  return { tookMs: least('tookMs'), slowestMs: least('slowestMs'), lateMs: least('lateMs') };
}

const runtime: RuntimeName = 'crun';

describe('what images hold, and the daemon', function () {
  this.timeout(300_000);
  let node: TestNode;
  before(async () => {
    node = await TestNode.boot({ runtime });
  });
  after(() => node.close());
  afterEach(() => node.clear());

  const volumes = (count: number): object =>
    Object.fromEntries(Array.from({ length: count }, (_, index) => [`/v${index}`, {}]));

  it('refuses 200 000 VOLUMEs in 150 ms, and answers others in 20 ms meanwhile', async () => {
    const layers = [{ files: await busybox(), compression: 'none' as const }];
    const { tookMs, slowestMs, lateMs } = await best(ROUNDS, async (round) => {
      const directory = join(node.dir, `images/many-${round}`);
      const config = { Volumes: volumes(200_000 + round) };
      await buildImage({ layers, config, directory, name: 'localhost/test/many:1' });
      return await asking(node, () =>
        refusal(node.cri.rpc.import({ path: directory, reference: '' }), /config has more than 64000 members/),
      );
    });
    assert.isBelow(tookMs, 150);
    assert.isBelow(slowestMs, 20);
    assert.isBelow(lateMs, 20);
  });

  it('says how many VOLUMEs are too many', async () => {
    const layers = [{ files: await busybox(), compression: 'none' as const }];
    const error: CriError = await refusal(
      addImage(node, 'twenty-thousand', { layers, config: { Volumes: volumes(20_000) } }),
      /declares 20000 VOLUMEs, at most 1024 are taken; the image must be built with fewer/,
    );
    assert.match(error.message, /image config/);
  });

  it('makes as many as are taken while it answers others', async () => {
    const layers = [{ files: await busybox(), compression: 'none' as const }];
    const image = await addImage(node, 'thousand', {
      layers,
      config: { Cmd: ['sleep', '1000'], Volumes: volumes(1_024) },
    });
    const pod = await node.cri.runPod();
    const { lateMs } = await best(3, (round) =>
      asking(node, async () => {
        const id = await idle(node, pod, { imageName: image, metadata: { name: `c${round}`, attempt: 0 } });
        assert.equal(await sh(node, id, 'ls -d /v* | wc -l'), '1025', '/var too');
      }),
    );
    assert.isBelow(lateMs, 100);
  });

  for (const [what, line] of [
    ['lines without end', 'x'],
    ['tiny lines', 'a\n'],
    ['one user in every line', 'app:x:5:\n'],
    ['commas', ','],
  ] as const) {
    it(`reads accounts of ${what} while it answers others`, async () => {
      const size = MiB - 100;
      const image = await addImage(
        node,
        `accounts-${what.replaceAll(' ', '-')}`,
        await withFiles(
          file('etc/passwd', `${line.repeat(size / line.length)}\napp:x:5:5::/:\n`),
          file('etc/group', `${what === 'commas' ? 'g:x:1:' : ''}${line.repeat(size / line.length)}\n`),
        ),
      );
      const pod = await node.cri.runPod();
      const { lateMs } = await best(3, (round) =>
        asking(node, () =>
          idle(node, pod, {
            imageName: image,
            metadata: { name: `c${round}`, attempt: 0 },
            ...secured({ runAsUser: { value: 5n }, runAsGroup: { value: 77n } }),
          }),
        ),
      );
      assert.isBelow(lateMs, 100);
    });
  }
});
