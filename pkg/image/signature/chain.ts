/**
 * Whether a certificate comes from an authority that is trusted: a path from it over others, which nobody trusts by
 * themselves, to one of the roots, all of them good at one time (RFC 5280, 6). Pure.
 */
import { RuntimeError } from '../../base/errors.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import type { Certificate } from './certificate.ts';

/** What a path is looked for in. */
export interface Authorities {
  readonly roots: readonly Certificate[];
  /** Those that may lie between; they prove nothing by being here. */
  readonly between: readonly Certificate[];
}

/** Code signing, and any purpose at all (RFC 5280, 4.2.1.12). */
const PURPOSES: readonly string[] = ['1.3.6.1.5.5.7.3.3', '2.5.29.37.0'];

/**
 * Content if there is a path from `leaf` to a root, on which everybody was valid at `atMs` and may be used for code
 * signing. As the container tools have it, no certificate is asked for whether it was revoked.
 * @throws FailedPrecondition that says why there is none.
 */
export function checkChain(leaf: Certificate, { roots, between }: Authorities, atMs: number): void {
  checkUsable(leaf, atMs);
  if (roots.some(({ bytes }) => bytes.equals(leaf.bytes))) return;
  const search = { roots, between, atMs, checksCount: 0, why: [] as string[] };
  if (leadsToRoot([leaf], search)) return;
  throw refusal(
    search.why[0] === undefined
      ? 'its certificate is from an authority that the policy does not name'
      : `its certificate does not lead to an authority that the policy names: ${search.why[0]}`,
  );
}

interface Search extends Authorities {
  readonly atMs: number;
  /** Signatures that were verified: whoever signs can send certificates whose paths have no end. */
  checksCount: number;
  /** Of the authorities that had the right name and could not be used. */
  readonly why: string[];
}

function leadsToRoot(path: readonly Certificate[], search: Search): boolean {
  const last = path.at(-1);
  if (last === undefined) return false;
  const hasName = (each: Certificate): boolean => each.subject.equals(last.issuer);
  for (const root of search.roots) if (hasName(root) && isIssuer(root, path, last, search)) return true;
  for (const next of search.between) {
    if (!hasName(next) || path.some(({ bytes }) => bytes.equals(next.bytes))) continue;
    if (isIssuer(next, path, last, search) && leadsToRoot([...path, next], search)) return true;
  }
  return false;
}

function isIssuer(issuer: Certificate, path: readonly Certificate[], last: Certificate, search: Search): boolean {
  try {
    if (!issuer.isAuthority) throw refusal('one on the way may not issue certificates');
    // The leaf is not counted.
    if (path.length - 1 > issuer.maxBetween) throw refusal('one on the way may not have so many below it');
    checkUsable(issuer, search.atMs, 'an authority');
  } catch (error) {
    search.why.push((error as Error).message);
    return false;
  }
  if (++search.checksCount > limits.certificateChecksCount)
    throw refusal(`its certificates have more ways than ${limits.certificateChecksCount} steps`);
  return last.isSignedBy(issuer);
}

function checkUsable(certificate: Certificate, atMs: number, what = 'its certificate'): void {
  const day = (ms: number): string => new Date(ms).toISOString();
  if (atMs < certificate.notBeforeMs)
    throw refusal(`${what} was not valid yet at ${day(atMs)}, only from ${day(certificate.notBeforeMs)} on`);
  if (atMs > certificate.notAfterMs)
    throw refusal(`${what} had expired at ${day(atMs)}; it was valid until ${day(certificate.notAfterMs)}`);
  if (certificate.purposes?.some((each) => PURPOSES.includes(each)) === false)
    throw refusal(`${what} is not for code signing (${quote(certificate.purposes.join(', '), 200)})`);
}

function refusal(message: string): RuntimeError {
  return new RuntimeError('FailedPrecondition', message);
}
