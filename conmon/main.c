/*
 * The order of events. Before the fork an error is also our exit status; after it the sync pipe is
 * all the caller has. This is the only file that ends the process.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* A caller may start us with stdio closed; then the first descriptors we open would become stdio. */
static int open_stdio(struct conmon *c)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd < 0)
		return fail(c, errno, "cannot open /dev/null");
	(void)close(fd);
	return 0;
}

static int fd_from_environment(struct conmon *c, const char *name, int *ret_fd)
{
	const char *text = getenv(name);
	int64_t fd;

	if (!text)
		return 0;
	if (parse_int(text, 3, INT_MAX, &fd) < 0 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
		return fail(c, EINVAL, "%s='%.40s' is not a descriptor we were given", name, text);
	*ret_fd = (int)fd;
	return 0;
}

static int take_pipes(struct conmon *c)
{
	int r = fd_from_environment(c, "_OCI_SYNCPIPE", &c->sync_fd);

	if (r == 0)
		r = fd_from_environment(c, "_OCI_STARTPIPE", &c->start_fd);
	if (r == 0 && c->opt.exec_attach) {
		r = fd_from_environment(c, "_OCI_ATTACHPIPE", &c->attach_pipe_fd);
		if (r == 0 && c->attach_pipe_fd < 0)
			r = fail(c, EINVAL, "--exec-attach needs _OCI_ATTACHPIPE");
	}
	return r;
}

/* How many descriptors from 3 upwards are meant for the container: --preserve-fds or LISTEN_FDS. */
static unsigned meant_for_container(const struct conmon *c)
{
	static const char option[] = "--preserve-fds";
	int64_t count = 0, more;

	(void)parse_int(getenv("LISTEN_FDS"), 0, 4096, &count);
	for (const struct arg *a = c->opt.runtime_opts.first; a; a = a->next) {
		const char *value = NULL;

		if (strncmp(a->value, option, sizeof(option) - 1) != 0)
			continue;
		if (a->value[sizeof(option) - 1] == '=')
			value = a->value + sizeof(option);
		else if (a->value[sizeof(option) - 1] == '\0' && a->next)
			value = a->next->value;
		if (parse_int(value, 0, 4096, &more) == 0)
			count += more;
	}
	return (unsigned)count;
}

/* What else we inherited is ours to hold until the container ends, and nobody's to inherit again. */
static int keep_descriptors(struct conmon *c)
{
	(void)syscall(SYS_close_range, 3 + meant_for_container(c), ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
	return 0;
}

static int open_log(struct conmon *c)
{
	char why[800] = "";
	int r = log_open(&c->log, &c->opt, why, sizeof(why));

	return r < 0 ? fail(c, EINVAL, "%s", why) : journal_open(c);
}

/* The caller writes one byte when it has put us into our cgroup; what we fork will be in there too. */
static int await_start(struct conmon *c)
{
	char buf[64];
	ssize_t n;

	if (c->start_fd < 0)
		return 0;
	do {
		n = read(c->start_fd, buf, sizeof(buf));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return fail(c, errno, "cannot read the start pipe");
	if (!c->opt.exec_attach)
		close_fd(&c->start_fd);
	return 0;
}

static bool is_null(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3);
}

static int detach(struct conmon *c)
{
	int null_fd = -1;

	(void)setsid();
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return fail(c, errno, "cannot become the subreaper");
	if (c->log.passthrough)
		return 0;
	/* The caller waits for its ends of our stdio to close. */
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0 || (!is_null(STDIN_FILENO) && dup2(null_fd, STDIN_FILENO) < 0) || dup2(null_fd, 1) < 0 ||
	    dup2(null_fd, 2) < 0)
		return fail(c, errno, "cannot turn stdio to /dev/null");
	return close(null_fd) < 0 ? fail(c, errno, "cannot close /dev/null") : 0;
}

static int release_attacher(struct conmon *c)
{
	if (c->opt.exec_attach)
		sync_report(c, &c->attach_pipe_fd, 0, NULL, 0);
	return 0;
}

/* With passthrough the runtime has our stdio now, and we must not hold it open. */
static int drop_stdio(struct conmon *c)
{
	int null_fd;

	if (!c->log.passthrough)
		return 0;
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0)
		return fail(c, errno, "cannot turn stdio to /dev/null");
	return close(null_fd) < 0 ? fail(c, errno, "cannot close /dev/null") : 0;
}

typedef int phase(struct conmon *c);

static phase *const before_fork[] = {
	take_pipes, cli_check, keep_descriptors, open_log, await_start,
};
static phase *const after_fork[] = {
	detach,   exit_reserve, loop_open,        stdio_open,          stdio_console, attach_open,
	ctl_open, notify_open,  release_attacher, child_spawn_runtime, drop_stdio,
};

#define RUN(c, phases) run(c, phases, sizeof(phases) / sizeof((phases)[0]))

static int run(struct conmon *c, phase *const phases[], size_t count)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < count; i++)
		r = phases[i](c);
	return r;
}

/* Nothing is running, or no longer: says why, where the caller listens. */
static int give_up(struct conmon *c)
{
	bool runtime_spoke = c->runtime_pid == 0 && c->capture_len > 0;

	if (c->error[0])
		note(LEVEL_ERROR, "%s", c->error);
	if (runtime_spoke)
		note(LEVEL_ERROR, "runtime: %.*s", (int)(c->capture_len > 900 ? 900 : c->capture_len), c->capture);
	sync_report(c, &c->sync_fd, -1, runtime_spoke ? c->capture : c->error,
		    runtime_spoke ? c->capture_len : strlen(c->error));
	if (c->runtime_pid > 0)
		child_signal(c, SIGKILL);
	if (c->console_path[0])
		(void)unlink(c->console_path);
	if (c->socket_link[0])
		(void)unlink(c->socket_link);
	return EXIT_FAILURE;
}

/* Set-up needed deep stacks; waiting does not. Gives the pages back that only set-up used. */
static void shrink_stack(void)
{
	enum { SLACK = 8192, DEPTH = 256 * 1024 };
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	uintptr_t top = (here - SLACK) & ~(uintptr_t)4095;

	/* The lower part of the range was never mapped; that is no harm. */
	(void)madvise((void *)(top - DEPTH), DEPTH, MADV_DONTNEED);
}

static int monitor(struct conmon *c)
{
	int r = RUN(c, after_fork), status;

	if (r >= 0) {
		shrink_stack();
		loop_run(c);
		r = c->failed;
	}
	if (r < 0) {
		exit_unreserve(c);
		status = give_up(c);
		close_fd(&c->sync_fd);
		/* A runtime that failed half-way leaves something to clean up. */
		if (c->runtime_pid >= 0 && c->state == STATE_ENDED)
			(void)exit_command(c);
		return status;
	}
	oom_check(c);
	stdio_drain(c);
	journal_flush(c);
	status = exit_announce(c) < 0 ? EXIT_FAILURE : exit_status(c);
	close_fd(&c->sync_fd);
	r = exit_command(c);
	return r ? r : status;
}

static void set_up_empty(struct conmon *c)
{
	int *const fds[] = {
		&c->start_fd, &c->sync_fd, &c->attach_pipe_fd, &c->bundle_fd, &c->epoll_fd, &c->signals.fd,
		&c->container_gone.fd, &c->console.fd, &c->console_conn.fd, &c->out.source.fd,
		&c->err.source.fd, &c->in.fd, &c->child_in, &c->child_out, &c->child_err, &c->listener.fd,
		&c->ctl.fd, &c->winsz.fd, &c->notify.fd, &c->oom.counter_fd, &c->oom.event_fd, &c->log.fd,
		&c->oom.source.fd, &c->oom.slice.fd, &c->journal.fd,
	};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		*fds[i] = -1;
	c->runtime_pid = c->container_pid = -1;
}

int main(int argc, char *argv[])
{
	static struct conmon conmon;
	struct conmon *c = &conmon;
	bool parent = false;
	int r;

	(void)umask(022);
	set_up_empty(c);
	r = open_stdio(c);
	if (r == 0)
		r = cli_parse(&c->opt, argc, argv, c->error, sizeof(c->error));
	if (r < 0) {
		/* Whoever listens should hear of a typing error too. */
		(void)fd_from_environment(c, "_OCI_SYNCPIPE", &c->sync_fd);
		return give_up(c);
	}
	if (c->opt.version || c->opt.help) {
		const char *text = c->opt.help ? cli_help() : "conmon version " CONMON_VERSION "\ncommit: berth\n";
		return write_all(STDOUT_FILENO, text, strlen(text)) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	}
	r = RUN(c, before_fork);
	if (r < 0)
		return give_up(c);
	oom_protect(c);
	r = child_daemonize(c, &parent);
	if (parent)
		return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	return r < 0 ? give_up(c) : monitor(c);
}
