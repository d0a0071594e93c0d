/**
 * PURE. What runtimes and monitors say, read: error texts out of logfmt, JSON and plain stderr; the monitor's one line
 * on the sync pipe; what a runtime can do.
 */
import { RuntimeError, type ErrorCode } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { knownVulnerable } from './advisories.ts';
import type { RuntimeFeatures } from '../ports/runtime.ts';
import { parseJson } from '../base/json.ts';

/** runsc puts its JSON entries one behind the other; a line may hold several. */
const BETWEEN_ENTRIES = /(?<=\})\s*(?=\{"(?:msg|level|time)":)/;

/**
 * The cause in what a failed runtime printed: the errors in its log (runc's logfmt, `--log-format json`), else the last
 * lines as they are. Bounded, without control characters; '' if it said nothing.
 */
export function errorText(output: string): string {
  const lines = output
    .split('\n')
    .flatMap((line) => line.split(BETWEEN_ENTRIES))
    .map((line) => line.trim())
    .filter((line) => line !== '');
  const logged = new Set(lines.map(loggedError).filter((message) => message !== undefined));
  const text = (logged.size > 0 ? [...logged] : lines.slice(-5)).join('; ');
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ').trim();
  return clean.length <= limits.runtimeMessageChars ? clean : `…${clean.slice(-limits.runtimeMessageChars)}`;
}

/** The message of an error-level log line in either format; undefined for any other line. */
function loggedError(line: string): string | undefined {
  if (line.startsWith('{')) {
    const entry = parseObject(line);
    return entry !== undefined && isErrorLevel(entry['level']) && typeof entry['msg'] === 'string'
      ? entry['msg']
      : undefined;
  }
  const match = /(?:^|\s)level=(\w+)\s+msg=("(?:[^"\\]|\\.)*"|[^"\s]\S*)/.exec(line);
  if (match === null || !isErrorLevel(match[1])) return undefined;
  const message = match[2] ?? '';
  return message.startsWith('"') ? unquote(message) : message;
}

function isErrorLevel(level: unknown): boolean {
  return level === 'error' || level === 'fatal' || level === 'panic';
}

/** Go's %q is JSON's string but for \x.. and the like, which stay as they are. */
function unquote(text: string): string {
  try {
    return parseJson(text) as string;
  } catch {
    return text.slice(1, -1);
  }
}

/**
 * What kind of failure a runtime's text speaks of, where the text is the only source: a program that cannot be
 * executed, or a working directory that is not there, is the request's fault.
 */
export function codeOfText(text: string): ErrorCode {
  if (/executable file\b.*\bnot found|exec format error|no such file or directory.*\$PATH/i.test(text))
    return 'InvalidArgument';
  if (
    /\b(exec|executable|failed to load)\b.*(permission denied|no such file|is a directory|not a directory)/i.test(text)
  )
    return 'InvalidArgument';
  // crun, of a directory.
  if (/\bopen executable: operation not permitted/i.test(text)) return 'InvalidArgument';
  if (
    /\bch(ange )?dir\b|\bcwd\b|working directory/i.test(text) &&
    /no such file|not a directory|permission denied|outside of container/i.test(text)
  )
    return 'InvalidArgument';
  if (/no space left|cannot allocate memory|too many open files|resource temporarily unavailable/i.test(text))
    return 'ResourceExhausted';
  return 'Internal';
}

/**
 * What a shell would exit with after a runtime said this of a program that it was to execute (POSIX, "Exit Status for
 * Commands"): 127 if it was not found, 126 if it was and cannot be executed. Undefined if the text is about something
 * else.
 */
export function shellCodeOfText(text: string): number | undefined {
  if (codeOfText(text) !== 'InvalidArgument') return undefined;
  const isFound = /permission denied|operation not permitted|exec format error|is a directory/i.test(text);
  const isElsewhere = /\bch(ange )?dir\b|\bcwd\b|working directory/i.test(text);
  return isFound || isElsewhere ? 126 : 127;
}

/** The monitor's answer on the sync pipe. */
export type SyncMessage =
  | { readonly kind: 'pid'; readonly pid: number }
  | { readonly kind: 'failed'; readonly message: string };

/** `{"pid": N}`, or `{"pid": -1, "message": "…"}` (api-version 1 says "data"). @throws Internal for anything else. */
export function parseSyncMessage(line: string): SyncMessage {
  const object = parseObject(line);
  const pid = object?.['pid'] ?? object?.['data'];
  if (object === undefined || typeof pid !== 'number' || !Number.isInteger(pid))
    throw new RuntimeError('Internal', `the monitor sent something that is no answer: ${quote(line)}`);
  if (pid > 0) return { kind: 'pid', pid };
  return { kind: 'failed', message: typeof object['message'] === 'string' ? object['message'] : '' };
}

/** The object that `text` is; undefined if it is none. */
export function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = parseJson(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

/** As much of a finished command as is needed here. */
export interface Answer {
  readonly exitCode: number;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

type Abilities = Omit<RuntimeFeatures, 'kind' | 'version' | 'vulnerable' | 'broken'>;

const NOTHING: Abilities = {
  ociVersion: '1.0.2',
  recursiveReadOnlyMounts: false,
  idmappedMounts: false,
  userNamespaces: false,
  seccomp: false,
  apparmor: false,
  capabilities: undefined,
  ownKernel: false,
};

/**
 * What a runtime can do, from its `features` (runc, newer crun) or, where it has none, from its name and version.
 * @param version answer of `--version`, undefined if the binary cannot be run. @param features answer of `features`, a
 * refusal where there is no such command.
 */
export function featuresOf(path: string, version: Answer | undefined, features: Answer | undefined): RuntimeFeatures {
  const named = parseVersion(version?.stdout.toString('utf8') ?? '');
  const kind = named?.kind ?? path.slice(path.lastIndexOf('/') + 1);
  const answered = features?.exitCode === 0 ? parseFeatures(features.stdout.toString('utf8')) : undefined;
  const release = named?.version ?? '';
  return {
    kind,
    version: release,
    ...(answered ?? byVersion(kind, release)),
    vulnerable: knownVulnerable(kind, release),
    broken: brokenBecause(path, version, named),
  };
}

/** `runc version 1.1.5+ds1`, `crun version 1.8.1`, `runsc version 0.0~20221219.0`. */
function parseVersion(text: string): { readonly kind: string; readonly version: string } | undefined {
  const match = /^([a-z][a-z0-9_-]{0,31}) version:? ?v?([0-9A-Za-z.+~_-]{1,64})/m.exec(text);
  return match === null ? undefined : { kind: match[1] ?? '', version: match[2] ?? '' };
}

function brokenBecause(path: string, version: Answer | undefined, named: object | undefined): string | undefined {
  if (version === undefined) return `${path} cannot be run`;
  if (version.exitCode !== 0)
    return `${path} --version failed: ${errorText(version.stderr.toString('utf8')) || `exit code ${version.exitCode}`}`;
  return named !== undefined ? undefined : `${path} --version does not answer like an OCI runtime`;
}

/** The document of runtime-spec features.md; undefined if it is none. */
function parseFeatures(text: string): Abilities | undefined {
  const document = parseObject(text);
  const max = document?.['ociVersionMax'];
  if (document === undefined || typeof max !== 'string') return undefined;
  const options = strings(document['mountOptions']);
  const linux = object(document['linux']);
  return {
    ociVersion: releaseOf(max),
    recursiveReadOnlyMounts: options.includes('rro'),
    idmappedMounts: object(object(linux['mountExtensions'])['idmap'])['enabled'] === true,
    userNamespaces: strings(linux['namespaces']).includes('user'),
    seccomp: object(linux['seccomp'])['enabled'] === true,
    apparmor: object(linux['apparmor'])['enabled'] === true,
    capabilities: Array.isArray(linux['capabilities']) ? strings(linux['capabilities']) : undefined,
    ownKernel: false,
  };
}

/**
 * A pre-release (`1.0.2-dev`) accepts what the release before it does, and its name would only be refused elsewhere.
 */
function releaseOf(version: string): string {
  return /^\d+\.\d+\.\d+/.exec(version)?.[0] ?? NOTHING.ociVersion;
}

/**
 * Runtimes that have no `features`. crun got it in 1.8.7, and knows recursive options and idmapped mounts since 1.5; up
 * to 1.8 it refuses specs of 1.2 and above. runc got it in 1.1.0, runsc not yet.
 */
function byVersion(kind: string, version: string): Abilities {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10) || 0);
  if (kind === 'crun') {
    const modern = major > 1 || (major === 1 && minor >= 5);
    return {
      ...NOTHING,
      ociVersion: modern ? '1.1.0' : '1.0.2',
      recursiveReadOnlyMounts: modern,
      idmappedMounts: modern,
      userNamespaces: true,
      seccomp: true,
      apparmor: true,
    };
  }
  if (kind === 'runc') return { ...NOTHING, userNamespaces: true, seccomp: true, apparmor: true };
  if (kind === 'runsc') return { ...NOTHING, capabilities: GVISOR_CAPABILITIES, ownKernel: true };
  return NOTHING;
}

/** gVisor has those of Linux up to CAP_AUDIT_READ (37), and ends on the name of a later one. */
const GVISOR_CAPABILITIES: readonly string[] = (
  'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE ' +
  'NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER ' +
  'SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE ' +
  'SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL ' +
  'SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ'
)
  .split(' ')
  .map((name) => `CAP_${name}`);

function object(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function strings(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((each) => typeof each === 'string') : [];
}
