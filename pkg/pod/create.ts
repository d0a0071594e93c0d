/**
 * How a container is put together: image, root filesystem, identity, mounts, spec, bundle, monitor.
 *
 * Runs under the container's flight, after its record says `creating`; whatever it leaves when it fails is found by the
 * container's id and destroyed. It saves nothing itself.
 */
import { dirname, join } from 'node:path';
import { RuntimeError, wrap } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { ensureDirBelow } from '../base/files.ts';
import { type ContainerId, type ProcessRef, quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { together } from '../base/sync.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import {
  annotations,
  applyCdi,
  buildContainerSpec,
  cgroupsPathFor,
  checkWorkingDir,
  effectiveStopSignal,
  hardware,
  identityOf,
  stringifySpec,
  withHooks,
  workingDirOf,
} from '../spec/index.ts';
import type { Books } from './books.ts';
import { type Gathered, gather, type Subject } from './gather.ts';
import { allowedFor, handlerOf, handlerSettings } from './handlers.ts';
import { directoryMode, ownerOnHost } from './id-maps.ts';
import { linkLog } from './link-logs.ts';
import { pidNamespace } from './pid-namespace.ts';
import { podFiles } from './pod-files.ts';
import { containerName } from './names.ts';
import { checkIdentityFiles, landTargets } from './places.ts';
import { anonymousVolumes, imageVolumesOf, requireProfile } from './sources.ts';
import { specInput } from './spec-input.ts';
import type { Image } from '../ports/image.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { IdMap, InsideRoot } from '../ports/rootfs.ts';
import type { Monitor } from '../ports/runtime.ts';
import type { Identity, ResolvedUser } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import { resourcesOf } from './wishes.ts';
import type { World } from './world.ts';

/** A container whose init process exists and waits for start. */
export interface Launched {
  /** The draft with everything that was resolved on the way. */
  readonly record: ContainerRecord;
  readonly process: ProcessRef;
  readonly monitor: ProcessRef | null;
}

/**
 * The first record of a container: what is known before anything has been done.
 * @throws NotFound if the image is not here.
 */
export function draftContainer(
  world: World,
  id: ContainerId,
  sandbox: SandboxRecord,
  config: NamedContainerConfig,
): ContainerRecord {
  const image = findImage(world, config);
  refuseRdt(sandbox, config);
  const called = world.images.called(image.id, config.image.userSpecifiedImage || config.image.image);
  const { facts } = world;
  return {
    kind: 'container',
    id,
    sandboxId: sandbox.id,
    config,
    runtimeHandler: sandbox.runtimeHandler,
    runtime: sandbox.runtime,
    createdAt: world.clock(),
    state: { phase: 'creating' },
    imageId: image.id,
    layers: image.layers.map((layer) => layer.chainId),
    imageRef: called.ref,
    imageName: config.image.userSpecifiedImage || called.name,
    logPath: logPathOf(sandbox, config, id),
    bundle: world.workspace.bundle(id),
    cgroupsPath: cgroupsPathFor({ manager: facts.cgroupManager, parent: sandbox.cgroupParent, id }),
    stopSignal: effectiveStopSignal(config.stopSignal, image.config.stopSignal),
    user: { uid: 0n, gid: 0n, supplementalGroups: [] },
    resources: resourcesOf(world.settings, sandbox, config),
    imageVolumes: imageVolumesOf(world, config),
    stopping: null,
    monitor: null,
    monitorLost: null,
  };
}

/**
 * Does everything that lies between a draft and a process that waits for start. The monitor starts beside the rest, and
 * waits for it.
 */
export async function launchContainer(
  op: Op,
  world: World,
  books: Books,
  draft: ContainerRecord,
  sandbox: SandboxRecord,
): Promise<Launched> {
  const image = world.images.find(draft.imageId);
  if (image === undefined) throw absentImage(draft.imageName);
  const runtime = world.runtimeOf(sandbox);
  const pid = pidNamespace(world, books, draft, sandbox, await runtime.features(op));
  try {
    return await launch(op, world, {
      draft,
      sandbox,
      image,
      runtime,
      handler: handlerSettings(world.settings, handlerOf(sandbox)),
      pid: pid.of,
    });
  } finally {
    pid[Symbol.dispose]();
  }
}

async function launch(op: Op, world: World, subject: Subject): Promise<Launched> {
  const { draft } = subject;
  const gathered = gather(op, world, subject);
  const bundled = gathered.then((found) => writeBundle(op, world, subject, found));
  const linked = gathered.then(({ inside, wishes }) =>
    together([linkMtab(inside), linkLog(draft, subject.sandbox, wishes.linkLogs)]),
  );
  const [, spec, { process, monitor }] = await together([
    gathered,
    bundled,
    runMonitor(op, world, subject, bundled),
    linked,
  ]);
  await failpoint('container.create.after');
  const { uid, gid, additionalGids } = spec.process.user;
  return {
    record: {
      ...draft,
      user: { uid: BigInt(uid), gid: BigInt(gid), supplementalGroups: (additionalGids ?? []).map(BigInt) },
    },
    process,
    monitor,
  };
}

/** Writes config.json and the files that are mounted into the container; the spec. */
async function writeBundle(op: Op, world: World, subject: Subject, found: Gathered): Promise<RuntimeSpec> {
  const { draft, sandbox, image } = subject;
  const { inside } = found;
  op.stage('prepare rootfs');
  await inside.checkKernelPlaces();
  await checkIdentityFiles(op, world, inside, draft.config, found.mounts);
  const identity = await findIdentity(world, inside, draft, image, sandbox.idMap);
  const { user } = identity;
  await ensureWorkingDir(inside, draft.config, image, { user, idMap: sandbox.idMap });
  const [files, anonymous] = await together([
    podFiles(op, world, draft, sandbox, { identity, fips: found.wishes.fips }),
    anonymousVolumes(op, world, draft, image, { inside, idMap: sandbox.idMap, user, label: found.label }),
  ]);
  const prepared = { user, files, anonymousVolumes: anonymous };
  const spec = buildContainerSpec(await specInput(op, world, subject, { ...found, ...prepared }));
  await requireProfile(op, world, spec);
  const extended = await landTargets(extend(spec, world, subject, found), inside);
  listenForCalls(op, world, draft.id, extended);
  await world.workspace.writeBundle(draft.id, stringifySpec(extended));
  return extended;
}

/** Before the runtime asks: a container whose calls nobody answers would stand still. */
function listenForCalls(op: Op, world: World, id: ContainerId, { linux: { seccomp } }: RuntimeSpec): void {
  if (seccomp?.listenerPath !== world.blockedCalls.pathOf(id)) return;
  world.blockedCalls.listen(id);
  op.log.info('system calls that the seccomp profile of the container blocks are told of, but for its default', {
    container: id,
    default: seccomp.defaultAction,
  });
}

async function runMonitor(
  op: Op,
  world: World,
  { draft, sandbox, runtime }: Subject,
  ready: Promise<unknown>,
): ReturnType<Monitor['create']> {
  const { id, config, logPath, bundle } = draft;
  await together([
    ensureDirBelow(sandbox.logDirectory, dirname(config.logPath), 0o755),
    world.workspace.ensureBundle(id, directoryMode(sandbox.idMap)),
  ]);
  return await world.monitor.create(op, {
    id,
    runtime,
    name: containerName(config, sandbox.config),
    bundle,
    logPath,
    tty: config.tty,
    stdin: config.stdin,
    stdinOnce: config.stdinOnce,
    ready,
  });
}

/** The spec with its CDI devices, then with the hooks that want to see such a container. */
function extend(spec: RuntimeSpec, world: World, { draft, sandbox }: Subject, { cdi, hooks }: Gathered): RuntimeSpec {
  const withDevices = cdi === undefined ? spec : applyCdi(spec, cdi.edits, cdi.found);
  if (hooks.length === 0) return withDevices;
  const { config } = draft;
  const allowed = allowedFor(world.settings, sandbox.config, handlerOf(sandbox));
  return withHooks(withDevices, hooks, {
    annotations: annotations.seenByHooks(sandbox.config.annotations, config.annotations, config.metadata.name, allowed),
    command: spec.process.args[0] ?? '',
    hasBindMounts: config.mounts.length > 0,
  });
}

function findImage(world: World, config: NamedContainerConfig): Image {
  const wanted = config.image.image;
  const image = world.images.find(wanted);
  if (image === undefined) throw absentImage(wanted);
  if (image.artifact !== undefined)
    throw new RuntimeError(
      'FailedPrecondition',
      `${quote(wanted)} is an OCI artifact (${quote(image.artifact.type, 200)}), and containers are made from ` +
        'images; mount it as an image volume',
    );
  return image;
}

/** As a CRI-O without RDT: who asks for cache of its own must not run as if it had it. */
function refuseRdt({ config: pod }: SandboxRecord, { metadata, annotations }: NamedContainerConfig): void {
  const name = hardware.classOf('rdt', metadata.name, annotations, pod.annotations);
  if (name !== '')
    throw new RuntimeError(
      'FailedPrecondition',
      `RDT disabled, refusing to set RDT class of container ${quote(metadata.name)} to ${quote(name)}; there are no ` +
        'classes of cache and memory bandwidth here: remove the annotation',
    );
}

function absentImage(name: string): RuntimeError {
  return new RuntimeError('NotFound', `image ${quote(name)} is not on this node; pull it first`);
}

/** The log's absolute path. The door has checked that log_path is relative and plain. */
function logPathOf(sandbox: SandboxRecord, config: NamedContainerConfig, id: ContainerId): string {
  return join(sandbox.logDirectory, config.logPath === '' ? `${id}.log` : config.logPath);
}

async function findIdentity(
  world: World,
  inside: InsideRoot,
  draft: ContainerRecord,
  image: Image,
  idMap: IdMap | null,
): Promise<Identity> {
  const [passwd, group] = await together([
    inside.readFile('/etc/passwd', limits.passwdBytes),
    inside.readFile('/etc/group', limits.passwdBytes),
  ]);
  return identityOf({
    config: draft.config,
    image: image.config,
    defaults: world.settings.spec,
    idMap,
    passwd,
    group,
  });
}

/** The working directory, made inside the root. */
async function ensureWorkingDir(
  inside: InsideRoot,
  config: NamedContainerConfig,
  image: Image,
  { user, idMap }: { readonly user: ResolvedUser; readonly idMap: IdMap | null },
): Promise<void> {
  const cwd = workingDirOf(config, image.config);
  if (cwd === '/') return;
  const made = await inside.ensureDir(cwd, ownerOnHost(idMap, user), 0o755).catch((cause: unknown) => {
    const place = `${quote(cwd)} cannot be the working directory`;
    throw wrap(`${place}; set another working_dir, or use an image with another WORKDIR`, cause);
  });
  // A symlink of the image may hide such a place (CVE-2024-21626).
  checkWorkingDir(made);
}

/** /etc/mtab; beside the runtime's work, since the first new name in /etc costs overlayfs a copy of the directory. */
async function linkMtab(inside: InsideRoot): Promise<void> {
  await inside.symlinkIfAbsent('/etc/mtab', '/proc/mounts').catch(() => {
    // An image without /etc, or with something else there: programs that want mtab find /proc/mounts themselves.
  });
}
