#!/usr/bin/env node
/**
 * Turns `cri/api.proto` and `cri/node.proto` into two checked-in files:
 *
 *   pkg/cri-api/types.ts      every message as a plain TypeScript interface, every enum as a union of its names
 *   cri/generated/schema.ts   one line of text per message, which cri/codec.ts reads and writes by, and the RPCs
 *
 * Why not pbjs: its static classes keep 64-bit fields as Long objects and encode a bigint silently as 0, maps as
 * objects with a prototype (`__proto__` as a label is lost), need a conversion layer in both directions, and are some
 * hundred times as much text to load at start-up.
 *
 *   node scripts/gen-api.mjs           write the files
 *   node scripts/gen-api.mjs --check   exit 1 and name the files that are stale; write nothing
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';

const home = join(dirname(fileURLToPath(import.meta.url)), '..');
const sources = ['cri/api.proto', 'cri/node.proto'];

/** TypeScript type of every scalar that cri/codec.ts knows; anything else in a .proto is refused. */
const scalars = {
  string: 'string',
  bytes: 'Uint8Array',
  bool: 'boolean',
  int32: 'number',
  uint32: 'number',
  int64: 'bigint',
  uint64: 'bigint',
  double: 'number',
};

/** All messages, enums and services of one file, in the order of the text. */
function load(path) {
  const root = new protobuf.Root();
  const { package: name } = protobuf.parse(readFileSync(join(home, path), 'utf8'), root, {
    keepCase: true,
    alternateCommentMode: true,
  });
  root.resolveAll();
  const found = { package: name, messages: [], enums: [], services: [] };
  const walk = (space) => {
    for (const each of space.nestedArray) {
      if (each instanceof protobuf.Type) {
        if (each.oneofsArray.length > 0) throw new Error(`${path}: ${each.name}: oneof and optional are not supported`);
        found.messages.push(each);
        walk(each);
      } else if (each instanceof protobuf.Enum) found.enums.push(each);
      else if (each instanceof protobuf.Service) found.services.push(each);
      else throw new Error(`${path}: cannot handle ${each.fullName}`);
    }
  };
  walk(root.lookup(name));
  for (const each of found.enums) {
    enumNames(each).forEach((value, number) => {
      if (each.values[value] !== number) throw new Error(`${path}: enum ${each.name} is not 0, 1, 2, …`);
    });
  }
  return found;
}

const enumNames = (type) => Object.keys(type.values).sort((a, b) => type.values[a] - type.values[b]);

/** lowerCamelCase: `pod_sandbox_id` → podSandboxId, `CDI_devices` → cdiDevices, `Avg10` → avg10. */
function camel(name) {
  return name
    .split('_')
    .map((part, i) => {
      if (i > 0) return part[0].toUpperCase() + part.slice(1);
      return part === part.toUpperCase() ? part.toLowerCase() : part[0].toLowerCase() + part.slice(1);
    })
    .join('');
}

/** What a field is: its TypeScript type, and whether it is a map, enum, message or scalar. */
function shape(field) {
  field.resolve();
  const { repeated, type } = field;
  if (field instanceof protobuf.MapField) {
    if (field.keyType !== 'string' || type !== 'string') throw new Error(`${field.fullName}: only map<string, string>`);
    return { kind: 'map', ts: 'StringMap', repeated: false };
  }
  if (field.resolvedType instanceof protobuf.Enum) return { kind: 'enum', ts: field.resolvedType.name, repeated };
  if (field.resolvedType !== null) return { kind: 'message', ts: field.resolvedType.name, repeated };
  if (scalars[type] === undefined) throw new Error(`${field.fullName}: type ${type} is not supported`);
  return { kind: 'scalar', type, ts: scalars[type], repeated };
}

function doc(comment, indent = '') {
  if (!comment) return '';
  const lines = comment
    .trim()
    .split('\n')
    .map((line) => line.trimEnd());
  if (lines.length === 1) return `${indent}/** ${lines[0]} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}`.trimEnd()).join('\n')}\n${indent} */\n`;
}

const byNumber = (message) => [...message.fieldsArray].sort((a, b) => a.id - b.id);

function typeOf(field) {
  const is = shape(field);
  if (is.kind === 'map') return `: ${is.ts}`;
  if (is.repeated) return `: readonly ${is.ts}[]`;
  return is.kind === 'message' ? `?: ${is.ts} | undefined` : `: ${is.ts}`;
}

const HEAD = `
/**
 * The messages of CRI v1 (and of berth.v1.Node) as plain interfaces. No runtime: everybody may \`import type\` from
 * here.
 *
 * What a decoded message holds, always: every scalar, list and map is present (\`''\`, \`0\`, \`0n\`, \`false\`,
 * the first name of an enum, \`[]\`, an empty map); a message field is \`undefined\` when the sender left it out.
 * int64 and uint64 are \`bigint\`, bytes are \`Uint8Array\`, enums are their names in the .proto, maps are objects
 * without a prototype.
 *
 * To build a message for sending, use \`Input<T>\`: the same shape with everything optional, deep. A decoded \`T\` is
 * an \`Input<T>\` too.
 */

/** A decoded map: no prototype, so that \`constructor\` and \`__proto__\` are keys like any other. */
export type StringMap = Readonly<Record<string, string>>;

/** What may be sent as a \`T\`: any field may be left out, at any depth. */
export type Input<T> = T extends string | number | bigint | boolean | Uint8Array | undefined
  ? T
  : T extends readonly (infer Item)[]
    ? readonly Input<Item>[]
    : string extends keyof T
      ? T
      : { readonly [Field in keyof T]?: Input<T[Field]> | undefined };
`;

function emitTypes(files) {
  let out = `// Generated by scripts/gen-api.mjs from ${sources.join(' and ')}; do not edit.${HEAD}`;
  for (const file of files) {
    out += `\n// ${file.package}\n`;
    for (const each of file.enums) out += emitEnum(each);
    for (const each of file.messages) out += emitMessage(each);
  }
  out += '\n/** Every message under its name. */\nexport interface Messages {\n';
  for (const each of files.flatMap((file) => file.messages)) out += `  readonly ${each.name}: ${each.name};\n`;
  out += '}\n';
  out +=
    '\n/** Every RPC under its name in lower camel case. `streams`: the reply is a stream of ' +
    'such messages. */\nexport interface Rpcs {\n';
  for (const method of files.flatMap((file) => file.services).flatMap((service) => service.methodsArray)) {
    if (method.requestStream) throw new Error(`${method.fullName}: client streams are not supported`);
    out +=
      `${doc(method.comment, '  ')}  readonly ${camel(method.name)}: { readonly request: ` +
      `${method.requestType}; readonly reply: ${method.responseType}; readonly streams: ` +
      `${Boolean(method.responseStream)} };\n`;
  }
  return `${out}}\n`;
}

function emitEnum(each) {
  const comments = enumNames(each)
    .filter((name) => each.comments[name])
    .map((name) => `- \`${name}\`: ${each.comments[name].replaceAll('\n', ' ')}`);
  const text = [each.comment, ...comments].filter(Boolean).join('\n');
  const names = enumNames(each).map((name) => `'${name}'`);
  const union = names.length > 6 ? names.map((name) => `\n  | ${name}`).join('') : ` ${names.join(' | ')}`;
  return `\n${doc(text)}export type ${each.name} =${union};\n`;
}

function emitMessage(each) {
  const head = `\n${doc(each.comment)}`;
  if (each.fieldsArray.length === 0) return `${head}export type ${each.name} = Readonly<Record<string, never>>;\n`;
  const fields = byNumber(each).map((field) => {
    const text = field.options?.deprecated ? `${field.comment ?? ''}\n@deprecated`.trim() : field.comment;
    return `${doc(text, '  ')}  readonly ${camel(field.name)}${typeOf(field)};\n`;
  });
  return `${head}export interface ${each.name} {\n${fields.join('')}}\n`;
}

function typeName(field) {
  const is = shape(field);
  if (is.kind === 'map') return 'map';
  return `${is.kind === 'scalar' ? is.type : is.ts}${is.repeated ? '[]' : ''}`;
}

function emitSchema(files) {
  const quoted = (text) => `'${text}'`;
  let out = `// Generated by scripts/gen-api.mjs from ${sources.join(' and ')}; do not edit.
import type { Messages, Rpcs } from '../../pkg/cri-api/types.ts';

/** Names of every enum, in the order of their numbers 0, 1, 2, … */
export const enums = {
`;
  for (const each of files.flatMap((file) => file.enums))
    out += `  ${each.name}: ${quoted(enumNames(each).join(' '))},\n`;
  out +=
    '} as const;\n\n/** Fields of every message, in the order of their numbers: number, name and ' +
    'type of each. */\nexport const messages: Readonly<Record<keyof Messages, string>> = {\n';
  for (const each of files.flatMap((file) => file.messages)) {
    out += `  ${each.name}: ${quoted(
      byNumber(each)
        .map((field) => `${field.id} ${camel(field.name)} ${typeName(field)}`)
        .join(', '),
    )},\n`;
  }
  out +=
    '};\n\n/** Path, request, reply, and whether replies are streamed, of every RPC. */\nexport ' +
    'const rpcs: Readonly<Record<keyof Rpcs, readonly [path: string, request: keyof Messages, ' +
    'reply: keyof Messages, streams: boolean]>> = {\n';
  for (const file of files) {
    for (const service of file.services) {
      for (const method of service.methodsArray) {
        out +=
          `  ${camel(method.name)}: ['/${file.package}.${service.name}/${method.name}', ` +
          `'${method.requestType}', '${method.responseType}', ${Boolean(method.responseStream)}],\n`;
      }
    }
  }
  return `${out}};\n`;
}

/** The files that are not what the .proto files say: path and what it should hold. The test asks for it too. */
export function stale() {
  const files = sources.map(load);
  return Object.entries({
    'pkg/cri-api/types.ts': emitTypes(files),
    'cri/generated/schema.ts': emitSchema(files),
  }).filter(([path, text]) => {
    return !existsSync(join(home, path)) || readFileSync(join(home, path), 'utf8') !== text;
  });
}

if (import.meta.main) {
  const found = stale();
  if (process.argv.includes('--check')) {
    for (const [path] of found)
      console.error(`${path} is not what ${sources.join(' and ')} say: run \`node scripts/gen-api.mjs\``);
    process.exitCode = found.length > 0 ? 1 : 0;
  } else {
    for (const [path, text] of found) writeFileSync(join(home, path), text);
  }
}
