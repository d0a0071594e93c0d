/**
 * The Distinguished Encoding Rules (X.690, 10), as far as certificates need them: nested elements of a tag, a length
 * and content. One way to write a thing is taken and no other, so that nobody else can read it differently. Pure.
 */
import { RuntimeError } from '../../base/errors.ts';

/** The tags that certificates have (RFC 5280, appendix A). */
export const tags = {
  boolean: 0x01,
  integer: 0x02,
  bits: 0x03,
  octets: 0x04,
  oid: 0x06,
  utf8: 0x0c,
  printable: 0x13,
  ia5: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
} as const;

/** One element. */
export interface Element {
  readonly tag: number;
  readonly content: Buffer;
  /** Tag and length with it: what signatures are made over, and what is compared. */
  readonly whole: Buffer;
}

/** All of `bytes` as elements, one after the other. @throws InvalidArgument for anything but DER. */
function elementsOf(bytes: Buffer): readonly Element[] {
  const found: Element[] = [];
  for (let at = 0; at < bytes.length; ) {
    const element = elementAt(bytes, at);
    found.push(element);
    at += element.whole.length;
  }
  return found;
}

/** What is in a sequence (or what else has `tag`). @throws InvalidArgument if it is something else. */
export function childrenOf(element: Element | undefined, tag: number = tags.sequence): readonly Element[] {
  return elementsOf(contentOf(element, tag));
}

/** The content of an element with that tag. @throws InvalidArgument if it is something else, or not there. */
export function contentOf(element: Element | undefined, tag: number): Buffer {
  if (element === undefined) throw malformed('something is missing');
  if (element.tag !== tag) throw malformed(`there is a tag ${element.tag} where ${tag} should be`);
  return element.content;
}

/** The only element in `bytes`. @throws InvalidArgument for none, or more. */
export function onlyElement(bytes: Buffer): Element {
  const element = elementAt(bytes, 0);
  if (element.whole.length !== bytes.length) throw malformed('something follows it');
  return element;
}

/** An object identifier as people write it, `2.5.29.17`. @throws InvalidArgument for a number beyond 32 bits. */
export function oidOf(element: Element | undefined): string {
  const content = contentOf(element, tags.oid);
  const numbers: number[] = [];
  let number = 0;
  for (const [index, byte] of content.entries()) {
    // A leading 0x80 is a zero that another writer would leave out (X.690, 8.19.2).
    if (number === 0 && byte === 0x80) throw malformed('an object identifier has a number that is padded');
    number = number * 128 + (byte & 0x7f);
    if (number > 0xffff_ffff) throw malformed('an object identifier has a number that is too large');
    if ((byte & 0x80) !== 0) {
      if (index === content.length - 1) throw malformed('an object identifier ends too early');
      continue;
    }
    numbers.push(number);
    number = 0;
  }
  const [first = 0, ...rest] = numbers;
  if (numbers.length === 0) throw malformed('an object identifier is empty');
  const top = Math.min(2, Math.floor(first / 40));
  return [top, first - 40 * top, ...rest].join('.');
}

/** The bits of a bit string that are whole bytes, as signatures and keys are. @throws InvalidArgument otherwise. */
export function wholeBits(element: Element | undefined): Buffer {
  const content = contentOf(element, tags.bits);
  if (content[0] !== 0) throw malformed('a bit string is not of whole bytes');
  return content.subarray(1);
}

/** Seconds matter in certificates, and times are UTC (RFC 5280, 4.1.2.5). @throws InvalidArgument for other forms. */
export function timeOf(element: Element | undefined): number {
  const isShort = element?.tag === tags.utcTime;
  const text = contentOf(element, isShort ? tags.utcTime : tags.generalizedTime).toString('latin1');
  const digits = isShort ? /^\d{12}Z$/.test(text) : /^\d{14}Z$/.test(text);
  if (!digits) throw malformed('a time is not written as it has to be');
  const full = isShort ? `${Number(text.slice(0, 2)) < 50 ? 20 : 19}${text}` : text;
  const iso = full.replace(/^(....)(..)(..)(..)(..)(..)Z$/, '$1-$2-$3T$4:$5:$6.000Z');
  const time = new Date(iso);
  // Date takes 31 February for a day in March; 24:00 and the second 60 are not what RFC 5280 writes.
  if (Number.isNaN(time.getTime()) || time.toISOString() !== iso) throw malformed('a time is none');
  return time.getTime();
}

function elementAt(bytes: Buffer, start: number): Element {
  const tag = bytes[start];
  const first = bytes[start + 1];
  if (tag === undefined || first === undefined) throw malformed('it ends too early');
  if ((tag & 0x1f) === 0x1f) throw malformed('a tag is of the long form');
  let at = start + 2;
  let length = first;
  if (first > 0x7f) {
    // Four bytes of length are 4 GiB; 0x80 would be a length that nobody tells.
    const count = first & 0x7f;
    if (count === 0 || count > 4 || at + count > bytes.length) throw malformed('a length is none');
    length = bytes.readUIntBE(at, count);
    if (length < 0x80 || bytes[at] === 0) throw malformed('a length is not written in the shortest way');
    at += count;
  }
  if (at + length > bytes.length) throw malformed('it ends too early');
  return { tag, content: bytes.subarray(at, at + length), whole: bytes.subarray(start, at + length) };
}

function malformed(what: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `it is not in DER: ${what}`);
}
