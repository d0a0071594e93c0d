/**
 * Image names, by the grammar of the docker/distribution `reference` package, read by hand in one pass.
 *
 *     registry.example:5000/team/app:v1.2@sha256:…
 *     ╰────── domain ─────╯ ╰ path ─╯ ╰tag╯ ╰ digest ╯
 *
 * No regular expression sees unbounded text: anything longer than a name can be is refused by its length, so a
 * reference of a megabyte costs nothing. A name without a domain is a *short name*; which registries it may mean is
 * a matter of policy (`pkg/image/policy.ts`), so parsing and completing are two steps.
 */
import { isDigest, quote } from '../base/ids.ts';
import type { Digest } from '../base/ids.ts';
import { RuntimeError } from '../base/errors.ts';

/** A reference as written: `domain` undefined means a short name. */
export interface ParsedName {
  readonly domain: string | undefined;
  readonly path: string;
  readonly tag: string | undefined;
  readonly digest: Digest | undefined;
}

/** A complete reference: it says which registry. */
export interface Reference extends ParsedName {
  readonly domain: string;
}

/** Where docker's short names live. */
export const DOCKER_DOMAIN = 'docker.io';
const DEFAULT_TAG = 'latest';

/** distribution/reference: NameTotalLengthMax, and the tag rule `[\w][\w.-]{0,127}`. */
const PATH_MAX_CHARS = 255;
const TAG_MAX_CHARS = 128;
const DOMAIN_MAX_CHARS = 255 + ':65535'.length;
/** The sum of the parts with a sha512 digest and the separators. */
const REFERENCE_MAX_CHARS = DOMAIN_MAX_CHARS + 1 + PATH_MAX_CHARS + 1 + TAG_MAX_CHARS + 1 + 'sha512:'.length + 128;

/**
 * Reads a reference without deciding what a short name means. Docker's rule for what is a domain: the first component,
 * if another follows and it has a dot, a colon or an upper-case letter, or is `localhost`.
 * @throws InvalidArgument that says which part is wrong.
 */
export function parseName(text: string): ParsedName {
  if (text === '') throw invalid(text, 'it is empty');
  if (text.length > REFERENCE_MAX_CHARS)
    throw invalid(text, `it has ${text.length} characters, more than ${REFERENCE_MAX_CHARS}`);
  const { rest: named, digest } = cutDigest(text);
  const { rest: name, tag } = cutTag(text, named);
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  const hasDomain = slash >= 0 && looksLikeDomain(first);
  const domain = hasDomain ? canonicalDomain(checkDomain(text, first)) : undefined;
  const path = hasDomain ? name.slice(slash + 1) : name;
  checkPath(text, path);
  // 64 hex characters always mean an image id (distribution: ErrNameNotCanonical's sibling), never a short name.
  if (domain === undefined && path.length === 64 && isAll(path, isLowerHex))
    throw invalid(text, 'a name of 64 hexadecimal characters can only be an image id');
  return { domain, path, tag, digest };
}

/**
 * Reads a reference and gives a short name docker's meaning: `busybox` is `docker.io/library/busybox`. The tag stays as
 * written.
 */
export function parseReference(text: string): Reference {
  return complete(parseName(text), DOCKER_DOMAIN);
}

/**
 * The reference that `name` means on `domain`, with docker.io's `library/` for one-component names. A domain of its own
 * wins.
 */
export function complete(name: ParsedName, domain: string): Reference {
  const owner = canonicalDomain(name.domain ?? domain);
  const path = owner === DOCKER_DOMAIN && !name.path.includes('/') ? `library/${name.path}` : name.path;
  return { domain: owner, path, tag: name.tag, digest: name.digest };
}

/** `:latest` added where neither tag nor digest is given. */
export function withDefaultTag(reference: Reference): Reference {
  return reference.tag === undefined && reference.digest === undefined ? { ...reference, tag: DEFAULT_TAG } : reference;
}

/** `docker.io/library/busybox`: no tag, no digest. */
export function repositoryName(reference: Reference): string {
  return `${reference.domain}/${reference.path}`;
}

/** The whole reference in its one spelling. */
export function formatReference(reference: Reference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`;
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`;
  return `${repositoryName(reference)}${tag}${digest}`;
}

/**
 * True if `text` may be a domain by itself: `host`, `host:port`, `[v6]:port`; for configuration that names registries.
 */
export function isDomain(text: string): boolean {
  return domainProblem(text) === undefined;
}

function cutDigest(text: string): { readonly rest: string; readonly digest: Digest | undefined } {
  const at = text.indexOf('@');
  if (at < 0) return { rest: text, digest: undefined };
  const digest = text.slice(at + 1);
  if (!isDigest(digest))
    throw invalid(text, 'what follows @ is not a digest (want sha256:<64 lower-case hex> or sha512:<128 hex>)');
  return { rest: text.slice(0, at), digest };
}

function cutTag(text: string, named: string): { readonly rest: string; readonly tag: string | undefined } {
  const colon = named.lastIndexOf(':');
  if (colon < 0 || colon < named.lastIndexOf('/')) return { rest: named, tag: undefined };
  const tag = named.slice(colon + 1);
  const wellFormed =
    tag.length > 0 && tag.length <= TAG_MAX_CHARS && tag[0] !== '.' && tag[0] !== '-' && isAll(tag, isTagChar);
  if (!wellFormed)
    throw invalid(
      text,
      `${quote(tag)} is not a tag (letters, digits, _ . -, at most ${TAG_MAX_CHARS}, not starting with . or -)`,
    );
  return { rest: named.slice(0, colon), tag };
}

function looksLikeDomain(first: string): boolean {
  return first.includes('.') || first.includes(':') || first === 'localhost' || first !== first.toLowerCase();
}

function canonicalDomain(domain: string): string {
  return domain === 'index.docker.io' ? DOCKER_DOMAIN : domain;
}

function checkDomain(text: string, domain: string): string {
  const problem = domainProblem(domain);
  if (problem !== undefined) throw invalid(text, `${quote(domain)} is not a registry host: ${problem}`);
  return domain;
}

function domainProblem(domain: string): string | undefined {
  if (domain.length > DOMAIN_MAX_CHARS) return 'too long';
  const bracket = domain.startsWith('[') ? domain.indexOf(']') : -1;
  const colon = domain.indexOf(':', bracket + 1);
  const host = colon < 0 ? domain : domain.slice(0, colon);
  if (colon >= 0) {
    const port = domain.slice(colon + 1);
    if (port.length === 0 || port.length > 5 || !isAll(port, isDigit) || Number(port) > 65_535 || Number(port) === 0)
      return 'the port is not a number from 1 to 65535';
  }
  if (bracket >= 0) {
    const inside = host.slice(1, -1);
    return host.endsWith(']') && inside.length >= 2 && isAll(inside, (c) => isHex(c) || c === 0x3a || c === 0x2e)
      ? undefined
      : 'not an IPv6 address in brackets';
  }
  for (const label of host.split('.')) {
    if (label === '' || label.startsWith('-') || label.endsWith('-') || !isAll(label, isLabelChar))
      return 'a label may have letters, digits and inner hyphens';
  }
  return undefined;
}

function checkPath(text: string, path: string): void {
  if (path === '') throw invalid(text, 'the repository is missing');
  if (path.length > PATH_MAX_CHARS) throw invalid(text, `the repository has more than ${PATH_MAX_CHARS} characters`);
  for (const component of path.split('/')) {
    if (component === '') throw invalid(text, 'the repository has an empty component');
    if (!isPathComponent(component)) {
      throw invalid(
        text,
        `${quote(component)} is not a repository component (lower-case letters and digits, joined by ` +
          '. _ __ or hyphens)',
      );
    }
  }
}

/** `[a-z0-9]+ ((\.|_|__|-+) [a-z0-9]+)*` */
function isPathComponent(component: string): boolean {
  let separator = '';
  for (let i = 0; i < component.length; i++) {
    const code = component.charCodeAt(i);
    if (isLowerAlnum(code)) {
      separator = '';
      continue;
    }
    if (i === 0) return false;
    const c = component.charAt(i);
    const allowed =
      separator === ''
        ? c === '.' || c === '_' || c === '-'
        : (separator === '_' && c === '_') || (separator[0] === '-' && c === '-');
    if (!allowed) return false;
    separator += c;
  }
  return separator === '';
}

function isAll(text: string, test: (code: number) => boolean): boolean {
  for (let i = 0; i < text.length; i++) if (!test(text.charCodeAt(i))) return false;
  return true;
}
const isDigit = (c: number): boolean => c >= 0x30 && c <= 0x39;
const isLower = (c: number): boolean => c >= 0x61 && c <= 0x7a;
const isUpper = (c: number): boolean => c >= 0x41 && c <= 0x5a;
const isLowerAlnum = (c: number): boolean => isDigit(c) || isLower(c);
const isLowerHex = (c: number): boolean => isDigit(c) || (c >= 0x61 && c <= 0x66);
const isHex = (c: number): boolean => isLowerHex(c) || (c >= 0x41 && c <= 0x46);
const isLabelChar = (c: number): boolean => isLowerAlnum(c) || isUpper(c) || c === 0x2d;
const isTagChar = (c: number): boolean => isLabelChar(c) || c === 0x2e || c === 0x5f;

function invalid(text: string, why: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `image reference ${quote(text)} cannot be used: ${why}`);
}
