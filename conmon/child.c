/*
 * The processes: the monitor's own detachment, the runtime it starts, the container that the
 * runtime leaves behind, and the pipes or the terminal between them and us.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
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

/* --- stdio ------------------------------------------------------------------------------------ */

static void deliver(struct conmon *c, enum stream stream, size_t len)
{
	const char *data = c->packet + 1;

	(void)log_append(&c->log, stream, data, len);
	if (c->log.journald)
		journal_append(c, stream, data, len);
	if (c->client_count == 0)
		return;
	c->packet[0] = (char)stream;
	c->packet_len = len + 1;
	attach_broadcast(c);
}

static void flush_capture(struct conmon *c)
{
	size_t len = c->capture_len;

	if (len == 0 || c->capture_spilled)
		return;
	attach_finish(c);
	memcpy(c->packet + 1, c->capture, len);
	deliver(c, STREAM_STDERR, len);
}

/*
 * Until the runtime has exited its stderr and the container's are one pipe. What comes is held
 * back, since it is the error message if the runtime fails and output if it does not. A runtime
 * that says more than fits must not block: then all of it is output, and the message its start.
 */
static void take(struct conmon *c, struct stdio *io, size_t len)
{
	if (io->stream != STREAM_STDERR || c->state != STATE_CREATING) {
		deliver(c, io->stream, len);
		return;
	}
	if (!c->capture_spilled && c->capture_len + len <= sizeof(c->capture)) {
		memcpy(c->capture + c->capture_len, c->packet + 1, len);
		c->capture_len += len;
		return;
	}
	if (!c->capture_spilled) {
		char held[STDIO_MAX];

		memcpy(held, c->packet + 1, len);
		flush_capture(c);
		attach_finish(c);
		c->capture_spilled = true;
		memcpy(c->packet + 1, held, len);
	}
	deliver(c, STREAM_STDERR, len);
}

enum turn { TURN_AGAIN, TURN_EMPTY, TURN_END };

static enum turn read_once(struct conmon *c, struct stdio *io, size_t limit, size_t *ret_len)
{
	ssize_t n = read(io->source.fd, c->packet + 1, limit < STDIO_MAX ? limit : STDIO_MAX);

	*ret_len = 0;
	if (n > 0) {
		*ret_len = (size_t)n;
		take(c, io, (size_t)n);
		return TURN_AGAIN;
	}
	if (n < 0 && errno == EINTR)
		return TURN_AGAIN;
	if (n < 0 && errno == EAGAIN)
		return TURN_EMPTY;
	return TURN_END;
}

/*
 * A terminal that nobody has open reads as EIO and hangs up without end, yet may be opened again.
 * Being told only of changes, instead of polling it, costs nothing meanwhile.
 */
static void terminal_hung_up(struct conmon *c, struct stdio *io)
{
	if (!io->edge) {
		io->edge = true;
		(void)loop_want(c, &io->source, EPOLLIN | EPOLLET);
	}
}

static void on_stdio(struct conmon *c, struct source *source, uint32_t events)
{
	struct stdio *io = (struct stdio *)source;
	enum turn turn = TURN_AGAIN;
	size_t len;

	(void)events;
	for (int i = 0; i < READS_PER_TURN && turn == TURN_AGAIN && c->owed_count == 0; i++)
		turn = read_once(c, io, STDIO_MAX, &len);
	if (turn == TURN_END && c->opt.terminal && io == &c->out)
		terminal_hung_up(c, io);
	else if (turn == TURN_END)
		loop_close(c, &io->source);
	else if (turn == TURN_AGAIN && io->edge && c->owed_count == 0)
		(void)loop_want(c, &io->source, EPOLLIN | EPOLLET);
}

/* Stops and resumes reading what the container writes, while an attach client owes us its reading. */
void stdio_arm(struct conmon *c, bool on)
{
	struct stdio *both[] = { &c->out, &c->err };

	c->stdio_paused = !on;
	for (size_t i = 0; i < 2; i++) {
		if (both[i]->source.fd < 0)
			continue;
		if (on)
			(void)loop_want(c, &both[i]->source, both[i]->edge ? EPOLLIN | EPOLLET : EPOLLIN);
		else
			loop_remove(c, &both[i]->source);
	}
}

static void drain(struct conmon *c, struct stdio *io)
{
	int pending = 0;
	size_t left, len;

	if (io->source.fd < 0)
		return;
	/*
	 * All the container wrote is in the pipe by now, so reading as much as was there is complete.
	 * Reading until it is empty is not: a grandchild may hold it and write for ever. A terminal
	 * has no such number but is small.
	 */
	if (io == &c->out && c->opt.terminal)
		left = 1 << 20;
	else if (ioctl(io->source.fd, FIONREAD, &pending) < 0 || pending <= 0)
		return;
	else
		left = (size_t)pending;
	while (left > 0) {
		attach_finish(c);
		if (read_once(c, io, left, &len) != TURN_AGAIN)
			break;
		left -= len < left ? len : left;
	}
	attach_finish(c);
}

/* Takes everything the container, now dead, left in its pipes. Bounded, whoever still holds them. */
void stdio_drain(struct conmon *c)
{
	c->finish_by = now_ms() + FINISH_MS;
	drain(c, &c->out);
	drain(c, &c->err);
}

static int make_pipe(struct conmon *c, int *ret_ours, int *ret_theirs, bool to_child)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return fail(c, errno, "cannot make a pipe");
	*ret_ours = fds[to_child ? 1 : 0];
	*ret_theirs = fds[to_child ? 0 : 1];
	if (fcntl(*ret_ours, F_SETFL, O_NONBLOCK) < 0)
		return fail(c, errno, "cannot make a pipe non-blocking");
	/* So that a container without root may open /dev/stdout. */
	(void)fchmod(*ret_theirs, 0777);
	return 0;
}

/* Makes the pipes. stderr is one even with a terminal: the runtime's own messages come that way. */
int child_stdio(struct conmon *c)
{
	int r = 0;

	c->out.stream = STREAM_STDOUT;
	c->err.stream = STREAM_STDERR;
	c->out.source.ready = c->err.source.ready = on_stdio;
	c->in_expected = c->opt.terminal;
	if (c->log.passthrough)
		return 0;
	if (!c->opt.terminal && c->opt.open_stdin)
		r = make_pipe(c, &c->in.fd, &c->child_in, true);
	if (r == 0 && !c->opt.terminal)
		r = make_pipe(c, &c->out.source.fd, &c->child_out, false);
	if (r == 0)
		r = make_pipe(c, &c->err.source.fd, &c->child_err, false);
	if (r == 0 && c->out.source.fd >= 0)
		r = loop_add(c, &c->out.source, EPOLLIN);
	if (r == 0)
		r = loop_add(c, &c->err.source, EPOLLIN);
	return r;
}

/* --- the terminal ----------------------------------------------------------------------------- */

static void use_terminal(struct conmon *c, int tty_fd)
{
	struct termios settings;

	/* A kubelet's user expects a newline to begin at the left. */
	if (tcgetattr(tty_fd, &settings) == 0) {
		settings.c_oflag |= ONLCR;
		if (tcsetattr(tty_fd, TCSANOW, &settings) < 0)
			note(LEVEL_WARN, "cannot set the terminal's attributes: %s, ignoring", strerror(errno));
	}
	(void)fcntl(tty_fd, F_SETFL, O_NONBLOCK);
	c->out.source.fd = tty_fd;
	c->in.fd = fcntl(tty_fd, F_DUPFD_CLOEXEC, 3);
	c->in_expected = false;
	c->failed = loop_add(c, &c->out.source, EPOLLIN);
	ctl_resize(c);
	stdin_pump(c);
}

/* Takes the pty out of the runtime's message. More than one descriptor is not ours to keep. */
static int receive_fd(int socket_fd)
{
	char byte[PATH_MAX];
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)];
	struct iovec iov = { byte, sizeof(byte) };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control),
	};
	int found = -1;

	if (recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0)
		return -errno;
	for (struct cmsghdr *m = CMSG_FIRSTHDR(&message); m; m = CMSG_NXTHDR(&message, m)) {
		if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (m->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(m) + i * sizeof(int), sizeof(int));
			if (found < 0)
				found = fd;
			else
				(void)close(fd);
		}
	}
	return found < 0 ? -ENOMSG : found;
}

static void on_console_message(struct conmon *c, struct source *source, uint32_t events)
{
	int fd = receive_fd(source->fd);

	(void)events;
	if (fd == -EAGAIN || fd == -EINTR)
		return;
	loop_close(c, source);
	if (fd < 0) {
		note(LEVEL_WARN, "no terminal in the runtime's message: %s", strerror(-fd));
		return;
	}
	loop_close(c, &c->console);
	(void)unlink(c->console_path);
	c->console_path[0] = '\0';
	use_terminal(c, fd);
}

static void on_console(struct conmon *c, struct source *source, uint32_t events)
{
	int fd;

	(void)events;
	if (c->console_conn.fd >= 0)
		return;
	fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	c->console_conn = (struct source){ fd, on_console_message };
	(void)loop_want(c, &c->console_conn, EPOLLIN);
}

/* Binds under a name nobody can guess, in TMPDIR or, if that is too long for a socket, in /tmp. */
static int bind_console(struct conmon *c)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *dir = getenv("TMPDIR");
	uint64_t random;

	if (!dir || dir[0] != '/' || strlen(dir) > sizeof(address.sun_path) - 40)
		dir = "/tmp";
	for (int attempt = 0; attempt < 8; attempt++) {
		if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
			return -errno;
		(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/conmon-term.%016llx", dir,
			       (unsigned long long)random);
		if (bind(c->console.fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
			memcpy(c->console_path, address.sun_path, sizeof(c->console_path));
			return 0;
		}
		if (errno != EADDRINUSE)
			return -errno;
	}
	return -EADDRINUSE;
}

/* With --terminal: the socket over which the runtime will send us the pty. */
int child_console(struct conmon *c)
{
	int r;

	if (!c->opt.terminal || c->log.passthrough)
		return 0;
	c->console.ready = on_console;
	c->console.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->console.fd < 0)
		return fail(c, errno, "cannot make the console socket");
	(void)fchmod(c->console.fd, 0700);
	r = bind_console(c);
	if (r < 0)
		return fail(c, -r, "cannot bind the console socket");
	if (listen(c->console.fd, 1) < 0)
		return fail(c, errno, "cannot listen on the console socket");
	return loop_add(c, &c->console, EPOLLIN);
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
		int in = c->child_in >= 0 ? c->child_in : null_fd;
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

/* The runtime's last words are in the pipe; more than a pipe holds is not waited for. */
static void pump_stderr(struct conmon *c)
{
	size_t left = 1 << 20, len;

	while (c->err.source.fd >= 0 && left > 0 && c->owed_count == 0 &&
	       read_once(c, &c->err, STDIO_MAX, &len) == TURN_AGAIN)
		left -= len < left ? len : left;
}

static void on_container_gone(struct conmon *c, struct source *source, uint32_t events);

static int runtime_failed(struct conmon *c, int pid_error)
{
	int status = c->runtime_status;

	pump_stderr(c);
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

	/* The terminal was sent before the runtime exited, but its events may come behind. */
	if (c->console.fd >= 0)
		on_console(c, &c->console, 0);
	if (c->console_conn.fd >= 0)
		on_console_message(c, &c->console_conn, 0);
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
	flush_capture(c);
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

/* Passes a signal to the runtime while it works, to the container afterwards. */
void child_signal(struct conmon *c, int signal)
{
	pid_t pid = c->state == STATE_CREATING ? c->runtime_pid : c->container_pid;

	if (pid > 0 && kill(pid, signal) < 0)
		note(LEVEL_INFO, "cannot send signal %d to %d: %s", signal, pid, strerror(errno));
}

/* Kills the container with its process group; never group 1, which would be everybody. */
void child_kill(struct conmon *c)
{
	pid_t group = getpgid(c->container_pid);

	if (group > 1 && group != getpgrp())
		(void)kill(-group, SIGKILL);
	(void)kill(c->container_pid, SIGKILL);
}
