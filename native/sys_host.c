/*
 * What lies on the host: paths looked at before they are mounted, and the device nodes of /dev.
 */
#define _GNU_SOURCE
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "addon.h"

/* --- host paths */

/* mkdir -p of a host path, whose links are followed. */
static int make_host_dirs(const char *path)
{
	char partial[PATH_MAX];
	size_t len = strlen(path);
	if (len == 0 || len >= sizeof partial)
		return -ENAMETOOLONG;
	memcpy(partial, path, len + 1);
	for (char *at = partial + 1;; at++) {
		at += strcspn(at, "/");
		char end = *at;
		*at = '\0';
		if (mkdir(partial, 0755) < 0 && errno != EEXIST)
			return -errno;
		*at = end;
		if (end == '\0')
			return 0;
	}
}

int sys_probe(struct call *c)
{
	int64_t values[13];
	const char *path = c->arg[0].text.data;
	CLEAN_PTR char *real = realpath(path, NULL);
	if (real == NULL && errno == ENOENT && c->arg[1].i != 0) {
		int r = make_host_dirs(path);
		if (r < 0)
			return call_fail(c, "mkdir", -r);
		real = realpath(path, NULL);
	}
	if (real == NULL) {
		c->absent = errno == ENOENT || (errno == ENOTDIR && c->arg[1].i == 0);
		return c->absent ? 0 : call_fail(c, "realpath", errno);
	}
	int r = object_stat(AT_FDCWD, real, AT_STATX_DONT_SYNC, values);
	if (r < 0)
		return call_fail(c, "statx", -r);
	r = call_numbers(c, values, 13);
	return r < 0 ? r : call_bytes(c, real, strlen(real));
}

/* --- device nodes */

struct devices {
	struct buffer numbers, names;
};

/* Instances of file systems that each container gets its own of, and what runtimes make themselves. */
static bool skip_in_dev(const char *name)
{
	static const char *const skipped[] = { "pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev" };
	for (size_t i = 0; i < sizeof skipped / sizeof *skipped; i++)
		if (strcmp(name, skipped[i]) == 0)
			return true;
	return false;
}

static int add_device(struct devices *d, const char *path, const struct stat *st)
{
	int64_t values[6] = {
		st->st_mode & S_IFMT, (int64_t)major(st->st_rdev), (int64_t)minor(st->st_rdev),
		st->st_mode & 07777,  st->st_uid,                  st->st_gid,
	};
	int r = buffer_add(&d->numbers, values, sizeof values);
	return r < 0 ? r : buffer_add(&d->names, path, strlen(path) + 1);
}

static int find_devices(struct devices *d, DIR *stream, const char *dir, int depth)
{
	struct dirent *entry;
	while ((entry = next_entry(stream)) != NULL) {
		char path[PATH_MAX];
		struct stat st;
		int n = snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
		if (skip_in_dev(entry->d_name) || n < 0 || (size_t)n >= sizeof path)
			continue;
		if (fstatat(dirfd(stream), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		int r = 0;
		if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode) || S_ISFIFO(st.st_mode))
			r = add_device(d, path, &st);
		else if (S_ISDIR(st.st_mode) && depth < 16) {
			CLEAN_DIR *below = open_dir(dirfd(stream), entry->d_name, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
			r = below == NULL ? 0 : find_devices(d, below, path, depth + 1);
		}
		if (r < 0)
			return r;
	}
	return -errno;
}

int sys_devices(struct call *c)
{
	struct devices d = { 0 };
	CLEAN_DIR *stream = opendir(c->arg[0].text.data);
	if (stream == NULL)
		return call_fail(c, "opendir", errno);
	int r = find_devices(&d, stream, c->arg[0].text.data, 0);
	if (r == 0)
		r = call_numbers(c, (const int64_t *)(const void *)d.numbers.data, d.numbers.len / sizeof(int64_t));
	else
		(void)call_fail(c, "readdir", -r);
	if (r == 0)
		r = call_bytes(c, d.names.data, d.names.len);
	buffer_free(&d.numbers);
	buffer_free(&d.names);
	return r;
}
