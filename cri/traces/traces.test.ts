import { assert } from 'chai';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { limits } from '../../pkg/base/limits.ts';
import { methods } from '../codec.ts';
import { FakeLogger } from '../fake-server.ts';
import type { CallListener, WatchedCall } from '../watch.ts';
import { isSampled, parseTraceParent } from './context.ts';
import { Exporter } from './exporter.ts';
import { decodeSpans, FakeCollector } from './fake-collector.ts';
import { encodeSpans, type Span } from './otlp.ts';
import { traceCalls } from './tracer.ts';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const PARENT = 'b7ad6b7169203331';
const SENDER = { resource: { 'service.name': 'berth', 'process.pid': 300 }, name: 'berth', version: '1' };
const SPAN: Span = {
  traceId: Buffer.from(TRACE, 'hex'),
  spanId: Buffer.from(PARENT, 'hex'),
  parentId: undefined,
  state: '',
  name: 'ü',
  kind: 'server',
  start: 1_796_000_000_123_456_789n,
  end: 1_796_000_000_123_456_790n,
  attributes: { a: 'b', n: 2 ** 40 },
  failure: undefined,
};

describe('traces', () => {
  describe('traceparent', () => {
    it('is read as W3C Trace Context has it', () => {
      const found = parseTraceParent(`00-${TRACE}-${PARENT}-01`);
      assert.equal(found?.traceId.toString('hex'), TRACE);
      assert.equal(found?.spanId.toString('hex'), PARENT);
      assert.isTrue(found?.isSampled);
      assert.isFalse(parseTraceParent(`00-${TRACE}-${PARENT}-02`)?.isSampled);
      assert.isTrue(parseTraceParent(`cc-${TRACE}-${PARENT}-03-what-comes`)?.isSampled);
    });

    for (const bad of [
      undefined,
      Buffer.from('x'),
      '',
      `ff-${TRACE}-${PARENT}-01`,
      `00-${TRACE}-${PARENT}-01-more`,
      `00-${'0'.repeat(32)}-${PARENT}-01`,
      `00-${TRACE}-${'0'.repeat(16)}-01`,
      `00-${TRACE.toUpperCase()}-${PARENT}-01`,
      `00-${TRACE}-${PARENT}`,
    ])
      it(`is none: ${String(bad).slice(0, 60)}`, () => assert.isUndefined(parseTraceParent(bad)));

    it('decides whether a call is traced; without one, chance does', () => {
      const yes = parseTraceParent(`00-${TRACE}-${PARENT}-01`);
      const no = parseTraceParent(`00-${TRACE}-${PARENT}-00`);
      assert.isTrue(isSampled(yes, 0, 0.9));
      assert.isFalse(isSampled(no, 1_000_000, 0));
      assert.isFalse(isSampled(undefined, 0, 0));
      assert.isTrue(isSampled(undefined, 1, 0.9e-6));
      assert.isFalse(isSampled(undefined, 1, 1e-6));
      assert.isTrue(isSampled(undefined, 1_000_000, 0.999_999_999));
    });
  });

  it('are encoded as protobuf reads them', () => {
    const failed = { ...SPAN, parentId: SPAN.spanId, state: 'a=b', kind: 'internal' as const, failure: 'no' };
    const [one, other] = decodeSpans(encodeSpans(SENDER, [SPAN, failed]));
    assert.deepEqual(one, {
      traceId: TRACE,
      spanId: PARENT,
      parentId: '',
      state: '',
      name: 'ü',
      kind: 2,
      start: SPAN.start,
      end: SPAN.end,
      attributes: { a: 'b', n: '1099511627776' },
      failure: '',
      code: 0,
      resource: { 'service.name': 'berth', 'process.pid': '300' },
    });
    assert.include(other, { parentId: PARENT, state: 'a=b', kind: 1, failure: 'no', code: 2 });
  });

  describe('of calls', () => {
    const traced = (header: string | undefined, perMillion = 0): { spans: Span[]; call: CallListener | undefined } => {
      const spans: Span[] = [];
      const headers: Readonly<Record<string, string | undefined>> = { traceparent: header, tracestate: 'k=v' };
      const call = traceCalls({ perMillion, take: (span) => void spans.push(span), chance: () => 0.5 })({
        method: methods.runPodSandbox as WatchedCall['method'],
        id: '00a1',
        ids: { pod: 'web' },
        metadata: { get: (name) => [headers[name] ?? []].flat() },
      });
      return { spans, call };
    };

    it('have a span for the call, below its client’s, and below that one for each stage', () => {
      const { spans, call } = traced(`00-${TRACE}-${PARENT}-01`);
      for (const stage of ['save record', 'save record', 'cni add: bridge']) call?.stage(stage);
      call?.ended(undefined);
      assert.deepEqual(
        spans.map(({ name, kind }) => `${kind} ${name}`),
        ['internal save record', 'internal cni add: bridge', 'server runtime.v1.RuntimeService/RunPodSandbox'],
      );
      const [first, second, root] = spans;
      for (const span of spans) {
        assert.equal(span.traceId.toString('hex'), TRACE);
        assert.equal(span.state, 'k=v');
        assert.isTrue(span.end >= span.start);
      }
      assert.equal(root?.parentId?.toString('hex'), PARENT);
      assert.equal(first?.parentId, root?.spanId);
      assert.isTrue((second?.start ?? 0n) >= (first?.end ?? 1n));
      assert.deepEqual(root?.attributes, {
        'rpc.system': 'grpc',
        'rpc.service': 'runtime.v1.RuntimeService',
        'rpc.method': 'RunPodSandbox',
        'berth.request': '00a1',
        'berth.pod': 'web',
      });
    });

    it('say why the call failed, and nothing of what goes on without it', () => {
      const { spans, call } = traced(undefined, 1_000_000);
      const error = new RuntimeError('DeadlineExceeded', 'late');
      call?.ended({ error, code: 'DeadlineExceeded', stage: '' });
      call?.stage('cni add: bridge');
      assert.lengthOf(spans, 1);
      assert.equal(spans[0]?.failure, 'late');
      assert.equal(spans[0]?.attributes['berth.code'], 'DeadlineExceeded');
      assert.isUndefined(spans[0]?.parentId);
      assert.equal(spans[0]?.state, '');
    });

    it('are none where nobody wants them', () => {
      assert.isUndefined(traced(undefined).call);
      assert.isUndefined(traced(`00-${TRACE}-${PARENT}-00`, 1_000_000).call);
    });

    it('have so many stages and no more', () => {
      const { spans, call } = traced(undefined, 1_000_000);
      for (let each = 0; each < 2 * limits.spansPerCallCount; each++) call?.stage(`layer ${each}`);
      call?.ended(undefined);
      assert.lengthOf(spans, limits.spansPerCallCount + 1);
    });
  });

  describe('on their way', () => {
    let collector: FakeCollector;
    let log: FakeLogger;
    const open: Exporter[] = [];
    const exporter = (endpoint: string, waitMs?: number): Exporter => {
      const made = new Exporter({ endpoint, sender: SENDER, log, ...(waitMs === undefined ? {} : { waitMs }) });
      open.push(made);
      return made;
    };
    beforeEach(() => {
      collector = new FakeCollector();
      log = new FakeLogger();
    });
    afterEach(async () => {
      for (const each of open.splice(0)) await each.close();
      collector.close();
    });

    it('come to the collector together, after a while or when they are many', async () => {
      const endpoint = await collector.listen();
      const it = exporter(endpoint, 1);
      it.take(SPAN);
      it.take(SPAN);
      await collector.until(() => collector.spans.length === 2);
      assert.equal(collector.requests, 1);
      const patient = exporter(endpoint);
      for (let each = 0; each < limits.spansSentCount; each++) patient.take(SPAN);
      await collector.until(() => collector.requests === 2);
      assert.lengthOf(collector.spans, 2 + limits.spansSentCount);
    });

    it('are sent at the end, what is left of them', async () => {
      const it = exporter(await collector.listen());
      it.take(SPAN);
      await it.close();
      assert.lengthOf(collector.spans, 1);
    });

    it('are dropped with one line where there is no collector, and sent again when there is', async () => {
      const endpoint = await collector.listen();
      collector.refuses = true;
      const it = exporter(endpoint, 1);
      for (let each = 1; each <= 3; each++) {
        it.take(SPAN);
        await collector.until(() => collector.requests === each);
      }
      collector.refuses = false;
      it.take(SPAN);
      await collector.until(() => collector.spans.length === 1);
      await it.close();
      assert.equal(it.droppedCount, 3);
      assert.deepEqual(
        log.lines.map(({ level, message }) => `${level} ${message}`),
        ['warn traces cannot be sent, and are dropped until the collector takes them', 'info traces are sent again'],
      );
      assert.include(log.lines[0], { endpoint, cause: 'full' });
    });

    it('wait in a queue that has an end', async () => {
      const it = exporter('127.0.0.1:1');
      for (let each = 0; each < limits.spansQueuedCount + limits.spansSentCount + 10; each++) it.take(SPAN);
      assert.isAtLeast(it.droppedCount, 10);
      await it.close();
    });
  });
});
