/**
 * What a transparency log says of a signature: Rekor's "signed entry timestamp", as cosign keeps it beside the
 * signature (the annotation `dev.sigstore.cosign/bundle`). The log's key vouches that the log has an entry of this
 * signature, by this key or certificate, over this text, since that time. Nobody is asked for it. Pure.
 */
import { verify } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { RuntimeError } from '../../base/errors.ts';
import { isObject } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';
import { digestOf } from '../../oci/digest.ts';
import { onlyBlock } from './certificate.ts';
import { members, parseStrictJson, textOf } from './strict-json.ts';

/** What the entry has to be about. */
export interface LoggedSignature {
  readonly payload: Buffer;
  readonly signature: Buffer;
  /** DER of the key or of the certificate by which it was made. */
  readonly by: Buffer;
}

/**
 * Since when the log has the entry, in milliseconds since 1970, if one of the log's `keys` vouches for it and it is
 * about `signed`.
 * @throws FailedPrecondition or InvalidArgument that says what does not fit.
 */
export function checkEntry(text: string, keys: readonly KeyObject[], signed: LoggedSignature): number {
  const what = "the log's entry";
  const bundle = members(parseStrictJson(Buffer.from(text), what), what, ['SignedEntryTimestamp', 'Payload']);
  const names = ['body', 'integratedTime', 'logID', 'logIndex'] as const;
  const payload = members(bundle['Payload'], what, names);
  const { integratedTime, logIndex } = payload;
  if (!isWhole(integratedTime) || !isWhole(logIndex)) throw malformed('its time or its place is no whole number');
  // Canonical JSON (RFC 8785): members in order, texts and numbers as ECMAScript writes them.
  const [body, logID] = [textOf(payload, 'body', what), textOf(payload, 'logID', what)];
  const canonical = Buffer.from(JSON.stringify({ body, integratedTime, logID, logIndex }));
  const made = base64(textOf(bundle, 'SignedEntryTimestamp', what));
  if (!keys.some((key) => verify('sha256', canonical, key, made)))
    throw refusal('the log that the policy names does not vouch for it (another log, or the entry was changed)');
  checkBody(parseStrictJson(base64(body), 'the body of its entry in the log'), signed);
  return integratedTime * 1000;
}

/** The entry itself (Rekor's kind hashedrekord, version 0.0.1), of which the log's key has vouched for every byte. */
function checkBody(body: unknown, { payload, signature, by }: LoggedSignature): void {
  const [kind, version] = [at(body, 'kind'), at(body, 'apiVersion')];
  if (kind !== 'hashedrekord' || version !== '0.0.1')
    throw malformed(`it is a ${quote(String(kind))} of version ${quote(String(version))}; want hashedrekord, 0.0.1`);
  const key = textAt(body, 'spec', 'signature', 'publicKey', 'content');
  if (!onlyBlock(base64(key).toString('latin1')).equals(by)) throw refusal('its entry in the log is of another key');
  if (!base64(textAt(body, 'spec', 'signature', 'content')).equals(signature))
    throw refusal('its entry in the log is of another signature');
  const algorithm = textAt(body, 'spec', 'data', 'hash', 'algorithm');
  if (algorithm !== 'sha256') throw malformed(`it has a hash by ${quote(algorithm)}; want sha256`);
  if (`sha256:${textAt(body, 'spec', 'data', 'hash', 'value').toLowerCase()}` !== digestOf(payload))
    throw refusal('its entry in the log is of another text');
}

function at(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (from, key) => (isObject(from) && Object.hasOwn(from, key) ? from[key] : undefined),
    value,
  );
}

function textAt(value: unknown, ...path: readonly string[]): string {
  const found = at(value, ...path);
  if (typeof found !== 'string') throw malformed(`it has no ${path.join('.')}`);
  return found;
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

/** @throws InvalidArgument for what is not base64: Node would pass over it. */
function base64(text: string): Buffer {
  const bytes = Buffer.from(text, 'base64');
  if (bytes.toString('base64') !== text) throw malformed('something in it is not base64');
  return bytes;
}

function malformed(why: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `its entry in the log cannot be used: ${why}`);
}

function refusal(message: string): RuntimeError {
  return new RuntimeError('FailedPrecondition', message);
}
