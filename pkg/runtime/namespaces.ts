/**
 * Namespaces pinned by bind mounts under `<dir>/<sandbox id>/<kind>`: made on a thread of ours, or, for a user
 * namespace, which only a process can enter, by the program pinns in one short-lived process per pod. The directory is
 * all there is to know: whatever is found in it by id can be destroyed, after any crash.
 */
import { rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, RuntimeError, type ErrorCode } from '../base/errors.ts';
import { ensureDirInMemory, listInMemory, removeInMemory } from '../base/files.ts';
import { parseSandboxId, type SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { withTimeout, type Op } from '../base/op.ts';
import { capture, fileSystems, mounts, namespaces } from '../sys/index.ts';
import type { NamespaceKind, Namespaces, PinRequest } from '../ports/runtime.ts';

const KINDS: readonly NamespaceKind[] = ['net', 'ipc', 'uts', 'user'];
/** statfs f_type of a pinned namespace. */
const NSFS_MAGIC = 0x6e736673;

/** What PinnedNamespaces is made with. */
export interface PinnedNamespacesOptions {
  /** Directory of our own; made on demand, 0700. */
  readonly dir: string;
  /** Absolute path of the program. */
  readonly pinnsPath: string;
}

/** Namespaces that bind mounts keep, by sandbox; see Namespaces for what each method promises. */
export class PinnedNamespaces implements Namespaces {
  readonly #options: PinnedNamespacesOptions;

  constructor(options: PinnedNamespacesOptions) {
    this.#options = options;
  }

  pathOf(id: SandboxId, kind: NamespaceKind): string {
    return join(this.#options.dir, id, kind);
  }

  async pin(op: Op, id: SandboxId, request: PinRequest): Promise<ReadonlyMap<NamespaceKind, string>> {
    ensureDirInMemory(join(this.#options.dir, id));
    const paths = new Map(request.kinds.map((kind) => [kind, this.pathOf(id, kind)] as const));
    if (paths.size === 0) return paths;
    op.stage('pin namespaces');
    const { hostname, sysctls } = request;
    if (request.idMap === null) await namespaces.pin({ paths, sysctls, hostname: paths.has('uts') ? hostname : '' });
    else await this.#runPinns(op, pinArguments(paths, request));
    return paths;
  }

  async destroy(op: Op, id: SandboxId): Promise<void> {
    const directory = join(this.#options.dir, id);
    op.stage('unpin namespaces');
    await Promise.all(listInMemory(directory).map((name) => unpin(join(directory, name))));
    removeDir(directory);
  }

  async pinned(id: SandboxId): Promise<ReadonlyMap<NamespaceKind, string>> {
    const directory = join(this.#options.dir, id);
    const found = new Map<NamespaceKind, string>();
    const names = new Set(listInMemory(directory));
    for (const kind of KINDS) {
      const path = join(directory, kind);
      if (names.has(kind) && (await fileSystems.stat(path)).type === NSFS_MAGIC) found.set(kind, path);
    }
    return found;
  }

  async #runPinns(op: Op, words: readonly string[]): Promise<void> {
    const { exitCode, stderr } = await capture(withTimeout(op, limits.runtimeCommandMs), {
      argv: [this.#options.pinnsPath, ...words],
      env: [],
      stdoutMax: 0,
      stderrMax: limits.commandErrorBytes,
      what: 'pinns',
    });
    if (exitCode !== 0) throw pinError(exitCode, stderr.toString());
  }

  async list(): Promise<readonly SandboxId[]> {
    return listInMemory(this.#options.dir)
      .filter((name) => /^[0-9a-f]{64}$/.test(name))
      .map(parseSandboxId);
  }
}

/**
 * PURE. The words for pinns: a key and its value are two words, so no value can become another sysctl (CVE-2022-0811).
 */
export function pinArguments(paths: ReadonlyMap<NamespaceKind, string>, request: PinRequest): string[] {
  const map = (flag: string, list: NonNullable<PinRequest['idMap']>['uids']): string[] =>
    list.flatMap((each) => [flag, String(each.containerId), String(each.hostId), String(each.size)]);
  return [
    ...Array.from(paths).flatMap(([kind, path]) => [`--${kind}`, path]),
    ...(paths.has('net') ? ['--loopback'] : []),
    ...(request.hostname === '' || !paths.has('uts') ? [] : ['--hostname', request.hostname]),
    ...(request.idMap === null
      ? []
      : [...map('--uid-map', request.idMap.uids), ...map('--gid-map', request.idMap.gids)]),
    ...Array.from(request.sysctls).flatMap(([key, value]) => ['--sysctl', key, value]),
  ];
}

/** PURE. What pinns said, as an error of ours: 2 is our own command line, which is the request's sysctls and maps. */
export function pinError(exitCode: number, stderr: string): RuntimeError {
  const said = stderr.trim().replace(/^pinns: /, '') || `exit code ${exitCode}`;
  const code: ErrorCode =
    exitCode === 2 || said.startsWith('sysctl ')
      ? 'InvalidArgument'
      : /No space left|Too many|Cannot allocate/.test(said)
        ? 'ResourceExhausted'
        : 'Internal';
  return new RuntimeError(code, `cannot make the pod's namespaces: ${said}`);
}

async function unpin(path: string): Promise<void> {
  await mounts.unmount(path);
  removeInMemory(path);
}

function removeDir(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    contentIfAbsent(error);
  }
}

function contentIfAbsent(error: unknown): void {
  if (errnoOf(error) !== 'ENOENT') throw error;
}
