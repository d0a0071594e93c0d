/*
 * The pipes or the terminal between the container and us: made, read in turns, paused for slow
 * clients, and drained at the end.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/* --- stdio ------------------------------------------------------------------------------------ */

static void deliver(struct conmon *c, enum stream stream, size_t len)
{
	const char *data = c->packet + 1;

	if (!log_append(&c->log, stream, data, len))
		loop_timer(c, TIMER_TAIL, -1);
	else if (c->timers[TIMER_TAIL] == 0)
		loop_timer(c, TIMER_TAIL, TAIL_MS);
	if (c->log.journald)
		journal_append(c, stream, data, len);
	if (c->client_count == 0)
		return;
	c->packet[0] = (char)stream;
	c->packet_len = len + 1;
	attach_broadcast(c);
}

void stdio_flush_capture(struct conmon *c)
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
		stdio_flush_capture(c);
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
	else if (turn == TURN_END) {
		loop_close(c, &io->source);
		log_end(&c->log, io->stream);
	} else if (turn == TURN_AGAIN && io->edge && c->owed_count == 0)
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
	log_end(&c->log, STREAM_STDOUT);
	log_end(&c->log, STREAM_STDERR);
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
int stdio_open(struct conmon *c)
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
int stdio_console(struct conmon *c)
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

/* The terminal was sent before the runtime exited, but its events may come behind. */
void stdio_take_terminal(struct conmon *c)
{
	if (c->console.fd >= 0)
		on_console(c, &c->console, 0);
	if (c->console_conn.fd >= 0)
		on_console_message(c, &c->console_conn, 0);
}

/* The runtime's last words are in the pipe; more than a pipe holds is not waited for. */
void stdio_pump_stderr(struct conmon *c)
{
	size_t left = 1 << 20, len;

	while (c->err.source.fd >= 0 && left > 0 && c->owed_count == 0 &&
	       read_once(c, &c->err, STDIO_MAX, &len) == TURN_AGAIN)
		left -= len < left ? len : left;
}
