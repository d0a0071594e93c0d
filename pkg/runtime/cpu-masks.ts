/** Masks of processors: where interrupts go, and what irqbalance keeps its hands off. PURE. */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';

/**
 * A mask of interrupts as /proc/irq/default_smp_affinity has it (words of 32 bits in hexadecimal, the first processors
 * last), with processors taken out of it or put back; `banned` is its inverse, as irqbalance wants it.
 * @throws Internal for text that is no mask.
 */
export function withCpus(
  mask: string,
  cpus: readonly number[],
  change: 'put' | 'take',
): { readonly mask: string; readonly banned: string } {
  const digits = mask.trim().replaceAll(',', '');
  if (!/^[0-9a-fA-F]{1,2048}$/.test(digits))
    throw new RuntimeError('Internal', `default_smp_affinity is ${quote(mask)}, which is no mask of processors`);
  const width = Math.ceil(digits.length / 8) * 32;
  const known = (1n << BigInt(digits.length * 4)) - 1n;
  const chosen = cpus.reduce((bits, cpu) => bits | (1n << BigInt(cpu)), 0n) & ((1n << BigInt(width)) - 1n);
  const before = BigInt(`0x${digits}`);
  const after = change === 'put' ? before | chosen : before & ~chosen;
  return { mask: words(after, width), banned: words(known & ~after, width) };
}

function words(bits: bigint, width: number): string {
  return bits
    .toString(16)
    .padStart(width / 4, '0')
    .replaceAll(/(?<=.)(?=(?:.{8})+$)/g, ',');
}

/** True if nothing is taken out of a mask: the node has just been booted. */
export function isWhole(mask: string): boolean {
  const bits = BigInt(`0x${mask.trim().replaceAll(',', '') || '0'}`);
  return (bits & (bits + 1n)) === 0n;
}

const BANNED = 'IRQBALANCE_BANNED_CPUS=';

/** The mask that irqbalance's configuration bans; '' for none. */
export function bannedCpus(text: string): string {
  const line = text.split('\n').find((each) => each.startsWith(BANNED));
  return line?.slice(BANNED.length).replaceAll('"', '') ?? '';
}

/** That configuration with another mask, every other line as it is. */
export function withBannedCpus(text: string, banned: string): string {
  const line = `${BANNED}"${banned}"`;
  const lines = text.split('\n');
  return lines.some((each) => each.startsWith(BANNED))
    ? lines.map((each) => (each.startsWith(BANNED) ? line : each)).join('\n')
    : `${text}\n${line}\n`;
}
