/**
 * The directory of each object, beside its record: files of a sandbox, bundle of a container.
 *
 * Every path here is a function of an id, so that `destroy(id)` finds everything after any crash. Removal is not here:
 * it goes through Host.removeTree, which never crosses a mount and never leaves our own directories.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { chown, copyFile, rename, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureDirInMemory, listInMemory, replaceFile } from '../base/files.ts';
import { copyFollowed, hasLinks } from './copy.ts';
import { type ContainerId, parseContainerId, parseSandboxId, type SandboxId } from '../base/ids.ts';

/** Host ids. */
export interface FileOwner {
  readonly uid: number;
  readonly gid: number;
}
const ROOT: FileOwner = { uid: 0, gid: 0 };

async function writeOwned(path: string, content: string | Uint8Array, owner: FileOwner): Promise<void> {
  await replaceFile(path, content, 'memory', 0o644);
  if (owner.uid !== 0 || owner.gid !== 0) await chown(path, owner.uid, owner.gid);
}

/** Directories of sandboxes and containers under the run root (tmpfs). */
export class Workspace {
  readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  /**
   * True after a boot, or after the run root was wiped, until `settle`: of what ran before nothing may be written here.
   */
  isNew(): boolean {
    return !existsSync(this.#swept);
  }

  /** Nothing runs that is not written here, and from now on nothing will. On a full disk the next start looks again. */
  settle(): void {
    try {
      writeFileSync(this.#swept, '', { mode: 0o600 });
    } catch {
      // As if it had not been said.
    }
  }

  get #swept(): string {
    return join(this.root, 'swept');
  }

  sandboxDir(id: SandboxId): string {
    return join(this.root, 'sandboxes', id);
  }

  /**
   * Bundle of a container and directory of its monitor (and of a sandbox's infra container, which has the sandbox's
   * id).
   */
  bundle(id: ContainerId): string {
    return join(this.root, 'containers', id);
  }

  /** Where the sandbox's prepared files are; nothing is made yet. */
  sandboxFiles(id: SandboxId): {
    readonly resolvConf: string;
    readonly hostname: string;
    readonly hosts: string;
    readonly shm: string;
  } {
    const directory = this.sandboxDir(id);
    return {
      resolvConf: join(directory, 'resolv.conf'),
      hostname: join(directory, 'hostname'),
      hosts: join(directory, 'hosts'),
      shm: join(directory, 'shm'),
    };
  }

  /**
   * Writes one of the sandbox's files, world-readable, since containers of any user read it. `owner` is a host id: the
   * pod's own root in a user namespace.
   */
  async writeSandboxFile(path: string, content: string, owner: FileOwner = ROOT): Promise<void> {
    await writeOwned(path, content, owner);
  }

  async ensureSandboxDir(id: SandboxId, mode = 0o700): Promise<void> {
    ensureDirInMemory(this.sandboxDir(id), mode);
  }

  async ensureBundle(id: ContainerId, mode = 0o700): Promise<void> {
    ensureDirInMemory(this.bundle(id), mode);
  }

  /** Writes the OCI spec of a container; the runtime reads it as `config.json`. */
  async writeBundle(id: ContainerId, spec: string | Uint8Array): Promise<string> {
    const bundle = this.bundle(id);
    ensureDirInMemory(bundle);
    await replaceFile(join(bundle, 'config.json'), spec, 'memory');
    return bundle;
  }

  async readBundle(id: ContainerId): Promise<string> {
    return readFileSync(join(this.bundle(id), 'config.json'), 'utf8');
  }

  /** Writes a file that is mounted into one container (a passwd with one more line, …) and returns its path. */
  async writeContainerFile(
    id: ContainerId,
    name: 'passwd' | 'group' | 'containerenv' | 'fips',
    content: string | Uint8Array,
    owner: FileOwner = ROOT,
  ): Promise<string> {
    const bundle = this.bundle(id);
    ensureDirInMemory(bundle);
    const path = join(bundle, name);
    await writeOwned(path, content, owner);
    return path;
  }

  /**
   * A copy of a directory of the host beside the container's files, in which no link is left; its path. undefined if
   * there is no link in it anyway. @throws as copyFollowed.
   */
  async copyWithoutLinks(id: ContainerId, name: string, source: string, owner: FileOwner): Promise<string | undefined> {
    if (!(await hasLinks(source))) return undefined;
    const path = join(this.bundle(id), name);
    await copyFollowed(source, path, owner);
    return path;
  }

  /**
   * The root of every infra container: our pause, and the directories that runtimes want to mount on. Returns its path.
   * Written only when the program is another one: a daemon must start on a full disk.
   */
  async ensurePauseRoot(pauseBinary: string): Promise<string> {
    const root = join(this.root, 'pause');
    for (const directory of ['', 'dev', 'proc', 'sys']) ensureDirInMemory(join(root, directory), 0o755);
    const [wanted, there] = [await stat(pauseBinary), await stat(join(root, 'pause')).catch(() => undefined)];
    if (there?.size === wanted.size && there.mtime.getTime() === wanted.mtime.getTime()) return root;
    const temporary = join(root, `pause.tmp-${process.pid}`);
    await copyFile(pauseBinary, temporary);
    await utimes(temporary, wanted.atime, wanted.mtime);
    await rename(temporary, join(root, 'pause'));
    return root;
  }

  /** Ids that have a directory, with or without a record, for the orphan sweep. */
  async listSandboxes(): Promise<readonly SandboxId[]> {
    return listInMemory(join(this.root, 'sandboxes'))
      .filter((name) => /^[0-9a-f]{64}$/.test(name))
      .map(parseSandboxId);
  }

  async listContainers(): Promise<readonly ContainerId[]> {
    return listInMemory(join(this.root, 'containers'))
      .filter((name) => /^[0-9a-f]{64}$/.test(name))
      .map(parseContainerId);
  }
}
