/*
 * Mounts by descriptor: a mount is complete before anybody can see it. The calls go through syscall(2), since
 * libc has them only lately, and the headers of libc and of the kernel do not go together.
 */
#define _GNU_SOURCE
#include <linux/mount.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "addon.h"

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#define UMOUNT_ARGS_OK (2 | 8) /* MNT_DETACH | UMOUNT_NOFOLLOW */
#define UMOUNTS_MAX 1024
/* fsconfig takes strings of at most this length. */
#define FSCONFIG_STRING_MAX 255
/* mount(2) takes one page of data. */
#define CLASSIC_DATA_MAX 4095

static int fs_open(const char *type)
{
	return (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
}
static int fs_config(int fs, unsigned cmd, const char *key, const char *value)
{
	return (int)syscall(SYS_fsconfig, fs, cmd, key, value, 0);
}
static int fs_mount(int fs, int64_t attributes)
{
	return (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, (unsigned)attributes);
}
static int move_to(int mount, const char *target)
{
	return (int)syscall(SYS_move_mount, mount, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH);
}
static int open_clone(const char *path, unsigned flags)
{
	return (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
}
static int set_attributes(int dir, const char *path, unsigned flags, struct mount_attr *attr)
{
	return (int)syscall(SYS_mount_setattr, dir, path, flags, attr, sizeof *attr);
}
static int classic_mount(const char *source, const char *target, const char *type, unsigned long flags,
			 const char *data)
{
	return (int)syscall(SYS_mount, source, target, type, flags, data);
}

/*
 * A command in a container gets our /dev/null, and the owner of a device, which is root, may change its mode: by
 * that descriptor it would be the node's own. So it is one of ours, on a read-only mount that nobody else sees, and
 * still called /dev/null. -1 where there are no such mounts (before Linux 5.12) or no right to make them.
 */
static int mount_null(void)
{
	struct mount_attr read_only = { .attr_set = MOUNT_ATTR_RDONLY };
	CLEAN_FD fs = fs_open("tmpfs");
	if (fs < 0 || fs_config(fs, FSCONFIG_CMD_CREATE, NULL, NULL) < 0)
		return -1;
	CLEAN_FD mount = fs_mount(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	if (mount < 0 || mkdirat(mount, "dev", 0755) < 0 ||
	    mknodat(mount, "dev/null", S_IFCHR | 0666, makedev(1, 3)) < 0 ||
	    fchmodat(mount, "dev/null", 0666, 0) < 0 ||
	    set_attributes(mount, "", AT_EMPTY_PATH, &read_only) < 0)
		return -1;
	return take_fd(&mount);
}

static char null_path[40] = "/dev/null";

/* The mount stays open; a child has it until it executes. */
static void find_null(void)
{
	int mount = mount_null();
	if (mount >= 0)
		snprintf(null_path, sizeof null_path, "/proc/self/fd/%d/dev/null", mount);
}

const char *null_device(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	(void)pthread_once(&once, find_null);
	return null_path;
}

/* What the kernel says in words about a context, into the call's detail. Keeps errno. */
static void take_message(struct call *c, int fs)
{
	int saved = errno;
	char text[160];
	ssize_t n = read(fs, text, sizeof text - 1);
	if (n > 2) {
		text[n] = '\0';
		text[strcspn(text, "\n")] = '\0';
		snprintf(c->detail, sizeof c->detail, "%s", text + 2); /* after "e " */
	}
	errno = saved;
}

static int config_failed(struct call *c, int fs, const char *key)
{
	take_message(c, fs);
	if (c->detail[0] == '\0')
		snprintf(c->detail, sizeof c->detail, "option %.100s", key);
	return call_fail(c, "fsconfig", errno);
}

/* One option as mount(8) writes it: key=value or flag. */
static int config_option(struct call *c, int fs, const struct text *option)
{
	const char *equals = strchr(option->data, '=');
	if (equals == NULL)
		return fs_config(fs, FSCONFIG_SET_FLAG, option->data, NULL) < 0 ? config_failed(c, fs, option->data) : 0;
	size_t len = (size_t)(equals - option->data);
	char *key = call_alloc(c, len + 1);
	if (key == NULL)
		return call_fail(c, "malloc", ENOMEM);
	memcpy(key, option->data, len);
	key[len] = '\0';
	return fs_config(fs, FSCONFIG_SET_STRING, key, equals + 1) < 0 ? config_failed(c, fs, option->data) : 0;
}

static int config_options(struct call *c, int fs, const struct arg *options)
{
	for (size_t i = 0; i < options->count; i++) {
		int r = config_option(c, fs, &options->list[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Makes the superblock and a mount of it that is nowhere yet. fd or -errno. */
static int create_mount(struct call *c, int fs, int64_t attributes)
{
	if (fs_config(fs, FSCONFIG_CMD_CREATE, NULL, NULL) < 0) {
		take_message(c, fs);
		return call_fail(c, "fsconfig create", errno);
	}
	int mount = fs_mount(fs, attributes);
	if (mount < 0) {
		take_message(c, fs);
		return call_fail(c, "fsmount", errno);
	}
	return mount;
}

int sys_mount_fs(struct call *c)
{
	const struct arg *a = c->arg;
	CLEAN_FD fs = fs_open(a[0].text.data);
	if (fs < 0)
		return call_fail(c, "fsopen", errno);
	if (fs_config(fs, FSCONFIG_SET_STRING, "source", a[1].text.data) < 0)
		return config_failed(c, fs, "source");
	int r = config_options(c, fs, &a[4]);
	if (r < 0)
		return r;
	CLEAN_FD mount = create_mount(c, fs, a[3].i);
	if (mount < 0)
		return mount;
	return move_to(mount, a[2].text.data) < 0 ? call_fail(c, "move_mount", errno) : 0;
}

/* --- overlay */

struct overlay {
	const struct arg *lower, *options;
	const char *upper, *work, *target;
	int64_t attributes;
	enum { OVERLAY_BEST, OVERLAY_CLASSIC } method;
};

/* A path that is too long for fsconfig goes through a descriptor, which *ret_fd then keeps. */
static const char *short_path(const char *path, struct fd_path *space, int *ret_fd)
{
	if (strlen(path) <= FSCONFIG_STRING_MAX)
		return path;
	*ret_fd = open(path, O_PATH | O_CLOEXEC);
	*space = fd_path(*ret_fd);
	return space->text;
}

static int config_path(int fs, const char *key, const char *path)
{
	CLEAN_FD fd = -1;
	struct fd_path space;
	return fs_config(fs, FSCONFIG_SET_STRING, key, short_path(path, &space, &fd));
}

/* Layers one by one (kernel 6.7). Returns a mount, -ENOSYS if this kernel cannot, or -errno. */
static int overlay_by_context(struct call *c, const struct overlay *o)
{
	CLEAN_FD fs = fs_open("overlay");
	if (fs < 0)
		return errno == ENOSYS || errno == EPERM ? -ENOSYS : call_fail(c, "fsopen", errno);
	for (size_t i = 0; i < o->lower->count; i++) {
		if (config_path(fs, "lowerdir+", o->lower->list[i].data) == 0)
			continue;
		take_message(c, fs);
		if (i == 0 && errno == EINVAL && (c->detail[0] == '\0' || strstr(c->detail, "nknown param") != NULL)) {
			c->detail[0] = '\0';
			return -ENOSYS;
		}
		if (c->detail[0] == '\0')
			snprintf(c->detail, sizeof c->detail, "layer %.150s", o->lower->list[i].data);
		return call_fail(c, "fsconfig lowerdir+", errno);
	}
	if (o->upper[0] != '\0') {
		if (config_path(fs, "upperdir", o->upper) < 0)
			return config_failed(c, fs, "upperdir");
		if (config_path(fs, "workdir", o->work) < 0)
			return config_failed(c, fs, "workdir");
	}
	(void)fs_config(fs, FSCONFIG_SET_STRING, "source", "overlay");
	int r = config_options(c, fs, o->options);
	return r < 0 ? r : create_mount(c, fs, o->attributes);
}

/*
 * Directories held open so that mount(2) can name them in a few bytes: no escaping, and 128 layers fit into
 * its page.
 */
struct held {
	int *fds;
	size_t count;
};
static void held_close(struct held *held)
{
	for (size_t i = 0; i < held->count; i++)
		close(held->fds[i]);
	free(held->fds);
}

static int hold_path(struct held *held, struct buffer *data, const char *before, const char *path)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	held->fds[held->count++] = fd;
	struct fd_path name = fd_path(fd);
	int r = buffer_add(data, before, strlen(before));
	return r < 0 ? r : buffer_add(data, name.text, strlen(name.text));
}

/* A label of SELinux may have commas in it, which need quotes in a string of all options. */
static int add_option(struct buffer *data, const char *option, size_t len)
{
	const char *value = memchr(option, '=', len);

	if (value == NULL || memchr(option, ',', len) == NULL)
		return buffer_add(data, option, len);
	size_t name = (size_t)(++value - option);
	int r = buffer_add(data, option, name);
	r = r < 0 ? r : buffer_add(data, "\"", 1);
	r = r < 0 ? r : buffer_add(data, value, len - name);
	return r < 0 ? r : buffer_add(data, "\"", 1);
}

static int classic_data(const struct overlay *o, struct held *held, struct buffer *data)
{
	int r = 0;
	held->fds = malloc((o->lower->count + 2) * sizeof *held->fds);
	if (held->fds == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < o->lower->count && r == 0; i++)
		r = hold_path(held, data, i == 0 ? "lowerdir=" : ":", o->lower->list[i].data);
	if (o->upper[0] != '\0') {
		if (r == 0)
			r = hold_path(held, data, ",upperdir=", o->upper);
		if (r == 0)
			r = hold_path(held, data, ",workdir=", o->work);
	}
	for (size_t i = 0; i < o->options->count && r == 0; i++) {
		r = buffer_add(data, ",", 1);
		if (r == 0)
			r = add_option(data, o->options->list[i].data, o->options->list[i].len);
	}
	if (r == 0)
		r = buffer_add(data, "", 1);
	return r < 0 ? r : data->len > CLASSIC_DATA_MAX ? -E2BIG : 0;
}

static unsigned long classic_flags(int64_t attributes)
{
	static const struct { int64_t attribute; unsigned long flag; } map[] = {
		{ MOUNT_ATTR_RDONLY, MS_RDONLY }, { MOUNT_ATTR_NOSUID, MS_NOSUID }, { MOUNT_ATTR_NODEV, MS_NODEV },
		{ MOUNT_ATTR_NOEXEC, MS_NOEXEC }, { MOUNT_ATTR_NOATIME, MS_NOATIME }, { MOUNT_ATTR_NODIRATIME, MS_NODIRATIME },
	};
	unsigned long flags = 0;
	for (size_t i = 0; i < sizeof map / sizeof *map; i++)
		if ((attributes & map[i].attribute) != 0)
			flags |= map[i].flag;
	return flags;
}

/* What kernels before 6.7 take: one string, straight onto the target. */
static int overlay_classic(struct call *c, const struct overlay *o)
{
	__attribute__((cleanup(held_close))) struct held held = { 0 };
	CLEAN_BUFFER data = { 0 };
	int r = classic_data(o, &held, &data);
	if (r < 0)
		return call_fail(c, "prepare overlay options", -r);
	if (classic_mount("overlay", o->target, "overlay", classic_flags(o->attributes), data.data) < 0)
		return call_fail(c, "mount overlay", errno);
	return 0;
}

static int overlay_mount(struct call *c, const struct overlay *o)
{
	if (o->method != OVERLAY_CLASSIC) {
		CLEAN_FD mount = overlay_by_context(c, o);
		if (mount >= 0)
			return move_to(mount, o->target) < 0 ? call_fail(c, "move_mount", errno) : 0;
		if (mount != -ENOSYS)
			return mount;
	}
	return overlay_classic(c, o);
}

/* Covers a lower layer by an idmapped mount of itself; only in a mount namespace of our own. */
static int cover_idmapped(struct call *c, const char *path, int userns)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)(uint32_t)userns };
	CLEAN_FD tree = open_clone(path, 0);
	if (tree < 0)
		return call_fail(c, "open_tree", errno);
	if (set_attributes(tree, "", AT_EMPTY_PATH, &attr) < 0)
		return call_fail(c, "mount_setattr idmap", errno);
	return move_to(tree, path) < 0 ? call_fail(c, "move_mount", errno) : 0;
}

/*
 * Overlay takes the mounts that its layers are reached through, with their id maps, but wants to reach them
 * by path. So this thread gets a mount namespace where each layer is covered by its idmapped twin, mounts
 * there, and carries the result out as a detached tree. The namespace dies with the thread's return.
 */
static int overlay_idmapped(struct call *c, const struct overlay *o, int userns)
{
	CLEAN_FD home = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (home < 0)
		return call_fail(c, "open", errno);
	jobs_spoil_thread(); /* CLONE_FS cannot be joined again. */
	if (unshare(CLONE_FS | CLONE_NEWNS) < 0)
		return call_fail(c, "unshare", errno);
	if (classic_mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return call_fail(c, "make mounts private", errno);
	int r = 0;
	for (size_t i = 0; i < o->lower->count && r == 0; i++)
		r = cover_idmapped(c, o->lower->list[i].data, userns);
	if (r == 0)
		r = overlay_mount(c, o);
	if (r < 0)
		return r;
	CLEAN_FD mount = open_clone(o->target, 0);
	if (mount < 0)
		return call_fail(c, "open_tree", errno);
	if (setns(home, CLONE_NEWNS) < 0)
		return call_fail(c, "setns", errno);
	return move_to(mount, o->target) < 0 ? call_fail(c, "move_mount", errno) : 0;
}

int sys_mount_overlay(struct call *c)
{
	const struct arg *a = c->arg;
	struct overlay o = {
		.lower = &a[0],
		.upper = a[1].text.data,
		.work = a[2].text.data,
		.target = a[3].text.data,
		.attributes = a[4].i,
		.options = &a[5],
		.method = a[7].i == 1 ? OVERLAY_CLASSIC : OVERLAY_BEST,
	};
	return a[6].i >= 0 ? overlay_idmapped(c, &o, (int)a[6].i) : overlay_mount(c, &o);
}

/* --- bind mounts and attributes */

int sys_mount_bind(struct call *c)
{
	const struct arg *a = c->arg;
	unsigned recursive = a[2].i != 0 ? AT_RECURSIVE : 0;
	struct mount_attr attr = {
		.attr_set = (uint64_t)a[3].i,
		.attr_clr = (uint64_t)a[4].i,
		.propagation = (uint64_t)a[5].i,
	};
	if (a[6].i >= 0) {
		attr.attr_set |= MOUNT_ATTR_IDMAP;
		attr.userns_fd = (uint64_t)a[6].i;
	}
	CLEAN_FD tree = open_clone(a[0].text.data, recursive);
	if (tree < 0)
		return call_fail(c, "open_tree", errno);
	bool plain = attr.attr_set == 0 && attr.attr_clr == 0 && attr.propagation == 0;
	if (!plain && set_attributes(tree, "", AT_EMPTY_PATH | recursive, &attr) < 0)
		return call_fail(c, "mount_setattr", errno);
	return move_to(tree, a[1].text.data) < 0 ? call_fail(c, "move_mount", errno) : 0;
}

int sys_unmount(struct call *c)
{
	if ((c->arg[1].i & ~(int64_t)UMOUNT_ARGS_OK) != 0)
		return call_fail(c, "umount2", EINVAL);
	/* Over-mounts go too. Whoever mounts faster than that mounts against us. */
	while (c->number < UMOUNTS_MAX && syscall(SYS_umount2, c->arg[0].text.data, (int)c->arg[1].i) == 0)
		c->number++;
	if (c->number < UMOUNTS_MAX && errno != EINVAL && errno != ENOENT && errno != ENOTDIR)
		return call_fail(c, "umount2", errno);
	return 0;
}
