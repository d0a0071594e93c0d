/**
 * The one place where secrets are taken out of text before it is written into a log. Every step reads the text once,
 * whatever is in it: what a registry, an image or a container says goes through here.
 */

/** What stands where a secret was. */
export const REDACTED = '[redacted]';

/** Names of fields whose values are never shown: credentials, env values, annotations. */
const SECRET_FIELD = /password|passwd|secret|token|credential|authorization|^auth$|^env$|annotations/i;
/** Cheap test that spares most lines the rest. */
const SUSPICIOUS = /:\/\/|basic|bearer|passw|secret|token|credential|key/i;
const WORDS = /[^\s"']+/g;
const AUTHORIZATION = /\b(basic|bearer)(\s+)[a-z0-9+/=._~-]{4,}/gi;
/** `password=`, `"identityToken": "`, `\"secret\":\"`, `AWS_SECRET_ACCESS_KEY=`; group 2 is the quote of the value. */
const NAMED =
  /(?:passw(?:or)?d|secret|token|credential|(api|access)[_-]?key)[\w-]{0,20}\\?["']?\s{0,4}[=:]\s{0,4}(\\?["'])?/gi;
const END_OF_BARE = /[\s"',;&}\\]/;

/** True if a field of this name is not to be shown. */
export function isSecretName(name: string): boolean {
  return SECRET_FIELD.test(name);
}

/**
 * Text without user info and query strings of URLs, Authorization values, and the values of words that are named like
 * secrets. What surrounds them stays, so that an operator sees what it was about.
 */
export function redact(text: string): string {
  if (!SUSPICIOUS.test(text)) return text;
  const urls = text.includes('://')
    ? text.replace(WORDS, (word) => (word.includes('://') ? bareUrls(word) : word))
    : text;
  return withoutNamed(urls.replace(AUTHORIZATION, `$1$2${REDACTED}`));
}

/** A word with one URL in it, or several, as a proxy writes them. */
function bareUrls(word: string): string {
  const query = word.indexOf('?', word.indexOf('://'));
  const [scheme = '', ...rest] = (query === -1 ? word : word.slice(0, query)).split('://');
  const bare = [scheme, ...rest.map(withoutUserInfo)].join('://');
  if (query === -1) return bare;
  return query === word.length - 1 ? `${bare}?` : `${bare}?${REDACTED}`;
}

/** Up to the last @ before the path: a password may have one, too. */
function withoutUserInfo(afterScheme: string): string {
  const end = afterScheme.search(/[/#]/);
  const at = (end === -1 ? afterScheme : afterScheme.slice(0, end)).lastIndexOf('@');
  return at <= 0 ? afterScheme : `${REDACTED}${afterScheme.slice(at)}`;
}

function withoutNamed(text: string): string {
  let out = '';
  let done = 0;
  for (const match of text.matchAll(NAMED)) {
    if (match.index < done) continue; // Part of a value.
    const start = match.index + match[0].length;
    const end = endOfValue(text, start, match[2]);
    out += text.slice(done, start) + (end > start ? REDACTED : '');
    done = end;
  }
  return out + text.slice(done);
}

function endOfValue(text: string, start: number, quote: string | undefined): number {
  if (quote === undefined) {
    const length = text.slice(start).search(END_OF_BARE);
    return length === -1 ? text.length : start + length;
  }
  for (let end = text.indexOf(quote, start); end !== -1; end = text.indexOf(quote, end + 1))
    if (end === start || text[end - 1] !== '\\') return end;
  return text.length;
}
