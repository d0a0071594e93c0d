/*
 * How it ends: the sync pipe by which the caller hears of us, the exit files by which everybody
 * else does, and the exit command.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	STATUS_UNKNOWN = 255,
	EXIT_TEXT_MAX = 15,	/* An exit code in decimal, and room to spare. */
};

/* --- the sync pipe ---------------------------------------------------------------------------- */

struct text { char *buf; size_t len, size; };

static bool append(struct text *t, const char *piece, size_t len)
{
	if (len > t->size - t->len)
		return false;
	memcpy(t->buf + t->len, piece, len);
	t->len += len;
	return true;
}

/* Length of the valid UTF-8 sequence at s, or 0. */
static size_t utf8_length(const unsigned char *s, size_t left)
{
	size_t len = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 :
		     s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;

	if (len == 0 || len > left)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates, beyond U+10FFFF. */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return len;
}

/* One character as a JSON string has it. Returns how many bytes of s it was, 0 when t is full. */
static size_t append_escaped(struct text *t, const unsigned char *s, size_t left)
{
	static const char special[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
	const char *found = s[0] ? strchr(special, s[0]) : NULL;
	size_t len = utf8_length(s, left);
	char escaped[8];
	int n;

	if (found)
		n = snprintf(escaped, sizeof(escaped), "\\%c", letters[found - special]);
	else if (len == 1 && (s[0] < 0x20 || s[0] == 0x7f))
		n = snprintf(escaped, sizeof(escaped), "\\u%04x", s[0]);
	else if (len > 0)
		return append(t, (const char *)s, len) ? len : 0;
	else
		n = snprintf(escaped, sizeof(escaped), "\\ufffd");
	return append(t, escaped, (size_t)n) ? 1 : 0;
}

/*
 * Writes {"pid": value} (or "data", or "exit_code", as the protocol has it) and the message, if
 * there is one, as one write of at most REPORT_MAX bytes: the pipe may be packets, and callers
 * read it with a buffer of that size. A caller that is gone is no error: we outlive callers.
 */
void sync_report(struct conmon *c, int *fd, int value, const char *message, size_t len)
{
	static const char end[] = "\"}\n";
	static char buf[REPORT_MAX];
	struct text t = { buf, 0, sizeof(buf) - sizeof(end) };
	const unsigned char *s = (const unsigned char *)message;
	int n;

	if (*fd < 0)
		return;
	while (len > 0 && (message[len - 1] == '\n' || message[len - 1] == ' '))
		len--;
	n = snprintf(buf, sizeof(buf), "{\"%s\": %d%s",
		     c->opt.api_version ? "data" : c->opt.exec ? "exit_code" : "pid", value,
		     len > 0 ? ", \"message\": \"" : "}\n");
	t.len = (size_t)n;
	for (size_t used = 0; len > 0; s += used, len -= used) {
		used = append_escaped(&t, s, len);
		if (used == 0)
			break;
	}
	if (message && buf[t.len - 1] != '\n') {
		memcpy(buf + t.len, end, sizeof(end) - 1);
		t.len += sizeof(end) - 1;
	}
	n = write_all(*fd, buf, t.len);
	if (n < 0) {
		note(LEVEL_DEBUG, "the caller does not listen: %s", strerror(-n));
		close_fd(fd);
	}
}

/* --- exit files ------------------------------------------------------------------------------- */

/*
 * The container's exit code: its own, 128 + signal, -1 when --timeout ended it (the protocol's
 * word for that), 255 when nobody knows. Unknown is never 0.
 */
int exit_status(const struct conmon *c)
{
	if (c->timed_out)
		return -1;
	if (c->lost)
		return STATUS_UNKNOWN;
	if (WIFEXITED(c->container_status))
		return WEXITSTATUS(c->container_status);
	if (WIFSIGNALED(c->container_status))
		return 128 + WTERMSIG(c->container_status);
	return STATUS_UNKNOWN;
}

/*
 * The name under which the place of an exit file is kept: a dot file, so that watchers of the
 * directory can tell it from an id, and with the id in it, so that whoever cleans up after the
 * container finds it.
 */
static void reserved_name(const struct conmon *c, char ret_name[static 128])
{
	(void)snprintf(ret_name, 128, ".conmon-%d-%.64s.tmp", getpid(), c->opt.cid);
}

/* Blanks where the exit code will be, so that it takes no room of its own on a file system that is full by then. */
static int reserve_place(const struct conmon *c, const char *dir)
{
	static const char blanks[EXIT_TEXT_MAX + 1] = "               ";
	char reserved[128];
	int r;

	if (!dir)
		return 0;
	reserved_name(c, reserved);
	r = replace_file(dir, reserved, blanks);
	if (r < 0)
		note(LEVEL_WARN, "cannot reserve an exit file in %s: %s", dir, strerror(-r));
	return r;
}

static void give_back_place(const struct conmon *c, const char *dir)
{
	char reserved[128], path[PATH_MAX];

	reserved_name(c, reserved);
	if (dir && path_join(path, dir, reserved) == 0)
		(void)unlink(path);
}

/*
 * Reserves the exit files. A container whose end could not be told for want of room is not begun;
 * a directory that is not there, or not yet, is another thing: it is tried again at the end.
 */
int exit_reserve(struct conmon *c)
{
	int r = reserve_place(c, c->opt.exit_dir);

	(void)reserve_place(c, c->opt.persist_dir);
	return r == -ENOSPC || r == -EDQUOT
		       ? fail(c, -r, "cannot reserve the exit file in %.300s", c->opt.exit_dir) : 0;
}

/* Gives back what exit_reserve() took and nobody used. */
void exit_unreserve(const struct conmon *c)
{
	give_back_place(c, c->opt.exit_dir);
	give_back_place(c, c->opt.persist_dir);
}

/* Puts text into the place that is reserved, and the place under its name. */
static int use_place(const struct conmon *c, const char *dir, const char *name, const char *text)
{
	char reserved[128];
	int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd, r;

	if (dir_fd < 0)
		return -errno;
	reserved_name(c, reserved);
	fd = openat(dir_fd, reserved, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	r = fd < 0 ? -errno : write_all(fd, text, strlen(text));
	if (r == 0 && ftruncate(fd, (off_t)strlen(text)) < 0)
		r = -errno;
	if (fd >= 0 && close(fd) < 0 && r == 0)
		r = -errno;
	if (r == 0 && renameat(dir_fd, reserved, dir_fd, name) < 0)
		r = -errno;
	(void)close(dir_fd);
	return r;
}

static int write_exit_file(const struct conmon *c, const char *dir, const char *name, const char *text)
{
	int r = dir ? use_place(c, dir, name, text) : 0;

	if (r < 0) {
		give_back_place(c, dir);
		r = replace_file(dir, name, text);
	}
	if (r < 0)
		note(LEVEL_ERROR, "cannot write the exit file %s/%s: %s", dir, name, strerror(-r));
	return r;
}

/*
 * Closes everything but stdio and the descriptors still needed. Among the rest are those our
 * caller handed us to hold while the container lives, such as podman's reserved ports: whoever
 * hears of the exit must find them free.
 */
static void close_others(const int keep[], size_t count)
{
	int from = 3;

	for (;;) {
		int next = -1;

		for (size_t i = 0; i < count; i++)
			if (keep[i] >= from && (next < 0 || keep[i] < next))
				next = keep[i];
		if (next < 0)
			break;
		if (next > from)
			(void)syscall(SYS_close_range, (unsigned)from, (unsigned)next - 1, 0U);
		from = next + 1;
	}
	(void)syscall(SYS_close_range, (unsigned)from, ~0U, 0U);
}

/*
 * Tells the world how the container ended, when its output is in the log and its descriptors are
 * closed. The directory everybody watches comes after the one that keeps. The log is synced after
 * the word is out: nobody who reads it needs it to be on the disk, and a disk may be slow.
 */
int exit_announce(struct conmon *c)
{
	int status = exit_status(c);
	char text[EXIT_TEXT_MAX + 1];
	/* Syslog is the only place where anybody still hears that an exit file cannot be written. */
	const int needed[] = { c->sync_fd, c->log.fd, note_fd() };
	int r, r2;

	(void)snprintf(text, sizeof(text), "%d", status);
	attach_close(c);
	close_others(needed, sizeof(needed) / sizeof(needed[0]));
	r = write_exit_file(c, c->opt.persist_dir, "exit", text);
	r2 = write_exit_file(c, c->opt.exit_dir, c->opt.cid, text);
	if (c->opt.exec)
		sync_report(c, &c->sync_fd, status, c->timed_out ? "command timed out" : NULL,
			    c->timed_out ? strlen("command timed out") : 0);
	log_sync(&c->log);
	return r < 0 ? r : r2;
}

/* --- the exit command ------------------------------------------------------------------------- */

static void __attribute__((noreturn)) run_command(struct conmon *c)
{
	static char *argv[ARGS_TOTAL + 2];
	size_t count = 0;
	struct timespec left = { .tv_sec = c->opt.exit_delay_s };

	argv[count++] = (char *)(uintptr_t)c->opt.exit_command;
	for (const struct arg *a = c->opt.exit_args.first; a; a = a->next)
		argv[count++] = (char *)(uintptr_t)a->value;
	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
	(void)syscall(SYS_close_range, 3U, ~0U, 0U);
	child_reset(c);
	child_exec(c->opt.exit_command, argv);
}

/*
 * Runs --exit-command after --exit-delay and waits for it, so that whoever waits for us waits for
 * the clean-up. It is free to leave processes behind: they are not to become our children. Returns
 * its exit status.
 */
int exit_command(struct conmon *c)
{
	int status;
	pid_t pid, reaped;

	if (!c->opt.exit_command)
		return 0;
	(void)prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
	pid = fork();
	if (pid == 0)
		run_command(c);
	if (pid < 0) {
		note(LEVEL_ERROR, "cannot fork the exit command: %s", strerror(errno));
		return 1;
	}
	do {
		reaped = waitpid(pid, &status, 0);
	} while (reaped < 0 && errno == EINTR);
	if (reaped != pid)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
