/*
 * Descriptors: pipes, unix sockets, terminals, locks, small files.
 */
#define _GNU_SOURCE
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <termios.h>

#include "addon.h"

/* More descriptors in one message than we ask for are closed, so there must be room to see them. */
#define FDS_RECEIVED_MAX 16

struct fd_path fd_path(int fd)
{
	struct fd_path path;
	snprintf(path.text, sizeof path.text, "/proc/self/fd/%d", fd);
	return path;
}

int write_file(const char *path, const char *data, size_t len)
{
	CLEAN_FD fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, data, len);
	return n < 0 ? -errno : (size_t)n == len ? 0 : -EIO;
}

int sys_pipe(struct call *c)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0)
		return call_fail(c, "pipe2", errno);
	return call_numbers(c, (int64_t[]){ fds[0], fds[1] }, 2);
}

int sys_socket_pair(struct call *c)
{
	int fds[2];
	if (socketpair(AF_UNIX, (int)c->arg[0].i | SOCK_CLOEXEC, 0, fds) < 0)
		return call_fail(c, "socketpair", errno);
	return call_numbers(c, (int64_t[]){ fds[0], fds[1] }, 2);
}

/*
 * sockaddr_un has 108 bytes for a path, and paths of ours have more. A socket that exists is named by a
 * descriptor of it; one that is to be made, by its directory's descriptor and its name.
 */
static int unix_address(const char *path, int *ret_fd, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	*ret_fd = open(path, O_PATH | O_CLOEXEC);
	if (*ret_fd < 0)
		return -errno;
	snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d", *ret_fd);
	return 0;
}

static int new_unix_address(const char *path, int *ret_fd, struct sockaddr_un *ret)
{
	char dir[4096];
	const char *slash = strrchr(path, '/');
	size_t len = slash == NULL ? 0 : (size_t)(slash - path);
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (slash == NULL || len >= sizeof dir)
		return -EINVAL;
	memcpy(dir, path, len);
	dir[len] = '\0';
	*ret_fd = open(len == 0 ? "/" : dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*ret_fd < 0)
		return -errno;
	int n = snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d%s", *ret_fd, slash);
	return n < 0 || (size_t)n >= sizeof ret->sun_path ? -ENAMETOOLONG : 0;
}

int sys_connect_unix(struct call *c)
{
	struct sockaddr_un address;
	CLEAN_FD file = -1;
	int r = unix_address(c->arg[0].text.data, &file, &address);
	if (r < 0)
		return call_fail(c, "open", -r);
	CLEAN_FD fd = socket(AF_UNIX, (int)c->arg[1].i | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return call_fail(c, "socket", errno);
	/* connect() waits for room in the backlog for as long as a send would. */
	struct timeval wait = { .tv_sec = c->arg[2].i / 1000, .tv_usec = c->arg[2].i % 1000 * 1000 };
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
	if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0)
		return call_fail(c, "connect", errno);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){ 0 }, sizeof(struct timeval));
	c->number = take_fd(&fd);
	return 0;
}

int sys_listen_unix(struct call *c)
{
	struct sockaddr_un address;
	CLEAN_FD dir = -1;
	int r = new_unix_address(c->arg[0].text.data, &dir, &address);
	if (r < 0)
		return call_fail(c, "open", -r);
	CLEAN_FD fd = socket(AF_UNIX, (int)c->arg[1].i | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return call_fail(c, "socket", errno);
	/*
	 * The mode of the socket becomes that of its file: no moment with a wider one, no umask of the
	 * process touched.
	 */
	if (fchmod(fd, (mode_t)c->arg[2].i) < 0)
		return call_fail(c, "fchmod", errno);
	if (bind(fd, (const struct sockaddr *)&address, sizeof address) < 0)
		return call_fail(c, "bind", errno);
	if (c->arg[1].i != SOCK_DGRAM && listen(fd, SOMAXCONN) < 0)
		return call_fail(c, "listen", errno);
	c->number = take_fd(&fd);
	return 0;
}

int sys_accept_unix(struct call *c)
{
	int fd = accept4((int)c->arg[0].i, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return call_fail(c, "accept", errno);
	c->number = fd;
	return 0;
}

/* Keeps the first descriptor of a message and closes what a peer sent beyond it. */
static int first_descriptor(struct msghdr *message)
{
	int kept = -ENOMSG;
	for (struct cmsghdr *m = CMSG_FIRSTHDR(message); m != NULL; m = CMSG_NXTHDR(message, m)) {
		if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(m) + i * sizeof fd, sizeof fd);
			if (kept < 0)
				kept = fd;
			else
				close(fd);
		}
	}
	return kept;
}

int sys_receive_fd(struct call *c)
{
	char data[4096]; /* runtimes send the terminal's name with it */
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(FDS_RECEIVED_MAX * sizeof(int))];
	} control;
	struct iovec iov = { data, sizeof data };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control,
	};
	ssize_t n = recvmsg((int)c->arg[0].i, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return call_fail(c, "recvmsg", errno);
	int fd = first_descriptor(&message);
	if (fd < 0)
		return call_fail(c, "recvmsg", n == 0 ? ECONNRESET : -fd);
	c->number = fd;
	return 0;
}

static bool in_bounds(const struct arg *a)
{
	return a[2].i >= 0 && a[3].i >= 0 && (uint64_t)a[2].i + (uint64_t)a[3].i <= a[1].text.len;
}

/* These two answer -errno as a number: a full pipe is no exception. */
int sys_read(struct call *c)
{
	const struct arg *a = c->arg;
	if (!in_bounds(a))
		return call_fail(c, "read", EINVAL);
	ssize_t n = read((int)a[0].i, (char *)(uintptr_t)a[1].text.data + a[2].i, (size_t)a[3].i);
	c->number = n < 0 ? -errno : n;
	return 0;
}

int sys_write(struct call *c)
{
	const struct arg *a = c->arg;
	if (!in_bounds(a))
		return call_fail(c, "write", EINVAL);
	ssize_t n = write((int)a[0].i, a[1].text.data + a[2].i, (size_t)a[3].i);
	c->number = n < 0 ? -errno : n;
	return 0;
}

int sys_shutdown_write(struct call *c)
{
	return shutdown((int)c->arg[0].i, SHUT_WR) < 0 ? call_fail(c, "shutdown", errno) : 0;
}

int sys_set_window_size(struct call *c)
{
	struct winsize size = { .ws_col = (unsigned short)c->arg[1].i, .ws_row = (unsigned short)c->arg[2].i };
	if (c->arg[1].i < 0 || c->arg[1].i > UINT16_MAX || c->arg[2].i < 0 || c->arg[2].i > UINT16_MAX)
		return call_fail(c, "TIOCSWINSZ", EINVAL);
	return ioctl((int)c->arg[0].i, TIOCSWINSZ, &size) < 0 ? call_fail(c, "TIOCSWINSZ", errno) : 0;
}

int sys_lock(struct call *c)
{
	return flock((int)c->arg[0].i, LOCK_EX | LOCK_NB) < 0 ? call_fail(c, "flock", errno) : 0;
}

/* The path may begin with NUL: an abstract address. */
int sys_send_datagram(struct call *c)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const struct text *path = &c->arg[0].text, *data = &c->arg[1].text;
	if (path->len == 0 || path->len >= sizeof address.sun_path)
		return call_fail(c, "sendto", EINVAL);
	memcpy(address.sun_path, path->data, path->len);
	CLEAN_FD fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return call_fail(c, "socket", errno);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path->len);
	if (sendto(fd, data->data, data->len, MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&address, len) < 0)
		return call_fail(c, "sendto", errno);
	return 0;
}

int sys_inotify(struct call *c)
{
	CLEAN_FD fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fd < 0)
		return call_fail(c, "inotify_init1", errno);
	if (inotify_add_watch(fd, c->arg[0].text.data, (uint32_t)c->arg[1].i) < 0)
		return call_fail(c, "inotify_add_watch", errno);
	c->number = take_fd(&fd);
	return 0;
}

int sys_close(struct call *c)
{
	/* EINTR means closed, on Linux. */
	return close((int)c->arg[0].i) < 0 && errno != EINTR ? call_fail(c, "close", errno) : 0;
}

int64_t append_file(struct buffer *b, const char *path, size_t max)
{
	char part[4096];
	size_t total = 0;
	CLEAN_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -errno;
	while (total < max) {
		ssize_t n = read(fd, part, max - total < sizeof part ? max - total : sizeof part);
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		if (buffer_add(b, part, (size_t)n) < 0)
			return -ENOMEM;
		total += (size_t)n;
	}
	return (int64_t)total;
}

int sys_read_files(struct call *c)
{
	const struct arg *paths = &c->arg[0];
	CLEAN_BUFFER bytes = { 0 };
	int64_t *lengths = call_alloc(c, (paths->count + 1) * sizeof *lengths);
	if (lengths == NULL || c->arg[1].i < 0)
		return call_fail(c, "read files", lengths == NULL ? ENOMEM : EINVAL);
	for (size_t i = 0; i < paths->count; i++) {
		size_t before = bytes.len;
		lengths[i] = append_file(&bytes, paths->list[i].data, (size_t)c->arg[1].i);
		if (lengths[i] < 0)
			bytes.len = before;
	}
	int r = call_numbers(c, lengths, paths->count);
	return r < 0 ? r : call_bytes(c, bytes.data, bytes.len);
}

/* As many names as there are in all lists together. */
static size_t count_names(const struct arg *names)
{
	size_t count = 0;
	for (size_t i = 0; i < names->count; i++, count++)
		for (const char *at = names->list[i].data; (at = strchr(at, '\n')) != NULL; at++)
			count++;
	return count;
}

/*
 * No record of a seq_file that we read is longer (half a page), so one that gives less than this in one read
 * has come to its end.
 */
#define RECORD_MAX 2048

/*
 * A seq_file gives what fits in its buffer, which holds at least one record: the next read begins with the
 * one that did not fit.
 */
static int64_t append_open_file(struct buffer *b, int fd, size_t max)
{
	char part[16 * 1024];
	size_t total = 0;
	while (total < max) {
		ssize_t n = pread(fd, part, max - total < sizeof part ? max - total : sizeof part, (off_t)total);
		if (n < 0)
			return -errno;
		if (n > 0 && buffer_add(b, part, (size_t)n) < 0)
			return -ENOMEM;
		total += (size_t)n;
		if ((size_t)n < RECORD_MAX)
			break;
	}
	return (int64_t)total;
}

/* One kernel file below a directory. */
static int64_t append_kernel_file(struct buffer *b, int dir, const char *name, size_t max)
{
	CLEAN_FD fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return fd < 0 ? -errno : append_open_file(b, fd, max);
}

/* A directory as it looks in a network namespace; "" for one that looks the same in all. fd or -errno. */
static int open_kernel_dir(const char *path, const struct text *netns, int *home)
{
	int r = netns->len > 0 ? netns_enter(home, netns->data) : 0;
	int dir = r < 0 ? -1 : open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return r < 0 ? r : dir < 0 ? -errno : dir;
}

/* `names` are separated by line feeds; one length each. */
static size_t append_kernel_files(struct buffer *b, int dir, const char *names, size_t max, int64_t *ret_lengths)
{
	char name[256];
	size_t count = 0;
	int err = dir < 0 ? -dir : 0;
	for (const char *at = names, *end; *at != '\0'; at = *end == '\0' ? end : end + 1) {
		end = strchrnul(at, '\n');
		size_t len = (size_t)(end - at), before = b->len;
		int64_t length = err != 0 ? -err : len >= sizeof name ? -ENAMETOOLONG : 0;
		if (length == 0) {
			memcpy(name, at, len);
			name[len] = '\0';
			length = append_kernel_file(b, dir, name, max);
		}
		if (length < 0)
			b->len = before;
		ret_lengths[count++] = length;
	}
	return count;
}

int sys_read_kernel_files(struct call *c)
{
	const struct arg *dirs = &c->arg[0], *names = &c->arg[1], *netns = &c->arg[2];
	CLEAN_BUFFER bytes = { 0 };
	CLEAN_NETNS home = -1;
	size_t count = 0;
	if (dirs->count != names->count || dirs->count != netns->count || c->arg[3].i < 0)
		return call_fail(c, "read kernel files", EINVAL);
	int64_t *lengths = call_alloc(c, (count_names(names) + 1) * sizeof *lengths);
	if (lengths == NULL)
		return call_fail(c, "read kernel files", ENOMEM);
	for (size_t i = 0; i < dirs->count; i++) {
		CLEAN_FD dir = open_kernel_dir(dirs->list[i].data, &netns->list[i], &home);
		count += append_kernel_files(&bytes, dir, names->list[i].data, (size_t)c->arg[3].i, lengths + count);
	}
	int r = call_numbers(c, lengths, count);
	return r < 0 ? r : call_bytes(c, bytes.data, bytes.len);
}

static int64_t open_kernel_file(int dir, const char *from, size_t len)
{
	char name[256];
	if (len >= sizeof name)
		return -ENAMETOOLONG;
	memcpy(name, from, len);
	name[len] = '\0';
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

int sys_open_kernel_files(struct call *c)
{
	const struct arg *dirs = &c->arg[0], *names = &c->arg[1], *netns = &c->arg[2];
	CLEAN_NETNS home = -1;
	size_t count = 0;
	if (dirs->count != names->count || dirs->count != netns->count)
		return call_fail(c, "open kernel files", EINVAL);
	int64_t *fds = call_alloc(c, (count_names(names) + 1) * sizeof *fds);
	if (fds == NULL)
		return call_fail(c, "open kernel files", ENOMEM);
	for (size_t i = 0; i < dirs->count; i++) {
		CLEAN_FD dir = open_kernel_dir(dirs->list[i].data, &netns->list[i], &home);
		for (const char *at = names->list[i].data, *end; *at != '\0'; at = *end == '\0' ? end : end + 1) {
			end = strchrnul(at, '\n');
			fds[count++] = dir < 0 ? dir : open_kernel_file(dir, at, (size_t)(end - at));
		}
	}
	int r = call_numbers(c, fds, count);
	for (size_t i = 0; r < 0 && i < count; i++)
		if (fds[i] >= 0)
			close((int)fds[i]);
	return r;
}

int sys_read_open_files(struct call *c)
{
	const struct arg *fds = &c->arg[0];
	CLEAN_BUFFER bytes = { 0 };
	int64_t *lengths = call_alloc(c, (fds->count + 1) * sizeof *lengths);
	if (lengths == NULL || c->arg[1].i < 0)
		return call_fail(c, "read open files", lengths == NULL ? ENOMEM : EINVAL);
	for (size_t i = 0; i < fds->count; i++) {
		size_t before = bytes.len;
		int64_t fd = fds->numbers[i];
		lengths[i] = fd < 0 ? fd : append_open_file(&bytes, (int)fd, (size_t)c->arg[1].i);
		if (lengths[i] < 0)
			bytes.len = before;
	}
	int r = call_numbers(c, lengths, fds->count);
	return r < 0 ? r : call_bytes(c, bytes.data, bytes.len);
}

int sys_close_all(struct call *c)
{
	for (size_t i = 0; i < c->arg[0].count; i++)
		if (c->arg[0].numbers[i] >= 0)
			close((int)c->arg[0].numbers[i]);
	return 0;
}

int sys_fd_path(struct call *c)
{
	char path[4096];
	ssize_t n = readlink(fd_path((int)c->arg[0].i).text, path, sizeof path);
	if (n < 0)
		return call_fail(c, "readlink", errno);
	return call_bytes(c, path, (size_t)n);
}

int sys_sync_fs(struct call *c)
{
	CLEAN_FD fd = open(c->arg[0].text.data, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return call_fail(c, "open", errno);
	return syncfs(fd) < 0 ? call_fail(c, "syncfs", errno) : 0;
}

int sys_spread_directories(struct call *c)
{
	CLEAN_FD fd = open(c->arg[0].text.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return call_fail(c, "open", errno);
	int flags = 0;
	/* Not every file system has such flags, or this one. */
	c->number = ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;
	if (c->number != 0 && (flags & FS_TOPDIR_FL) == 0) {
		flags |= FS_TOPDIR_FL;
		c->number = ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
	}
	return 0;
}

int sys_stat_fs(struct call *c)
{
	struct statfs fs;
	if (statfs(c->arg[0].text.data, &fs) < 0)
		return call_fail(c, "statfs", errno);
	return call_numbers(c, (int64_t[]){ (int64_t)fs.f_type, (int64_t)fs.f_bsize, (int64_t)fs.f_blocks, (int64_t)fs.f_bfree,
					    (int64_t)fs.f_bavail, (int64_t)fs.f_files, (int64_t)fs.f_ffree }, 7);
}
