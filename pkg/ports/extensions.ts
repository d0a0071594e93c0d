/**
 * What extends a container: CDI devices, OCI hooks, and the files that describe them, read and parsed.
 */
import type { Pattern } from '../base/go-pattern.ts';
import type { RuntimeHook, RuntimeLinux, RuntimeSpec } from '../oci/spec-types.ts';

/** What devices of one or several spec files do to a container. */
export interface CdiEdits {
  readonly env: readonly string[];
  readonly deviceNodes: readonly CdiDeviceNode[];
  readonly mounts: readonly CdiMount[];
  readonly hooks: readonly (readonly [stage: HookStage, hook: RuntimeHook])[];
  readonly additionalGids: readonly number[];
  readonly intelRdt: RuntimeLinux['intelRdt'] | undefined;
  /** Names of fields that a device needs and Berth does not do. */
  readonly unsupported: readonly string[];
}

/** A device node that a CDI device brings; what its spec file leaves out is looked up at `hostPath`. */
export interface CdiDeviceNode {
  readonly path: string;
  readonly hostPath: string;
  readonly type: string | undefined;
  readonly major: number | undefined;
  readonly minor: number | undefined;
  readonly fileMode: number | undefined;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  readonly permissions: string;
}

/** A mount that a CDI device brings, as the runtime is told of it (`options` in the words of mount(8)). */
export interface CdiMount {
  readonly hostPath: string;
  readonly containerPath: string;
  readonly type: string;
  readonly options: readonly string[];
}

/** The stages at which the OCI runtime runs hooks (runtime-spec, config.md: POSIX-platform hooks). */
export type HookStage = keyof NonNullable<RuntimeSpec['hooks']>;

/** A block device by its numbers. */
export interface BlockDevice {
  readonly major: number;
  readonly minor: number;
}

/** What a class of block I/O asks for some devices. */
export interface BlockIoEntry {
  /** Paths and patterns of paths; undefined = whatever has no entry of its own. */
  readonly devices: readonly string[] | undefined;
  readonly weight: bigint | undefined;
  /** Bytes and operations a second. */
  readonly rates: Readonly<
    Partial<
      Record<
        'throttleReadBpsDevice' | 'throttleWriteBpsDevice' | 'throttleReadIOPSDevice' | 'throttleWriteIOPSDevice',
        bigint
      >
    >
  >;
}

/** By their names. */
export type BlockIoClasses = ReadonlyMap<string, readonly BlockIoEntry[]>;

/** A device as one spec file describes it. */
export interface CdiDevice {
  /** `vendor/class=name` */
  readonly name: string;
  readonly path: string;
  readonly directory: number;
  readonly edits: CdiEdits;
  /** Edits of the whole file; done once per file, whatever number of its devices is used. */
  readonly common: CdiEdits;
}

/** All devices of all files. */
export interface CdiRegistry {
  readonly devices: ReadonlyMap<string, CdiDevice>;
  /** Devices that two files of one directory describe; neither can be meant. */
  readonly conflicts: ReadonlyMap<string, readonly string[]>;
  readonly damaged: readonly DamagedFile[];
}

/** A hook file, parsed. */
export interface HookDefinition {
  readonly path: string;
  readonly hook: RuntimeHook;
  readonly stages: readonly HookStage[];
  readonly when: HookCondition;
}

/** What is given must hold; nothing given matches nothing. */
export interface HookCondition {
  /** Whether all that is given must hold, or one of it does (format 0.1.0). */
  readonly holds: 'all' | 'one';
  readonly always: boolean | undefined;
  readonly hasBindMounts: boolean | undefined;
  /** Pairs of patterns; for each, one annotation must match both. */
  readonly annotations: readonly (readonly [key: Pattern, value: Pattern])[];
  /** Patterns of which the container's first argument must match one. */
  readonly commands: readonly Pattern[];
}

/** What a condition is decided by. */
export interface HookSubject {
  readonly annotations: ReadonlyMap<string, string>;
  readonly command: string;
  /** Whether the request mounts anything of the host. */
  readonly hasBindMounts: boolean;
}

/** A file of a configuration directory, read and parsed by the caller within limits.configFileBytes. */
export interface ConfigFile {
  readonly path: string;
  /** Index of its directory in the configured order; a later one wins. */
  readonly directory: number;
  readonly notation: 'json' | 'yaml';
  readonly value: unknown;
}

/** A file that could not be used; the others are. */
export interface DamagedFile {
  readonly path: string;
  readonly why: string;
}
