/*
 * Directories and whole entries of a layer, made below a root directory: content, owner, mode, attributes and times
 * in the one order that keeps them. Paths as in sys_path.c.
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

/* As the kernel's own MAXSYMLINKS, for the links that makeDirs follows itself. */
#define LINKS_MAX 40

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
static int make_link_target(int root, int dir, const char *prefix, const char *name, const struct owner *owner,
			    uint64_t resolve, int links)
{
	char target[4096], path[4096];
	ssize_t n = readlinkat(dir, name, target, sizeof target - 1);
	if (n < 0)
		return -ENOTDIR;
	if (links == LINKS_MAX)
		return -ELOOP;
	target[n] = '\0';
	size_t before = target[0] == '/' ? 0 : strlen(prefix) - strlen(name);
	const char *below = target[0] == '/' ? target + strspn(target, "/") : target;
	int len = snprintf(path, sizeof path, "%.*s%s", (int)before, prefix, below);
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
	if ((a[0].i & ~07777) != 0 || a[1].i < -1 || a[1].i > UINT32_MAX || a[2].i < -1 || a[2].i > UINT32_MAX ||
	    xattrs->count % 2 != 0)
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

/*
 * What a file system does not take is left out, as other unpackers do: an ACL where there are none, an attribute of the
 * builder's kind of file system. But without overlay's own, what a layer hides would show.
 */
static bool may_lack(const struct text *name)
{
	static const char own[] = "trusted.overlay.";
	return errno == EOPNOTSUPP && strncmp(name->data, own, sizeof own - 1) != 0;
}

/* chown clears setuid bits and file capabilities, writing xattrs changes no times, times come last. */
static int finish_open(struct call *c, int fd, const struct meta *m)
{
	if (fchown(fd, m->uid, m->gid) < 0)
		return meta_failed(c, "fchown", NULL);
	if (fchmod(fd, m->mode) < 0)
		return meta_failed(c, "fchmod", NULL);
	for (size_t i = 0; i + 1 < m->xattrs_count; i += 2)
		if (fsetxattr(fd, m->xattrs[i].data, m->xattrs[i + 1].data, m->xattrs[i + 1].len, 0) < 0 &&
		    !may_lack(&m->xattrs[i]))
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
		if (setxattr(path.text, m->xattrs[i].data, m->xattrs[i + 1].data, m->xattrs[i + 1].len, 0) < 0 &&
		    !may_lack(&m->xattrs[i]))
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
static int replacing(struct call *c, const struct place_in_tree *p, const char *failed,
		     int (*make)(const struct place_in_tree *p, const void *arg), const void *arg)
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

static int write_file_entry(struct call *c, const struct place_in_tree *p, const struct text *content,
			    const struct meta *m)
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

static int write_link_entry(struct call *c, const struct place_in_tree *p, int root, const struct text *existing,
			    uint64_t resolve)
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
