/**
 * Sandboxes: run, stop, remove. See docs/ARCHITECTURE.md, "The path of a pod", for the hops.
 */
import type { LinuxContainerResources } from '../cri-api/types.ts';
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
import { together } from '../base/sync.ts';
import { buildPauseSpec, cgroupsPathFor, podSysctls, stringifySpec } from '../spec/index.ts';
import { nextSandbox } from '../state/index.ts';
import { type Books, isVisible, sandboxKey } from './books.ts';
import { destroySandbox, forgetSandbox, releaseSandbox, type SandboxRemains } from './destroy.ts';
import { handlerOf, handlerSettings, podAnnotations, shmBytesOf, specDefaults } from './handlers.ts';
import { directoryMode, ownerOnHost } from './id-maps.ts';
import { sandboxLabels } from './labels.ts';
import { podCgroupFor } from './pod-cgroup.ts';
import { renderResolvConf } from './pod-files.ts';
import { pinnedNamespaces, planSandbox, requireOwnPids, type SandboxPlan } from './sandbox-plan.ts';
import { localhostSeccomp, requireProfile } from './sources.ts';
import { watchInfra } from './infra.ts';
import type { Surroundings } from './life-core.ts';
import { same } from './same.ts';
import type { OciRuntime } from '../ports/runtime.ts';
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

  constructor(around: Surroundings, containers: PodContainers) {
    this.#around = around;
    this.#world = around.world;
    this.#books = around.books;
    this.#containers = containers;
  }

  /** Goes on with what a daemon before this one did. Call once, after recovery has taken the records in. */
  resume(): void {
    for (const record of this.#books.sandboxes()) if (record.state.phase === 'ready') watchInfra(this.#around, record);
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
    await this.#ends.run(op, `stop ${id}`, (own) => this.#stop(own, id));
  }

  async remove(op: Op, id: SandboxId): Promise<void> {
    await this.#ends.run(op, `remove ${id}`, (own) => this.#remove(own, id));
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

  async updateResources(
    _op: Op,
    id: SandboxId,
    overhead: LinuxContainerResources | undefined,
    resources: LinuxContainerResources | undefined,
  ): Promise<void> {
    const record = this.get(id);
    await this.#books.save({ ...record, overhead, resources });
  }

  /** The finished twin of the request, or a new sandbox. */
  async #runOrAdopt(op: Op, key: string, config: SandboxConfig, handler: string): Promise<SandboxId> {
    const twin = this.#books.byKey(key);
    if (twin !== undefined) {
      const record = this.#books.sandbox(twin as SandboxId);
      if (record?.state.phase === 'ready') return record.id;
      // A first attempt failed and so did its clean-up: try that again instead of telling the client about it.
      if (record?.state.phase === 'creating' || record?.state.phase === 'removing') await this.#destroy(op, record);
      else if (record !== undefined) throw taken(record);
    }
    return await this.#make(op, config, handler);
  }

  async #make(op: Op, config: SandboxConfig, handler: string): Promise<SandboxId> {
    const runtime = this.#world.runtimeFor(handler);
    const features = await runtime.features(op);
    const plan = planSandbox(config, features);
    if (plan.idMap !== null) await this.#requireUserNamespaces(op, runtime);
    requireOwnPids(runtime.handler.name, features, config.linux?.securityContext?.namespaceOptions?.pid);
    const id = newSandboxId();
    const own = withLog(op, { sandbox: id });
    const record = this.#draft(id, config, madeBy(handler, runtime), plan);
    own.stage('save record');
    await this.#books.save(record);
    try {
      await failpoint('sandbox.record.after');
      await this.#build(own, record, plan, runtime);
    } catch (cause) {
      // Not under the bound of the attempt, which may be why it failed.
      const clean = detached(own, limits.podStopMs);
      await this.#destroy(clean, this.#books.sandbox(id) ?? record).catch((failure: unknown) => {
        own.log.warn('a failed sandbox could not be cleaned up, will retry', { sandbox: id, cause: explain(failure) });
      });
      throw wrap(`run pod sandbox ${podName(config)}`, cause);
    }
    return id;
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
    const prepared = together([pinning, this.#prepareFiles(op, draft, plan)]);
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
    const sysctls = podSysctls(config, plan, this.#world.settings.spec, plan.idMap);
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
        : host.mountShm(op, files.shm, shmBytesOf(settings, config, handlerOf(draft)), owner),
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
    if (infra === null) return null;
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
      cgroupsPath: infraCgroup(this.#world, record),
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
      name: `k8s_POD_${podName(record.config)}`,
      bundle,
      logPath: '',
      tty: false,
      stdin: false,
      stdinOnce: false,
      ready: Promise.resolve(),
    });
    op.stage('infra container: start');
    await runtime.start(op, infra.id);
    return { id: infra.id, process };
  }

  async #stop(op: Op, id: SandboxId): Promise<void> {
    const found = this.#books.sandbox(id);
    if (found === undefined) return;
    // A sandbox in the making belongs to its flight: it will either be ready, or destroyed.
    if (found.state.phase === 'creating') await this.#runs.settled(sandboxKey(found.config.metadata));
    const record = this.#books.sandbox(id);
    if (record === undefined || record.state.phase === 'stopped' || record.state.phase === 'removing') return;
    const stopping = await this.#apply(record, 'stop');
    await failpoint('sandbox.stopping.after');
    op.stage('give up containers in the making');
    await this.#containers.giveUpMaking(id);
    op.stage('stop containers');
    await together(this.#books.containersOf(id).map((container) => this.#containers.stop(op, container.id, 0)));
    await releaseSandbox(op, this.#world, remainsOf(this.#world, stopping));
    await this.#apply(this.#books.sandbox(id) ?? stopping, 'released');
  }

  async #remove(op: Op, id: SandboxId): Promise<void> {
    if (this.#books.sandbox(id) === undefined) return;
    await this.#ends.run(op, `stop ${id}`, (own) => this.#stop(own, id));
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

function madeBy(runtimeHandler: string, { handler }: OciRuntime): MadeBy {
  const { name, path, root, runtimeArgs } = handler;
  return { runtimeHandler, runtime: { name, path, root, runtimeArgs } };
}

/** What destroySandbox needs to know of a sandbox that has a record. */
export function remainsOf(world: World, record: SandboxRecord): SandboxRemains {
  const cgroup = podCgroupFor(world.facts.cgroupManager, record.id, record.config.linux?.cgroupParent ?? '');
  return {
    id: record.id,
    made: record,
    process: record.state.phase === 'creating' ? 'cut' : 'made',
    ownCgroup: cgroup.own ? record.cgroupParent : '',
    infraCgroup: record.infra === null ? '' : infraCgroup(world, record),
  };
}

/** `name_namespace_uid_attempt`, the kubelet's customary form. */
export function podName(config: SandboxConfig): string {
  const { metadata } = config;
  return `${metadata.name}_${metadata.namespace}_${metadata.uid}_${metadata.attempt}`;
}

function infraCgroup(world: World, record: SandboxRecord): string {
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
