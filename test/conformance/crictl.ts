/** crictl on a node of its own, for the suites here; scripts/conformance.ts builds crictl and tells us where it is. */
import { assert } from 'chai';
import { execFile, type ExecFileException } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type NodeOptions, TestNode } from '../e2e/harness.ts';
import { Command } from '../e2e/terminal.ts';

const run = promisify(execFile);
/** The image of all pods here. */
export const BUSYBOX = 'registry.k8s.io/e2e-test-images/busybox:1.29-2';
/** The transports that crictl can use for exec, attach and port-forward. */
export const TRANSPORTS = ['spdy', 'websocket'] as const;
/** As the kubelet sets them; crictl ps shows the pod from these. */
export const KUBELET_LABELS = { 'io.kubernetes.pod.name': 'web', 'io.kubernetes.pod.namespace': 'shop' };

/** Something that crictl printed as JSON. */
export type Json = { readonly [key: string]: unknown };

/** What is at the end of a path of keys; undefined if it leads nowhere. */
export function get(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>((at, key) => (at as Json | undefined)?.[key], value);
}

/** The list that `value` is. @throws when it is none. */
export function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : assert.fail(`want a list, found ${JSON.stringify(value)}`);
}

/** A node, and crictl that talks to it. */
export class CrictlNode {
  readonly dir: string;
  readonly #node: TestNode;
  readonly #config: string;

  private constructor(node: TestNode) {
    this.dir = node.dir;
    this.#node = node;
    this.#config = join(node.dir, 'crictl.yaml');
  }

  static async boot(): Promise<CrictlNode> {
    const options = JSON.parse(variable('CONFORMANCE_NODE')) as NodeOptions;
    const node = await TestNode.boot({
      ...options,
      env: { CONTAINERS_REGISTRIES_CONF: variable('CONFORMANCE_REGISTRIES_CONF') },
    });
    const endpoint = `unix://${node.socket}`;
    const made = new CrictlNode(node);
    await made.put('crictl.yaml', `runtime-endpoint: ${endpoint}\nimage-endpoint: ${endpoint}\ntimeout: 30\n`);
    return made;
  }

  async close(): Promise<void> {
    await this.#node.close();
  }

  /** Writes a file that crictl reads; its path. */
  async put(name: string, content: unknown): Promise<string> {
    const path = join(this.dir, name);
    await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
    return path;
  }

  /** What `crictl args` prints, without the last line end. @throws when it fails. */
  async crictl(...args: string[]): Promise<string> {
    const { stdout } = await run(variable('CONFORMANCE_CRICTL'), ['--config', this.#config, ...args]);
    return stdout.replace(/\n$/, '');
  }

  /** What `crictl args` complains about. */
  async complaint(...args: string[]): Promise<{ readonly code: unknown; readonly stderr: string }> {
    return this.crictl(...args).then(
      (stdout) => assert.fail(`crictl ${args.join(' ')} succeeded: ${stdout}`),
      (error: ExecFileException) => ({ code: error.code, stderr: error.stderr ?? '' }),
    );
  }

  async json(...args: string[]): Promise<Json> {
    return JSON.parse(await this.crictl(...args)) as Json;
  }

  /** `crictl args` at a terminal of 40 rows and 132 columns. */
  type(...args: string[]): Command {
    return Command.onTerminal([variable('CONFORMANCE_CRICTL'), '--config', this.#config, ...args], { size: [40, 132] });
  }

  /** A pod of its own, and a container in it with `command`, started. */
  async started(
    name: string,
    command: readonly string[],
    more: Json = {},
  ): Promise<{ readonly pod: string; readonly id: string }> {
    const pod = await this.put(`${name}.pod.json`, {
      metadata: { name, namespace: 'default', uid: `uid-${name}`, attempt: 0 },
      log_directory: join(this.dir, 'podlogs', name),
    });
    const container = await this.put(`${name}.json`, {
      metadata: { name },
      image: { image: BUSYBOX },
      command,
      log_path: `${name}.log`,
      labels: KUBELET_LABELS,
      ...more,
    });
    await this.crictl('pull', BUSYBOX);
    const podId = await this.crictl('runp', pod);
    const id = await this.crictl('create', podId, container, pod);
    await this.crictl('start', id);
    return { pod: podId, id };
  }
}

function variable(name: string): string {
  return process.env[name] ?? assert.fail(`${name} is not set; this is run by npm run conformance`);
}
