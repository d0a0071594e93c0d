/*
 * One object below a root directory. Every path goes through openat2 with the caller's RESOLVE_ flags; the last name is then
 * used on its directory's descriptor and never followed. No string is ever joined with a host path.
 */
#define _GNU_SOURCE
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "addon.h"

/* openat2 answers EAGAIN when the tree was renamed under it; a tree that changes all the time is somebody's game. */
#define RETRIES_MAX 32
/* As the kernel's own MAXSYMLINKS, for the links that makeDirs follows itself. */
#define LINKS_MAX 40
#define XATTR_BYTES_MAX 65536

int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	struct open_how how = { .flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve };
	for (int tries = 0;; tries++) {
		long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
		if (fd >= 0)
			return (int)fd;
		if ((errno != EAGAIN && errno != EINTR) || tries == RETRIES_MAX)
			return -errno;
	}
}

/* Relative to the root, without slashes at either end; the root itself is ".". */
static int clean_path(const struct text *path, char ret[4096])
{
	const char *data = path->data;
	size_t len = path->len;
	while (len > 0 && *data == '/')
		data++, len--;
	while (len > 0 && data[len - 1] == '/')
		len--;
	if (len >= 4096)
		return -ENAMETOOLONG;
	if (len == 0) {
		memcpy(ret, ".", 2);
		return 0;
	}
	memcpy(ret, data, len);
	ret[len] = '\0';
	return 0;
}

static bool odd_name(const char *name, size_t len)
{
	return len == 0 || (len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.');
}

/* In a tree that is exactly what we made (RESOLVE_BENEATH), empty names, "." and ".." are a caller's mistake or an attack. */
static int check_names(const char *path, uint64_t resolve)
{
	if ((resolve & RESOLVE_BENEATH) == 0 || strcmp(path, ".") == 0)
		return 0;
	for (const char *at = path;; at++) {
		size_t len = strcspn(at, "/");
		if (odd_name(at, len))
			return -EINVAL;
		at += len;
		if (*at == '\0')
			return 0;
	}
}

int object_open(int root, const struct text *path, uint64_t resolve, uint64_t flags)
{
	char clean[4096];
	if (path->len == 0 && resolve == 0) {
		int fd = fcntl(root, F_DUPFD_CLOEXEC, 3);
		return fd < 0 ? -errno : fd;
	}
	int r = clean_path(path, clean);
	if (r == 0)
		r = check_names(clean, resolve);
	return r < 0 ? r : sys_openat2(root, clean, flags, 0, resolve);
}

#define OBJECT (O_PATH | O_NOFOLLOW)

int place_find(int root, const struct text *path, uint64_t resolve, struct place_in_tree *ret)
{
	ret->owned = false;
	ret->dir_fd = root;
	int r = clean_path(path, ret->path);
	if (r == 0)
		r = check_names(ret->path, resolve);
	if (r < 0)
		return r;
	char *slash = strrchr(ret->path, '/');
	ret->name = slash == NULL ? ret->path : slash + 1;
	if (odd_name(ret->name, strlen(ret->name)))
		return -EINVAL;
	if (slash == NULL)
		return 0;
	*slash = '\0';
	int fd = sys_openat2(root, ret->path, O_PATH | O_DIRECTORY, 0, resolve);
	*slash = '/';
	if (fd < 0)
		return fd;
	ret->dir_fd = fd;
	ret->owned = true;
	return 0;
}

int object_stat(int fd, const char *path, int flags, int64_t ret[13])
{
	struct statx st;
	if (statx(fd, path, flags | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_MNT_ID, &st) < 0)
		return -errno;
	int64_t values[13] = {
		st.stx_mode, st.stx_uid, st.stx_gid, (int64_t)st.stx_size, st.stx_nlink, (int64_t)st.stx_ino,
		(int64_t)makedev(st.stx_dev_major, st.stx_dev_minor),
		(int64_t)st.stx_rdev_major << 32 | st.stx_rdev_minor,
		st.stx_mtime.tv_sec * 1000000000 + st.stx_mtime.tv_nsec,
		st.stx_ctime.tv_sec * 1000000000 + st.stx_ctime.tv_nsec,
		(int64_t)st.stx_blocks, (int64_t)st.stx_mnt_id, (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0,
	};
	memcpy(ret, values, sizeof values);
	return 0;
}

static bool is_absence(int err)
{
	return err == -ENOENT || err == -ENOTDIR;
}

/* --- opening and reading */

int sys_open_root(struct call *c)
{
	int fd = open(c->arg[0].text.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return call_fail(c, "open", errno);
	c->number = fd;
	return 0;
}

int sys_open_at(struct call *c)
{
	const struct arg *a = c->arg;
	uint64_t flags = (uint64_t)(uint32_t)a[2].i;
	uint64_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? (uint64_t)a[3].i : 0;
	char clean[4096];
	int r = clean_path(&a[1].text, clean);
	if (r == 0)
		r = check_names(clean, (uint64_t)a[4].i);
	if (r < 0)
		return call_fail(c, "openat2", -r);
	if ((flags & O_PATH) == 0)
		flags |= O_NOCTTY | O_NONBLOCK;
	int fd = sys_openat2((int)a[0].i, clean, flags, mode, (uint64_t)a[4].i);
	if (fd < 0)
		return call_fail(c, "openat2", -fd);
	c->number = fd;
	return 0;
}

static int read_all(struct call *c, int fd, size_t max)
{
	CLEAN_BUFFER bytes = { 0 };
	char part[16384];
	for (;;) {
		ssize_t n = read(fd, part, sizeof part);
		if (n < 0)
			return call_fail(c, "read", errno);
		if (n == 0)
			return call_bytes(c, bytes.data, bytes.len);
		if (bytes.len + (size_t)n > max)
			return call_fail(c, "read", EFBIG);
		if (buffer_add(&bytes, part, (size_t)n) < 0)
			return call_fail(c, "malloc", ENOMEM);
	}
}

/* First looked at through O_PATH, which opens nothing: a FIFO would block, a device would act. */
int sys_read_file_at(struct call *c)
{
	const struct arg *a = c->arg;
	struct stat st;
	CLEAN_FD found = object_open((int)a[0].i, &a[1].text, (uint64_t)a[3].i, O_PATH);
	if (found < 0) {
		c->absent = is_absence(found);
		return c->absent ? 0 : call_fail(c, "openat2", -found);
	}
	if (fstat(found, &st) < 0)
		return call_fail(c, "fstat", errno);
	if (!S_ISREG(st.st_mode)) {
		snprintf(c->detail, sizeof c->detail, "not a regular file");
		return call_fail(c, "read", EINVAL);
	}
	if (st.st_size > a[2].i)
		return call_fail(c, "read", EFBIG);
	CLEAN_FD fd = open(fd_path(found).text, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return call_fail(c, "open", errno);
	return read_all(c, fd, (size_t)a[2].i);
}

int sys_stat_at(struct call *c)
{
	const struct arg *a = c->arg;
	int64_t values[13];
	CLEAN_FD fd = object_open((int)a[0].i, &a[1].text, (uint64_t)a[2].i, OBJECT);
	if (fd < 0) {
		c->absent = is_absence(fd);
		return c->absent ? 0 : call_fail(c, "openat2", -fd);
	}
	int r = object_stat(fd, "", AT_EMPTY_PATH, values);
	return r < 0 ? call_fail(c, "statx", -r) : call_numbers(c, values, 13);
}

int sys_read_link_at(struct call *c)
{
	char target[4096];
	CLEAN_FD fd = object_open((int)c->arg[0].i, &c->arg[1].text, (uint64_t)c->arg[2].i, OBJECT);
	if (fd < 0)
		return call_fail(c, "openat2", -fd);
	ssize_t n = readlinkat(fd, "", target, sizeof target);
	if (n < 0)
		return call_fail(c, "readlink", errno == ENOENT ? EINVAL : errno);
	return call_bytes(c, target, (size_t)n);
}

/* --- directories */

struct owner {
	uid_t uid;
	gid_t gid;
	mode_t mode;
};

static int make_dirs(int root, char path[4096], const struct owner *owner, uint64_t resolve, int links);

static int make_dir(int dir, const char *name, const struct owner *owner)
{
	if (mkdirat(dir, name, 0700) < 0)
		return -errno;
	if (fchownat(dir, name, owner->uid, owner->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return fchmodat(dir, name, owner->mode, 0) < 0 ? -errno : 0;
}

/* A link to a directory that is not there yet (/var/run -> /run): the target is made, inside the root. */
static int make_link_target(int root, int dir, const char *prefix, const char *name, const struct owner *owner, uint64_t resolve, int links)
{
	char target[4096], path[4096];
	ssize_t n = readlinkat(dir, name, target, sizeof target - 1);
	if (n < 0)
		return -ENOTDIR;
	if (links == LINKS_MAX)
		return -ELOOP;
	target[n] = '\0';
	size_t before = target[0] == '/' ? 0 : strlen(prefix) - strlen(name);
	int len = snprintf(path, sizeof path, "%.*s%s", (int)before, prefix, target[0] == '/' ? target + strspn(target, "/") : target);
	if (len < 0 || (size_t)len >= sizeof path)
		return -ENAMETOOLONG;
	return make_dirs(root, path, owner, resolve, links + 1);
}

/* The directory `path` under root, whose parent is open as *dir; *dir becomes the directory itself. */
static int step_into(int root, int *dir, const char *path, const struct owner *owner, uint64_t resolve, int links)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash == NULL ? path : slash + 1;
	int next = sys_openat2(root, path, O_PATH | O_DIRECTORY, 0, resolve);
	if (next == -ENOENT && !odd_name(name, strlen(name))) {
		int r = make_dir(*dir, name, owner);
		if (r == -EEXIST)
			r = make_link_target(root, *dir, path, name, owner, resolve, links);
		if (r < 0)
			return r;
		next = sys_openat2(root, path, O_PATH | O_DIRECTORY, 0, resolve);
	}
	if (next < 0)
		return next;
	close_fd(dir);
	*dir = next;
	return 0;
}

static int make_dirs(int root, char path[4096], const struct owner *owner, uint64_t resolve, int links)
{
	CLEAN_FD dir = fcntl(root, F_DUPFD_CLOEXEC, 3);
	if (dir < 0)
		return -errno;
	for (char *at = path;; at++) {
		at += strcspn(at, "/");
		char end = *at;
		*at = '\0';
		int r = path[0] == '\0' ? 0 : step_into(root, &dir, path, owner, resolve, links);
		*at = end;
		if (r < 0 || end == '\0')
			return r;
	}
}

int sys_make_dirs_at(struct call *c)
{
	const struct arg *a = c->arg;
	struct owner owner = { .mode = (mode_t)a[2].i, .uid = (uid_t)a[3].i, .gid = (gid_t)a[4].i };
	char path[4096];
	int r = clean_path(&a[1].text, path);
	if (r == 0)
		r = check_names(path, (uint64_t)a[5].i);
	if (r == 0 && strcmp(path, ".") != 0)
		r = make_dirs((int)a[0].i, path, &owner, (uint64_t)a[5].i, 0);
	return r < 0 ? call_fail(c, "mkdir", -r) : 0;
}

/* --- whole entries of a layer */

struct meta {
	mode_t mode;
	uid_t uid;
	gid_t gid;
	struct timespec times[2];
	const struct text *xattrs; /* name, value, … */
	size_t xattrs_count;
};

/* Six arguments from a[0]: mode, uid, gid, seconds, nanoseconds, and the xattrs wherever they are. */
static int meta_from(const struct arg *a, const struct arg *xattrs, struct meta *ret)
{
	struct timespec time = { .tv_sec = (time_t)a[3].i, .tv_nsec = (long)a[4].i };
	if ((a[0].i & ~07777) != 0 || a[1].i < -1 || a[1].i > UINT32_MAX || a[2].i < -1 || a[2].i > UINT32_MAX || xattrs->count % 2 != 0)
		return -EINVAL;
	*ret = (struct meta){ (mode_t)a[0].i, (uid_t)a[1].i, (gid_t)a[2].i, { time, time }, xattrs->list, xattrs->count };
	return 0;
}

static int meta_failed(struct call *c, const char *failed, const struct text *name)
{
	int err = errno;
	if (name != NULL)
		snprintf(c->detail, sizeof c->detail, "%.150s", name->data);
	return call_fail(c, failed, err);
}

/* chown clears setuid bits and file capabilities, writing xattrs changes no times, times come last. */
static int finish_open(struct call *c, int fd, const struct meta *m)
{
	if (fchown(fd, m->uid, m->gid) < 0)
		return meta_failed(c, "fchown", NULL);
	if (fchmod(fd, m->mode) < 0)
		return meta_failed(c, "fchmod", NULL);
	for (size_t i = 0; i + 1 < m->xattrs_count; i += 2)
		if (fsetxattr(fd, m->xattrs[i].data, m->xattrs[i + 1].data, m->xattrs[i + 1].len, 0) < 0)
			return meta_failed(c, "fsetxattr", &m->xattrs[i]);
	return futimens(fd, m->times) < 0 ? meta_failed(c, "futimens", NULL) : 0;
}

/* For what cannot or must not be opened: links, devices, FIFOs. */
static int finish_named(struct call *c, int dir, const char *name, bool link, const struct meta *m)
{
	CLEAN_FD object = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (object < 0)
		return meta_failed(c, "open", NULL);
	struct fd_path path = fd_path(object);
	if (fchownat(object, "", m->uid, m->gid, AT_EMPTY_PATH) < 0)
		return meta_failed(c, "fchownat", NULL);
	if (!link && chmod(path.text, m->mode) < 0)
		return meta_failed(c, "chmod", NULL);
	for (size_t i = 0; i + 1 < m->xattrs_count; i += 2)
		if (setxattr(path.text, m->xattrs[i].data, m->xattrs[i + 1].data, m->xattrs[i + 1].len, 0) < 0)
			return meta_failed(c, "setxattr", &m->xattrs[i]);
	return utimensat(dir, name, m->times, AT_SYMLINK_NOFOLLOW) < 0 ? meta_failed(c, "utimensat", NULL) : 0;
}

/* The place of an entry, its parents made where the layer does not list them. */
static int entry_place(struct call *c, int root, const struct text *path, uint64_t resolve, struct place_in_tree *ret)
{
	static const struct owner plain = { 0, 0, 0755 };
	int r = place_find(root, path, resolve, ret);
	if (r == -ENOENT) {
		char parents[4096];
		memcpy(parents, ret->path, sizeof parents);
		*strrchr(parents, '/') = '\0';
		r = make_dirs(root, parents, &plain, resolve, 0);
		if (r == 0)
			r = place_find(root, path, resolve, ret);
	}
	return r < 0 ? call_fail(c, "openat2", -r) : 0;
}

/* Calls make; when something is in the way, removes it and calls again. */
static int replacing(struct call *c, const struct place_in_tree *p, const char *failed, int (*make)(const struct place_in_tree *p, const void *arg), const void *arg)
{
	int r = make(p, arg);
	if (r == -EEXIST) {
		r = tree_remove(p->dir_fd, p->name);
		if (r < 0)
			return call_fail(c, "replace", -r);
		r = make(p, arg);
	}
	return r < 0 ? call_fail(c, failed, -r) : r;
}

static int make_file(const struct place_in_tree *p, const void *arg)
{
	(void)arg;
	int fd = openat(p->dir_fd, p->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

/* A directory stays when it is one already: the entry then only says how it shall be. */
static int make_directory(const struct place_in_tree *p, const void *arg)
{
	(void)arg;
	if (mkdirat(p->dir_fd, p->name, 0700) < 0 && errno != EEXIST)
		return -errno;
	int fd = openat(p->dir_fd, p->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOTDIR || errno == ELOOP ? -EEXIST : -errno;
	return fd;
}

static int make_symlink(const struct place_in_tree *p, const void *target)
{
	return symlinkat(((const struct text *)target)->data, p->dir_fd, p->name) < 0 ? -errno : 0;
}

struct node {
	mode_t kind;
	dev_t device;
};
static int make_node(const struct place_in_tree *p, const void *arg)
{
	const struct node *node = arg;
	return mknodat(p->dir_fd, p->name, node->kind | 0600, node->device) < 0 ? -errno : 0;
}

static int make_link(const struct place_in_tree *p, const void *arg)
{
	const struct place_in_tree *from = arg;
	struct stat a, b;
	if (linkat(from->dir_fd, from->name, p->dir_fd, p->name, 0) == 0)
		return 0;
	int err = errno;
	/* A link to itself, or one that is there already: removing it first would remove the file. */
	if (err == EEXIST && fstatat(from->dir_fd, from->name, &a, AT_SYMLINK_NOFOLLOW) == 0 &&
	    fstatat(p->dir_fd, p->name, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev)
		return 0;
	return -err;
}

static int write_all(struct call *c, int fd, const struct text *content)
{
	for (size_t done = 0; done < content->len;) {
		ssize_t n = write(fd, content->data + done, content->len - done);
		if (n < 0 && errno != EINTR)
			return call_fail(c, "write", errno);
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

static int write_file_entry(struct call *c, const struct place_in_tree *p, const struct text *content, const struct meta *m)
{
	CLEAN_FD fd = replacing(c, p, "create", make_file, NULL);
	if (fd < 0)
		return fd;
	int r = write_all(c, fd, content);
	return r < 0 ? r : finish_open(c, fd, m);
}

static int write_directory_entry(struct call *c, const struct place_in_tree *p, const struct meta *m)
{
	CLEAN_FD fd = replacing(c, p, "mkdir", make_directory, NULL);
	return fd < 0 ? fd : finish_open(c, fd, m);
}

static int write_link_entry(struct call *c, const struct place_in_tree *p, int root, const struct text *existing, uint64_t resolve)
{
	CLEAN_PLACE from;
	int r = place_find(root, existing, resolve, &from);
	if (r < 0) {
		snprintf(c->detail, sizeof c->detail, "link target %.150s", existing->data);
		return call_fail(c, "openat2", -r);
	}
	return replacing(c, p, "link", make_link, &from);
}

/* Borrowed bytes have no NUL behind them; as a name they need one. */
static int terminated(struct call *c, struct text *text)
{
	char *copy = call_alloc(c, text->len + 1);
	if (copy == NULL)
		return call_fail(c, "malloc", ENOMEM);
	if (text->len == 0 || memchr(text->data, '\0', text->len) != NULL)
		return call_fail(c, "link target", EINVAL);
	memcpy(copy, text->data, text->len);
	copy[text->len] = '\0';
	text->data = copy;
	return 0;
}

int sys_write_entry(struct call *c)
{
	const struct arg *a = c->arg;
	int root = (int)a[0].i;
	uint64_t resolve = (uint64_t)a[2].i;
	mode_t kind = (mode_t)a[3].i;
	struct text content = a[9].text;
	struct meta meta;
	CLEAN_PLACE p = { .owned = false };
	if (meta_from(&a[4], &a[11], &meta) < 0 || a[10].count != 2)
		return call_fail(c, "write entry", EINVAL);
	int r = kind == S_IFLNK || kind == 0 ? terminated(c, &content) : 0;
	if (r == 0)
		r = entry_place(c, root, &a[1].text, resolve, &p);
	if (r < 0)
		return r;
	switch (kind) {
	case 0:
		return write_link_entry(c, &p, root, &content, resolve);
	case S_IFREG:
		return write_file_entry(c, &p, &content, &meta);
	case S_IFDIR:
		return write_directory_entry(c, &p, &meta);
	case S_IFLNK:
		r = replacing(c, &p, "symlink", make_symlink, &content);
		return r < 0 ? r : finish_named(c, p.dir_fd, p.name, true, &meta);
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK: {
		struct node node = { kind, makedev((unsigned)a[10].numbers[0], (unsigned)a[10].numbers[1]) };
		r = replacing(c, &p, "mknod", make_node, &node);
		return r < 0 ? r : finish_named(c, p.dir_fd, p.name, false, &meta);
	}
	default:
		return call_fail(c, "write entry", EINVAL);
	}
}

int sys_begin_file(struct call *c)
{
	CLEAN_PLACE p = { .owned = false };
	int r = entry_place(c, (int)c->arg[0].i, &c->arg[1].text, (uint64_t)c->arg[2].i, &p);
	if (r == 0)
		r = replacing(c, &p, "create", make_file, NULL);
	if (r < 0)
		return r;
	c->number = r;
	return 0;
}

int sys_finish_entry(struct call *c)
{
	struct meta meta;
	if (meta_from(&c->arg[1], &c->arg[6], &meta) < 0)
		return call_fail(c, "finish entry", EINVAL);
	return finish_open(c, (int)c->arg[0].i, &meta);
}

/* --- single operations */

int sys_link_at(struct call *c)
{
	const struct arg *a = c->arg;
	CLEAN_PLACE from = { .owned = false }, to = { .owned = false };
	int r = place_find((int)a[0].i, &a[1].text, (uint64_t)a[3].i, &from);
	if (r == 0)
		r = place_find((int)a[0].i, &a[2].text, (uint64_t)a[3].i, &to);
	if (r < 0)
		return call_fail(c, "openat2", -r);
	return linkat(from.dir_fd, from.name, to.dir_fd, to.name, 0) < 0 ? call_fail(c, "linkat", errno) : 0;
}

int sys_symlink_at(struct call *c)
{
	const struct arg *a = c->arg;
	CLEAN_PLACE p = { .owned = false };
	int r = place_find((int)a[0].i, &a[1].text, (uint64_t)a[3].i, &p);
	if (r < 0)
		return call_fail(c, "openat2", -r);
	return symlinkat(a[2].text.data, p.dir_fd, p.name) < 0 ? call_fail(c, "symlinkat", errno) : 0;
}

int sys_mknod_at(struct call *c)
{
	const struct arg *a = c->arg;
	CLEAN_PLACE p = { .owned = false };
	mode_t mode = (mode_t)a[2].i;
	int r = place_find((int)a[0].i, &a[1].text, (uint64_t)a[5].i, &p);
	if (r < 0)
		return call_fail(c, "openat2", -r);
	if (mknodat(p.dir_fd, p.name, mode, makedev((unsigned)a[3].i, (unsigned)a[4].i)) < 0)
		return call_fail(c, "mknodat", errno);
	CLEAN_FD object = openat(p.dir_fd, p.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (object < 0 || chmod(fd_path(object).text, mode & 07777) < 0)
		return call_fail(c, "chmod", errno);
	return 0;
}

int sys_rename_at(struct call *c)
{
	const struct arg *a = c->arg;
	CLEAN_PLACE from = { .owned = false }, to = { .owned = false };
	int r = place_find((int)a[0].i, &a[1].text, (uint64_t)a[4].i, &from);
	if (r == 0)
		r = place_find((int)a[0].i, &a[2].text, (uint64_t)a[4].i, &to);
	if (r < 0)
		return call_fail(c, "openat2", -r);
	if (syscall(SYS_renameat2, from.dir_fd, from.name, to.dir_fd, to.name, (unsigned)a[3].i) < 0)
		return call_fail(c, "renameat2", errno);
	return 0;
}

int sys_unlink_at(struct call *c)
{
	CLEAN_PLACE p = { .owned = false };
	int r = place_find((int)c->arg[0].i, &c->arg[1].text, (uint64_t)c->arg[2].i, &p);
	if (is_absence(r))
		return 0;
	if (r < 0)
		return call_fail(c, "openat2", -r);
	if (unlinkat(p.dir_fd, p.name, 0) < 0 && (errno != EISDIR || unlinkat(p.dir_fd, p.name, AT_REMOVEDIR) < 0))
		return errno == ENOENT ? 0 : call_fail(c, "unlinkat", errno);
	c->number = 1;
	return 0;
}

/* The object of the first two arguments, for what works on a descriptor. fd or -errno. */
static int object_of(struct call *c, const struct arg *resolve)
{
	int fd = object_open((int)c->arg[0].i, &c->arg[1].text, (uint64_t)resolve->i, OBJECT);
	return fd < 0 ? call_fail(c, "openat2", -fd) : fd;
}

int sys_chown_at(struct call *c)
{
	CLEAN_FD fd = object_of(c, &c->arg[4]);
	if (fd < 0)
		return fd;
	if (fchownat(fd, "", (uid_t)c->arg[2].i, (gid_t)c->arg[3].i, AT_EMPTY_PATH) < 0)
		return call_fail(c, "fchownat", errno);
	return 0;
}

int sys_chmod_at(struct call *c)
{
	struct stat st;
	CLEAN_FD fd = object_of(c, &c->arg[3]);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return call_fail(c, "fstat", errno);
	if (S_ISLNK(st.st_mode))
		return call_fail(c, "chmod", EOPNOTSUPP);
	return chmod(fd_path(fd).text, (mode_t)c->arg[2].i & 07777) < 0 ? call_fail(c, "chmod", errno) : 0;
}

int sys_utimes_at(struct call *c)
{
	const struct arg *a = c->arg;
	struct timespec time = { .tv_sec = (time_t)a[2].i, .tv_nsec = (long)a[3].i };
	struct timespec times[2] = { time, time };
	char clean[4096];
	if (clean_path(&a[1].text, clean) == 0 && strcmp(clean, ".") == 0)
		return futimens((int)a[0].i, times) < 0 ? call_fail(c, "futimens", errno) : 0;
	CLEAN_PLACE p = { .owned = false };
	int r = place_find((int)a[0].i, &a[1].text, (uint64_t)a[4].i, &p);
	if (r < 0)
		return call_fail(c, "openat2", -r);
	return utimensat(p.dir_fd, p.name, times, AT_SYMLINK_NOFOLLOW) < 0 ? call_fail(c, "utimensat", errno) : 0;
}

/* Through /proc/self/fd the calls on paths reach exactly the object, even when that is a link. */
int sys_set_xattr_at(struct call *c)
{
	const struct arg *a = c->arg;
	CLEAN_FD fd = object_of(c, &a[4]);
	if (fd < 0)
		return fd;
	if (setxattr(fd_path(fd).text, a[2].text.data, a[3].text.data, a[3].text.len, 0) < 0)
		return call_fail(c, "setxattr", errno);
	return 0;
}

int sys_get_xattr_at(struct call *c)
{
	CLEAN_PTR char *value = malloc(XATTR_BYTES_MAX);
	CLEAN_FD fd = object_of(c, &c->arg[3]);
	if (fd < 0)
		return fd;
	if (value == NULL)
		return call_fail(c, "malloc", ENOMEM);
	ssize_t n = getxattr(fd_path(fd).text, c->arg[2].text.data, value, XATTR_BYTES_MAX);
	if (n < 0) {
		c->absent = errno == ENODATA || errno == EOPNOTSUPP;
		return c->absent ? 0 : call_fail(c, "getxattr", errno);
	}
	return call_bytes(c, value, (size_t)n);
}

int sys_list_xattr_at(struct call *c)
{
	CLEAN_PTR char *names = malloc(XATTR_BYTES_MAX);
	CLEAN_FD fd = object_of(c, &c->arg[2]);
	if (fd < 0)
		return fd;
	if (names == NULL)
		return call_fail(c, "malloc", ENOMEM);
	ssize_t n = listxattr(fd_path(fd).text, names, XATTR_BYTES_MAX);
	if (n < 0 && errno != EOPNOTSUPP)
		return call_fail(c, "listxattr", errno);
	return call_bytes(c, names, n < 0 ? 0 : (size_t)n);
}

int sys_remove_xattr_at(struct call *c)
{
	CLEAN_FD fd = object_of(c, &c->arg[3]);
	if (fd < 0)
		return fd;
	return removexattr(fd_path(fd).text, c->arg[2].text.data) < 0 ? call_fail(c, "removexattr", errno) : 0;
}
