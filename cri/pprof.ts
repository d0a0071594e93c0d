/**
 * CPU profiles as `go tool pprof` reads them (github.com/google/pprof, proto/profile.proto, gzipped), made of what V8
 * gives (`.cpuprofile`): those who scrape a node of CRI-O go on with what they have. PURE.
 */
import { gzipSync } from 'node:zlib';
import { parseJson } from '../pkg/base/json.ts';

/** What is read of a `.cpuprofile`. Times are microseconds. */
interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
    readonly children?: readonly number[];
  }[];
  readonly startTime: number;
  readonly endTime: number;
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** pprof wants nanoseconds. */
const NS_PER_US = 1000;
/** Of its times, too. */
const NS_PER_MS = 1_000_000n;

/** Wire types of protobuf. */
const VARINT = 0;
const BYTES = 2;

/** `json` is a `.cpuprofile`, which began at `beganMs` since the epoch; `periodUs` lies between two samples. */
export function toPprof(json: string, beganMs: number, periodUs: number): Buffer {
  const profile = parseJson(json) as CpuProfile;
  const texts = new Texts();
  const functions = new Map<string, number>();
  const described: Buffer[] = [];
  const parents = new Map(profile.nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id])));
  for (const { id, callFrame } of profile.nodes) {
    const { functionName, url, lineNumber } = callFrame;
    const key = `${functionName}\n${url}\n${lineNumber}`;
    const known = functions.get(key);
    const made = known ?? functions.size + 1;
    const line = lineNumber + 1;
    if (known === undefined) {
      functions.set(key, made);
      const name = texts.at(functionName === '' ? '(anonymous)' : functionName);
      described.push(
        message(5, [number(1, made), number(2, name), number(3, name), number(4, texts.at(url)), number(5, line)]),
      );
    }
    described.push(message(4, [number(1, id), message(4, [number(1, made), number(2, line)])]));
  }
  const units = [
    [texts.at('samples'), texts.at('count')],
    [texts.at('cpu'), texts.at('nanoseconds')],
  ] as const;
  const unit = (field: number, [type, of]: readonly [number, number]): Buffer =>
    message(field, [number(1, type), number(2, of)]);
  const parts = [
    ...units.map((each) => unit(1, each)),
    ...[...spentBy(profile)].map(([id, { count, us }]) =>
      message(2, [...stackOf(id, parents).map((each) => number(1, each)), number(2, count), number(2, us * NS_PER_US)]),
    ),
    ...described,
    number(9, BigInt(Math.round(beganMs)) * NS_PER_MS),
    number(10, (profile.endTime - profile.startTime) * NS_PER_US),
    unit(11, units[1]),
    number(12, periodUs * NS_PER_US),
  ];
  return gzipSync(Buffer.concat([...parts, ...texts.all.map((each) => bytes(6, Buffer.from(each)))]));
}

/** What each node had for itself. */
function spentBy({ samples, timeDeltas }: CpuProfile): ReadonlyMap<number, { count: number; us: number }> {
  const spent = new Map<number, { count: number; us: number }>();
  for (const [at, id] of samples.entries()) {
    const own = spent.get(id) ?? { count: 0, us: 0 };
    spent.set(id, { count: own.count + 1, us: own.us + Math.max(0, timeDeltas[at + 1] ?? 0) });
  }
  return spent;
}

/** From the node up. */
function stackOf(id: number, parents: ReadonlyMap<number, number>): readonly number[] {
  const stack: number[] = [];
  for (let at: number | undefined = id; at !== undefined; at = parents.get(at)) stack.push(at);
  return stack;
}

/** The table of strings, whose first is "". */
class Texts {
  readonly #places = new Map([['', 0]]);

  at(text: string): number {
    const found = this.#places.get(text) ?? this.#places.size;
    this.#places.set(text, found);
    return found;
  }

  get all(): readonly string[] {
    return [...this.#places.keys()];
  }
}

function message(field: number, parts: readonly Buffer[]): Buffer {
  return bytes(field, Buffer.concat(parts));
}

function bytes(field: number, value: Buffer): Buffer {
  return Buffer.concat([varint(BigInt(field * 8 + BYTES)), varint(BigInt(value.length)), value]);
}

function number(field: number, value: number | bigint): Buffer {
  return Buffer.concat([varint(BigInt(field * 8 + VARINT)), varint(BigInt(value))]);
}

function varint(value: bigint): Buffer {
  const out: number[] = [];
  for (let left = BigInt.asUintN(64, value); ; left >>= 7n) {
    if (left < 0x80n) return Buffer.from([...out, Number(left)]);
    out.push(Number(left & 0x7fn) | 0x80);
  }
}
