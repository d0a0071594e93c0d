/** JSON of records, messages and configuration: what `info` of a verbose status holds, and what `--json` prints. */

/** Numbers where a double is exact, else strings; bytes as base64; maps and sets as objects and lists. */
export function toJson(value: unknown, indent?: number): string {
  return JSON.stringify(
    value,
    (_key, each: unknown) => {
      if (typeof each === 'bigint')
        return each <= BigInt(Number.MAX_SAFE_INTEGER) && each >= BigInt(Number.MIN_SAFE_INTEGER)
          ? Number(each)
          : each.toString();
      if (each instanceof Uint8Array) return Buffer.from(each).toString('base64');
      if (each instanceof Map) return Object.fromEntries(each);
      if (each instanceof Set) return [...each];
      return each;
    },
    indent,
  );
}
