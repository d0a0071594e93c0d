/**
 * A daemon that is killed at random moments under mixed load, from a seed: `npm run fuzz -- crash` for many kills, and
 * recovery-random.e2e.ts for some.
 *
 * A few clients do what kubelets do with a pod each (crash-client.ts). After each kill, and the start of the next
 * daemon, which may be killed as well, all of them wait while the node is looked at: processes, mounts, cgroups,
 * addresses, rules, records and descriptors are those of what the daemon lists (crash-node.ts). The seed decides what
 * is done and how long a life is; the moments are the machine's.
 */
import { writeFile } from 'node:fs/promises';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { defaultConflist, type DefaultConflistOptions } from '../../pkg/network/index.ts';
import { CrashClient, Gate, type Ground } from './crash-client.ts';
import { Journal, seeded } from './crash-journal.ts';
import { commandLines, ruleRemains, strays } from './crash-node.ts';
import { descriptorsOf, TestNode } from './harness.ts';
import { buildImage, busybox, file } from './images.ts';
import { type ScriptedRegistry, startScriptedRegistry } from './registry.ts';

export interface CrashOptions {
  readonly seed: number;
  readonly kills: number;
  readonly runtime: 'runc' | 'crun';
  /** What is found, and how far it is. */
  readonly say: (line: string) => void;
}

const CLIENTS = 4;
/** Between the moment that a daemon serves and its death, on a machine that has nothing else to do. */
const LIFE_MS = 700;
/** How long the next daemon may take to clear up what the last one left half done. */
const TIDY_MS = 30_000;
/** A line about how far it is after so many kills. */
const TELL_EVERY = 50;

/** The whole run. @returns the journal; what is found is in it, and said. */
export async function crashRun({ seed, kills, runtime, say }: CrashOptions): Promise<Journal> {
  const journal = new Journal(`crash: seed ${seed}, ${runtime}`, say);
  const registry = await startScriptedRegistry();
  // Both ways to host ports, whatever the seed is: a plugin's rules and our own.
  const portmap = (seed + (runtime === 'crun' ? 1 : 0)) % 2 === 0;
  const node = await TestNode.boot({
    runtime,
    conflist: (own) => (portmap ? defaultConflist(own) : withoutPortmap(own)),
    env: { CONTAINERS_REGISTRIES_CONF: '/tmp/none' },
  });
  // Whoever has seen enough wants the end, and the node clean.
  let over = false;
  const stop = (): void => void (over = true);
  process.on('SIGINT', stop).on('SIGTERM', stop);
  try {
    const images = await serveImages(node, registry);
    const conf = join(node.dir, 'registries.conf');
    await writeFile(conf, `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`);
    const ground: Ground = {
      node,
      gate: new Gate(),
      journal,
      seed,
      images,
      over: () => over || journal.round >= kills || journal.full,
    };
    await new Killer(ground, { CONTAINERS_REGISTRIES_CONF: conf }, kills).run(say);
    if (journal.clean) await node.close();
    else await node.cri.removeAllPods();
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    await node.discard();
    for (const { pid } of commandLines().filter(({ words }) => words.join().includes(`berth-crash-${process.pid}-`)))
      process.kill(Number(pid), 'SIGKILL');
    await registry.stop();
  }
  say(journal.summary());
  return journal;
}

class Killer {
  readonly #ground: Ground;
  readonly #env: Readonly<Record<string, string>>;
  readonly #kills: number;
  readonly #random: () => number;
  /** Everything that looks like an id in what daemons said: theirs are the cgroups of this node. */
  readonly #seen = new Set<string>();
  #startMs = 300;

  constructor(ground: Ground, env: Readonly<Record<string, string>>, kills: number) {
    this.#ground = ground;
    this.#env = env;
    this.#kills = kills;
    this.#random = seeded(ground.seed);
  }

  async run(say: (line: string) => void): Promise<void> {
    const { node, gate, journal, over } = this.#ground;
    await node.kill();
    await this.#start();
    const fds = await descriptorsOf(node.pid);
    gate.open();
    const clients = Array.from({ length: CLIENTS }, (_, number) => new CrashClient(this.#ground, number).run());
    for (let told = TELL_EVERY; !over(); ) {
      await this.#round();
      if (journal.round >= told) {
        told += TELL_EVERY;
        say(journal.summary());
      }
    }
    await Promise.all(clients);
    await node.cri.removeAllPods();
    await this.#look(async () => [
      ...(await strays(node, this.#seen)),
      ...ruleRemains(),
      ...(await node.cri.rpc.check({ repair: false })).problems.map((each) => `the store: ${JSON.stringify(each)}`),
      // Connections of ours and of the registry may be kept.
      ...((await descriptorsOf(node.pid)) <= fds + 8
        ? []
        : [`${await descriptorsOf(node.pid)} descriptors, not ${fds}`]),
    ]);
  }

  /** A life, its end, the next one's beginning, and a look. */
  async #round(): Promise<void> {
    const { node, gate, journal } = this.#ground;
    await this.#live();
    if (!existsSync(`/proc/${node.pid}`)) await journal.note(node, 'call', `the daemon ended by itself`);
    gate.shut();
    await node.kill();
    journal.round++;
    while (this.#random() < 0.15 && journal.round < this.#kills) {
      const started = node.start(this.#env).catch(() => {});
      await sleep(this.#random() * this.#startMs);
      await node.kill();
      await started;
      journal.round++;
      journal.count('kills while it started');
    }
    await this.#start();
    await this.#look(() => strays(node, this.#seen));
    gate.open();
  }

  /** Some are short; in some a plugin is killed. */
  async #live(): Promise<void> {
    const chance = this.#random();
    // A machine with more to do gives its daemons longer lives: something has to be under way when they end.
    const scaled = LIFE_MS * Math.max(1, this.#startMs / 400);
    const lifeMs = this.#random() * (chance < 0.2 ? 80 : chance > 0.95 ? 4 * scaled : scaled);
    const end = performance.now() + lifeMs;
    if (this.#random() < 0.1) {
      while (performance.now() < end && !this.#killPlugin()) await sleep(4);
    }
    await sleep(Math.max(0, end - performance.now()));
  }

  /** kill -9 of a CNI plugin that runs just now. */
  #killPlugin(): boolean {
    const { node, gate, journal } = this.#ground;
    const plugin = commandLines().find(
      ({ pid, words }) => /^\/usr\/lib\/cni\/\w/.test(words[0] ?? '') && parentOf(pid, 2).includes(`${node.pid}`),
    );
    if (plugin === undefined) return false;
    gate.pluginsKilled++;
    try {
      process.kill(Number(plugin.pid), 'SIGKILL');
    } catch {
      return false; // It has ended.
    }
    journal.count('plugins killed');
    return true;
  }

  async #start(): Promise<void> {
    const began = performance.now();
    const { node } = this.#ground;
    await node.start(this.#env);
    this.#startMs = performance.now() - began;
  }

  /** Waits until nothing is wrong, and notes what stays so. */
  async #look(ask: () => Promise<string[]>): Promise<void> {
    const { node, journal } = this.#ground;
    for (const id of node.ids()) this.#seen.add(id);
    const end = performance.now() + TIDY_MS;
    let wrong = await ask();
    while (wrong.length > 0 && performance.now() < end) {
      await sleep(50);
      wrong = await ask();
    }
    for (const each of wrong) await journal.note(node, 'leak', each);
  }
}

/** The process' ancestors, `depth` of them. */
function parentOf(pid: string, depth: number): string[] {
  if (depth === 0) return [];
  try {
    const parent = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
    return [parent, ...parentOf(parent, depth - 1)];
  } catch {
    return [];
  }
}

function withoutPortmap({ dataDir, bridge, subnets }: Required<DefaultConflistOptions>): string {
  const ipam = { type: 'host-local', dataDir, ranges: subnets.map((subnet) => [{ subnet }]) };
  const plugins = [{ type: 'bridge', bridge, isGateway: true, ipMasq: true, hairpinMode: true, ipam }];
  return JSON.stringify({ cniVersion: '1.0.0', name: 'berth', plugins });
}

/** Two images with a layer in common, for two of the clients. */
async function serveImages(node: TestNode, registry: ScriptedRegistry): Promise<string[]> {
  const shared = { files: await busybox() };
  const names = ['a', 'b'];
  for (const name of names) {
    const layers = [shared, { files: [file('etc/name', name)] }];
    await registry.serve(await buildImage({ directory: join(node.dir, `built-${name}`), name, layers }), name, '1');
  }
  return names.map((name) => `${registry.host}/${name}:1`);
}
