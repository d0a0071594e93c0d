/** The packet-filter rules that plugins leave, as text. PURE. */
import { createHash } from 'node:crypto';

/**
 * What to feed to `iptables-restore --noflush` so that no rule in `saved` (of `iptables-save -t nat`) carries the id of
 * a pod; '' if none does. Plugins put the id in a comment. Of chains, only those that a plugin makes for one pod go:
 * the one in which the bridge plugin masquerades also without a rule, which it gets after its name.
 */
export function withoutRulesOf(
  { id, network }: { readonly id: string; readonly network: string },
  saved: string,
): string {
  const lines = saved.split('\n');
  const rules = lines
    .filter((line) => line.startsWith('-A ') && line.includes(id))
    .map((line) => ({ line, chain: line.split(' ')[1] ?? '' }));
  const own = masqueradingChain(id, network);
  const isThere = lines.some((line) => line.startsWith(`:${own} `));
  if (rules.length === 0 && !isThere) return '';
  const chains = [
    ...new Set([
      ...rules.map(({ chain }) => chain).filter((chain) => /^CNI-(?:[A-Z]+-)?[0-9a-f]{16,24}$/.test(chain)),
      ...(isThere ? [own] : []),
    ]),
  ];
  const single = rules.filter(({ chain }) => !chains.includes(chain)).map(({ line }) => line.replace(/^-A /, '-D '));
  return [
    '*nat',
    ...single,
    ...chains.map((chain) => `-F ${chain}`),
    ...chains.map((chain) => `-X ${chain}`),
    'COMMIT',
    '',
  ].join('\n');
}

/** As containernetworking/plugins call it (pkg/utils, FormatChainName): a hash, cut to what iptables allows. */
function masqueradingChain(id: string, network: string): string {
  return `CNI-${createHash('sha512').update(`${network}${id}`).digest('hex')}`.slice(0, 28);
}
