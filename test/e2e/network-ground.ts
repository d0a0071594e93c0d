/** What the suite of networks stands on: names of its own for all that it makes, and what the node holds of them. */
import { assert } from 'chai';
import { execa } from 'execa';
import { readdir } from 'node:fs/promises';
import { isCode } from '../../pkg/base/errors.ts';
import type { ErrorCode } from '../../pkg/base/errors.ts';
import type { SweepRules } from '../../pkg/network/exec.ts';

export const PLUGINS = '/usr/lib/cni';
export const TAG = `bcni${process.pid}`;
export const NODE = `${TAG}-node`;
export const SUBNET = '10.213.0.0/16';
export const GATEWAY = '10.213.0.1';
export const SUBNET6 = 'fd00:b1:e2::/64';
export const BRIDGE = `${TAG}b`.slice(0, 15);

export const netnsPath = (name: string): string => `/run/netns/${name}`;

/** ip(8) inside a namespace, or on the machine for ''. */
export async function ip(netns: string, ...args: readonly string[]): Promise<string> {
  return (await execa('ip', [...(netns === '' ? [] : ['-n', netns]), ...args])).stdout;
}

export async function refusal(work: Promise<unknown>, code: ErrorCode): Promise<string> {
  try {
    await work;
  } catch (error) {
    assert.isTrue(isCode(error, code), String(error));
    return (error as Error).message;
  }
  return assert.fail('was not refused');
}

export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + 10_000;
  while (!(await condition())) {
    if (Date.now() > end) assert.fail(`waited 10 s for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** The nat table of the node. */
export async function natRules(): Promise<string> {
  return (await execa('ip', ['netns', 'exec', NODE, 'iptables-save', '-t', 'nat'])).stdout;
}

/** Sweeps the node's packet filter rather than the machine's. */
export const sweep: SweepRules = async (_, id, network) => {
  await execa('ip', [
    'netns',
    'exec',
    NODE,
    process.execPath,
    '--input-type=module',
    '-e',
    `
    import { sweepNat } from ${JSON.stringify(new URL('../../pkg/network/exec.ts', import.meta.url).href)};
    import { backgroundOp, silent } from ${JSON.stringify(new URL('../../pkg/base/op.ts', import.meta.url).href)};
    await sweepNat(backgroundOp(silent), ${JSON.stringify(id)}, ${JSON.stringify(network)});`,
  ]);
};

/** What this run has on the machine itself, where others may be at work too. */
export async function holdings(): Promise<Readonly<Record<string, unknown>>> {
  const all = [
    await ip('', '-br', 'link'),
    await ip('', 'netns', 'list'),
    (await execa('iptables-save', [], { reject: false })).stdout,
  ].join('\n');
  return {
    ours: all.split('\n').filter((line) => line.includes(TAG) || line.includes('10.213.')),
    fds: (await readdir('/proc/self/fd')).length,
  };
}
