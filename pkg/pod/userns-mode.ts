/**
 * User namespaces that a pod asks for by CRI-O's annotation `userns-mode.crio.io`, from the time before the kubelet
 * knew of them: what it says, and which ids of the node the pod gets. PURE.
 *
 *   auto[:size=N;keep-id=true;map-to-root=true;uidmapping=C:H:N,…;gidmapping=…]   a range that no other pod has
 *   private:uidmapping=C:H:N,…;gidmapping=…                                       the very ids that are named
 *
 * The rules are those of CRI-O (server/sandbox_run_linux.go) and of its storage (userns.go), but for one: an id map
 * with the node's id 0 in it is refused, since whoever has that is root of the node.
 */
import type { LinuxSandboxSecurityContext } from '../cri-api/types.ts';
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { IdMap, IdMapping } from '../ports/rootfs.ts';
import type { IdRange } from '../ports/runtime.ts';

/** What a mode asks for. */
export interface UsernsMode {
  readonly kind: 'auto' | 'private';
  /** Ids of the namespace; of `auto` only. */
  readonly size: number;
  /** What run_as_user and the like of the pod become: themselves, root, or the next free id. */
  readonly own: 'keep' | 'root' | 'next';
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
}

/** Whose ids may be mapped. */
export interface UsernsNode {
  /** Subordinate ids of the user `containers` (/etc/subuid, /etc/subgid). */
  readonly available: { readonly uids: readonly IdRange[]; readonly gids: readonly IdRange[] };
  /** Maps of the pods that there are. */
  readonly used: readonly IdMap[];
  /** `minimum_mappable_uid` and `_gid`; -1 = not set. */
  readonly least: { readonly uid: number; readonly gid: number };
}

/** As CRI-O's DefaultUserNSSize: all ids of 16 bits. */
const DEFAULT_SIZE = 65_536;
/** Ids are 32 bits, and the last of them is none (user_namespaces(7)). */
const IDS = 2 ** 32 - 1;
/** Lines of a map that the kernel takes (user_namespaces(7)). */
const MAP_LINES = 340;

/** Undefined for a mode that asks for no namespace of its own. @throws InvalidArgument for one that nobody can read. */
export function parseUsernsMode(text: string): UsernsMode | undefined {
  const mode = text.trim();
  if (mode === '' || mode === 'host') return undefined;
  const colon = mode.indexOf(':');
  const kind = colon < 0 ? mode : mode.slice(0, colon);
  if (kind !== 'auto' && kind !== 'private')
    throw invalid(`${quote(mode)} is no mode; want auto, private or host, with options as in auto:size=65536`);
  const values = new Map<string, string>();
  for (const pair of colon < 0 ? [] : mode.slice(colon + 1).split(';')) {
    const equals = pair.indexOf('=');
    if (equals < 0) throw invalid(`${quote(pair)} is no option; want name=value, separated by ";"`);
    values.set(pair.slice(0, equals), pair.slice(equals + 1));
  }
  const keepsId = values.get('keep-id') === 'true';
  const mapsToRoot = values.get('map-to-root') === 'true';
  if (keepsId && mapsToRoot) throw invalid('keep-id and map-to-root exclude each other; leave one out');
  return {
    kind,
    size: values.has('size') ? parseId('size', values.get('size') ?? '') || DEFAULT_SIZE : DEFAULT_SIZE,
    own: keepsId ? 'keep' : mapsToRoot ? 'root' : 'next',
    uids: parseMappings('uidmapping', values.get('uidmapping')),
    gids: parseMappings('gidmapping', values.get('gidmapping')),
  };
}

/**
 * The id map of a new pod. @throws InvalidArgument for a map that cannot be; FailedPrecondition if the node has no ids
 * to give, or not enough of them.
 */
export function usernsIdMap(
  mode: UsernsMode,
  security: LinuxSandboxSecurityContext | undefined,
  node: UsernsNode,
): IdMap {
  if (mode.uids.length > 0 || mode.gids.length > 0) requireMayMap(security, node.least.uid);
  const groups = (security?.supplementalGroups ?? []).map(Number);
  const own = mode.kind === 'auto' ? mode.own : 'next';
  const explicit = {
    uids: withOwn(named(mode, 'uids'), security?.runAsUser, [], own),
    gids: withOwn(named(mode, 'gids'), security?.runAsGroup, groups, own),
  };
  if (mode.kind === 'private' && mode.uids.length === 0 && mode.gids.length === 0)
    throw invalid('private wants a uidmapping or a gidmapping; or use auto, which takes ids that nobody has');
  const whole = (kind: 'uids' | 'gids'): readonly IdMapping[] =>
    checked(
      kind,
      mode.kind === 'private' ? explicit[kind] : [...automatic(mode.size, kind, explicit, node), ...explicit[kind]],
    );
  requireLeast('uid', explicit.uids, node.least.uid);
  requireLeast('gid', explicit.gids, node.least.gid);
  return { uids: whole('uids'), gids: whole('gids') };
}

/** The mappings that the mode names; of a private one, those of the other kind where only that is named. */
function named(mode: UsernsMode, kind: 'uids' | 'gids'): readonly IdMapping[] {
  const other = kind === 'uids' ? 'gids' : 'uids';
  return mode.kind === 'private' && mode[kind].length === 0 ? mode[other] : mode[kind];
}

/** With the ids that the pod runs as. */
function withOwn(
  mappings: readonly IdMapping[],
  runAs: { readonly value: bigint } | undefined,
  groups: readonly number[],
  own: UsernsMode['own'],
): readonly IdMapping[] {
  let all = mappings;
  if (runAs !== undefined) {
    const id = Number(runAs.value);
    all = own === 'next' ? nextFree(all, id) : withOne(all, own === 'keep' ? id : 0, id);
  }
  for (const id of groups) all = own === 'keep' ? withOne(all, id, id) : nextFree(all, id);
  return all;
}

function withOne(mappings: readonly IdMapping[], containerId: number, hostId: number): readonly IdMapping[] {
  const isThere = mappings.some((each) => each.containerId === containerId && each.hostId === hostId);
  return isThere ? mappings : [...mappings, { containerId, hostId, size: 1 }];
}

/** The node's id becomes the first that is free above those in the map, unless it is in it. */
function nextFree(mappings: readonly IdMapping[], hostId: number): readonly IdMapping[] {
  if (mappings.some((each) => hostId >= each.hostId && hostId < each.hostId + each.size)) return mappings;
  const containerId = Math.max(0, ...mappings.map((each) => each.containerId + each.size));
  return [...mappings, { containerId, hostId, size: 1 }];
}

/** @throws InvalidArgument in CRI-O's words, for a pod that may not name ids of the node. */
function requireMayMap(security: LinuxSandboxSecurityContext | undefined, least: number): void {
  const user = security?.runAsUser?.value;
  if (user === undefined) throw invalid('cannot use uidmapping or gidmapping if RunAsUser is not set');
  if (user === 0n) return;
  if (least < 0)
    throw invalid('cannot use uidmapping or gidmapping if not running as root and minimum_mappable_uid is not set');
  if (user < BigInt(least))
    throw invalid(`cannot use uidmapping or gidmapping if running as a UID below minimum mappable ID ${least}`);
}

function requireLeast(what: 'uid' | 'gid', mappings: readonly IdMapping[], least: number): void {
  const low = least < 0 ? undefined : mappings.find(({ hostId }) => hostId < least);
  if (low !== undefined)
    throw invalid(
      `not allowed to map ${what} range (${low.hostId}-${low.hostId + low.size - 1}), below minimum_mappable_${what} ` +
        `${least}`,
    );
}

// Ranges

/** The mappings of `size` ids but for those that are mapped already, to the lowest ids that no pod has. */
function automatic(
  size: number,
  kind: 'uids' | 'gids',
  explicit: { readonly uids: readonly IdMapping[]; readonly gids: readonly IdMapping[] },
  { available, used }: UsernsNode,
): readonly IdMapping[] {
  if (available[kind].length === 0)
    throw new RuntimeError(
      'FailedPrecondition',
      `annotation userns-mode: auto takes ids of the user "containers", who has no ${kind}; add a line such as ` +
        'containers:2147483648:1073741824 to /etc/subuid and /etc/subgid',
    );
  const taken = [...used.flatMap((each) => each[kind]), ...explicit[kind]].map(({ hostId, size: count }) => ({
    start: hostId,
    count,
  }));
  const wanted = without(
    [{ start: 0, count: size }],
    explicit[kind].map(({ containerId, size: count }) => ({ start: containerId, count })),
  );
  const count = wanted.reduce((sum, each) => sum + each.count, 0);
  const given = lowest(without(available[kind], taken), count);
  if (given === undefined)
    throw new RuntimeError(
      'FailedPrecondition',
      `annotation userns-mode: no ${count} ${kind} are left for another pod; give the user "containers" more of them ` +
        'in /etc/subuid and /etc/subgid, or ask for less with auto:size=N',
    );
  return zipped(given, wanted);
}

/** `ranges` in order, without what is in `others`. */
function without(ranges: readonly IdRange[], others: readonly IdRange[]): readonly IdRange[] {
  const cut = (range: IdRange, { start, count }: IdRange): IdRange[] => {
    const end = range.start + range.count;
    const before = { start: range.start, count: Math.min(end, start) - range.start };
    const after = { start: Math.max(range.start, start + count), count: end - Math.max(range.start, start + count) };
    return [before, after].filter((each) => each.count > 0);
  };
  const sorted = [...ranges].sort((a, b) => a.start - b.start);
  return others.reduce<readonly IdRange[]>((left, other) => left.flatMap((range) => cut(range, other)), sorted);
}

function lowest(ranges: readonly IdRange[], wanted: number): readonly IdRange[] | undefined {
  const taken: IdRange[] = [];
  let missing = wanted;
  for (const { start, count } of ranges) {
    if (missing === 0) break;
    taken.push({ start, count: Math.min(count, missing) });
    missing -= Math.min(count, missing);
  }
  return missing === 0 ? taken : undefined;
}

function zipped(hosts: readonly IdRange[], containers: readonly IdRange[]): readonly IdMapping[] {
  const mappings: IdMapping[] = [];
  const [outside, inside] = [hosts.map((each) => ({ ...each })), containers.map((each) => ({ ...each }))];
  for (let [host, own] = [outside.shift(), inside.shift()]; host !== undefined && own !== undefined; ) {
    const size = Math.min(host.count, own.count);
    mappings.push({ containerId: own.start, hostId: host.start, size });
    host = host.count === size ? outside.shift() : { start: host.start + size, count: host.count - size };
    own = own.count === size ? inside.shift() : { start: own.start + size, count: own.count - size };
  }
  return mappings;
}

/** @throws InvalidArgument for a map that the kernel would not take, or that makes somebody root of the node. */
function checked(kind: 'uids' | 'gids', mappings: readonly IdMapping[]): readonly IdMapping[] {
  if (mappings.some(({ hostId }) => hostId === 0))
    throw invalid(`the ${kind} of the pod would include 0, which is root of the node; run it as another user`);
  if (!mappings.some(({ containerId, size }) => containerId === 0 && size > 0))
    throw invalid(`the ${kind} of the pod do not include 0, which the runtime sets containers up as`);
  if (mappings.length > MAP_LINES) throw invalid(`${mappings.length} ranges of ${kind}; the kernel takes ${MAP_LINES}`);
  if (mappings.some((each) => each.size === 0 || Math.max(each.containerId, each.hostId) + each.size > IDS))
    throw invalid(`a range of ${kind} is empty or ends beyond ${IDS}`);
  for (const side of ['containerId', 'hostId'] as const) {
    const sorted = [...mappings].sort((a, b) => a[side] - b[side]);
    const overlap = sorted.some((each, index) => index > 0 && starts(sorted[index - 1], side) > each[side]);
    if (overlap) throw invalid(`the ranges of ${kind} overlap`);
  }
  return mappings;
}

/** Where the range after this one may start. */
function starts(mapping: IdMapping | undefined, side: 'containerId' | 'hostId'): number {
  return mapping === undefined ? 0 : mapping[side] + mapping.size;
}

// Reading

/** `container:host:size`, separated by commas (containers/storage: pkg/idtools/parser.go). */
function parseMappings(what: string, text: string | undefined): readonly IdMapping[] {
  const entries = (text ?? '').split(',', MAP_LINES + 1).filter((each) => each !== '');
  return entries.map((entry) => {
    const [containerId, hostId, size, ...more] = entry.split(':').map((each) => parseId(what, each));
    if (containerId === undefined || hostId === undefined || size === undefined || more.length > 0)
      throw invalid(`${what} ${quote(entry)} is no range; want container:host:size`);
    return { containerId, hostId, size };
  });
}

function parseId(what: string, text: string): number {
  if (!/^\d{1,10}$/.test(text) || Number(text) > IDS) throw invalid(`${what} ${quote(text)} is no number of 32 bits`);
  return Number(text);
}

function invalid(why: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `annotation userns-mode: ${why}`);
}
