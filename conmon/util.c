/*
 * Small things the rest stands on: messages, paths, files, numbers. Where messages go is the one
 * piece of process-wide state, since there is one stderr and one syslog.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

static struct {
	enum level level;
	int syslog_fd;
	const char *cid, *tag;
} notes = { .level = LEVEL_WARN, .syslog_fd = -1 };

/* From here on messages carry the container's id, and go to syslog too where asked. */
void note_open(const char *cid, const char *tag, enum level level, bool use_syslog)
{
	static const struct sockaddr_un dev_log = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };

	notes.level = level;
	notes.cid = cid;
	notes.tag = tag;
	if (!use_syslog)
		return;
	/* By hand, since libc's syslog() allocates. It must never hold us up: a full queue loses the line. */
	notes.syslog_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (notes.syslog_fd >= 0 &&
	    connect(notes.syslog_fd, (const struct sockaddr *)&dev_log, sizeof(dev_log)) < 0) {
		close_fd(&notes.syslog_fd);
		note(LEVEL_DEBUG, "no syslog at /dev/log, going on without");
	}
}

/* The descriptor that messages need besides stderr, or -1. */
int note_fd(void)
{
	return notes.syslog_fd;
}

static void note_syslog(enum level level, const char *text)
{
	static const char *const names[] = { "error", "warn", "info", "debug", "trace" };
	char line[1400];
	int priority = LOG_USER | (level == LEVEL_ERROR ? LOG_ERR : LOG_INFO);
	int n = snprintf(line, sizeof(line), "<%d>conmon[%d]: conmon %.20s%s%.80s <%s>: %s", priority, getpid(),
			 notes.cid ? notes.cid : "", notes.tag ? ": " : "", notes.tag ? notes.tag : "",
			 names[level], text);

	if (n > 0)
		(void)send(notes.syslog_fd, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1,
			   MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void note_text(enum level level, const char *text)
{
	char line[1200];
	int n;

	if (level > notes.level)
		return;
	n = snprintf(line, sizeof(line), "[conmon:%c]: %s\n", "ewidd"[level], text);
	if (n > 0)
		(void)!write(STDERR_FILENO, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
	if (notes.syslog_fd >= 0)
		note_syslog(level, text);
}

/* One message for whoever reads stderr or syslog. One line, no newline at the end. */
void note(enum level level, const char *format, ...)
{
	char text[1100];
	va_list args;

	if (level > notes.level)
		return;
	va_start(args, format);
	(void)vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	note_text(level, text);
}

/*
 * Says why we cannot go on: keeps the sentence, with error's own text, for the sync pipe. Returns
 * -error, so that `return fail(...)` is one line. EINVAL is our own verdict and adds no text.
 */
int fail(struct conmon *conmon, int error, const char *format, ...)
{
	va_list args;
	int n;

	if (conmon->error[0])
		return -error;
	va_start(args, format);
	n = vsnprintf(conmon->error, sizeof(conmon->error), format, args);
	va_end(args);
	if (error != EINVAL && n >= 0 && (size_t)n < sizeof(conmon->error))
		(void)snprintf(conmon->error + n, sizeof(conmon->error) - (size_t)n, ": %s", strerror(error));
	return -error;
}

/* Writes all of buf to a blocking descriptor. Returns 0 or -errno. */
int write_all(int fd, const char *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		buf += n;
		len -= (size_t)n;
	}
	return 0;
}

/* dir/name. Returns 0 or -ENAMETOOLONG. */
int path_join(char ret_path[static PATH_MAX], const char *dir, const char *name)
{
	int n = snprintf(ret_path, PATH_MAX, "%s/%s", dir, name);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/*
 * Makes dir/name contain text, at once: readers see the old file, or the whole new one. The
 * temporary name is short and a dot file, so that ids of any length work and watchers of the
 * directory can tell it from an id.
 */
int replace_file(const char *dir, const char *name, const char *text)
{
	char temporary[64];
	int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (dir_fd < 0)
		return -errno;
	(void)snprintf(temporary, sizeof(temporary), ".conmon-%d.tmp", getpid());
	(void)unlinkat(dir_fd, temporary, 0);
	int fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	r = fd < 0 ? -errno : write_all(fd, text, strlen(text));
	if (fd >= 0 && close(fd) < 0 && r == 0)
		r = -errno;
	if (r == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
		r = -errno;
	if (r < 0 && fd >= 0)
		(void)unlinkat(dir_fd, temporary, 0);
	(void)close(dir_fd);
	return r;
}

/* Reads a file that fits into buf, and terminates it. Returns its length, or -errno (-EFBIG). */
int read_small(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	size_t len = 0;
	int r = 0;

	if (fd < 0)
		return -errno;
	while (len < size) {
		ssize_t n = read(fd, buf + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = -errno;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	(void)close(fd);
	if (r < 0)
		return r;
	if (len == size || len > INT_MAX)
		return -EFBIG;
	buf[len] = '\0';
	return (int)len;
}

/* A whole string that is one decimal number between min and max, or -EINVAL. */
int parse_int(const char *text, int64_t min, int64_t max, int64_t *ret_value)
{
	char *end;
	long long value;

	if (!text || !((text[0] >= '0' && text[0] <= '9') || (text[0] == '-' && text[1] >= '0' && text[1] <= '9')))
		return -EINVAL;
	errno = 0;
	value = strtoll(text, &end, 10);
	if (errno != 0 || *end != '\0' || value < min || value > max)
		return -EINVAL;
	*ret_value = value;
	return 0;
}

/* Milliseconds of a clock nobody can set. */
int64_t now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Closes *fd if it is open, and marks it closed. */
void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}
