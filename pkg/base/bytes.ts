/**
 * Large buffers, given back when they are done with instead of when the collector gets to them: it counts objects, and
 * a few large ones are no reason to run.
 */

/** Below this malloc keeps the memory anyway, and Node's pool shares it. */
const WORTHWHILE_BYTES = 1024 * 1024;

/**
 * Frees the memory behind `bytes` now. Nothing may use it, or another view of it, afterwards; views are empty from then
 * on.
 */
export function discard(bytes: Uint8Array): void {
  if (bytes.buffer instanceof ArrayBuffer && bytes.buffer.byteLength >= WORTHWHILE_BYTES) bytes.buffer.transfer(0);
}
