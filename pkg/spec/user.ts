/**
 * Who a container runs as: CRI's security context and the image's USER, looked up in the image's passwd and group.
 * PURE.
 *
 * The files come from inside an image, so they are hostile: reading them is bounded by the caller (limits.passwdBytes)
 * and goes over each once, malformed lines are skipped, and no number above 2^31-1 ever becomes an id (CVE-2024-40635:
 * it wrapped to root).
 */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { ImageConfig } from '../oci/spec-types.ts';
import type { ContainerSpecInput, Identity, ResolvedUser, SecurityContext } from '../ports/spec.ts';
import { AccountLines } from './accounts.ts';
import { checkHome, homeOf } from './process.ts';
import { checkMapped } from './security.ts';

/** The largest id: the kernel's own are unsigned, but runtimes and tools treat them as int. */
const ID_MAX = 2_147_483_647;

/** What the identity of a container's first process follows from. */
export interface UserRequest {
  readonly security: SecurityContext | undefined;
  /** The image's USER: '', `uid`, `name`, `uid:gid`, `name:group` and mixes. */
  readonly imageUser: string;
  /** Content of the image's /etc/passwd and /etc/group, read inside its root; undefined if absent. */
  readonly passwd: Uint8Array | undefined;
  readonly group: Uint8Array | undefined;
}

/** A user, and which of the image's files have a line for it. */
export interface FoundUser {
  readonly user: ResolvedUser;
  readonly inPasswd: 'listed' | 'missing';
  readonly inGroup: 'listed' | 'missing';
}

/**
 * Who the container's first process is. A uid or gid that the image does not list gets a line of its own in a copy of
 * the image's file, so that programs which look themselves up find a name and a home (CRI-O does the same).
 * @throws InvalidArgument as resolveUser; for an id that the user namespace does not map; for a HOME that would forge a
 * line of passwd (CVE-2022-4318).
 */
export function identityOf(
  request: Pick<ContainerSpecInput, 'config' | 'defaults' | 'idMap'> & {
    readonly image: ImageConfig;
    readonly passwd: Uint8Array | undefined;
    readonly group: Uint8Array | undefined;
  },
): Identity {
  const { config, image, idMap, passwd, group } = request;
  const security = config.linux?.securityContext;
  const { user, inPasswd, inGroup } = resolveUser({ security, imageUser: image.user, passwd, group });
  checkMapped(idMap, user);
  return {
    user,
    passwd: inPasswd === 'listed' ? undefined : withLine(passwd, passwdLine(user, homeOf({ ...request, user }))),
    group: inGroup === 'listed' ? undefined : withLine(group, `${user.gid}:x:${user.gid}:`),
  };
}

/** One line of passwd(5). */
interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

/**
 * The uid, gid, groups and home of a container's first process.
 *
 * run_as_user or run_as_username win over the image's USER. Without run_as_group the primary group is what USER says
 * beside a user from there, else the passwd line's, else 0. Supplementary groups: `Merge` adds the groups that list the
 * user in the image to those asked for, `Strict` takes only those asked for; the primary group is always among them
 * (CVE-2022-2995, CVE-2023-25173).
 *
 * @throws InvalidArgument for a group without user, user and username together, ids out of range, names that the image
 * does not have, more groups than the kernel takes.
 */
export function resolveUser(request: UserRequest): FoundUser {
  const { security } = request;
  const username = security !== undefined && 'runAsUsername' in security ? security.runAsUsername : '';
  if (security?.runAsUser !== undefined && username !== '') {
    throw invalid('run_as_user and run_as_username are both set: the identity would be ambiguous; set one of them');
  }
  if (security?.runAsGroup !== undefined && security.runAsUser === undefined && username === '') {
    throw invalid('run_as_group is set without run_as_user or run_as_username (CRI: must be an error)');
  }
  const policy: string = security?.supplementalGroupsPolicy ?? 'Merge';
  if (policy !== 'Merge' && policy !== 'Strict')
    throw invalid(`supplemental_groups_policy ${quote(policy)} is unknown; want Merge or Strict`);
  const { entry, uid, groupName } = identity(request, username);
  const asked = security?.runAsGroup !== undefined ? checkedId('run_as_group', security.runAsGroup.value) : undefined;
  const groups = findGroups(request.group, {
    name: asked === undefined ? groupName : undefined,
    gid: asked ?? (groupName === undefined ? (entry?.gid ?? 0) : numeric(groupName)),
    member: policy === 'Merge' ? entry?.name : undefined,
  });
  const gid = asked ?? (groupName === undefined ? (entry?.gid ?? 0) : imageGroup(groupName, groups.named));
  const additional = new Set([checkedId('primary group', gid), ...groups.listing]);
  for (const each of security?.supplementalGroups ?? []) additional.add(checkedId('supplemental_groups', each));
  const home = entry?.home ?? '';
  return {
    user: {
      uid,
      gid,
      additionalGids: [...additional],
      home: home.startsWith('/') && !/[\0\n]/.test(home) ? home : '/',
    },
    inPasswd: entry === undefined ? 'missing' : 'listed',
    inGroup: groups.named === undefined && !groups.hasGid ? 'missing' : 'listed',
  };
}

/** The passwd line (if any), the uid, and the group that the image's USER names. */
function identity(
  request: UserRequest,
  username: string,
): { readonly entry: PasswdEntry | undefined; readonly uid: number; readonly groupName: string | undefined } {
  const { security, passwd } = request;
  if (security?.runAsUser !== undefined) {
    const uid = checkedId('run_as_user', security.runAsUser.value);
    return { entry: findEntry(passwd, { name: undefined, uid }), uid, groupName: undefined };
  }
  if (username !== '') {
    const entry = findEntry(passwd, { name: username, uid: undefined });
    if (entry === undefined)
      throw invalid(
        `run_as_username ${quote(username)} is not in the image's /etc/passwd; use a name that is ` +
          'there, or run_as_user',
      );
    return { entry, uid: checkedId(`uid of ${quote(username)}`, entry.uid), groupName: undefined };
  }
  const [user, groupName] = splitUser(request.imageUser);
  return { ...imageIdentity(user, passwd), groupName };
}

/** `user[:group]` of an image config; an empty group counts as none. */
function splitUser(text: string): [user: string, group: string | undefined] {
  const colon = text.indexOf(':');
  if (colon < 0) return [text, undefined];
  return [text.slice(0, colon), text.slice(colon + 1) || undefined];
}

/** A name wins over a number, as in every other runtime: images with a user called "1000" exist. */
function imageIdentity(
  user: string,
  passwd: Uint8Array | undefined,
): { readonly entry: PasswdEntry | undefined; readonly uid: number } {
  const uid = user === '' || user === 'root' ? 0 : numeric(user);
  const entry = findEntry(passwd, { name: user === '' ? undefined : user, uid });
  if (entry !== undefined && entry.name === user)
    return { entry, uid: checkedId(`uid of image user ${quote(user)}`, entry.uid) };
  if (uid === undefined) throw invalid(`image user ${quote(user)} is neither a number nor in the image's /etc/passwd`);
  return { entry, uid: checkedId('image user', uid) };
}

function imageGroup(group: string, named: number | undefined): number {
  if (named !== undefined) return checkedId(`gid of image group ${quote(group)}`, named);
  const gid = group === 'root' ? 0 : numeric(group);
  if (gid === undefined) throw invalid(`image group ${quote(group)} is neither a number nor in the image's /etc/group`);
  return checkedId('image group', gid);
}

/** The first line of this name, else the first of this uid. Lines without name, uid and gid are nobody's. */
function findEntry(
  passwd: Uint8Array | undefined,
  wanted: { readonly name: string | undefined; readonly uid: number | undefined },
): PasswdEntry | undefined {
  const name = wanted.name === undefined ? undefined : Buffer.from(wanted.name);
  const lines = new AccountLines(passwd);
  let byUid: PasswdEntry | undefined;
  while (lines.next()) {
    const isNamed = name !== undefined && lines.is(0, name);
    if (!isNamed && byUid !== undefined) continue;
    const uid = lines.id(2);
    if (uid === undefined || (!isNamed && uid !== wanted.uid)) continue;
    const gid = lines.id(3);
    if (gid === undefined || lines.isEmpty(0)) continue;
    const entry = { name: lines.text(0), uid, gid, home: lines.text(5) };
    if (isNamed || name === undefined) return entry;
    byUid = entry;
  }
  return byUid;
}

/** What the group file says, in one pass. */
interface FoundGroups {
  /** The gid of the group that was asked for by name. */
  readonly named: number | undefined;
  /** Whether the gid that was asked for has a line. */
  readonly hasGid: boolean;
  /** Gids of the groups that list the member. */
  readonly listing: ReadonlySet<number>;
}

function findGroups(
  group: Uint8Array | undefined,
  wanted: {
    readonly name: string | undefined;
    readonly gid: number | undefined;
    readonly member: string | undefined;
  },
): FoundGroups {
  const name = wanted.name === undefined ? undefined : Buffer.from(wanted.name);
  const member = wanted.member === undefined ? undefined : Buffer.from(wanted.member);
  const lines = new AccountLines(group);
  let named: number | undefined;
  let hasGid = false;
  const listing = new Set<number>();
  while (lines.next()) {
    const gid = lines.id(2);
    if (gid === undefined) continue;
    if (gid === wanted.gid) hasGid = true;
    if (named === undefined && name !== undefined && lines.is(0, name)) named = gid;
    // Out of range ids in the image's group file were asked for by nobody: they are left out, not an error.
    if (member === undefined || gid < 0 || gid > ID_MAX || !lines.lists(3, member)) continue;
    listing.add(gid);
    if (listing.size > limits.groupsCount)
      throw invalid(
        `the image's /etc/group has user ${quote(wanted.member ?? '')} in more than ${limits.groupsCount} groups, ` +
          'the most that Linux takes; use supplemental_groups_policy Strict, or another image',
      );
  }
  return { named, hasGid, listing };
}

/** A non-negative or negative decimal number of sane length; undefined for anything else. */
function numeric(text: string): number | undefined {
  return /^-?\d{1,20}$/.test(text) ? Number(text) : undefined;
}

function checkedId(what: string, id: bigint | number): number {
  if (id < 0 || id > ID_MAX) throw invalid(`${what} ${id} is out of range; want 0 to ${ID_MAX}`);
  return Number(id);
}

/** The file with a line more; undefined for an image without the file, whose programs do not look. */
function withLine(file: Uint8Array | undefined, line: string): Uint8Array | undefined {
  if (file === undefined) return undefined;
  const separator = file.length === 0 || file.at(-1) === 0x0a ? '' : '\n';
  return Buffer.concat([file, Buffer.from(`${separator}${line}\n`)]);
}

function passwdLine({ uid, gid }: ResolvedUser, home: string): string {
  checkHome(home);
  if (home.includes(':')) throw invalid(`HOME ${quote(home)} holds a colon, which would forge a field of /etc/passwd`);
  return `${uid}:x:${uid}:${gid}:${uid} user:${home || '/'}:/sbin/nologin`;
}

function invalid(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}
