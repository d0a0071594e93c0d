/*
 * Whole trees: listing, removing, copying, measuring. Depth and size of a tree are chosen by whoever filled
 * it, so recursion is bounded, and no path is ever made longer.
 */
#define _GNU_SOURCE
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "addon.h"

/* Open descriptors and stack per level; see STACK_BYTES in jobs.c. */
#define TREE_DEPTH_MAX 512
/* Resolution for a name that must be what readdir saw: no link, no other mount. */
#define ONE_STEP (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)
/* Where removal parks directories that lie too deep, until their turn comes. */
#define PARKED_NAME ".berth-removing-%u"

void close_dir(DIR **dir)
{
	if (*dir != NULL)
		closedir(*dir);
}

DIR *open_dir(int dir, const char *name, uint64_t resolve)
{
	int fd = sys_openat2(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, resolve);
	if (fd < 0) {
		errno = -fd;
		return NULL;
	}
	DIR *stream = fdopendir(fd);
	if (stream == NULL)
		close_fd(&fd);
	return stream;
}

struct dirent *next_entry(DIR *stream)
{
	for (;;) {
		errno = 0;
		struct dirent *entry = readdir(stream);
		if (entry == NULL || (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0))
			return entry;
	}
}

static char type_letter(unsigned char type)
{
	switch (type) {
	case DT_DIR: return 'd';
	case DT_REG: return 'f';
	case DT_LNK: return 'l';
	case DT_CHR: return 'c';
	case DT_BLK: return 'b';
	case DT_FIFO: return 'p';
	case DT_SOCK: return 's';
	default: return '?';
	}
}

int sys_list_at(struct call *c)
{
	CLEAN_BUFFER names = { 0 };
	int fd = object_open((int)c->arg[0].i, &c->arg[1].text, (uint64_t)c->arg[2].i, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return call_fail(c, "openat2", -fd);
	CLEAN_DIR *stream = fdopendir(fd);
	if (stream == NULL) {
		close(fd);
		return call_fail(c, "fdopendir", ENOMEM);
	}
	struct dirent *entry;
	while ((entry = next_entry(stream)) != NULL) {
		char letter = type_letter(entry->d_type);
		if (buffer_add(&names, &letter, 1) < 0 || buffer_add(&names, entry->d_name, strlen(entry->d_name) + 1) < 0)
			return call_fail(c, "malloc", ENOMEM);
	}
	return errno != 0 ? call_fail(c, "readdir", errno) : call_bytes(c, names.data, names.len);
}

/* --- removing */

struct removal {
	int top; /* directory being emptied: parked directories go here */
	unsigned parked;
};

static int remove_name(struct removal *r, int dir, const char *name, unsigned char type, int depth);

/* Empties an open directory. Number of names removed, or -errno. */
static int empty_dir(struct removal *r, DIR *stream, int depth)
{
	int removed = 0;
	struct dirent *entry;
	while ((entry = next_entry(stream)) != NULL) {
		int e = remove_name(r, dirfd(stream), entry->d_name, entry->d_type, depth);
		if (e < 0)
			return e;
		removed++;
	}
	return errno != 0 ? -errno : removed;
}

/*
 * Too deep: moved to the top, where a later pass finds it at depth one. A rename within one mount, so no
 * mount is crossed.
 */
static int park(struct removal *r, int dir, const char *name)
{
	char parked[40];
	for (int tries = 0; tries < 1000; tries++) {
		snprintf(parked, sizeof parked, PARKED_NAME, r->parked++);
		if (renameat2(dir, name, r->top, parked, RENAME_NOREPLACE) == 0)
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

/* Names may appear or be skipped while a directory shrinks: passes go on as long as they remove something. */
static int remove_dir(struct removal *r, int dir, const char *name, int depth)
{
	if (unlinkat(dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return -errno;
	if (depth >= TREE_DEPTH_MAX)
		return park(r, dir, name);
	for (;;) {
		CLEAN_DIR *stream = open_dir(dir, name, ONE_STEP);
		if (stream == NULL)
			return errno == ENOENT ? 0 : -errno;
		int removed = empty_dir(r, stream, depth + 1);
		if (removed < 0)
			return removed;
		if (unlinkat(dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
			return 0;
		if ((errno != ENOTEMPTY && errno != EEXIST) || removed == 0)
			return -errno;
	}
}

static int remove_name(struct removal *r, int dir, const char *name, unsigned char type, int depth)
{
	if (type != DT_DIR) {
		if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
			return 0;
		if (errno != EISDIR)
			return -errno;
	}
	return remove_dir(r, dir, name, depth);
}

int tree_remove(int dir, const char *name)
{
	struct removal r = { .top = -1 };
	if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return -errno;
	CLEAN_FD top = sys_openat2(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, ONE_STEP);
	if (top < 0)
		return top;
	r.top = top;
	return remove_dir(&r, dir, name, 0);
}

int sys_remove_tree_at(struct call *c)
{
	CLEAN_PLACE p = { .owned = false };
	struct stat st;
	int r = place_find((int)c->arg[0].i, &c->arg[1].text, (uint64_t)c->arg[2].i, &p);
	if (r == -ENOENT || r == -ENOTDIR)
		return 0;
	if (r < 0)
		return call_fail(c, "openat2", -r);
	if (fstatat(p.dir_fd, p.name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : call_fail(c, "fstatat", errno);
	r = tree_remove(p.dir_fd, p.name);
	if (r < 0)
		return call_fail(c, "remove tree", -r);
	c->number = 1;
	return 0;
}

/* --- copying */

static int copy_dir(int from, int to, int depth, int64_t *left);

static int copy_xattrs(int from, int to)
{
	CLEAN_PTR char *names = malloc(65536);
	CLEAN_PTR char *value = malloc(65536);
	if (names == NULL || value == NULL)
		return -ENOMEM;
	ssize_t len = flistxattr(from, names, 65536);
	if (len < 0)
		return errno == EOPNOTSUPP ? 0 : -errno;
	for (const char *name = names; name < names + len; name += strlen(name) + 1) {
		/* What overlay keeps for itself belongs to the mount the file came from. */
		if (strncmp(name, "trusted.overlay.", 16) == 0)
			continue;
		ssize_t size = fgetxattr(from, name, value, 65536);
		if (size >= 0 && fsetxattr(to, name, value, (size_t)size, 0) < 0 && errno != EOPNOTSUPP)
			return -errno;
	}
	return 0;
}

static int copy_meta(int from, int to)
{
	struct stat st;
	if (fstat(from, &st) < 0 || fchown(to, st.st_uid, st.st_gid) < 0 || fchmod(to, st.st_mode & 07777) < 0)
		return -errno;
	int r = copy_xattrs(from, to);
	if (r < 0)
		return r;
	return futimens(to, (struct timespec[]){ st.st_atim, st.st_mtim }) < 0 ? -errno : 0;
}

static int copy_by_hand(int from, int to, off_t at, off_t end)
{
	char part[65536];
	while (at < end) {
		ssize_t n = pread(from, part, end - at < (off_t)sizeof part ? (size_t)(end - at) : sizeof part, at);
		if (n <= 0)
			return n < 0 ? -errno : 0;
		for (ssize_t done = 0; done < n;) {
			ssize_t written = pwrite(to, part + done, (size_t)(n - done), at + done);
			if (written < 0)
				return -errno;
			done += written;
		}
		at += n;
	}
	return 0;
}

static int copy_part(int from, int to, off_t at, off_t end)
{
	off_t out = at;
	while (at < end) {
		ssize_t n = copy_file_range(from, &at, to, &out, (size_t)(end - at), 0);
		if (n == 0)
			return 0;
		if (n < 0 && errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS)
			return -errno;
		if (n < 0)
			return copy_by_hand(from, to, at, end);
	}
	return 0;
}

/* Holes stay holes: an image of a kilobyte can have terabytes of them. */
static int copy_bytes(int from, int to, int64_t *left)
{
	struct stat st;
	if (fstat(from, &st) < 0 || ftruncate(to, st.st_size) < 0)
		return -errno;
	for (off_t at = 0; at < st.st_size;) {
		off_t data = lseek(from, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0;
		off_t end = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
		if (end < 0)
			return -errno;
		*left -= end - data;
		int r = *left < 0 ? -EFBIG : copy_part(from, to, data, end);
		if (r < 0)
			return r;
		at = end;
	}
	return 0;
}

static int copy_file(int from_dir, int to_dir, const char *name, int64_t *left)
{
	CLEAN_FD from = sys_openat2(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0, ONE_STEP);
	if (from < 0)
		return from;
	CLEAN_FD to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	int r = copy_bytes(from, to, left);
	return r < 0 ? r : copy_meta(from, to);
}

static int copy_link(int from_dir, int to_dir, const char *name, const struct stat *st)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(from_dir, name, target, sizeof target - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	if (symlinkat(target, to_dir, name) < 0 || fchownat(to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return utimensat(to_dir, name, (struct timespec[]){ st->st_atim, st->st_mtim }, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int copy_subdir(int from_dir, int to_dir, const char *name, int depth, int64_t *left)
{
	CLEAN_FD from = sys_openat2(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ONE_STEP);
	if (from < 0)
		return from;
	if (mkdirat(to_dir, name, 0700) < 0)
		return -errno;
	CLEAN_FD to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (to < 0)
		return -errno;
	int r = copy_dir(from, to, depth + 1, left);
	return r < 0 ? r : copy_meta(from, to);
}

static int copy_entry(int from, int to, const char *name, int depth, int64_t *left)
{
	struct stat st;
	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (S_ISREG(st.st_mode))
		return copy_file(from, to, name, left);
	if (S_ISLNK(st.st_mode))
		return copy_link(from, to, name, &st);
	return S_ISDIR(st.st_mode) ? copy_subdir(from, to, name, depth, left) : 0;
}

static int copy_dir(int from, int to, int depth, int64_t *left)
{
	if (depth >= TREE_DEPTH_MAX)
		return -ENAMETOOLONG;
	CLEAN_DIR *stream = open_dir(from, ".", ONE_STEP);
	if (stream == NULL)
		return -errno;
	struct dirent *entry;
	while ((entry = next_entry(stream)) != NULL) {
		int r = copy_entry(from, to, entry->d_name, depth, left);
		if (r < 0)
			return r;
	}
	return -errno;
}

int sys_copy_tree(struct call *c)
{
	const struct arg *a = c->arg;
	int64_t left = a[4].i;
	uint64_t resolve = (uint64_t)a[5].i;
	CLEAN_FD from = object_open((int)a[0].i, &a[1].text, resolve, O_RDONLY | O_DIRECTORY);
	if (from < 0)
		return call_fail(c, "open source", -from);
	CLEAN_FD to = object_open((int)a[2].i, &a[3].text, resolve, O_RDONLY | O_DIRECTORY);
	if (to < 0)
		return call_fail(c, "open target", -to);
	int r = copy_dir(from, to, 0, &left);
	if (r == 0)
		r = copy_meta(from, to);
	return r < 0 ? call_fail(c, "copy", -r) : 0;
}

/* --- measuring */

struct inode {
	dev_t dev;
	ino_t ino;
};
struct usage {
	int64_t bytes, inodes;
	struct inode *seen; /* open addressing; ino 0 = free */
	size_t seen_count, seen_room;
};

static size_t slot_of(const struct usage *u, ino_t ino, dev_t dev)
{
	size_t at = (size_t)((ino * 0x9E3779B97F4A7C15ULL) ^ dev) & (u->seen_room - 1);
	while (u->seen[at].ino != 0 && (u->seen[at].ino != ino || u->seen[at].dev != dev))
		at = (at + 1) & (u->seen_room - 1);
	return at;
}

static int seen_grow(struct usage *u)
{
	struct usage grown = { .seen_room = u->seen_room == 0 ? 256 : u->seen_room * 2 };
	grown.seen = calloc(grown.seen_room, sizeof *grown.seen);
	if (grown.seen == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < u->seen_room; i++)
		if (u->seen[i].ino != 0)
			grown.seen[slot_of(&grown, u->seen[i].ino, u->seen[i].dev)] = u->seen[i];
	free(u->seen);
	u->seen = grown.seen;
	u->seen_room = grown.seen_room;
	return 0;
}

/* 1 if this inode is new, 0 if it was counted, -errno. */
static int see(struct usage *u, const struct stat *st)
{
	if (u->seen_count * 2 >= u->seen_room && seen_grow(u) < 0)
		return -ENOMEM;
	size_t at = slot_of(u, st->st_ino, st->st_dev);
	if (u->seen[at].ino != 0)
		return 0;
	u->seen[at] = (struct inode){ st->st_dev, st->st_ino };
	u->seen_count++;
	return 1;
}

/*
 * Files with several names that are remembered, in a table of 16 MiB: whoever fills a layer must not fill our
 * memory as well. Beyond them each name counts for its part of the bytes, and for no inode.
 */
#define SEEN_MAX (512 * 1024)

static int count(struct usage *u, const struct stat *st)
{
	bool linked = st->st_nlink > 1 && !S_ISDIR(st->st_mode);
	if (linked && u->seen_count >= SEEN_MAX && u->seen[slot_of(u, st->st_ino, st->st_dev)].ino == 0) {
		u->bytes += (int64_t)st->st_blocks * 512 / (int64_t)st->st_nlink;
		return 0;
	}
	int fresh = linked ? see(u, st) : 1;
	if (fresh > 0) {
		u->bytes += (int64_t)st->st_blocks * 512;
		u->inodes++;
	}
	return fresh < 0 ? fresh : 0;
}

/* What vanishes meanwhile is not counted; what lies deeper than the bound neither. */
static int measure_dir(struct usage *u, DIR *stream, int depth)
{
	struct dirent *entry;
	struct stat st;
	while ((entry = next_entry(stream)) != NULL) {
		if (fstatat(dirfd(stream), entry->d_name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
			continue;
		int r = count(u, &st);
		if (r < 0)
			return r;
		if (!S_ISDIR(st.st_mode) || depth >= TREE_DEPTH_MAX)
			continue;
		CLEAN_DIR *below = open_dir(dirfd(stream), entry->d_name, ONE_STEP);
		if (below != NULL) {
			r = measure_dir(u, below, depth + 1);
			if (r < 0)
				return r;
		}
	}
	return -errno;
}

int sys_tree_usage(struct call *c)
{
	struct usage u = { 0 };
	struct stat st;
	CLEAN_DIR *stream = opendir(c->arg[0].text.data);
	if (stream == NULL || fstat(dirfd(stream), &st) < 0)
		return call_fail(c, "opendir", errno);
	int r = count(&u, &st);
	if (r == 0)
		r = measure_dir(&u, stream, 0);
	free(u.seen);
	return r < 0 ? call_fail(c, "readdir", -r) : call_numbers(c, (int64_t[]){ u.bytes, u.inodes }, 2);
}
