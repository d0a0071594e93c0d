/** Seccomp profiles as files hold them: the JSON that Docker, Podman and Kubernetes share. PURE. */
import type { GoObject } from '../base/go.ts';
import { limits } from '../base/limits.ts';
import { ERRNOS } from './errno.ts';
import { Reader } from './parse.ts';
import type { SeccompArg, SeccompCondition, SeccompProfile, SeccompRule } from './seccomp.ts';

const ACTION = /^SCMP_ACT_(ALLOW|ERRNO|KILL|KILL_THREAD|KILL_PROCESS|LOG|NOTIFY|TRACE|TRAP)$/;
const OPERATOR = /^SCMP_CMP_(NE|LT|LE|EQ|GE|GT|MASKED_EQ)$/;
const FLAGS = new Set([
  'SECCOMP_FILTER_FLAG_TSYNC',
  'SECCOMP_FILTER_FLAG_LOG',
  'SECCOMP_FILTER_FLAG_SPEC_ALLOW',
  'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV',
]);
/** A system call has arguments 0 to 5. */
const ARGUMENTS_MAX = 6;
/** The kernel's MAX_ERRNO. */
const ERRNO_MAX = 4095;

const read = new Reader('seccomp profile', 'json', 'hides');

/**
 * A profile file's JSON value as a profile, read as Go reads it: names in any case, null and "" are not set. Strict
 * where a mistake would open a hole: a list of rules, of names or of conditions that is "" is not taken for none.
 * Unknown keys such as comments are passed over. @throws InvalidArgument that names the place.
 */
export function parseSeccompProfile(value: unknown): SeccompProfile {
  const root = read.object(value, 'profile');
  const archMap = root.get('archMap');
  return {
    defaultAction: read.matching(root.get('defaultAction'), ACTION, 'defaultAction'),
    defaultErrnoRet: errnoOf(root, 'defaultErrno', 'defaultErrno'),
    architectures: read.strings(root.get('architectures'), 'architectures'),
    archMap:
      archMap === undefined
        ? undefined
        : read.list(archMap, 'archMap', limits.documentEntriesCount).map((each, at) => archMapEntry(each, at)),
    flags: read.strings(root.get('flags'), 'flags')?.map((flag) => {
      if (!FLAGS.has(flag)) throw read.unlike('flags', `want ${[...FLAGS].join(' or ')}`, flag);
      return flag;
    }),
    listenerPath: read.string(root.get('listenerPath'), 'listenerPath'),
    listenerMetadata: read.string(root.get('listenerMetadata'), 'listenerMetadata'),
    syscalls: read
      .list(read.meant(root, 'syscalls', 'profile'), 'syscalls', limits.documentEntriesCount)
      .map((rule, at) => parseRule(rule, `syscalls[${at}]`)),
  };
}

function parseRule(value: unknown, at: string): SeccompRule {
  const rule = read.object(value, at);
  const single = read.string(rule.get('name'), `${at}.name`) ?? '';
  const names = read.strings(read.meant(rule, 'names', at), `${at}.names`) ?? [];
  if (single !== '' && names.length > 0) throw read.fail(at, 'has both name and names');
  return {
    names: single !== '' ? [single] : names,
    action: read.matching(rule.get('action'), ACTION, `${at}.action`),
    errnoRet: errnoOf(rule, 'errno', `${at}.errno`),
    args: read
      .list(read.meant(rule, 'args', at), `${at}.args`, ARGUMENTS_MAX)
      .map((arg, index) => parseArg(arg, `${at}.args[${index}]`)),
    includes: parseCondition(read.meant(rule, 'includes', at), `${at}.includes`),
    excludes: parseCondition(read.meant(rule, 'excludes', at), `${at}.excludes`),
  };
}

/** What a call is answered: by name or as text, as in the profile of containers/common, or else by the older number. */
function errnoOf(from: GoObject, name: 'errno' | 'defaultErrno', at: string): number | undefined {
  const text = read.string(from.get(name), at);
  if (text === undefined) return read.number(from.get(`${name}Ret`), `${at}Ret`, ERRNO_MAX);
  const errno = ERRNOS.get(text) ?? (/^\d{1,4}$/.test(text) ? Number(text) : undefined);
  if (errno === undefined || errno > ERRNO_MAX) throw read.unlike(at, 'want the name of an errno, or its number', text);
  return errno;
}

function parseArg(value: unknown, at: string): SeccompArg {
  const arg = read.object(value, at);
  const valueTwo = read.meant(arg, 'valueTwo', at);
  return {
    index: read.number(read.meant(arg, 'index', at), `${at}.index`, ARGUMENTS_MAX - 1) ?? 0,
    value: read.unsigned(read.meant(arg, 'value', at), `${at}.value`),
    ...(valueTwo === undefined ? {} : { valueTwo: read.unsigned(valueTwo, `${at}.valueTwo`) }),
    op: read.matching(arg.get('op'), OPERATOR, `${at}.op`),
  };
}

function parseCondition(value: unknown, at: string): SeccompCondition | undefined {
  if (value === undefined) return undefined;
  const condition = read.object(value, at);
  const minKernel = read.string(condition.get('minKernel'), `${at}.minKernel`);
  if (minKernel !== undefined && !/^\d{1,4}\.\d{1,4}(\.\d{1,4})?$/.test(minKernel))
    throw read.unlike(`${at}.minKernel`, 'want a kernel version', minKernel);
  return {
    caps: read.strings(read.meant(condition, 'caps', at), `${at}.caps`),
    arches: read.strings(read.meant(condition, 'arches', at), `${at}.arches`),
    minKernel,
  };
}

function archMapEntry(value: unknown, index: number): NonNullable<SeccompProfile['archMap']>[number] {
  const at = `archMap[${index}]`;
  const entry = read.object(value, at);
  return {
    architecture: read.string(entry.get('architecture'), `${at}.architecture`) ?? '',
    subArchitectures: read.strings(entry.get('subArchitectures'), `${at}.subArchitectures`) ?? [],
  };
}
