/** Looking into containers: what a test asks about is read by a shell inside, not by the runtime's own words. */
import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from 'chai';
import type { ContainerConfig, Input } from '../../pkg/cri-api/types.ts';
import { CriError, type Pod } from './cri-client.ts';
import { IMAGE, type TestNode } from './harness.ts';
import { buildImage, type ImagePlan } from './images.ts';

/** What a container does while tests look at it; ends at once on SIGTERM. */
export const IDLE = ['sh', '-c', 'trap "exit 0" TERM; while :; do sleep 0.1; done'];

type ContainerOverrides = Input<ContainerConfig> & { readonly imageName?: string };

/** A running container of `pod` that idles, unless `config` has a command. */
export async function idle(node: TestNode, pod: Pod, config: ContainerOverrides = {}): Promise<string> {
  const { imageName = IMAGE, ...overrides } = config;
  return await node.cri.runContainer(pod, imageName, { command: IDLE, ...overrides });
}

/** What a shell script prints inside, trimmed. @throws with stderr when it fails. */
export async function sh(node: TestNode, id: string, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await node.cri.exec(id, ['sh', '-c', script]);
  if (exitCode !== 0) throw new Error(`${script}: exit code ${exitCode}: ${stderr}`);
  return stdout.trim();
}

/** The same once the first process is a shell, or another applet: a start is over before the runtime's program is. */
export async function shOnceBegun(node: TestNode, id: string, script: string): Promise<string> {
  await sh(node, id, 'until [ /proc/1/exe -ef /proc/self/exe ]; do sleep 0.01; done');
  return await sh(node, id, script);
}

/** True if the script fails inside. */
export async function fails(node: TestNode, id: string, script: string): Promise<boolean> {
  return (await node.cri.exec(id, ['sh', '-c', script])).exitCode !== 0;
}

/** A field of /proc/1/status of the container (or of the process that `pid` names). */
export async function procStatus(node: TestNode, id: string, field: string, pid = '1'): Promise<string> {
  const text = await sh(node, id, `cat /proc/${pid}/status`);
  return new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(text)?.[1]?.trim() ?? '';
}

/** The mount at `path` inside, as `fstype options`. */
export async function mountAt(node: TestNode, id: string, path: string): Promise<string> {
  const lines = (await sh(node, id, 'cat /proc/self/mounts')).split('\n').map((line) => line.split(' '));
  const found = lines.findLast(([, at]) => at === path);
  return found === undefined ? '' : `${found[2] ?? ''} ${found[3] ?? ''}`;
}

/** The refusal of a call, whose text must hold `text`. @throws if the call succeeds. */
export async function refusal(work: Promise<unknown>, text: string | RegExp): Promise<CriError> {
  const error = await work.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  assert.instanceOf(error, CriError, 'the call succeeded');
  if (typeof text === 'string') assert.include((error as CriError).message, text);
  else assert.match((error as CriError).message, text);
  return error as CriError;
}

/** Builds an image and imports it into the node as `localhost/test/<name>:1`; returns that name. */
export async function addImage(node: TestNode, name: string, plan: ImagePlan): Promise<string> {
  const reference = `localhost/test/${name}:1`;
  const directory = join(node.dir, 'images', name);
  await buildImage({ ...plan, directory, name: reference });
  await node.cri.rpc.import({ path: directory, reference: '' });
  return reference;
}

/** Restarts the node's daemon with a drop-in of this content. */
export async function reconfigure(node: TestNode, toml: string): Promise<void> {
  await mkdir(join(node.dir, 'none'), { recursive: true });
  await writeFile(join(node.dir, 'none/10-test.conf'), toml);
  await node.restart();
}

/** A command of the host; its output. */
export function host(command: string, ...args: readonly string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}
