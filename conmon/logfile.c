/*
 * Where the container's log is: its drivers, the file with its limits, rotation and reopening.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Upstream's, which those who collect logs without being root count on. */
#define LOG_MODE 0640

/* --- the file --------------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int open_dir(const char *path)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	int fd;

	if (!slash)
		return (fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0 ? -errno : fd;
	if ((size_t)(slash - path) + 2 > sizeof(dir))
		return -ENAMETOOLONG;
	memcpy(dir, path, (size_t)(slash - path) + 1);
	dir[slash - path + 1] = '\0';
	return (fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0 ? -errno : fd;
}

/* Where a directory really is, however many links led there. */
static int real_path(int dir_fd, char ret_path[static PATH_MAX])
{
	char link[40];
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", dir_fd);
	n = readlink(link, ret_path, PATH_MAX);
	if (n < 0)
		return -errno;
	if (n >= PATH_MAX)
		return -ENAMETOOLONG;
	ret_path[n] = '\0';
	return 0;
}

static bool is_under(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == '\0' || dir[len - 1] == '/');
}

/* The descriptor that was checked is the one that is used, so nobody can swap a link in between. */
static int check_allowed(const struct log *log, int dir_fd)
{
	char real[PATH_MAX], allowed[PATH_MAX];
	int r = 0;

	if (!log->opt->log_allow_dirs.first)
		return 0;
	r = real_path(dir_fd, real);
	for (const struct arg *a = log->opt->log_allow_dirs.first; r == 0 && a; a = a->next) {
		int fd = open(a->value, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0)
			continue;
		r = real_path(fd, allowed);
		(void)close(fd);
		if (r == 0 && is_under(real, allowed))
			return 0;
	}
	return r < 0 ? r : -EACCES;
}

/*
 * A log may be a regular file, or a character device such as /dev/null: nothing that could block us.
 * One that is there already is opened to nobody, and closed to those who have no business with it. The chmod
 * also changes the ctime, by which a reopen shows.
 */
static int check_kind(int fd, int64_t *ret_size)
{
	struct stat st;

	*ret_size = 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISCHR(st.st_mode))
		return 0;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	(void)fchmod(fd, st.st_mode & LOG_MODE);
	*ret_size = st.st_size;
	return 0;
}

/*
 * A link at the end of the path is replaced, not followed: whoever may write the log directory chose where it
 * points.
 */
static int open_at(int dir_fd, const char *name)
{
	const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
	int fd = openat(dir_fd, name, flags, LOG_MODE);

	if (fd < 0 && errno == ELOOP && unlinkat(dir_fd, name, 0) == 0)
		fd = openat(dir_fd, name, flags | O_EXCL, LOG_MODE);
	return fd < 0 ? -errno : fd;
}

static int use_file(struct log *log, int fd)
{
	int64_t size;
	int r = check_kind(fd, &size);

	if (r < 0) {
		(void)close(fd);
		return r;
	}
	(void)fcntl(fd, F_SETFL, O_APPEND);
	close_fd(&log->fd);
	log->fd = fd;
	log->file_bytes = size;
	return 0;
}

static int open_log_dir(const struct log *log)
{
	int dir_fd = open_dir(log->path);
	int r;

	if (dir_fd < 0)
		return dir_fd;
	r = check_allowed(log, dir_fd);
	if (r < 0)
		(void)close(dir_fd);
	return r < 0 ? r : dir_fd;
}

/* Goes on in the file that has the log's name now. Returns 0, or -errno and the old file goes on taking lines. */
static int open_again(struct log *log)
{
	int dir_fd, fd, r;

	if (!log->path)
		return 0;
	dir_fd = open_log_dir(log);
	if (dir_fd < 0)
		return dir_fd;
	fd = open_at(dir_fd, base_name(log->path));
	r = fd < 0 ? fd : use_file(log, fd);
	(void)close(dir_fd);
	return r;
}

/*
 * CRI-O waits until the log is made or written to, for ever if it must, and a log that was not renamed is
 * neither until the container has something to say. This counts as a write for inotify, and changes nothing:
 * room that is there already is asked for, or, where that cannot be, the size is set to what it is.
 */
static void show_write(const struct log *log)
{
	struct stat st;

	if (log->fd < 0 || fstat(log->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	if (st.st_size > 0 && fallocate(log->fd, FALLOC_FL_KEEP_SIZE, 0, 1) == 0)
		return;
	if (ftruncate(log->fd, st.st_size) < 0)
		note(LEVEL_DEBUG, "who waits for a write to the log may wait on: %s", strerror(errno));
}

/*
 * As open_again, for who has rotated the log or means to have. Nothing is truncated: reopening twice is
 * harmless. Whoever watches the directory sees that it is done.
 */
int log_reopen(struct log *log)
{
	int r = open_again(log);

	if (r == 0 && log->path)
		show_write(log);
	return r;
}

static int numbered(char ret_name[static NAME_MAX + 1], const char *base, int number)
{
	int n = snprintf(ret_name, NAME_MAX + 1, "%s.%d", base, number);

	return n < 0 || n > NAME_MAX ? -ENAMETOOLONG : 0;
}

/* log.1 -> log.2 -> ..., then log -> log.1; the oldest falls off. */
static int shift(const struct log *log, int dir_fd)
{
	const char *base = base_name(log->path);
	char from[NAME_MAX + 1], to[NAME_MAX + 1];
	int r = numbered(from, base, log->opt->log_max_files);

	/* From the first gap downwards: what is beyond it need not move, however many files may be kept. */
	int last = 1;
	while (r == 0 && last < log->opt->log_max_files) {
		r = numbered(from, base, last);
		if (r == 0 && faccessat(dir_fd, from, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			break;
		last++;
	}
	for (int i = last; r == 0 && i >= 1; i--) {
		r = numbered(to, base, i);
		if (r == 0 && i > 1)
			r = numbered(from, base, i - 1);
		if (r == 0 && renameat(dir_fd, i > 1 ? from : base, dir_fd, to) < 0 && errno != ENOENT)
			r = -errno;
	}
	return r;
}

/* Replaces the full file by an empty one of the same name, by rename, so that a reader keeps what it has open. */
static int start_anew(const struct log *log, int dir_fd)
{
	const char *base = base_name(log->path);
	char temporary[NAME_MAX + 1];
	int n = snprintf(temporary, sizeof(temporary), "%s.tmp", base);
	int fd;

	if (n < 0 || (size_t)n >= sizeof(temporary))
		return -ENAMETOOLONG;
	(void)unlinkat(dir_fd, temporary, 0);
	fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, LOG_MODE);
	if (fd < 0)
		return -errno;
	(void)close(fd);
	return renameat(dir_fd, temporary, dir_fd, base) < 0 ? -errno : 0;
}

/* The file is full: goes on in a new one of the same name. Returns 0 or -errno. */
int log_next_file(struct log *log)
{
	int dir_fd = open_log_dir(log);
	int r;

	if (dir_fd < 0)
		return dir_fd;
	r = log->opt->log_rotate ? shift(log, dir_fd) : start_anew(log, dir_fd);
	(void)close(dir_fd);
	return r < 0 ? r : open_again(log);
}

/* --- set-up ----------------------------------------------------------------------------------- */

static int refuse(char *error, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int refuse(char *error, size_t size, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	(void)vsnprintf(error, size, format, args);
	va_end(args);
	return -EINVAL;
}

static bool is_word(const char *text, size_t len, const char *word)
{
	return strlen(word) == len && memcmp(text, word, len) == 0;
}

/* `driver`, `driver:path`, `:path` or a path; the file driver is the one that needs no name. */
static int add_driver(struct log *log, const char *config, char *error, size_t size)
{
	size_t len = strcspn(config, ":");
	const char *path = config[len] == ':' ? config + len + 1 : NULL;
	bool has_path = path && *path;

	if (!*config || is_word(config, strlen(config), ":"))
		return refuse(error, size, "log-path must not be empty");
	if (is_word(config, len, "off") || is_word(config, len, "null") || is_word(config, len, "none"))
		return 0;
	if (is_word(config, len, "passthrough")) {
		log->passthrough = true;
		return 0;
	}
	if (is_word(config, len, "journald")) {
		log->journald = true;
		return 0;
	}
	if (is_word(config, len, "k8s-file") && !has_path)
		return refuse(error, size, "k8s-file requires a filename");
	if (len == 0 || is_word(config, len, "k8s-file"))
		log->path = path;
	else if (!path || memchr(config, '/', len))
		log->path = config; /* No driver has a slash in its name. */
	else
		return refuse(error, size, "No such log driver %.*s", (int)(len > 100 ? 100 : len), config);
	return 0;
}

/* Refuses what is no label, in upstream's words, which callers look for. */
static int check_label(const char *label, char *error, size_t size)
{
	const char *equals = strchr(label, '=');
	size_t name = strspn(label, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

	if (equals == label)
		return refuse(error, size, "Container labels must be in format LABEL=VALUE (no LABEL present in '%.100s')",
			      label);
	if (!equals || strchr(equals + 1, '='))
		return refuse(error, size, "Container labels must be in format LABEL=VALUE "
			      "(none or more than one '=' present in '%.100s')", label);
	if (label[name] != '=')
		return refuse(error, size, "Container label names must contain only uppercase letters, numbers and "
			      "underscore (in '%.100s')", label);
	return 0;
}

static int check_tags(const struct log *log, char *error, size_t size)
{
	const struct options *opt = log->opt;

	int r = 0;

	for (const struct arg *a = opt->log_labels.first; r == 0 && a; a = a->next)
		r = check_label(a->value, error, size);
	if (r < 0 || log->journald)
		return r;
	if (log->path && opt->log_tag)
		return refuse(error, size, "k8s-file doesn't support --log-tag");
	if (log->path && opt->log_labels.first)
		return refuse(error, size, "k8s-file doesn't support --log-label");
	if (opt->no_partial_message)
		note(LEVEL_WARN, "--no-container-partial-message has no effect without journald log driver");
	return 0;
}

/* Reads the log drivers from opt and opens the file, if one is a file. Returns 0, or -errno and a sentence. */
int log_open(struct log *log, const struct options *opt, char *error, size_t size)
{
	int r = 0;

	log->fd = -1;
	log->opt = opt;
	log->stamp_second = -1;
	for (const struct arg *a = opt->log_paths.first; r == 0 && a; a = a->next)
		r = add_driver(log, a->value, error, size);
	if (r == 0)
		r = check_tags(log, error, size);
	if (r < 0 || !log->path)
		return r;
	r = open_again(log);
	if (r == -EACCES && opt->log_allow_dirs.first)
		(void)refuse(error, size, "log file %.300s is outside every --log-allowlist-dir", log->path);
	else if (r == -EINVAL)
		(void)refuse(error, size, "log file %.300s is neither a regular file nor a character device", log->path);
	else if (r < 0)
		(void)refuse(error, size, "Failed to open log file %.300s: %s", log->path, strerror(-r));
	log->total_bytes = log->file_bytes;
	return r;
}
