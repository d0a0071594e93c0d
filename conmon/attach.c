/*
 * The attach socket. Clients get every read of the container's output as one packet whose first
 * byte names the stream, and what they send is the container's stdin.
 *
 * A slow client slows the container down, as a slow terminal does: the packet it has not taken
 * stays where it is, and nothing more is read. A client that takes nothing for STALL_MS is cut.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void client_close(struct conmon *c, struct client *client)
{
	if (client->source.fd < 0)
		return;
	loop_close(c, &client->source);
	c->client_count--;
	if (client->owed)
		c->owed_count--;
	client->owed = false;
}

/* --- from the container to the clients -------------------------------------------------------- */

/* Returns false while the client has no room. A client that is gone owes nothing. */
static bool send_packet(struct conmon *c, struct client *client)
{
	ssize_t n;

	do {
		n = send(client->source.fd, c->packet, c->packet_len, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return true;
	/* A unix socket whose peer stopped reading for good says EPIPE, but it may still send us stdin. */
	return errno != EAGAIN && errno != ENOBUFS;
}

static uint32_t wanted(const struct conmon *c, const struct client *client)
{
	bool may_read = !client->input_done && c->input_len == 0;

	return (may_read ? (uint32_t)EPOLLIN : 0) | (client->owed ? (uint32_t)EPOLLOUT : 0);
}

static void set_owed(struct conmon *c, struct client *client, bool owed)
{
	if (client->owed == owed)
		return;
	client->owed = owed;
	c->owed_count += owed ? 1 : (size_t)-1;
	if (client->source.fd >= 0)
		(void)loop_want(c, &client->source, wanted(c, client));
}

/* Sends c->packet to all clients; those that have no room owe it, and stdio rests until they took it. */
void attach_broadcast(struct conmon *c)
{
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (c->clients[i].source.fd >= 0 && !send_packet(c, &c->clients[i]))
			set_owed(c, &c->clients[i], true);
	if (c->owed_count == 0)
		return;
	stdio_arm(c, false);
	loop_timer(c, TIMER_STALL, STALL_MS);
}

static void settle(struct conmon *c)
{
	if (c->owed_count > 0 || !c->stdio_paused)
		return;
	loop_timer(c, TIMER_STALL, -1);
	stdio_arm(c, true);
}

/* Cuts the clients that have not taken a packet for STALL_MS. */
void attach_stalled(struct conmon *c)
{
	if (c->owed_count == 0)
		return;
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (c->clients[i].source.fd >= 0 && c->clients[i].owed) {
			note(LEVEL_WARN, "an attached client has not read for %d ms, closing it", STALL_MS);
			client_close(c, &c->clients[i]);
		}
	settle(c);
}

/* Waits, no longer than STALL_MS, until every client has the packet: for when there is no loop any more. */
void attach_finish(struct conmon *c)
{
	int64_t deadline = now_ms() + STALL_MS;

	if (c->owed_count == 0)
		return;
	if (c->finish_by && c->finish_by < deadline)
		deadline = c->finish_by;
	for (size_t i = 0; i < CLIENTS_MAX && c->owed_count > 0; i++) {
		struct client *client = &c->clients[i];

		while (client->source.fd >= 0 && client->owed) {
			struct pollfd ready = { .fd = client->source.fd, .events = POLLOUT };
			int64_t left = deadline - now_ms();

			if (send_packet(c, client)) {
				set_owed(c, client, false);
			} else if (left <= 0) {
				note(LEVEL_WARN, "an attached client does not read, closing it");
				client_close(c, client);
			} else {
				(void)poll(&ready, 1, (int)left);
			}
		}
	}
	settle(c);
}

/* --- from the clients to the container -------------------------------------------------------- */

static void refresh_clients(struct conmon *c)
{
	for (size_t i = 0; i < CLIENTS_MAX && c->client_count > 0; i++)
		if (c->clients[i].source.fd >= 0)
			(void)loop_want(c, &c->clients[i].source, wanted(c, &c->clients[i]));
}

static void stdin_close(struct conmon *c)
{
	loop_close(c, &c->in);
	c->input_len = c->input_off = 0;
}

static void on_stdin_room(struct conmon *c, struct source *source, uint32_t events)
{
	(void)source;
	(void)events;
	stdin_pump(c);
}

/* Waits for room in the container's stdin, or stops waiting. */
static void stdin_wait(struct conmon *c, bool wait)
{
	loop_remove(c, &c->in);
	c->in.ready = on_stdin_room;
	if (wait)
		(void)loop_want(c, &c->in, EPOLLOUT);
}

/*
 * Writes what clients sent. There is one buffer, so while it is not empty no client is read: a
 * container that does not read its stdin makes its writers wait, as a pipe would.
 */
void stdin_pump(struct conmon *c)
{
	bool was_full = c->input_len > 0;

	if (c->in.fd < 0 && c->in_expected)
		return;
	while (c->in.fd >= 0 && c->input_off < c->input_len) {
		ssize_t n = write(c->in.fd, c->input + c->input_off, c->input_len - c->input_off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			stdin_wait(c, true);
			return;
		}
		if (n < 0) {
			note(LEVEL_DEBUG, "container's stdin: %s", strerror(errno));
			stdin_close(c);
			break;
		}
		c->input_off += (size_t)n;
	}
	c->input_len = c->input_off = 0;
	if (c->in.fd >= 0 && c->in_eof)
		stdin_close(c);
	else if (c->in.fd >= 0 && was_full)
		stdin_wait(c, false);
	if (was_full)
		refresh_clients(c);
}

/* A client ended its input. That is the end of stdin too, unless it is to stay open, or is a terminal. */
static void input_ended(struct conmon *c, struct client *client)
{
	if (client->input_done)
		return;
	client->input_done = true;
	(void)loop_want(c, &client->source, wanted(c, client));
	if (!c->opt.open_stdin || c->opt.leave_stdin_open || c->opt.terminal)
		return;
	c->in_eof = true;
	if (c->input_len == 0)
		stdin_close(c);
}

static void read_client(struct conmon *c, struct client *client)
{
	struct iovec iov = { c->input, sizeof(c->input) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n = recvmsg(client->source.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		input_ended(c, client);
		return;
	}
	if (message.msg_flags & MSG_TRUNC)
		note(LEVEL_WARN, "a client sent more than %d bytes in one packet, the rest is lost", INPUT_MAX);
	/* Nobody reads it, now or later: discard, so that the client does not block. */
	if (c->in.fd < 0 && !c->in_expected)
		return;
	c->input_len = (size_t)n;
	c->input_off = 0;
	stdin_pump(c);
	if (c->input_len > 0)
		refresh_clients(c);
}

static void on_client(struct conmon *c, struct source *source, uint32_t events)
{
	struct client *client = (struct client *)source;

	if (events & EPOLLOUT && client->owed && send_packet(c, client)) {
		set_owed(c, client, false);
		loop_timer(c, TIMER_STALL, STALL_MS); /* Progress: the others have their time anew. */
		settle(c);
	}
	if (events & EPOLLIN && !client->input_done && c->input_len == 0) {
		read_client(c, client);
		return;
	}
	if (!(events & (EPOLLHUP | EPOLLERR)))
		return;
	/* What it sent before it left is still to be read. It cannot be waited for here: the hang-up never ceases. */
	if (!client->input_done && c->input_len > 0)
		loop_remove(c, source);
	else {
		input_ended(c, client);
		client_close(c, client);
		settle(c);
	}
}

static struct client *free_client(struct conmon *c)
{
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (c->clients[i].source.fd < 0)
			return &c->clients[i];
	return NULL;
}

static void on_listener(struct conmon *c, struct source *source, uint32_t events)
{
	int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *client = fd < 0 ? NULL : free_client(c);

	(void)events;
	if (fd >= 0 && !client) {
		note(LEVEL_WARN, "%d clients are attached already, turning one away", CLIENTS_MAX);
		(void)close(fd);
	}
	if (!client)
		return;
	*client = (struct client){ .source = { fd, on_client } };
	if (loop_want(c, &client->source, wanted(c, client)) < 0)
		close_fd(&client->source.fd);
	else
		c->client_count++;
}

/* --- set-up and end --------------------------------------------------------------------------- */

/*
 * <socket-dir>/<cuuid> is a link to the bundle: clients come that way because bundle paths are too
 * long for a socket address. Where the link's own path is exactly as long as the longest address,
 * upstream and its clients drop the last letter.
 */
static int link_bundle(struct conmon *c)
{
	const size_t longest = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
	int r;

	if (c->opt.full_attach)
		return 0;
	r = path_join(c->socket_link, c->opt.socket_dir, c->opt.cuuid);
	if (r == 0 && strlen(c->socket_link) == longest)
		c->socket_link[longest - 1] = '\0';
	if (r == 0 && unlink(c->socket_link) < 0 && errno != ENOENT)
		r = -errno;
	if (r == 0 && symlink(c->opt.bundle, c->socket_link) < 0)
		r = -errno;
	if (r < 0) {
		c->socket_link[0] = '\0';
		return fail(c, -r, "cannot link the attach directory into %.300s", c->opt.socket_dir);
	}
	return 0;
}

/* Makes <bundle>/attach and its link. Reached through the directory's descriptor, so any length will do. */
int attach_open(struct conmon *c)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	for (size_t i = 0; i < CLIENTS_MAX; i++)
		c->clients[i].source.fd = -1;
	if (!c->opt.bundle || c->log.passthrough)
		return 0;
	c->bundle_fd = open(c->opt.bundle, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (c->bundle_fd < 0)
		return fail(c, errno, "cannot open the bundle %.300s", c->opt.bundle);
	r = link_bundle(c);
	if (r < 0)
		return r;
	c->listener.ready = on_listener;
	c->listener.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->listener.fd < 0)
		return fail(c, errno, "cannot make the attach socket");
	(void)fchmod(c->listener.fd, 0700);
	(void)unlinkat(c->bundle_fd, "attach", 0);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/attach", c->bundle_fd);
	if (bind(c->listener.fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return fail(c, errno, "cannot bind the attach socket in %.300s", c->opt.bundle);
	if (listen(c->listener.fd, 10) < 0)
		return fail(c, errno, "cannot listen on the attach socket");
	return loop_add(c, &c->listener, EPOLLIN);
}

/* Lets the clients go: for them this is the end of the container. */
void attach_close(struct conmon *c)
{
	if (c->listener.fd >= 0)
		(void)unlinkat(c->bundle_fd, "attach", 0);
	loop_close(c, &c->listener);
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		client_close(c, &c->clients[i]);
	if (c->socket_link[0] && unlink(c->socket_link) < 0 && errno != ENOENT)
		note(LEVEL_WARN, "cannot remove %s: %s, ignoring", c->socket_link, strerror(errno));
	c->socket_link[0] = '\0';
}
