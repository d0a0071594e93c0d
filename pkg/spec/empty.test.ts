/** `""`, null and absence in the files that extend containers: seccomp profiles, OCI hooks, CDI specs. */
import { RuntimeError } from '../base/errors.ts';
import { describeEmptiness, type Rule } from '../base/fake-emptiness.ts';
import type { PlainObject } from '../base/go.ts';
import { loadCdi } from './cdi.ts';
import { loadHooks } from './hooks.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';

const meant = (why: string): Rule => ({ absent: 'unset', empty: 'refused', null: 'unset', why });

describeEmptiness({
  name: 'a seccomp profile',
  notation: 'json',
  samples: [
    {
      defaultAction: 'SCMP_ACT_ALLOW',
      defaultErrno: 'EACCES',
      architectures: ['SCMP_ARCH_X86_64'],
      archMap: [{ architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86'] }],
      flags: ['SECCOMP_FILTER_FLAG_LOG'],
      listenerPath: '/l',
      listenerMetadata: 'm',
      syscalls: [
        {
          names: ['mkdir'],
          action: 'SCMP_ACT_ERRNO',
          errno: 'EINVAL',
          args: [{ index: 1, value: 2, valueTwo: 3, op: 'SCMP_CMP_MASKED_EQ' }],
          includes: { caps: ['CAP_CHOWN'], arches: ['amd64'], minKernel: '4.8' },
          excludes: { caps: ['CAP_BPF'], arches: ['arm64'], minKernel: '9.9' },
        },
      ],
    },
    {
      defaultAction: 'SCMP_ACT_ALLOW',
      defaultErrnoRet: 38,
      syscalls: [{ name: 'mkdir', action: 'SCMP_ACT_ERRNO', errnoRet: 2 }],
    },
  ],
  read: (document) => parseSeccompProfile(document),
  keys: {
    defaultAction: 'needed',
    defaultErrnoRet: 'unset',
    defaultErrno: 'unset',
    architectures: 'unset',
    archMap: 'unset',
    'archMap[].architecture': 'unset',
    'archMap[].subArchitectures': 'unset',
    flags: 'unset',
    listenerPath: 'unset',
    listenerMetadata: 'unset',
    syscalls: meant('refusals must not get lost'),
    'syscalls[].name': 'unset',
    'syscalls[].names': meant('a refusal must not get lost'),
    'syscalls[].action': 'needed',
    'syscalls[].errnoRet': 'unset',
    'syscalls[].errno': 'unset',
    'syscalls[].args': meant('without them more is allowed'),
    'syscalls[].args[].index': meant('another argument would be looked at'),
    'syscalls[].args[].value': meant('another value would be allowed'),
    'syscalls[].args[].valueTwo': meant('another value would be allowed'),
    'syscalls[].args[].op': 'needed',
    'syscalls[].includes': meant('a condition must not get lost'),
    'syscalls[].includes.caps': meant('a condition must not get lost'),
    'syscalls[].includes.arches': meant('a condition must not get lost'),
    'syscalls[].includes.minKernel': 'unset',
    'syscalls[].excludes': meant('a condition must not get lost'),
    'syscalls[].excludes.caps': meant('a condition must not get lost'),
    'syscalls[].excludes.arches': meant('a condition must not get lost'),
    'syscalls[].excludes.minKernel': 'unset',
  },
});

/** One file by itself; what it costs is a refusal here. */
function alone<T extends { readonly damaged: readonly { readonly why: string }[] }>(read: T): T {
  const [bad] = read.damaged;
  if (bad !== undefined) throw new RuntimeError('InvalidArgument', bad.why);
  return read;
}
const file = (value: PlainObject): Parameters<typeof loadHooks>[0] => [
  { path: '/d/a.json', directory: 0, notation: 'json', value },
];

describeEmptiness({
  name: 'an OCI hook',
  notation: 'json',
  samples: [
    {
      version: '1.0.0',
      hook: { path: '/h', args: ['h'], env: ['A=1'], timeout: 5 },
      when: { always: true, hasBindMounts: true, annotations: { a: 'b' }, commands: ['c'] },
      stages: ['prestart'],
    },
  ],
  read: (document) => alone(loadHooks(file(document))),
  names: ['when.annotations'],
  keys: {
    version: { absent: 'refused', empty: 'refused', why: 'without one it is of format 0.1.0, where hook is a path' },
    hook: 'needed',
    'hook.path': 'needed',
    'hook.args': 'unset',
    'hook.env': 'unset',
    'hook.timeout': 'unset',
    when: 'unset',
    'when.always': 'unset',
    'when.hasBindMounts': 'unset',
    'when.annotations': 'unset',
    'when.annotations.*': { absent: 'unset', empty: 'own', why: 'an empty pattern matches every value' },
    'when.commands': 'unset',
    stages: 'needed',
  },
});

describeEmptiness({
  name: 'an OCI hook of format 0.1.0',
  notation: 'json',
  samples: [
    { hook: '/h', arguments: ['x'], stages: ['prestart'], cmds: ['c'], annotations: ['v'], hasbindmounts: true },
    { version: '0.1.0', hook: '/h', stage: ['prestart'], cmd: ['c'], annotation: ['v'] },
  ],
  read: (document) => alone(loadHooks(file(document))),
  keys: {
    version: 'ignored',
    hook: 'needed',
    arguments: 'unset',
    stages: 'needed',
    stage: 'needed',
    cmds: 'unset',
    cmd: 'unset',
    annotations: 'unset',
    annotation: 'unset',
    hasbindmounts: 'unset',
  },
});

describeEmptiness({
  name: 'a CDI spec',
  notation: 'json',
  samples: [
    {
      cdiVersion: '0.6.0',
      kind: 'acme.example/gpu',
      annotations: { a: 'b' },
      containerEdits: { env: ['ALL=1'] },
      devices: [
        {
          name: 'one',
          annotations: { a: 'b' },
          containerEdits: {
            env: ['A=1'],
            deviceNodes: [
              {
                path: '/dev/a',
                hostPath: '/dev/b',
                type: 'c',
                major: 1,
                minor: 2,
                fileMode: 384,
                permissions: 'r',
                uid: 3,
                gid: 4,
              },
            ],
            netDevices: [{}],
            mounts: [{ hostPath: '/a', containerPath: '/b', options: ['ro'], type: 'bind' }],
            hooks: [{ hookName: 'prestart', path: '/h', args: ['h'], env: ['A=1'], timeout: 5 }],
            intelRdt: { closID: 'c', l3CacheSchema: 'l', memBwSchema: 'm', enableMonitoring: true },
            additionalGids: [5],
          },
        },
      ],
    },
  ],
  read: (document) => alone(loadCdi(file(document))),
  names: ['annotations', 'devices[].annotations'],
  keys: Object.fromEntries(
    Object.entries({
      unset:
        'containerEdits containerEdits.env devices D.env D.deviceNodes D.deviceNodes[].hostPath D.deviceNodes[].type ' +
        'D.deviceNodes[].major D.deviceNodes[].minor D.deviceNodes[].fileMode D.deviceNodes[].permissions ' +
        'D.deviceNodes[].uid D.deviceNodes[].gid D.netDevices D.mounts D.mounts[].options D.mounts[].type D.hooks ' +
        'D.hooks[].args D.hooks[].env D.hooks[].timeout D.intelRdt D.intelRdt.closID D.intelRdt.l3CacheSchema ' +
        'D.intelRdt.memBwSchema D.intelRdt.enableMonitoring D.additionalGids',
      needed:
        'cdiVersion kind devices[].name D D.deviceNodes[].path D.mounts[].hostPath D.mounts[].containerPath ' +
        'D.hooks[].hookName D.hooks[].path',
      ignored: 'annotations annotations.* devices[].annotations devices[].annotations.*',
    } satisfies Partial<Record<string, string>>).flatMap(([rule, paths]) =>
      paths.split(' ').map((path) => [path.replace(/^D/, 'devices[].containerEdits'), rule as Rule]),
    ),
  ),
});
