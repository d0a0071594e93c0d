import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { assert } from 'chai';
import { buildGolden, type GoldenCase } from './golden/request.ts';
import { violations } from './golden/shape.ts';
import { stringifyExact } from '../base/json.ts';
import { stringifySpec } from './index.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';

/**
 * Each file is a request and the spec it becomes. `UPDATE_GOLDEN=1` rewrites the specs; the diff in review is what the
 * kubelet will notice.
 */
const DIRECTORY = new URL('golden/', import.meta.url);
const files = readdirSync(DIRECTORY)
  .filter((name) => name.endsWith('.json'))
  .sort();

/** Integers above 2^53 stay exact, as bigint. */
function parseExact(text: string): unknown {
  const keep = (_key: string, value: unknown, context?: { readonly source?: string }): unknown =>
    typeof value === 'number' &&
    Number.isInteger(value) &&
    !Number.isSafeInteger(value) &&
    context?.source !== undefined
      ? BigInt(context.source)
      : value;
  return JSON.parse(text, keep);
}

/** JSON that a reviewer can read: what fits in a line is in one. */
function pretty(value: unknown, indent = ''): string {
  const flat = stringifyExact(value);
  if (flat.length + indent.length <= 140 || typeof value !== 'object' || value === null) return flat;
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    if (value.every((each) => typeof each === 'string')) return wrapped(value, indent);
    return `[\n${value.map((each) => inner + pretty(each, inner)).join(',\n')}\n${indent}]`;
  }
  return `{\n${Object.entries(value)
    .map(([key, each]) => `${inner}${JSON.stringify(key)}: ${pretty(each, inner)}`)
    .join(',\n')}\n${indent}}`;
}

/** A long list of words, filled lines. */
function wrapped(words: readonly string[], indent: string): string {
  const lines: string[] = [];
  for (const word of words.map((each) => JSON.stringify(each))) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + word.length < 150) lines[lines.length - 1] = `${last}, ${word}`;
    else lines.push(`${indent}  ${word}`);
  }
  return `[\n${lines.join(',\n')}\n${indent}]`;
}

/** What a spec must be whatever was asked for. */
function brokenPromises(spec: RuntimeSpec): string[] {
  const broken: string[] = [];
  const seen: string[] = [];
  for (const { destination } of spec.mounts) {
    if (seen.some((earlier) => earlier.startsWith(`${destination}/`)))
      broken.push(`${destination} is mounted after something below it`);
    seen.push(destination);
  }
  const types = spec.linux.namespaces.map((each) => each.type);
  if (new Set(types).size !== types.length) broken.push('a namespace appears twice');
  if (!types.includes('mount')) broken.push('no mount namespace of its own');
  const caps = spec.process.capabilities ?? {};
  for (const cap of caps.inheritable ?? [])
    if (!(caps.bounding ?? []).includes(cap)) broken.push(`${cap} is inheritable but not bounding`);
  for (const cap of caps.ambient ?? [])
    if (!(caps.inheritable ?? []).includes(cap)) broken.push(`${cap} is ambient but not inheritable`);
  if (spec.process.oomScoreAdj === undefined)
    broken.push("oomScoreAdj is missing: the daemon's own would be inherited");
  if (!(spec.process.user.additionalGids ?? []).includes(spec.process.user.gid))
    broken.push('the primary gid is not a supplementary one (CVE-2022-2995)');
  if (spec.linux.resources?.devices?.[0] === undefined) broken.push('no device rule: everything would be allowed');
  return broken;
}

describe('golden specs', () => {
  it('are at least sixty', () => {
    assert.isAtLeast(files.length, 60);
  });
  for (const file of files) {
    const golden = parseExact(readFileSync(new URL(file, DIRECTORY), 'utf8')) as GoldenCase;
    it(`${file.replace('.json', '')}: ${golden.about}`, () => {
      const spec = buildGolden(golden);
      const written = parseExact(stringifySpec(spec));
      assert.deepEqual(violations(written), [], 'violates the runtime-spec');
      assert.deepEqual(brokenPromises(spec), []);
      if (process.env['UPDATE_GOLDEN'] === '1')
        writeFileSync(new URL(file, DIRECTORY), `${pretty({ ...golden, spec: written as never })}\n`);
      else assert.deepEqual(written, golden.spec);
    });
  }
});
