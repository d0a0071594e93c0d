import { readFileSync } from 'node:fs';
import { assert } from 'chai';
import Long from 'long';
import protobuf from 'protobufjs';
import { RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { remembered } from '../pkg/base/remembered.ts';
import type { Input, Messages } from '../pkg/cri-api/types.ts';
import { chunksOf, codecs, concatenate, methods } from './codec.ts';

const INT64_MIN = -(2n ** 63n);
const INT64_MAX = 2n ** 63n - 1n;
const UINT64_MAX = 2n ** 64n - 1n;

/** Another implementation of protobuf, reading the same .proto files: what both agree on is likely right. */
const oracle = new protobuf.Root();
for (const path of ['api.proto', 'node.proto'])
  protobuf.parse(readFileSync(new URL(path, import.meta.url), 'utf8'), oracle, { keepCase: true });
oracle.resolveAll();

function oracleType(name: string): protobuf.Type {
  return oracle.lookupType(
    name in (oracle.lookup('berth.v1') as protobuf.Namespace).nested! ? `berth.v1.${name}` : `runtime.v1.${name}`,
  );
}

/** Small and seeded, so that a failure can be repeated. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const texts = [
  '',
  'a',
  'ünï 漢字 🙂',
  '__proto__',
  'constructor',
  'x'.repeat(47),
  'y'.repeat(49),
  'z'.repeat(300),
  'line\nbreak\0nul',
  '\ufffd',
];
const wholes = { int32: [0, 1, -1, 127, 128, 2 ** 31 - 1, -(2 ** 31)], uint32: [0, 1, 300, 2 ** 31, 2 ** 32 - 1] };
const wides = {
  int64: [0n, 1n, -1n, 2n ** 32n, 2n ** 53n + 1n, INT64_MIN, INT64_MAX],
  uint64: [0n, 1n, 2n ** 31n, 2n ** 53n + 1n, UINT64_MAX],
};

function camel(name: string): string {
  const first = name.split('_')[0] ?? '';
  const head = first === first.toUpperCase() ? first.toLowerCase() : first.charAt(0).toLowerCase() + first.slice(1);
  return head + name.slice(first.length).replace(/_(.)/g, (_, char: string) => char.toUpperCase());
}

type Made = { ours: unknown; theirs: unknown };

/** One value of a field in both shapes: as types.ts has it, and as protobufjs' fromObject takes it. */
function single(field: protobuf.Field, pick: (below: number) => number, depth: number): Made {
  const from = <T>(list: readonly T[]): T => list[pick(list.length)] as T;
  const same = (value: unknown): Made => ({ ours: value, theirs: value });
  const { resolvedType: type } = field;
  if (type instanceof protobuf.Enum) return same(from(Object.keys(type.values)));
  if (type instanceof protobuf.Type) return message(type, pick, depth + 1);
  switch (field.type) {
    case 'string':
      return same(from(texts));
    case 'bytes':
      return same(Uint8Array.from({ length: pick(20) }, () => pick(256)));
    case 'bool':
      return same(pick(2) === 1);
    case 'double':
      return same(from([0, 0.5, -1e300, 12.25]));
    case 'int32':
    case 'uint32':
      return same(from(wholes[field.type]));
    case 'int64':
    case 'uint64': {
      const value = from(wides[field.type]);
      return { ours: value, theirs: Long.fromString(value.toString(), field.type === 'uint64') };
    }
    default:
      throw new Error(`no sample for ${field.type}`);
  }
}

function message(
  type: protobuf.Type,
  pick: (below: number) => number,
  depth = 0,
): { ours: Record<string, unknown>; theirs: Record<string, unknown> } {
  const ours: Record<string, unknown> = {};
  const theirs: Record<string, unknown> = {};
  for (const field of type.fieldsArray) {
    const isMessage = field.resolvedType instanceof protobuf.Type;
    if (pick(4) === 0 || (isMessage && depth > 3)) continue;
    if (field instanceof protobuf.MapField) {
      const entries: Record<string, string> = Object.create(null);
      // protobufjs itself loses these keys, so they have a test of their own.
      for (let i = pick(3); i > 0; i--)
        entries[texts.filter((text) => text !== '__proto__')[pick(texts.length - 1)] as string] = texts[
          pick(texts.length)
        ] as string;
      ours[camel(field.name)] = theirs[field.name] = entries;
    } else if (field.repeated) {
      const items = Array.from({ length: pick(4) }, () => single(field, pick, depth));
      ours[camel(field.name)] = items.map((item) => item.ours);
      theirs[field.name] = items.map((item) => item.theirs);
    } else {
      const value = single(field, pick, depth);
      ours[camel(field.name)] = value.ours;
      theirs[field.name] = value.theirs;
    }
  }
  return { ours, theirs };
}

/** What a decoded message must hold for what was sent: the same, with every default filled in. */
function filled(type: protobuf.Type, sent: Record<string, unknown>): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const field of type.fieldsArray) {
    const name = camel(field.name);
    const inner = field.resolvedType;
    const value = sent[name];
    if (field instanceof protobuf.MapField) out[name] = Object.assign(Object.create(null), value);
    else if (field.repeated)
      out[name] = ((value ?? []) as unknown[]).map((item) =>
        inner instanceof protobuf.Type ? filled(inner, item as Record<string, unknown>) : item,
      );
    else if (inner instanceof protobuf.Type)
      out[name] = value === undefined ? undefined : filled(inner, value as Record<string, unknown>);
    else if (inner instanceof protobuf.Enum) out[name] = value ?? inner.valuesById[0];
    else
      out[name] =
        value ?? { string: '', bytes: new Uint8Array(0), bool: false, int64: 0n, uint64: 0n }[field.type] ?? 0;
  }
  return out;
}

const refusal = (run: () => unknown): RuntimeError => {
  try {
    run();
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  return assert.fail('nothing was thrown');
};

describe('cri/codec', () => {
  for (const name of Object.keys(codecs) as (keyof Messages)[]) {
    it(`${name}: agrees with protobufjs in both directions`, () => {
      const pick = random(name.length * 7919 + name.charCodeAt(0));
      const type = oracleType(name);
      for (let round = 0; round < 12; round++) {
        const { ours, theirs } = message(type, pick);
        const bytes = codecs[name].encode(ours as never);
        const expected = filled(type, ours);
        assert.deepEqual(codecs[name].decode(bytes) as unknown, expected);
        assert.deepEqual(codecs[name].decode(type.encode(type.fromObject(theirs)).finish()) as unknown, expected);
        assert.deepEqual(
          type.toObject(type.decode(bytes), { longs: String, enums: String, bytes: Array }),
          type.toObject(type.fromObject(theirs), { longs: String, enums: String, bytes: Array }),
        );
      }
    });
  }

  it('keeps the ends of 64 bits', () => {
    for (const value of [
      INT64_MIN,
      INT64_MIN + 1n,
      -(2n ** 53n) - 1n,
      -1n,
      0n,
      2n ** 53n - 1n,
      2n ** 53n,
      2n ** 53n + 1n,
      INT64_MAX,
    ]) {
      assert.equal(
        codecs.LinuxContainerResources.decode(codecs.LinuxContainerResources.encode({ memoryLimitInBytes: value }))
          .memoryLimitInBytes,
        value,
      );
      assert.equal(
        codecs.ContainerStatus.decode(codecs.ContainerStatus.encode({ finishedAt: value })).finishedAt,
        value,
      );
      assert.equal(codecs.Int64Value.decode(codecs.Int64Value.encode({ value })).value, value);
      assert.deepEqual(
        codecs.LinuxContainerUser.decode(codecs.LinuxContainerUser.encode({ supplementalGroups: [value, 1n, value] }))
          .supplementalGroups,
        [value, 1n, value],
      );
    }
    for (const value of [0n, 1n, 2n ** 53n + 1n, 2n ** 63n, UINT64_MAX]) {
      assert.equal(codecs.Image.decode(codecs.Image.encode({ size: value })).size, value);
      assert.equal(codecs.HugepageLimit.decode(codecs.HugepageLimit.encode({ limit: value })).limit, value);
      assert.equal(codecs.PsiData.decode(codecs.PsiData.encode({ total: value })).total, value);
    }
  });

  it('keeps every label, also those that JavaScript has a meaning for', () => {
    const labels = JSON.parse(
      '{"__proto__": "p", "constructor": "c", "toString": "t", "": "empty", "1": "one"}',
    ) as Record<string, string>;
    const config = codecs.PodSandboxConfig.decode(codecs.PodSandboxConfig.encode({ labels, annotations: labels }));
    for (const map of [config.labels, config.annotations]) {
      assert.deepEqual(new Set(Object.entries(map)), new Set(Object.entries(labels)));
      assert.isNull(Object.getPrototypeOf(map));
    }
    const nothing = codecs.PodSandboxConfig.decode(new Uint8Array(0));
    assert.isUndefined(nothing.labels['constructor']);
    assert.isUndefined(nothing.labels['__proto__']);
  });

  it('keeps the bytes of a variable, and does not share memory with the request', () => {
    const value = Uint8Array.from([0, 255, 61, 128, 10]);
    const bytes = codecs.ContainerConfig.encode({ envs: [{ key: 'A', value }] });
    const config = codecs.ContainerConfig.decode(bytes);
    bytes.fill(0);
    assert.deepEqual(config.envs, [{ key: 'A', value }]);
  });

  it('does not share mutable defaults between messages', () => {
    assert.throws(() => (codecs.ContainerConfig.decode(new Uint8Array(0)).args as string[]).push('x'), TypeError);
    assert.throws(
      () => ((codecs.ContainerConfig.decode(new Uint8Array(0)).labels as Record<string, string>)['a'] = 'b'),
      TypeError,
    );
  });

  it('skips fields that it does not know', () => {
    const known = codecs.StopContainerRequest.encode({ containerId: 'abc', timeout: 7n });
    const unknown = Buffer.from([
      0x98, 0x06, 0x96, 0x01, 0xa1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8, 0xaa, 0x06, 2, 104, 105, 0xb5, 0x06, 1, 2, 3, 4,
    ]);
    assert.deepEqual(codecs.StopContainerRequest.decode(Buffer.concat([unknown, known, unknown])), {
      containerId: 'abc',
      timeout: 7n,
    });
    assert.deepEqual(codecs.VersionRequest.decode(Buffer.concat([unknown])), { version: '' });
    assert.deepEqual(codecs.ImageFsInfoRequest.decode(unknown), {});
  });

  it('reads number lists packed and one by one', () => {
    assert.deepEqual(codecs.PortForwardRequest.decode(Buffer.from([0x12, 3, 80, 0xbb, 0x03])).port, [80, 443]);
    assert.deepEqual(codecs.PortForwardRequest.decode(Buffer.from([0x10, 80, 0x10, 0xbb, 0x03])).port, [80, 443]);
  });

  it('refuses an enum number without a name, naming the enum', () => {
    const error = refusal(() => codecs.NamespaceOption.decode(Buffer.from([0x08, 9])));
    assert.equal(error.code, 'InvalidArgument');
    assert.equal(error.message, '9 is no known NamespaceMode; known are 0 (POD) to 3 (TARGET)');
    assert.equal(
      refusal(() =>
        codecs.NamespaceOption.decode(Buffer.from([0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])),
      ).code,
      'InvalidArgument',
    );
  });

  const malformed: readonly (readonly [what: string, bytes: readonly number[], message: string])[] = [
    ['a tag without a value', [0x0a], 'number is cut off'],
    ['a string longer than the message', [0x0a, 5, 97], 'field is cut off'],
    ['a length of 2^35', [0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 1], 'length is absurd'],
    ['field number 0', [0x02, 0], 'field number out of range'],
    ['a tag of 40 bits', [0x82, 0x80, 0x80, 0x80, 0x80, 0x01], 'field number out of range'],
    [
      'a number of eleven bytes',
      [0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
      'number has more than ten bytes',
    ],
    ['a group', [0x9b, 0x06], 'wire type 3 in field 99'],
    ['bytes that are not UTF-8', [0x0a, 2, 0xc3, 0x28], 'string is not UTF-8'],
    ['a surrogate in UTF-8', [0x0a, 3, 0xed, 0xa0, 0x80], 'string is not UTF-8'],
    ['a cut double', [0xa1, 0x06, 1, 2], 'field is cut off'],
  ];
  for (const [what, bytes, text] of malformed) {
    it(`refuses ${what}`, () => {
      const error = refusal(() => codecs.ContainerStatsFilter.decode(Buffer.from(bytes)));
      assert.equal(error.code, 'InvalidArgument');
      assert.include(error.message, text);
    });
  }

  it('refuses an inner message that reaches beyond the outer one', () => {
    // RunPodSandboxRequest { config (3 bytes) { metadata (5 bytes, but 1 is left) } }
    assert.include(
      refusal(() => codecs.RunPodSandboxRequest.decode(Buffer.from([0x0a, 3, 0x0a, 5, 0x0a, 0x0a, 1, 97]))).message,
      'message is cut off',
    );
    // The string lies within the buffer, yet beyond its message.
    assert.include(
      refusal(() => codecs.RunPodSandboxRequest.decode(Buffer.from([0x0a, 3, 0x12, 4, 97, 98, 99, 100]))).message,
      'field is cut off',
    );
  });

  it('never crashes or hangs on damaged bytes', () => {
    const pick = random(42);
    const sound = codecs.CreateContainerRequest.encode(
      message(oracleType('CreateContainerRequest'), pick).ours as Input<Messages['CreateContainerRequest']>,
    );
    assert.isAbove(sound.length, 100);
    for (let round = 0; round < 3000; round++) {
      const bytes = Buffer.from(sound.subarray(0, round % 3 === 0 ? pick(sound.length) : sound.length));
      for (let i = pick(4); i >= 0; i--) bytes[pick(bytes.length)] = pick(256);
      try {
        codecs.CreateContainerRequest.decode(bytes);
      } catch (error) {
        assert.instanceOf(error, RuntimeError);
        assert.equal((error as RuntimeError).code, 'InvalidArgument');
      }
    }
  });

  it('refuses to write what does not fit, and writes the next message right', () => {
    const wrong: readonly (() => unknown)[] = [
      () => codecs.ContainerStatus.encode({ createdAt: 2n ** 63n }),
      () => codecs.ContainerStatus.encode({ createdAt: 5 as unknown as bigint }),
      () => codecs.Image.encode({ size: -1n }),
      () => codecs.ContainerStatus.encode({ id: 'abc', exitCode: 2 ** 31 }),
      () => codecs.ContainerStatus.encode({ exitCode: 1.5 }),
      () => codecs.PodSandboxMetadata.encode({ name: 'x', attempt: -1 }),
      () => codecs.ContainerStatus.encode({ state: 'RUNNING' as 'CONTAINER_RUNNING' }),
    ];
    for (const run of wrong) {
      assert.equal(refusal(run).code, 'Internal');
      assert.deepEqual([...codecs.PodIP.encode({ ip: 'a' })], [0x0a, 1, 97]);
    }
  });

  it('writes UTF-8 also for text that is not well-formed', () => {
    const bytes = codecs.PodIP.encode({ ip: 'a\ud800b' });
    assert.equal(codecs.PodIP.decode(bytes).ip, 'a\ufffdb');
  });

  it('writes messages larger than its buffer', () => {
    const stdout = Buffer.alloc(5_000_000, 7);
    const decoded = codecs.ExecSyncResponse.decode(
      codecs.ExecSyncResponse.encode({ stdout, stderr: stdout, exitCode: -1 }),
    );
    assert.isTrue(stdout.equals(decoded.stdout) && stdout.equals(decoded.stderr));
    assert.equal(decoded.exitCode, -1);
  });

  it('joins encoded items to the same bytes as encoding the list', () => {
    const items = [
      { id: 'a', createdAt: 1n },
      { id: 'b', labels: { x: 'y' } },
    ];
    assert.deepEqual(
      concatenate(items.map((item) => codecs.PodSandbox.item(item))).bytes,
      codecs.ListPodSandboxResponse.encode({ items }),
    );
    assert.deepEqual(concatenate([]).bytes, codecs.ListPodSandboxResponse.encode({}));
  });

  it('cuts a streamed list into messages of a size, each item in one of them', () => {
    const items = Array.from({ length: 100 }, (_, index) =>
      codecs.PodSandbox.item({ id: `${index}`, annotations: { x: 'y'.repeat(index === 50 ? 500_000 : 10_000) } }),
    );
    const chunks = [...chunksOf(items)];
    const ids = chunks.map((chunk) =>
      codecs.StreamPodSandboxesResponse.decode(chunk.bytes).podSandboxes.map((each) => Number(each.id)),
    );
    assert.deepEqual(
      ids.flat(),
      Array.from({ length: 100 }, (_, index) => index),
    );
    assert.isTrue(ids.every((each) => each.length > 0));
    assert.deepEqual(
      ids.filter((each) => each.includes(50)),
      [[50]],
    );
    assert.isTrue(chunks.every(({ bytes }, index) => bytes.length <= 256 * 1024 || ids[index]?.length === 1));
    assert.deepEqual([...chunksOf([])], []);
  });

  it('encodes what is remembered once', () => {
    let times = 0;
    const encode = remembered((pod: { readonly id: string }) => {
      times++;
      return codecs.PodSandbox.item(pod);
    });
    const pod = { id: 'a' };
    assert.strictEqual(encode(pod), encode(pod));
    encode({ id: 'a' });
    assert.equal(times, 2);
  });

  it('knows every RPC of the three services by its path', () => {
    const paths = ['runtime.v1.RuntimeService', 'runtime.v1.ImageService', 'berth.v1.Node'].flatMap((name) =>
      oracle
        .lookupService(name)
        .methodsArray.map((method) => `/${name}/${method.name} ${method.responseStream === true}`),
    );
    assert.deepEqual(
      Object.values(methods).map((method) => `${method.path} ${method.streams}`),
      paths,
    );
    assert.isNotEmpty(paths);
  });

  it('is generated from the .proto files as they are', async () => {
    const generator = (await import(new URL('../scripts/gen-api.mjs', import.meta.url).href)) as {
      stale(): [path: string, text: string][];
    };
    assert.deepEqual(
      generator.stale().map(([path]) => path),
      [],
      'run `node scripts/gen-api.mjs`',
    );
  });

  describe('a request with too much in it', () => {
    const { decodeRequest, encode } = codecs.CreateContainerRequest;
    const many = limits.requestFieldsCount;
    const refusal = (bytes: Uint8Array): string => {
      try {
        decodeRequest(bytes);
        return 'taken';
      } catch (error) {
        return error instanceof RuntimeError ? `${error.code}: ${error.message}` : String(error);
      }
    };

    it('is refused by field and bound, whatever it is that there is too much of', () => {
      const list = <T>(of: (index: number) => T): T[] => Array.from({ length: many }, (_, index) => of(index));
      for (const [field, request] of [
        ['config.annotations', { config: { annotations: Object.fromEntries(list((index) => [`a${index}`, ''])) } }],
        ['config.mounts', { config: { mounts: list(() => ({})) } }],
        ['config.args', { config: { args: list(() => '') } }],
        [
          'config.linux.security_context.supplemental_groups',
          { config: { linux: { securityContext: { supplementalGroups: [...list(BigInt), ...list(BigInt)] } } } },
        ],
        ['sandbox_config.labels', { sandboxConfig: { labels: Object.fromEntries(list((index) => [`${index}`, ''])) } }],
      ] as const satisfies [string, Input<Messages['CreateContainerRequest']>][]) {
        const said = refusal(encode(request));
        assert.match(said, /^ResourceExhausted: /);
        assert.include(said, `${field}: the request has more than ${many} fields`);
      }
      // A message field that comes again and again, and fields that nobody knows.
      assert.include(refusal(Buffer.alloc(2 * many + 2, Buffer.of(0x12, 0))), `config: the request has more than`);
      assert.include(refusal(Buffer.alloc(2 * many + 2, Buffer.of(0x78, 1))), `the request has more than`);
    });

    it('is taken with as much as anybody needs, and in a reply there may be more', () => {
      const mounts = Array.from({ length: limits.mountsCount }, (_, index) => ({
        containerPath: `/a${index}`,
        hostPath: '/b',
        readonly: true,
        propagation: 'PROPAGATION_BIDIRECTIONAL' as const,
      }));
      const groups = Array.from({ length: limits.groupsCount }, (_, index) => BigInt(index));
      assert.lengthOf(decodeRequest(encode({ config: { mounts } })).config?.mounts ?? [], limits.mountsCount);
      const linux = { securityContext: { supplementalGroups: groups } };
      assert.strictEqual(refusal(encode({ config: { linux } })), 'taken');
      const long = encode({ config: { args: Array.from({ length: 2 * many }, () => '') } });
      assert.lengthOf(codecs.CreateContainerRequest.decode(long).config?.args ?? [], 2 * many);
    });
  });
});

describe('cri/codec: messages in pieces', () => {
  it('are put together, as protobuf demands: what a later piece leaves out keeps what an earlier one said', () => {
    const pieces = [
      { config: { metadata: { name: 'pod', uid: 'u1' }, labels: { a: '1' }, linux: { cgroupParent: '/a' } } },
      { config: { metadata: { namespace: 'ns', uid: 'u2' }, labels: { b: '2' }, dnsConfig: { servers: ['::1'] } } },
      { config: { dnsConfig: { servers: ['::2'] } }, runtimeHandler: 'crun' },
    ].map((each) => codecs.RunPodSandboxRequest.encode(each));
    const { config, runtimeHandler } = codecs.RunPodSandboxRequest.decode(Buffer.concat(pieces));
    assert.deepEqual(config?.metadata, { name: 'pod', uid: 'u2', namespace: 'ns', attempt: 0 });
    assert.deepEqual({ ...config?.labels }, { a: '1', b: '2' });
    assert.deepEqual(config?.dnsConfig?.servers, ['::1', '::2']);
    assert.deepEqual([config?.linux?.cgroupParent, runtimeHandler], ['/a', 'crun']);
  });

  it('in lists are one each', () => {
    const one = (key: string): Buffer => codecs.ContainerConfig.encode({ envs: [{ key, value: Buffer.from(key) }] });
    const { envs } = codecs.ContainerConfig.decode(Buffer.concat([one('a'), one('b')]));
    assert.deepEqual(
      envs.map(({ key, value }) => `${key}=${Buffer.from(value).toString()}`),
      ['a=a', 'b=b'],
    );
  });
});
