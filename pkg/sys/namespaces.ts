/** Namespaces that threads of the addon make and enter, so that ours never leave the host's. */
import { RuntimeError } from '../base/errors.ts';
import { checkAlive, type Op } from '../base/op.ts';
import type { NewNamespaces } from '../ports/kernel.ts';
import type { IdMap } from '../ports/rootfs.ts';
import { addon, attempt, attemptAsync, systemError } from './addon.ts';
import { close } from './descriptors.ts';
import { untilReady } from './ready.ts';

/**
 * Makes namespaces on a thread of the addon's, which is in them for that moment, and pins them by bind mounts: all or
 * none. `lo` is up in a network namespace.
 * @throws InvalidArgument for a sysctl that the kernel does not take, or that is not of a namespace made here.
 */
export async function pin({ paths, hostname, sysctls }: NewNamespaces): Promise<void> {
  const doing = "make the pod's namespaces";
  try {
    await addon().pinNamespaces(
      [...paths.keys()],
      [...paths.values()],
      hostname,
      [...sysctls.keys()],
      [...sysctls.values()],
    );
  } catch (error) {
    if (error instanceof Error && (error as { syscall?: unknown }).syscall === 'sysctl')
      throw new RuntimeError('InvalidArgument', `${doing}: ${error.message}`, { cause: error });
    throw systemError(error, doing);
  }
}

/**
 * A TCP connection made inside the network namespace at `netns`, as a descriptor for openStream. Addresses (literal
 * IPv4 or IPv6) are tried in order.
 * @throws Unavailable when nobody listens on any of them, or takes the connection within `timeoutMs`.
 */
export async function connect(
  op: Op,
  netns: string,
  addresses: readonly [string, ...string[]],
  port: number,
  timeoutMs = 10_000,
): Promise<number> {
  let failure: unknown;
  for (const address of addresses) {
    try {
      return await connectTo(op, netns, address, port, timeoutMs);
    } catch (error) {
      if (op.signal.aborted) throw error;
      failure ??= error;
    }
  }
  throw failure;
}

async function connectTo(op: Op, netns: string, address: string, port: number, timeoutMs: number): Promise<number> {
  const doing = `connect to ${address} port ${port} in ${netns}`;
  const fd = await attemptAsync(doing, (native) => native.connectInNetns(netns, address, port));
  try {
    await untilReady(fd, 'writable', AbortSignal.any([op.signal, AbortSignal.timeout(timeoutMs)]));
    checkAlive(op, doing);
    attempt(doing, (native) => native.connectOutcomeSync(fd));
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/**
 * A descriptor of a user namespace with these maps, which nothing but the descriptor keeps; for `usernsFd` above. The
 * caller closes it.
 */
export async function openUser(maps: IdMap): Promise<number> {
  const triples = (list: IdMap['uids']): number[] => list.flatMap((each) => [each.containerId, each.hostId, each.size]);
  try {
    return await addon().userNamespace(triples(maps.uids), triples(maps.gids));
  } catch (error) {
    throw systemError(error, 'make a user namespace');
  }
}
