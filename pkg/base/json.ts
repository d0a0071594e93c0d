/** JSON as the OCI's documents need it. */

declare global {
  interface JSON {
    /** ECMAScript's raw JSON text ("JSON.parse source text access"); Node has it, TypeScript's library not yet. */
    rawJSON(text: string): unknown;
  }
}

/**
 * JSON in which a bigint is a number of all its digits: a document of the OCI (a spec, LinuxResources, a process) with
 * exact 64-bit integers.
 */
export function stringifyExact(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) => (typeof item === 'bigint' ? JSON.rawJSON(String(item)) : item));
}
