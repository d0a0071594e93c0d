/**
 * Sandboxes: run, stop, remove. See docs/ARCHITECTURE.md, "The path of a pod", for the hops.
 */
import type { SandboxConfig } from '../ports/requests.ts';
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { explain, RuntimeError, wrap } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { ensureDir } from '../base/files.ts';
import { Flights } from '../base/flights.ts';
import { type ContainerId, newSandboxId, quote, type SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { detached, type Op, withLog } from '../base/op.ts';
import { KeyedMutex, together } from '../base/sync.ts';
import { Turns } from '../base/turns.ts';
import { buildPauseSpec, cgroupsPathFor, podSysctls, stringifySpec } from '../spec/index.ts';
import { nextSandbox } from '../state/index.ts';
import { type Books, isVisible, sandboxKey, saveOrAdopt } from './books.ts';
import { destroySandbox, forgetSandbox, releaseSandbox, type SandboxRemains } from './destroy.ts';
import {
  handlerOf,
  handlerSettings,
  podAnnotations,
  shmBytesOf,
  specDefaults,
  tellForbidden,
  usernsModeOf,
} from './handlers.ts';
import { directoryMode, ownerOnHost } from './id-maps.ts';
import { sandboxLabels } from './labels.ts';
import { podContainerName, podName } from './names.ts';
import { podCgroupFor } from './pod-cgroup.ts';
import { renderResolvConf } from './pod-files.ts';
import { makePodCgroup, ownCgroupOf, updatePod } from './pod-limits.ts';
import { pinnedNamespaces, planSandbox, requireOwnPids, type SandboxPlan } from './sandbox-plan.ts';
import { localhostSeccomp, requireProfile } from './sources.ts';
import { watchInfra } from './infra.ts';
import type { Surroundings } from './life-core.ts';
import { annotatedIdMap } from './userns.ts';
import { same } from './same.ts';
import type { OciRuntime } from '../ports/runtime.ts';
import type { PodResources } from '../ports/spec.ts';
import type { SandboxEvent, SandboxRecord } from '../ports/state.ts';
import type { Containers, Pods } from '../ports/pods.ts';
import type { MadeBy, World } from './world.ts';

/** Containers, and what a pod has to know of those that come and go. */
export interface PodContainers extends Containers {
  /** Gives up what is being made in the pod; resolves when nothing is any more. */
  giveUpMaking(pod: SandboxId): Promise<void>;
  /** Resolves when its removed containers hold nothing any more. */
  left(op: Op, pod: SandboxId): Promise<void>;
}

/** Sandboxes from RunPodSandbox to the last trace; see Pods for what each method promises. */
export class SandboxKeeper implements Pods {
  readonly #around: Surroundings;
  readonly #world: World;
  readonly #books: Books;
  readonly #containers: PodContainers;
  readonly #runs = new Flights<string, SandboxId>('goes on', limits.podRunMs);
  readonly #ends = new Flights<string, void>('goes on', limits.podStopMs);
  /** Changes of records that are there: a pod that stops gets no cgroup again from an update under way. */
  readonly #changes = new KeyedMutex<SandboxId>();
  /** Of those whose containers are being ended. */
  readonly #stops = new Turns(limits.podStopsCount, limits.podStopTurnMs, 'wait for a turn to stop');
  /** Pods that take ids of the node do so one after another. */
  readonly #choices = new KeyedMutex<SandboxId | 'ids'>();

  constructor(around: Surroundings, containers: PodContainers) {
    this.#around = around;
    this.#world = around.world;
    this.#books = around.books;
    this.#containers = containers;
  }

  /** Goes on with what a daemon before this one did. Call once, after recovery has taken the records in. */
  resume(): void {
    for (const record of this.#books.sandboxes()) {
      if (record.state.phase === 'ready') watchInfra(this.#around, record);
      // One that lost a part of itself is the kubelet's to stop, with the grace that its containers have.
      if (isHalfGone(record) && record.lost === '') this.#cleanUpLater(record.id);
      if (record.state.phase === 'removing') this.#cleanUpLater(record.id);
    }
  }

  async run(op: Op, config: SandboxConfig, handler: string): Promise<SandboxId> {
    const key = sandboxKey(config.metadata);
    const id = await this.#runs.run(op, key, (own) => this.#runOrAdopt(own, key, config, handler));
    const record = this.#books.sandbox(id);
    // The flight may have been someone else's, with the same name and another config.
    if (record !== undefined && !(same(record.config, config) && record.runtimeHandler === handler))
      throw taken(record);
    return id;
  }

  async stop(op: Op, id: SandboxId): Promise<void> {
    await this.#ends.run(op, `stop ${id}`, (own) => this.#orLater(id, this.#stop(own, id)));
    // Nobody wants it any more, or it never was a pod: it is given back as a whole.
    if (this.#books.sandbox(id)?.state.phase === 'removing') await this.remove(op, id);
  }

  async remove(op: Op, id: SandboxId): Promise<void> {
    await this.#ends.run(op, `remove ${id}`, (own) => this.#orLater(id, this.#remove(own, id)));
  }

  find(idOrPrefix: string): SandboxRecord | undefined {
    const record = this.#books.findSandbox(idOrPrefix);
    return record !== undefined && isVisible(record) ? record : undefined;
  }

  get(idOrPrefix: string): SandboxRecord {
    const record = this.find(idOrPrefix);
    if (record === undefined) throw new RuntimeError('NotFound', `no pod sandbox has the id ${quote(idOrPrefix)}`);
    return record;
  }

  list(): readonly SandboxRecord[] {
    return [...this.#books.sandboxes()].filter(isVisible);
  }

  async updateResources(op: Op, id: SandboxId, update: PodResources): Promise<void> {
    await this.#changes.run(id, async () => {
      const after = await updatePod(op, this.#world, this.get(id), update);
      await this.#books.save({ ...this.get(id), ...after });
    });
  }

  /** The finished twin of the request, or a new sandbox. */
  async #runOrAdopt(op: Op, key: string, config: SandboxConfig, handler: string): Promise<SandboxId> {
    const twin = this.#books.byKey(key);
    if (twin !== undefined) {
      const record = this.#books.sandbox(twin as SandboxId);
      if (record?.state.phase === 'ready') return record.id;
      // A first attempt failed and so did its clean-up: try that again instead of telling the client about it.
      if (record?.state.phase === 'removing') await this.remove(op, record.id);
      else if (record !== undefined) throw taken(record);
    }
    return await this.#make(op, config, handler);
  }

  async #make(op: Op, config: SandboxConfig, handler: string): Promise<SandboxId> {
    const runtime = this.#world.runtimeFor(handler);
    const features = await runtime.features(op);
    const made = madeBy(handler, runtime);
    tellForbidden(op, this.#world.settings, config, handlerOf(made));
    const mode = usernsModeOf(this.#world.settings, config, handlerOf(made));
    requireOwnPids(runtime.handler.name, features, config.linux?.securityContext?.namespaceOptions?.pid);
    const id = newSandboxId();
    const own = withLog(op, { sandbox: id });
    // Until it is on record, nobody else may choose ids.
    const { plan, record } = await this.#choices.run(mode === undefined ? id : 'ids', async () => {
      const idMap = mode === undefined ? null : await annotatedIdMap(this.#world, this.#books, mode, config);
      const planned = planSandbox(config, features, idMap);
      if (planned.idMap !== null) await this.#requireUserNamespaces(op, runtime);
      const draft = this.#draft(id, config, made, planned);
      own.stage('save record');
      await this.#books.save(draft);
      return { plan: planned, record: draft };
    });
    try {
      await failpoint('sandbox.record.after');
      await this.#build(own, record, plan, runtime);
    } catch (cause) {
      await this.#undo(own, record, cause);
      throw wrap(`run pod sandbox ${podName(config)}`, cause);
    }
    return id;
  }

  /** Gives back what a failed attempt has made; what of it cannot be is seen from now on, and tried again. */
  async #undo(op: Op, record: SandboxRecord, cause: unknown): Promise<void> {
    try {
      // Not under the bound of the attempt, which may be why it failed.
      await this.#destroy(detached(op, limits.podStopMs), record);
    } catch (failure) {
      op.log.warn('a failed sandbox could not be cleaned up, will retry', {
        sandbox: record.id,
        cause: explain(failure),
      });
      await keepForCleanUp(op, this.#books, record, `it could not be made: ${explain(cause)}`, failure);
      this.#cleanUpLater(record.id);
    }
  }

  /** What `work` gives; if it leaves the sandbox half gone, the background does the rest, whoever asks for it. */
  async #orLater(id: SandboxId, work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (cause) {
      this.#cleanUpLater(id);
      throw cause;
    }
  }

  #cleanUpLater(id: SandboxId): void {
    const isDue = (): boolean => isHalfGone(this.#books.sandbox(id));
    if (!isDue()) return;
    this.#around.cleanUps.later(id, {
      what: 'pod sandbox',
      ids: { sandbox: id },
      isDue,
      run: (op) => this.stop(op, id),
    });
  }

  *#labels(): Iterable<SandboxRecord['selinux']> {
    for (const record of this.#books.sandboxes()) yield record.selinux;
  }

  /** @throws FailedPrecondition with what is missing, before anything of the pod exists. */
  async #requireUserNamespaces(op: Op, runtime: OciRuntime): Promise<void> {
    const { kind, version, userNamespaces, idmappedMounts } = await runtime.features(op);
    const why =
      userNamespaces && idmappedMounts
        ? this.#world.whyNoUserNamespaces
        : `${kind} ${version} has no idmapped mounts; use runc 1.2 or crun 1.9, or a handler that has`;
    if (why !== undefined)
      throw new RuntimeError(
        'FailedPrecondition',
        `the pod wants a user namespace, but with runtime handler ${runtime.handler.name} it cannot ` +
          `have one here: ${why}`,
      );
  }

  #draft(id: SandboxId, config: SandboxConfig, made: MadeBy, plan: SandboxPlan): SandboxRecord {
    const { workspace, settings, facts } = this.#world;
    const files = workspace.sandboxFiles(id);
    const cgroup = podCgroupFor(facts.cgroupManager, id, config.linux?.cgroupParent ?? '');
    return {
      kind: 'sandbox',
      id,
      config,
      ...made,
      createdAt: this.#world.clock(),
      state: { phase: 'creating' },
      ips: [],
      namespaces: {},
      cgroupParent: cgroup.parent,
      logDirectory: config.logDirectory === '' ? join(settings.logDir, id) : config.logDirectory,
      files: { ...files, shm: plan.ipc === 'host' ? '/dev/shm' : files.shm, hosts: files.hosts },
      infra: plan.pid === 'pod' || !settings.dropInfra ? { id: id as unknown as ContainerId, process: null } : null,
      lost: '',
      idMap: plan.idMap,
      selinux: sandboxLabels(settings, plan, config.linux?.securityContext?.selinuxOptions, this.#labels(), (below) =>
        randomInt(below),
      ),
      overhead: config.linux?.overhead,
      resources: config.linux?.resources,
    };
  }

  /** Everything of a sandbox, what does not depend on another side by side; ends with the READY record. */
  async #build(op: Op, draft: SandboxRecord, plan: SandboxPlan, runtime: OciRuntime): Promise<void> {
    op.stage('namespaces and files');
    const pinning = this.#pin(op, draft, plan);
    const prepared = together([pinning, this.#prepareFiles(op, draft, plan), makePodCgroup(op, this.#world, draft)]);
    const [namespaces, ips, infra] = await together([
      pinning,
      this.#joinNetwork(op, draft, plan, pinning),
      prepared.then(([pinned]) => this.#startInfra(op, { ...draft, namespaces: pinned }, runtime)),
    ]);
    op.stage('save record');
    const ready = { ...draft, namespaces, ips, infra, state: nextSandbox(draft.state, 'ran') };
    await this.#books.save(ready);
    watchInfra(this.#around, ready);
  }

  async #pin(op: Op, draft: SandboxRecord, plan: SandboxPlan): Promise<SandboxRecord['namespaces']> {
    const { config } = draft;
    const { set: sysctls, skipped } = podSysctls(config, plan, this.#world.settings.spec, plan.idMap);
    for (const why of skipped) op.log.warn('a sysctl of the pod is not set, ignoring', { why });
    const namespaces = await this.#world.namespaces.pin(op, draft.id, {
      kinds: plan.kinds,
      sysctls,
      hostname: config.hostname,
      idMap: plan.idMap,
    });
    await failpoint('sandbox.pin.after');
    return Object.fromEntries(namespaces);
  }

  async #prepareFiles(op: Op, draft: SandboxRecord, plan: SandboxPlan): Promise<void> {
    const { workspace, host, settings } = this.#world;
    const { files, config } = draft;
    await workspace.ensureSandboxDir(draft.id, directoryMode(plan.idMap));
    const owner = ownerOnHost(plan.idMap, { uid: 0, gid: 0 });
    const hostname = plan.network === 'host' ? host.hostname() : config.hostname;
    const resolvConf = async (): Promise<string> => renderResolvConf(config.dnsConfig) ?? (await host.resolvConf());
    await together([
      plan.ipc === 'host'
        ? Promise.resolve()
        : host.mountShm(op, files.shm, shmBytesOf(settings, config, handlerOf(draft)), owner, draft.selinux.mountLabel),
      resolvConf().then((text) => workspace.writeSandboxFile(files.resolvConf, text, owner)),
      ensureDir(draft.logDirectory, 0o755),
      workspace.writeSandboxFile(files.hostname, hostname === '' ? '' : `${hostname}\n`, owner),
    ]);
  }

  async #joinNetwork(
    op: Op,
    record: SandboxRecord,
    plan: SandboxPlan,
    pinned: Promise<unknown>,
  ): Promise<readonly string[]> {
    const { metadata, dnsConfig, annotations } = record.config;
    if (plan.network === 'host') return [];
    op.stage('cni add');
    await failpoint('cni.add.before');
    const network = await this.#world.network.add(op, {
      id: record.id,
      name: metadata.name,
      namespace: metadata.namespace,
      uid: metadata.uid,
      netns: this.#world.namespaces.pathOf(record.id, 'net'),
      pinned,
      portMappings: this.#world.settings.hostPorts === 'network' ? plan.portMappings : [],
      annotations,
      cgroupPath: record.cgroupParent,
      dns: {
        servers: dnsConfig?.servers ?? [],
        searches: dnsConfig?.searches ?? [],
        options: dnsConfig?.options ?? [],
      },
    });
    await failpoint('cni.add.after');
    return network.ips;
  }

  /** The pause process, only for a shared PID namespace: its init, which reaps. */
  async #startInfra(op: Op, record: SandboxRecord, runtime: OciRuntime): Promise<SandboxRecord['infra']> {
    const { infra } = record;
    if (infra === null) {
      await this.#showPod(op, record);
      return null;
    }
    const { settings, facts, workspace, monitor } = this.#world;
    op.stage('infra container: create');
    const features = await runtime.features(op);
    const spec = buildPauseSpec({
      id: record.id,
      pod: record.config,
      root: settings.pauseRoot,
      facts,
      defaults: specDefaults(settings, handlerOf(record)),
      runtime: {
        ...features,
        privilegedWithoutHostDevices: handlerSettings(settings, handlerOf(record)).privilegedWithoutHostDevices,
      },
      namespaces: pinnedNamespaces(record),
      cgroupsPath: sandboxCgroup(this.#world, record),
      idMap: record.idMap,
      selinux: record.selinux,
      localhostSeccomp: await localhostSeccomp(op, record.config.linux?.securityContext),
      annotations: podAnnotations(settings, record.config, handlerOf(record)),
      cpuset: settings.infraCpuset,
    });
    await requireProfile(op, this.#world, spec);
    await workspace.ensureBundle(infra.id, directoryMode(record.idMap));
    const bundle = await workspace.writeBundle(infra.id, stringifySpec(spec));
    const { process } = await monitor.create(op, {
      id: infra.id,
      runtime,
      name: podContainerName(record.config),
      bundle,
      logPath: '',
      tty: false,
      stdin: false,
      stdinOnce: false,
      ready: Promise.resolve(),
    });
    await failpoint('sandbox.infra.created');
    op.stage('infra container: start');
    await runtime.start(op, infra.id);
    await failpoint('sandbox.infra.after');
    return { id: infra.id, process };
  }

  /** The kubelet's cAdvisor learns from a cgroup that there is a pod, and asks us for a process in its network. */
  async #showPod(op: Op, record: SandboxRecord): Promise<void> {
    const { cgroup } = remainsOf(this.#world, record);
    if (cgroup !== '') await this.#world.host.showCgroup(op, cgroup);
  }

  async #stop(op: Op, id: SandboxId): Promise<void> {
    const found = this.#books.sandbox(id);
    if (found === undefined) return;
    // A sandbox in the making belongs to its flight: it will either be ready, or destroyed.
    if (found.state.phase === 'creating') await this.#runs.settled(sandboxKey(found.config.metadata));
    const record = this.#books.sandbox(id);
    if (record === undefined || record.state.phase === 'stopped' || record.state.phase === 'removing') return;
    const turn = await this.#stops.take(op, 'stop');
    const stopping = await this.#endContainers(op, record).finally(turn);
    await releaseSandbox(op, this.#world, remainsOf(this.#world, stopping));
    await failpoint('sandbox.released.after');
    await this.#apply(this.#books.sandbox(id) ?? stopping, 'released');
  }

  /** The record, which says that the pod is stopping, and then all containers. */
  async #endContainers(op: Op, record: SandboxRecord): Promise<SandboxRecord> {
    const { id } = record;
    const stopping = await this.#changes.run(id, () => this.#apply(this.#books.sandbox(id) ?? record, 'stop'));
    await failpoint('sandbox.stopping.after');
    op.stage('give up containers in the making');
    await this.#containers.giveUpMaking(id);
    op.stage('stop containers');
    await together(this.#books.containersOf(id).map((container) => this.#containers.stop(op, container.id, 0)));
    return stopping;
  }

  async #remove(op: Op, id: SandboxId): Promise<void> {
    if (this.#books.sandbox(id) === undefined) return;
    await this.#ends.run(op, `stop ${id}`, (own) => this.#orLater(id, this.#stop(own, id)));
    op.stage('remove containers');
    await together(this.#books.containersOf(id).map((container) => this.#containers.remove(op, container.id)));
    await this.#containers.left(op, id);
    const record = this.#books.sandbox(id);
    if (record === undefined) return;
    // One that an earlier removal left, perhaps of a daemon before us, may hold anything; one that was stopped just now
    // holds nothing.
    if (record.state.phase === 'removing') return await this.#destroy(op, record);
    const removing = await this.#apply(record, 'remove');
    await forgetSandbox(op, this.#world, id);
    this.#books.forget(removing);
  }

  /** Ends every trace of the sandbox and forgets it. */
  async #destroy(op: Op, record: SandboxRecord): Promise<void> {
    await destroySandbox(op, this.#world, remainsOf(this.#world, record));
    this.#books.forget(record);
  }

  async #apply(record: SandboxRecord, event: SandboxEvent): Promise<SandboxRecord> {
    const state = nextSandbox(record.state, event);
    if (state === record.state) return record;
    const after = { ...record, state };
    await this.#books.save(after);
    return after;
  }
}

/** Somebody began to stop or remove it, or it could not be made, and something of it is left. */
function isHalfGone(record: SandboxRecord | undefined): boolean {
  return record?.state.phase === 'stopping' || record?.state.phase === 'removing';
}

/**
 * Keeps what could not be cleaned up where everybody sees it: as a sandbox that is not ready, which the kubelet's
 * garbage collection stops and removes. `why` it is to go, and the failure, are its reason.
 */
export async function keepForCleanUp(
  op: Op,
  books: Books,
  record: SandboxRecord,
  why: string,
  failure: unknown,
): Promise<void> {
  const lost = `${why}; its clean-up failed and is tried again: ${explain(failure)}`;
  await saveOrAdopt(op, books, { ...record, state: nextSandbox(record.state, 'remove'), lost });
}

function madeBy(runtimeHandler: string, { handler }: OciRuntime): MadeBy {
  const { name, path, root, runtimeArgs } = handler;
  return { runtimeHandler, runtime: { name, path, root, runtimeArgs } };
}

/** What destroySandbox needs to know of a sandbox that has a record. */
export function remainsOf(world: World, record: SandboxRecord): SandboxRemains {
  return {
    id: record.id,
    made: record,
    // One that is removed after all this may be what an attempt left that was cut off.
    process: record.state.phase === 'creating' || record.state.phase === 'removing' ? 'cut' : 'made',
    ownCgroup: ownCgroupOf(world, record),
    cgroup: ownCgroupOf(world, record) !== '' && record.infra === null ? '' : sandboxCgroup(world, record),
    infra: record.infra === null ? 'none' : 'process',
  };
}

/** Where its infra process lives; without one it shows cAdvisor that there is a pod. */
function sandboxCgroup(world: World, record: SandboxRecord): string {
  return cgroupsPathFor({ manager: world.facts.cgroupManager, parent: record.cgroupParent, id: record.id });
}

function taken(record: SandboxRecord): RuntimeError {
  const why = record.state.phase === 'ready' ? 'with another config' : `and is ${record.state.phase}`;
  return new RuntimeError(
    'AlreadyExists',
    `pod sandbox ${podName(record.config)} exists ${why} (${record.id}); remove it with ` +
      'RemovePodSandbox, or ask with a higher attempt',
  );
}
