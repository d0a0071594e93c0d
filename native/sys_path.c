/*
 * One object below a root directory. Every path goes through openat2 with the caller's RESOLVE_ flags; the
 * last name is then used on its directory's descriptor and never followed. No string is ever joined with a
 * host path.
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
int clean_path(const struct text *path, char ret[4096])
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

bool odd_name(const char *name, size_t len)
{
	return len == 0 || (len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.');
}

/*
 * In a tree that is exactly what we made (RESOLVE_BENEATH), empty names, "." and ".." are a caller's mistake
 * or an attack.
 */
int check_names(const char *path, uint64_t resolve)
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
