/**
 * The OCI runtime-spec's config.json as a structural check, written from the specification's text (config.md,
 * config-linux.md, 1.2): which keys there are, of which type and range, which are required. Unknown keys are errors: a
 * runtime ignores them silently. For tests only.
 */

/** Checks a value and reports every violation with its place. */
type Shape = (value: unknown, at: string, report: (message: string) => void) => void;

/** Every violation of the runtime-spec in a parsed config.json, `path: what`; empty if there is none. */
export function violations(spec: unknown): readonly string[] {
  const found: string[] = [];
  SPEC(spec, '$', (message) => found.push(message));
  return found;
}

const text =
  (pattern?: RegExp): Shape =>
  (value, at, report) => {
    if (typeof value !== 'string') report(`${at}: want a string`);
    else if (pattern !== undefined && !pattern.test(value))
      report(`${at}: ${JSON.stringify(value)} does not match ${pattern.source}`);
  };
const oneOf =
  (...words: readonly string[]): Shape =>
  (value, at, report) => {
    if (typeof value !== 'string' || !words.includes(value)) report(`${at}: want one of ${words.join(', ')}`);
  };
const integer =
  (min: bigint, max: bigint): Shape =>
  (value, at, report) => {
    const exact =
      typeof value === 'bigint'
        ? value
        : typeof value === 'number' && Number.isInteger(value)
          ? BigInt(value)
          : undefined;
    if (exact === undefined || exact < min || exact > max) report(`${at}: want an integer from ${min} to ${max}`);
  };
const flag: Shape = (value, at, report) => {
  if (typeof value !== 'boolean') report(`${at}: want true or false`);
};
const list =
  (item: Shape, least = 0): Shape =>
  (value, at, report) => {
    if (!Array.isArray(value)) return report(`${at}: want a list`);
    if (value.length < least) report(`${at}: want at least ${least} entries`);
    for (const [index, each] of value.entries()) item(each, `${at}[${index}]`, report);
  };
const mapOf =
  (item: Shape): Shape =>
  (value, at, report) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return report(`${at}: want an object`);
    for (const [key, each] of Object.entries(value)) item(each, `${at}.${key}`, report);
  };
/** `required` keys end in `!`. */
const object =
  (keys: Readonly<Record<string, Shape>>): Shape =>
  (value, at, report) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return report(`${at}: want an object`);
    const shapes = new Map(Object.entries(keys).map(([key, shape]) => [key.replace('!', ''), shape]));
    for (const key of Object.keys(keys))
      if (key.endsWith('!') && !Object.hasOwn(value, key.slice(0, -1)))
        report(`${at}: ${key.slice(0, -1)} is required`);
    for (const [key, each] of Object.entries(value)) {
      const shape = shapes.get(key);
      if (shape === undefined) report(`${at}.${key}: no such key in the runtime-spec`);
      else shape(each, `${at}.${key}`, report);
    }
  };

const uint32 = integer(0n, 2n ** 32n - 1n);
const uint64 = integer(0n, 2n ** 64n - 1n);
const int64 = integer(-(2n ** 63n), 2n ** 63n - 1n);
const absolute = text(/^\/[^\0]*$/);
const word = text(/^[^\0]+$/);
const string = text(/^[^\0]*$/);
const capabilities = list(text(/^CAP_[A-Z_]+$/));
const idMappings = list(object({ 'containerID!': uint32, 'hostID!': uint32, 'size!': uint32 }));
const hook = object({
  'path!': absolute,
  args: list(string),
  env: list(text(/^[^=\0]+=[^\0]*$/)),
  timeout: integer(1n, 2n ** 31n),
});

const PROCESS = object({
  terminal: flag,
  consoleSize: object({ 'height!': uint64, 'width!': uint64 }),
  'cwd!': absolute,
  env: list(text(/^[^=\0]+=[^\0]*$/)),
  'args!': list(string, 1),
  rlimits: list(object({ 'type!': text(/^RLIMIT_[A-Z]+$/), 'hard!': uint64, 'soft!': uint64 })),
  'user!': object({ 'uid!': uint32, 'gid!': uint32, umask: integer(0n, 0o777n), additionalGids: list(uint32) }),
  capabilities: object({
    bounding: capabilities,
    effective: capabilities,
    permitted: capabilities,
    inheritable: capabilities,
    ambient: capabilities,
  }),
  apparmorProfile: word,
  selinuxLabel: word,
  oomScoreAdj: integer(-1000n, 1000n),
  noNewPrivileges: flag,
});

const RESOURCES = object({
  devices: list(
    object({
      'allow!': flag,
      type: oneOf('a', 'b', 'c', 'p', 'u'),
      major: int64,
      minor: int64,
      access: text(/^[rwm]{1,3}$/),
    }),
  ),
  memory: object({
    limit: int64,
    reservation: int64,
    swap: int64,
    kernel: int64,
    kernelTCP: int64,
    swappiness: uint64,
    disableOOMKiller: flag,
    useHierarchy: flag,
    checkBeforeUpdate: flag,
  }),
  cpu: object({
    shares: uint64,
    quota: int64,
    burst: uint64,
    period: uint64,
    realtimeRuntime: int64,
    realtimePeriod: uint64,
    cpus: word,
    mems: word,
    idle: int64,
  }),
  pids: object({ 'limit!': int64 }),
  hugepageLimits: list(object({ 'pageSize!': text(/^[1-9]\d*[KMG]B$/), 'limit!': uint64 })),
  unified: mapOf(string),
});

const SECCOMP = object({
  'defaultAction!': text(/^SCMP_ACT_[A-Z_]+$/),
  defaultErrnoRet: uint32,
  architectures: list(text(/^SCMP_ARCH_[A-Z0-9_]+$/)),
  flags: list(text(/^SECCOMP_FILTER_FLAG_[A-Z_]+$/)),
  listenerPath: absolute,
  listenerMetadata: string,
  syscalls: list(
    object({
      'names!': list(text(/^[a-z0-9_]+$/), 1),
      'action!': text(/^SCMP_ACT_[A-Z_]+$/),
      errnoRet: uint32,
      args: list(
        object({
          'index!': integer(0n, 5n),
          'value!': uint64,
          valueTwo: uint64,
          'op!': text(/^SCMP_CMP_(NE|LT|LE|EQ|GE|GT|MASKED_EQ)$/),
        }),
      ),
    }),
  ),
});

const SPEC = object({
  'ociVersion!': text(/^1\.\d+\.\d+(-[a-z0-9.]+)?$/),
  'process!': PROCESS,
  'root!': object({ 'path!': absolute, readonly: flag }),
  hostname: string,
  domainname: string,
  mounts: list(
    object({
      'destination!': absolute,
      type: word,
      source: word,
      options: list(word),
      uidMappings: idMappings,
      gidMappings: idMappings,
    }),
  ),
  hooks: object({
    prestart: list(hook),
    createRuntime: list(hook),
    createContainer: list(hook),
    startContainer: list(hook),
    poststart: list(hook),
    poststop: list(hook),
  }),
  annotations: mapOf(text()),
  linux: object({
    namespaces: list(
      object({ 'type!': oneOf('pid', 'network', 'mount', 'ipc', 'uts', 'user', 'cgroup', 'time'), path: absolute }),
    ),
    uidMappings: idMappings,
    gidMappings: idMappings,
    devices: list(
      object({
        'type!': oneOf('c', 'b', 'u', 'p'),
        'path!': absolute,
        major: int64,
        minor: int64,
        fileMode: integer(0n, 0o7777n),
        uid: uint32,
        gid: uint32,
      }),
    ),
    cgroupsPath: word,
    resources: RESOURCES,
    rootfsPropagation: oneOf(
      'rshared',
      'shared',
      'rslave',
      'slave',
      'rprivate',
      'private',
      'unbindable',
      'runbindable',
    ),
    seccomp: SECCOMP,
    maskedPaths: list(absolute),
    readonlyPaths: list(absolute),
    mountLabel: word,
    sysctl: mapOf(string),
    intelRdt: object({ closID: word, l3CacheSchema: word, memBwSchema: word }),
  }),
});
