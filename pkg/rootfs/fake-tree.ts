/** For tests: a layer's tree in memory, and what unpacking entries into it gives. */
import { explain, RuntimeError } from '../base/errors.ts';
import { LayerWriter, linkedPath, settleLayer } from './layer-writer.ts';
import { MANIFEST, ManifestWriter, replayManifest } from './manifest.ts';
import { MemoryAccount } from './memory-account.ts';
import type { CopiedFile, NodeKind, NodeMetadata, OpenFile, SettleBounds, StackedTree, WrittenLayer } from './node.ts';
import { tarEntry, tarOf } from './tar-build.ts';
import { TarReader } from './tar.ts';

interface Node {
  kind: NodeKind | 'file';
  text: string;
  metadata: NodeMetadata;
}

/**
 * A directory in memory that keeps the promises of StackedTree: symlinks in parents resolve inside, parents must exist,
 * replacing replaces trees.
 */
export class FakeTree implements StackedTree {
  readonly nodes = new Map<string, Node>();
  readonly times: string[] = [];
  readonly #below: ReadonlyMap<string, CopiedFile>;
  abandoned = 0;

  constructor(below: ReadonlyMap<string, CopiedFile> = new Map()) {
    this.#below = below;
    this.nodes.set('', { kind: 'directory', text: '', metadata: NONE });
  }

  kindOf(path: string): NodeKind {
    const at = this.#find(path);
    const kind = at === undefined ? undefined : this.nodes.get(at)?.kind;
    return kind === undefined ? 'absent' : kind === 'file' ? 'other' : kind;
  }
  linkTarget(path: string): string {
    return this.#node(path).text;
  }
  directory(path: string, metadata: NodeMetadata): void {
    const at = this.#place(path);
    if (this.nodes.get(at)?.kind === 'directory')
      Object.assign(this.nodes.get(at) as Node, { metadata: structuredClone(metadata) });
    else this.#put(at, { kind: 'directory', text: '', metadata });
  }
  symlink(path: string, target: string, metadata: NodeMetadata): void {
    this.#put(this.#place(path), { kind: 'symlink', text: target, metadata });
  }
  special(path: string, kind: string, major: number, minor: number, metadata: NodeMetadata): void {
    const isWhiteout = kind === 'character' && major === 0 && minor === 0;
    this.#put(this.#place(path), {
      kind: isWhiteout ? 'whiteout' : 'other',
      text: `${kind} ${major}:${minor}`,
      metadata,
    });
  }
  hardlink(path: string, target: string, metadata: NodeMetadata | null): void {
    const node = this.#node(target);
    if (metadata !== null && node.kind === 'file') node.metadata = structuredClone(metadata);
    this.#put(this.#place(path), node);
  }
  file(path: string, content: Uint8Array, metadata: NodeMetadata): void {
    this.#put(this.#place(path), { kind: 'file', text: Buffer.from(content).toString('latin1'), metadata });
  }
  begin(path: string): OpenFile {
    const node: Node = { kind: 'file', text: '', metadata: NONE };
    this.#put(this.#place(path), node);
    return {
      write: (bytes, offset) =>
        void (node.text = node.text.padEnd(offset, '\0') + Buffer.from(bytes).toString('latin1')),
      finish: (size, metadata) =>
        void Object.assign(node, { text: node.text.padEnd(size, '\0'), metadata: structuredClone(metadata) }),
      abandon: () => void this.abandoned++,
    };
  }
  setXattr(path: string, name: string, value: Uint8Array): void {
    const node = this.#node(path);
    node.metadata = { ...node.metadata, xattrs: [...node.metadata.xattrs, { name, value }] };
  }
  setTime(path: string, seconds: number, nanos: number): void {
    if (this.kindOf(path) === 'directory') this.times.push(`${path} ${seconds}.${nanos}`);
  }
  sizeBelow(path: string): number | undefined {
    return this.#below.get(path)?.sizeBytes;
  }
  copyUp(path: string, look: () => void): CopiedFile {
    look();
    const copied = this.#below.get(path);
    if (copied === undefined) throw new RuntimeError('NotFound', `no ${path} below`);
    this.#put(this.#place(path), { kind: 'file', text: 'from below', metadata: copied });
    return copied;
  }
  adopt(path: string): NodeMetadata | undefined {
    const metadata = [...this.#below.keys()].some((each) => each.startsWith(`${path}/`)) ? BELOW : undefined;
    if (metadata !== undefined) this.directory(path, metadata);
    return metadata;
  }

  /** `path kind text` of everything, opaque directories marked. */
  list(): string[] {
    return [...this.nodes]
      .filter(([path]) => path !== '')
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([path, { kind, text, metadata }]) => {
        const opaque = metadata.xattrs.some(({ name }) => name === 'trusted.overlay.opaque') ? ' opaque' : '';
        return `${path} ${kind}${opaque}${text === '' ? '' : ` ${text}`}`;
      });
  }
  at(path: string): NodeMetadata {
    return this.#node(path).metadata;
  }

  #node(path: string): Node {
    const at = this.#find(path);
    const node = at === undefined ? undefined : this.nodes.get(at);
    if (node === undefined) throw new RuntimeError('NotFound', `no ${path}`);
    return node;
  }
  #put(at: string, node: Node): void {
    for (const each of this.nodes.keys()) if (each === at || each.startsWith(`${at}/`)) this.nodes.delete(each);
    // Views of attributes do not last.
    this.nodes.set(at, Object.assign(node, { metadata: structuredClone(node.metadata) }));
  }
  #place(path: string): string {
    const at = this.#find(path);
    if (at === undefined) throw new RuntimeError('NotFound', `no parent of ${path}`);
    return at;
  }
  /** The real path; undefined if the parent is not there. */
  #find(path: string, links = 0): string | undefined {
    if (path === '') return '';
    const slash = path.lastIndexOf('/');
    let parent = this.#find(slash < 0 ? '' : path.slice(0, slash), links);
    for (; parent !== undefined && this.nodes.get(parent)?.kind === 'symlink' && links < 40; links++)
      parent = this.#find(linkedPath(parent, this.nodes.get(parent)?.text ?? ''), links);
    if (parent === undefined || this.nodes.get(parent)?.kind !== 'directory') return undefined;
    return parent === '' ? path.slice(slash + 1) : `${parent}/${path.slice(slash + 1)}`;
  }
}

const NONE: NodeMetadata = { mode: 0, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanos: 0, xattrs: [] };
const BELOW: NodeMetadata = { ...NONE, mode: 0o1777, uid: 9 };
const LIMITS = { entriesCount: 1e6, contentBytes: 1e9, recordBytes: 1e6, pathBytes: 4096, sparsePartsCount: 100 };

export interface Outcome {
  readonly tree: FakeTree;
  readonly layer: WrittenLayer;
  readonly manifest: Buffer;
}

export function unpack(
  entries: readonly Buffer[],
  tree = new FakeTree(),
  { chunk = 100_000, memoryBytes = 1 << 20 }: { readonly chunk?: number; readonly memoryBytes?: number } = {},
): Outcome {
  const pieces: Buffer[] = [];
  const manifest = new ManifestWriter((bytes) => void pieces.push(bytes));
  const account = new MemoryAccount(memoryBytes);
  const writer = new LayerWriter(tree, manifest, account);
  const reader = new TarReader(writer, LIMITS);
  const tar = tarOf(...entries);
  try {
    for (let at = 0; at < tar.length; at += chunk) reader.push(tar.subarray(at, at + chunk));
  } catch (error) {
    writer.abandon();
    throw error;
  }
  const layer = writer.finish();
  manifest.flush();
  return { tree, layer, manifest: Buffer.concat(pieces) };
}

export const COPIED: CopiedFile = { ...NONE, mode: 0o755, sizeBytes: 10, crc: 7 };

export function settle(tree: FakeTree, layer: WrittenLayer, bounds: Partial<SettleBounds> = {}): Buffer {
  const pieces: Buffer[] = [];
  const manifest = new ManifestWriter((bytes) => void pieces.push(bytes));
  settleLayer(tree, layer.pending, manifest, {
    copiedBytes: 100,
    account: new MemoryAccount(1 << 20),
    look: () => {},
    ...bounds,
  });
  manifest.flush();
  return Buffer.concat(pieces);
}

export const list = (...entries: readonly Buffer[]): string[] => unpack(entries).tree.list();
export const file = (name: string, content = ''): Buffer => tarEntry({ name }, content);
export const dir = (name: string): Buffer => tarEntry({ name, type: '5' });
export const symlink = (name: string, link: string): Buffer => tarEntry({ name, type: '2', link });
export const hardlink = (name: string, link: string): Buffer => tarEntry({ name, type: '1', link });

export function refusal(...entries: readonly Buffer[]): string {
  return refusalOf(() => unpack(entries));
}

export function refusalOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    return `${error.code}: ${explain(error)}`;
  }
  return 'accepted';
}

/** A manifest as it was written. @throws RuntimeError if it is damaged. */
export function parseManifest(bytes: Buffer): ReturnType<typeof replayManifest> {
  const texts = bytes.toString('latin1').split('\0');
  if (texts.pop() !== '') throw new RuntimeError('DataLoss', `${MANIFEST} is damaged`);
  return replayManifest(texts);
}
