/**
 * Who a container runs as: CRI's security context and the image's USER, looked up in the image's passwd and group.
 * PURE.
 *
 * The texts come from inside an image, so they are hostile: reading them is bounded by the caller (limits.passwdBytes),
 * malformed lines are skipped, and no number above 2^31-1 ever becomes an id (CVE-2024-40635: it wrapped to root).
 */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { ResolvedUser, UserRequest } from '../ports/spec.ts';

/** The largest id: the kernel's own are unsigned, but runtimes and tools treat them as int. */
const ID_MAX = 2_147_483_647n;

/** One line of passwd(5). */
interface PasswdEntry {
  readonly name: string;
  readonly uid: bigint;
  readonly gid: bigint;
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
 * does not have.
 */
export function resolveUser(request: UserRequest): ResolvedUser {
  const security = request.security;
  const username = security !== undefined && 'runAsUsername' in security ? security.runAsUsername : '';
  if (security?.runAsUser !== undefined && username !== '') {
    throw invalid('run_as_user and run_as_username are both set: the identity would be ambiguous; set one of them');
  }
  if (security?.runAsGroup !== undefined && security.runAsUser === undefined && username === '') {
    throw invalid('run_as_group is set without run_as_user or run_as_username (CRI: must be an error)');
  }
  const [entry, uid, imageGid] = identity(request, username);
  const gid =
    security?.runAsGroup !== undefined
      ? checkedId('run_as_group', security.runAsGroup.value)
      : (imageGid ?? entry?.gid ?? 0n);
  const home = entry?.home ?? '';
  return {
    uid: Number(uid),
    gid: Number(checkedId('primary group', gid)),
    additionalGids: supplementary(request, gid, entry),
    home: home.startsWith('/') && !/[\0\n]/.test(home) ? home : '/',
    known: entry !== undefined,
  };
}

/** The passwd line (if any), the uid, and the gid that the image's USER names. */
function identity(request: UserRequest, username: string): [PasswdEntry | undefined, bigint, bigint | undefined] {
  const { security, passwd } = request;
  if (security?.runAsUser !== undefined) {
    const uid = checkedId('run_as_user', security.runAsUser.value);
    return [findEntry(passwd, (entry) => entry.uid === uid), uid, undefined];
  }
  if (username !== '') {
    const entry = findEntry(passwd, (each) => each.name === username);
    if (entry === undefined)
      throw invalid(
        `run_as_username ${quote(username)} is not in the image's /etc/passwd; use a name that is ` +
          'there, or run_as_user',
      );
    return [entry, checkedId(`uid of ${quote(username)}`, entry.uid), undefined];
  }
  const [user, group] = splitUser(request.imageUser);
  const [entry, uid] = imageIdentity(user, passwd);
  return [entry, uid, group === undefined ? undefined : imageGroup(group, request.group)];
}

/** `user[:group]` of an image config; an empty group counts as none. */
function splitUser(text: string): [user: string, group: string | undefined] {
  const colon = text.indexOf(':');
  if (colon < 0) return [text, undefined];
  return [text.slice(0, colon), text.slice(colon + 1) || undefined];
}

/** A name wins over a number, as in every other runtime: images with a user called "1000" exist. */
function imageIdentity(user: string, passwd: string | undefined): [PasswdEntry | undefined, bigint] {
  const uid = user === '' || user === 'root' ? 0n : numeric(user);
  if (user !== '') {
    const named = findEntry(passwd, (entry) => entry.name === user);
    if (named !== undefined) return [named, checkedId(`uid of image user ${quote(user)}`, named.uid)];
  }
  if (uid === undefined) throw invalid(`image user ${quote(user)} is neither a number nor in the image's /etc/passwd`);
  const checked = checkedId('image user', uid);
  return [findEntry(passwd, (entry) => entry.uid === checked), checked];
}

function imageGroup(group: string, groups: string | undefined): bigint {
  for (const fields of lines(groups)) {
    const gid = numeric(fields[2] ?? '');
    if (fields[0] === group && gid !== undefined) return checkedId(`gid of image group ${quote(group)}`, gid);
  }
  const gid = group === 'root' ? 0n : numeric(group);
  if (gid === undefined) throw invalid(`image group ${quote(group)} is neither a number nor in the image's /etc/group`);
  return checkedId('image group', gid);
}

function supplementary(request: UserRequest, gid: bigint, entry: PasswdEntry | undefined): readonly number[] {
  const policy: string = request.security?.supplementalGroupsPolicy ?? 'Merge';
  if (policy !== 'Merge' && policy !== 'Strict')
    throw invalid(`supplemental_groups_policy ${quote(policy)} is unknown; want Merge or Strict`);
  const gids = new Set([gid]);
  if (policy === 'Merge' && entry !== undefined) {
    for (const [, , text = '', members = ''] of lines(request.group)) {
      const id = numeric(text);
      // Out of range ids in the image's group file are nobody's wish: they are left out, not an error.
      if (id !== undefined && id <= ID_MAX && members.split(',').some((member) => member.trim() === entry.name))
        gids.add(id);
    }
  }
  for (const each of request.security?.supplementalGroups ?? []) gids.add(checkedId('supplemental_groups', each));
  return [...gids].map(Number);
}

function findEntry(passwd: string | undefined, accept: (entry: PasswdEntry) => boolean): PasswdEntry | undefined {
  for (const [name = '', , uidText = '', gidText = '', , home = ''] of lines(passwd)) {
    const uid = numeric(uidText);
    const gid = numeric(gidText);
    if (name === '' || uid === undefined || gid === undefined) continue;
    const entry = { name, uid, gid, home };
    if (accept(entry)) return entry;
  }
  return undefined;
}

/** The fields of each line that is neither empty nor a comment. Lazy: a lookup stops at its line. */
function* lines(text: string | undefined): Generator<readonly string[]> {
  if (text === undefined) return;
  for (let start = 0; start < text.length; ) {
    const newline = text.indexOf('\n', start);
    const end = newline < 0 ? text.length : newline;
    const line = text.slice(start, end).trim();
    start = end + 1;
    if (line !== '' && !line.startsWith('#')) yield line.split(':');
  }
}

/** A non-negative or negative decimal number of sane length; undefined for anything else. */
function numeric(text: string): bigint | undefined {
  return /^-?\d{1,20}$/.test(text) ? BigInt(text) : undefined;
}

function checkedId(what: string, id: bigint): bigint {
  if (id < 0n || id > ID_MAX) throw invalid(`${what} ${id} is out of range; want 0 to ${ID_MAX}`);
  return id;
}

/**
 * The image's passwd with a line for a uid that it does not have, to bind over /etc/passwd, so that programs which look
 * themselves up find a name and a home (CRI-O does the same); undefined when none is needed: the uid is known, or the
 * image has no passwd.
 * @throws InvalidArgument for a home that would forge a line of its own (CVE-2022-4318).
 */
export function passwdWithEntry(passwd: string | undefined, user: ResolvedUser, home: string): string | undefined {
  if (passwd === undefined || user.known) return undefined;
  checkHome(home);
  if (home.includes(':')) throw invalid(`HOME ${quote(home)} holds a colon, which would forge a field of /etc/passwd`);
  const separator = passwd === '' || passwd.endsWith('\n') ? '' : '\n';
  return `${passwd}${separator}${user.uid}:x:${user.uid}:${user.gid}:${user.uid} user:${home || '/'}:/sbin/nologin\n`;
}

/** @throws InvalidArgument if `home` could end a line of passwd (CVE-2022-4318). */
export function checkHome(home: string): void {
  for (const char of home) {
    if (char < ' ' || char === '\x7f')
      throw invalid(`HOME ${quote(home)} holds a control character, which could forge a line of /etc/passwd`);
  }
}

function invalid(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}
