/** Pieces of text that strangers wrote. PURE. */

/**
 * `text` without the `sign`s at its end. Of a regular expression (`=+$`) a text with many of them elsewhere takes time
 * by the square.
 */
export function withoutEnd(text: string, sign: string): string {
  let end = text.length;
  while (end > 0 && text[end - 1] === sign) end--;
  return text.slice(0, end);
}
