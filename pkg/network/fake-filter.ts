/**
 * A packet filter in memory for tests: the elements of our table, transactions that are whole or nothing, devices with
 * their switch.
 */
import { RuntimeError } from '../base/errors.ts';
import { notInstalled } from './hostports.ts';
import type { PacketFilter } from './hostports.ts';

export class FakeFilter implements PacketFilter {
  /** Key of each element and whose it is (its comment); undefined while there is no table. */
  elements: Map<string, string> | undefined;
  /** Texts that were applied or refused. */
  readonly texts: string[] = [];
  /** Whether each device lets packets of 127.0.0.0/8 pass. */
  readonly devices = new Map<string, boolean>([['cni0', false]]);
  readonly forgotten: string[] = [];
  present = true;
  /** What the next transactions fail with, one each. */
  readonly failures: Error[] = [];

  readonly installed = (): boolean => this.present;

  readonly apply = async (_: unknown, text: string): Promise<void> => {
    if (!this.present) throw notInstalled();
    this.texts.push(text);
    await Promise.resolve();
    const failure = this.failures.shift();
    if (failure !== undefined) throw failure;
    this.elements = text.split('\n').reduce(step, this.elements === undefined ? undefined : new Map(this.elements));
  };

  localAddresses = (): string[] => ['127.0.0.1', '192.168.0.1'];
  readonly deviceTo = async (): Promise<string | undefined> => (this.devices.has('cni0') ? 'cni0' : undefined);
  readonly routesLocalnet = async (device: string): Promise<boolean | undefined> => this.devices.get(device);
  readonly setRouteLocalnet = async (device: string, value: 'on' | 'off'): Promise<void> =>
    void this.devices.set(device, value === 'on');
  readonly forgetUdp = async (flows: readonly { readonly address: string; readonly port: number }[]): Promise<void> =>
    void this.forgotten.push(...flows.map(({ address, port }) => `${address} ${port}`));

  /** Whose anything in the table is. */
  owners(): Set<string> {
    return new Set(this.elements?.values());
  }

  /** What a sandbox has in the table, without where it leads. */
  of(id: string): string[] {
    return [...(this.elements ?? [])].flatMap(([key, owner]) => (owner === id ? [key] : []));
  }
}

/** One line of a transaction, as nft and the kernel take it. */
function step(table: Map<string, string> | undefined, line: string): Map<string, string> | undefined {
  if (line.startsWith('add table')) return table ?? new Map<string, string>();
  if (line.startsWith('delete table')) return undefined;
  if (line.startsWith('table ')) return new Map<string, string>();
  const [, verb = '', key = '', owner = ''] =
    /^(add|create|delete) element inet berth_hostport (\S+ \{ [^"]*?) (?:comment "(.*?)".*)?\}$/.exec(line) ?? [];
  if (verb === '') return table;
  if (table === undefined || (verb === 'create' && table.has(key)) || (verb === 'delete' && !table.delete(key))) {
    throw new RuntimeError('Internal', `nft -f - failed: Could not process rule: ${line}`);
  }
  if (verb !== 'delete') table.set(key, owner);
  return table;
}
