/**
 * The process of a container: arguments, environment, working directory, capabilities, limits, stop signal. PURE.
 *
 * Also the process of an exec, which is the container's with other arguments.
 */
import { posix } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { Capability, ContainerConfig, Signal } from '../cri-api/types.ts';
import type { ImageConfig, RuntimeProcess } from '../oci/spec-types.ts';
import type { ContainerSpecInput, NodeFacts, SpecDefaults, StopSignal } from '../ports/spec.ts';

// Arguments

/** MAX_ARG_STRLEN: the kernel refuses to execute anything with a longer argument or environment string. */
const ARG_BYTES_MAX = 131_071;

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * What a container runs, by Kubernetes' rules: `command` replaces the image's ENTRYPOINT and CMD, `args` alone replaces
 * CMD.
 * @throws InvalidArgument when nothing is left to run, or for strings that cannot be executed.
 */
export function commandOf(config: ContainerConfig, image: ImageConfig): readonly string[] {
  const args = config.args.length > 0 ? config.args : config.command.length > 0 ? [] : image.cmd;
  const argv = [...(config.command.length > 0 ? config.command : image.entrypoint), ...args];
  if (argv.length === 0)
    throw invalid('no command specified: set command or args, or use an image with ENTRYPOINT or CMD');
  for (const arg of argv) checkString('argument', arg);
  return argv;
}

/**
 * The working directory: the config's, else the image's, else `/`; relative ones count from `/`. It has to be made
 * inside the root before.
 * @throws InvalidArgument for places that lead out of the container (CVE-2024-21626: `/proc/self/fd/7`).
 */
export function workingDirOf(config: ContainerConfig, image: ImageConfig): string {
  const wanted = config.workingDir || image.workingDir || '/';
  checkString('working directory', wanted);
  const clean = posix.resolve('/', wanted);
  checkWorkingDir(clean);
  return clean;
}

/**
 * To be asked again for what the directory resolves to inside the root: an image may hide such a place behind a
 * symlink.
 * @throws InvalidArgument for a directory of a process's descriptors, root or cwd.
 */
export function checkWorkingDir(path: string): void {
  if (/^\/(proc\/(self|thread-self|\d+)(\/|$)|dev\/fd(\/|$))/.test(posix.resolve('/', path))) {
    throw invalid(
      `working directory ${quote(path)} is inside a process's own /proc entry, which may lead out ` +
        'of the container (CVE-2024-21626)',
    );
  }
}

// Environment

/**
 * Where the helper for undecodable values is mounted; on the container's own /dev, so that it leaves no trace in its
 * root.
 */
export const ENV_EXEC_PATH = '/dev/.berth-env';
const END_OF_ENV = '--';

interface Environment {
  /** KEY=value, Unicode. */
  readonly plain: readonly string[];
  /** KEY=value with every byte of the value that is not plain ASCII as %xx, for the helper. */
  readonly escaped: readonly string[];
  readonly get: (name: string) => string | undefined;
}

/**
 * The environment: defaults of the configuration < image < CRI, later wins and keeps the place of the first. PATH,
 * HOSTNAME, HOME, and TERM for a terminal, are there unless somebody sets them.
 *
 * CRI values are bytes. JSON holds Unicode only: runc replaces other bytes in config.json by U+FFFD and crun refuses
 * the file, so such values travel as arguments of a helper (`envExec`) that sets them and executes the command.
 */
export function environmentOf(
  input: Pick<ContainerSpecInput, 'config' | 'image' | 'defaults' | 'hostname' | 'user' | 'envExec'> &
    Partial<Pick<ContainerSpecInput, 'fallbackEnv' | 'fixedEnv'>>,
): Environment {
  const values = new Map<string, string | Uint8Array>([['PATH', DEFAULT_PATH]]);
  if (input.config.tty) values.set('TERM', 'xterm');
  if (input.hostname !== '') values.set('HOSTNAME', input.hostname);
  for (const entry of [...input.defaults.env, ...input.image.env]) {
    const equals = entry.indexOf('=');
    // An entry without a name or "=" in an image config sets nothing in any runtime.
    if (equals > 0) values.set(entry.slice(0, equals), entry.slice(equals + 1));
  }
  for (const { key, value } of input.config.envs) {
    if (key === '' || key.includes('=')) throw invalid(`environment variable name ${quote(key)} is empty or holds "="`);
    values.set(key, decode(value) ?? value);
  }
  if (!values.has('HOME')) values.set('HOME', input.user.home);
  for (const [key, value] of input.fallbackEnv ?? []) if (!values.has(key)) values.set(key, value);
  for (const [key, value] of input.fixedEnv ?? []) values.set(key, value);
  return render(values, input.envExec);
}

function render(values: ReadonlyMap<string, string | Uint8Array>, envExec: string): Environment {
  const plain: string[] = [];
  const escaped: string[] = [];
  for (const [key, value] of values) {
    if (typeof value === 'string') {
      checkString(`environment variable ${quote(key)}:`, `${key}=${value}`);
      plain.push(`${key}=${value}`);
      continue;
    }
    if (value.includes(0)) throw invalid(`environment variable ${quote(key)}: a NUL byte cannot be in an environment`);
    if (envExec === '')
      throw invalid(
        `environment variable ${quote(key)} is not UTF-8, and this node has no helper to pass it; encode the value`,
      );
    const entry = `${key}=${escapeBytes(value)}`;
    checkString(`environment variable ${quote(key)}:`, entry);
    escaped.push(entry);
  }
  const home = values.get('HOME');
  if (typeof home === 'string') checkHome(home);
  return {
    plain,
    escaped,
    get: (name) => {
      const value = values.get(name);
      return typeof value === 'string' ? value : undefined;
    },
  };
}

/** Undefined for bytes that are not UTF-8. A byte order mark is content here. */
function decode(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function escapeBytes(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes)
    text +=
      byte > 0x20 && byte < 0x7f && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).padStart(2, '0')}`;
  return text;
}

/** @throws InvalidArgument if `home` could end a line of passwd (CVE-2022-4318). */
export function checkHome(home: string): void {
  for (const char of home) {
    if (char < ' ' || char === '\x7f')
      throw invalid(`HOME ${quote(home)} holds a control character, which could forge a line of /etc/passwd`);
  }
}

/** The value of HOME that the container's first process will see. @throws as environmentOf. */
export function homeOf(input: Pick<ContainerSpecInput, 'config' | 'image' | 'defaults' | 'user'>): string {
  return environmentOf({ ...input, hostname: '', envExec: ENV_EXEC_PATH }).get('HOME') ?? '';
}

// Capabilities

/** Every capability that Linux has, by number (capabilities(7); 40 is the last as of 6.18). */
export const CAPABILITIES: readonly string[] = (
  'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE ' +
  'NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW ' +
  'IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT ' +
  'SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD ' +
  'LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM ' +
  'BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE'
)
  .split(' ')
  .map((name) => `CAP_${name}`);
const KNOWN = new Set(CAPABILITIES);

/**
 * The five capability sets. A privileged container starts from everything the daemon may give, others from the
 * configured defaults; ALL in add or drop counts before single names, and drop wins over add. Inheritable and ambient
 * stay empty (CVE-2022-24769, CVE-2018-1000400) but for `add_ambient_capabilities` (KEP-2763), which are in all five,
 * and `add_inheritable_capabilities` of the configuration. What the daemon itself may not give is left out: a runtime
 * fails on it.
 * @throws InvalidArgument for an unknown name to add.
 */
export function capabilitySets(
  asked: Capability | undefined,
  privilege: 'privileged' | 'confined',
  facts: NodeFacts,
  defaults: SpecDefaults,
): NonNullable<RuntimeProcess['capabilities']> {
  const add = capabilityNames(asked?.addCapabilities ?? [], 'add_capabilities');
  const ambient = capabilityNames(asked?.addAmbientCapabilities ?? [], 'add_ambient_capabilities');
  const drop = new Set((asked?.dropCapabilities ?? []).map(capabilityName));
  const all = privilege === 'privileged' || add.includes('ALL');
  const base = all ? CAPABILITIES : defaults.capabilities.map(capabilityName);
  const given = new Set([
    ...(drop.has('ALL') ? [] : base),
    ...expandAll(drop.has('ALL') ? add.filter((name) => name !== 'ALL') : add),
    ...expandAll(ambient),
  ]);
  const allowed = CAPABILITIES.filter((name) => given.has(name) && !drop.has(name) && facts.capabilities.has(name));
  const raised = new Set(expandAll(ambient));
  const ambientSet = allowed.filter((name) => raised.has(name));
  return {
    bounding: allowed,
    effective: allowed,
    permitted: allowed,
    inheritable: defaults.addInheritableCapabilities ? allowed : ambientSet,
    ambient: ambientSet,
  };
}

function expandAll(names: readonly string[]): readonly string[] {
  return names.includes('ALL') ? CAPABILITIES : names;
}

function capabilityNames(names: readonly string[], field: string): readonly string[] {
  return names.map((name) => {
    const full = capabilityName(name);
    if (full !== 'ALL' && !KNOWN.has(full))
      throw invalid(`${field}: unknown capability ${quote(name)}; see capabilities(7) for the names`);
    return full;
  });
}

/** With `CAP_` and in capitals; ALL stays ALL. */
function capabilityName(name: string): string {
  const upper = name.trim().toUpperCase();
  if (upper === 'ALL' || upper === 'CAP_ALL') return 'ALL';
  return upper.startsWith('CAP_') ? upper : `CAP_${upper}`;
}

// Limits

const RLIMIT_INFINITY = 18_446_744_073_709_551_615n;
const RLIMITS = new Set(
  'AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK'
    .split(' ')
    .map((name) => `RLIMIT_${name}`),
);

/**
 * The configured ulimits within what the daemon can raise (a hard limit above its own needs CAP_SYS_RESOURCE). -1 is
 * unlimited. @throws InvalidArgument for unknown names.
 */
export function rlimitsOf(defaults: SpecDefaults, facts: NodeFacts): NonNullable<RuntimeProcess['rlimits']> {
  return defaults.ulimits.map(({ name, soft, hard }) => {
    const type = name.toUpperCase().startsWith('RLIMIT_') ? name.toUpperCase() : `RLIMIT_${name.toUpperCase()}`;
    if (!RLIMITS.has(type)) throw invalid(`unknown ulimit ${quote(name)}; want one of setrlimit(2) such as nofile`);
    const most = facts.rlimitMax.get(type) ?? RLIMIT_INFINITY;
    const clampedHard = least(unlimited(hard), most);
    return { type, hard: clampedHard, soft: least(unlimited(soft), clampedHard) };
  });
}

function unlimited(value: bigint): bigint {
  return value < 0n ? RLIMIT_INFINITY : value;
}

function least(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

// Execs

/**
 * The process of an exec in a container: the container's user, environment, working directory, capabilities and
 * confinement with other arguments. Pass the container's own `process`, as built.
 * @throws InvalidArgument for an empty command or strings that cannot be executed.
 */
export function execProcess(
  process: RuntimeProcess,
  request: { readonly argv: readonly string[]; readonly tty: boolean },
): RuntimeProcess {
  if (request.argv.length === 0) throw invalid('exec: no command given');
  for (const arg of request.argv) checkString('exec: argument', arg);
  const { terminal: _terminal, consoleSize: _size, ...rest } = process;
  const env =
    request.tty && !process.env.some((entry) => entry.startsWith('TERM='))
      ? [...process.env, 'TERM=xterm']
      : process.env;
  return {
    ...rest,
    ...(request.tty ? { terminal: true } : {}),
    env,
    args: [...envPrefix(process.args), ...request.argv],
  };
}

/** The helper call in front of a command, empty for containers that do not need it. */
function envPrefix(args: readonly string[]): readonly string[] {
  return args[0] === ENV_EXEC_PATH ? args.slice(0, args.indexOf(END_OF_ENV) + 1) : [];
}

/** The command, behind the helper if there are values for it. */
export function argsWith(environment: Environment, command: readonly string[]): string[] {
  return environment.escaped.length === 0
    ? [...command]
    : [ENV_EXEC_PATH, ...environment.escaped, END_OF_ENV, ...command];
}

// Stop signal

/** Linux' own numbers on every architecture but mips, sparc and alpha; CRI's enum numbers are others. */
const SIGNAL_NUMBERS: Readonly<Record<string, number>> = {
  HUP: 1,
  INT: 2,
  QUIT: 3,
  ILL: 4,
  TRAP: 5,
  ABRT: 6,
  IOT: 6,
  BUS: 7,
  FPE: 8,
  KILL: 9,
  USR1: 10,
  SEGV: 11,
  USR2: 12,
  PIPE: 13,
  ALRM: 14,
  TERM: 15,
  STKFLT: 16,
  CHLD: 17,
  CLD: 17,
  CONT: 18,
  STOP: 19,
  TSTP: 20,
  TTIN: 21,
  TTOU: 22,
  URG: 23,
  XCPU: 24,
  XFSZ: 25,
  VTALRM: 26,
  PROF: 27,
  WINCH: 28,
  IO: 29,
  POLL: 29,
  PWR: 30,
  SYS: 31,
};
const RTMIN = 34;
const RTMAX = 64;

/**
 * config.stop_signal, else the image's StopSignal, else SIGTERM. An image's value may be a name with or without SIG,
 * `SIGRTMIN+3`, or a number; one that makes no sense counts as SIGTERM: the image runs elsewhere, too.
 */
export function effectiveStopSignal(config: Signal, image: string): StopSignal {
  const wanted = config === 'SIGNAL_RUNTIME_DEFAULT' ? undefined : criSignal(config);
  return wanted ?? imageSignal(image) ?? { number: 15, name: 'SIGNAL_SIGTERM' };
}

function criSignal(name: Signal): StopSignal | undefined {
  const realTime = /^SIGNAL_SIGRT(MIN|MAX)(?:(?:PLUS|MINUS)(\d+))?$/.exec(name);
  if (realTime !== null) {
    const offset = Number(realTime[2] ?? 0);
    return { number: realTime[1] === 'MIN' ? RTMIN + offset : RTMAX - offset, name };
  }
  const number = SIGNAL_NUMBERS[name.replace('SIGNAL_SIG', '')];
  return number === undefined ? undefined : { number, name };
}

function imageSignal(text: string): StopSignal | undefined {
  const name = text.trim().toUpperCase().replace(/^SIG/, '');
  const realTime = /^RT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(name);
  if (realTime !== null) {
    const offset = Number(`${realTime[2] ?? '+'}${realTime[3] ?? 0}`);
    return named((realTime[1] === 'MIN' ? RTMIN : RTMAX) + offset);
  }
  if (/^\d{1,2}$/.test(name)) return named(Number(name));
  return Object.hasOwn(SIGNAL_NUMBERS, name) ? named(SIGNAL_NUMBERS[name] ?? 0) : undefined;
}

/** CRI's name of a Linux signal number; RTMIN+1 to RTMIN+15 and RTMAX-14 to RTMAX, as signal(7) lists them. */
function named(number: number): StopSignal | undefined {
  if (number >= RTMIN && number <= RTMAX) {
    const offset =
      number - RTMIN <= 15 ? (['MIN', 'PLUS', number - RTMIN] as const) : (['MAX', 'MINUS', RTMAX - number] as const);
    return { number, name: `SIGNAL_SIGRT${offset[0]}${offset[2] === 0 ? '' : `${offset[1]}${offset[2]}`}` as Signal };
  }
  const name = Object.keys(SIGNAL_NUMBERS).find((each) => SIGNAL_NUMBERS[each] === number);
  return name === undefined ? undefined : { number, name: `SIGNAL_SIG${name}` as Signal };
}

/** @throws InvalidArgument for what execve(2) cannot take. */
function checkString(what: string, text: string): void {
  if (text.includes('\0')) throw invalid(`${what} holds a NUL byte`);
  if (
    text.length > ARG_BYTES_MAX ||
    (text.length > ARG_BYTES_MAX / 3 && new TextEncoder().encode(text).length > ARG_BYTES_MAX)
  ) {
    throw invalid(`${what} is longer than ${ARG_BYTES_MAX} bytes, the most that Linux executes`);
  }
}

function invalid(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}
