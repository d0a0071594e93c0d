/**
 * Who may import whom (docs/ARCHITECTURE.md): layers, front doors, gates and cycles, and who may make what a room
 * offers, with the allowed way in each message.
 *
 * Written on oxc-parser rather than dependency-cruiser, which cannot read sources beside TypeScript 7 (docs/adr/0002).
 */
import { readFileSync } from 'node:fs';
import { glob } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';
import { parseSync } from 'oxc-parser';

/** What each module of pkg may import beside base, ports (types) and itself; `t` = types only. */
const MAY: Readonly<Record<string, Readonly<Record<string, 'v' | 't'>>>> = {
  base: {},
  'cri-api': {},
  ports: { base: 't', 'cri-api': 't', oci: 't' },
  oci: {},
  config: {},
  sys: {},
  spec: { 'cri-api': 't', oci: 'v' },
  state: { 'cri-api': 't', oci: 't' },
  image: { 'cri-api': 't', oci: 'v' },
  rootfs: { 'cri-api': 't', oci: 'v', sys: 'v' },
  runtime: { 'cri-api': 't', oci: 'v', sys: 'v' },
  network: { 'cri-api': 't', sys: 'v' },
  stats: { 'cri-api': 't', sys: 'v' },
  stream: { 'cri-api': 't' },
  pod: { 'cri-api': 't', oci: 'v', spec: 'v', state: 'v' },
};
/** Modules without a front door: any file of theirs may be imported. */
const OPEN = new Set(['base', 'oci', 'cri-api', 'ports']);
const PURE = new Set(['spec', 'oci']);
const PURE_NODE = new Set(['node:crypto', 'node:path', 'node:assert', 'node:assert/strict', 'node:buffer']);
/** Things with one gate: who may import them, and what others do instead. */
const GATES: readonly { readonly what: RegExp; readonly only: RegExp; readonly instead: string }[] = [
  {
    what: /^node:child_process$|^execa$|(^|\/)native\//,
    only: /^pkg\/sys\//,
    instead: 'only pkg/sys starts processes and loads the addon: use its spawn and capture',
  },
  { what: /^undici$/, only: /^pkg\/image\//, instead: 'only pkg/image opens outbound connections' },
  { what: /^@grpc\/|^protobufjs/, only: /^cri\//, instead: 'only cri/ knows gRPC' },
  { what: /^node:worker_threads$/, only: /^pkg\/rootfs\//, instead: 'only pkg/rootfs starts worker threads' },
];
/** Where the classes of a room's door are made. Those of pkg/sys are tools, not parts: who may use it makes them. */
const MAKERS = /^cri\/(daemon\.ts|parts\/)/;
const TOOLS = new Set(['sys']);
const TEST_CODE = /^conmon\/test\/|\.test\.ts$|\/(conformance|fake|sim)[^/]*\.ts$/;

interface Import {
  readonly to: string;
  readonly typeOnly: boolean;
}

/** Every complaint about the tree below `root`, a line each; empty if all is well. */
export async function checkLayers(root: string): Promise<string[]> {
  const files: string[] = [];
  for await (const file of glob('{pkg,cri,native,conmon/test}/**/*.ts', { cwd: root }))
    files.push(file.replaceAll('\\', '/'));
  files.sort();
  const graph = new Map(files.map((file) => [file, importsOf(root, file)] as const));
  const complaints: string[] = [];
  for (const [file, imports] of graph) {
    if (TEST_CODE.test(file)) continue;
    for (const each of imports) {
      const complaint = complain(file, each);
      if (complaint !== undefined) complaints.push(`${file}: imports ${each.to}: ${complaint}`);
    }
    complaints.push(...strangersMade(root, file));
  }
  return [...complaints, ...cycles(graph)];
}

function importsOf(root: string, file: string): Import[] {
  const { module } = parseSync(file, readFileSync(join(root, file), 'utf8'));
  const found: Import[] = [];
  for (const each of module.staticImports) {
    found.push({
      to: each.moduleRequest.value,
      typeOnly: each.entries.length > 0 && each.entries.every((entry) => entry.isType),
    });
  }
  for (const each of module.staticExports) {
    const [first] = each.entries;
    if (first?.moduleRequest)
      found.push({ to: first.moduleRequest.value, typeOnly: each.entries.every((entry) => entry.isType) });
  }
  return found.map(({ to, typeOnly }) => ({
    to: to.startsWith('.') ? posix.normalize(posix.join(dirname(file), to)) : to,
    typeOnly,
  }));
}

/** Classes of another room's door that a file makes, though it is none of those that put the daemon together. */
function strangersMade(root: string, file: string): string[] {
  if (MAKERS.test(file)) return [];
  const source = readFileSync(join(root, file), 'utf8');
  const doors = new Map<string, string>();
  for (const { moduleRequest, entries } of parseSync(file, source).module.staticImports) {
    const to = moduleRequest.value;
    const target = to.startsWith('.') ? moduleOf(posix.normalize(posix.join(dirname(file), to))) : undefined;
    if (target === undefined || target === moduleOf(file) || OPEN.has(target) || TOOLS.has(target)) continue;
    for (const { localName } of entries) doors.set(localName.value, target);
  }
  return Array.from(source.matchAll(/\bnew (\w+)\b/g), ([, name = '']) => [name, doors.get(name)] as const)
    .filter(([, target]) => target !== undefined)
    .map(
      ([name, target]) =>
        `${file}: makes ${name} of pkg/${target}: only cri/daemon.ts and cri/parts/ make parts; have it passed in`,
    );
}

function complain(file: string, { to, typeOnly }: Import): string | undefined {
  const gate = GATES.find(({ what, only }) => what.test(to) && !only.test(file) && !typeOnly);
  if (gate !== undefined) return gate.instead;
  const from = moduleOf(file);
  const target = moduleOf(to);
  if (from === undefined) return frontDoor(file, to, target);
  if (to.startsWith('cri/') || to.startsWith('test/') || to.startsWith('bench/'))
    return 'nobody imports cri/: pass what is needed down through an interface';
  if (to.startsWith('node:') && PURE.has(from) && !PURE_NODE.has(to))
    return `pkg/${from} is pure; of Node it may use ${[...PURE_NODE].join(', ')}`;
  if (target === undefined || target === from) return undefined;
  const how = mayImport(from, target);
  const allowed = [
    'base',
    ...Object.entries(MAY[from] ?? {}).map(([name, kind]) => (kind === 't' ? `${name} (types)` : name)),
  ].join(', ');
  if (how === undefined) return `pkg/${from} may not import pkg/${target}; allowed: ${allowed}`;
  if (how === 't' && !typeOnly)
    return (
      `pkg/${from} may import only types of pkg/${target} (import type); a need for a value is a ` +
      'need for the caller to pass something'
    );
  return frontDoor(file, to, target);
}

function frontDoor(file: string, to: string, target: string | undefined): string | undefined {
  if (target === undefined || OPEN.has(target) || to === `pkg/${target}/index.ts` || moduleOf(file) === target)
    return undefined;
  return `from outside, pkg/${target}/index.ts is the only door`;
}

function moduleOf(path: string): string | undefined {
  return /^pkg\/([^/]+)\//.exec(path)?.[1];
}

function mayImport(from: string, target: string): 'v' | 't' | undefined {
  const listed = MAY[from]?.[target];
  if (listed !== undefined) return listed;
  if (target === 'base') return 'v';
  return target === 'ports' ? 't' : undefined;
}

/** Cycles of imports, those of types included (Tarjan's strongly connected components). */
function cycles(graph: ReadonlyMap<string, readonly Import[]>): string[] {
  const index = new Map<string, number>();
  const low = new Map<string, number>();
  const stack: string[] = [];
  const found: string[] = [];
  const visit = (file: string): void => {
    index.set(file, index.size);
    low.set(file, index.get(file) ?? 0);
    stack.push(file);
    for (const { to } of graph.get(file) ?? []) {
      if (!graph.has(to)) continue;
      if (!index.has(to)) {
        visit(to);
        low.set(file, Math.min(low.get(file) ?? 0, low.get(to) ?? 0));
      } else if (stack.includes(to)) low.set(file, Math.min(low.get(file) ?? 0, index.get(to) ?? 0));
    }
    if (low.get(file) !== index.get(file)) return;
    const component = stack.splice(stack.indexOf(file));
    if (component.length > 1)
      found.push(`cycle of imports: ${component.sort().join(' ↔ ')}; move what both need below both`);
  };
  for (const file of graph.keys()) if (!index.has(file)) visit(file);
  return found;
}
