import { assert } from 'chai';
import { codeOf } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { backgroundOp, type Op, silent } from '../pkg/base/op.ts';
import type { ContainerEventResponse, ContainerStatus } from '../pkg/cri-api/types.ts';
import { FakeSurroundings, fakeContainer, fakePod } from '../pkg/pod/fake-world.ts';
import type { OpenPods } from '../pkg/pod/index.ts';
import { codecs, type Encoded } from './codec.ts';
import { type EventsService, eventsService, Ring } from './events-service.ts';
import { type ObserveOptions, observeService } from './observe-service.ts';

const op = (): Op => backgroundOp(silent, 20_000);

/** A subscriber that takes events one by one. */
class Subscriber {
  readonly #abort = new AbortController();
  readonly #events: AsyncIterator<Encoded>;

  constructor(service: EventsService) {
    this.#events = service
      .getContainerEvents?.({ ...op(), signal: this.#abort.signal }, {})
      [Symbol.asyncIterator]() as AsyncIterator<Encoded>;
  }

  async next(): Promise<ContainerEventResponse | undefined> {
    const { value, done } = (await this.#events.next()) as { value: Encoded; done?: boolean };
    return done === true ? undefined : codecs.ContainerEventResponse.decode(value.bytes);
  }

  /** `started web`, `stopped app`: what happened to whom. */
  async line(): Promise<string> {
    const event = await this.next();
    if (event === undefined) return 'end';
    const own = event.containersStatuses.find((each) => each.id === event.containerId)?.metadata?.name;
    const name =
      event.podSandboxStatus?.id === event.containerId ? event.podSandboxStatus.metadata?.name : (own ?? 'gone');
    return `${event.containerEventType.slice(10, -6).toLowerCase()} ${name}`;
  }

  async lines(count: number): Promise<string[]> {
    const found: string[] = [];
    while (found.length < count) found.push(await this.line());
    return found;
  }

  leave(): void {
    this.#abort.abort();
  }
}

describe('container events', () => {
  let node: FakeSurroundings;
  let mind: OpenPods;
  let service: EventsService;

  beforeEach(async () => {
    node = await FakeSurroundings.make();
    mind = await node.boot();
    service = eventsService({ mind, enabled: true, clock: () => 9n, log: silent });
  });
  afterEach(async () => {
    mind.close();
    await node.dispose();
  });

  async function life(): Promise<void> {
    const pod = await mind.pods.run(op(), fakePod(), '');
    const id = await mind.containers.create(op(), pod, fakeContainer('app'));
    await mind.containers.start(op(), id);
    await mind.containers.stop(op(), id, 0);
    await mind.containers.remove(op(), id);
    await mind.pods.remove(op(), pod);
  }
  const LIFE = [
    'created web',
    'started web',
    'created app',
    'started app',
    'stopped app',
    'deleted gone',
    'stopped web',
    'deleted web',
  ];

  it('tell a whole life in order, to everybody', async () => {
    const [one, two] = [new Subscriber(service), new Subscriber(service)];
    const told = Promise.all([one.lines(8), two.lines(8)]);
    await life();
    assert.deepEqual(await told, [LIFE, LIFE]);
    one.leave();
    two.leave();
  });

  it('show the newest container of a pod first, as PodSandboxStatus does', async () => {
    const subscriber = new Subscriber(service);
    // What a subscriber finds when it comes is of one instant.
    const pod = await mind.pods.run(op(), fakePod(), '');
    for (const name of ['first', 'second', 'third']) await mind.containers.create(op(), pod, fakeContainer(name));
    const event = await subscriber.next();
    const names = (statuses: readonly ContainerStatus[] = []) => statuses.map(({ metadata }) => metadata?.name);
    assert.deepEqual(names(event?.containersStatuses), ['third', 'second', 'first']);
    const options = { mind, podEvents: true, clock: () => 9n, operations: () => [] } as unknown as ObserveOptions;
    const shown = await observeService(options).podSandboxStatus(op(), { podSandboxId: pod, verbose: false });
    assert.deepEqual(names(shown.containersStatuses), ['third', 'second', 'first']);
  });

  it('carry the statuses of the whole pod right after it', async () => {
    const subscriber = new Subscriber(service);
    const first = subscriber.next();
    await life();
    const events = [await first];
    while (events.length < 8) events.push(await subscriber.next());
    assert.equal(
      events.map((each) => each?.podSandboxStatus?.state.slice(8)).join(' '),
      'READY READY READY READY READY READY NOTREADY NOTREADY',
    );
    assert.deepEqual(
      events.map((each) => each?.containersStatuses.map(({ state }) => state).join(' ')),
      ['', '', 'CONTAINER_CREATED', 'CONTAINER_RUNNING', 'CONTAINER_EXITED', '', '', ''],
    );
    assert.isTrue(events.every((each) => (each?.createdAt ?? 0n) > 0n));
    subscriber.leave();
  });

  it('begin with what there is, so that one who comes back has missed nothing', async () => {
    const pod = await mind.pods.run(op(), fakePod(), '');
    const [created, running, exited] = [
      await mind.containers.create(op(), pod, fakeContainer('a')),
      await mind.containers.create(op(), pod, fakeContainer('b')),
      await mind.containers.create(op(), pod, fakeContainer('c')),
    ];
    for (const id of [running, exited]) await mind.containers.start(op(), id);
    await mind.containers.stop(op(), exited, 0);
    const subscriber = new Subscriber(service);
    assert.equal(await subscriber.line(), 'started web');
    // This comes after what was there when the subscriber came, whoever reads it when.
    await mind.containers.remove(op(), created);
    assert.deepEqual(await subscriber.lines(5), ['created a', 'started b', 'stopped c', 'stopped a', 'deleted gone']);
    subscriber.leave();
  });

  it('end when the subscriber leaves, and are no longer kept for it', async () => {
    const subscriber = new Subscriber(service);
    const last = subscriber.line();
    subscriber.leave();
    assert.equal(await last, 'end');
    await life();
    assert.deepEqual(service.counts(), { subscribers: 0, dropped: 0 });
  });

  it('do not wait for the slow: the oldest go, and are counted', async () => {
    const listeners: Parameters<OpenPods['subscribe']>[0][] = [];
    const told: string[] = [];
    const log = { ...silent, warn: (message: string) => void told.push(message) };
    const slow = eventsService({
      mind: {
        pods: mind.pods,
        containers: mind.containers,
        subscribe: (listener) => listeners.push(listener) as never,
      },
      enabled: true,
      clock: () => 9n,
      log,
    });
    const record = mind.pods.get(await mind.pods.run(op(), fakePod(), ''));
    const subscriber = new Subscriber(slow);
    await subscriber.next();
    const many = limits.eventQueueCount + 5;
    for (let at = 1; at <= many; at++)
      for (const listener of listeners) listener({ type: 'started', record, at: BigInt(at) });
    assert.deepEqual(slow.counts(), { subscribers: 1, dropped: 5 });
    assert.equal((await subscriber.next())?.createdAt, 6n);
    assert.lengthOf(told, 1);
    subscriber.leave();
  });

  it('are refused to too many, and to all where they are switched off', async () => {
    const all = Array.from({ length: limits.eventSubscribersCount }, () => new Subscriber(service));
    const waiting = all.map((each) => each.line());
    assert.equal(await new Subscriber(service).line().catch(codeOf), 'ResourceExhausted');
    for (const each of all) each.leave();
    await Promise.all(waiting);
    const off = eventsService({ mind, enabled: false, clock: () => 9n, log: silent });
    assert.equal(await new Subscriber(off).line().catch(codeOf), 'Unimplemented');
  });
});

describe('Ring', () => {
  it('hands out in order, and wakes who waits', async () => {
    const ring = new Ring(2);
    const { signal } = new AbortController();
    const waiting = ring.take(signal);
    ring.push(Buffer.from('a'));
    ring.push(Buffer.from('b'));
    assert.equal((await waiting)?.toString(), 'a');
    assert.equal((await ring.take(signal))?.toString(), 'b');
  });
});
