import { assert } from 'chai';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseContainerId, parseImageId, parseSandboxId } from '../base/ids.ts';
import { decodeRecord, encodeRecord, FileStateStore } from './store.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';

const sandboxId = parseSandboxId('a'.repeat(64));
const containerId = parseContainerId('b'.repeat(64));

function labels(entries: Record<string, string>): Record<string, string> {
  return Object.assign(Object.create(null) as Record<string, string>, entries);
}

const sandbox = {
  kind: 'sandbox',
  id: sandboxId,
  config: {
    metadata: { name: 'p', uid: 'u', namespace: 'n', attempt: 0 },
    hostname: 'h',
    logDirectory: '/var/log/pods/x',
    portMappings: [],
    labels: labels({ app: 'x' }),
    annotations: labels({}),
  },
  runtimeHandler: '',
  runtime: { name: 'runc', path: '/usr/sbin/runc', root: '/run/berth/runtimes/runc', runtimeArgs: [] },
  createdAt: 1_700_000_000_123_456_789n,
  state: { phase: 'ready' },
  ips: ['10.0.0.1'],
  namespaces: { net: '/run/x' },
  cgroupParent: '/kubepods',
  logDirectory: '/var/log/pods/x',
  files: { resolvConf: '/r', hostname: '/h', hosts: '/o', shm: '/s' },
  infra: null,
  lost: '',
  idMap: null,
  selinux: { processLabel: '', mountLabel: '' },
  overhead: undefined,
  resources: undefined,
} satisfies SandboxRecord;

const container = {
  kind: 'container',
  id: containerId,
  sandboxId,
  config: {
    metadata: { name: 'c', attempt: 1 },
    image: { image: 'x', annotations: labels({}), userSpecifiedImage: 'x', runtimeHandler: '', imageRef: '' },
    command: [],
    args: [],
    workingDir: '',
    envs: [{ key: 'BIN', value: new Uint8Array([0, 255, 128]) }],
    mounts: [],
    devices: [],
    labels: labels({}),
    annotations: labels({}),
    logPath: 'c/0.log',
    stdin: false,
    stdinOnce: false,
    tty: false,
    cdiDevices: [],
    stopSignal: 'SIGNAL_RUNTIME_DEFAULT',
  },
  runtimeHandler: 'runc',
  runtime: { name: 'runc', path: '/usr/sbin/runc', root: '/run/berth/runtimes/runc', runtimeArgs: [] },
  createdAt: 5n,
  state: { phase: 'running', process: { pid: 12, startTicks: 2n ** 63n }, startedAt: 6n },
  imageId: parseImageId(`sha256:${'c'.repeat(64)}`),
  layers: [],
  imageRef: 'x',
  imageName: 'x',
  logPath: '/l',
  bundle: '/b',
  cgroupsPath: '/g',
  stopSignal: { number: 15, name: 'SIGNAL_SIGTERM' },
  user: { uid: 0n, gid: 0n, supplementalGroups: [2n ** 40n] },
  resources: undefined,
  imageVolumes: [],
  stopping: null,
  monitor: null,
  monitorLost: null,
} satisfies ContainerRecord;

describe('state store', () => {
  let root: string;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'berth-state-'));
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  it('gives back what it was given: bigints, bytes, hostile keys', async () => {
    const hostile: SandboxRecord = {
      ...sandbox,
      config: {
        ...sandbox.config,
        labels: labels({ __proto__x: '1', constructor: '2' }),
        annotations: labels({ $n: '12' }),
      },
    };
    Object.defineProperty(hostile.config.labels, '__proto__', { value: 'evil', enumerable: true });
    const store = new FileStateStore(root);
    await store.save(hostile);
    await store.save(container);
    const loaded = await new FileStateStore(root).load();
    assert.lengthOf(loaded.damaged, 0);
    assert.strictEqual(Object.getPrototypeOf(loaded.sandboxes[0]?.config.labels), null);
    assert.deepEqual(Object.entries(loaded.sandboxes[0]?.config.labels ?? {}).sort(), [
      ['__proto__', 'evil'],
      ['__proto__x', '1'],
      ['constructor', '2'],
    ]);
    assert.deepEqual(Object.entries(loaded.sandboxes[0]?.config.annotations ?? {}), [['$n', '12']]);
    assert.strictEqual(loaded.sandboxes[0]?.createdAt, sandbox.createdAt);
    const [back] = loaded.containers;
    assert.deepEqual([...(back?.config.envs[0]?.value ?? [])], [0, 255, 128]);
    assert.deepEqual(back?.state.phase === 'running' ? back.state.process.startTicks : 0n, 2n ** 63n);
    assert.deepEqual(back?.user.supplementalGroups, [2n ** 40n]);
  });

  it('replaces a record whole and removes it without complaint, twice', async () => {
    const store = new FileStateStore(root);
    await store.save(sandbox);
    await store.save({ ...sandbox, state: { phase: 'stopped' } });
    assert.strictEqual((await store.load()).sandboxes[0]?.state.phase, 'stopped');
    await store.remove(sandbox);
    await store.remove(sandbox);
    assert.lengthOf((await store.load()).sandboxes, 0);
  });

  it('leaves no directory of an object whose first record cannot be written', async () => {
    // As long as a path may be: there is a place for the directory, and none for a file in it.
    let deep = root;
    while (deep.length < 3_990) deep = join(deep, 'd'.repeat(Math.min(200, 3_990 - deep.length)));
    const directory = join(deep, 'containers', containerId);
    assert.isAtMost(directory.length, 4_090);
    const store = new FileStateStore(deep);
    const error: unknown = await store
      .save({ ...container, state: { phase: 'creating' } })
      .catch((cause: unknown) => cause);
    assert.match(String(error), /ENAMETOOLONG/);
    assert.deepEqual(await readdir(join(deep, 'containers')), []);
  });

  it('sets one damaged record aside and keeps the rest (K19)', async () => {
    const store = new FileStateStore(root);
    await store.save(container);
    for (const [name, damage] of Object.entries({
      '1': () => '',
      '2': (text: string) => text.slice(0, text.length / 2),
      '3': (text: string) => text.replace('"pid":12', '"pid":13'),
      '4': () => 'not json at all',
      '5': (text: string) => text,
    })) {
      const id = name.repeat(64);
      const text = encodeRecord({ ...container, id: parseContainerId(id) });
      await mkdir(join(root, 'containers', id), { recursive: true });
      await writeFile(join(root, 'containers', id, 'record.json'), damage(text));
    }
    const { containers, damaged } = await store.load();
    // '5' is whole: it survives, and so shows that the others fell for a reason.
    assert.deepEqual(
      containers.map((each) => each.id),
      ['5'.repeat(64), containerId],
    );
    assert.deepEqual(damaged.map((each) => each.id[0]).sort(), ['1', '2', '3', '4']);
    assert.lengthOf(await readdir(join(root, 'damaged')), 4);
    assert.include(await readFile(damaged.find((each) => each.id[0] === '3')?.path ?? '', 'utf8'), '"pid":13');
  });

  it('refuses a record under another id', () => {
    assert.throws(
      () => decodeRecord(Buffer.from(encodeRecord(container)), 'container', 'd'.repeat(64)),
      /record is of container/,
    );
  });

  it('refuses to write what it would not read', () => {
    assert.throws(() => encodeRecord({ ...container, state: { phase: 'asleep' } as never }), /unknown phase "asleep"/);
    const huge = { ...sandbox, config: { ...sandbox.config, labels: labels({ big: 'x'.repeat(2 << 20) }) } };
    assert.throws(() => encodeRecord(huge), /more than \d+ bytes/);
  });

  it('reads a record of a daemon that did not write down which runtime it was', () => {
    for (const record of [container, sandbox]) {
      const { runtime: _runtime, ...old } = record;
      const read = decodeRecord(Buffer.from(encodeRecord(old as typeof record)), record.kind, record.id);
      assert.isNull(read.runtime);
    }
  });

  it('reads a stop of a daemon whose kills were due by the clock of the wall: it has its grace again', () => {
    const stopping = { signalledAt: 5_000_000_000n, killAt: 35_000_000_000n } as never;
    const bytes = Buffer.from(encodeRecord({ ...container, stopping }));
    const record = decodeRecord(bytes, 'container', containerId) as ContainerRecord;
    assert.deepInclude(record.stopping, { begunAt: 5_000_000_000n, signalled: true, graceMs: 30_000 });
    assert.isAbove(record.stopping?.killAtMs ?? 0, 1e12);
  });
});
