/**
 * The first pod: starts the daemon, imports the embedded image, runs a pod over CRI and shows that it lives.
 *
 *   node scripts/first-pod.ts          then removes all that it made and exits
 *   node scripts/first-pod.ts --keep   and keeps serving until Ctrl-C; containers outlive the daemon
 *
 * Without --keep everything lies in a directory of its own; with it, in Berth's usual places, so that the next start
 * finds it.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, rmdir, writeFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Client, connect } from '../cri/client.ts';
import { defaultConflist, freeSubnet } from '../pkg/network/index.ts';
import { EMBEDDED_IMAGE } from './embedded-image.ts';

const BUILD = new URL('../build/', import.meta.url).pathname;
const NET_DIR = '/etc/cni/net.d';

interface Places {
  readonly root: string;
  readonly runroot: string;
  readonly socket: string;
  readonly logs: string;
  readonly netDir: string;
  readonly bridge: string;
}

const keep = process.argv.includes('--keep');
const places = keep ? usualPlaces() : await ownPlaces();
const daemon = await startDaemon(places);
const client = connect(places.socket);
try {
  await Promise.race([client.waitForReady(30_000), died(daemon)]);
  const pod = await runFirstPod(client);
  await show(client, pod);
  if (keep) await serveUntilStopped(daemon);
  else await tidyUp(client, pod);
} finally {
  client.close();
  if (!keep) {
    await stop(daemon);
    await removeTraces();
  }
}

function usualPlaces(): Places {
  return {
    root: '/var/lib/berth',
    runroot: '/run/berth',
    socket: '/run/berth/berth.sock',
    logs: '/var/log/berth/pods',
    netDir: '/var/lib/berth/net.d',
    bridge: 'berth0',
  };
}

async function ownPlaces(): Promise<Places> {
  const dir = await mkdtemp('/tmp/berth-demo-');
  return {
    root: join(dir, 'root'),
    runroot: join(dir, 'run'),
    socket: join(dir, 'run/berth.sock'),
    logs: join(dir, 'logs'),
    netDir: join(dir, 'net.d'),
    bridge: `berth${process.pid % 100_000}`,
  };
}

async function startDaemon(where: Places): Promise<ChildProcess> {
  const args = [
    '--root',
    where.root,
    '--runroot',
    where.runroot,
    '--listen',
    where.socket,
    '--crio-socket',
    'none',
    '--log-dir',
    where.logs,
    '--log-level',
    'warn',
  ];
  if (!keep || !machineHasNetwork()) {
    await mkdir(where.netDir, { recursive: true });
    const used = Object.values(networkInterfaces())
      .flatMap((each) => each ?? [])
      .flatMap(({ cidr }) => cidr ?? []);
    await writeFile(
      join(where.netDir, '10-berth.conflist'),
      defaultConflist({ dataDir: join(where.root, 'ipam'), bridge: where.bridge, subnets: [freeSubnet(used)] }),
    );
    args.push('--cni-config-dir', where.netDir);
    if (keep) say('no CNI configuration on this machine: pods join the bridge of our own');
  }
  // Its own process group: Ctrl-C is for us, and we tell the daemon.
  return spawn(join(BUILD, 'bin/berth'), args, { stdio: ['ignore', 'inherit', 'inherit'], detached: true });
}

function machineHasNetwork(): boolean {
  return existsSync(NET_DIR) && readdirSync(NET_DIR).some((name) => /\.(conflist|conf|json)$/.test(name));
}

async function died(child: ChildProcess): Promise<never> {
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
  throw new Error(`the daemon ended before it served (${signal ?? code})`);
}

interface Pod {
  readonly sandbox: string;
  readonly container: string;
}

async function runFirstPod(cri: Client): Promise<Pod> {
  const found = await earlierPod(cri);
  if (found !== undefined) {
    say(`the pod of an earlier start is still running: ${found.container.slice(0, 13)}`);
    return found;
  }
  await cri.import({ path: join(BUILD, 'embedded-image'), reference: '' });
  say(`imported ${EMBEDDED_IMAGE}`);
  const labels = { 'io.kubernetes.pod.name': 'first', 'io.kubernetes.pod.namespace': 'default' };
  const config = {
    metadata: { name: 'first', uid: 'first', namespace: 'default', attempt: Math.floor(Date.now() / 1000) % 2 ** 31 },
    hostname: 'first',
    labels,
    linux: {},
  };
  const { podSandboxId: sandbox } = await cri.runPodSandbox({ config });
  const script = 'echo "hello from $(hostname), pid $$"; trap "exit 0" TERM; while :; do sleep 1; done';
  const { containerId: container } = await cri.createContainer({
    podSandboxId: sandbox,
    sandboxConfig: config,
    config: {
      metadata: { name: 'hello', attempt: 0 },
      image: { image: EMBEDDED_IMAGE },
      command: ['sh', '-c', script],
      logPath: 'hello.log',
      labels,
    },
  });
  await cri.startContainer({ containerId: container });
  return { sandbox, container };
}

async function earlierPod(cri: Client): Promise<Pod | undefined> {
  const { containers } = await cri.listContainers({
    filter: { state: { state: 'CONTAINER_RUNNING' }, labelSelector: { 'io.kubernetes.pod.name': 'first' } },
  });
  const [container] = containers;
  return container === undefined ? undefined : { sandbox: container.podSandboxId, container: container.id };
}

async function show(cri: Client, { sandbox, container }: Pod): Promise<void> {
  const { status } = await cri.containerStatus({ containerId: container });
  say(`log:   ${await firstLine(status?.logPath ?? '')}`);
  const { stdout } = await cri.execSync({ containerId: container, cmd: ['sh', '-c', 'uname -sr; id'], timeout: 10n });
  say(`exec:  ${Buffer.from(stdout).toString().trim().replaceAll('\n', ', ')}`);
  const { status: pod } = await cri.podSandboxStatus({ podSandboxId: sandbox });
  say(`IP:    ${pod?.network?.ip ?? 'none'}`);
}

/** The container writes when it gets to it; a line is what we wait for. */
async function firstLine(path: string): Promise<string> {
  for (let tries = 0; tries < 200; tries++) {
    const text = await readFile(path, 'utf8').catch(() => '');
    if (text.includes('\n')) return text.slice(0, text.indexOf('\n'));
    await sleep(50);
  }
  throw new Error(`nothing was written to ${path} in ten seconds`);
}

async function serveUntilStopped(child: ChildProcess): Promise<void> {
  say(`serving on ${places.socket}; try:`);
  say(`  crictl -r unix://${places.socket} ps`);
  say('Ctrl-C stops the daemon and leaves the containers running');
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => child.kill('SIGTERM'));
  await once(child, 'exit');
  say('the daemon has stopped; npm start finds its containers again');
}

async function tidyUp(cri: Client, { sandbox }: Pod): Promise<void> {
  await cri.stopPodSandbox({ podSandboxId: sandbox });
  await cri.removePodSandbox({ podSandboxId: sandbox });
  await cri.removeImage({ image: { image: EMBEDDED_IMAGE } });
  say('removed the pod and its image');
}

/**
 * What outlives the daemon by design and was made for this demo alone: its directory, its bridge, the cgroup that pods
 * without a parent share.
 */
async function removeTraces(): Promise<void> {
  await rm(join(places.root, '..'), { recursive: true, force: true });
  spawnSync('ip', ['link', 'del', places.bridge], { stdio: 'ignore' });
  for (const hierarchy of readdirSync('/sys/fs/cgroup'))
    await rmdir(join('/sys/fs/cgroup', hierarchy, 'berth')).catch(() => {});
  await rmdir('/sys/fs/cgroup/berth').catch(() => {});
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  await gone;
}

function say(line: string): void {
  process.stdout.write(`berth: ${line}\n`);
}
