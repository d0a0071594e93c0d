/*
 * The processes: the monitor's own detachment, the runtime it starts, and the container that the
 * runtime leaves behind.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* --- the monitor itself ----------------------------------------------------------------------- */

static int write_own_pidfile(struct conmon *c)
{
	char path[PATH_MAX], pid[16];
	char *slash;
	int r;

	if (!c->opt.conmon_pidfile)
		return 0;
	if (strlen(c->opt.conmon_pidfile) >= sizeof(path))
		return fail(c, ENAMETOOLONG, "cannot write the conmon pid file");
	memcpy(path, c->opt.conmon_pidfile, strlen(c->opt.conmon_pidfile) + 1);
	slash = strrchr(path, '/');
	if (slash)
		*slash = '\0';
	(void)snprintf(pid, sizeof(pid), "%d", getpid());
	r = replace_file(!slash ? "." : path[0] ? path : "/", slash ? slash + 1 : path, pid);
	return r < 0 ? fail(c, -r, "cannot write the conmon pid file %.300s", c->opt.conmon_pidfile) : 0;
}

/*
 * Leaves the caller behind, unless --sync: forks, and has the parent go (*ret_parent) only when the
 * pid file is there, so that neither its end nor the first word on the sync pipe can overtake it.
 */
int child_daemonize(struct conmon *c, bool *ret_parent)
{
	int ready[2];
	char byte;
	pid_t pid;

	*ret_parent = false;
	if (c->opt.sync)
		return write_own_pidfile(c);
	if (pipe2(ready, O_CLOEXEC) < 0)
		return fail(c, errno, "cannot make a pipe");
	pid = fork();
	if (pid < 0)
		return fail(c, errno, "cannot fork");
	if (pid > 0) {
		ssize_t n;

		(void)close(ready[1]);
		do {
			n = read(ready[0], &byte, 1);
		} while (n < 0 && errno == EINTR);
		*ret_parent = true;
		/* The child has said on the sync pipe why it failed; here only the status is left to tell. */
		return n == 1 ? 0 : -ECHILD;
	}
	(void)close(ready[0]);
	int r = write_own_pidfile(c);
	if (r == 0)
		(void)!write(ready[1], "", 1);
	(void)close(ready[1]);
	return r;
}

/* Ends a forked child that could not become what it should; the reason reaches the sync pipe by stderr. */
void child_die(const char *what)
{
	note(LEVEL_ERROR, "%s: %s", what, strerror(errno));
	_exit(127);
}

/* Gives a forked child back what we changed for ourselves: signals, their mask, the OOM score. */
void child_reset(struct conmon *c)
{
	(void)signal(SIGPIPE, SIG_DFL);
	(void)signal(SIGXFSZ, SIG_DFL);
	(void)sigprocmask(SIG_SETMASK, (sigset_t *)(void *)c->saved_sigmask, NULL);
	oom_unprotect(c);
}

/* execv() that does not come back. */
void child_exec(const char *path, char *const argv[])
{
	(void)execv(path, argv);
	child_die(path);
}

/* --- the runtime ------------------------------------------------------------------------------ */

struct argv { char *items[ARGS_TOTAL + 32]; size_t count; };

static void push(struct argv *argv, const char *arg)
{
	if (argv->count + 1 < sizeof(argv->items) / sizeof(argv->items[0]))
		argv->items[argv->count++] = (char *)(uintptr_t)arg;
}

static void push_list(struct argv *argv, const struct arg_list *list)
{
	for (const struct arg *a = list->first; a; a = a->next)
		push(argv, a->value);
}

static void push_command(struct argv *argv, const struct options *opt)
{
	if (opt->exec) {
		push(argv, "exec");
		push(argv, "--pid-file");
		push(argv, opt->container_pidfile);
		push(argv, "--process");
		push(argv, opt->exec_process_spec);
		push(argv, "--detach");
		return;
	}
	push(argv, opt->restore ? "restore" : "create");
	push(argv, "--bundle");
	push(argv, opt->bundle);
	push(argv, "--pid-file");
	push(argv, opt->container_pidfile);
	if (opt->no_pivot)
		push(argv, "--no-pivot");
	if (opt->no_new_keyring)
		push(argv, "--no-new-keyring");
	if (opt->restore) {
		/* Unlike a created container a restored one runs, so the runtime has to let go of it. */
		push(argv, "--detach");
		push(argv, "--image-path");
		push(argv, opt->restore);
		push(argv, "--work-path");
		push(argv, opt->bundle);
	}
}

static char *const *runtime_argv(const struct conmon *c)
{
	static struct argv argv; /* touched in the child only */
	const struct options *opt = &c->opt;

	push(&argv, opt->runtime);
	if (opt->systemd_cgroup && !opt->exec)
		push(&argv, "--systemd-cgroup");
	push_list(&argv, &opt->runtime_args);
	push_command(&argv, opt);
	push_list(&argv, &opt->runtime_opts);
	if (c->console_path[0]) {
		push(&argv, "--console-socket");
		push(&argv, c->console_path);
	}
	push(&argv, opt->cid);
	return argv.items;
}

/* Socket activation is addressed by pid; the container's is the runtime's to pass on. */
static void set_listen_pid(const struct conmon *c)
{
	static char variable[32];
	const char *value = getenv("LISTEN_PID");
	int64_t pid;

	if (!value)
		return;
	if (parse_int(value, 1, INT_MAX, &pid) < 0) {
		errno = EINVAL;
		child_die("LISTEN_PID is no pid");
	}
	if (!c->opt.replace_listen_pid && pid != getppid())
		return;
	(void)snprintf(variable, sizeof(variable), "LISTEN_PID=%d", getpid());
	for (char **e = environ; *e; e++)
		if (strncmp(*e, "LISTEN_PID=", 11) == 0)
			*e = variable;
}

static void __attribute__((noreturn)) run_runtime(struct conmon *c, pid_t monitor)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	char byte;

	/* The runtime must not outlive a monitor that is killed, for nobody would hold its container's stdio. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || null_fd < 0)
		child_die("cannot prepare the runtime's process");
	if (getppid() != monitor)
		_exit(127);
	if (!c->log.passthrough) {
		/* Ours is a null device, and the caller's own if that was one: who gives one that nobody can change means it. */
		int in = c->child_in >= 0 ? c->child_in : STDIN_FILENO;
		int out = c->child_out >= 0 ? c->child_out : null_fd;

		if (dup2(c->child_err, STDERR_FILENO) < 0 || dup2(in, STDIN_FILENO) < 0 ||
		    dup2(out, STDOUT_FILENO) < 0)
			child_die("cannot set the runtime's stdio");
	}
	set_listen_pid(c);
	/* With --exec-attach the caller says when it is attached; starting sooner would lose output. */
	if (c->opt.exec_attach && c->start_fd >= 0 && read(c->start_fd, &byte, 1) < 0)
		child_die("cannot read the start pipe");
	child_reset(c);
	child_exec(c->opt.runtime, runtime_argv(c));
}

/* Starts the runtime, which creates (or restores, or execs) and then exits: EVENT_RUNTIME_EXIT. */
int child_spawn_runtime(struct conmon *c)
{
	pid_t monitor = getpid();

	/* One left by an earlier try would make a runtime that wrote none look successful. */
	if (unlink(c->opt.container_pidfile) < 0 && errno != ENOENT)
		return fail(c, errno, "cannot remove the old pid file %.300s", c->opt.container_pidfile);
	c->runtime_pid = fork();
	if (c->runtime_pid < 0)
		return fail(c, errno, "cannot fork the runtime");
	if (c->runtime_pid == 0)
		run_runtime(c, monitor);
	close_fd(&c->child_in);
	close_fd(&c->child_out);
	close_fd(&c->child_err);
	close_fd(&c->start_fd);
	return 0;
}

/* --- after the runtime ------------------------------------------------------------------------ */

static const char *verb(const struct conmon *c)
{
	return c->opt.exec ? "exec" : c->opt.restore ? "restore" : "create";
}

static int read_container_pid(struct conmon *c)
{
	char text[32];
	int64_t pid;
	int n = read_small(c->opt.container_pidfile, text, sizeof(text));

	if (n < 0)
		return n;
	text[strcspn(text, "\n")] = '\0';
	if (parse_int(text, 1, INT_MAX, &pid) < 0)
		return -EBADMSG;
	c->container_pid = (pid_t)pid;
	return 0;
}

static void on_container_gone(struct conmon *c, struct source *source, uint32_t events);

static int runtime_failed(struct conmon *c, int pid_error)
{
	int status = c->runtime_status;

	stdio_pump_stderr(c);
	if (WIFSIGNALED(status))
		return fail(c, EINVAL, "runtime %s was killed by signal %d", verb(c), WTERMSIG(status));
	if (WEXITSTATUS(status) != 0)
		return fail(c, EINVAL, "runtime %s exited with status %d", verb(c), WEXITSTATUS(status));
	return fail(c, -pid_error, "runtime %s succeeded but left no pid in %.300s", verb(c), c->opt.container_pidfile);
}

/*
 * The container is our child once the runtime has gone, and SIGCHLD tells its end. Where it is
 * not (a runtime that kept it, systemd in between) a pidfd tells.
 */
static int watch_container(struct conmon *c)
{
	siginfo_t info;

	if (waitid(P_PID, (id_t)c->container_pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
		return 0;
	note(LEVEL_INFO, "container %d is not our child", c->container_pid);
	c->container_gone.ready = on_container_gone;
	c->container_gone.fd = (int)syscall(SYS_pidfd_open, c->container_pid, 0U);
	return c->container_gone.fd < 0 ? 0 : loop_add(c, &c->container_gone, EPOLLIN);
}

/*
 * The runtime has exited: finds the container it left, tells the caller, and lets the output
 * flow. Returns -errno when there is no container; the caller then hears the runtime's stderr.
 */
int child_created(struct conmon *c)
{
	bool ok = WIFEXITED(c->runtime_status) && WEXITSTATUS(c->runtime_status) == 0;
	int r;

	stdio_take_terminal(c);
	if (c->failed < 0)
		return c->failed;
	r = read_container_pid(c);
	/* Some runtimes exit from exec with the status of the command. A fresh pid tells it did start. */
	if (r < 0 || (!ok && !c->opt.exec))
		return runtime_failed(c, r);
	if (c->opt.terminal && !c->log.passthrough && c->out.source.fd < 0)
		return fail(c, EINVAL, "Runtime did not set up terminal");
	r = watch_container(c);
	if (r < 0)
		return r;
	note(LEVEL_DEBUG, "container is process %d", c->container_pid);
	if (c->opt.api_version || !c->opt.exec)
		sync_report(c, &c->sync_fd, c->container_pid, NULL, 0);
	c->state = STATE_RUNNING;
	stdio_flush_capture(c);
	return 0;
}

/* --- the end ---------------------------------------------------------------------------------- */

/*
 * How a process ended that was not our child: Linux 6.15 keeps it for whoever holds a pidfd. A
 * monitor that cannot know says so (255); it never invents success.
 */
static bool exit_status_by_pidfd(int pidfd, int *ret_status)
{
	struct {
		uint64_t mask, cgroupid;
		uint32_t pid, tgid, ppid, ids[8];
		int32_t exit_code;
	} info = { .mask = 1 << 3 };

	_Static_assert(sizeof(info) == 64, "layout of the kernel's struct pidfd_info");
	if (pidfd < 0 || ioctl(pidfd, _IOC(_IOC_READ | _IOC_WRITE, 0xff, 11, sizeof(info)), &info) < 0)
		return false;
	if (!(info.mask & (1 << 3)))
		return false;
	*ret_status = info.exit_code;
	return true;
}

static void container_ended(struct conmon *c, int status, bool lost)
{
	c->container_status = status;
	c->lost = lost;
	loop_close(c, &c->container_gone);
	loop_event(c, EVENT_CONTAINER_EXIT);
}

static void on_container_gone(struct conmon *c, struct source *source, uint32_t events)
{
	int status = 0;
	bool known = exit_status_by_pidfd(source->fd, &status);

	(void)events;
	if (!known)
		note(LEVEL_WARN, "container %d is gone and its exit status is unknown", c->container_pid);
	container_ended(c, status, !known);
}

/* A container that is not our child and that no pidfd watches can only be found to be gone. */
static void look_for_container(struct conmon *c)
{
	siginfo_t info;

	if (c->container_gone.fd < 0 &&
	    waitid(P_PID, (id_t)c->container_pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 &&
	    kill(c->container_pid, 0) < 0 && errno == ESRCH)
		on_container_gone(c, &c->container_gone, 0);
}

/*
 * Collects whoever has ended. While the runtime runs only the runtime: the container's pid is not
 * known yet, and its status must stay for us to find. Afterwards everybody, for what the container
 * orphans becomes our child.
 */
void child_reap(struct conmon *c)
{
	int status;
	pid_t pid;

	if (c->state == STATE_CREATING) {
		if (c->runtime_pid > 0 && waitpid(c->runtime_pid, &status, WNOHANG) == c->runtime_pid) {
			c->runtime_pid = 0;
			c->runtime_status = status;
			loop_event(c, EVENT_RUNTIME_EXIT);
		}
		return;
	}
	/* Ahead of the rest: an orphan more or less may wait, the end of the container may not. */
	if (c->state == STATE_RUNNING) {
		if (waitpid(c->container_pid, &status, WNOHANG) == c->container_pid)
			container_ended(c, status, false);
		else
			look_for_container(c);
	}
	do {
		pid = waitpid(-1, &status, WNOHANG);
		if (pid > 0 && pid == c->container_pid)
			container_ended(c, status, false);
	} while (pid > 0);
}

/*
 * The number of our child is its own until we have reaped it. Of anybody else's it is not, and there
 * the pidfd is.
 */
static int signal_container(const struct conmon *c, int signal)
{
	if (c->container_gone.fd >= 0)
		return (int)syscall(SYS_pidfd_send_signal, c->container_gone.fd, signal, NULL, 0U);
	return kill(c->container_pid, signal);
}

/* False if the container's number may be another's by now. */
bool child_is_known(const struct conmon *c)
{
	return c->container_gone.fd < 0 || signal_container(c, 0) == 0;
}

/* Passes a signal to the runtime while it works, to the container afterwards. */
void child_signal(struct conmon *c, int signal)
{
	pid_t pid = c->state == STATE_CREATING ? c->runtime_pid : c->container_pid;

	if (pid > 0 && (pid == c->container_pid ? signal_container(c, signal) : kill(pid, signal)) < 0)
		note(LEVEL_INFO, "cannot send signal %d to %d: %s", signal, pid, strerror(errno));
}

/* Kills the container, if it is our child with its process group; never group 1, which would be everybody. */
void child_kill(struct conmon *c)
{
	pid_t group = c->container_gone.fd < 0 ? getpgid(c->container_pid) : -1;

	if (group > 1 && group != getpgrp())
		(void)kill(-group, SIGKILL);
	(void)signal_container(c, SIGKILL);
}
